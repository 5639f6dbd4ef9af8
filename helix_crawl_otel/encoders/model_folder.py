"""Looks at a sentence-transformers folder before it is loaded: nothing in it may be executed.

Loading a pickle runs what is in it, and so does a module that names a class of its own. Only safetensors and the
library's own modules are let through. The digest says which model it is: weights, and the settings that shape vectors.

Source: DESIGN.md, section 8; security rules of the project.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from helix_crawl_otel.encoders.base import ModelError

__all__ = ["WEIGHTS", "check_folder", "check_modules", "file_digest", "folder_digest"]

WEIGHTS = "model.safetensors"
SHARDED = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"

_LIBRARY = "sentence_transformers."
_SHAPING = (".safetensors", ".json", ".txt", ".model")
"""Files that vectors depend on: weights, settings, tokenizers. Not the model card, nor copies for other runtimes."""


def check_folder(folder: Path) -> None:
    """Let a folder through, or not.

    Raises:
        ModelError: It is no model, or one that would run code of its own.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; accepted: a sentence-transformers model folder")
    paths = check_modules(_json(folder / "modules.json"), str(folder))
    _check_weights(folder, paths)
    config = _json(folder / "config.json")
    if isinstance(config, dict) and config.get("auto_map"):
        raise ModelError(f"{folder} wants code of its own to be run (auto_map in config.json), which is refused")
    for path in folder.rglob("*config*.json"):
        for kind in _nested_types(_json(path)):
            _check_kind(kind, str(folder))


def check_modules(modules: object, source: str) -> list[str]:
    """Look at the list of modules that a model is made of.

    Args:
        modules: What its `modules.json` holds; `None` when there is none.
        source: The model, for messages.

    Returns:
        The folders of the modules, relative to the model's.

    Raises:
        ModelError: There is no list, or it names what would run code that is not the library's.
    """
    if not isinstance(modules, list) or not modules:
        raise ModelError(f"{source} is no sentence-transformers model: no modules.json lists its modules")
    paths = []
    for module in modules:
        content = module if isinstance(module, dict) else {}
        _check_kind(str(content.get("type", "")), source)
        path = PurePosixPath(str(content.get("path", "")).replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ModelError(f"{source} names a module outside of its own folder ({str(path)!r}), which is refused")
        paths.append(str(path))
    return paths


def _check_kind(kind: str, source: str) -> None:
    if not kind.startswith(_LIBRARY):
        raise ModelError(f"{source} names a module of its own ({kind!r}); only those of {_LIBRARY}* are loaded")


def _check_weights(folder: Path, paths: list[str]) -> None:
    has_weights = False
    for path in {".", *paths}:
        inside = folder / path
        has_safe = (inside / WEIGHTS).is_file() or (inside / SHARDED).is_file()
        has_weights = has_weights or has_safe
        if not has_safe and any(inside.glob("*.bin")):
            raise ModelError(
                f"{inside} holds pickled weights ({PICKLED}) and no {WEIGHTS}, and a pickle can run code; load the "
                "model by its id instead, or save it again with sentence-transformers, which writes safetensors"
            )
    if not has_weights:
        raise ModelError(f"{folder} holds no {WEIGHTS}; accepted: a folder that sentence-transformers has saved")


def _nested_types(content: object) -> Iterator[str]:
    """Classes that a router of modules names in its settings: `types`, by the name of the module."""
    types = content.get("types") if isinstance(content, dict) else None
    if isinstance(types, dict):
        yield from (str(kind) for kind in types.values() if "." in str(kind))


def file_digest(path: Path) -> str:
    """SHA-256 of one file, in hex."""
    digest = hashlib.sha256()
    _feed(digest, path)
    return digest.hexdigest()


@functools.lru_cache(maxsize=4)  # a run asks for each of its shards
def folder_digest(folder: Path) -> str:
    """SHA-256 of everything in a folder that vectors depend on, in hex: names and contents, in order.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.suffix in _SHAPING and item.is_file()):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(("onnx/", "openvino/", ".")):
            digest.update(f"{name}\0{path.stat().st_size}\0".encode("utf-8", "surrogateescape"))
            _feed(digest, path)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(1024**2):
            digest.update(block)


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
