"""Promises of how SQLite's errors are read: by code, never by words that an application may have written."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.shards import errors
from helix_crawl_otel.shards.errors import (
    DiskTrouble,
    NoLocks,
    ShardCorrupt,
    ShardLocked,
    StoreError,
    StoreFull,
    StoreReadOnly,
    error_code,
    store_errors,
)
from helix_crawl_otel.shards.schema import connect
from tests.shards.shards import made, sql

MISLEADING = (
    "database disk image is malformed",
    "file is not a database",
    "database or disk is full",
    "database is locked",
    "attempt to write a readonly database",
    "unable to open database file",
    "disk I/O error",
)


def raised(path: Path, *statements: str) -> sqlite3.Error:
    """The error of the last statement."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(statements[-1]).fetchall()
    return caught.value


def without_code(error: sqlite3.Error) -> sqlite3.Error:
    """As Python 3.10 raises it."""
    return type(error)(*error.args)


def translated(error: sqlite3.Error) -> StoreError:
    """What becomes of it."""
    with pytest.raises(StoreError) as caught, store_errors(Path("a.db")):
        raise error
    return caught.value


def coded(code: int, text: str = "words that say nothing") -> sqlite3.Error:
    """An error of this code."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, StoreReadOnly),
        (5, ShardLocked),
        (261, ShardLocked),  # BUSY_RECOVERY
        (517, ShardLocked),  # BUSY_SNAPSHOT
        (6, ShardLocked),
        (262, ShardLocked),  # LOCKED_SHAREDCACHE
        (15, NoLocks),
        (2058, NoLocks),  # IOERR_UNLOCK
        (2314, NoLocks),  # IOERR_RDLOCK
        (3594, NoLocks),  # IOERR_CHECKRESERVEDLOCK
        (3850, NoLocks),  # IOERR_LOCK
        (4618, NoLocks),  # IOERR_SHMOPEN
        (5130, NoLocks),  # IOERR_SHMLOCK
        (8, StoreReadOnly),
        (776, StoreReadOnly),  # READONLY_ROLLBACK
        (1544, StoreReadOnly),  # READONLY_DIRECTORY
        (14, StoreReadOnly),
        (526, StoreReadOnly),  # CANTOPEN_ISDIR
        (13, StoreFull),
        (10, StoreFull),  # nobody knows more of it
        (778, StoreFull),  # IOERR_WRITE
        (4874, StoreFull),  # IOERR_SHMSIZE
        (266, DiskTrouble),  # IOERR_READ
        (8458, DiskTrouble),  # IOERR_CORRUPTFS
        (11, ShardCorrupt),
        (523, ShardCorrupt),  # CORRUPT_SEQUENCE
        (779, ShardCorrupt),  # CORRUPT_INDEX
        (26, ShardCorrupt),
        (267, StoreError),  # CORRUPT_VTAB
        (1, StoreError),
        (1811, StoreError),  # CONSTRAINT_TRIGGER
        (275, StoreError),  # CONSTRAINT_CHECK
        (7, StoreError),
        (9, StoreError),
        (23, StoreError),
    ],
)
@pytest.mark.parametrize("text", ["words that say nothing", *MISLEADING])
def test_the_code_decides_whatever_the_words(code: int, kind: type[StoreError], text: str) -> None:
    """Each code has one meaning, with what it says more, and no sentence of another takes it away."""
    error = coded(code, text)
    assert error_code(error) == code
    assert type(translated(error)) is kind


def locked(path: Path) -> sqlite3.Error:
    """Somebody else has it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        return raised(path, "UPDATE genes SET content = ''")


