"""What one worker says, as its slot hears it: shards that begin and end, batches, commits, memory.

Source: DESIGN.md, sections 5 and 7.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading, Outcome, ShardStatus, Verdict
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.incoming import IncomingMessages
from helix_crawl_otel.supervise.run_state import RunContext

__all__ = ["OpenShards", "WorkerHandle", "WorkerListener"]


@dataclass(frozen=True)
class WorkerHandle:
    """A worker as its job may talk to it.

    Args:
        number: 1 for the first worker of the run, and so on.
        incoming: The worker's.
    """

    number: int
    incoming: IncomingMessages

    def tell(self, payload: Mapping[str, object]) -> None:
        """See `JobWorker`."""
        self.incoming.send_job(payload)


class OpenShards:
    """Shards that a worker left open for the next one of its slot.

    Threads: any; `_lock` guards the names.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def add(self, shards: list[str]) -> None:
        """A worker has gone and left these."""
        with self._lock:
            self._names.update(shards)

    def discard(self, shard: str) -> None:
        """The next worker has taken it up, or it is over."""
        with self._lock:
            self._names.discard(shard)

    def names(self) -> list[str]:
        """All of them, sorted."""
        with self._lock:
            return sorted(self._names)

    def take(self) -> list[str]:
        """All of them, sorted; none is left."""
        with self._lock:
            names, self._names = sorted(self._names), set()
            return names


class WorkerListener:
    """See `incoming.Listener`. Each worker has its own, so that the words of one are never taken for the next one's.

    Args:
        slot: Name of the slot.
        run: What all slots share.
        left: Shards that earlier workers of the slot left open.
        trusts_boundaries: For a driver of the user's own, a boundary after a batch is a commit; ours say so themselves.

    Threads: the worker's reader, but for `progressed` and the attributes, which the supervisor reads.
    """

    def __init__(self, slot: str, run: RunContext, left: OpenShards, *, trusts_boundaries: bool) -> None:
        self.refused: str | None = None
        """A shard that the worker has to leave to one on the CPU."""
        self.has_paused = False
        """It left a shard before its end."""
        self._slot = slot
        self._run = run
        self._left = left
        self._trusts_boundaries = trusts_boundaries
        self._handle: WorkerHandle | None = None
        self._uncommitted: set[str] = set()  # shards with a batch since their last boundary; the reader's
        self._shown: dict[str, tuple[str, int]] = {}  # a driver's own shards: device and genes so far; the reader's
        self._has_progressed = threading.Event()

    def meet(self, handle: WorkerHandle) -> None:
        """Whom the job may answer. Called before the worker can say anything."""
        self._handle = handle

    def progressed(self) -> bool:
        """Whether a gene has been committed since this was last asked."""
        has_progressed = self._has_progressed.is_set()
        self._has_progressed.clear()
        return has_progressed

    def opened(self, shard: str, device: str, *, can_leave: bool) -> bool:
        """See `Listener`."""
        if can_leave and shard in self._run.demoted and device != "cpu":
            self.refused = shard
            return True
        self._left.discard(shard)
        if self._trusts_boundaries:  # our own workers tell their job, which knows more of it
            self._shown[shard] = device, 0
            self._run.emit(events.ShardStarted(self._run.clock(), shard, self._slot, device, None))
        return False

    def closed(self, shard: str, state: str) -> None:
        """See `Listener`."""
        self._uncommitted.discard(shard)
        if state == "done":
            self._run.demoted.discard(shard)
        elif state == "paused":
            self.has_paused = True
        if shard in self._shown:
            _, genes = self._shown.pop(shard)
            self._run.emit(events.ShardEnded(self._run.clock(), shard, state, genes, ""))

    def measured(self, shard: str, genes: float, seconds: float, status: ShardStatus) -> None:
        """See `Listener`."""
        self._uncommitted.add(shard)
        self._run.measured(genes, lost_seconds(genes, seconds, status))
        if shard in self._shown:
            device, before = self._shown[shard]
            self._shown[shard] = device, before + int(genes)
            numbers = status.ema, status.baseline, status.memory_fraction, status.rung, status.episode_open
            committed = events.Committed(self._run.clock(), shard, self._slot, device, int(genes), None, *numbers)
            self._run.emit(committed)

    def passed(self, shard: str) -> None:
        """See `Listener`. One before the first batch of a worker has committed nothing."""
        if self._trusts_boundaries and shard in self._uncommitted:
            self._has_progressed.set()
        self._uncommitted.discard(shard)

    def acknowledged(self, action: Action, outcome: Outcome) -> None:
        """See `Listener`."""
        if action.kind is ActionKind.DEMOTE_CPU and outcome is Outcome.APPLIED:
            self._run.demoted.add(action.shard)

    def read(self, device: str, reading: MemoryReading, source: str, up: bool) -> None:
        """See `Listener`."""
        self._run.memory.report(self._slot, device, reading, source, up)

    def said(self, payload: Mapping[str, Any]) -> None:
        """See `Listener`."""
        assert self._handle is not None
        if self._run.job.said(self._slot, self._handle, payload):
            self._has_progressed.set()


def lost_seconds(genes: float, seconds: float, status: ShardStatus) -> float:
    """What a batch took beyond its share, while its shard crawled; 0 when it did not, or no baseline is known."""
    if not status.baseline or not (status.episode_open or status.verdict is Verdict.CRAWLING):
        return 0.0
    return max(0.0, seconds - genes / status.baseline)
