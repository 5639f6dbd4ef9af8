"""How often a worker may crash without a newly committed gene.

Source: DESIGN.md, section 7: 3 restarts, after 1, 2 and 4 s; then the shard has failed.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CrashBudget", "Retry", "backoff_seconds"]

RESTARTS = 3
FIRST_BACKOFF_SECONDS = 1.0
MOST_BACKOFF_SECONDS = 60.0

MOST_NARROWED = 40
"""Crashes that halve a suspected batch and so need not be paid for: each of a batch's 16 halvings takes two. Without
this a poisonous gene in a shard's first batch would spend the budget before it is found; without a bound, a worker that
cannot encode anything would quarantine the whole shard."""


def backoff_seconds(times: int) -> float:
    """How long to wait before another worker is started: 1, 2, 4 s the first times, at most a minute."""
    return min(MOST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** (times - 1))


@dataclass(frozen=True)
class Retry:
    """Start another worker, after so many seconds."""

    after_seconds: float


class CrashBudget:
    """Counts crashes of one slot. Pure; the supervisor's thread only.

    Args:
        most: Restarts without progress, 0 or more.
    """

    def __init__(self, most: int = RESTARTS) -> None:
        self._most = most
        self._spent = 0
        self._narrowed = 0

    @property
    def left(self) -> int:
        """Restarts that are left."""
        return max(0, self._most - self._spent)

    def crashed(self) -> Retry | None:
        """A worker has crashed. `None`: the budget is spent."""
        if self._spent >= self._most:
            return None
        self._spent += 1
        return Retry(backoff_seconds(self._spent))

    def progressed(self) -> None:
        """A gene has been committed since."""
        self._spent = self._narrowed = 0

    def narrowed(self) -> None:
        """The crash that comes next has told which genes are to blame: it is paid back."""
        self._narrowed += 1
        if self._narrowed <= MOST_NARROWED:
            self._spent = 0
