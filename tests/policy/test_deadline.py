"""Section 5: an action that a stuck batch keeps from its boundary has 4 slices, and at least 30 s; it has no time
where the batch is expected to run for more than 30 s still.
"""

from __future__ import annotations

import math

import pytest

from helix_crawl_otel.policy.baseline import Baseline
from helix_crawl_otel.policy.batch import HANG_SECONDS, Batch, BatchInfo
from helix_crawl_otel.policy.model import DecisionKind, Outcome
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import (
    DEMOTE_CPU,
    DETECT,
    EMPTY_CACHE,
    FULL,
    GENES,
    LOW,
    RATE,
    RECYCLE,
    SLICE,
    TICK,
    WORK,
    Job,
)


def stuck(settings: Settings | None = None, *, supervised: bool = True, obeys: bool = False, speed: float = 1.0) -> Job:
    """A job that crawls at 0.13 of its speed; in the first slice of the ninth batch it trips, and that does not end."""
    job = Job(settings or Settings(), can_end_worker=supervised, obeys=obeys).batches(9, speed)
    job.memory = FULL
    job.batches(8, speed=0.13 * speed).begin()
    while not job.decisions:
        job.wait(TICK)
    assert job.t - job.began <= 30.0
    return job


def endless(settings: Settings | None = None, *, supervised: bool = True) -> Job:
    """A job whose next batch, of 4 s on a healthy card, does not end; it has just tripped."""
    job = Job(settings or Settings(), can_end_worker=supervised, obeys=False).warmed()
    job.memory = FULL
    return job.stall(8 * SLICE)


def test_a_batch_that_will_run_for_long_is_ended_at_once() -> None:
    """It is 160 s old, so another 160 s are expected: the EMPTY_CACHE is overdue as it is asked for."""
    job = endless()
    detect, asked, overdue, recycle = job.decisions
    assert (detect.kind, asked.kind) == (DETECT, EMPTY_CACHE)
    assert (overdue.what, overdue.kind, overdue.action_id) == (DecisionKind.OVERDUE, EMPTY_CACHE, asked.action_id)
    assert (recycle.what, recycle.kind, recycle.rung, recycle.forced) == (DecisionKind.ISSUE, RECYCLE, 2, True)
    assert {d.t for d in job.decisions} == {job.began + 8 * SLICE}
    assert recycle.reason == "recycle the worker: a batch running for 160 s may take another 160 s"


def test_what_ends_the_worker_is_forced_at_once() -> None:
    """A RECYCLE or DEMOTE_CPU that waits for such a batch is forced itself."""
    detect, asked, overdue = endless(Settings(action="cpu")).decisions
    assert (detect.kind, asked.kind, asked.forced) == (DETECT, DEMOTE_CPU, False)
    assert (overdue.what, overdue.kind, overdue.forced) == (DecisionKind.OVERDUE, DEMOTE_CPU, True)


@pytest.mark.parametrize("settings", [Settings(action="off"), Settings(action="cpu"), Settings()])
def test_embedded_nobody_ends_it(settings: Settings) -> None:
    """Only a supervisor can; `off` asks for nothing."""
    assert endless(settings, supervised=settings.action == "off").of(DecisionKind.OVERDUE) == []


@pytest.mark.parametrize(
    ("age", "rate", "rest"),
    [
        (20.0, None, 20.0),  # half of it is over
        (20.0, 1000.0, 20.0),  # a healthy average says nothing of a batch that has taken five times as long
        (20.0, 100.0, 20.0),  # 40 s at the pace of those before it: the same
        (20.0, 80.0, 30.0),
        (20.0, 10.0, 380.0),  # those before it took 400 s
        (0.0, 10.0, 400.0),
        (160.0, 25.0, 160.0),
    ],
)
def test_the_rest_is_its_age_or_what_the_pace_leaves(age: float, rate: float | None, rest: float) -> None:
    """The larger of `age` and `work / rate - age`."""
    batch = Batch(BatchInfo("b", "a", "w", "cuda:0", GENES, WORK), WORK, started=1000.0)
    assert batch.expected_rest(1000.0 + age, rate) == pytest.approx(rest)
    batch.measure(Baseline(RATE, 16.0, 8 * WORK), 2 * WORK, 5.0, TICK)  # judged as a quarter of the usual
    assert batch.expected_rest(1000.0 + age, rate) == pytest.approx(max(age, 2 * WORK / (rate or math.inf) - age))


