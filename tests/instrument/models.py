"""Small models of the real libraries, made here: random weights, two layers, forty words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

WORDS = [f"w{number}" for number in range(40)]


@lru_cache(maxsize=1)
def folder() -> Path:
    """A BERT and its tokenizer, as `from_pretrained` reads them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    made: Any = PreTrainedTokenizerFast  # transformers has no types for it
    tokenizer = made(tokenizer_object=words, model_max_length=64, **named)
    torch.manual_seed(7)
    config = BertConfig(
        vocab_size=45,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    place = Path(mkdtemp(prefix="helix-tiny-bert-"))
    BertForMaskedLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def texts(count: int) -> list[str]:
    """So many texts, of two to eleven words."""
    return [" ".join(WORDS[(n + k) % 40] for k in range(2 + n % 10)) for n in range(count)]


def _modules(new: str, old: str) -> Any:
    """Where they are, and where they were before sentence-transformers 5.4."""
    try:
        return import_module(f"sentence_transformers.{new}")
    except ModuleNotFoundError:
        return import_module(f"sentence_transformers.{old}")


def sentence_model() -> Any:
    """A `SentenceTransformer`."""
    from sentence_transformers import SentenceTransformer

    modules = _modules("sentence_transformer.modules", "models")

    transformer = modules.Transformer(str(folder()))
    return SentenceTransformer(modules=[transformer, modules.Pooling(16)], device="cpu")


def sparse_model() -> Any:
    """A `SparseEncoder`."""
    from sentence_transformers import SparseEncoder

    modules = _modules("sparse_encoder.modules", "sparse_encoder.models")

    return SparseEncoder(modules=[modules.MLMTransformer(str(folder())), modules.SpladePooling()], device="cpu")


def cross_model() -> Any:
    """A `CrossEncoder`."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder()), num_labels=1, device="cpu")


Encoder = tuple[Any, Callable[[Sequence[str]], Sequence[Any]]]
"""The `torch.nn.Module` whose passes take the time, and what a job calls, two texts a pass."""


def encoder(library: str) -> Encoder:
    """As each library's own example loads and calls it."""
    made: Encoder = globals()[f"_{library}"]()
    return made


@lru_cache(maxsize=1)
def _saved() -> str:
    place = mkdtemp(prefix="helix-tiny-encoder-")
    sentence_model().save(place)
    return place


def _sentence() -> Encoder:
    model = sentence_model()
    return model, lambda given: model.encode(given, batch_size=2)


def _sparse() -> Encoder:
    model = sparse_model()
    return model, lambda given: model.encode(given, batch_size=2)


def _cross() -> Encoder:
    model = cross_model()
    return model, lambda given: model.predict([(text, "w1") for text in given], batch_size=2)


def _langchain() -> Encoder:
    made = import_module("langchain_huggingface").HuggingFaceEmbeddings
    embeddings = made(model_name=_saved(), model_kwargs={"device": "cpu"}, encode_kwargs={"batch_size": 2})
    return embeddings._client, embeddings.embed_documents


def _llama_index() -> Encoder:
    made = import_module("llama_index.embeddings.huggingface").HuggingFaceEmbedding
    embedding = made(model_name=_saved(), device="cpu", embed_batch_size=2)
    return embedding._model, embedding.get_text_embedding_batch


def _haystack() -> Encoder:
    haystack = import_module("haystack")
    # A package of its own since Haystack 3: sentence-transformers-haystack.
    embedders = import_module("haystack_integrations.components.embedders.sentence_transformers")
    device = import_module("haystack.utils").ComponentDevice.from_str("cpu")
    embedder = embedders.SentenceTransformersDocumentEmbedder(model=_saved(), device=device, batch_size=2)
    embedder.warm_up()
    pipeline = haystack.Pipeline()
    pipeline.add_component("embedder", embedder)

    def encode(given: Sequence[str]) -> Sequence[Any]:
        done = pipeline.run({"embedder": {"documents": [haystack.Document(content=text) for text in given]}})
        return [document.embedding for document in done["embedder"]["documents"]]

    return embedder.embedding_backend.model, encode


def _flag_embedding() -> Encoder:
    import torch

    place = Path(mkdtemp(prefix="helix-tiny-m3-"))
    for file in folder().iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    torch.save(torch.nn.Linear(16, 16).state_dict(), place / "colbert_linear.pt")
    torch.save(torch.nn.Linear(16, 1).state_dict(), place / "sparse_linear.pt")
    model = import_module("FlagEmbedding").BGEM3FlagModel(str(place), use_fp16=False, devices="cpu")
    model.model.to("cpu")

    def encode(given: Sequence[str]) -> Sequence[Any]:
        results = model.encode(given, batch_size=2, return_sparse=True, return_colbert_vecs=True)
        assert len(results["dense_vecs"]) == len(results["lexical_weights"]) == len(results["colbert_vecs"])
        vectors: Sequence[Any] = results["dense_vecs"]
        return vectors

    return model.model, encode
