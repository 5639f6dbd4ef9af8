"""Compares the genes that `build` has cut from sources with what was written down of them: how many each source gave,
the hash of each content, and the ids that follow from both.

Asked of shards that `build` has made; what an application writes there itself follows rules of its own.
"""

from __future__ import annotations

import hashlib
import itertools
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helix_crawl_otel.paths import on_disk
from helix_crawl_otel.shards.genes import gene_id, id_of_name
from helix_crawl_otel.shards.schema import APP_NOTE, TREE_NOTE, Table

__all__ = [
    "OF_SOURCES",
    "TreeFiles",
    "gone_sources",
    "is_content_of",
    "is_first_of",
    "is_ingested",
    "miscounted_sources",
    "unlike_sources",
    "wrong_ids",
]

OF_SOURCES = "source_id IN (SELECT source_id FROM helix_crawl_sources)"

MORE_OCCURRENCES = 16
"""Of a passage that is repeated in a source, some may be gone: so many more ids are tried."""


def is_ingested(connection: sqlite3.Connection, table: Table, own: Mapping[str, Any]) -> bool:
    """Whether the genes of a file are those that `build` has cut from sources."""
    if not table.has_own or own.get(APP_NOTE):
        return False
    return TREE_NOTE in own or connection.execute("SELECT 1 FROM helix_crawl_sources LIMIT 1").fetchone() is not None


def miscounted_sources(connection: sqlite3.Connection) -> Iterator[tuple[str, int, int]]:
    """Sources that have another number of genes than they gave: id, how many they gave, how many there are.

    One that is not in the table of sources gave none. Genes that name no source are of none.
    """
    there = "SELECT source_id, count(*) AS number FROM genes WHERE source_id IS NOT NULL GROUP BY source_id"
    yield from connection.execute(
        f"SELECT s.source_id, s.genes, coalesce(t.number, 0) FROM helix_crawl_sources s LEFT JOIN ({there}) t"
        " ON t.source_id = s.source_id WHERE s.genes <> coalesce(t.number, 0)"
    )
    yield from connection.execute(
        f"SELECT source_id, 0, number FROM ({there}) WHERE source_id NOT IN (SELECT source_id FROM helix_crawl_sources)"
    )


def is_content_of(content_hash: object, content: bytes | None) -> bool:
    """Whether a content, as bytes, is the one that was hashed."""
    return content is not None and hashlib.sha256(content).hexdigest() == content_hash


def is_first_of(found: object, source_id: str, content_hash: object) -> bool:
    """Whether an id is that of a passage where it comes first in its source."""
    return found == gene_id(source_id, str(content_hash), 0)


def wrong_ids(connection: sqlite3.Connection) -> Iterator[tuple[object, str]]:
    """Genes of sources whose ids follow neither from their source nor from their content: id and source.

    SQLite sorts them, on the disk where there are many; one passage's are held at a time.
    """
    sql = f"SELECT source_id, content_hash, gene_id FROM genes WHERE {OF_SOURCES} ORDER BY 1, 2"
    for (source_id, digest), rows in itertools.groupby(connection.execute(sql), key=lambda row: row[:2]):
        found = [row[2] for row in rows]
        if len(found) == 1 and is_first_of(found[0], source_id, digest):
            continue
        right = {gene_id(source_id, str(digest), number) for number in range(len(found) + MORE_OCCURRENCES)}
        yield from ((one, source_id) for one in found if one not in right)


def unlike_sources(connection: sqlite3.Connection, *, deep: bool) -> set[str]:
    """Sources that have other genes than they gave, whoever has changed or taken them: they are to be read again.

    Args:
        connection: Open.
        deep: Look at contents and ids as well. That reads the whole file.
    """
    changed = {source_id for source_id, _, _ in miscounted_sources(connection)}
    if not deep:
        return changed
    changed.update(source_id for _, source_id in wrong_ids(connection))
    sql = f"SELECT source_id, content_hash, CAST(content AS BLOB) FROM genes WHERE {OF_SOURCES}"
    return changed.union(one for one, digest, content in connection.execute(sql) if not is_content_of(digest, content))


def gone_sources(connection: sqlite3.Connection, table: Table, own: Mapping[str, Any]) -> Iterator[str]:
    """Sources of a shard that gave genes and whose file is not there any more, in order. Their genes stay until
    `--prune`.

    None where the whole tree is not there: it has been moved, or a disk is not mounted.

    Args:
        connection: Open.
        table: As it is.
        own: Our notes in the file.
    """
    tree = own.get(TREE_NOTE)
    if tree is None or not table.has_own or not _is_there(Path(tree[0])):
        return
    files = TreeFiles(Path(tree[0]), tree[1].rpartition("/")[0])
    for (source_id,) in connection.execute("SELECT source_id FROM helix_crawl_sources WHERE genes > 0 ORDER BY 1"):
        if files.find(source_id) is None:
            yield source_id


class TreeFiles:
    """Finds the sources of a tree by their ids as `corpus.tree` makes them: paths in composed form, with the tree's
    label before them where several trees make one index.

    Args:
        root: The tree.
        label: Its label, empty where it is the only one.
    """

    def __init__(self, root: Path, label: str) -> None:
        self._root = root
        self._label = label
        self._is_file = on_disk(root).is_file()
        self._names: dict[Path, dict[str, Path]] = {}  # of folders whose names are not as they are in ids

    def find(self, source_id: str) -> Path | None:
        """The file of a source, `None` where it is not there."""
        if self._is_file:
            return self._root if source_id == (self._label or id_of_name(self._root.name)) else None
        source_id = source_id.removeprefix(f"{self._label}/") if self._label else source_id
        if _is_there(self._root / source_id):
            return self._root / source_id
        name = source_id.partition("\0")[0]  # behind it are digits that tell two forms of one name apart
        if name.isascii() and "\\" not in name and name == source_id:
            return None
        path: Path | None = self._root
        for part in name.split("/"):
            path = self._inside(path).get(part) if path is not None else None
        return path

    def _inside(self, folder: Path) -> dict[str, Path]:
        if folder not in self._names:
            try:
                self._names[folder] = {id_of_name(path.name): path for path in on_disk(folder).iterdir()}
            except OSError:
                self._names[folder] = {}
        return self._names[folder]


def _is_there(path: Path) -> bool:
    try:
        on_disk(path).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        pass  # it is there, or in a folder that cannot be looked into
    return True