def busy_with_itself(path: Path) -> sqlite3.Error:
    """A table that is being read is to go."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        reading = connection.execute("SELECT * FROM genes")
        reading.fetchone()
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute("DROP TABLE genes")
        reading.close()
    return caught.value


def full(path: Path) -> sqlite3.Error:
    """It may not grow."""
    return raised(path, "PRAGMA max_page_count = 1", "INSERT INTO genes VALUES ('x', zeroblob(100000))")


def read_only(path: Path) -> sqlite3.Error:
    """It may not be written."""
    return raised(path, "PRAGMA query_only = 1", "DELETE FROM genes")


def not_there(path: Path) -> sqlite3.Error:
    """It cannot be opened."""
    with pytest.raises(sqlite3.Error) as caught:
        sqlite3.connect(path / "below" / "it.db")
    return caught.value


def noise(path: Path) -> sqlite3.Error:
    """No database, or an encrypted one."""
    path.write_bytes(os.urandom(8192))
    return raised(path, "SELECT * FROM genes")


def cut_short(path: Path) -> sqlite3.Error:
    """Its end is missing."""
    path.write_bytes(path.read_bytes()[:4096])
    return raised(path, "SELECT * FROM genes")


def of_a_later_version(path: Path) -> sqlite3.Error:
    """A table that this SQLite does not understand."""
    later = "INSERT INTO sqlite_master VALUES ('table', 'later', 'later', 2, 'CREATE TABLE later (a) IN FUTURE')"
    sql(path, "PRAGMA writable_schema = ON", later)
    return raised(path, "SELECT * FROM genes")


REAL = {
    locked: ShardLocked,
    busy_with_itself: ShardLocked,
    full: StoreFull,
    read_only: StoreReadOnly,
    not_there: StoreReadOnly,
    noise: ShardCorrupt,
    cut_short: ShardCorrupt,
    of_a_later_version: ShardCorrupt,
}


@pytest.mark.parametrize(("make", "kind"), REAL.items(), ids=lambda item: getattr(item, "__name__", ""))
def test_real_errors_also_without_their_code(
    tmp_path: Path, make: Callable[[Path], sqlite3.Error], kind: type[StoreError]
) -> None:
    """Python 3.10 tells no code: class and sentence, letter by letter, come to the same."""
    error = make(made(tmp_path / "a.db", [f"{n:03}" for n in range(500)]))
    assert type(translated(error)) is kind
    assert type(translated(without_code(error))) is kind
    assert error_code(without_code(error)) == error_code(error) & 0xFF


@pytest.mark.parametrize("text", MISLEADING)
def test_what_an_application_says_is_nothing_of_sqlites(tmp_path: Path, text: str) -> None:
    """Triggers, CHECK constraints and names of tables may hold any words; with or without a code they are shown."""
    name = text.replace("'", "")
    path = made(tmp_path / "a.db", "ab", "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT)")
    sql(path, f"CREATE TRIGGER t BEFORE DELETE ON genes BEGIN SELECT RAISE(ABORT, '{text}'); END")
    sql(path, f'CREATE TRIGGER u BEFORE UPDATE ON genes BEGIN INSERT INTO "{name}" VALUES (1); END')
    sql(path, f'CREATE TABLE c (n CONSTRAINT "{name}" CHECK (n > 0))')
    for statement in ("DELETE FROM genes", "UPDATE genes SET content = ''", "INSERT INTO c VALUES (0)"):
        error = raised(path, statement)
        for one in (error, without_code(error)):
            found = translated(one)
            assert type(found) is StoreError
            assert text in str(found)
            assert "a.db" in str(found)
            assert "the file was not changed" in str(found)


def test_errors_of_functions_are_shown(tmp_path: Path) -> None:
    """`malformed JSON` is a row's trouble, and no file's."""
    error = raised(made(tmp_path / "a.db", {"a": ""}), "SELECT json_extract(content, '$') FROM genes")
    for one in (error, without_code(error)):
        assert type(translated(one)) is StoreError
        assert '"malformed JSON"' in str(translated(one))


def test_errors_of_the_module_have_no_code() -> None:
    """Those are raised by Python itself: whatever they quote, they are of no kind."""
    for kind in (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.Error, sqlite3.DataError):
        for text in MISLEADING:
            assert error_code(kind(text)) == 0
    quoting = sqlite3.OperationalError("Could not decode to UTF-8 column 'content' with text 'database is locked'")
    assert error_code(quoting) == 0


def test_what_is_shown_moves_no_cursor() -> None:
    """A trigger may raise anything."""
    said = str(translated(coded(1811, "no\x1b[2Jway\r\n\x07")))
    assert said.isprintable()
    assert "way" in said


def test_codes_are_those_of_sqlite() -> None:
    """Named by Python from 3.11 on."""
    if not hasattr(sqlite3, "SQLITE_CORRUPT"):
        pytest.skip("this Python names no codes of SQLite")
    names = ["ERROR", "PERM", "BUSY", "LOCKED", "READONLY", "IOERR", "CORRUPT", "FULL", "CANTOPEN", "PROTOCOL"]
    for name in [*names, "CONSTRAINT", "NOTADB", "CORRUPT_VTAB"]:
        assert getattr(errors, name) == getattr(sqlite3, f"SQLITE_{name}")


@pytest.mark.parametrize(("said", "milliseconds"), [("No locks available", 0), (None, 30_000)])
def test_nobody_waits_for_a_lock_where_there_are_none(
    said: str | None, milliseconds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes that for another program's lock, and would wait for each shard."""
    monkeypatch.setattr("helix_crawl_otel.shards.schema.lacks_locks", lambda folder: said)
    with closing(connect(made(tmp_path / "a.db", "a"), 30.0)) as connection:
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (milliseconds,)
