"""A tiny sentence-transformers model, written by hand: loads in no time, and may be broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["WORDS", "write_model"]

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
