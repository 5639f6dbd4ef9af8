"""Which shards a command was given: files, and folders in which they lie, those of the Helix/Cymatix app among them.

The app keeps its shards in folders in folders, named `<label>.genome.db`, with a database beside them that says where
each is and holds no genes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from helix_crawl_otel.formats import count
from helix_crawl_otel.paths import STATE_FOLDER, is_no_file, looked_at
from helix_crawl_otel.shards import schema
from helix_crawl_otel.shards.build_record import record_path
from helix_crawl_otel.shards.errors import EmptyFile, NoShards, NotAShard, StoreError
from helix_crawl_otel.shards.inspect import has_log, reading

__all__ = ["find_shards", "names_by_file", "notes_of_links"]

GENOME = "genome.db"
"""How the app's files are called, or end."""

HEADER = b"SQLite format 3\0"

NAMED = 12
"""Databases without genes that are named one by one."""


def find_shards(paths: Sequence[Path], may_be_empty: Collection[Path] = ()) -> tuple[list[Path], list[str]]:
    """The shards that a command was given.

    Args:
        paths: Files, and folders whose `.db` files are meant, those in folders in them as well. In a folder that
            `build` has made the shards lie at the top.
        may_be_empty: Folders that need not hold any.

    Returns:
        The files, each once however often and under whatever names it was given; and what is to be told: of those that
        have several names, of folders that cannot be looked into, and of databases that are no shards.

    Raises:
        NoShards: One is not there, or a folder holds no shard.
    """
    found: list[Path] = []
    told: list[str] = []
    for path in paths:
        looked_at.place = str(path)
        if path.is_dir():
            inside, others = _in_folder(path, told)
            if not inside and path not in may_be_empty:
                left = f"; {_left_alone(path, others)}" if others else ""
                raise NoShards(
                    f"{path} holds no shard; accepted: a folder with .db files that have a table `genes`, or with "
                    f"folders that hold some{left}"
                )
            told += [_left_alone(path, others)] if others else []
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise NoShards(f"{path} is not there; accepted: shards (.db files), or folders that hold some")
    names = names_by_file(found)
    # What a killed program has left beside one of the names belongs to the file: SQLite looks for it beside that alone.
    files = [next(filter(has_log, same), same[0]) for same in names]
    return files, told + [note for file, same in zip(files, names, strict=True) for note in _of_links(file, same)]


def _in_folder(top: Path, told: list[str]) -> tuple[list[Path], list[Path]]:
    """The shards of a folder, those at its top first, and the databases that are none."""

    def cannot(error: OSError) -> None:
        told.append(f"{error.filename} cannot be looked into: {error.strerror or error}")

    shards, others = [], []
    for folder, folders, _ in os.walk(top, onerror=cannot):
        place = Path(folder)
        looked_at.place = folder
        is_top = place == top
        folders[:] = [] if record_path(place).is_file() else sorted(set(folders) - {STATE_FOLDER})
        for item in sorted({*place.glob("*.db"), *_left_behind(place)}):
            if _is_shard(item) and (is_top or _is_named_so(item) or _is_database(item)):
                shards.append(item)
            elif not is_no_file(item):
                others.append(item)
    return shards, others


def _left_alone(folder: Path, others: Sequence[Path]) -> str:
    names = [path.relative_to(folder).as_posix() for path in others[:NAMED]]
    more = f" and {count(len(others) - NAMED, 'other')}" if len(others) > NAMED else ""
    what = "is no shard and is" if len(others) == 1 else "are no shards and are"
    return f"{', '.join(names)}{more} in {folder} {what} left alone: no database with a table `genes`"


def _is_named_so(path: Path) -> bool:
    return path.name.lower() == GENOME or path.name.lower().endswith(f".{GENOME}")


def _is_database(path: Path) -> bool:
    """Whether a file begins as SQLite's do: deep in somebody's folders other programs have files that end in `.db`."""
    try:
        with path.open("rb") as file:
            return file.read(len(HEADER)) == HEADER
    except OSError:
        return False


def _left_behind(folder: Path) -> Iterator[Path]:
    """Shards that are not there, and of which a journal or a log is: after a full disk, or a move of the file alone."""
    for suffix in schema.BESIDE[:2]:
        for part in folder.glob(f"*.db{suffix}"):
            path = part.with_name(part.name.removesuffix(suffix))
            if part.is_file() and not path.exists():
                yield path


def names_by_file(paths: Sequence[Path]) -> list[list[Path]]:
    """The paths, each with those that mean the same file, in order.

    By device and number of the file, so that links of both kinds, spellings and mounts make no difference; by the path
    where the system does not tell, as some shares of Windows do not.
    """
    found: dict[object, list[Path]] = {}
    for path in paths:
        try:
            about = path.stat()
            key: object = (about.st_dev, about.st_ino) if about.st_ino else path.resolve()
        except OSError:
            key = path.absolute()
        found.setdefault(key, []).append(path)
    return list(found.values())


def _of_links(path: Path, names: Sequence[Path]) -> Iterator[str]:
    """What is to be told of a file with several names."""
    others = sorted({str(name) for name in names} - {str(path)})
    if others:
        yield f"{', '.join(others)} is the same file as {path}, which is taken once"
    try:
        links = path.stat().st_nlink
    except OSError:
        return
    if links > 1:
        yield (
            f"{path} is one of {links} names (hard links) of a file: nothing may open it by another one meanwhile, for "
            "SQLite keeps its log beside the name"
        )


def notes_of_links(path: Path) -> list[str]:
    """What is to be told of a shard that has several names (hard links)."""
    return list(_of_links(path, [path]))


def _is_shard(path: Path) -> bool:
    """What cannot be read counts, or has nothing in it yet: it is for the command to say so, not to leave it out."""
    if is_no_file(path):
        return False
    try:
        with reading(path, leaves_log=True):
            return True
    except EmptyFile:
        return True
    except NotAShard:
        return False
    except StoreError:
        return True
