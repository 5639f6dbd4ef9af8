"""Decides what the end of a worker means: its exit code, read with what it was asked and what it said.

Source: DESIGN.md, section 3.3, exit codes, and section 7: on Windows a killed process returns 1, so that it was ended
by us is known from our own state, never from the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from helix_crawl_otel.exit_codes import DEMOTED, NEVER, PAUSED
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.supervise.process import exit_text

__all__ = ["End", "Ending", "judge_end", "why_ended"]


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
        ended_for: Why we ended it: an action's name, `hang`, `silent`, `lingers`, `broken` or `interrupt`; `None`
            when it ended by itself.
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
}


def why_ended(ended_for: str | None, ending: Ending, code: int) -> str:
    """Why a worker ended, in words."""
    if ended_for is not None:
        return _REASONS.get(ended_for, f"it was ended for {ended_for}")
    crash = exit_text(code) if code else "it ended as if it were done, with work left"
    return crash if ending is Ending.CRASH else ending.value


_REASONS = {
    "hang": "a batch hung and its worker was ended",
    "silent": "it had not been heard from and was ended",
    "lingers": "it had nothing left to do, did not end, and was ended",
    "broken": "its channel broke and it was ended",
    "interrupt": "it was ended by the operator",
}
