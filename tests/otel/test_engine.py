"""The pipeline as a supervisor uses it: pending genes, forced decisions, and the thread that carries decisions out."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from helix_crawl_otel.otel.dispatch import Dispatcher
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.gauges import ExportedMetrics, Snapshot
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.otel.policy_reader import LockedPolicy
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import REMEDIES, ActionKind, Decision, DecisionKind
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import DurableText, PolicyState
from tests.watch.rig import FULL, GENES, LOW, TICK, WORK, Clock, collected, make_provider, reading

_numbers = itertools.count(1)


def batch(shard: str, worker: str, batch_id: str | None = None) -> BatchInfo:
    """A batch of the usual size."""
    return BatchInfo(batch_id or str(next(_numbers)), shard, worker, "cuda:0", GENES, WORK)


class Supervisor:
    """Owns a pipeline and ends workers when it is told to."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.provider, self.reader = make_provider()
        self.forced: list[Decision] = []
        self.fraction = LOW
        self.pipeline = Pipeline(
            Settings(),
            Instruments(self.provider.get_meter("supervisor")),
            self.clock,
            can_end_worker=True,
            on_forced=self.forced.append,
        )
        self.pipeline.start_worker("w1", "cuda:0", "first", 4711)
        self.pipeline.open_shard("a", "w1", "cuda:0", REMEDIES)

    def tick(self) -> None:
        """Memory, then the clock."""
        self.pipeline.read_memory("cuda:0", reading(self.fraction), {"nvml": True})
        self.pipeline.tick()

    def batches(self, count: int, seconds: float = 4.0) -> None:
        """Healthy batches of the worker."""
        for _ in range(count):
            self.tick()
            running = self.pipeline.start_batch(batch("a", "w1"))
            self.clock.now += seconds
            self.pipeline.finish_batch(running, seconds)

    def stuck(self, seconds: float) -> None:
        """One batch that does not end."""
        self.tick()
        self.pipeline.start_batch(batch("a", "w1"))
        until = self.clock.now + seconds
        while self.clock.now < until and not self.forced:
            self.clock.now += TICK
            self.tick()


def test_pending_genes_are_those_that_the_store_counts() -> None:
    """What is encoded and not committed is pending still; where nobody counts there is no series."""
    supervisor = Supervisor()
    supervisor.batches(3)
    assert "helix_dense_genes_pending" not in collected(supervisor.reader)
    supervisor.pipeline.boundary("a", "cuda:0", 0.1, GENES, 1000, None)
    supervisor.batches(1)
    assert collected(supervisor.reader)["helix_dense_genes_pending"] == {("shard=a",): 1000}


def test_the_batches_of_a_worker_are_found_and_lost_together() -> None:
    """The policy alone knows them: by their id, by their worker, by the age of a shard's oldest."""
    supervisor = Supervisor()
    pipeline = supervisor.pipeline
    running = pipeline.start_batch(batch("a", "w1", "1/7"))
    pipeline.start_batch(batch("b", "w2"))
    supervisor.clock.now += 3.0
    pipeline.start_batch(batch("a", "w1"))
    assert pipeline.running("1/7") == running
    supervisor.tick()
    ages = collected(supervisor.reader)["helix_dense_batch_inflight"]
    assert ages == {("device=cuda:0", "shard=a"): 3.0, ("device=cuda:0", "shard=b"): 3.0}
    assert pipeline.lose_batches("w1") == 3.0
    assert (pipeline.has_batch("w1"), pipeline.has_batch("w2")) == (False, True)
    assert pipeline.running("1/7") is None
    assert pipeline.lose_batches("w1") == 0.0


def test_a_stuck_worker_is_ended_by_force_and_counted_once() -> None:
    """The overdue release becomes the shard's recycle; the new worker settles it as applied."""
    supervisor = Supervisor()
    supervisor.batches(9)
    supervisor.fraction = FULL
    supervisor.stuck(2000)
    (forced,) = supervisor.forced
    assert (forced.what, forced.kind, forced.worker) == (DecisionKind.ISSUE, ActionKind.RECYCLE, "w1")
    supervisor.pipeline.start_worker("w1", "cuda:0", "recycle", 4712)
    seen = collected(supervisor.reader)
    outcomes = {key[:2]: value for key, value in seen["helix_dense_ladder_actions"].items() if value}
    assert outcomes == {
        ("action=DETECT", "outcome=applied"): 1,
        ("action=EMPTY_CACHE", "outcome=overdue"): 1,
        ("action=RECYCLE", "outcome=applied"): 1,
    }
    assert seen["helix_dense_batch_inflight"] == {("device=cuda:0", "shard=a"): 0}
    assert seen["helix_dense_worker_starts"]["device=cuda:0", "reason=recycle"] == 1
    assert [action.kind.value for action in supervisor.pipeline.actions.drain()] == ["DETECT"]