@pytest.mark.parametrize(("speed", "waits"), [(0.13, True), (0.05, False)])
def test_a_batch_that_will_end_soon_is_waited_for(speed: float, waits: bool) -> None:
    """At 0.13 of its speed it takes 31 s; at 0.05 it takes 80 s, as those before it say."""
    job = Job(Settings(), can_end_worker=True, obeys=False).warmed()
    job.memory = FULL
    while not job.decisions:
        job.begin()
        while not job.decisions and job.t - job.began < WORK / (RATE * speed):
            job.wait(1.0)
        if not job.decisions:
            job.end()
    assert job.running is not None
    assert (job.of(DecisionKind.OVERDUE) == []) is waits


def test_a_batch_beside_the_one_that_tripped_is_ended_as_well() -> None:
    """Threads: one batch stuck, others finish slowly and trip; the stuck one is 320 s old."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), can_end_worker=True, obeys=False).warmed()
    job.memory = FULL
    job.policy.start_batch(job.t, BatchInfo("stuck", "a", "w", "cuda:0", GENES, WORK))
    job.batches(8, speed=0.1)
    assert job.of(DecisionKind.OVERDUE)[0].t == job.decisions[0].t


def test_an_overdue_empty_cache_becomes_a_forced_recycle() -> None:
    """After 4 slices the worker is ended: that is the shard's RECYCLE."""
    job = stuck()
    asked = job.decisions[-1]
    assert asked.kind is EMPTY_CACHE
    job.wait(4 * SLICE - TICK)
    assert len(job.decisions) == 2
    job.wait(2 * TICK)
    overdue, recycle = job.decisions[2:]
    assert (overdue.what, overdue.kind, overdue.action_id) == (DecisionKind.OVERDUE, EMPTY_CACHE, asked.action_id)
    assert not overdue.forced
    assert (recycle.what, recycle.kind, recycle.rung, recycle.forced) == (DecisionKind.ISSUE, RECYCLE, 2, True)
    assert recycle.t == pytest.approx(asked.t + 4 * SLICE)
    assert recycle.reason == (
        f"recycle the worker: no batch boundary for 80 s, a batch running for {recycle.t - job.began:.0f} s"
    )
    assert recycle.evidence["inflight_seconds"] == pytest.approx(recycle.t - job.began)
    assert job.status.rung == 2


def test_the_deadline_is_at_least_30_seconds() -> None:
    """Slices of 5 s would make it 20."""
    job = stuck(speed=4.0)
    asked = job.decisions[-1]
    job.wait(25.0)
    assert len(job.decisions) == 2
    job.wait(10.0)
    assert job.of(DecisionKind.OVERDUE)[0].t == pytest.approx(asked.t + 30.0)


def test_the_fresh_worker_applies_the_forced_recycle() -> None:
    """One outcome for each action: overdue for the EMPTY_CACHE, applied for the RECYCLE."""
    job = stuck(obeys=True).wait(4 * SLICE + TICK)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]
    outcomes = [(d.what, d.kind) for d in job.decisions if d.what is not DecisionKind.ISSUE]
    assert outcomes == [(DecisionKind.OVERDUE, EMPTY_CACHE), (DecisionKind.APPLIED, RECYCLE)]


def test_an_overdue_recycle_has_the_worker_ended() -> None:
    """Nothing new is issued: the pending one is forced."""
    job = stuck(Settings(action="cpu"))
    asked = job.decisions[-1]
    assert asked.kind is DEMOTE_CPU
    job.wait(4 * SLICE + TICK)
    (overdue,) = job.decisions[2:]
    assert (overdue.what, overdue.kind, overdue.forced) == (DecisionKind.OVERDUE, DEMOTE_CPU, True)
    assert overdue.action_id == asked.action_id
    job.start_worker(device="cpu")
    assert job.of(DecisionKind.APPLIED) == []  # its outcome is overdue, once
    assert job.pending is None


def test_it_is_reported_once() -> None:
    """However long the batch goes on."""
    job = stuck(Settings(action="cpu")).wait(60 * SLICE)
    assert len(job.of(DecisionKind.OVERDUE)) == 1


def test_embedded_an_overdue_action_is_only_reported() -> None:
    """Nobody can end the worker: the rung stays, and the action waits on."""
    job = stuck(supervised=False).wait(5 * SLICE)
    (overdue,) = job.of(DecisionKind.OVERDUE)
    assert not overdue.forced
    assert job.issued == [DETECT, EMPTY_CACHE]
    assert job.status.rung == 1
    assert job.pending is not None


