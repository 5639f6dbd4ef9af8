"""Promises of `backfill` where an application's file does not take a vector: it stays what and where it is.

Whether its own trigger refuses, its text index is out of step or the file is damaged: one sentence, the other shards
are done, and the application's next connection finds its rows.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.build.rig import COMMAND, Rig
from tests.commands.app import hashed, vectors_of
from tests.shards.damages import half, header, noise, page, root_of
from tests.shards.shards import rows, sql

GENES = {f"g{n:03}": f"Passage number {n} is about {'keys' if n % 2 else 'lunch'}." for n in range(150)}

TABLE = "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT NOT NULL, meta TEXT, embedding_dense_v2 BLOB)"


def write(path: Path, *statements: str) -> Path:
    """A file of the application's, with something of its own in it."""
    sql(path, TABLE)
    with closing(sqlite3.connect(path)) as connection, connection:
        values = [(name, text, '{"tier": 1}') for name, text in GENES.items()]
        connection.executemany("INSERT INTO genes (gene_id, content, meta) VALUES (?, ?, ?)", values)
    sql(path, *statements)
    return path


def digest_of_the_app(path: Path) -> str:
    """Of every row of every table that is not ours, without what we add to them, as the application reads it."""
    digest = hashlib.sha256()
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        for kind, name, text in found:
            if name.startswith(("helix_crawl_", "sqlite_")):
                continue
            digest.update(repr((kind, name, text if name != "genes" else "")).encode())
            if kind == "table":
                columns = "gene_id, content, meta" if name == "genes" else "*"
                digest.update(repr(connection.execute(f'SELECT {columns} FROM "{name}"').fetchall()).encode())
    return digest.hexdigest()


JSON = (
    "UPDATE genes SET meta = '' WHERE gene_id = 'g120'",
    "CREATE TABLE tiers (gene_id TEXT, tier)",
    "CREATE TRIGGER t AFTER UPDATE ON genes BEGIN"
    " INSERT INTO tiers VALUES (new.gene_id, json_extract(new.meta, '$.tier')); END",
)
TEXT_INDEX = (
    "CREATE VIRTUAL TABLE words USING fts5 (content, content = genes)",
    "CREATE TRIGGER t AFTER UPDATE ON genes BEGIN"
    " INSERT INTO words (words, rowid, content) VALUES ('delete', old.rowid, old.content);"
    " INSERT INTO words (rowid, content) VALUES (new.rowid, new.content); END",
)
NO_TABLE = ("CREATE TRIGGER t AFTER UPDATE ON genes BEGIN INSERT INTO malformed_locked_full_readonly VALUES (1); END",)
CHECK = (
    'CREATE TABLE sizes (malformed_bytes INTEGER CONSTRAINT "database disk image is malformed"'
    " CHECK (malformed_bytes < 10))",
    "CREATE TRIGGER t AFTER UPDATE ON genes BEGIN INSERT INTO sizes VALUES (length(new.embedding_dense_v2)); END",
)


def raising(text: str, kind: str = "ABORT") -> tuple[str, ...]:
    """A trigger that refuses one gene."""
    return (
        f"CREATE TRIGGER t BEFORE UPDATE ON genes WHEN new.gene_id = 'g120' BEGIN SELECT RAISE({kind}, '{text}'); END",
    )


REFUSALS = {
    "json": (JSON, "malformed JSON"),
    "text index": (TEXT_INDEX, "malformed"),
    "no table": (NO_TABLE, "malformed_locked_full_readonly"),
    "check": (CHECK, "database disk image is malformed"),
    "malformed": (raising("database disk image is malformed"), "database disk image is malformed"),
    "full": (raising("database or disk is full"), "database or disk is full"),
    "locked": (raising("database is locked", "ROLLBACK"), "database is locked"),
    "no database": (raising("file is not a database", "FAIL"), "file is not a database"),
    "escape": (raising("no\x1b[2J\nway"), "no\\x1b[2J\\nway"),
}


