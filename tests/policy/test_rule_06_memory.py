"""Rule 6: memory is full when the highest reading since the batch began is at least `vram_full` of the limit."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.memory import MemoryTrack
from helix_crawl_otel.policy.model import MemoryReading, Verdict
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import FULL, GENES, LOW, SLICE, WORK, Job, reading

NEWEST = Settings(ema_alpha=1.0, window=100)


def warmed(settings: Settings = NEWEST, memory: float | None = None) -> Job:
    """A job with a baseline; the memory is unknown unless a test says otherwise."""
    job = Job(settings, memory=memory)
    return job.warmed()


QUICK = Settings(factor=2.0, ema_alpha=1.0, window=100)


def finish_slow(job: Job) -> bool:
    """End the batch in flight as a slow one; whether it counted as full."""
    before = job.status.streak
    job.end()
    return job.status.streak > before


@pytest.mark.parametrize(
    ("fraction", "vram_full", "full"),
    [
        (0.92, 0.92, True),
        (0.9199, 0.92, False),
        (0.5, 0.5, True),
        (1.0, 1.0, True),
        (0.999, 1.0, False),
        (1.2, 1.0, True),
    ],
)
def test_full_is_at_least_the_knobs_fraction(fraction: float, vram_full: float, full: bool) -> None:
    """The fraction itself is full, and so is more than the device has."""
    job = warmed(Settings(factor=2.0, ema_alpha=1.0, window=100, vram_full=vram_full))
    job.begin().wait(10.0, ticks=False).read_memory(fraction)
    assert finish_slow(job) is full
    assert job.status.verdict is (Verdict.CRAWLING if full else Verdict.SLOW)


def test_the_highest_reading_since_the_batch_began_counts() -> None:
    """The periodic release has just run when the batch ends; what was before it counts."""
    job = warmed(QUICK).begin().wait(2.0, ticks=False).read_memory(FULL)
    job.wait(2.0, ticks=False).read_memory(0.7).wait(2.0, ticks=False).read_memory(0.3).wait(4.0, ticks=False)
    assert finish_slow(job)


def test_a_higher_reading_later_counts_as_well() -> None:
    """Rising memory is full from the reading on that says so."""
    job = warmed(QUICK).begin().read_memory(0.3).wait(2.0, ticks=False).read_memory(0.8)
    job.wait(2.0, ticks=False).read_memory(FULL).wait(6.0, ticks=False)
    assert finish_slow(job)


def test_a_reading_before_the_batch_does_not_count_beside_one_since() -> None:
    """The card was full a moment ago, and is not now."""
    job = warmed(QUICK).read_memory(FULL).wait(1.0, ticks=False).begin().wait(2.0, ticks=False).read_memory(LOW)
    job.wait(8.0, ticks=False)
    assert not finish_slow(job)


def test_a_reading_at_the_very_start_of_the_batch_counts() -> None:
    """Since it began includes the moment it began."""
    job = warmed(QUICK).begin().read_memory(FULL).wait(2.0, ticks=False).read_memory(LOW).wait(8.0, ticks=False)
    assert finish_slow(job)


def test_a_batch_whose_start_was_not_told_began_its_seconds_before() -> None:
    """A driver that times itself is judged by the readings since then, no more and no fewer."""
    for seconds, full in ((10.0, True), (5.0, False)):
        job = warmed(QUICK).read_memory(LOW).wait(2.0, ticks=False).read_memory(FULL)
        job.wait(4.0, ticks=False).read_memory(LOW).wait(4.0, ticks=False)
        info = BatchInfo("untold", "a", "w", "cuda:0", GENES, WORK * seconds / 10)
        job.policy.finish_batch(job.t, info, seconds)
        assert (job.status.streak > 0) is full


@pytest.mark.parametrize(("age", "full"), [(50.0, True), (60.0, True), (60.5, False), (1000.0, False)])
def test_with_no_reading_since_the_last_one_counts_for_60_seconds(age: float, full: bool) -> None:
    """Age at the observation, not at the start of the batch."""
    job = warmed(QUICK).read_memory(FULL).wait(age - 10.0, ticks=False).begin().wait(10.0, ticks=False)
    assert finish_slow(job) is full


def test_a_stale_reading_is_unknown_in_flight_too() -> None:
    """A probe that died before the batch stops counting in the middle of it."""
    job = warmed(Settings(window=100, ema_alpha=1.0)).read_memory(FULL).wait(1.0, ticks=False)
    job.begin().wait(2 * SLICE).tick()
    assert job.status.streak == 1
    job.wait(2 * SLICE).tick()
    assert job.status.streak == 0
    assert job.status.verdict is Verdict.UNKNOWN


def test_unknown_is_not_full() -> None:
    """No probe, no limit or no usage: nothing counts."""
    for unknown in (MemoryReading(None, None), MemoryReading(11_900_000_000, None), MemoryReading(None, 12)):
        job = warmed(QUICK).begin().wait(10.0, ticks=False)
        job.policy.read_memory(job.t, "cuda:0", unknown)
        assert not finish_slow(job)
        assert job.status.verdict is Verdict.UNKNOWN
        assert job.status.memory_fraction is None


def test_an_unknown_reading_takes_nothing_back() -> None:
    """One failed reading does not hide the full one before it in the same batch, nor make it younger."""
    job = warmed(QUICK).begin().read_memory(FULL).wait(5.0, ticks=False)
    job.policy.read_memory(job.t, "cuda:0", reading(None))
    job.wait(5.0, ticks=False)
    assert finish_slow(job)
    job.wait(61.0, ticks=False)
    job.policy.read_memory(job.t, "cuda:0", reading(None))
    assert not finish_slow(job.begin().wait(10.0, ticks=False))


def test_a_reading_belongs_to_one_device() -> None:
    """Another card being full is none of this shard's business."""
    job = warmed(QUICK).begin().wait(10.0, ticks=False)
    job.policy.read_memory(job.t, "cuda:1", reading(FULL))
    job.policy.read_memory(job.t, "cuda:0", reading(LOW))
    assert not finish_slow(job)


