"""Hands collected measurements to the policy, one at a time, and keeps what it decided until it is fetched."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import Decision, MemoryReading
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.state import durable_mark

__all__ = ["Collected", "LockedPolicy"]

T = TypeVar("T")


@dataclass
class Collected:
    """What one collection brought, in the order in which the policy takes it.

    Args:
        now: Seconds, when the collection was made; `None` when the clock could not tell.
        memory: (t, device, reading), each a new one.
        started: (t, batch), batches that began.
        finished: (t, batch, seconds), batches that ended.
        abandoned: Ids of batches that raised. An id that has finished already means nothing.
    """

    now: float | None
    memory: list[tuple[float, str, MemoryReading]] = field(default_factory=list)
    started: list[tuple[float, BatchInfo]] = field(default_factory=list)
    finished: list[tuple[float, BatchInfo, float]] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)


class LockedPolicy:
    """The engine's lock, and the only way to the policy.

    Args:
        policy: Owned from now on.

    Threads: any. The lock is held for pure computation only: no instrument, callback, hook or file is touched inside.
    """

    def __init__(self, policy: Policy) -> None:
        self._lock = threading.Lock()
        self._policy = policy  # guarded by _lock
        self._outbox: deque[Decision] = deque()  # appended under _lock, popped anywhere
        self._ignored: deque[str] = deque()  # likewise
        self._mark = durable_mark(policy.state)  # guarded by _lock

    def apply(self, collected: Collected) -> None:
        """Take a collection: memory first, then starts, ends, failures; then what fell due meanwhile."""
        with self._lock:
            for t, device, reading in collected.memory:
                self._policy.read_memory(t, device, reading)
            for t, info in collected.started:
                self._outbox.extend(self._policy.start_batch(t, info))
            for t, info, seconds in collected.finished:
                decisions, problem = self._policy.finish_batch(t, info, seconds)
                self._outbox.extend(decisions)
                if problem is not None:
                    self._ignored.append(problem)
            for batch_id in collected.abandoned:
                self._policy.abandon_batch(batch_id)
            if collected.now is not None:
                self._outbox.extend(self._policy.advance(collected.now))

    def tell(self, change: Callable[[Policy], list[Decision] | None]) -> None:
        """Change the policy's state by one of its own calls, and keep what it decides."""
        with self._lock:
            self._outbox.extend(change(self._policy) or [])

    def ask(self, question: Callable[[Policy], T]) -> T:
        """Read from the policy. What is returned must not be a part of its state."""
        with self._lock:
            return question(self._policy)

    def next_decision(self) -> Decision | None:
        """Take the oldest decision, `None` when there is none."""
        return _first(self._outbox)

    def next_ignored(self) -> str | None:
        """Take the reason of an ignored sample, `None` when there is none."""
        return _first(self._ignored)

    def durable_changed(self) -> bool:
        """Whether what must survive this process has changed since the last time this was asked."""
        with self._lock:
            mark = durable_mark(self._policy.state)
            changed, self._mark = mark != self._mark, mark
        return changed

    def has_decisions(self) -> bool:
        """Whether a decision waits."""
        return bool(self._outbox)


def _first(waiting: deque[T]) -> T | None:
    try:
        return waiting.popleft()
    except IndexError:  # another thread may have taken the last one
        return None
