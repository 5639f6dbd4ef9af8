"""The sources of a shard, in its file: what each was when it was ingested, and its genes.

A source that changed gives up its old genes for its new ones in one transaction, and a passage that is still in it
keeps its row and its vector. Genes of a source that is gone stay until `--prune`.

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.genes import SourceMark, SourceNote, content_hash, gene_id
from helix_crawl_otel.shards.ingested import unlike_sources
from helix_crawl_otel.shards.inspect import reading
from helix_crawl_otel.shards.schema import PLAN, VECTOR
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["SourceCounts", "SourceTable", "notes_of"]

NOTES = "helix_crawl_source_notes"
"""A file of an older version has no such table."""

FIRST_OF_A_KIND, MOST_FIRST = 3, 12
"""Sources left out that are named."""

_SEEN = """
    CREATE TEMP TABLE IF NOT EXISTS helix_crawl_seen (gene_id TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID
"""
"""The genes of the source that is being put. `times`: how often the passage has come, at its first gene."""


class SourceTable:
    """The sources of an open shard.

    Args:
        store: Open, under its lease.

    Threads: the store's.
    """

    def __init__(self, store: ShardStore) -> None:
        self._store = store

    def marks(self) -> dict[str, SourceMark]:
        """What is known of each source."""
        rows = self._store.read("SELECT source_id, size, mtime_ns, digest, genes FROM helix_crawl_sources")
        return {str(row[0]): SourceMark(*row[1:]) for row in rows}

    def unlike_marks(self, *, deep: bool) -> set[str]:
        """See `ingested.unlike_sources`."""
        with self._store.reading() as connection:
            return unlike_sources(connection, deep=deep)

    def touch(self, marks: Sequence[tuple[str, SourceMark]]) -> None:
        """Sources whose content is as it was, whatever their times say now."""
        with self._store.writing() as connection:
            for source_id, mark in marks:
                _mark(connection, source_id, mark)

    def note(self, notes: Iterable[tuple[str, SourceNote]]) -> None:
        """Say this of what is in the tree and no source at all, in place of what was said before."""
        with self._store.writing() as connection:
            connection.execute(
                f"DELETE FROM {NOTES} WHERE source_id NOT IN (SELECT source_id FROM helix_crawl_sources)"
            )
            for source_id, note in notes:
                _note(connection, source_id, note)

    def notes(self) -> dict[str, SourceNote]:
        """What is to be said of sources, by id and in the order of their ids."""
        rows = self._store.read(f"SELECT source_id, kind, reason FROM {NOTES} ORDER BY source_id")
        return {str(row[0]): SourceNote(*row[1:]) for row in rows}

    def put(self, many: Iterable[tuple[str, SourceMark, Iterable[str]]]) -> tuple[int, int, int]:
        """Put sources in place of what they were, in one transaction.

        Args:
            many: Id, mark and passages of each. How many passages there are is counted here.

        Returns:
            Genes added, removed and kept.
        """
        added = removed = kept = 0
        with self._store.writing() as connection:
            for source_id, mark, passages in many:
                counts = _replace(connection, source_id, passages)
                _mark(connection, source_id, replace(mark, genes=counts[0] + counts[2]))
                added, removed, kept = added + counts[0], removed + counts[1], kept + counts[2]
        return added, removed, kept

    def drop(self, source_ids: Iterable[str]) -> int:
        """Remove sources that are gone, with their genes. Returns how many genes."""
        removed = 0
        with self._store.writing() as connection:
            for source_id in source_ids:
                removed += connection.execute("DELETE FROM genes WHERE source_id = ?", (source_id,)).rowcount
                connection.execute("DELETE FROM helix_crawl_sources WHERE source_id = ?", (source_id,))
                connection.execute(f"DELETE FROM {NOTES} WHERE source_id = ?", (source_id,))
            _forget_removed(connection)
        return removed


def _mark(connection: sqlite3.Connection, source_id: str, mark: SourceMark) -> None:
    values = (source_id, mark.size, mark.mtime_ns, mark.digest, mark.genes)
    connection.execute("INSERT OR REPLACE INTO helix_crawl_sources VALUES (?, ?, ?, ?, ?)", values)
    if mark.note is None:
        connection.execute(f"DELETE FROM {NOTES} WHERE source_id = ?", (source_id,))
    else:
        _note(connection, source_id, mark.note)


def _note(connection: sqlite3.Connection, source_id: str, note: SourceNote) -> None:
    connection.execute(f"INSERT OR REPLACE INTO {NOTES} VALUES (?, ?, ?)", (source_id, note.kind, note.reason))


def _replace(connection: sqlite3.Connection, source_id: str, passages: Iterable[str]) -> tuple[int, int, int]:
    # Which genes the source has now is kept by SQLite, which needs no memory for it: there may be millions.
    connection.execute(_SEEN)
    connection.execute("DELETE FROM temp.helix_crawl_seen")
    total = added = 0
    for passage in passages:
        digest = content_hash(passage)
        first = gene = gene_id(source_id, digest, 0)
        if not connection.execute("INSERT OR IGNORE INTO temp.helix_crawl_seen VALUES (?, 1)", (first,)).rowcount:
            sql = "SELECT times FROM temp.helix_crawl_seen WHERE gene_id = ?"
            (times,) = connection.execute(sql, (first,)).fetchone()
            connection.execute("UPDATE temp.helix_crawl_seen SET times = times + 1 WHERE gene_id = ?", (first,))
            gene = gene_id(source_id, digest, times)
            connection.execute("INSERT INTO temp.helix_crawl_seen VALUES (?, 1)", (gene,))
        # What was changed behind our back is put right, and encoded again.
        sql = (
            "INSERT INTO genes (gene_id, content, source_id, content_hash) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (gene_id) DO UPDATE SET content = excluded.content, source_id = excluded.source_id,"
            f" content_hash = excluded.content_hash, {VECTOR} = NULL WHERE content IS NOT excluded.content"
            " OR source_id IS NOT excluded.source_id OR content_hash IS NOT excluded.content_hash"
        )
        added += connection.execute(sql, (gene, passage, source_id, digest)).rowcount
        total += 1
    sql = "DELETE FROM genes WHERE source_id = ? AND gene_id NOT IN (SELECT gene_id FROM temp.helix_crawl_seen)"
    removed = connection.execute(sql, (source_id,)).rowcount
    if removed:
        _forget_removed(connection)
    return added, removed, total - added


def _forget_removed(connection: sqlite3.Connection) -> None:
    """Genes that are gone. Their keys are given out again: a later gene would have the place of another one."""
    connection.execute("DELETE FROM helix_crawl_quarantine WHERE gene_id NOT IN (SELECT gene_id FROM genes)")
    connection.execute(f"UPDATE {PLAN} SET gene = '' WHERE gene <> '' AND gene NOT IN (SELECT rowid FROM genes)")


def notes_of(path: Path, lock_seconds: float) -> list[tuple[str, SourceNote]]:
    """What is to be said of the sources of a shard, in the order of their ids; nothing where that cannot be told.

    Args:
        path: Its file.
        lock_seconds: How long to wait for another program that holds it.
    """
    try:
        with reading(path, lock_seconds) as (connection, _):
            if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (NOTES,)).fetchone() is None:
                return []
            rows = connection.execute(f"SELECT source_id, kind, reason FROM {NOTES} ORDER BY source_id").fetchall()
    except StoreError:
        return []
    return [(str(row[0]), SourceNote(str(row[1]), str(row[2]))) for row in rows]


class SourceCounts:
    """How many sources of shards were left out or read otherwise, as the shards have it: also in earlier runs.

    Attributes:
        kinds: Of those left out, how many of each kind.
        read_as: Of those read otherwise.
        first: The first ones left out of each kind.
    """

    def __init__(self) -> None:
        self.kinds, self.read_as = Counter[str](), Counter[str]()
        self.first: list[dict[str, str]] = []

    def count(self, path: Path, lock_seconds: float) -> None:
        """Count those of a shard's file. See `notes_of`."""
        for source, note in notes_of(path, lock_seconds):
            counter = self.kinds if note.reason else self.read_as
            counter[note.kind] += 1
            if note.reason and counter[note.kind] <= FIRST_OF_A_KIND:
                self._name({"shard": path.stem, "source": source, "what": note.kind, "reason": note.reason})

    def add(self, told: Mapping[str, Any]) -> None:
        """Add what `to_json` of others has told."""
        self.kinds.update(told["kinds"])
        self.read_as.update(told["read_as"])
        for row in told["first"]:
            self._name(row)

    def to_json(self) -> dict[str, Any]:
        """For another machine."""
        return {"kinds": dict(self.kinds), "read_as": dict(self.read_as), "first": self.first}

    def _name(self, row: dict[str, str]) -> None:
        alike = sum(1 for one in self.first if one["what"] == row["what"])
        if alike < FIRST_OF_A_KIND and len(self.first) < MOST_FIRST:
            self.first.append(row)
