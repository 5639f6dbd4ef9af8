"""Workers and shards as the gauges show them, with several slots and after crashes."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import cast

from helix_crawl_otel.otel.gauges import ExportedMetrics, GaugeState, Snapshot
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.otel.policy_reader import LockedPolicy
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import UNKNOWN_DEVICE
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings


class Board(GaugeState):
    """Told of shards together with the policy, as the pipeline does it."""

    def __init__(self) -> None:
        super().__init__(LockedPolicy(Policy(Settings())))

    def open(self, shard: str, device: str) -> None:
        """A worker begins a shard."""
        self._feed.tell(lambda policy: policy.open_shard(0.0, shard, "w", device))
        self.open_shard(shard)

    def close(self, shard: str, state: str) -> None:
        """A worker leaves it."""
        was_open = self._feed.ask(lambda policy: shard in policy.open_shards())
        self._feed.tell(lambda policy: policy.close_shard(0.0, shard))
        self.close_shard(shard, state, was_open=was_open)


def _seen(board: GaugeState) -> Snapshot:
    return board.snapshot(0.0)


def test_a_device_is_up_while_one_of_its_workers_runs() -> None:
    """Two slots share the CPU; a worker whose driver moves to the CPU in place leaves its card."""
    board = Board()
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
    board = Board()
    board.expect_shards(["a", "b", "c"])
    board.set_shard_state("done", 5)
    board.open("a", "cpu")
    board.open("a", "cpu")
    board.close("b", "done")
    states = _seen(board).shard_states
    assert states == {"pending": 1, "running": 1, "done": 6, "paused": 0, "failed": 0}
    board.close("a", "failed")
    board.open("a", "cpu")
    board.close("a", "done")
    board.close("a", "done")
    board.open("c", "cpu")
    board.close("c", "paused")
    board.close("never heard of", "done")
    assert _seen(board).shard_states == {"pending": 0, "running": 0, "done": 7, "paused": 1, "failed": 0}


def test_genes_of_shards_that_wait_are_shown_until_each_is_begun() -> None:
    """A board that adds them up knows what is left of the whole run; one that is not counted has no series."""
    board = Board()
    board.expect_shards(["a", "b", "c"], {"a": 100, "b": 50})
    before = _seen(board)
    assert before.waiting == {"a": 100, "b": 50}
    board.set_pending("a", 120)
    board.open("a", "cpu")
    assert _seen(board).waiting == {"b": 50}
    assert _seen(board).shards["a"].pending_genes == 120
    board.close("b", "done")
    assert _seen(board).waiting == {}
    assert before.waiting == {"a": 100, "b": 50}


def test_pending_genes_are_those_told_last() -> None:
    """The worker that has the store counts them, which may be before the shard is opened, and anew by the next one."""
    board = Board()
    board.set_pending("a", 100)
    assert _seen(board).shards == {}
    board.open("a", "cuda:0")
    board.set_pending("a", 36)
    assert _seen(board).shards["a"].pending_genes == 36
    board.open("a", "cpu")
    board.set_pending("a", 100)
    assert _seen(board).shards["a"].pending_genes == 100


def test_a_device_that_is_not_known_yet_is_none_that_was_left() -> None:
    """A job under `run` says later where it encodes: then it never was anywhere else."""
    board = Board()
    board.start_worker("job", UNKNOWN_DEVICE)
    assert _seen(board).workers == {"unknown": True}
    board.start_worker("job", "cpu")
    assert _seen(board).workers == {"cpu": True}
    board.stop_worker("job")
    assert _seen(board).workers == {"cpu": False}


def test_the_throughput_of_a_hung_batch_is_what_it_can_still_come_to() -> None:
    """Before there is a baseline no slice of it is observed: the EMA stays what it was."""
    feed = LockedPolicy(Policy(Settings()))
    board = GaugeState(feed)
    feed.tell(lambda policy: policy.open_shard(0.0, "a", "w", "cpu"))
    board.open_shard("a")
    for n in range(4):
        t, info = 4.0 * n, BatchInfo(str(n), "a", "w", "cpu", 64, None)
        feed.tell(partial(Policy.start_batch, t=t, info=info))
        feed.ask(partial(Policy.finish_batch, t=t + 4.0, info=info, seconds=4.0))
    assert board.snapshot(16.0).shards["a"].rate == 16.0
    feed.tell(lambda policy: policy.start_batch(16.0, BatchInfo("last", "a", "w", "cpu", 64, None)))
    assert board.snapshot(18.0).shards["a"].rate == 16.0
    assert board.snapshot(656.0).shards["a"].rate == 0.1
    assert board.snapshot(656.0).shards["a"].status.ema == 16.0


def test_what_is_left_of_a_whole_job_has_no_shard() -> None:
    """Its user has said how many genes it has, of no shard in particular."""
    board = Board()
    assert _seen(board).pending_in_all is None
    board.set_pending_in_all(680)
    hub = SimpleNamespace(labels=None, add=None, count=lambda *_: None)
    exported = ExportedMetrics(
        cast("Instruments", hub),
        lambda: _seen(board),
        settings=Settings(),
        batch_deadline=lambda shard: None,
        batch_age=lambda _: 0.0,
        queue_length=lambda: 0,
    )
    assert list(exported.rows("helix_dense_genes_pending")) == [(680, {})]
