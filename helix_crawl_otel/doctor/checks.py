"""One line of the doctor: a fact, what to think of it, what to do; and how a variable is set where the reader sits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

__all__ = ["Check", "Severity", "assign", "unset", "worst"]


class Severity(str, Enum):
    """What to think of a fact, from the best to the worst."""

    OK = "ok"
    NOTE = "note"
    """Good to know; nothing has to be done."""
    WARN = "warn"
    """It works, and is likely to hurt."""
    PROBLEM = "problem"
    """Something does not work, or does not do what it was set to do."""


@dataclass(frozen=True)
class Check:
    """One line.

    Args:
        topic: What it is about, one or two words.
        fact: What was found, one sentence without a full stop.
        verdict: What to think of it.
        advice: What to do; empty when nothing has to be done.
        source: Where the advice comes from: an address, or a page of these docs; empty without advice.
    """

    topic: str
    fact: str
    verdict: Severity
    advice: str = ""
    source: str = ""

    def to_json(self) -> dict[str, str]:
        """An object of `doctor --json`."""
        return {**asdict(self), "verdict": self.verdict.value}


def worst(checks: Sequence[Check]) -> Severity:
    """The worst verdict of some lines, `OK` without any."""
    order = list(Severity)
    return max((check.verdict for check in checks), key=order.index, default=Severity.OK)


def assign(platform: str, variable: str, value: str) -> str:
    """A command that sets a variable for what is started next in the same window: PowerShell on Windows, a POSIX shell
    elsewhere.

    Args:
        platform: As `sys.platform`.
        variable: Its name.
        value: Without quotation marks or spaces in it.
    """
    return f'$env:{variable} = "{value}"' if platform == "win32" else f"export {variable}={value}"


def unset(platform: str, variable: str) -> str:
    """A command that takes it away again."""
    return f"Remove-Item Env:{variable}" if platform == "win32" else f"unset {variable}"
