"""Rule 4: the EMA over observations, batches too small to be one, and those that have become the usual ones."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DETECT, FULL, GENES, GENES_RATE, LIMIT, LOW, RATE, SLICE, WORK, Job


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


@pytest.mark.parametrize(("slices", "streak"), [(3.0, 2), (3.5, 3)])
def test_a_small_batch_that_took_slices_counts_when_it_ends_as_any_other(slices: float, streak: int) -> None:
    """What was counted in flight is not counted again."""
    job = Job(Settings(ema_alpha=1.0, window=100)).batches(101)
    job.memory = FULL
    job.stall(SLICE / 4 * slices, work=0.1 * WORK)
    assert job.status.streak == 2
    job.end()
    assert job.status.streak == streak


SMALL = 0.1 * WORK


def small(job: Job, count: int, seconds: float, work: float = SMALL) -> Job:
    """So many batches in a row of a tenth of the usual work, or of another part."""
    for _ in range(count):
        job.begin(work=work).wait(seconds).end()
    return job


def test_small_batches_are_judged_once_a_window_of_them_has_ended_in_a_row() -> None:
    """The end of a shard whose longest passages come first: with what such a batch costs beyond its work, as fast as
    ever. A larger one between them, and they are what they were."""
    job = small(small(Job(Settings(ema_alpha=1.0)).warmed(), 7, 0.6).batches(1), 7, 0.6)
    assert small(job, 1, 1.2).ema == pytest.approx(RATE)  # the eighth in a row is the last of those measured
    assert small(job, 1, 1.2).ema == pytest.approx(RATE / 2)
    assert small(job.reload(), 1, 1.2).ema == pytest.approx(RATE / 2)
    assert small(job.start_worker(), 2, 1.2).ema == pytest.approx(RATE / 2)  # the first is its warm-up
    assert small(job.batches(1), 1, 1.2).ema == pytest.approx(RATE)


@pytest.mark.parametrize("healthy", [0, 4, 100])
def test_a_crawl_among_small_batches_is_seen(healthy: int) -> None:
    """Wherever it begins. In the first of them, it has to be slow as a quarter of the usual work."""
    job = small(Job().warmed(), healthy, 0.5)
    job.memory = FULL
    t = job.t
    small(job, 60, 0.5 * (20 if healthy >= 8 else 13))
    assert job.issued[0] is DETECT
    assert job.decisions[0].t - t < (130 if healthy >= 8 else 160)


@pytest.mark.parametrize("overhead", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("memory", [LOW, FULL])
def test_a_card_that_is_well_is_not_slow_with_small_batches(overhead: float, memory: float) -> None:
    """They fall to a thousandth of the usual work, until all that they take is what a batch costs at least."""
    job = Job().warmed()
    work = WORK
    for _ in range(1200):
        job.memory = memory
        small(job, 1, overhead + work / RATE, work)
        work = max(WORK / 1000, work * 0.97)
    assert job.decisions == []
    assert job.status.streak == 0
