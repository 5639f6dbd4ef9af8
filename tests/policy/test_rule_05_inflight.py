"""Rule 5: a batch in flight is observed once each slice that passes, at an upper bound of its rate."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DETECT, FULL, GENES, GENES_RATE, LIMIT, LOW, RATE, SECONDS, SLICE, WORK, Job

NEWEST = Settings(ema_alpha=1.0, window=100)
"""The EMA is the newest observation, and nothing trips: a test sees each observation by itself."""


def warmed(settings: Settings = NEWEST) -> Job:
    """A job with a baseline, under a full memory."""
    job = Job(settings).warmed()
    job.memory = FULL
    return job


def test_a_slice_is_what_a_shard_at_its_limit_would_need() -> None:
    """`w * factor / baseline` seconds: nothing before it, an observation at it."""
    job = warmed().stall(SLICE - 0.01)
    assert job.ema == pytest.approx(RATE)
    job.wait(0.01).tick()
    assert job.ema == pytest.approx(LIMIT)


@pytest.mark.parametrize(("factor", "slice_seconds"), [(2.0, 8.0), (5.0, 20.0), (10.0, 40.0)])
def test_the_slice_follows_the_factor(factor: float, slice_seconds: float) -> None:
    """A higher factor waits longer."""
    job = warmed(Settings(factor=factor, ema_alpha=1.0, window=100)).stall(slice_seconds - 0.1)
    assert job.ema == pytest.approx(RATE)
    assert job.wait(0.1).tick().ema == pytest.approx(RATE / factor)


@pytest.mark.parametrize("slices", [1, 2, 3, 7, 50])
def test_the_rate_is_an_upper_bound_of_the_true_one(slices: int) -> None:
    """After k slices it is `w / (k * slice)`, in work and in genes."""
    job = warmed().stall(slices * SLICE + 3.0)
    assert job.ema == pytest.approx(LIMIT / slices)
    assert job.status.ema == pytest.approx(GENES_RATE / 5 / slices)


def test_the_first_slice_is_not_slow() -> None:
    """At its end the rate equals the limit; only the second is below it."""
    job = warmed().stall(SLICE)
    assert job.status.streak == 0
    assert job.wait(SLICE).tick().status.streak == 1


def test_slices_that_fell_due_between_two_ticks_are_fed_one_by_one() -> None:
    """A gap in the ticks, as a call that holds the GIL makes it, changes nothing."""
    fine = warmed(Settings(window=100)).stall(10.5 * SLICE)
    coarse = warmed(Settings(window=100)).begin().wait(10.5 * SLICE, ticks=False).read_memory().tick()
    assert coarse.ema == fine.ema
    assert coarse.status == fine.status
    assert coarse.status.streak == 10 - 5  # the EMA falls below the limit at the sixth


def test_slices_nobody_ticked_for_are_fed_when_the_batch_ends() -> None:
    """Without a single tick the end of the batch brings the same observations."""
    fine = warmed(Settings(window=100)).stall(10.5 * SLICE)
    coarse = warmed(Settings(window=100)).begin().wait(10.5 * SLICE, ticks=False).read_memory()
    fine.end()
    coarse.end()
    assert (coarse.ema, coarse.status) == (fine.ema, fine.status)


def test_a_batch_whose_start_was_not_told_has_the_same_slices() -> None:
    """A driver that times itself reports one end; it began `seconds` before."""
    told = warmed(Settings(window=100)).begin().wait(10.5 * SLICE, ticks=False)
    untold = warmed(Settings(window=100)).begin().abandon().wait(10.5 * SLICE, ticks=False)
    told.end()
    untold.read_memory()
    info = BatchInfo("x", "a", "w", "cuda:0", GENES, WORK)
    untold.policy.finish_batch(untold.t, info, 10.5 * SLICE)
    assert untold.ema == told.ema
    assert untold.status.streak == told.status.streak


@pytest.mark.parametrize(
    ("slices", "observations"), [(0.5, 1), (1.0, 1), (1.2, 2), (2.0, 2), (2.9, 3), (3.0, 3), (7.5, 8)]
)
def test_nothing_is_counted_twice_when_the_batch_ends(slices: float, observations: int) -> None:
    """Each full slice counts once, and its last part as the finished batch: never two for the same time."""
    alpha = 0.5
    job = warmed(Settings(ema_alpha=alpha, window=100)).stall(slices * SLICE)
    job.end()
    rates = [RATE / 5 / k for k in range(1, int(slices) + 1)]
    if slices % 1:
        rates.append(RATE / 5 / slices)
    assert len(rates) == observations
    expected = RATE
    for rate in rates:
        expected = alpha * rate + (1 - alpha) * expected
    assert job.ema == pytest.approx(expected)


def test_a_slice_is_at_least_one_tick() -> None:
    """Small fast batches would make slices of milliseconds."""
    job = Job(NEWEST)
    job.batches(101, speed=20.0)  # 0.2 s a batch: a slice would be 1 s
    job.stall(4.9)
    assert job.ema == pytest.approx(20 * RATE)
    assert job.wait(0.1).tick().ema == pytest.approx(WORK / 5.0)


def test_the_tick_is_the_owners() -> None:
    """A longer tick makes the slices longer."""
    job = Job(NEWEST, tick_seconds=60.0).warmed()
    assert job.stall(59.0).ema == pytest.approx(RATE)
    assert job.wait(1.0).tick().ema == pytest.approx(WORK / 60.0)


def test_off_judges_finished_batches_only() -> None:
    """With `inflight` off a stalled batch is seen when it ends, once."""
    job = warmed(Settings(ema_alpha=1.0, window=100, inflight=False)).stall(10 * SLICE)
    assert job.ema == pytest.approx(RATE)
    job.end()
    assert job.ema == pytest.approx(LIMIT / 10)
    assert job.status.streak == 1


def test_without_a_baseline_nothing_is_observed_in_flight() -> None:
    """No slice is known before the first batch after the warm-up."""
    job = Job(NEWEST).batches(1).stall(50 * SLICE)
    assert job.ema is None


def test_the_stand_in_gives_slices() -> None:
    """A second shard's endless second batch is seen."""
    job = warmed().enter("b").batches(1).stall(2 * SLICE)
    assert job.ema == pytest.approx(LIMIT / 2)


