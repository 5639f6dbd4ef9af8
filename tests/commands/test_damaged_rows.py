"""Promises of a row of ours that is damaged: its shard is named in one sentence, and the others go on as if it were not
there. Each of our tables and columns gets each kind of value that SQLite has, and the nasty ones of JSON."""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from helix_crawl_otel.build.options import EncodeOptions, add_encode_options, read_encode_options
from helix_crawl_otel.build.plan import plan_backfill
from helix_crawl_otel.cli import main
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.genes import SourceMark
from helix_crawl_otel.shards.sources import SourceTable
from helix_crawl_otel.shards.store import ShardStore
from tests.shards.shards import every_pending, sql

BLOB, TEXT, NULL = "X'00ff41'", "'text'", "NULL"

VALUES = (BLOB, TEXT, NULL, "1.5", "-9223372036854775808", "9223372036854775807", "'" + "9" * 5000 + "'", "''")

TABLES = {
    "helix_crawl_meta": ("key", "value"),
    "helix_crawl_quarantine": ("gene_id", "reason", "at"),
    "helix_crawl_sources": ("source_id", "size", "mtime_ns", "digest", "genes"),
    "helix_crawl_sessions": ("device", "versions", "threads", "batch_size", "at"),
    "helix_crawl_unread": ("gene_id", "chars", "unread"),
    "genes": ("gene_id", "content", "source_id", "content_hash", "embedding_dense_v2"),
}

NOTES = {
    "encoder": [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"model": "m"}',
        '{"model": "hashing", "dim": "256"}',
        '{"model": "hashing", "dim": true}',
        '{"model": "hashing", "dim": -1}',
        '{"model": "hashing", "dim": 1e9}',
        '{"model": "hashing", "dim": NaN}',
        '{"model": 7, "dim": 256}',
        '{"model": "hashing", "revision": [], "dim": 256}',
        '{"model": "hashing", "dim": ' + "9" * 5000 + "}",
        "[" * 100_000,
    ],
    "epoch": ["", "-1", "1.5", '"1"', "true", "9" * 5000, "9" * 4000, "[" * 100_000],
    "tree": ["", "{}", '["a"]', "[1, 2]", '"a"'],
    "clearing": ["", '"yes"', "7", "{}"],
    "fingerprint": ["", "7", "[]"],
}


def made(path: Path) -> Path:
    """A shard as `build` makes it, with something in each table."""
    encoder = HashingEncoder()
    with ShardStore.open(path, epoch=1, create=True) as store:
        store.keep("tree", [str(path.parent / "tree"), path.stem])
        store.keep("fingerprint", "f")
        store.keep("clearing", False)
        texts = [f"{path.stem} text {n}" for n in range(6)]
        SourceTable(store).put([(f"{path.stem}/x.txt", SourceMark(1, 1, "d", 0), texts)])
        store.claim(HASHING_IDENTITY)
        store.note_session("cpu", {"python": "3"}, 1, 64)
        genes = every_pending(store)
        vectors = encoder.encode([gene.content for gene in genes])
        store.commit(list(zip(genes, vectors, strict=True)), {genes[0].key: 1})
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO helix_crawl_quarantine VALUES ('none of these', 'bad', 'now')")
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of them, to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    made(folder / "a.db")
    made(folder / "b.db")
    return folder


@pytest.fixture
def folder(tmp_path: Path, shards: Path) -> Path:
    """The two, of which the first is to be damaged."""
    for name in ("a.db", "b.db"):
        shutil.copy(shards / name, tmp_path / name)
    return tmp_path


def damages() -> Iterator[tuple[str, ...]]:
    """Statements, each with what the table may refuse to take taken away before."""
    for table, columns in TABLES.items():
        for column in columns:
            for value in VALUES:
                yield f"{table}.{column}={value[:12]}", f"UPDATE {table} SET {column} = {value}"
        yield f"{table} is gone", f"DROP TABLE {table}"
        yield f"{table} is a view", f"DROP TABLE {table}", f"CREATE VIEW {table} AS SELECT 1 AS one"
        yield f"{table} is empty", f"DELETE FROM {table}"
        if len(columns) > 2:
            yield f"{table} lacks {columns[-1]}", f"ALTER TABLE {table} DROP COLUMN {columns[-1]}"
    for key, values in NOTES.items():
        for number, value in enumerate(values):
            yield f"{key} {number}", f"UPDATE helix_crawl_meta SET value = '{value}' WHERE key = '{key}'"
        yield f"{key} is a blob", f"UPDATE helix_crawl_meta SET value = {BLOB} WHERE key = '{key}'"


