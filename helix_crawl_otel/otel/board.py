"""Keeps the facts that the gauges show beside the policy's own, and makes one snapshot of both."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from helix_crawl_otel.core.model import MemoryReading
from helix_crawl_otel.core.policy import Policy
from helix_crawl_otel.otel.exported import SHARD_STATES, ShardView, Snapshot
from helix_crawl_otel.otel.feed import PolicyFeed

__all__ = ["Board"]

CLOSED_KEPT = 1024
"""Shards closed last whose state is remembered: the memory stays flat over 10,000 shards."""


class Board:
    """Open shards, memory, probes, workers.

    Threads: any; every field is guarded by `_lock`, which is held for plain assignments only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, tuple[str, int | None]] = {}
        self._memory: dict[str, MemoryReading] = {}
        self._sources: dict[tuple[str, str], bool] = {}
        self._workers: dict[str, bool] = {}
        self._states = dict.fromkeys(SHARD_STATES, 0)
        self._closed: dict[str, str] = {}  # state of the shards closed last: one that comes back is counted once

    def open_shard(self, shard: str, device: str, pending_genes: int | None) -> None:
        """A shard is running."""
        with self._lock:
            if shard not in self._open:
                self._states["running"] += 1
                earlier = self._closed.pop(shard, None)
                if earlier is not None:
                    self._states[earlier] = max(0, self._states[earlier] - 1)
            self._open[shard] = (device, pending_genes)

    def close_shard(self, shard: str, state: str) -> None:
        """A shard is `done`, `paused`, `failed` or `pending` again."""
        with self._lock:
            if self._open.pop(shard, None) is not None:
                self._states["running"] -= 1
                self._states[state] += 1
                self._closed[shard] = state
                if len(self._closed) > CLOSED_KEPT:
                    del self._closed[next(iter(self._closed))]

    def encoded(self, shard: str, genes: int) -> None:
        """Genes that were pending no longer are."""
        with self._lock:
            device, pending = self._open.get(shard, ("", None))
            if pending is not None:
                self._open[shard] = (device, max(0, pending - genes))

    def move_shard(self, shard: str, device: str) -> None:
        """A shard goes on on another device."""
        with self._lock:
            if shard in self._open:
                self._open[shard] = (device, self._open[shard][1])

    def set_shard_state(self, state: str, count: int) -> None:
        """How many shards are in a state that no open shard tells: `pending`, or `done` by earlier runs."""
        with self._lock:
            self._states[state] = count

    def set_memory(self, device: str, reading: MemoryReading, sources: Mapping[str, bool]) -> None:
        """The newest reading of a device, and which sources are up."""
        with self._lock:
            self._memory[device] = reading
            for source, up in sources.items():
                self._sources[device, source] = up

    def set_worker(self, device: str, up: bool) -> None:
        """Whether the worker of a device runs."""
        with self._lock:
            self._workers[device] = up

    def snapshot(self, feed: PolicyFeed, now: float) -> Snapshot:
        """Everything as it is now."""
        with self._lock:
            shards = dict(self._open)
            memory, sources = dict(self._memory), dict(self._sources)
            workers, states = dict(self._workers), dict(self._states)

        def view(policy: Policy) -> dict[str, ShardView]:
            return {
                shard: ShardView(device, policy.status(shard, now), pending)
                for shard, (device, pending) in shards.items()
            }

        return Snapshot(feed.ask(view), memory, sources, workers, states)
