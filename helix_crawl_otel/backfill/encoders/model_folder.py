"""Looks at a sentence-transformers folder before it is loaded: nothing in it may be executed.

Loading a pickle runs what is in it, and so does a module that names its own class. Only safetensors and the library's
own modules are let through; what a weight file must hash to can be asked for.

Source: DESIGN.md, section 8; security rules of the project.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from helix_crawl_otel.backfill.encoders.base import ModelError

__all__ = ["check_folder", "weights_digest"]

WEIGHTS = "model.safetensors"
SHARDED = "model.safetensors.index.json"


def check_folder(folder: Path) -> None:
    """Let a folder through, or not.

    Raises:
        ModelError: It is no model, or one that would run code of its own.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; accepted: a sentence-transformers model folder")
    modules = _json(folder / "modules.json")
    if not isinstance(modules, list) or not modules:
        raise ModelError(f"{folder} is no sentence-transformers model: its modules.json lists no modules")
    for module in modules:
        kind = str(module.get("type", "")) if isinstance(module, dict) else ""
        if not kind.startswith("sentence_transformers."):
            raise ModelError(f"{folder} names a module of its own ({kind!r}); only sentence_transformers' are loaded")
    if not (folder / WEIGHTS).is_file() and not (folder / SHARDED).is_file():
        raise ModelError(
            f"{folder} holds no {WEIGHTS}; pickled weights are not loaded, since that would run code in them"
        )
    config = _json(folder / "config.json")
    if isinstance(config, dict) and config.get("auto_map"):
        raise ModelError(f"{folder} wants code of its own to be run (auto_map in config.json), which is refused")


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights, in hex."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1024**2):
                digest.update(block)
    return digest.hexdigest()


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