def test_slices_count_from_the_start_of_the_batch_even_when_the_baseline_comes_later() -> None:
    """A batch in flight while another thread's batch is the first that anything can be compared with has them all."""
    job = Job(NEWEST).batches(1)
    long = BatchInfo("long", "a", "w", "cuda:0", GENES, WORK)
    job.policy.start_batch(job.t, long)
    job.wait(30.0)
    assert job.baseline is None
    job.batches(1)
    assert job.baseline is not None
    job.wait(7.0).tick()
    assert job.ema == pytest.approx(LIMIT / 2)


def test_the_encode_stage_alone_is_judged_when_the_batch_ends() -> None:
    """The seconds that the driver tells are the batch's own; waiting for a disk is not among them."""
    job = warmed().stall(15.0)
    job.end(seconds=SECONDS)
    assert job.ema == pytest.approx(RATE)


def test_a_batch_that_was_shorter_than_its_slices_is_not_counted_again() -> None:
    """The slices have counted more of it already."""
    job = warmed().stall(3.5 * SLICE)
    job.end(seconds=2.5 * SLICE)
    assert job.ema == pytest.approx(LIMIT / 3)


def test_a_clock_that_jumps_does_not_keep_the_policy_busy() -> None:
    """However long a batch is said to have run, at most a thousand slices are observed."""
    job = warmed()
    job.memory = LOW
    job.begin()
    job.t += 1e12
    job.tick()
    assert job.ema == pytest.approx(LIMIT / 1000)
    assert next(iter(job.policy.state.inflight.values())).slices == 1000
    job.end()
    assert job.ema == pytest.approx(LIMIT / 1000)


@pytest.mark.parametrize("speed", [1 / 20, 1 / 33])
def test_a_first_slice_at_the_limit_does_not_end_a_streak(speed: float) -> None:
    """With the newest rate alone for an EMA, a crawl whose batches do finish is found all the same."""
    job = Job(Settings(ema_alpha=1.0), obeys=False).warmed()
    job.memory = FULL
    job.batches(12, speed)
    assert DETECT in job.issued


@pytest.mark.parametrize("capped", [False, True])
def test_a_batch_that_does_not_end_is_seen_also_when_the_cache_has_just_been_given_back(capped: bool) -> None:
    """The card, or the cap, was full in this worker's life: a flush or a release is no reason to wait for a hang."""
    job = Job(memory=LOW if capped else FULL)
    job.cap = FULL if capped else None
    job.warmed()
    job.memory, job.cap = LOW, LOW if capped else None
    job.batches(20)
    assert job.begin().wait(9 * SLICE).issued[:1] == [DETECT]


@pytest.mark.parametrize("memory", [LOW, None])
def test_where_the_memory_never_was_full_it_is_a_hang(memory: float | None) -> None:
    """Nor where nobody knows any more: a probe that is gone says nothing of this batch."""
    job = Job(memory=LOW if memory else FULL).warmed()
    job.memory = memory
    job.batches(20)
    assert job.begin().wait(20 * SLICE).issued == []


def test_a_fresh_worker_begins_anew() -> None:
    """What was full before it was its predecessor's context."""
    job = Job(memory=FULL).warmed().start_worker()
    job.memory = LOW
    job.batches(20)
    assert job.begin().wait(20 * SLICE).issued == []
