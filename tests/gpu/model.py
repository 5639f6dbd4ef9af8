"""Writes a BERT of six layers with random weights as a sentence-transformers folder.

python -m tests.gpu.model FOLDER

It understands nothing, but computes what a real model of its size computes. In a process of its own, since the
libraries' warnings are none of the tests' business.
"""

from __future__ import annotations

import json
import string
import sys
from pathlib import Path
from typing import Any

__all__ = ["write_bert"]

HIDDEN = 384
MOST_TOKENS = 256
VOCABULARY = 30_522
"""More than the tokenizer knows: the table of a real model is on the card as well."""

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def write_bert(folder: Path, *, tokens: int = MOST_TOKENS, layers: int = 6) -> Path:
    """Write the model: so many tokens that it reads, so many layers."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=max(512, tokens),
        initializer_range=0.05,
    )
    bert: Any = transformers.BertModel(config)  # a part of its methods has no types
    bert.eval().save_pretrained(folder)
    _write_tokenizer(folder, tokens)
    modules = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    rows = [
        {"idx": int(name), "name": name, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for name, path, kind in modules
    ]
    _write(folder / "modules.json", rows)
    _write(folder / "sentence_bert_config.json", {"max_seq_length": tokens, "do_lower_case": False})
    _write(folder / "1_Pooling/config.json", {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True})
    (folder / "2_Normalize").mkdir(exist_ok=True)
    return folder


def _write_tokenizer(folder: Path, tokens: int) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pairs = [first + second for first in string.ascii_lowercase for second in string.ascii_lowercase]
    words = [*SPECIAL.values(), *letters, *pairs, *(f"##{part}" for part in [*letters, *pairs])]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(word, vocabulary[word]) for word in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tokens}
    _write(folder / "tokenizer_config.json", {**kind, **SPECIAL})
    _write(folder / "special_tokens_map.json", SPECIAL)


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    write_bert(Path(sys.argv[1]))
