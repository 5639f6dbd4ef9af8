"""A shard as the Helix/Cymatix app writes it, with more in it than we know of; and all of it that is not ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from helix_crawl_otel.encoders.hashing import HashingEncoder
from tests.shards.shards import rows

__all__ = ["foreign", "hashed", "not_ours", "vectors_of", "write_app_shard"]

TABLE = (
    "CREATE TABLE genes (domain JSON DEFAULT '[]', content TEXT NOT NULL, tier INTEGER DEFAULT 3,"
    " embedding_dense_v2 BLOB, gene_id TEXT PRIMARY KEY, sparse BLOB, updated_at REAL) "
)


def write_app_shard(path: Path, contents: Mapping[str, str], *, without_rowid: bool = False) -> Path:
    """Genes in a table with further columns in an order of its own, with an index, a trigger, a view and a log."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(TABLE + ("WITHOUT ROWID" if without_rowid else ""))
        connection.execute("CREATE TABLE changes (gene_id TEXT, what TEXT)")
        connection.execute("CREATE INDEX by_tier ON genes (tier, domain)")
        connection.execute(
            "CREATE TRIGGER told AFTER UPDATE OF embedding_dense_v2 ON genes"
            " BEGIN INSERT INTO changes VALUES (new.gene_id, 'vector'); END"
        )
        connection.execute("CREATE VIEW short AS SELECT gene_id, substr(content, 1, 20) AS head FROM genes")
        connection.executemany(
            "INSERT INTO genes (gene_id, content, sparse, updated_at) VALUES (?, ?, ?, ?)",
            [(name, text, text.encode()[:7], 1.5) for name, text in contents.items()],
        )
    return path


def not_ours(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All of the app's own: its columns with their order and content, its indices, triggers and views."""
    return {
        "columns": rows(path, "SELECT cid, name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('genes')")[
            :7
        ],
        "content": rows(path, "SELECT domain, content, tier, gene_id, sparse, updated_at FROM genes ORDER BY gene_id"),
        "schema": rows(
            path, "SELECT type, name, sql FROM sqlite_master WHERE name IN ('changes', 'by_tier', 'told', 'short')"
        ),
    }


def vectors_of(path: Path) -> dict[object, object]:
    """Vectors by gene."""
    found = rows(path, "SELECT gene_id, embedding_dense_v2 FROM genes")
    return {row[0]: row[1] for row in found}


def foreign(path: Path, vectors: Mapping[str, bytes | None]) -> Path:
    """Put vectors into a file behind our back, as the app does: nothing says whose they are."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "UPDATE genes SET embedding_dense_v2 = ? WHERE gene_id = ?",
            [(vector, name) for name, vector in vectors.items()],
        )
        connection.execute("DELETE FROM changes")
    return path


def hashed(contents: Mapping[str, str]) -> dict[str, bytes]:
    """The right vectors, made without any of the job."""
    return dict(zip(contents, HashingEncoder().encode(list(contents.values())), strict=True))
