"""What a slot goes by: what the end of a worker means, how often one may crash, when a card's memory is back.

All of it is pure: codes, readings and time come in. A worker's exit code is read with what it was asked and what it
said. On Windows a killed process returns 1: that it was ended by us is known from our own state, never from the code.

Source: DESIGN.md, section 3.3, exit codes; section 5, the memory; section 7, the crashes.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import Enum

from helix_crawl_otel.exit_codes import DEMOTED, NEVER, PAUSED
from helix_crawl_otel.formats import MIB
from helix_crawl_otel.lacks import lack_sentence
from helix_crawl_otel.policy.model import ActionKind

__all__ = [
    "CrashBudget",
    "End",
    "Ending",
    "GateState",
    "MemoryGate",
    "Retry",
    "StartBudget",
    "backoff_seconds",
    "exit_text",
    "judge_end",
    "start_reason",
    "why_ended",
]

RESTARTS = 3
"""After 1, 2 and 4 s; then the shard has failed."""
FIRST_BACKOFF_SECONDS = 1.0
MOST_BACKOFF_SECONDS = 60.0

MOST_FAILED_STARTS = 14
"""Tries after the first, with backoff: some ten minutes. What the system lacks for it, others may give back."""

MOST_NARROWED = 40
"""Crashes that narrow a suspected batch down and so need not be paid for: it is cut into eight again and again, and a
part of it is tried at once. Without this a poisonous gene in a shard's first batch would spend the budget before it is
found; without a bound, a worker that cannot encode anything would quarantine the whole shard."""

BACK_WITHIN = 512 * MIB
STABLE_SECONDS = 5.0
STABLE_WITHIN = 64 * MIB
MAX_SECONDS = 120.0

# -- the end of a worker ----------------------------------------------------------------------------------------------


class Ending(str, Enum):
    """What the end of a worker means."""

    DONE = "done"
    RECYCLE = "recycle"
    """Another one is started, on the same device."""
    DEMOTE = "demote"
    """Another one is started, on the CPU, for the shard."""
    RETURN = "return"
    """It had finished its shard on the CPU; the next one is started on the card again."""
    PAUSED = "paused"
    """The operator has asked for it."""
    PAUSED_ITSELF = "paused itself"
    """Nobody has asked for it: the run ends as paused."""
    NEVER = "never"
    """It can never start."""
    CRASH = "crash"


@dataclass(frozen=True)
class End:
    """How a worker ended.

    Args:
        code: Exit code; negative for a signal on POSIX.
        ended_for: Why we ended it: an action's name, `hang`, `silent`, `lingers`, `lost`, `broken`, `return` or
            `interrupt`; `None` when it ended by itself.
        leaving: The action that it said it exits for, if any.
        refused: It entered a shard that belongs on the CPU.
        demoted: It ran on the CPU for one shard.
        pausing: The operator has asked all workers to pause.
        finished: Nothing of what it was given is left. With work left code 0 is a crash, without it no code is.
    """

    code: int
    ended_for: str | None = None
    leaving: ActionKind | None = None
    refused: bool = False
    demoted: bool = False
    pausing: bool = False
    finished: bool = False


def judge_end(end: End) -> Ending:
    """What an end means."""
    if end.pausing:
        return Ending.DONE if end.code == 0 and end.ended_for is None and end.leaving is None else Ending.PAUSED
    crash = Ending.DONE if end.finished else Ending.CRASH
    if end.ended_for is not None:
        return _ENDED_FOR.get(end.ended_for, crash)
    if end.code == NEVER:
        return Ending.NEVER
    # It has applied the action, whatever code its driver made of that; with 0 it may have left work undone.
    if end.leaving is not None:
        return _ENDED_FOR.get(end.leaving.value, Ending.CRASH)
    if end.code == DEMOTED and (end.refused or end.demoted):
        return Ending.DEMOTE if end.refused else Ending.RETURN
    return Ending.PAUSED_ITSELF if end.code == PAUSED else crash


_ENDED_FOR = {
    ActionKind.EMPTY_CACHE.value: Ending.RECYCLE,
    ActionKind.RECYCLE.value: Ending.RECYCLE,
    ActionKind.DEMOTE_CPU.value: Ending.DEMOTE,
    "return": Ending.RETURN,
}


def why_ended(ended_for: str | None, ending: Ending, code: int) -> str:
    """Why a worker ended, in words."""
    if ended_for is not None:
        return _REASONS.get(ended_for, f"it was ended for {ended_for}")
    if ending is not Ending.CRASH:
        return str(ending.value)
    return exit_text(code) if code else "it ended as if it were done, with work left"


_REASONS = {
    "hang": "a batch hung and its worker was ended",
    "silent": "it had not been heard from and was ended",
    "lingers": "it had nothing left to do, did not end, and was ended",
    "lost": "a process of its pool died in a task, for which the pool would wait for ever, and it was ended",
    "broken": "its channel broke and it was ended",
    "return": "its shard is done on the CPU, and it was ended to go on with the others on the card",
    "interrupt": "it was ended by the operator",
}


def exit_text(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        more = " (by somebody, or by the kernel for lack of memory)" if name == "SIGKILL" else ""
        return f"it was killed by {name}{more}"
    known = _WINDOWS_CODES.get(code & 0xFFFFFFFF)
    return f"it ended with {known}" if known else f"it ended with exit code {code}"


_WINDOWS_CODES = {
    0xC0000005: "an access violation (0xC0000005)",
    0xC000001D: "an illegal instruction (0xC000001D)",
    0xC0000017: "lack of memory (0xC0000017)",
    0xC00000FD: "a stack overflow (0xC00000FD)",
    0xC000013A: "Ctrl-C (0xC000013A)",
    0xC0000374: "heap corruption (0xC0000374)",
    0xC0000409: "a fatal application error (0xC0000409)",
}


# -- crashes ----------------------------------------------------------------------------------------------------------


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


class StartBudget:
    """Counts how often in a row the system would not start a worker. Pure; the supervisor's thread only.

    It is no shard's fault, so that none fails for it: the run is paused once the time is up.
    """

    def __init__(self) -> None:
        self._spent = 0

    @property
    def left(self) -> int:
        """Tries that are left."""
        return MOST_FAILED_STARTS - self._spent

    def failed(self) -> Retry | None:
        """A worker could not be started. `None`: the budget is spent."""
        if not self.left:
            return None
        self._spent += 1
        return Retry(backoff_seconds(self._spent))


def start_reason(error: BaseException) -> str:
    """Why a worker could not be started, in words."""
    return f"the worker cannot be started: {lack_sentence(error)}"


# -- memory -----------------------------------------------------------------------------------------------------------


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
    """One wait, after a worker has ended, until the card's memory has come back: on WDDM that can take a while.

    Back to within 512 MiB of what it was before the worker started, or stable for 5 s, at most 120 s.

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
