"""Promises when a file cannot be worked on: one clear sentence, of the right kind, and nothing lost."""

from __future__ import annotations

import errno
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.shards.accounts import account
from helix_crawl_otel.shards.errors import (
    NotAShard,
    ShardCorrupt,
    ShardLocked,
    StoreError,
    StoreFull,
    StoreReadOnly,
    store_errors,
)
from helix_crawl_otel.shards.genes import SourceMark
from helix_crawl_otel.shards.inspect import salvage
from helix_crawl_otel.shards.sources import SourceTable
from helix_crawl_otel.shards.store import ShardStore
from tests.shards.shards import IDENTITY, VECTOR, encode_all, every_pending, made, opened, rows


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A few hundred genes, opened once."""
    path = made(tmp_path / "a.db", [f"{n:03}" for n in range(300)])
    opened(path, 1).close()
    return path


@pytest.fixture
def lock(shard: Path) -> Iterator[sqlite3.Connection]:
    """Another program that has the file for itself."""
    with closing(sqlite3.connect(shard, isolation_level=None)) as connection:
        yield connection


def test_a_locked_file_is_named_after_the_wait(shard: Path, lock: sqlite3.Connection) -> None:
    """Opening waits as long as it was told to, no longer; the message says what to do."""
    lock.execute("BEGIN EXCLUSIVE")
    waits: list[float] = []
    while not waits or (waits[-1] > 5 and len(waits) < 5):  # once more where the machine was elsewhere
        began = time.monotonic()
        with pytest.raises(ShardLocked, match="close what has it open"):
            opened(shard, 2, lock_seconds=0.2)
        waits.append(time.monotonic() - began)
    assert 0.15 < waits[-1] < 5


def test_a_file_that_is_locked_while_it_is_new_is_named(tmp_path: Path) -> None:
    """Before it is in WAL mode a lock keeps readers out too."""
    path = made(tmp_path / "a.db", "ab")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ShardLocked):
            opened(path)
        other.execute("COMMIT")
    opened(path).close()


def test_a_lock_in_the_middle_loses_nothing(shard: Path, lock: sqlite3.Connection) -> None:
    """Reads go on, a write fails whole, and the same write works when the lock is gone."""
    with opened(shard, 2) as store:
        batch = [(gene, VECTOR) for gene in store.pending(None, 10)]
        lock.execute("BEGIN EXCLUSIVE")
        assert store.pending_count() == 300
        with pytest.raises(ShardLocked):
            store.commit(batch)
        lock.execute("ROLLBACK")
        assert store.commit(batch) == 10


def test_a_reader_is_in_nobodys_way(shard: Path, lock: sqlite3.Connection) -> None:
    """The app may look at the shard while it is being encoded."""
    lock.execute("BEGIN")
    before = lock.execute("SELECT count(*) FROM genes").fetchone()
    with opened(shard, 2) as store:
        assert encode_all(store) == 300
    assert lock.execute("SELECT count(*) FROM genes").fetchone() == before


def no_room(store: ShardStore) -> None:
    """The file may not grow by a page."""
    (pages,) = store.read("PRAGMA page_count")[0]
    store.read(f"PRAGMA max_page_count = {pages}")


def test_a_full_disk_loses_no_more_than_the_batch(shard: Path) -> None:
    """The batch is undone whole; when there is room again the same store goes on."""
    with opened(shard, 2) as store:
        store.claim(IDENTITY)
        store.commit([(gene, VECTOR) for gene in store.pending(None, 10)])
        no_room(store)
        batch = [(gene, b"\1" * 4096) for gene in store.pending(None, 100)]
        with pytest.raises(StoreFull, match="nothing is lost"):
            store.commit(batch)
        assert rows(shard, "SELECT count(*) FROM genes WHERE embedding_dense_v2 IS NOT NULL") == [(10,)]
        store.read("PRAGMA max_page_count = 100000")
        assert store.commit([(gene, VECTOR) for gene, _ in batch]) == 100
    assert account(shard).vectors == 110


def test_a_full_disk_in_an_ingest_undoes_the_source(shard: Path) -> None:
    """A source is there whole or not at all, and is not marked as taken in."""
    with opened(shard, 2) as store:
        no_room(store)
        passages = [f"new {n}" + "x" * 1000 for n in range(100)]
        table = SourceTable(store)
        with pytest.raises(StoreFull):
            table.put([("s", SourceMark(1, 2, "d", 0), passages)])
        assert table.marks() == {}
        assert store.pending_count() == 300


def test_the_system_says_that_the_disk_is_full() -> None:
    """Not every full disk comes from SQLite."""
    with pytest.raises(StoreFull), store_errors(Path("a.db")):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StoreReadOnly, match="Permission denied"), store_errors(Path("a.db")):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_file_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """`backfill` works on what is there: an empty file in its place would hide the loss."""
    path = tmp_path / "a.db"
    for use in (opened, salvage, account):
        with pytest.raises(StoreError, match="not there"):
            use(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("create", [True, False])
def test_a_folder_in_the_place_of_a_file(tmp_path: Path, create: bool) -> None:
    """It cannot be opened, and stays."""
    path = tmp_path / "a.db"
    path.mkdir()
    with pytest.raises((NotAShard, StoreReadOnly)):
        opened(path, create=create)
    assert path.is_dir()


def test_a_file_whose_folder_is_gone(tmp_path: Path) -> None:
    """An output on a drive that was unplugged."""
    with pytest.raises(StoreReadOnly, match="check the rights"):
        opened(tmp_path / "gone" / "a.db", create=True)


def test_a_connection_that_may_not_write(shard: Path) -> None:
    """A file system that has become read-only in the middle of a run."""
    with opened(shard, 2) as store:
        store.read("PRAGMA query_only = 1")
        with pytest.raises(StoreReadOnly, match="cannot be written"):
            store.quarantine("a", "b")
        assert len(every_pending(store)) == 300


def garbage(path: Path) -> None:
    """Not a database at all."""
    path.write_bytes(bytes(range(256)) * 64)


def truncated(path: Path) -> None:
    """The end is missing, as after a crash of a system that had not written it."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    """All but the first page is noise."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))


@pytest.mark.parametrize("damage", [garbage, truncated, overwritten])
def test_damage_is_told_from_everything_else(shard: Path, damage: Callable[[Path], None]) -> None:
    """A corrupt shard is set aside and built again, so nothing else may look like one, and no damage like anything."""
    damage(shard)
    with pytest.raises(ShardCorrupt, match="is damaged"):
        account(shard)
    with pytest.raises(ShardCorrupt, match="is damaged"), opened(shard, 2) as store:
        encode_all(store)


def test_an_empty_file_is_no_shard_and_can_be_built_into(tmp_path: Path) -> None:
    """What a worker leaves that was killed between making the file and making the table."""
    path = tmp_path / "a.db"
    path.touch()
    for use in (salvage, opened):
        with pytest.raises(NotAShard):
            use(path)
    opened(path, create=True).close()
    assert salvage(path).is_complete
