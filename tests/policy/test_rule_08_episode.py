"""Rule 8: what counts while an episode is open, and how it ends."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.model import DecisionKind, Outcome, Verdict
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DEMOTE_CPU, DETECT, EMPTY_CACHE, FULL, GENES_RATE, LOW, RECYCLE, Job

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
