"""Promises of how a file that SQLite calls damaged is judged: by its integrity check, and by whose it is."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.shards.damage import Condition, condition, is_ours, judge, set_aside
from helix_crawl_otel.shards.errors import CannotSetAside, ShardCorrupt
from helix_crawl_otel.shards.inspect import reading
from helix_crawl_otel.shards.schema import TREE_NOTE
from tests.shards.damages import all_but_the_first_page, half, header, noise, page
from tests.shards.shards import IDENTITY, encode_all, made, opened, rows, sql

MANY = [f"{n:04}" for n in range(2000)]

ERROR = ShardCorrupt("a.db is damaged (database disk image is malformed)")


def built(path: Path) -> Path:
    """A shard as `build` makes it."""
    with opened(path, create=True) as store:
        store.claim(IDENTITY)
        with store.writing() as connection:
            store.set_meta(TREE_NOTE, ["tree", "a"])
            connection.executemany("INSERT INTO genes (gene_id, content) VALUES (?, ?)", [(n, n * 20) for n in MANY])
        encode_all(store)
    return path


DAMAGES = [page, header, half, all_but_the_first_page]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_of_ours_may_be_set_aside_by_build_alone(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """`backfill` cannot make it again: it says how to save it, and that it is where it was."""
    path = built(tmp_path / "a.db")
    assert condition(path, None) is Condition.WHOLE
    assert not judge(ERROR, path, is_built=True).may_set_aside
    damage(path)
    assert condition(path, None) is Condition.DAMAGED
    assert judge(ERROR, path, is_built=True).may_set_aside
    found = judge(ERROR, path, is_built=False)
    assert not found.may_set_aside
    for words in ("is damaged", "left where it is", "PRAGMA integrity_check", "sqlite3 a.db .recover"):
        assert words in found.reason


def bare(path: Path) -> None:
    """The app's, with nothing but what we would have made."""
    made(path, MANY)


def with_columns(path: Path) -> None:
    """The app's, with columns of its own."""
    made(path, MANY, "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, tier INTEGER)")


def with_ours(path: Path) -> None:
    """The app's, with vectors of ours, and later sources."""
    made(path, MANY)
    with opened(path) as store, store.writing():
        store.set_meta(TREE_NOTE, ["tree", "a"])


def with_vectors_of_an_older_version(path: Path) -> None:
    """The app's, encoded by a version that left no note of whose it is."""
    made(path, MANY)
    with opened(path) as store:
        store.claim(IDENTITY)
    sql(path, "DELETE FROM helix_crawl_meta WHERE key = 'of the app'")


def with_a_trigger(path: Path) -> None:
    """Ours, to which somebody has added something."""
    sql(built(path), "CREATE TRIGGER t AFTER DELETE ON genes BEGIN SELECT 1; END")


@pytest.mark.parametrize("make", [bare, with_columns, with_ours, with_vectors_of_an_older_version, with_a_trigger])
@pytest.mark.parametrize("damage", [page, half, all_but_the_first_page])
def test_somebody_elses_file_is_never_set_aside(
    tmp_path: Path, make: Callable[[Path], None], damage: Callable[[Path], None]
) -> None:
    """Not by `build` either, into whose folder it has come, and not once it has tables of ours."""
    path = tmp_path / "a.db"
    make(path)
    damage(path)
    assert condition(path, None) is Condition.DAMAGED
    assert not is_ours(path)
    found = judge(ERROR, path, is_built=True)
    assert not found.may_set_aside
    assert "left where it is" in found.reason


def test_the_first_page_tells_whose_a_file_without_a_header_is(tmp_path: Path) -> None:
    """What is left of the schema names its tables; where nothing is left nobody knows."""
    path = built(tmp_path / "a.db")
    header(path)
    assert is_ours(path)
    for leave in (
        lambda: sql(path, "CREATE TABLE genes (gene_id)"),
        lambda: noise(path),
        lambda: path.write_bytes(b"\0" * 8192),
    ):
        path.unlink()
        leave()
        assert not is_ours(path)
    found = judge(ERROR, path, is_built=True)
    assert not found.may_set_aside
    assert "left where it is, for nothing in it says that `build` has made it" in found.reason


