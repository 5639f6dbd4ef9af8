"""Finds a model on the Hugging Face hub, or in what was downloaded from it: its full name and its commit.

The commit is part of an encoder's identity: a name alone may mean other weights tomorrow. What was downloaded counts
before what the hub has now, so that a build resumes with the model that it began with.

Source: DESIGN.md, section 8, "Encoders".
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.config import environment
from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.libraries import first_line, imported
from helix_crawl_otel.encoders.model_folder import check_modules

__all__ = ["ACCEPTED", "HubModel", "check_id", "full_id", "resolve"]

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
