"""Keeps the facts that the gauges show beside the policy's own, and makes one snapshot of both."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from helix_crawl_otel.otel.gauges import SHARD_STATES, ShardView, Snapshot
from helix_crawl_otel.otel.locked_policy import LockedPolicy
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.policy.policy import Policy

__all__ = ["GaugeState"]

CLOSED_KEPT = 1024
"""Shards closed last whose state is remembered: the memory stays flat over 10,000 shards."""


class GaugeState:
    """Open shards, memory, probes, workers.

    Threads: any; every field is guarded by `_lock`, which is held for plain assignments only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, str] = {}  # with their devices
        self._memory: dict[str, MemoryReading] = {}
        self._sources: dict[tuple[str, str], bool] = {}
        self._workers: dict[str, str] = {}  # those that run, with their devices
        self._devices: dict[str, None] = {}  # where a worker has ever run, in order
        self._states = dict.fromkeys(SHARD_STATES, 0)
        self._pending: dict[str, int] = {}  # genes, where they are counted
        self._expected: set[str] = set()  # pending ones that are known by name
        self._closed: dict[str, str] = {}  # state of the shards closed last: one that comes back is counted once

    def open_shard(self, shard: str, device: str, pending_genes: int | None) -> None:
        """A shard is running."""
        with self._lock:
            if shard not in self._open:
                self._states["running"] += 1
                self._leave_state(shard)
            self._open[shard] = device
            if pending_genes is not None:
                self._pending[shard] = pending_genes

    def close_shard(self, shard: str, state: str) -> None:
        """A shard is `done`, `paused`, `failed` or `pending` again."""
        with self._lock:
            self._pending.pop(shard, None)
            if self._open.pop(shard, None) is not None:
                self._states["running"] -= 1
            elif not self._leave_state(shard):
                return
            self._states[state] += 1
            self._closed[shard] = state
            if len(self._closed) > CLOSED_KEPT:
                del self._closed[next(iter(self._closed))]

    def expect_shards(self, shards: Iterable[str]) -> None:
        """These are pending."""
        with self._lock:
            new = set(shards) - self._expected - set(self._open)
            self._expected |= new
            self._states["pending"] += len(new)

    def set_pending(self, shard: str, genes: int) -> None:
        """So many genes of a shard still lack a vector; shown while it is open, and may be told before."""
        with self._lock:
            self._pending[shard] = genes

    def encoded(self, shard: str, genes: int) -> None:
        """Genes that were pending no longer are."""
        with self._lock:
            if shard in self._pending:
                self._pending[shard] = max(0, self._pending[shard] - genes)

    def move_shard(self, shard: str, device: str) -> None:
        """A shard goes on on another device."""
        with self._lock:
            if shard in self._open:
                self._open[shard] = device

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

    def start_worker(self, worker: str, device: str) -> None:
        """A worker runs on a device, and no longer on another one."""
        with self._lock:
            self._workers[worker] = device
            self._devices[device] = None

    def stop_worker(self, worker: str) -> None:
        """A worker runs no longer. Its device is up while another one runs there."""
        with self._lock:
            self._workers.pop(worker, None)

    def snapshot(self, feed: LockedPolicy, now: float) -> Snapshot:
        """Everything as it is now."""
        with self._lock:
            shards, pending = dict(self._open), dict(self._pending)
            memory, sources = dict(self._memory), dict(self._sources)
            running, states = set(self._workers.values()), dict(self._states)
            workers = {device: device in running for device in self._devices}

        def view(policy: Policy) -> dict[str, ShardView]:
            return {
                shard: ShardView(device, policy.status(shard, now), pending.get(shard))
                for shard, device in shards.items()
            }

        return Snapshot(feed.ask(view), memory, sources, workers, states)

    def _leave_state(self, shard: str) -> bool:
        """Count a shard no longer in the state it was in, if one is known. The caller holds the lock."""
        earlier = self._closed.pop(shard, None)
        if shard in self._expected:
            self._expected.discard(shard)
            earlier = "pending"
        if earlier is not None:
            self._states[earlier] = max(0, self._states[earlier] - 1)
        return earlier is not None
