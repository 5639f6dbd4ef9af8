"""The batches in flight, as the pipeline holds them: to give up those that nobody will end, and to tell their age."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from helix_crawl_otel.policy.batch import BatchInfo

__all__ = ["InflightBatches", "RunningBatch", "recorded"]

RunningBatch = tuple[BatchInfo, float]
"""A batch and when it began, in seconds."""


class InflightBatches:
    """Batches by their id.

    Threads: any; each touches the batches by single operations only.
    """

    def __init__(self) -> None:
        self._batches: dict[str, RunningBatch] = {}

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: RunningBatch) -> None:
        """It has begun."""
        self._batches[batch[0].id] = batch

    def take(self, batch: RunningBatch) -> bool:
        """It runs no longer. Returns whether it did until now."""
        return self._batches.pop(batch[0].id, None) is not None

    def take_all(self, which: Callable[[BatchInfo], bool]) -> Iterator[RunningBatch]:
        """Those of a kind, which run no longer."""
        for batch in list(self._batches.values()):
            if which(batch[0]) and self.take(batch):
                yield batch

    def age(self, shard: str, clock: Callable[[], float]) -> float | None:
        """Of a shard's oldest batch, in seconds; 0 without one, `None` when the clock, the caller's, fails."""
        started = [start for info, start in list(self._batches.values()) if info.shard == shard]
        if not started:
            return 0.0
        try:
            return max(0.0, clock() - min(started))
        except Exception:  # noqa: BLE001 - unknown is an absent series
            return None


def recorded(info: BatchInfo) -> dict[str, Any]:
    """What the timeline keeps of a batch beside its times."""
    return {
        "shard": info.shard,
        "device": info.device,
        "genes": info.genes,
        "work": info.work,
        "worker": info.worker,
    }
