"""The tables of a shard's file: the app's table of genes, which is only ever added to, and our own beside it.

Source: DESIGN.md, section 8: never drop or reorder the app's columns, add only what is missing.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.backfill.errors import NotAShard

__all__ = ["BLANK", "VECTOR", "Table", "connect", "create_genes", "ensure_own", "read_table"]

VECTOR = "embedding_dense_v2"

BLANK = "(typeof(content) <> 'text' OR trim(content, ' ' || char(9, 10, 11, 12, 13, 160)) = '')"
"""Content that no encoder can do anything with."""

_ADDED = {"source_id": "TEXT", "content_hash": "TEXT", VECTOR: "BLOB"}

_OWN = (
    "CREATE TABLE IF NOT EXISTS helix_crawl_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS helix_crawl_quarantine (gene_id PRIMARY KEY, reason TEXT NOT NULL, at TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS helix_crawl_sources (source_id TEXT PRIMARY KEY, size INTEGER NOT NULL,"
    " mtime_ns INTEGER NOT NULL, digest TEXT NOT NULL, genes INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS helix_crawl_sessions (id INTEGER PRIMARY KEY, device TEXT NOT NULL,"
    " versions TEXT NOT NULL, threads INTEGER NOT NULL, batch_size INTEGER NOT NULL, at TEXT NOT NULL)",
)


@dataclass(frozen=True)
class Table:
    """The table of genes as it is.

    Args:
        columns: Their names, in lower case.
        key: What genes are ordered and paged by: `rowid`, or `gene_id` in a table without one.
        has_own: Our own tables are there.
    """

    columns: frozenset[str]
    key: str
    has_own: bool

    @property
    def quarantined(self) -> str:
        """SQL: whether a gene is quarantined."""
        return "gene_id IN (SELECT gene_id FROM helix_crawl_quarantine)" if self.has_own else "0"

    @property
    def vector(self) -> str:
        """SQL: the vector of a gene, NULL in a table without the column."""
        return VECTOR if VECTOR in self.columns else "NULL"


def connect(path: Path, lock_seconds: float) -> sqlite3.Connection:
    """Open a file that is there, and let SQLite recover what a killed writer has left in its log."""
    connection = sqlite3.connect(path, timeout=lock_seconds, isolation_level=None)
    # An application's text may be anything; what cannot be decoded must not stop a build.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return connection


def read_table(connection: sqlite3.Connection, path: Path) -> Table:
    """Look at the file.

    Raises:
        NotAShard: It has no table of genes with the columns that every shard has.
    """
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
    tables = {str(name).lower(): str(sql) for name, sql in rows}
    if "genes" not in tables:
        raise NotAShard(f"{path} is no shard: it has no table `genes`")
    columns = frozenset(str(row[1]).lower() for row in connection.execute("PRAGMA table_info(genes)"))
    missing = {"gene_id", "content"} - columns
    if missing:
        raise NotAShard(f"{path} is no shard: its table `genes` has no column {' and no '.join(sorted(missing))}")
    has_rowid = "rowid" not in columns and _has_rowid(connection)
    return Table(columns, "rowid" if has_rowid else "gene_id", "helix_crawl_meta" in tables)


def _has_rowid(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT rowid FROM genes LIMIT 0")
    except sqlite3.OperationalError:
        return False
    return True


def create_genes(connection: sqlite3.Connection) -> None:
    """Make the table in a new file."""
    connection.execute(
        "CREATE TABLE IF NOT EXISTS genes (gene_id TEXT PRIMARY KEY, content TEXT, source_id TEXT, content_hash TEXT,"
        f" {VECTOR} BLOB)"
    )
    connection.execute("CREATE INDEX IF NOT EXISTS helix_crawl_by_source ON genes (source_id)")


def ensure_own(connection: sqlite3.Connection, table: Table) -> None:
    """Add our tables, and the columns that are missing. Within the caller's transaction."""
    for statement in _OWN:
        connection.execute(statement)
    for name, kind in _ADDED.items():
        if name not in table.columns:
            connection.execute(f"ALTER TABLE genes ADD COLUMN {name} {kind}")
