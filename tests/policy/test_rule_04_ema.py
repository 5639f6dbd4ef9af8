"""Rule 4: the EMA over observations, and batches too small to be one."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import FULL, GENES, GENES_RATE, LIMIT, RATE, SLICE, WORK, Job


@pytest.mark.parametrize("alpha", [0.3, 0.5, 1.0])
def test_the_ema_is_the_weighted_mean_of_rates(alpha: float) -> None:
    """`alpha * rate + (1 - alpha) * ema`, in work and in genes alike."""
    job = Job(Settings(ema_alpha=alpha)).warmed().batches(1, speed=0.5)
    expected = alpha * 0.5 + (1 - alpha)
    assert job.ema == pytest.approx(expected * RATE)
    assert job.status.ema == pytest.approx(expected * GENES_RATE)
    assert job.status.ratio == pytest.approx(expected)


def test_the_ema_begins_at_the_first_rate() -> None:
    """Not at zero, and not at the baseline."""
    assert Job().batches(1).batches(1, speed=0.4).ema == pytest.approx(0.4 * RATE)


@pytest.mark.parametrize(("part", "counts"), [(0.2499, False), (0.25, True), (1.0, True)])
def test_a_small_finished_batch_is_no_observation(part: float, counts: bool) -> None:
    """Below a quarter of the usual work the rate is all overhead; a quarter itself counts."""
    job = Job().warmed()
    job.begin(work=part * WORK, genes=GENES * part).wait(8.0 * part if part > 0.25 else 2.0).end()
    assert (job.ema != pytest.approx(RATE)) is counts


def test_a_streak_lives_through_a_small_batch() -> None:
    """No observation: it neither adds to the streak nor ends it."""
    job = Job(Settings(ema_alpha=1.0), memory=FULL).warmed().batches(3, speed=0.15)
    streak = job.status.streak
    assert streak > 0
    job.batches(5, speed=0.1, work=0.1 * WORK)
    assert job.status.streak == streak
    job.batches(5, speed=1.0, work=0.1 * WORK)
    assert job.status.streak == streak


def test_a_small_batch_is_measured_by_the_stand_in_too() -> None:
    """A new shard's small batch is small against the card's usual one."""
    job = Job().warmed().enter("b").batches(1).batches(1, speed=0.5, work=0.1 * WORK)
    assert job.ema == pytest.approx(RATE)


def test_the_first_batch_of_all_is_never_small() -> None:
    """There is nothing to be small against; the next one is, if it is."""
    job = Job().batches(1).batches(1, speed=0.5, work=0.01 * WORK)
    assert job.ema == pytest.approx(0.5 * RATE)
    assert job.batches(1).batches(1, speed=0.1, work=0.01 * WORK).ema == pytest.approx(0.65 * RATE)


def test_in_flight_a_small_batch_is_judged_as_a_quarter() -> None:
    """Its slices are those of a quarter of the usual work, and the rates those of that quarter."""
    job = Job(Settings(ema_alpha=1.0), memory=FULL).warmed().stall(SLICE / 4 - 0.01, work=0.01 * WORK)
    assert job.ema == pytest.approx(RATE)
    job.wait(0.01).tick()
    assert job.ema == pytest.approx(LIMIT)
    assert job.status.ema == pytest.approx(GENES_RATE * 20)  # 64 genes of a hundredth of the work: 25 times a quarter
    job.wait(SLICE / 4).tick()
    assert job.ema == pytest.approx(LIMIT / 2)


def test_a_small_batch_that_took_slices_is_no_observation_when_it_ends() -> None:
    """What it cost was counted in flight."""
    job = Job(Settings(ema_alpha=1.0, window=100)).batches(101)
    job.memory = FULL
    job.stall(SLICE / 4 * 3.5, work=0.1 * WORK)
    before = job.policy.status("a", job.t)
    job.end()
    assert job.status.streak == before.streak == 2
    assert job.status.ema == before.ema
