"""The thread-safe queue by which actions reach the driver, and the way a worker is asked to stop."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable

from helix_crawl_otel.exit_codes import DEMOTED, PAUSED
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome

__all__ = ["ActionQueue", "PauseRequested"]

_LONGEST_WAIT = threading.TIMEOUT_MAX / 2
"""Seconds; a lock cannot wait for longer than TIMEOUT_MAX."""


class PauseRequested(SystemExit):
    """The worker is asked to end: by the ladder, so that another process goes on, or by the operator.

    Uncaught it ends the process with exit code 75 (RECYCLE, or a pause) or 79 (the shard belongs on another device).
    Not an `Exception`, so a broad `except Exception` in the driver does not swallow it; `finally` blocks and context
    managers run.

    Args:
        action: What the ladder asked for; `None` for a pause, or for a shard that belongs on another device.
        code: Exit code where no action says it.
    """

    def __init__(self, action: Action | None, code: int = PAUSED) -> None:
        is_demoted = action is not None and action.kind is ActionKind.DEMOTE_CPU
        super().__init__(DEMOTED if is_demoted else code)
        self.action = action

    def __str__(self) -> str:
        if self.action is None:
            return "pause" if self.code == PAUSED else "the shard belongs on another device"
        return f"{self.action.kind.value} of shard {self.action.shard!r}: {self.action.reason}"


class ActionQueue:
    """Actions that wait for the driver, oldest first.

    `get`, `get_nowait` and `drain` hand actions out once, as `queue.Queue` does; `acknowledge` says how one ended.
    Bounded by what the policy can ask for: at most four actions an open shard, since a newer DETECT takes the place of
    one that nobody has fetched.

    Args:
        on_acknowledge: Called with each acknowledged action and its outcome, outside the queue's lock.

    Threads: any thread may call anything.
    """

    def __init__(self, on_acknowledge: Callable[[Action, Outcome], None] | None = None) -> None:
        self._actions: deque[Action] = deque()  # guarded by _ready
        self._ready = threading.Condition(threading.Lock())
        self._on_acknowledge = on_acknowledge

    def __len__(self) -> int:
        return len(self._actions)

    def put(self, action: Action) -> None:
        """Append an action. The policy calls this, not the driver."""
        with self._ready:
            if action.kind is ActionKind.DETECT:
                self._actions = deque(a for a in self._actions if (a.kind, a.shard) != (action.kind, action.shard))
            self._actions.append(action)
            self._ready.notify()

    def get(self, timeout: float | None = None) -> Action:
        """Take the oldest action, waiting for one if need be.

        Args:
            timeout: Seconds to wait, 0 or more; `None` waits for ever.

        Raises:
            queue.Empty: Nothing came in time.
            ValueError: `timeout` is negative or no number.
        """
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
            raise ValueError(f"timeout is {timeout!r}; accepted: seconds >= 0, or None")
        deadline = None if timeout is None else time.monotonic() + min(timeout, _LONGEST_WAIT)
        with self._ready:
            while not self._actions:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise queue.Empty
                self._ready.wait(left)
            return self._actions.popleft()

    def get_nowait(self) -> Action:
        """Take the oldest action.

        Raises:
            queue.Empty: There is none.
        """
        return self.get(timeout=0)

    def drain(self, shard: str | None = None) -> list[Action]:
        """Take all actions, of one shard if it is named; empty when there are none."""
        if not self._actions:  # as between most batches: no lock is needed to see that
            return []
        with self._ready:
            taken = [action for action in self._actions if shard is None or action.shard == shard]
            if taken:
                self._actions = deque(a for a in self._actions if not (shard is None or a.shard == shard))
            return taken

    def discard(self, action_id: int) -> None:
        """Drop an action that a later one has made void, if it is still here. The policy calls this."""
        with self._ready:
            self._actions = deque(action for action in self._actions if action.id != action_id)

    def acknowledge(self, action: Action, outcome: Outcome | str = Outcome.APPLIED) -> None:
        """Say how an action ended, so that it is counted and the ladder can go on.

        Args:
            action: As it was taken from the queue.
            outcome: `applied`, `vetoed`, `passed_over`, `superseded`, `overdue` or `failed`.

        Raises:
            ValueError: `outcome` is none of these.
        """
        try:
            settled = Outcome(outcome)
        except ValueError:
            accepted = ", ".join(member.value for member in Outcome)
            raise ValueError(f"outcome is {outcome!r}; accepted: {accepted}") from None
        if self._on_acknowledge is not None:
            self._on_acknowledge(action, settled)
