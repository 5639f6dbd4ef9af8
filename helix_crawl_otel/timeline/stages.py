"""What a shard's time went into: encoding, or what lies between two batches, which is reading, committing and waiting.

The policy judges the encode stage alone, so a slow disk is no crawl, and no remedy is taken for it. It is slow all the
same, and here that is told.

Source: INCIDENTS.md, 05-24: an 18 GB shard file went from 27 to 0.12 genes/s because it had outgrown the OS file cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from helix_crawl_otel.formats import duration, span
from helix_crawl_otel.timeline.events import BatchEvent

__all__ = ["STORAGE_ADVICE", "ShardStages", "StageTimes"]

LEAST_SHARE = 0.5
"""Of a shard's time outside of its batches, from which on that is what makes it slow."""

LEAST_SECONDS = 60.0
"""Outside of a shard's batches: of less nobody takes notice."""

COMPARED = 16
"""Batches at its beginning and at its end that are compared."""

STORAGE_ADVICE = (
    "no release, recycle or CPU cures that. A database that has outgrown what the system keeps of files in memory is "
    "read from the disk for each batch: keep each shard well below the memory that is free (cut it into more folders; "
    "in the app --auto-subshard-threshold-bytes), give the machine more memory, or put the files on a local SSD; drop "
    "indexes that each vector has to update until it is done, and keep a virus scanner off the folder"
)
"""What to set."""


@dataclass
class ShardStages:
    """Sums of a shard, in seconds.

    Args:
        encode: In batches.
        read: From a batch's boundary to the next batch, where the timeline tells of it.
        commit: From a batch to its boundary, likewise.
        between: Both, where it does not.
        first: Between the first batches, each.
        last: Between the last ones.
    """

    encode: float = 0.0
    read: float = 0.0
    commit: float = 0.0
    between: float = 0.0
    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=COMPARED))

    @property
    def outside(self) -> float:
        """Seconds that no batch was encoded in."""
        return self.read + self.commit + self.between

    @property
    def is_slow(self) -> bool:
        """Whether what lies between the batches is what makes the shard slow."""
        whole = self.outside + self.encode
        return self.outside >= LEAST_SECONDS and self.outside >= LEAST_SHARE * whole

    @property
    def slow_stage(self) -> str:
        """Such as `the commit stage`."""
        if self.between > self.read + self.commit:
            return "what lies between two batches (read and commit)"
        return f"the {'commit' if self.commit >= self.read else 'read'} stage"

    def __str__(self) -> str:
        share = 100 * self.outside / (self.outside + self.encode)
        parts = {"read": self.read, "commit": self.commit, "read and commit": self.between}
        told = " and ".join(f"{duration(seconds)} {name}" for name, seconds in parts.items() if seconds >= 1.0)
        text = f"{share:.0f} % of its time lay between its batches ({told}), {duration(self.encode)} in them"
        if len(self.last) == COMPARED and len(self.first) == COMPARED:
            begin, end = median(self.first), median(self.last)
            text += f"; {span(begin, precisely=True)} a batch at its beginning, {span(end, precisely=True)} at its end"
        return text

    def add(self, gap: float, read_seconds: float | None) -> None:
        """What lay between two batches of one worker, and what of it was the read stage; `None` where nobody knows."""
        if read_seconds is None:
            self.between += gap
        else:
            read = min(gap, read_seconds)
            self.read += read
            self.commit += gap - read
        if len(self.first) < COMPARED:
            self.first.append(gap)
        self.last.append(gap)


class StageTimes:
    """Takes the batches of a timeline, in order, and sums by shard."""

    def __init__(self) -> None:
        self.shards: dict[str, ShardStages] = {}
        self._last: dict[str, tuple[str, float]] = {}  # of each worker: the shard of its last batch, and its end

    def forget(self, worker: str = "") -> None:
        """A worker has begun anew, or without one a run: what lies before it is no stage of a batch."""
        if worker:
            self._last.pop(worker, None)
        else:
            self._last.clear()

    def add(self, batch: BatchEvent) -> None:
        """Take a batch that has ended."""
        stages = self.shards.setdefault(batch.shard, ShardStages())
        stages.encode += batch.seconds
        shard, ended = self._last.get(batch.worker, ("", 0.0))
        gap = batch.t - batch.seconds - ended
        if shard == batch.shard and gap > 0:
            stages.add(gap, batch.read_seconds)
        self._last[batch.worker] = batch.shard, batch.t

    def slow(self) -> Iterator[tuple[str, ShardStages]]:
        """Shards that something else than encoding makes slow, those with the longest time first."""
        for shard, stages in sorted(self.shards.items(), key=lambda item: -item[1].outside):
            if stages.is_slow:
                yield shard, stages
