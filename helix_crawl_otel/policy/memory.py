"""Remembers how full a device has been, so that a batch can be judged by the highest reading since it began.

Sampling at the batch boundary alone is wrong: the periodic release of the cache has just run.

Source: DESIGN.md, section 4, rule 6.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from helix_crawl_otel.policy.model import MemoryReading

__all__ = ["STALE_SECONDS", "MemoryTrack", "Peaks"]

STALE_SECONDS = 60.0
"""With no reading since the batch began, the last one counts for so long."""

SAME_MOMENT_SECONDS = 0.001
"""A reading made when a batch began counts for it, although its start may be a time less a duration, and rounded."""

_KEPT = 4096


@dataclass
class Peaks:
    """One number read again and again.

    `peaks` holds (t, value) with falling values: a reading that a later one reaches is never the highest since any
    moment, so it can go. The first peak at or after a moment is the highest reading since then.
    """

    peaks: list[tuple[float, float]] = field(default_factory=list)
    known_at: float | None = None

    def put(self, t: float, value: float | None) -> None:
        """Take a reading of time `t`, in seconds, not before the previous one. An unknown one adds nothing."""
        if value is None or not math.isfinite(t):
            return
        if self.known_at is not None and t < self.known_at:
            t = self.known_at  # a clock that steps back must not unsort the peaks
        while self.peaks and self.peaks[-1][1] <= value:
            self.peaks.pop()
        self.peaks.append((t, value))
        del self.peaks[:-_KEPT]
        self.known_at = t

    def highest(self, since: float, now: float) -> float | None:
        """Highest value from `since` on; else the last one if it is at most 60 s old at `now`; else `None`."""
        at = bisect_left(self.peaks, (since - SAME_MOMENT_SECONDS, -1.0))
        if at < len(self.peaks):
            return self.peaks[at][1]
        return self.newest(now)

    def newest(self, now: float) -> float | None:
        """The last known value if it is at most 60 s old at `now`, else `None`."""
        if self.known_at is None or now - self.known_at > STALE_SECONDS:
            return None
        return self.peaks[-1][1]


@dataclass
class MemoryTrack(Peaks):
    """Readings of one device: the fraction of its dedicated memory in use and, where it is known, shared memory.

    Args:
        shared: Bytes of shared memory of the workers.
        other_shared: Those of everybody else.
    """

    shared: Peaks = field(default_factory=Peaks)
    other_shared: Peaks = field(default_factory=Peaks)

    def add(self, t: float, reading: MemoryReading) -> None:
        """Take a reading of time `t`, in seconds, not before the previous one. What is unknown in it adds nothing."""
        self.put(t, reading.fraction)
        self.shared.put(t, reading.shared_bytes)
        self.other_shared.put(t, reading.other_shared_bytes)