def test_the_status_shows_the_newest_reading() -> None:
    """Not the highest, and nothing once it is stale."""
    job = warmed().read_memory(FULL).wait(1.0).read_memory(LOW)
    assert job.status.memory_fraction == pytest.approx(LOW)
    job.wait(60.0)
    assert job.status.memory_fraction == pytest.approx(LOW)
    job.wait(0.1)
    assert job.status.memory_fraction is None


def test_a_clock_that_steps_back_does_not_hide_the_highest_reading() -> None:
    """Readings are taken as not before the previous one, so that the search finds its way."""
    track = MemoryTrack()
    for t, fraction in ((100.0, FULL), (50.0, 0.9), (51.0, 0.8)):
        track.add(t, reading(fraction))
    assert track.highest(60.0, 101.0) == pytest.approx(FULL)


def test_readings_of_a_clock_that_steps_back_are_kept_in_order() -> None:
    """The newest is the last one taken, not the one with the highest time."""
    job = warmed(QUICK).read_memory(FULL)
    job.t -= 3.0
    job.read_memory(0.6)
    job.t += 4.0
    job.begin().wait(10.0, ticks=False).read_memory(LOW)
    assert not finish_slow(job)
    assert job.status.memory_fraction == pytest.approx(LOW)


def test_a_reading_without_a_time_is_none() -> None:
    """A reading whose time is not a number would never grow old."""
    for t in (float("nan"), float("inf")):
        job = warmed(QUICK)
        job.policy.read_memory(t, "cuda:0", reading(FULL))
        assert not finish_slow(job.begin().wait(10.0, ticks=False))


@pytest.mark.parametrize(
    ("used", "limit", "name"),
    [(-1, 10, "used_bytes"), (1, 0, "limit_bytes"), (float("nan"), 10, "used_bytes"), (1, -5, "limit_bytes"),
     (True, 10, "used_bytes"), ("1", 10, "used_bytes"), (10**400, 10, "used_bytes")],
)  # fmt: skip
def test_a_reading_that_cannot_be_is_refused(used: int, limit: int, name: str) -> None:
    """The message names the field and what is accepted."""
    with pytest.raises(ValueError, match=f"MemoryReading.{name} is .*; accepted: .* or None"):
        MemoryReading(used, limit)


def test_a_reading_of_the_moment_of_the_start_counts_whatever_rounding_does() -> None:
    """A driver that times itself tells an end and a duration; the start is their difference, a hair too late."""
    track = MemoryTrack()
    track.add(1000.0, reading(FULL))
    track.add(1000.5, reading(LOW))
    assert track.highest(1000.0 + 1e-7, 5000.0) == FULL
    assert track.highest(1000.1, 5000.0) == LOW


@pytest.mark.parametrize("memory", [LOW, None])
@pytest.mark.parametrize(("cap", "full"), [(0.92, True), (0.9199, False), (1.01, True), (None, False)])
def test_under_a_cap_what_the_allocator_holds_of_it_counts_too(
    memory: float | None, cap: float | None, full: bool
) -> None:
    """The allocator gives back and tries again beyond it: the card itself never gets full."""
    job = warmed(QUICK)
    job.memory, job.cap = memory, cap
    job.begin().wait(10.0, ticks=False)
    assert finish_slow(job) is full


def test_a_cap_that_is_not_reached_does_not_make_a_full_card_less_full() -> None:
    """Whichever is fuller."""
    job = warmed(QUICK)
    job.memory, job.cap = FULL, 0.1
    job.begin().wait(10.0, ticks=False)
    assert finish_slow(job)


def test_the_cap_follows_the_knob_and_is_named_in_the_reason() -> None:
    """A stall under a cap is answered as one under a full card is; unknown counts for 60 s, as there."""
    job = Job(Settings(vram_full=0.8), memory=LOW, obeys=False).warmed()
    job.cap = 0.81
    job.stall(8 * SLICE)
    assert job.decisions[0].reason == (
        "crawl detected: 2.5 % of the shard's baseline for 8 observations, memory 50.0 % full, "
        "81.0 % of the allocator's cap reserved, a batch running for 160 s"
    )
    assert job.decisions[0].evidence["memory_fraction"] == pytest.approx(LOW)
