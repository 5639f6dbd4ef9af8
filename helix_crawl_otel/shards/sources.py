"""The sources of a shard, in its file: what each was when it was ingested, and its genes.

A source that changed gives up its old genes for its new ones in one transaction, and a passage that is still in it
keeps its row and its vector. Genes of a source that is gone stay until `--prune`.

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from helix_crawl_otel.shards.genes import Gene, SourceMark
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["SourceTable"]


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

    def touch(self, marks: Sequence[tuple[str, SourceMark]]) -> None:
        """Sources whose content is as it was, whatever their times say now."""
        with self._store.writing() as connection:
            for source_id, mark in marks:
                _mark(connection, source_id, mark)

    def put(self, many: Iterable[tuple[str, SourceMark, Iterable[Gene]]]) -> tuple[int, int, int]:
        """Put sources in place of what they were, in one transaction.

        Returns:
            Genes added, removed and kept.
        """
        added = removed = kept = 0
        with self._store.writing() as connection:
            for source_id, mark, genes in many:
                counts = _replace(connection, source_id, genes)
                _mark(connection, source_id, mark if mark.genes >= 0 else _counted(mark, counts))
                added, removed, kept = added + counts[0], removed + counts[1], kept + counts[2]
        return added, removed, kept

    def drop(self, source_ids: Iterable[str]) -> int:
        """Remove sources that are gone, with their genes. Returns how many genes."""
        removed = 0
        with self._store.writing() as connection:
            for source_id in source_ids:
                removed += connection.execute("DELETE FROM genes WHERE source_id = ?", (source_id,)).rowcount
                connection.execute("DELETE FROM helix_crawl_sources WHERE source_id = ?", (source_id,))
            _forget_quarantined(connection)
        return removed


def _counted(mark: SourceMark, counts: tuple[int, int, int]) -> SourceMark:
    return SourceMark(mark.size, mark.mtime_ns, mark.digest, counts[0] + counts[2])


def _mark(connection: sqlite3.Connection, source_id: str, mark: SourceMark) -> None:
    values = (source_id, mark.size, mark.mtime_ns, mark.digest, mark.genes)
    connection.execute("INSERT OR REPLACE INTO helix_crawl_sources VALUES (?, ?, ?, ?, ?)", values)


def _replace(connection: sqlite3.Connection, source_id: str, genes: Iterable[Gene]) -> tuple[int, int, int]:
    before = {str(row[0]) for row in connection.execute("SELECT gene_id FROM genes WHERE source_id = ?", (source_id,))}
    seen: set[str] = set()
    added = 0

    def new() -> Iterable[tuple[str, str, str, str]]:
        nonlocal added
        for gene in genes:
            seen.add(gene.gene_id)
            if gene.gene_id not in before:
                added += 1
                yield gene.gene_id, gene.content, gene.source_id, gene.content_hash

    connection.executemany("INSERT INTO genes (gene_id, content, source_id, content_hash) VALUES (?, ?, ?, ?)", new())
    stale = before - seen
    connection.executemany("DELETE FROM genes WHERE gene_id = ?", [(gene_id,) for gene_id in stale])
    if stale:
        _forget_quarantined(connection)
    return added, len(stale), len(before) - len(stale)


def _forget_quarantined(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM helix_crawl_quarantine WHERE gene_id NOT IN (SELECT gene_id FROM genes)")