def test_a_vetoed_recycle_ends_no_worker() -> None:
    """The hook is asked about forced actions as well."""
    supervisor = Supervisor()
    supervisor.pipeline.hooks.append(lambda action: action.kind is not ActionKind.RECYCLE)
    supervisor.batches(9)
    supervisor.fraction = FULL
    supervisor.stuck(1500)
    assert [(d.what, d.kind) for d in supervisor.forced] != [(DecisionKind.ISSUE, ActionKind.RECYCLE)]
    outcomes = collected(supervisor.reader)["helix_dense_ladder_actions"]
    assert outcomes["action=RECYCLE", "outcome=vetoed", "shard=a"] == 1


def test_a_state_that_cannot_be_saved_is_tried_again_at_the_next_tick() -> None:
    """A rung that is not on disk would be taken twice."""
    failing = [True]
    saved: list[str] = []

    def keep(state: PolicyState) -> Callable[[], None]:
        text = DurableText().of(state)

        def write() -> None:
            if failing[0]:
                raise OSError("disk full")
            saved.append(text)

        return write

    provider, reader = make_provider()
    clock = Clock()
    pipeline = Pipeline(Settings(warmup=0), Instruments(provider.get_meter("x")), clock, keep_state=keep)
    pipeline.open_shard("a", "w", "cpu", REMEDIES)
    pipeline.record_batch(BatchInfo("1", "a", "w", "cpu", 64), 4.0)
    pipeline.tick()
    assert saved == []
    failing[0] = False
    pipeline.tick()
    assert len(saved) == 1
    pipeline.tick()
    assert len(saved) == 1
    assert collected(reader)["helix_dense_internal_errors"]["where=state",] == 3


class LateBox(deque[Decision]):
    """Another thread decides something between the last look into the box and the end of the run."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[Decision] = []
        self.other_thread: Any = None

    def __bool__(self) -> bool:
        found = len(self) > 0
        if not found and self.late:
            self.append(self.late.pop())
            self.other_thread()  # finds the lock held, and leaves
        return found


def test_a_decision_that_comes_while_the_last_one_is_carried_out_is_not_left_behind() -> None:
    """The thread that decided it has gone, trusting the one that carries out."""
    provider, _ = make_provider()
    feed = LockedPolicy(Policy(Settings()))
    box = feed.decisions = LateBox()
    exported = ExportedMetrics(
        Instruments(provider.get_meter("x")),
        Snapshot,
        settings=Settings(),
        batch_deadline=lambda shard: None,
        batch_age=lambda shard: 0.0,
        queue_length=lambda: 0,
    )
    dispatcher = Dispatcher(
        feed, exported, Clock(), can_end_worker=False, on_forced=None, on_error=lambda place, error: pytest.fail(place)
    )
    box.other_thread = dispatcher.run
    for number in (1, 2):
        box.append(Decision(1.0, DecisionKind.ISSUE, "a", "cpu", "w", ActionKind.EMPTY_CACHE, number, number))
    box.late.append(box.pop())
    dispatcher.run()
    assert len(dispatcher.queue) == 2


def test_an_older_look_at_the_board_never_replaces_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is held up between looking and showing would leave the gauges wrong until the next change."""
    provider, reader = make_provider()
    pipeline = Pipeline(Settings(), Instruments(provider.get_meter("x")), Clock())
    looked, goes_on = threading.Event(), threading.Event()
    look = pipeline._gauge_state.snapshot

    def slow(now: float) -> Snapshot:
        snapshot = look(now)
        if not looked.is_set():
            looked.set()
            assert goes_on.wait(60)
        return snapshot

    monkeypatch.setattr(pipeline._gauge_state, "snapshot", slow)
    pipeline.expect_shards(["a"])
    late = threading.Thread(target=reader.get_metrics_data)
    late.start()
    assert looked.wait(50)
    pipeline.expect_shards(["b", "c"])
    newer = threading.Thread(target=lambda: pipeline._exported.snapshot)
    newer.start()
    newer.join(0.2)  # what it must not do, it would have done by then
    goes_on.set()
    late.join(50)
    newer.join(50)
    assert collected(reader)["helix_dense_shards"]["state=pending",] == 3
    pipeline.close()