def test_a_boundary_in_time_keeps_the_deadline_away() -> None:
    """An action that was resolved is not overdue."""
    job = stuck().wait(3 * SLICE)
    job.policy.resolve("a", job.decisions[-1].action_id, Outcome.APPLIED)
    job.wait(3 * SLICE)
    assert job.of(DecisionKind.OVERDUE) == []


def test_only_a_batch_that_was_running_keeps_an_action_from_its_boundary() -> None:
    """A batch that began after the action was asked for came after a boundary."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), can_end_worker=True, obeys=False).warmed()
    job.memory = FULL
    job.batches(8, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE]
    job.wait(1.0).stall(50 * SLICE)
    assert job.of(DecisionKind.OVERDUE) == []


def test_between_batches_nothing_is_overdue() -> None:
    """A slow commit is not a stuck batch."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), can_end_worker=True, obeys=False).warmed()
    job.memory = FULL
    job.batches(8, speed=0.1)
    job.wait(1000.0)
    assert job.of(DecisionKind.OVERDUE) == []


def test_a_batch_that_ended_was_not_overdue() -> None:
    """The end of the batch is the boundary, however late the tick."""
    job = stuck().wait(40 * SLICE, ticks=False)
    job.end()
    assert job.of(DecisionKind.OVERDUE) == []
    job = Job(can_end_worker=True, obeys=False).warmed()
    job.memory = FULL
    job.begin().wait(10 * SLICE, ticks=False).read_memory().end()
    assert job.issued == [DETECT, EMPTY_CACHE]
    assert job.of(DecisionKind.OVERDUE) == []


def test_with_inflight_off_a_deadline_still_holds() -> None:
    """Threads: one batch has begun just before those beside it trip; it has 4 slices."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), can_end_worker=True, obeys=False).warmed()
    job.memory = FULL
    job.batches(7, speed=0.19)
    job.policy.start_batch(job.t, BatchInfo("stuck", "a", "w", "cuda:0", GENES, WORK))
    job.batches(1, speed=0.19)
    asked = job.decisions[-1]
    job.wait(4 * SLICE + TICK)
    assert job.of(DecisionKind.OVERDUE)[0].t == pytest.approx(asked.t + 4 * SLICE)


def test_the_rung_does_not_fall_when_an_old_empty_cache_is_overdue() -> None:
    """Where RECYCLE and DEMOTE_CPU were passed over, they are used up: the deadline takes nothing back."""
    job = Job(Settings(window=1), can_take=[EMPTY_CACHE], can_end_worker=True, obeys=False).batches(2, speed=4.0)
    job.memory = FULL
    job.stall(20 * SLICE)
    assert [d.kind for d in job.of(DecisionKind.PASSED_OVER)] == [RECYCLE, DEMOTE_CPU]
    assert len(job.of(DecisionKind.OVERDUE)) == 1
    assert job.issued == [DETECT, EMPTY_CACHE]
    assert job.status.rung == 3


def test_a_pending_action_of_another_shard_is_not_overdue() -> None:
    """Two workers on one card: the one that is stuck has nothing pending."""
    job = stuck(Settings(action="cpu"), obeys=False)
    job.policy.start_batch(job.began, BatchInfo("o", "other", "w9", "cuda:0", GENES, WORK))
    job.memory = LOW
    job.wait(5 * SLICE)
    assert {d.shard for d in job.of(DecisionKind.OVERDUE)} == {"a"}


def deadline(job: Job) -> float | None:
    """What the gauge shows of the job's shard."""
    return job.policy.batch_deadline(job.shard)


def test_the_age_at_which_the_worker_is_ended_is_known_before() -> None:
    """That of a hang until an action waits for the batch, then that action's; an alert needs no number of its own."""
    job = Job(can_end_worker=True, obeys=False).enter("a")
    assert deadline(job) == HANG_SECONDS, "the least that a first batch has"
    job.batches(9).begin()
    assert deadline(job) == 100 * SLICE
    job = stuck()
    asked = job.decisions[-1]
    said = deadline(job)
    assert said is not None
    assert said == pytest.approx(asked.t - job.began + max(4 * SLICE, 30.0))
    while not job.of(DecisionKind.OVERDUE):
        job.wait(TICK)
    assert job.of(DecisionKind.OVERDUE)[0].t == pytest.approx(job.began + said)


def test_nobody_ends_a_batch_of_an_embedded_job() -> None:
    """It has no deadline, nor has a shard that nobody has heard of."""
    assert deadline(Job(can_end_worker=False).batches(9).begin()) is None
    assert Job(can_end_worker=True).policy.batch_deadline("another") is None
