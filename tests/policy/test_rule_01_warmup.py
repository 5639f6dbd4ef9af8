"""Rule 1: the first `warmup` batches of a worker are left out."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import FULL, RATE, SLICE, Job


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_first_batches_of_a_worker_enter_neither_baseline_nor_ema(warmup: int) -> None:
    """Exactly `warmup` batches are left out, however slow they are."""
    job = Job(Settings(warmup=warmup)).batches(warmup, speed=0.01)
    assert job.ema is None
    assert job.baseline is None
    job.batches(7)
    assert job.source == "card"
    job.batches(1)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "shard")
    assert job.ema == pytest.approx(RATE)


def test_one_batch_is_the_default() -> None:
    """The second batch counts."""
    job = Job().batches(1)
    assert job.ema is None
    assert job.batches(1).ema is not None


def test_every_worker_warms_up_again() -> None:
    """The context of a fresh worker is cold again; a slow first batch says nothing."""
    job = Job().warmed().start_worker().batches(1, speed=0.001)
    assert job.ema is None
    assert job.batches(1).ema == pytest.approx(RATE)


def test_a_new_shard_in_the_same_worker_does_not_warm_up() -> None:
    """The warm-up belongs to the worker, not to the shard."""
    assert Job().warmed().enter("b").batches(1).ema == pytest.approx(RATE)


def test_a_warm_up_batch_in_flight_is_not_judged() -> None:
    """A first batch that takes many slices under a full memory is no observation."""
    job = Job(memory=FULL).warmed().start_worker().stall(25 * SLICE)
    assert job.status.streak == 0
    assert job.ema is None
    job.end()
    assert job.ema is None
    assert job.decisions == []


def test_a_batch_that_raised_is_no_warm_up() -> None:
    """It is not counted in any way, so the next one is still the first."""
    job = Job().begin().wait(1.0).abandon().batches(1, speed=0.01)
    assert job.ema is None
    job.begin().end(seconds=0.0)
    assert job.batches(1).ema == pytest.approx(RATE)


def test_an_ignored_sample_is_no_warm_up() -> None:
    """A batch without a duration leaves the warm-up as it was."""
    job = Job().begin()
    assert job.end(seconds=0.0) == "seconds"
    assert job.batches(1, speed=0.01).ema is None


def test_a_batch_that_raised_after_the_warm_up_does_not_bring_it_back() -> None:
    """Only a warm-up batch gives its place back."""
    job = Job().batches(1).begin().wait(1.0).abandon()
    assert job.batches(1).ema == pytest.approx(RATE)
