"""Give cached memory back to the device: rung 1 of the ladder, and of itself, by need or every so many batches."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping
from typing import Any

from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.policy.release import ReleaseByNeed, fullest
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.nvml import within
from helix_crawl_otel.probes.probe import UNKNOWN, ProbeFailure, sentence
from helix_crawl_otel.timing import awake_clock

__all__ = ["CacheReleases", "cached_bytes", "release_cache"]

BLIND_EVERY = 256
"""Batches between two releases where the memory cannot be read."""

ANSWER_SECONDS = 1.0
"""A reading takes 0.1 ms. A driver that has not answered by then is not asked again."""


def release_cache() -> int | None:
    """Collect garbage, then have torch release the blocks it caches, if this process uses CUDA at all.

    Never imports torch and never creates a CUDA context: both would take memory instead of giving it back.

    Returns:
        Bytes that torch's allocator gave back on all cards, `None` where there is no CUDA context in this process.

    Raises:
        RuntimeError: torch could not release its cache; the driver is in trouble.

    Threads: the driver's, at a batch boundary.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return None
    before = _reserved_bytes(cuda)
    cuda.empty_cache()
    return max(0, before - _reserved_bytes(cuda))


def _reserved_bytes(cuda: Any) -> int:
    """Of all cards, as the release is: the worker of one need not have made it torch's current one."""
    return sum(int(cuda.memory_reserved(index)) for index in range(cuda.device_count()))


def cached_bytes(device: str, modules: Mapping[str, Any] | None = None) -> int | None:
    """What torch's allocator holds of a card and no tensor uses: a release gives back that much at most.

    Args:
        device: Such as `cuda:0`, as the process itself numbers its cards.
        modules: Modules that are loaded; `sys.modules` unless a test replaces it.

    Returns:
        Bytes, `None` where it is no card, where this process has no CUDA context, or where torch does not tell: that
        is no reason to end a job, and what a device in trouble has to say it says at the next batch.
    """
    name, cuda = parse_device(device), getattr((sys.modules if modules is None else modules).get("torch"), "cuda", None)
    try:
        if name.kind != "cuda" or cuda is None or not cuda.is_initialized():
            return None
        return int(cuda.memory_reserved(name.index)) - int(cuda.memory_allocated(name.index))
    except Exception as error:  # noqa: BLE001 - it is the job's torch
        watchdog.debug("torch does not tell what it caches of %s: %s", device, sentence(error))
        return None


class CacheReleases:
    """When a worker of ours releases its cache, from its start to its end.

    Args:
        every: Batches between two releases, 0 for never. `None` releases by need, see `ReleaseByNeed`; while the memory
            cannot be read, every 256 batches.
        read: Reads the memory of the worker's device.
        cached: What could be given back, in bytes; `None` is unknown.
        clock: Seconds, finer than a release takes: Windows' own ticks 64 times a second, and what seems to cost nothing
            would be due again at once. `None` is the clock to watch by.

    Threads: the worker's.
    """

    def __init__(
        self,
        every: int | None,
        read: Callable[[], MemoryReading],
        cached: Callable[[], int | None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.clock = clock or awake_clock()
        self._every = every
        self._read: Callable[[], MemoryReading] | None = read
        self._cached = cached
        self._need = ReleaseByNeed()
        self._batches = 0

    def is_due(self, streak: Callable[[], int]) -> bool:
        """At a batch boundary, once for each: whether to release here.

        Args:
            streak: Of the shard, see `ReleaseByNeed.is_due`.
        """
        self._batches += 1
        every = self._every
        if every is None:
            level = fullest(self._reading())
            if level is not None:
                return self._need.is_due(self.clock(), level, self._cached(), streak)
            every = BLIND_EVERY
        return every > 0 and self._batches % every == 0

    def released(self, seconds: float | None) -> None:
        """Say that the cache has been released, for whatever reason; `None` where nobody knows how long it took."""
        self._need.released(self.clock(), seconds)

    def _reading(self) -> MemoryReading:
        if self._read is None:
            return UNKNOWN
        try:
            return within(ANSWER_SECONDS, self._read)
        except ProbeFailure:
            self._read = None
            return UNKNOWN
