"""Section 5: the ladder climbs, per shard, never downwards, at most three interventions."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from helix_crawl_otel.policy.model import ActionKind, DecisionKind, Outcome
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DEMOTE_CPU, DETECT, EMPTY_CACHE, FULL, RECYCLE, Job

FINISHED = Settings(ema_alpha=1.0, inflight=False)


def full_job(settings: Settings = FINISHED, *, obeys: bool = True, can_take: Iterable[ActionKind] | None = None) -> Job:
    """A job with a baseline under a full memory."""
    job = Job(settings, obeys=obeys, can_take=tuple(ActionKind)[1:] if can_take is None else can_take).warmed()
    job.memory = FULL
    return job


def test_a_crawl_that_nothing_helps_takes_each_rung_once() -> None:
    """EMPTY_CACHE, RECYCLE, DEMOTE_CPU, and no more on the CPU, at any length."""
    job = full_job().batches(8, 0.1)
    assert [d.rung for d in job.decisions] == [0, 1]
    job.batches(8, 0.1)
    assert job.status.rung == 2
    job.batches(1 + 8, 0.1)
    assert job.status.rung == 3
    assert job.device == "cpu"
    job.batches(100, 0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE, DETECT, DEMOTE_CPU]


def test_after_the_last_rung_nothing_is_asked() -> None:
    """Still on the card, still crawling: trips are counted, nothing is issued."""
    job = full_job(obeys=False)
    for _ in range(3):
        job.batches(8, 0.1)
        job.policy.resolve("a", job.decisions[-1].action_id, Outcome.VETOED)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE, DEMOTE_CPU]
    job.batches(100, 0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE, DEMOTE_CPU]
    assert (job.status.rung, job.pending) == (3, None)
    assert job.policy.state.trips > 3


def test_after_a_recycle_the_next_crawl_goes_to_the_cpu() -> None:
    """It is the shard's second; a release of the cache would be a step down."""
    job = full_job().batches(16, 0.1).batches(50).batches(8, 0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE, DETECT, DEMOTE_CPU]


def test_the_rung_does_not_fall_with_recovery() -> None:
    """A shard that recovers and crawls again goes on where it was."""
    job = full_job().batches(8, 0.1).batches(1000).batches(8, 0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, DETECT, RECYCLE]


def test_cpu_goes_there_at_the_first_trip() -> None:
    """One intervention."""
    job = full_job(Settings(ema_alpha=1.0, inflight=False, action="cpu")).batches(8, 0.1)
    assert job.issued == [DETECT, DEMOTE_CPU]
    assert job.decisions[0].rung == 0
    assert job.decisions[1].rung == 3
    assert job.decisions[1].reason.startswith("finish the shard on the CPU: ")


def test_a_demotion_is_for_this_shard_only() -> None:
    """The next shard has its own ladder."""
    job = full_job().batches(40, 0.1)
    assert job.status.rung == 3
    job.start_worker(device="cuda:0").enter("b").batches(5)
    assert job.status.rung == 0
    job.batches(12, 0.1)
    assert job.issued[-2:] == [DETECT, EMPTY_CACHE]


@pytest.mark.parametrize(
    ("can_take", "expected"),
    [
        ([], [DETECT]),
        ([EMPTY_CACHE], [DETECT, EMPTY_CACHE]),
        ([RECYCLE], [DETECT, RECYCLE, DETECT]),
        ([DEMOTE_CPU], [DETECT, DEMOTE_CPU]),
        ([EMPTY_CACHE, DEMOTE_CPU], [DETECT, EMPTY_CACHE, DEMOTE_CPU]),
        ([RECYCLE, DEMOTE_CPU], [DETECT, RECYCLE, DETECT, DEMOTE_CPU]),
    ],
)
def test_a_rung_that_the_driver_cannot_take_is_passed_over(
    can_take: list[ActionKind], expected: list[ActionKind]
) -> None:
    """The next one that it can take comes at once, in the same trip; each is passed over once and used up."""
    job = full_job(can_take=can_take)
    job.batches(60, 0.1)
    assert job.issued == expected
    passed_over = {d.kind for d in job.of(DecisionKind.PASSED_OVER)}
    assert len(job.of(DecisionKind.PASSED_OVER)) == len(passed_over)
    assert passed_over == set(ActionKind) - {DETECT} - set(expected)
    assert job.status.rung == 3


def test_what_the_driver_can_do_may_come_from_an_iterator() -> None:
    """It is read once."""
    job = Job(FINISHED)
    job.policy.open_shard(0.0, "a", "w", "cuda:0", iter([RECYCLE, DEMOTE_CPU]))
    assert job.policy.state.shards["a"].can_take == [RECYCLE, DEMOTE_CPU]


def test_what_was_passed_over_says_what_would_have_made_it_possible() -> None:
    """The log of an embedded job names `helix-crawl run`."""
    job = full_job(can_take=[]).batches(8 * 3, 0.1)
    first, second, third = job.of(DecisionKind.PASSED_OVER)
    assert [d.kind for d in (first, second, third)] == [EMPTY_CACHE, RECYCLE, DEMOTE_CPU]
    assert "helix-crawl run" in second.reason
    assert "exit_to_recycle" in second.reason
    assert "helix-crawl run" in third.reason
    assert "on_demote" in third.reason
    assert len({d.action_id for d in job.decisions}) == len(job.decisions)


def test_on_the_cpu_there_is_no_demotion() -> None:
    """A shard that crawls on the CPU is there already."""
    job = Job(FINISHED, device="cpu", obeys=False).warmed()
    job.memory = FULL
    for _ in range(3):
        job.batches(8, 0.1)
        if job.pending:
            job.policy.resolve("a", job.pending.action_id, Outcome.APPLIED)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]
    (passed_over,) = job.of(DecisionKind.PASSED_OVER)
    assert passed_over.reason == "the shard is on the CPU already"
    assert passed_over.rung == 3


def test_ids_grow() -> None:
    """Each action has one of its own."""
    job = full_job().batches(60, 0.1)
    ids = [d.action_id for d in job.of(DecisionKind.ISSUE)]
    assert ids == sorted(set(ids))
    assert ids[0] > 0


def test_decisions_name_the_worker_and_the_device_that_crawled() -> None:
    """For the one who has to carry them out."""
    job = full_job().batches(8, 0.1)
    assert {(d.shard, d.worker, d.device) for d in job.decisions} == {("a", "w", "cuda:0")}


def test_two_shards_have_two_ladders() -> None:
    """The rung of one says nothing of the other, though they share a card."""
    job = full_job().batches(16, 0.1)
    assert job.status.rung == 2
    assert job.enter("b").batches(9).batches(8, 0.1).status.rung == 1
    assert job.policy.status("a", job.t).rung == 2
