"""Which numbers of a driver can be judged; others are counted by reason and ignored."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import sample_problem
from tests.policy.timeline import GENES, RATE, WORK, Job

BAD = [0, 0.0, -1, float("nan"), float("inf"), -float("inf"), True, "1", 1e-300, 1e300, 10**400]


@pytest.mark.parametrize("value", [*BAD, None])
def test_genes_and_seconds_are_positive_numbers(value: object) -> None:
    """And the first thing that is wrong is the reason."""
    assert sample_problem(value, 1.0, 1.0) == "genes"
    assert sample_problem(64, value, 1.0) == "seconds"
    assert sample_problem(value, value, value) == "genes"


@pytest.mark.parametrize("value", BAD)
def test_work_is_a_positive_number_or_absent(value: object) -> None:
    """`None` is a driver that does not know."""
    assert sample_problem(64, 1.0, value) == "work"
    assert sample_problem(64, value, value) == "seconds"
    assert sample_problem(64, 1.0, None) is None


@pytest.mark.parametrize("value", [1e-12, 1e-6, 1, 64, 1.5, 1e12, 1e18])
def test_a_wide_range_is_accepted(value: float) -> None:
    """Microseconds of a hashing encoder, and any work a driver may count."""
    assert sample_problem(value, value, value) is None


@pytest.mark.parametrize(
    ("genes", "seconds", "work", "problem"),
    [(0, 4.0, WORK, "genes"), (GENES, 0.0, WORK, "seconds"), (GENES, 4.0, -1.0, "work"), (GENES, 4.0, None, "work")],
)
def test_an_ignored_sample_changes_nothing(genes: float, seconds: float, work: float | None, problem: str) -> None:
    """Neither EMA nor baseline, and the batch is no longer in flight. A shard in work cannot be judged by genes."""
    job = Job().warmed().batches(1, 0.9)
    ema = job.ema
    assert job.begin(genes=genes, work=work).wait(4.0).end(seconds=seconds) == problem
    assert job.policy.state.inflight == {}
    assert job.ema == ema
    assert job.decisions == []


def test_a_batch_that_cannot_be_judged_is_not_in_flight() -> None:
    """Its age is observed by nobody."""
    job = Job().warmed().begin(genes=0)
    assert job.policy.state.inflight == {}
    job.wait(1000.0)
    assert job.ema == pytest.approx(RATE)


def test_the_first_batch_settles_the_unit() -> None:
    """A shard judged by genes goes on so, whatever else a batch brings."""
    job = Job().batches(9, work=None).batches(1, work=2 * WORK)
    assert job.policy.state.shards["a"].unit == "genes"
    assert job.ema == pytest.approx(0.7 * 16 + 0.3 * 8)


def test_a_finished_batch_counts_without_its_start() -> None:
    """A driver that times itself."""
    job = Job()
    for n in range(9):
        job.t += 4.0
        decisions, problem = job.policy.finish_batch(job.t, BatchInfo(f"x{n}", "a", "w", "cuda:0", GENES, WORK), 4.0)
        assert (decisions, problem) == ([], None)
    assert job.baseline == pytest.approx(RATE)
