"""A database as the Helix/Cymatix app leaves it, made without any of its code: its columns, its vectors.

The table of provenance is one of several shapes that are read.

Source of the names: the app's `storage/ddl.py`, `shard_schema.py` and `backfill_bgem3_v2.py`. It encodes the first
`char_cap` letters of a gene with the bare model, keeps the first `dim` numbers of the vector and normalises it.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from helix_crawl_otel.encoders.base import Encoder
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.shards.vectors import pack, unpack
from tests.build.rig import prose

__all__ = ["LONG", "provenance_rows", "write_genome", "write_routing"]

LONG = {f"g{n:02}": prose(n, 1 + n % 12) for n in range(36)}
"""From 300 to 3,700 letters: two in five are longer than the app's cap."""

_GENES = (
    "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, complement TEXT, codons TEXT, promoter TEXT,"
    " epigenetics TEXT, chromatin INTEGER, is_fragment INTEGER, embedding TEXT, source_id TEXT, repo_root TEXT,"
    " source_kind TEXT, observed_at REAL, mtime REAL, content_hash TEXT, volatility_class TEXT, authority_class TEXT,"
    " support_span TEXT, last_verified_at REAL, version INTEGER, supersedes TEXT, key_values TEXT,"
    " embedding_dense TEXT, embedding_dense_v2 BLOB, compression_tier INTEGER DEFAULT 0, last_seen REAL,"
    " live_truth_score REAL DEFAULT 1.0)"
)
_INDEX = "CREATE INDEX idx_genes_dense_v2_hot ON genes(gene_id) WHERE embedding_dense_v2 IS NOT NULL AND chromatin < 2"
_PROVENANCE = (
    "CREATE TABLE embedding_provenance (id INTEGER PRIMARY KEY AUTOINCREMENT, column_name TEXT NOT NULL,"
    " model_name TEXT NOT NULL, dim INTEGER NOT NULL, char_cap INTEGER NOT NULL, batch_size INTEGER,"
    " rows_processed INTEGER, created_at REAL NOT NULL)"
)


def write_genome(
    path: Path,
    contents: Mapping[str, str] = LONG,
    *,
    encoded: int = 0,
    encoder: Encoder | None = None,
    cap: int | None = 2000,
    dim: int | None = None,
    prompt: str = "",
    provenance: Sequence[int] = (),
) -> Path:
    """Write one.

    Args:
        path: The file.
        contents: Texts by id.
        encoded: So many of the first of them have their vector: the app was stopped there.
        encoder: Made those.
        cap: Letters of a text that were encoded.
        dim: Numbers of a vector that were kept.
        prompt: Stood before each text.
        provenance: Caps of the rows of its table of provenance; there is none without one.
    """
    encoder = encoder or HashingEncoder()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(_GENES)
        connection.execute(_INDEX)
        rows = [(name, text, 0, f"{name}.md") for name, text in contents.items()]
        connection.executemany("INSERT INTO genes (gene_id, content, chromatin, source_id) VALUES (?, ?, ?, ?)", rows)
        for name, text in list(contents.items())[:encoded]:
            kept = unpack(encoder.encode_after(prompt, text[:cap]))[:dim]
            length = math.hypot(*kept)
            vector = pack(value / length for value in kept)
            connection.execute("UPDATE genes SET embedding_dense_v2 = ? WHERE gene_id = ?", (vector, name))
        if provenance:
            connection.execute(_PROVENANCE)
        for row in provenance:
            connection.execute(
                "INSERT INTO embedding_provenance (column_name, model_name, dim, char_cap, created_at)"
                " VALUES ('embedding_dense_v2', 'BAAI/bge-m3', 1024, ?, 1780000000.5)",
                (row,),
            )
    return path


def write_routing(path: Path) -> Path:
    """The database beside the shards that says where each is: it has no genes."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE shards (shard_name TEXT PRIMARY KEY, category TEXT, path TEXT NOT NULL)")
        connection.execute("INSERT INTO shards VALUES ('a', 'reference', 'a.genome.db')")
    return path


def provenance_rows(path: Path) -> list[tuple[object, ...]]:
    """What stands in its table of provenance, oldest first."""
    with closing(sqlite3.connect(path)) as connection:
        columns = "column_name, model_name, dim, char_cap, batch_size, rows_processed"
        return connection.execute(f"SELECT {columns} FROM embedding_provenance ORDER BY id").fetchall()
