"""Remembers what a worker held in shared memory in its first batches, so that a rise can be told.

Shared memory is system memory that the driver lends the card. A healthy worker holds some, and how much depends on the
driver and the framework; so not the amount counts but the rise.

Source: DESIGN.md, section 4, rule 6; the signature in INCIDENTS.md: shared memory rising.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["RISE_BYTES", "Shared", "SharedFloor"]

RISE_BYTES = 512 * 1024**2
"""A rise by more than that counts as full. What a driver shifts about on its own is less, what an encoder spills more:
a batch of BGE-M3 alone takes gigabytes."""

_KEPT = 64


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
        del self.lows[:-_KEPT]

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
