"""Promises of the lease: only the newest worker of a shard writes, and what an older one does leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from helix_crawl_otel.shards.errors import LeaseLost, StoreError
from helix_crawl_otel.shards.genes import PendingGene, SourceMark
from helix_crawl_otel.shards.sources import SourceTable
from helix_crawl_otel.shards.store import ShardStore
from tests.shards.shards import IDENTITY, OTHER, VECTOR, epoch_of, made, opened, rows, sql

MARK = SourceMark(1, 2, "digest", 1)
WRITES: dict[str, Callable[[ShardStore], object]] = {
    "commit": lambda store: store.commit([(PendingGene(1, "a", "text of a"), VECTOR)]),
    "quarantine": lambda store: store.quarantine("a", "because"),
    "retry_quarantined": lambda store: store.retry_quarantined(),
    "claim": lambda store: store.claim(IDENTITY),
    "reencode": lambda store: store.claim(OTHER, reencode=True),
    "note_session": lambda store: store.note_session("cpu", {}, 1, 64),
    "put": lambda store: SourceTable(store).put([("s", MARK, ["text"])]),
    "touch": lambda store: SourceTable(store).touch([("s", MARK)]),
    "drop": lambda store: SourceTable(store).drop(["s"]),
    "keep": lambda store: store.keep("fingerprint", "x"),
}
TABLES = ("genes", "helix_crawl_meta", "helix_crawl_quarantine", "helix_crawl_sources", "helix_crawl_sessions")


def everything(path: Path) -> list[list[tuple[object, ...]]]:
    """All rows of a shard."""
    return [rows(path, f"SELECT * FROM {table} ORDER BY 1") for table in TABLES]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_worker_that_was_replaced_writes_nothing(tmp_path: Path, write: Callable[[ShardStore], object]) -> None:
    """It wakes up, is told, and not a row has changed; the newer one goes on."""
    path = made(tmp_path / "a.db", "ab")
    sql(path, "ALTER TABLE genes ADD COLUMN source_id TEXT", "UPDATE genes SET source_id = 's' WHERE gene_id = 'b'")
    with opened(path, 1) as older, opened(path, 2) as newer:
        newer.quarantine("b", "too long")
        before = everything(path)
        with pytest.raises(LeaseLost, match="another worker"):
            write(older)
        assert everything(path) == before
        write(newer)


@pytest.mark.parametrize("epoch", [3, 2, 1, 0, -1])
def test_a_lease_that_is_not_higher_is_refused(tmp_path: Path, epoch: int) -> None:
    """Also the same one again: two workers may not share it."""
    path = made(tmp_path / "a.db", "ab")
    opened(path, 3).close()
    with pytest.raises(LeaseLost, match=f"lease 3, not {epoch}"):
        opened(path, epoch)
    assert epoch_of(path) == 3


def test_the_newest_lease_can_be_read_without_taking_one(tmp_path: Path) -> None:
    """The supervisor looks before it gives out the next."""
    path = tmp_path / "a.db"
    assert epoch_of(path) == 0
    made(path, "ab")
    assert epoch_of(path) == 0
    opened(path, 7).close()
    assert epoch_of(path) == 7


def test_what_is_raised_in_a_transaction_undoes_it(tmp_path: Path) -> None:
    """Half a batch is never there; the store goes on working."""
    path = made(tmp_path / "a.db", "ab")
    with opened(path) as store:

        def interrupted() -> None:
            with store.writing() as connection:
                connection.execute("DELETE FROM genes")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert store.pending_count() == 2
        store.quarantine("a", "because")
        assert store.pending_count() == 1


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """As an error for people; closing twice is no error."""
    store = opened(made(tmp_path / "a.db", "ab"))
    store.close()
    store.close()
    for use in (store.pending_count, store.identity, store.made_with, lambda: store.quarantine("a", "b")):
        with pytest.raises(StoreError, match="closed"):
            use()
