"""Shards to test with, and what is in them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from helix_crawl_otel.shards.genes import PendingGene
from helix_crawl_otel.shards.inspect import salvage
from helix_crawl_otel.shards.store import ShardStore

IDENTITY = {"model": "test", "revision": "0123456789abcdef", "dim": 2, "normalised": True}
OTHER = {**IDENTITY, "model": "other", "dim": 3}
VECTOR = b"\0\0\x80?\0\0\0\0"
"""Two floats: 1 and 0."""

GENES = "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT)"


def sql(path: Path, *statements: str) -> None:
    """Do something to a file behind everybody's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What a query finds."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def made(path: Path, contents: Mapping[str, object] | Iterable[str], table: str = GENES) -> Path:
    """A file as the app would have written it: the table of genes and nothing of ours."""
    pairs = contents.items() if isinstance(contents, Mapping) else ((text, f"text of {text}") for text in contents)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(table)
        connection.executemany("INSERT INTO genes (gene_id, content) VALUES (?, ?)", list(pairs))
    return path


def opened(path: Path, epoch: int = 1, *, create: bool = False, lock_seconds: float = 0.05) -> ShardStore:
    """A store that does not wait long."""
    return ShardStore.open(path, epoch=epoch, create=create, lock_seconds=lock_seconds)


def epoch_of(path: Path) -> int:
    """The highest lease that was taken on a file; 0 for none, or without a file."""
    return salvage(path).epoch if path.exists() else 0


def every_pending(store: ShardStore, page: int = 1000) -> list[PendingGene]:
    """All that is pending, read in pages."""
    found: list[PendingGene] = []
    while part := store.pending(found[-1].key if found else None, page):
        found += part
    return found


def encode_all(store: ShardStore, vector: bytes = VECTOR) -> int:
    """Give every pending gene a vector."""
    return store.commit([(gene, vector) for gene in every_pending(store)])
