"""Small models of the real libraries, made here: random weights, two layers, forty words."""

from __future__ import annotations

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
