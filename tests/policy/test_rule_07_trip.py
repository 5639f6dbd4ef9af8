"""Rule 7: slow and full for a whole window, and for at least `window` ticks, is a trip."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.model import DecisionKind, Verdict
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DETECT, EMPTY_CACHE, FULL, GENES_RATE, LIMIT, LOW, RATE, RECYCLE, SLICE, Job

NEWEST = Settings(ema_alpha=1.0)


def warmed(settings: Settings = NEWEST, memory: float | None = FULL) -> Job:
    """A job with a baseline that takes no action by itself."""
    job = Job(settings, obeys=False).warmed()
    job.memory = memory
    return job


@pytest.mark.parametrize(("speed", "slow"), [(0.2, False), (0.2 * (1 + 1e-6), False), (0.2 * (1 - 1e-6), True)])
def test_slow_is_below_the_limit(speed: float, slow: bool) -> None:
    """The limit itself, up to rounding, is not slow."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False)).batches(1, speed)
    assert (job.status.streak == 1) is slow


def test_rounding_does_not_make_a_rate_slow() -> None:
    """A rate a hair of 1e-10 below the limit equals it; 1e-8 below is slow."""
    assert warmed(Settings(ema_alpha=1.0, inflight=False)).batches(1, 0.2 * (1 - 1e-10)).status.streak == 0
    assert warmed(Settings(ema_alpha=1.0, inflight=False)).batches(1, 0.2 * (1 - 1e-8)).status.streak == 1


def test_the_ema_is_judged_not_the_single_rate() -> None:
    """One slow batch among healthy ones is not slow."""
    job = warmed(Settings(inflight=False)).batches(1, speed=0.01)
    assert job.status.streak == 0
    assert job.status.verdict is Verdict.HEALTHY


def test_a_window_of_slow_and_full_trips() -> None:
    """The eighth finished batch in a row trips, the seventh does not."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False)).batches(7, speed=0.1)
    assert job.status.streak == 7
    assert job.decisions == []
    job.batches(1, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE]
    assert job.status.episode_open
    assert job.status.streak == 0


@pytest.mark.parametrize("window", [1, 2, 5])
def test_the_window_is_a_knob(window: int) -> None:
    """So many observations, no more."""
    job = warmed(Settings(window=window, ema_alpha=1.0, inflight=False)).batches(window - 1, speed=0.02)
    assert job.decisions == []
    assert job.batches(1 if window > 1 else 2, speed=0.02).issued == [DETECT, EMPTY_CACHE]


@pytest.mark.parametrize("memory", [LOW, None])
def test_anything_else_starts_the_streak_again(memory: float | None) -> None:
    """A slow observation under a memory that is low, or unknown, sets it to 0."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False)).batches(7, speed=0.1)
    job.memory = memory
    job.wait(61.0).batches(1, speed=0.1)
    assert job.status.streak == 0
    job.memory = FULL
    assert job.batches(7, speed=0.1).decisions == []
    assert job.batches(1, speed=0.1).issued == [DETECT, EMPTY_CACHE]


def test_a_healthy_observation_starts_the_streak_again() -> None:
    """Seven, a healthy one, seven: no trip."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False))
    for _ in range(5):
        job.batches(7, speed=0.1).batches(1)
        assert job.status.streak == 0
    assert job.decisions == []


def test_a_streak_lasts_at_least_a_window_of_ticks() -> None:
    """Batches of half a second fill a window in no time; the trip waits for 40 s."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), obeys=False)
    job.batches(9, speed=80.0)
    job.memory = FULL
    job.batches(1, speed=8.0)
    began = job.t
    while not job.decisions:
        job.batches(1, speed=8.0)
    assert job.decisions[0].t - began == pytest.approx(40.0)
    assert job.decisions[0].evidence["streak"] == 81


