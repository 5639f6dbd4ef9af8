"""What the folder of a build is to hold, in a file of its own: its sources, its model, its shards.

`build` writes it when its plan stands and before anything is encoded; who asks whether all is there reads it. A folder
that has none, of an older version or of shards that an application wrote, is judged by what is there.

Source: DESIGN.md, sections 3.3 and 3.7.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.formats import shown_command
from helix_crawl_otel.paths import STATE_FOLDER
from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.inspect import reading
from helix_crawl_otel.shards.notes import read_notes
from helix_crawl_otel.shards.schema import TREE_NOTE, require_built
from helix_crawl_otel.statefile import StateFile

__all__ = ["BuildRecord", "RecordUnusable", "label_of", "read_record", "record_path", "recovered", "write_record"]

FORMAT = 1


class RecordUnusable(Refusal):
    """The record cannot be read. The message says why, and names the file.

    Args:
        message: For people.
        is_newer: It is whole, and of a version of this package that knows more.
    """

    def __init__(self, message: str, *, is_newer: bool = False) -> None:
        super().__init__(message)
        self.is_newer = is_newer


@dataclass(frozen=True)
class BuildRecord:
    """What a folder was built of.

    Args:
        sources: Absolute paths of the trees, by label: what the names of a tree's shards begin with. The label of a
            tree that was the only one when the folder was begun is empty.
        shards: Files of all shards that were planned, without a folder, by name.
        model: As `--model` takes it, a folder absolute; `None` where nobody has said it.
        options: Words of the last command that are neither sources, nor `--out`, nor a secret.
        filters: What of the trees is taken, as the options of the command have it. Plain JSON.
    """

    sources: Mapping[str, str]
    shards: Mapping[str, str]
    model: str | None = None
    options: tuple[str, ...] = ()
    filters: Mapping[str, Any] = field(default_factory=dict)

    def command(self, folder: Path) -> str:
        """The command that goes on with the build, from wherever it is typed.

        Args:
            folder: Where the shards are now.
        """
        words = [*self.sources.values(), "--out", str(folder.absolute()), *self.options]
        return shown_command(["helix-crawl", "build", *words])


def label_of(shard: str) -> str:
    """The label of the tree that a shard is cut from, empty for none. No folder's name has a slash in it."""
    return shard.rpartition("/")[0]


def record_path(folder: Path) -> Path:
    """Where the record of a folder is, or would be."""
    return folder / STATE_FOLDER / "build.json"


def write_record(folder: Path, record: BuildRecord) -> None:
    """Replace it, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    content = {
        "format": FORMAT,
        "sources": [{"label": label, "path": path} for label, path in record.sources.items()],
        "model": record.model,
        "options": list(record.options),
        "filters": dict(record.filters),
        "shards": [{"name": name, "file": file} for name, file in record.shards.items()],
    }
    StateFile(record_path(folder)).save(json.dumps(content, indent=1) + "\n")


def read_record(folder: Path) -> BuildRecord | None:
    """The record of a folder, `None` where there is none.

    Raises:
        RecordUnusable: It is damaged, cannot be read, or is of a newer version.
    """
    path = record_path(folder)
    try:
        if not path.is_file():
            if not path.exists():
                return None
            raise ValueError("it is no file")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
        number = content["format"]
        if isinstance(number, int) and number > FORMAT:
            raise RecordUnusable(
                f"{path} was written by a newer version of helix-crawl (format {number}, accepted: {FORMAT}); use that "
                "version, or another folder",
                is_newer=True,
            )
        if number != FORMAT:
            raise ValueError(f"its format is {number!r}, accepted: {FORMAT}")
        return _parsed(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise RecordUnusable(f"{path}, which says what was to be built, cannot be used ({why})") from None


def _parsed(content: Mapping[str, Any]) -> BuildRecord:
    model, filters = content["model"], content["filters"]
    if not (model is None or isinstance(model, str)) or not isinstance(filters, dict):
        raise ValueError("its model is no text, or its filters are no object")
    sources = _each_once([(_text(one["label"]), _text(one["path"])) for one in content["sources"]], "sources")
    for path in sources.values():
        if not path or "\0" in path:
            raise ValueError(f"{path!r} is no path of a source")
    shards = _each_once([(_text(one["name"]), _text(one["file"])) for one in content["shards"]], "shards")
    _each_once([(file, name) for name, file in shards.items()], "files")
    for name, file in shards.items():
        if not file.strip(".") or set(file) & set("/\\:\0"):
            raise ValueError(f"{file!r} is no name of a file")
        if label_of(name) not in sources:
            raise ValueError(f"its shard {name!r} is of none of its sources")
    options = tuple(map(_text, content["options"]))
    return BuildRecord(sources, shards, model=model, options=options, filters=filters)


def _each_once(pairs: Sequence[tuple[str, str]], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"two of its {what} are {key!r}")
        found[key] = value
    return found


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def recovered(folder: Path, lock_seconds: float) -> BuildRecord | None:
    """What the shards of a folder without a record say of the trees that they were cut from.

    Where shards of two trees bear the same label, as older versions let happen, the tree of most of them counts.

    Args:
        folder: Of the shards' files.
        lock_seconds: How long to wait for another program that holds one.

    Returns:
        `None` where no shard was cut from a tree.
    """
    found: dict[str, dict[str, dict[str, str]]] = {}  # label, tree, shard: its file
    for path in sorted(folder.glob("*.db")):
        with suppress(StoreError):  # what cannot be read is not known to be ours
            with reading(path, lock_seconds) as (connection, table):
                require_built(connection, path)
                note = read_notes(connection, table).get(TREE_NOTE)
            if note is not None:
                tree, name = note
                found.setdefault(label_of(name), {}).setdefault(tree, {})[name] = path.name
    if not found:
        return None
    sources = {label: max(trees, key=lambda tree: len(trees[tree])) for label, trees in found.items()}
    shards = {name: file for label, tree in sources.items() for name, file in found[label][tree].items()}
    return BuildRecord(sources, shards)
