"""Promises to the app: a shard that it wrote works in place, whatever else is in it, and keeps all of that."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.shards.accounts import account
from helix_crawl_otel.shards.errors import NotAShard
from helix_crawl_otel.shards.inspect import salvage
from tests.shards.shards import GENES, IDENTITY, VECTOR, encode_all, every_pending, made, opened, rows, sql

TABLES = {
    "ours": "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, source_id TEXT, content_hash TEXT,"
    " embedding_dense_v2 BLOB)",
    "only what every shard has": GENES,
    "any order": "CREATE TABLE genes (embedding_dense_v2 BLOB, domain JSON DEFAULT '[]', content TEXT, tier INTEGER,"
    " gene_id TEXT PRIMARY KEY)",
    "not null": "CREATE TABLE genes (gene_id TEXT PRIMARY KEY NOT NULL, full_text TEXT NOT NULL DEFAULT '',"
    " content TEXT NOT NULL, weight REAL NOT NULL DEFAULT 1.0)",
    "without rowid": "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, score REAL) WITHOUT ROWID",
    "other letters": "CREATE TABLE Genes (Gene_ID TEXT PRIMARY KEY, CONTENT TEXT, Embedding_Dense_V2 BLOB)",
    "strict": "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, n INTEGER) STRICT",
    "a column called rowid": "CREATE TABLE genes (rowid TEXT, gene_id TEXT PRIMARY KEY, content TEXT)",
    "a key of its own": "CREATE TABLE genes (id INTEGER PRIMARY KEY AUTOINCREMENT, gene_id TEXT UNIQUE, content TEXT)",
    "numbers for ids": "CREATE TABLE genes (gene_id INTEGER PRIMARY KEY, content TEXT)",
    "ids of no type": "CREATE TABLE genes (gene_id, content)",
}
IDS = ("10", "9", "11", "100")


def columns(path: Path) -> list[tuple[object, ...]]:
    """The columns as they are declared, in their order."""
    return rows(path, "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('genes')")


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_file_of_the_app_is_encoded_in_place(tmp_path: Path, table: str) -> None:
    """Columns are added behind the app's own, nothing of theirs changes, and every gene gets its vector."""
    path = made(tmp_path / "app.db", IDS, table)
    declared, content = columns(path), rows(path, "SELECT * FROM genes ORDER BY gene_id")
    with opened(path) as store:
        store.claim(IDENTITY)
        assert store.pending_count() == len(IDS)
        assert encode_all(store) == len(IDS)
        assert store.pending_count() == 0
    after = columns(path)
    assert after[: len(declared)] == declared
    assert {str(row[0]).lower() for row in after} >= {"source_id", "content_hash", "embedding_dense_v2"}
    width = len(declared)
    kept = rows(path, "SELECT * FROM genes ORDER BY gene_id")
    vector = [str(row[0]).lower() for row in after].index("embedding_dense_v2")
    if vector >= width:
        assert [row[:width] for row in kept] == content
    assert {row[vector] for row in kept} == {VECTOR}
    assert salvage(path).is_complete
    assert account(path).vectors == len(IDS)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_quarantined_gene_of_the_app_is_left_out(tmp_path: Path, table: str) -> None:
    """By its id as text, which is how messages carry it, also where the app has numbers."""
    path = made(tmp_path / "app.db", IDS, table)
    with opened(path) as store:
        store.claim(IDENTITY)
        store.quarantine("9", "too long for the card")
        assert sorted(str(gene.gene_id) for gene in every_pending(store)) == ["10", "100", "11"]
        encode_all(store)
        assert store.retry_quarantined() == 1
        assert [str(gene.gene_id) for gene in every_pending(store)] == ["9"]


def test_what_else_is_in_the_file_stays(tmp_path: Path) -> None:
    """The app's other tables, indices, triggers and views."""
    path = made(tmp_path / "app.db", IDS)
    sql(
        path,
        "CREATE TABLE log (n INTEGER)",
        "CREATE INDEX by_content ON genes (content)",
        "CREATE TRIGGER counted AFTER UPDATE ON genes BEGIN INSERT INTO log VALUES (1); END",
        "CREATE VIEW short AS SELECT gene_id FROM genes",
    )
    query = "SELECT type, name, sql FROM sqlite_master WHERE name IN ('log', 'by_content', 'counted', 'short')"
    before = rows(path, query)
    with opened(path) as store:
        store.claim(IDENTITY)
        assert encode_all(store) == len(IDS)
    assert rows(path, query) == before
    assert rows(path, "SELECT count(*) FROM log") == [(len(IDS),)]


@pytest.mark.parametrize("table", [GENES, "CREATE TABLE genes (gene_id TEXT, content TEXT, full_locked TEXT NOT NULL)"])
@pytest.mark.parametrize("contents", [IDS, ""])
def test_a_file_of_the_apps_is_not_built_into(tmp_path: Path, table: str, contents: str) -> None:
    """`build` meets it under the name of its shard; only an empty table that is just like ours may be our own."""
    columns = table if not contents else table.replace("full_locked TEXT NOT NULL", "full_locked TEXT")
    path = made(tmp_path / "app.db", contents, columns)
    if not contents and table == GENES:
        opened(path, create=True).close()
        return
    before = path.read_bytes()
    with pytest.raises(NotAShard, match="is no shard of this folder"):
        opened(path, create=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("CREATE TABLE notes (n INTEGER)", "it has no table `genes`"),
        ("CREATE TABLE genes (content TEXT)", "has no column gene_id"),
        ("CREATE TABLE genes (n INTEGER)", "has no column content and no gene_id"),
        ("CREATE VIEW genes AS SELECT 1 AS gene_id, 'a' AS content", "it has no table `genes`"),
    ],
)
def test_another_database_is_no_shard(tmp_path: Path, statement: str, says: str) -> None:
    """It is named, and not a byte of it is changed for that."""
    path = tmp_path / "other.db"
    sql(path, statement)
    before = path.read_bytes()
    with pytest.raises(NotAShard, match=says):
        opened(path)
    with pytest.raises(NotAShard, match=says):
        salvage(path)
    assert path.read_bytes() == before


def test_the_second_look_at_a_locked_file_does_not_mistake_its_key(tmp_path: Path) -> None:
    """Only `no such column` means that a table has no rowid."""
    from helix_crawl_otel.shards import schema

    path = made(tmp_path / "app.db", IDS)

    class Locked(sqlite3.Connection):
        def execute(self, query: str, /, *values: object) -> sqlite3.Cursor:
            if "rowid" in query:
                raise sqlite3.OperationalError("database is locked")
            return super().execute(query, *values)  # type: ignore[arg-type]  # passed through as they come

    with closing(sqlite3.connect(path, factory=Locked)) as connection, pytest.raises(sqlite3.OperationalError):
        schema.read_table(connection, path)


def test_a_vector_that_a_trigger_of_the_app_refuses_without_a_word_is_not_counted(tmp_path: Path) -> None:
    """The others of its batch are written, and the gene goes on lacking one."""
    path = made(tmp_path / "app.db", IDS)
    sql(path, "CREATE TRIGGER t BEFORE UPDATE ON genes WHEN old.gene_id = '9' BEGIN SELECT RAISE(IGNORE); END")
    with opened(path) as store:
        store.claim(IDENTITY)
        assert store.commit([(gene, VECTOR) for gene in every_pending(store)]) == len(IDS) - 1
        assert [gene.gene_id for gene in every_pending(store)] == ["9"]