ALIKE = ("full", "malformed", "no database")
"""Sentences that differ in their words alone: `shards/test_codes.py` has each of them judged without a run."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in REFUSALS]
)
def test_what_the_application_refuses_leaves_its_file_as_it_is(rig: Rig, name: str) -> None:
    """Named with SQLite's own sentence; nothing is renamed, and not a row of the application's is another."""
    statements, said = REFUSALS[name]
    folder = rig.folder / "genomes"
    folder.mkdir()
    try:
        path = write(folder / "app.db", *statements)
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no FTS5")
    good = [write(folder / "a.db"), write(folder / "z.db")]
    before, inode = digest_of_the_app(path), path.stat().st_ino
    for _ in range(2):
        done = rig.run([*COMMAND, "backfill", str(folder), *rig.options, "--json"])
        assert done.code == 1, done.errors
        assert list(done.summary["failed"]) == ["app"]
        sentence = done.summary["failed"]["app"]
        assert str(path) in sentence
        assert said in sentence
        assert "the file was not changed" in sentence
        assert "is damaged" not in sentence
        assert path.stat().st_ino == inode
        assert sorted(item.name for item in folder.glob("*.db*")) == ["a.db", "app.db", "z.db"]
    assert [vectors_of(one) for one in good] == [hashed(GENES)] * 2
    assert before == _without_what_triggers_wrote(path, before)
    assert rows(path, "SELECT count(*) FROM genes") == [(len(GENES),)]
    sql(path, "DROP TRIGGER t")
    again = rig.run([*COMMAND, "backfill", str(folder), *rig.options, "--json"])
    assert again.code == 0, again.errors
    assert vectors_of(path) == hashed(GENES)


def test_a_vector_that_a_trigger_keeps_out_without_a_word_is_told(rig: Rig) -> None:
    """The row is passed over, or its vector taken away again: the shard has failed, the other genes have theirs."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    ignored = "CREATE TRIGGER t BEFORE UPDATE ON genes WHEN new.gene_id = 'g120' BEGIN SELECT RAISE(IGNORE); END"
    undone = (
        "CREATE TRIGGER t AFTER UPDATE ON genes WHEN new.gene_id >= 'g120' AND new.embedding_dense_v2 IS NOT NULL"
        " BEGIN UPDATE genes SET embedding_dense_v2 = NULL WHERE gene_id = new.gene_id; END"
    )
    write(folder / "ignored.db", ignored)
    write(folder / "undone.db", undone)
    done = rig.run([*COMMAND, "backfill", str(folder), *rig.options, "--json"])
    assert (done.code, done.summary["encoded"]) == (1, 149 + 120)
    failed = done.summary["failed"]
    for name, genes in (("ignored", "1 gene"), ("undone", "30 genes")):
        assert (
            f"{name}.db keeps no vector of {genes}, the first of them 'g120', and SQLite says nothing" in failed[name]
        )
        assert "a trigger that the application has put on its table `genes` undoes it" in failed[name]
    sql(folder / "ignored.db", "DROP TRIGGER t")
    sql(folder / "undone.db", "DROP TRIGGER t")
    assert rig.run([*COMMAND, "backfill", str(folder), *rig.options, "--json"]).code == 0


def _without_what_triggers_wrote(path: Path, before: str) -> str:
    """The digest; batches before the one that was refused were committed, and the triggers heard of those."""
    committed = sum(vector is not None for vector in vectors_of(path).values())
    if committed and rows(path, "SELECT 1 FROM sqlite_master WHERE name = 'tiers'"):
        assert rows(path, "SELECT count(*) FROM tiers") == [(committed,)]
        sql(path, "DELETE FROM tiers")
    return digest_of_the_app(path)


def of_an_index(path: Path) -> None:
    """Nobody meets it before the first vector is written."""
    sql(path, "CREATE INDEX by_vector ON genes (length(embedding_dense_v2), meta)")
    root_of(path, "by_vector")


@pytest.mark.parametrize("damage", [page, header, half, noise, of_an_index])
def test_a_damaged_file_is_left_where_it_is(rig: Rig, damage: Callable[[Path], None]) -> None:
    """The sentence says so, and how to save what can be read; each time, and with the others done."""
    folder = rig.folder / "genomes"
    folder.mkdir()
    path, good = write(folder / "app.db"), write(folder / "good.db")
    damage(path)
    content, inode = path.read_bytes(), path.stat().st_ino
    for _ in range(2):
        done = rig.run([*COMMAND, "backfill", str(folder), *rig.options, "--json"])
        assert done.code == 1, done.errors
        sentence = done.summary["failed"]["app"]
        for words in (f"{path} is damaged (", "left where it is", "PRAGMA integrity_check", ".recover"):
            assert words in sentence
        assert path.stat().st_ino == inode
        assert sorted(item.name for item in folder.glob("*.db*")) == ["app.db", "good.db"]
        assert damage is of_an_index or path.read_bytes() == content  # that one is opened to be written
    assert vectors_of(good) == hashed(GENES)
