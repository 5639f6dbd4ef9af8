"""A batch while it runs, and the slices it is observed in: a batch that never ends is seen all the same.

Source: DESIGN.md, section 4, rules 4, 5 and 11.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from helix_crawl_otel.policy.baseline import ROUNDING, SMALL_BATCH, Baseline

__all__ = ["HANG_SECONDS", "REST_SECONDS", "Batch", "BatchInfo", "RunningBatch", "is_small"]

MAX_SLICES = 1000
"""Slices observed of one batch. By then its rate is a thousandth of the limit and every rung has been asked for; the
bound keeps a clock that jumps from keeping the policy busy."""

REST_SECONDS = 30.0
"""A batch that is expected to run for longer than that keeps no action from its boundary."""

HANG_SLICES = 100
HANG_SECONDS = 1800.0
"""A batch older than both is a hang, not a crawl (rule 11)."""

BUSY_SECONDS = 86_400.0
"""On the CPU, one whose worker goes on using the processor may take a day: a large model on a small machine does a gene
a minute. A card's driver spins while it waits, so that there a busy process is no sign of life."""


def is_small(work: float, baseline: Baseline) -> bool:
    """Whether the rate of a batch is all overhead (rule 4)."""
    return work < SMALL_BATCH * baseline.work


@dataclass(slots=True)  # and never changed: a frozen one takes three times as long to make
class BatchInfo:
    """What a driver says of a batch, before it is known whether that can be judged.

    Args:
        id: Unique among the batches in flight.
        shard: Name of the shard.
        worker: Name of the worker.
        device: Device of the worker.
        genes: Passages.
        work: Cost in the driver's unit, `None` to be judged by genes.
        first: In a build, the id of its first gene; `None` where nobody needs to know.
        read_seconds: What the stage before it took, `None` where nobody knows.
        tokens: Those of its passages without padding, in the unit of `work`; `None` where nobody knows. Not judged.
    """

    id: str
    shard: str
    worker: str
    device: str
    genes: float
    work: float | None = None
    first: str | None = None
    read_seconds: float | None = None
    tokens: float | None = None


RunningBatch = tuple[BatchInfo, float]
"""A batch and when it began, in seconds."""


@dataclass
class Batch:
    """One batch of the encode stage.

    Args:
        info: What its driver has said of it.
        work: Cost in the shard's unit, more than 0.
        started: Seconds.
        warmup: One of the first batches of its worker: never judged, except as a hang.
        slice_seconds: Time that a shard at its limit would need, `None` while no baseline is known.
        weighed: Work it is judged by, see `BaselineMeter.weigh`; 0 while no baseline is known.
        slices: Slices observed so far.
        full_slices: The newest of them in a row under a memory that is full, or was since the worker's start; since
            the last trip.
        hung: Reported as a hang.
        is_answered: A rung was asked for while it ran, and nobody can end it (rule 8): it brings no second one.
        counted_seconds: Of its time, so much is in the costs of its shard already.
    """

    info: BatchInfo
    work: float
    started: float
    warmup: bool = False
    slice_seconds: float | None = None
    weighed: float = 0.0
    slices: int = 0
    full_slices: int = 0
    hung: bool = False
    is_answered: bool = False
    counted_seconds: float = 0.0

    def __post_init__(self) -> None:
        info = self.info  # which is asked for these some twenty times a batch
        self.id = info.id
        self.shard = info.shard
        self.worker = info.worker
        self.device = info.device
        self.genes = info.genes

    def count(self, seconds: float) -> float:
        """It has run for so long. Returns what of that was in no costs before, and is now."""
        more = max(0.0, seconds - self.counted_seconds)
        self.counted_seconds += more
        return more

    def measure(self, baseline: Baseline, weighed: float, factor: float, tick_seconds: float) -> None:
        """Fix what it is judged by and the length of its slices by the baseline in force, once."""
        if self.slice_seconds is None:
            self.weighed = weighed
            self.slice_seconds = max(weighed * factor / baseline.rate, tick_seconds)

    def next_slice(self) -> float:
        """When the next slice is due, in seconds; infinite when no more are observed."""
        if self.slice_seconds is None or self.warmup or self.slices >= MAX_SLICES:
            return math.inf
        return self.started + (self.slices + 1) * self.slice_seconds

    def take_slice(self) -> tuple[float, float]:
        """Observe the next slice: its rates, in the shard's unit and in genes a second.

        Both are upper bounds of the true rate: the batch would have to end now to be as fast as that.
        """
        assert self.slice_seconds is not None
        self.slices += 1
        age = self.slices * self.slice_seconds
        return self.weighed / age, self.genes * (self.weighed / self.work) / age

    def expected_rest(self, now: float, rate: float | None) -> float:
        """How long it may go on, in seconds: the larger of `age` and `work / rate - age`.

        That it should end just now is as unlikely as that it has just begun: on average half of it is over, its true
        rate is `work / (2 * age)`, and as much again is to come. The batches before it may have told of a slower one.

        Args:
            now: Seconds.
            rate: Judged rate of the shard, its batches in flight among it; `None` when unknown.
        """
        age = now - self.started
        return age if rate is None else max(age, (self.weighed or self.work) / rate - age)

    def is_covered(self, age: float) -> bool:
        """Whether the slices already count all of a batch that ends at this age: nothing is counted twice."""
        if self.slices == 0 or self.slice_seconds is None:
            return False
        return age <= self.slices * self.slice_seconds * (1 + ROUNDING) or self.slices >= MAX_SLICES

    def hang_at(self, busy_at: float | None) -> float:
        """When it is a hang, in seconds.

        Args:
            busy_at: When its worker was last known to use the processor, in seconds; `None` when that is not known.
        """
        at = self.started + max(HANG_SLICES * (self.slice_seconds or 0.0), HANG_SECONDS)
        if self.device != "cpu" or busy_at is None:
            return at
        return max(at, min(busy_at + HANG_SECONDS, self.started + BUSY_SECONDS))
