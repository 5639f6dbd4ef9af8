"""Remembers how full a device has been, so that a batch can be judged by the highest reading since it began, and what a
worker held in shared memory in its first batches, so that a rise can be told.

Sampling at the batch boundary alone is wrong: the periodic release of the cache has just run.

Shared memory is system memory that the driver lends the card. A healthy worker holds some, and how much depends on the
driver and the framework; so not the amount counts but the rise.

Source: DESIGN.md, section 4, rule 6; the signature in INCIDENTS.md: shared memory rising.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Protocol

from helix_crawl_otel.formats import MIB

__all__ = ["RISE_BYTES", "STALE_SECONDS", "AnyReading", "MemoryTrack", "Peaks", "Shared", "SharedFloor"]

STALE_SECONDS = 60.0
"""With no reading since the batch began, the last one counts for so long."""

SAME_MOMENT_SECONDS = 0.001
"""A reading made when a batch began counts for it, although its start may be a time less a duration, and rounded; and
one that is 60 s old in the job is so in its timeline, whose times are rounded."""

RISE_BYTES = 512 * MIB
"""A rise by more than that counts as full. What a driver shifts about on its own is less, what an encoder spills more:
a batch of BGE-M3 alone takes gigabytes."""


class AnyReading(Protocol):
    """What counts of a `MemoryReading`, or of a timeline's line of one."""

    @property
    def fraction(self) -> float | None:
        """Dedicated memory in use, over the limit; `None` when either is unknown."""

    @property
    def cap_fraction(self) -> float | None:
        """What the framework's allocator has taken, over its cap; `None` when either is unknown."""

    @property
    def shared_bytes(self) -> int | None:
        """Of the workers; `None` is unknown."""

    @property
    def other_shared_bytes(self) -> int | None:
        """Of everybody else."""


_PEAKS_KEPT = 4096
_LOWS_KEPT = 64


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
        if len(self.peaks) > _PEAKS_KEPT:
            del self.peaks[0]
        self.known_at = t

    def highest(self, since: float, now: float) -> float | None:
        """Highest value from `since` on; else the last one if it is at most 60 s old at `now`; else `None`."""
        if not self.peaks:
            return None
        at = bisect_left(self.peaks, (since - SAME_MOMENT_SECONDS, -1.0))
        if at < len(self.peaks):
            return self.peaks[at][1]
        return self.newest(now)

    def newest(self, now: float) -> float | None:
        """The last known value if it is at most 60 s old at `now`, else `None`."""
        if self.known_at is None or now - self.known_at > STALE_SECONDS + SAME_MOMENT_SECONDS:
            return None
        return self.peaks[-1][1]


@dataclass
class MemoryTrack(Peaks):
    """Readings of one device: the fraction of its dedicated memory in use and, where they are known, the fraction of
    the allocator's cap that it holds and shared memory.

    Args:
        cap: What the framework's allocator holds, over what it may take.
        shared: Bytes of shared memory of the workers.
        other_shared: Those of everybody else.
    """

    cap: Peaks = field(default_factory=Peaks)
    shared: Peaks = field(default_factory=Peaks)
    other_shared: Peaks = field(default_factory=Peaks)

    def add(self, t: float, reading: AnyReading) -> None:
        """Take a reading of time `t`, in seconds, not before the previous one. What is unknown in it adds nothing."""
        self.put(t, reading.fraction)
        if (of_cap := reading.cap_fraction) is not None:
            self.cap.put(t, of_cap)
        if reading.shared_bytes is not None:
            self.shared.put(t, reading.shared_bytes)
        if reading.other_shared_bytes is not None:
            self.other_shared.put(t, reading.other_shared_bytes)


@dataclass(frozen=True, slots=True)
class Shared:
    """Shared memory as an observation sees it, in bytes; `None` is unknown.

    Args:
        used: Highest of the worker's since the batch began.
        rise: The same over the worker's floor.
        other: The newest of everybody else's.
    """

    used: int | None = None
    rise: int | None = None
    other: int | None = None

    @property
    def is_spill(self) -> bool:
        """Whether the worker holds more than 512 MiB beyond what it held in its first batches."""
        return self.rise is not None and self.rise > RISE_BYTES


@dataclass
class SharedFloor:
    """The lowest reading between a worker's start and the end of its `warmup + 1`-th batch; else the first one after.

    From the start on, not from the first batch on: a worker whose model has spilled while it was loaded is slow from
    its first batch, and that reading must not be what is healthy. Before its process holds anything on the card the
    readings are unknown, not 0.

    Args:
        since: When the worker was started, in seconds. A reading of that moment is its predecessor's.
        finished: Batches that it has ended.
        settled_at: When the `warmup + 1`-th of them ended, `None` before.
        lows: (t, bytes), each lower than the one before. Times decide, not the order of the calls: the end of a batch
            may be told after a later reading.
    """

    since: float
    finished: int = 0
    settled_at: float | None = None
    lows: list[tuple[float, int]] = field(default_factory=list)

    def add(self, t: float, shared_bytes: int) -> None:
        """Take a reading."""
        if not (math.isfinite(t) and t > self.since):
            return
        if self.lows and (self.lows[-1][1] <= shared_bytes or self._is_settled(t)):
            return
        self.lows.append((t, shared_bytes))
        del self.lows[:-_LOWS_KEPT]

    def finish_batch(self, t: float, warmup: int) -> None:
        """A batch of the worker has ended at `t`."""
        self.finished += 1
        if self.finished == warmup + 1 and math.isfinite(t):
            self.settled_at = t

    @property
    def value(self) -> int | None:
        """Bytes; `None` before the first reading."""
        if not self.lows:
            return None
        first, *later = self.lows
        return min([first[1], *(low for t, low in later if not self._is_settled(t))])

    def _is_settled(self, t: float) -> bool:
        return self.settled_at is not None and t > self.settled_at
