"""Tiny sentence-transformers models. One is written by hand: it loads in no time, and may be broken on purpose."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["LIMIT", "WORDS", "save", "transformer", "write_model"]

DIM = 4

WORDS: Mapping[str, Sequence[float]] = {
    "[UNK]": (1.0, 1.0, 1.0, 1.0),
    "cat": (1.0, 0.0, 0.0, 0.0),
    "dog": (0.0, 2.0, 0.0, 0.0),
    "nothing": (0.0, 0.0, 0.0, 0.0),
    "broken": (float("nan"), 0.0, 0.0, 0.0),
}


def write_model(folder: Path, kind: str = "sentence_transformers.models.StaticEmbedding") -> Path:
    """One vector a word, averaged. Needs numpy and safetensors."""
    import numpy
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"embedding.weight": numpy.array(list(WORDS.values()), dtype="float32")}, folder / "model.safetensors")
    tokenizer: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(WORDS)}, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": kind}]))
    return folder


LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789:.,!?"
LIMIT = 32
"""Tokens that `transformer` reads; each letter is one, and two are the special ones."""


def transformer(folder: Path, *, seed: int = 0, tokens: int = LIMIT) -> Any:
    """A module of sentence-transformers: BERT with random weights, a letter a token. Needs torch and the library.

    Args:
        folder: Where its parts are kept; made.
        seed: Of the weights.
        tokens: That it reads.
    """
    import torch
    from sentence_transformers.models import Transformer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    wordpiece = models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]")
    fast = Tokenizer(wordpiece)
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    make: Any = PreTrainedTokenizerFast
    tokenizer = make(tokenizer_object=fast, **names, model_max_length=tokens)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=tokens,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=tokens)


def save(folder: Path, modules: Sequence[Any], **names: Any) -> Path:
    """A model of these modules, as sentence-transformers saves it.

    Args:
        folder: Where; made.
        modules: In order.
        names: `prompts` and `default_prompt_name`.
    """
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own, about its model card
        SentenceTransformer(modules=list(modules), device="cpu", **names).save(str(folder), create_model_card=False)
    return folder
