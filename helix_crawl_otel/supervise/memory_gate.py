"""Waits, after a worker has ended, until the card's memory has come back: on WDDM that can take a while after a kill.

Source: DESIGN.md, section 5: back to within 512 MiB of what it was before the worker started, or stable for 5 s, at
most 120 s, then on with a warning.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["GateState", "MemoryGate"]

MIB = 1024**2
BACK_WITHIN = 512 * MIB
STABLE_SECONDS = 5.0
STABLE_WITHIN = 64 * MIB
MAX_SECONDS = 120.0


class GateState(str, Enum):
    """Whether the next worker may start."""

    WAITING = "waiting"
    BACK = "back"
    """The memory is what it was before the last worker."""
    STABLE = "stable"
    """It does not fall any more: somebody else holds the rest."""
    UNKNOWN = "unknown"
    """Nothing can be read."""
    TIMED_OUT = "timed out"

    @property
    def is_open(self) -> bool:
        """Whether the next worker may start."""
        return self is not GateState.WAITING


class MemoryGate:
    """One wait. Pure; time comes in.

    Args:
        before_bytes: Used before the worker started, `None` when unknown: then it is the stable one that counts.
        now: Seconds.
    """

    def __init__(self, before_bytes: int | None, now: float) -> None:
        self._before_bytes = before_bytes
        self._since = now
        self._level: tuple[float, int] | None = None  # since when it has been near this
        self._known_at = now

    def feed(self, now: float, used_bytes: int | None) -> GateState:
        """Take a reading, `None` for unknown."""
        if used_bytes is None:
            if now - self._known_at >= STABLE_SECONDS:
                return GateState.UNKNOWN
            return self._or_late(now)
        self._known_at = now
        if self._before_bytes is not None and used_bytes <= self._before_bytes + BACK_WITHIN:
            return GateState.BACK
        if self._level is None or abs(used_bytes - self._level[1]) > STABLE_WITHIN:
            self._level = now, used_bytes
        elif now - self._level[0] >= STABLE_SECONDS:
            return GateState.STABLE
        return self._or_late(now)

    def _or_late(self, now: float) -> GateState:
        return GateState.TIMED_OUT if now - self._since >= MAX_SECONDS else GateState.WAITING