DAMAGES = {name: statements for name, *statements in damages()}


def damage(path: Path, statements: list[str]) -> bool:
    """Do it, whatever the schema forbids. Returns whether anything could be done."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # As of a table that was made without its constraints.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE type = 'table'")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        try:
            for statement in statements:
                connection.execute(statement)
        except (sqlite3.IntegrityError, sqlite3.OperationalError):
            return False
    return True


def options() -> EncodeOptions:
    """Of a `backfill` with the encoder that made the shards."""
    parser = argparse.ArgumentParser()
    add_encode_options(parser)
    return read_encode_options(parser.parse_args(["--model", "hashing", "--no-metrics"]))


@pytest.mark.parametrize("name", DAMAGES)
def test_one_damaged_row_is_its_shards_alone(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify`, `query`, the plan of a `backfill` and a store say it in a sentence, and the other shard is whole."""
    path = folder / "a.db"
    if not damage(path, DAMAGES[name]):
        path.unlink()
        shutil.copy(folder / "b.db", path)
        return
    code = main(["verify", str(folder), "--json"])
    told = capsys.readouterr()
    one, other = json.loads(told.out)["by_shard"]
    assert (other["state"], other["vectors"]) == ("done", 6)
    assert code in (0, 1)
    if one["state"] == "unreadable":
        assert code == 1
        assert one["reason"].startswith(str(path))
        assert one["reason"].isprintable()
        assert one["reason"] in told.err
        assert len(one["reason"]) < 1000
    assert main(["query", str(folder), "b", "text", "3", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)[0]["content"] == "b text 3"
    planned = plan_backfill([path, folder / "b.db"], options(), given=[folder])
    assert folder / "b.db" in planned.complete
    if one["state"] == "unreadable":
        assert "a" in planned.failures
        assert str(path) in told.err
    with suppress(StoreError), ShardStore.open(path, epoch=2**40, create=False, lock_seconds=0.05) as store:
        store.pending_count()
        every_pending(store)
        SourceTable(store).marks()
        store.sample(4)
        store.made_with()
        store.note_session("cpu", {}, 1, 1)


def test_the_way_out_that_is_named_mends_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The row is taken away by the command that the sentence gives; then the shard is read again."""
    sql(folder / "a.db", "UPDATE helix_crawl_meta SET value = '{\"dim\": 7' WHERE key = 'fingerprint'")
    assert main(["verify", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "a.db cannot be used: the row 'fingerprint' of its table helix_crawl_meta is damaged: '{\"dim\": 7'" in said
    statement = "DELETE FROM helix_crawl_meta WHERE key = 'fingerprint'"
    assert statement.replace("'", "") in said.replace("'", "").replace('"', "")
    sql(folder / "a.db", statement)
    assert main(["verify", str(folder)]) == 0


# -- files that are no shard yet ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["empty", "journal", "wal", "database"])
def test_a_file_that_is_no_shard_yet_is_named(kind: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a full disk or a kill leaves it. `verify` fails, `query` says so, `backfill` fails that shard."""
    path = folder / "a.db"
    path.unlink()
    if kind == "empty":
        path.touch()
    elif kind == "database":
        sql(path, "CREATE TABLE t (n)", "DROP TABLE t")
    else:
        path.with_name(f"a.db-{kind}").write_bytes(b"not nothing")
    assert main(["verify", str(folder)]) == 1
    assert str(path) in capsys.readouterr().err
    assert main(["query", str(folder), "b", "text", "3"]) == 0
    assert str(path) in capsys.readouterr().err
    assert main(["backfill", str(folder), "--model", "hashing", "--no-metrics"]) == 1
    assert str(path) in capsys.readouterr().out