def test_a_schema_of_a_later_version_is_no_damage_of_ours(tmp_path: Path) -> None:
    """SQLite calls it malformed, also in its integrity check; what it cannot read was made by somebody else."""
    path = built(tmp_path / "a.db")
    later = "INSERT INTO sqlite_master VALUES ('table', 'later', 'later', 2, 'CREATE TABLE later (a) IN FUTURE')"
    sql(path, "PRAGMA writable_schema = ON", later)
    with pytest.raises(ShardCorrupt, match="malformed database schema") as caught, reading(path):
        pass
    assert not judge(caught.value, path, is_built=True).may_set_aside


@pytest.mark.parametrize("external", [True, False])
def test_a_text_index_out_of_step_is_no_damage(tmp_path: Path, external: bool) -> None:
    """Newer versions of SQLite have virtual tables checked as well: what those say is of no page of the file."""
    path = built(tmp_path / "a.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        try:
            content = ", content = genes" if external else ""
            connection.execute(f"CREATE VIRTUAL TABLE words USING fts5 (content{content})")
        except sqlite3.OperationalError:
            pytest.skip("this SQLite has no FTS5")
        connection.execute("INSERT INTO words (rowid, content) VALUES (1, 'other words')")
        if not external:
            connection.execute("UPDATE words_content SET c0 = 'not these'")
    assert condition(path, None) is Condition.WHOLE
    found = judge(ERROR, path, is_built=True)
    assert not found.may_set_aside
    assert "is not damaged" in found.reason


def test_a_row_that_breaks_a_check_is_no_damage(tmp_path: Path) -> None:
    """The application's rule, and its affair."""
    table = "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT CHECK (content <> 'bad'))"
    path = made(tmp_path / "a.db", "ab", table)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute("UPDATE genes SET content = 'bad'")
    assert condition(path, None) is Condition.WHOLE


def test_what_cannot_be_checked_is_left(tmp_path: Path) -> None:
    """Another program has it for itself: no judgement, and so no renaming."""
    path = built(tmp_path / "a.db")
    sql(path, "PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert condition(path, None, 0.05) is Condition.UNKNOWN
        found = judge(ERROR, path, is_built=True, lock_seconds=0.05)
    assert not found.may_set_aside
    assert "could not be finished" in found.reason


def test_a_check_of_somebody_elses_file_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    """While it is read the application may have to wait."""
    path = built(tmp_path / "a.db")
    assert condition(path, 60.0) is Condition.WHOLE
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)"
        connection.execute(f"INSERT INTO genes (gene_id, content) {fill} SELECT 'x' || i, hex(zeroblob(2000)) FROM n")
    assert condition(path, 0.0) is Condition.UNKNOWN


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT count(*) FROM genes").fetchone()
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a file that is open cannot be renamed")
def test_a_file_that_another_program_has_open_is_not_set_aside(tmp_path: Path) -> None:
    """It would go on in the renamed file; once it has ended the file can be."""
    path = built(tmp_path / "a.db")
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        page(path)
        with pytest.raises(CannotSetAside, match=r"another program has it open.*close what has it open"):
            set_aside(path)
        assert path.exists()
        holder.communicate(timeout=60)
    assert set_aside(path) == tmp_path / "a.db.corrupt-1"


def test_a_journal_goes_with_its_file(tmp_path: Path) -> None:
    """SQLite would roll the new file back with it."""
    path = built(tmp_path / "a.db")
    journal = tmp_path / "a.db-journal"
    journal.write_text("half of a transaction")
    set_aside(path)
    assert not journal.exists()
    assert (tmp_path / "a.db.corrupt-1-journal").read_text() == "half of a transaction"


@pytest.mark.skipif(sys.platform == "win32", reason="a link needs a right there that few have")
def test_of_a_link_the_file_is_set_aside(tmp_path: Path) -> None:
    """With what lies beside that; the new one is made where the link points."""
    (tmp_path / "big").mkdir()
    target = built(tmp_path / "big" / "b.db")
    link = tmp_path / "a.db"
    link.symlink_to(target)
    (tmp_path / "big" / "b.db-wal").write_bytes(b"a log")
    kept = set_aside(link)
    assert kept.samefile(tmp_path / "big" / "b.db.corrupt-1")
    assert (tmp_path / "big" / "b.db.corrupt-1-wal").read_bytes() == b"a log"
    opened(link, 2, create=True).close()
    assert link.is_symlink()
    assert rows(target, "SELECT count(*) FROM genes") == [(0,)]