def test_the_ticks_are_the_owners() -> None:
    """With ticks of one second, eight seconds are enough."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), obeys=False, tick_seconds=1.0)
    job.batches(9, speed=80.0)
    job.memory = FULL
    job.batches(1, speed=8.0)
    began = job.t
    while not job.decisions:
        job.batches(1, speed=8.0)
    assert job.decisions[0].t - began == pytest.approx(8.0)


@pytest.mark.parametrize("settings", [NEWEST, Settings(), Settings(ema_alpha=0.01)])
def test_an_endless_batch_trips_while_it_runs(settings: Settings) -> None:
    """A window of slices of one batch is a window, whatever the EMA remembers."""
    job = warmed(settings).stall(8 * SLICE - 1)
    assert job.decisions == []
    job.wait(1.0).tick()
    assert job.issued == [DETECT, EMPTY_CACHE]
    assert job.decisions[0].t == pytest.approx(job.began + 8 * SLICE)
    assert (job.decisions[0].evidence["streak"], job.decisions[0].evidence["ratio"]) == (8, pytest.approx(0.025))


def test_slices_between_two_ticks_trip_at_their_own_time() -> None:
    """The decision carries the moment of its observation, not of the late tick."""
    job = warmed().begin().wait(20 * SLICE, ticks=False).read_memory().tick()
    assert job.decisions[0].t == pytest.approx(job.began + 8 * SLICE)


def test_a_window_of_slices_counts_anew_where_the_memory_was_not_full() -> None:
    """Five slices before the card was full are no evidence, and one of which nothing is known ends the count."""
    job = warmed(Settings(ema_alpha=0.01), memory=LOW).stall(5 * SLICE)
    job.memory = FULL
    assert job.wait(7 * SLICE).tick().decisions == []
    assert job.wait(SLICE).tick().issued == [DETECT, EMPTY_CACHE]
    job = warmed(Settings(ema_alpha=0.01), memory=None).stall(50 * SLICE)
    assert job.decisions == []


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0])
def test_the_next_window_of_slices_begins_behind_a_trip(alpha: float) -> None:
    """One batch trips once a window, whatever the EMA does."""
    job = warmed(Settings(ema_alpha=alpha, action="off")).stall(40 * SLICE)
    assert job.policy.state.trips == 5
    assert job.issued == [DETECT]


def test_off_detects_only() -> None:
    """Every crawl is counted once, and nothing is asked for."""
    job = warmed(Settings(ema_alpha=1.0, action="off", inflight=False)).batches(60, speed=0.1)
    assert job.issued == [DETECT]
    assert len(job.decisions) == 1
    assert (job.status.rung, job.pending) == (0, None)


def test_a_crawl_is_detected_once_however_many_rungs_it_takes() -> None:
    """Only the trip that opens the episode is a DETECT."""
    job = Job(Settings(ema_alpha=1.0, inflight=False)).warmed()
    job.memory = FULL
    job.batches(8, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE]
    job.batches(8, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]


def test_the_trip_says_what_it_saw() -> None:
    """Rates in genes a second, ratios as judged, and the whole streak."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False)).batches(8, speed=0.1)
    first = job.decisions[0]
    assert (first.what, first.shard, first.device, first.worker) == (DecisionKind.ISSUE, "a", "cuda:0", "w")
    assert first.evidence == {
        "rate": pytest.approx(0.1 * GENES_RATE),
        "ema": pytest.approx(0.1 * GENES_RATE),
        "baseline": pytest.approx(GENES_RATE),
        "limit": pytest.approx(GENES_RATE / 5),
        "ratio": pytest.approx(0.1),
        "limit_ratio": pytest.approx(0.2),
        "streak": 8,
        "memory_fraction": pytest.approx(FULL),
        "inflight_seconds": None,
        "baseline_source": "shard",
        "shared_bytes": None,
        "shared_rise_bytes": None,
        "other_shared_bytes": None,
    }
    assert first.reason == ("crawl detected: 10 % of the shard's baseline for 8 observations, memory 99.0 % full")
    assert job.decisions[1].reason.startswith("release the cache: ")


def test_a_trip_in_flight_says_how_long_the_batch_has_been_running() -> None:
    """The evidence has its age and the bound of its rate."""
    job = warmed().stall(8 * SLICE)
    evidence = job.decisions[0].evidence
    assert evidence["inflight_seconds"] == pytest.approx(8 * SLICE)
    assert evidence["rate"] == pytest.approx(GENES_RATE / 5 / 8)
    assert job.decisions[0].reason.endswith("memory 99.0 % full, a batch running for 160 s")


def test_the_count_of_trips_is_kept() -> None:
    """Trips, not crawls: each full window."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False)).batches(24, speed=0.1)
    assert job.policy.state.trips == 2  # the third waits for the RECYCLE that the second asked for
    assert job.baseline == pytest.approx(RATE)
    assert job.ema is not None
    assert job.ema < LIMIT


@pytest.mark.parametrize(("after", "trips"), [(0.7, True), (0.91, True), (0.69, False), (None, False)])
def test_a_streak_that_a_full_memory_has_begun_goes_on_near_it(after: float | None, trips: bool) -> None:
    """A release by need gives back what was cached; a context that has spilled stays slow. A card with room does not
    crawl, whatever was before, nor one that nobody can read."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False)).batches(1, speed=0.1)
    job.memory, job.t = after, job.t + 61.0  # the last reading counts for a minute
    job.batches(7, speed=0.1)
    assert (job.issued == [DETECT, EMPTY_CACHE]) is trips


def test_a_memory_that_is_near_full_begins_no_streak() -> None:
    """Nor does one that was full while the card was well: throttling beside an emptied cache is no crawl."""
    job = warmed(Settings(ema_alpha=1.0, inflight=False)).batches(3)
    job.memory = 0.91
    assert job.batches(20, speed=0.1).issued == []
