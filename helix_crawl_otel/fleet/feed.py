"""A build's work on one slot of a fleet: shards come while it runs, and a demoted one goes elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from helix_crawl_otel.build.job import BuildJob, ShardWork
from helix_crawl_otel.link import messages
from helix_crawl_otel.supervise.job import JobWorker, WorkerStart

__all__ = ["FedJob"]

IDLE_SECONDS = 20.0
"""That a worker with its model waits for the next shard; less than its supervisor waits for one that is to leave. The
world's."""


class FedJob(BuildJob):
    """See `BuildJob`. It has one slot.

    Args:
        ended: Called with a shard and `done`, `failed` or `demoted` once no worker is on it; must not wait.
        now: Seconds of the world.
        keeps_demoted: Demoted shards are finished here.
        others: See `BuildJob`, without its shards.

    Threads: `add`, `let_go` and `close` from any, the rest as of `BuildJob`.
    """

    def __init__(
        self,
        ended: Callable[[ShardWork, str], None],
        now: Callable[[], float] = time.monotonic,
        *,
        keeps_demoted: bool = False,
        **others: Any,
    ) -> None:
        super().__init__([], **others)
        self._tell_ended = ended
        self._now = now
        self._keeps_demoted = keeps_demoted
        self._idle: tuple[str, JobWorker, float] | None = None  # slot, worker, and since when
        self._is_closed = False
        self.has_come = threading.Event()
        """Something is to be done, or nothing more will be."""

    def add(self, work: ShardWork) -> None:
        """Another shard."""
        with self._lock:
            self.shards.append(work)
            self._queue.append(work)
            self.has_come.set()
            if self._idle is not None:
                (slot, worker, _), self._idle = self._idle, None
                self._give_next(slot, worker)

    def let_go(self) -> None:
        """Time has passed: a worker that has waited for long leaves."""
        with self._lock:
            if self._idle is not None and self._now() - self._idle[2] > IDLE_SECONDS:
                self._idle[1].tell(messages.Leave())
                self._idle = None

    def close(self) -> None:
        """Nothing more comes."""
        with self._lock:
            self._is_closed = True
            self.has_come.set()
            if self._idle is not None:
                self._idle[1].tell(messages.Leave())
                self._idle = None

    def next_start(self, slot: str, device: str, is_first: bool) -> WorkerStart | None:
        """See `Job`."""
        with self._lock:
            if device != "cpu":
                self.hands_over(slot)  # one that its worker has left for want of memory
            start = super().next_start(slot, device, is_first)
            if start is None and not self._is_closed:
                self.has_come.clear()
            return start

    def hands_over(self, slot: str) -> bool:
        """See `Job`: a slot on the CPU finishes it, here or on another machine."""
        with self._lock:
            work = self._current.get(slot)
            if work is None or self._keeps_demoted or work.assignment.shard not in self._demoted:
                return False
            del self._current[slot]
            self._pipeline.close_shard(work.assignment.shard, "paused")
            self._end(work, "demoted")
            return True

    def _finished(self, slot: str, work: ShardWork | None, how: messages.ShardDone | messages.ShardFailed) -> None:
        super()._finished(slot, work, how)
        if work is not None and work.state == "done":
            self._end(work, "done")

    def _fail(self, work: ShardWork, reason: str) -> None:
        super()._fail(work, reason)
        self._end(work, "failed")

    def _end(self, work: ShardWork, how: str) -> None:
        self.shards.remove(work)
        self._tell_ended(work, how)

    def _give_next(self, slot: str, worker: JobWorker) -> None:
        if self._queue or self._is_closed:
            super()._give_next(slot, worker)
        else:
            self._idle = slot, worker, self._now()
