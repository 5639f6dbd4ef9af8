"""Release by need: at a boundary, without a streak, where the cache leaves the next batch no room."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.release import ReleaseByNeed, fullest
from tests.policy.timeline import reading

MIB = 1024**2


def due(need: ReleaseByNeed, level: float | None, t: float = 0.0, cached: int | None = MIB, streak: int = 0) -> bool:
    """A boundary."""
    return need.is_due(t, level, cached, lambda: streak)


@pytest.mark.parametrize(
    ("used", "cap", "level"),
    [(0.5, None, 0.5), (0.5, 0.9, 0.9), (0.9, 0.5, 0.9), (None, 0.4, 0.4), (None, None, None), (1.2, 0.1, 1.2)],
)
def test_the_fuller_of_the_card_and_the_cap_counts(used: float | None, cap: float | None, level: float | None) -> None:
    """The card with all that others hold there; unknown is neither."""
    assert fullest(reading(used, cap=cap)) == (None if level is None else pytest.approx(level))


@pytest.mark.parametrize(
    ("rise", "threshold"),
    [(0.0, 0.90), (0.05, 0.90), (0.08, 0.90), (0.1, 0.88), (0.2, 0.78), (0.28, 0.70), (0.5, 0.70)],
)
def test_the_threshold_leaves_room_for_the_largest_rise(rise: float, threshold: float) -> None:
    """`min(0.90, max(0.70, 0.98 - rise))`: exactly from there on it is due."""
    assert ReleaseByNeed(rise).threshold == pytest.approx(threshold)
    assert due(ReleaseByNeed(rise), threshold + 1e-9)
    assert not due(ReleaseByNeed(rise), threshold - 1e-6)


def test_the_largest_rise_is_that_of_one_batch() -> None:
    """From boundary to boundary; falls and the very first batch are none, nor is one over an unknown level."""
    need = ReleaseByNeed()
    for level in (0.6, 0.62, 0.50, 0.65, None, 0.2, 0.25):
        assert not due(need, level)
    assert need.largest_rise == pytest.approx(0.15)


def test_what_the_first_batch_after_a_release_takes_back_is_no_rise() -> None:
    """It takes what it needs; the next one may add to that."""
    need = ReleaseByNeed()
    assert due(need, 0.95)
    need.released(1.0, 1.0)
    due(need, 0.6, 2.0)
    assert need.largest_rise == 0.0
    due(need, 0.7, 3.0)
    assert need.largest_rise == pytest.approx(0.1)


@pytest.mark.parametrize(("cached", "expected"), [(0, False), (1, True), (None, True)])
def test_only_what_is_cached_can_be_given_back(cached: int | None, expected: bool) -> None:
    """Tensors stay; where nobody knows, it is tried."""
    assert due(ReleaseByNeed(), 0.95, cached=cached) is expected


@pytest.mark.parametrize(("streak", "expected"), [(0, True), (1, False), (7, False)])
def test_with_a_streak_it_would_hide_a_crawl(streak: int, expected: bool) -> None:
    """The reading is what proves it."""
    assert due(ReleaseByNeed(), 0.95, streak=streak) is expected


def test_the_streak_is_asked_for_last() -> None:
    """The supervisor may have to be asked."""

    def asked() -> int:
        raise AssertionError("asked")

    need = ReleaseByNeed()
    assert not need.is_due(0.0, 0.5, MIB, asked)
    assert not need.is_due(0.0, 0.95, 0, asked)
    assert not need.is_due(0.0, None, MIB, asked)


def test_an_unknown_level_is_not_full() -> None:
    """Where there are no readings nothing is released by need."""
    assert not due(ReleaseByNeed(), None)


@pytest.mark.parametrize(("seconds", "interval"), [(0.5, 10.0), (3.0, 60.0), (0.01, 0.2)])
def test_releases_take_a_twentieth_of_the_time_at_most(seconds: float, interval: float) -> None:
    """20 times what one costs, from the end of the last one."""
    need = ReleaseByNeed()
    need.released(100.0, seconds)
    assert not due(need, 0.5, 100.0)
    assert not due(need, 0.95, 100.0 + interval - 0.01)
    assert due(need, 0.95, 100.0 + interval)


def test_the_cost_is_the_median_of_the_newest_eight() -> None:
    """One release that met a busy driver does not count for ever."""
    need = ReleaseByNeed()
    for seconds in (9.0, 9.0, *([1.0] * 5), 60.0, 1.0, 1.0):
        need.released(0.0, seconds)
    assert len(need.costs) == 8
    assert need.interval_seconds == pytest.approx(20.0)


def test_where_the_next_batch_is_as_full_the_interval_doubles_to_32_times() -> None:
    """The memory is in use, or others have it; as soon as a release helps it is 20 times the cost again."""
    need, t, gaps = ReleaseByNeed(), 0.0, []
    for _ in range(8):
        need.released(t, 1.0)
        began = t
        while not due(need, 0.95, t := t + 1.0):
            pass
        gaps.append(t - began)
    assert gaps == [40.0, 80.0, 160.0, 320.0, 640.0, 640.0, 640.0, 640.0]
    need.released(t, 1.0)
    assert not due(need, 0.6, t + 1.0)
    assert need.interval_seconds == pytest.approx(20.0)


def test_only_the_first_batch_after_a_release_says_whether_it_helped() -> None:
    """That the cache is full again a hundred batches later is why there are releases."""
    need = ReleaseByNeed()
    need.released(0.0, 1.0)
    for t in range(1, 60):
        due(need, 0.5 + 0.01 * t, float(t))
    assert need.doublings == 0
