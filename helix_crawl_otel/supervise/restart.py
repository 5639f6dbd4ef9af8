"""When the next worker of a slot may start: after the backoff, and once the card's memory has come back.

Source: DESIGN.md, sections 5 and 7.
"""

from __future__ import annotations

from helix_crawl_otel.supervise.job import WorkerStart
from helix_crawl_otel.supervise.memory_gate import GateState, MemoryGate

__all__ = ["Restart"]


class Restart:
    """One wait. Pure; time and readings come in.

    Args:
        start: What is to be started.
        now: Seconds.
        after_seconds: Backoff, 0 for none.
        gate: Of the card's memory, `None` where there is nothing to wait for.
    """

    def __init__(
        self, start: WorkerStart, now: float, after_seconds: float = 0.0, gate: MemoryGate | None = None
    ) -> None:
        self.start = start
        self.gate_seconds = 0.0
        """How long the gate took, once it is open."""
        self._since = now
        self._not_before = now + after_seconds
        self._gate = gate
        self._state: GateState | None = None

    def feed(self, now: float, used_bytes: int | None) -> GateState | None:
        """Take a reading, `None` for unknown. Returns the gate's state when it has changed, else `None`."""
        if self._gate is None:
            return None
        state = self._gate.feed(now, used_bytes)
        if state.is_open:
            self._gate, self.gate_seconds = None, now - self._since
        news, self._state = state if state is not self._state else None, state
        return news

    def is_due(self, now: float) -> bool:
        """Whether the worker may start."""
        return self._gate is None and now >= self._not_before
