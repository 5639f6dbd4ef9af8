"""Workers and shards as the gauges show them, with several slots and after crashes."""

from __future__ import annotations

from helix_crawl_otel.otel.gauges import GaugeState, Snapshot
from helix_crawl_otel.otel.policy_reader import LockedPolicy
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings


def _seen(board: GaugeState) -> Snapshot:
    return board.snapshot(LockedPolicy(Policy(Settings())), 0.0)


def test_a_device_is_up_while_one_of_its_workers_runs() -> None:
    """Two slots share the CPU; a worker whose driver moves to the CPU in place leaves its card."""
    board = GaugeState()
    board.start_worker("cpu#1", "cpu")
    board.start_worker("cpu#2", "cpu")
    board.stop_worker("cpu#1")
    assert _seen(board).workers == {"cpu": True}
    board.stop_worker("cpu#2")
    assert _seen(board).workers == {"cpu": False}
    board.start_worker("job", "cuda:0")
    board.start_worker("job", "cpu")
    assert _seen(board).workers == {"cpu": True, "cuda:0": False}


def test_every_shard_is_counted_in_one_state() -> None:
    """From pending to done, also one that was never opened, one that failed and came back, and one left by a crash."""
    board = GaugeState()
    board.expect_shards(["a", "b", "c"])
    board.set_shard_state("done", 5)
    board.open_shard("a", "cpu", None)
    board.open_shard("a", "cpu", None)
    board.close_shard("b", "done")
    states = _seen(board).shard_states
    assert states == {"pending": 1, "running": 1, "done": 6, "paused": 0, "failed": 0}
    board.close_shard("a", "failed")
    board.open_shard("a", "cpu", None)
    board.close_shard("a", "done")
    board.close_shard("a", "done")
    board.open_shard("c", "cpu", None)
    board.close_shard("c", "paused")
    assert _seen(board).shard_states == {"pending": 0, "running": 0, "done": 7, "paused": 1, "failed": 0}


def test_pending_genes_are_those_told_before_and_fall_with_each_batch() -> None:
    """The count may come before the shard is opened, and anew by the next worker."""
    board = GaugeState()
    board.set_pending("a", 100)
    assert _seen(board).shards == {}
    board.open_shard("a", "cuda:0", None)
    board.encoded("a", 64)
    assert _seen(board).shards["a"].pending_genes == 36
    board.open_shard("a", "cpu", None)
    board.set_pending("a", 100)
    assert _seen(board).shards["a"].pending_genes == 100
