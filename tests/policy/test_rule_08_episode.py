"""Rule 8: what counts while an episode is open, how many rungs it brings, and how it ends."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import REMEDIES, ActionKind, DecisionKind, Outcome, Verdict
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import (
    DEMOTE_CPU,
    DETECT,
    EMPTY_CACHE,
    FULL,
    GENES,
    GENES_RATE,
    LOW,
    RECYCLE,
    SLICE,
    WORK,
    Job,
)

FINISHED = Settings(ema_alpha=1.0, inflight=False)


def crawling(*, obeys: bool = False) -> Job:
    """A job that has just tripped for the first time."""
    job = Job(FINISHED, obeys=obeys).warmed()
    job.memory = FULL
    job.batches(8, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE]
    return job


@pytest.mark.parametrize("memory", [LOW, None])
def test_only_the_rate_decides_while_an_episode_is_open(memory: float | None) -> None:
    """The release of rung 1 lowers the reading; the crawl goes on and is seen."""
    job = crawling(obeys=True)
    job.memory = memory
    job.wait(61.0).batches(7, speed=0.1)
    assert job.status.verdict is Verdict.CRAWLING
    assert job.issued == [DETECT, EMPTY_CACHE]
    job.batches(1, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]


def test_the_streak_starts_again_when_an_action_is_issued() -> None:
    """Another full window is the next trip, not the next observation."""
    job = crawling(obeys=True).batches(7, speed=0.1)
    assert job.status.streak == 7
    assert len(job.issued) == 2
    assert len(job.batches(1, speed=0.1).issued) == 3


def test_the_next_trip_too_lasts_a_window_of_ticks() -> None:
    """A streak in an episode is a streak like any other."""
    job = Job(FINISHED, obeys=True).batches(9, speed=80.0)
    job.memory = FULL
    while len(job.issued) < 3:
        job.batches(1, speed=8.0)
    first, recycle = job.decisions[0], job.decisions[-1]
    assert recycle.t - first.t == pytest.approx(40.5)


@pytest.mark.parametrize("asked", [RECYCLE, DEMOTE_CPU])
def test_nothing_trips_while_an_action_that_ends_the_worker_is_pending(asked: object) -> None:
    """The remedy is on its way; however long the driver takes."""
    job = crawling()
    if asked is RECYCLE:
        job.batches(8, speed=0.1)
    else:
        job = Job(Settings(ema_alpha=1.0, inflight=False, action="cpu"), obeys=False).warmed()
        job.memory = FULL
        job.batches(8, speed=0.1)
    assert job.issued[-1] is asked
    before = len(job.decisions)
    job.batches(100, speed=0.1)
    assert len(job.decisions) == before


def test_a_pending_empty_cache_stops_nothing() -> None:
    """It is queued behind a driver that does not come; the next window asks for more."""
    job = crawling().batches(8, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]


def test_a_later_action_supersedes_a_queued_empty_cache() -> None:
    """The queued one is void, and that is said before the later one is issued."""
    job = crawling()
    empty_cache = job.decisions[-1]
    job.batches(8, speed=0.1)
    superseded, recycle = job.decisions[2:]
    assert (superseded.what, superseded.kind) == (DecisionKind.SUPERSEDED, EMPTY_CACHE)
    assert superseded.action_id == empty_cache.action_id
    assert (recycle.what, recycle.kind) == (DecisionKind.ISSUE, RECYCLE)
    assert job.pending is recycle


def test_an_applied_empty_cache_is_not_superseded() -> None:
    """It is done; nothing is reported of it again."""
    job = crawling(obeys=True).batches(8, speed=0.1)
    assert job.of(DecisionKind.SUPERSEDED) == []


@pytest.mark.parametrize("outcome", [Outcome.VETOED, Outcome.PASSED_OVER, Outcome.FAILED])
def test_after_a_recycle_that_came_to_nothing_the_next_window_trips(outcome: Outcome) -> None:
    """A vetoed rung is used up; the crawl goes on and the next rung comes."""
    job = crawling().batches(8, speed=0.1)
    job.policy.resolve("a", job.decisions[-1].action_id, outcome)
    assert job.pending is None
    job.batches(7, speed=0.1)
    assert job.issued[-1] is RECYCLE
    assert job.batches(1, speed=0.1).issued[-1] is DEMOTE_CPU


def test_a_window_of_healthy_observations_closes_the_episode() -> None:
    """Seven do not, the eighth does, and says so."""
    job = crawling(obeys=True).batches(7)
    assert job.status.episode_open
    assert job.of(DecisionKind.RECOVERED) == []
    job.batches(1)
    assert not job.status.episode_open
    (recovered,) = job.of(DecisionKind.RECOVERED)
    assert recovered.reason == "recovered: 8 healthy observations in a row"
    assert recovered.kind is None
    assert recovered.evidence["rate"] == pytest.approx(GENES_RATE)
    assert recovered.evidence["inflight_seconds"] is None
    job.batches(20)
    assert len(job.of(DecisionKind.RECOVERED)) == 1


def test_healthy_observations_count_in_a_row() -> None:
    """A slow one among them starts the count again."""
    job = crawling(obeys=True)
    for _ in range(5):
        job.batches(7).batches(1, speed=0.1)
    assert job.status.episode_open
    assert job.of(DecisionKind.RECOVERED) == []


def test_a_crawl_after_recovery_is_a_new_one() -> None:
    """A second DETECT; the rung goes on where it was, and memory decides again."""
    job = crawling(obeys=True).batches(8)
    job.memory = LOW
    job.batches(20, speed=0.1)
    assert len(job.issued) == 2
    job.memory = FULL
    job.batches(8, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, DETECT, RECYCLE]


def test_recovery_takes_a_healthy_ema() -> None:
    """It is the EMA that is judged, on the way up as on the way down."""
    job = Job(Settings(inflight=False), obeys=True).warmed()
    job.memory = FULL
    while not job.decisions:
        job.batches(1, speed=0.02)
    job.batches(1)
    assert job.status.verdict is Verdict.HEALTHY  # 0.3 of the baseline and more
    assert job.batches(7).of(DecisionKind.RECOVERED) != []


def test_a_batch_that_ends_the_moment_it_began_can_end_an_episode() -> None:
    """A clock that stands still while the driver tells its own seconds must not raise."""
    job = crawling(obeys=True)
    for _ in range(8):
        job.begin()
        job.end(seconds=4.0)
    assert len(job.of(DecisionKind.RECOVERED)) == 1


def test_an_empty_cache_is_resolved_by_its_own_id_only() -> None:
    """Neither a stranger's id nor another shard's name clears what waits, and OVERDUE is no end."""
    job = crawling()
    action = job.decisions[-1]
    job.policy.resolve("a", action.action_id + 1, Outcome.APPLIED)
    job.policy.resolve("b", action.action_id, Outcome.APPLIED)
    job.policy.resolve("a", action.action_id, Outcome.OVERDUE)
    assert job.pending is action
    job.policy.resolve("a", action.action_id, Outcome.APPLIED)
    assert job.pending is None


# -- where nobody can end the batch: one rung a boundary ------------------------------------------------------------


@pytest.mark.parametrize("can_take", [REMEDIES, [EMPTY_CACHE, DEMOTE_CPU], [RECYCLE, DEMOTE_CPU], [DEMOTE_CPU]])
@pytest.mark.parametrize("ticks", [True, False])
def test_one_stall_brings_one_rung(can_take: list[ActionKind], ticks: bool) -> None:
    """However long it is, and whether it is looked at while it lasts or told of at its end."""
    job = Job(can_take=can_take).warmed()
    job.memory = FULL
    job.begin().wait(60 * SLICE, ticks=ticks).end()
    job.memory = LOW
    job.batches(60)
    assert job.issued == [DETECT, can_take[0]]


def test_the_rung_is_carried_out_and_judged_before_the_next() -> None:
    """What the stall showed behind the decision is no evidence against the remedy: a whole window comes first."""
    job = Job(Settings(ema_alpha=1.0)).warmed()
    job.memory = FULL
    job.begin().wait(60 * SLICE).end()
    assert (job.issued, job.pending, job.status.streak) == ([DETECT, EMPTY_CACHE], None, 0)
    job.batches(7, speed=0.19)
    assert job.issued == [DETECT, EMPTY_CACHE]
    assert job.batches(1, speed=0.19).issued == [DETECT, EMPTY_CACHE, RECYCLE]


def test_each_stall_brings_one_rung() -> None:
    """A card that stalls in every batch goes to the CPU all the same, a boundary at a time."""
    job = Job(can_take=[EMPTY_CACHE, DEMOTE_CPU]).warmed()
    job.memory = FULL
    job.begin().wait(30 * SLICE).end()
    assert job.issued == [DETECT, EMPTY_CACHE]
    job.begin().wait(30 * SLICE)
    assert job.issued == [DETECT, EMPTY_CACHE, DEMOTE_CPU]
    job.end()
    assert job.device == "cpu"


def test_a_driver_that_does_not_come_is_asked_for_more_in_its_next_batch() -> None:
    """It polls, or has no `boundary`: a batch that began after the decision has passed one."""
    job = Job(obeys=False).warmed()
    job.memory = FULL
    job.begin().wait(60 * SLICE).end()
    assert job.issued == [DETECT, EMPTY_CACHE]
    job.begin().wait(10 * SLICE)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]
    assert [d.kind for d in job.of(DecisionKind.SUPERSEDED)] == [EMPTY_CACHE]


def test_batches_beside_the_stuck_one_bring_no_second_rung() -> None:
    """Threads: the boundary comes when none is running; the others' batches cannot replace what waits for it."""
    job = Job(FINISHED, obeys=False).warmed()
    job.memory = FULL
    job.policy.start_batch(job.t, BatchInfo("stuck", "a", "w", "cuda:0", GENES, WORK))
    job.batches(40, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE]
    job.policy.abandon_batch("stuck")
    assert job.batches(8, speed=0.1).issued == [DETECT, EMPTY_CACHE, RECYCLE]


def test_another_shard_beside_the_stuck_one_has_its_own_ladder() -> None:
    """What waits for one shard's boundary holds nobody else up."""
    job = Job(FINISHED, obeys=False).warmed()
    job.memory = FULL
    job.policy.start_batch(job.t, BatchInfo("stuck", "other", "w", "cuda:0", GENES, WORK))
    job.policy.advance(job.t + 60 * SLICE)
    assert job.batches(16, speed=0.1).issued == [DETECT, EMPTY_CACHE, RECYCLE]


def test_a_supervisor_does_not_wait_for_the_boundary() -> None:
    """It ends the worker, and that is the next rung; see the deadlines."""
    job = Job(obeys=False, can_end_worker=True).warmed()
    job.memory = FULL
    job.begin().wait(60 * SLICE)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]
