"""When a driver gives cached memory back without being asked: by need, at a boundary. No rung of the ladder.

A cache that is only full of air is not "full", and a card that throttles beside one does not crawl: what the next batch
cannot use goes before it makes a slow card look like a spilled one, and before the next batch has no room left.

A worker, or the modelled card, drives it so, once all that it has encoded is committed:

    if need.is_due(now, fullest(reading), cached_bytes, lambda: streak):
        ...                                       # release, for `seconds`
        need.released(now + seconds, seconds)

Source: DESIGN.md, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from helix_crawl_otel.policy.memory import AnyReading

__all__ = ["ReleaseByNeed", "fullest"]

ALWAYS, NEVER = 0.90, 0.70
"""Parts of the memory in use from which a release is due whatever the batches add, and below which it never is."""

ROOM = 0.98
"""The next batch, should it add as much as the largest rise so far, ends below this part."""

COSTS = 20
"""Releases take a twentieth of the time at most."""

MOST_DOUBLINGS = 5
"""The interval grows to 32 times while releases do not help."""

COSTS_KEPT = 8


def fullest(reading: AnyReading) -> float | None:
    """How full it is, by whichever is fuller: the device with all that others hold there, or the allocator's cap.

    Returns:
        A fraction, 0 or more; `None` when neither is known.
    """
    known = [part for part in (reading.fraction, reading.cap_fraction) if part is not None]
    return max(known, default=None)


@dataclass
class ReleaseByNeed:
    """Of one worker, from its start to its end.

    Args:
        largest_rise: Of the level by one batch, as a fraction. What the first batch of a worker takes, or the first one
            after a release, is no rise: it takes what it needs, and not more than before.
        doublings: Of the interval, 0 to 5.
        costs: Seconds of the newest releases.
        level: At the boundary before; `None` at the start, after a release, and where it was unknown.
        released_at: When the last release ended, in seconds.
        is_fresh: No level has been known since then.

    Threads: one at a time.
    """

    largest_rise: float = 0.0
    doublings: int = 0
    costs: list[float] = field(default_factory=list)
    level: float | None = None
    released_at: float | None = None
    is_fresh: bool = False

    @property
    def threshold(self) -> float:
        """The level from which a release is due: `min(0.90, max(0.70, 0.98 - largest_rise))`."""
        return min(ALWAYS, max(NEVER, ROOM - self.largest_rise))

    @property
    def interval_seconds(self) -> float:
        """Least time between two releases: 20 times what one costs, doubled up to 32 times. 0 before the first one."""
        if not self.costs:
            return 0.0
        return COSTS * median(self.costs) * (1 << self.doublings)

    def is_due(self, t: float, level: float | None, cached_bytes: int | None, streak: Callable[[], int]) -> bool:
        """Take what a boundary shows, and say whether to release there. To be called at each, once.

        Args:
            t: Seconds.
            level: See `fullest`.
            cached_bytes: What the allocator holds and no tensor uses: 0 is nothing to release. `None` is unknown.
            streak: Of the shard. With one a crawl may have begun, and a release would hide the reading that proves it.
                Asked for only when all else says yes.
        """
        before, self.level = self.level, level
        if level is None:
            return False
        if self.is_fresh:
            self.is_fresh = False
            self.doublings = min(self.doublings + 1, MOST_DOUBLINGS) if level >= self.threshold else 0
        elif before is not None:
            self.largest_rise = max(self.largest_rise, level - before)
        has_waited = self.released_at is None or t >= self.released_at + self.interval_seconds
        return level >= self.threshold and cached_bytes != 0 and has_waited and streak() == 0

    def released(self, t: float, seconds: float | None) -> None:
        """Say that a release has ended at `t` after `seconds`, by need or because the ladder asked for it.

        Args:
            t: Seconds.
            seconds: What it has cost; `None` for unknown.
        """
        if seconds is not None:
            self.costs = [*self.costs, seconds][-COSTS_KEPT:]
        self.released_at, self.level, self.is_fresh = t, None, True
