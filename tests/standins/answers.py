"""The file that a stand-in's library answers from, and the log of what it was asked: answers.h has the other side."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AnswerFile"]


@dataclass
class AnswerFile:
    """Both files, for the side of the tests. A library in another thread or process may use either at any moment."""

    path: Path
    """The file of answers; its folder is there. The log lies beside it."""

    @property
    def log(self) -> Path:
        """To be named by the answers."""
        return self.path.with_suffix(".log")

    def put(self, lines: Iterable[str]) -> None:
        """Replace the answers at once, so that no call ever reads half a file."""
        new = self.path.with_suffix(".new")
        new.write_text("\n".join(lines) + "\n", encoding="utf-8")
        _when_allowed(lambda: new.replace(self.path))

    def calls(self) -> list[str]:
        """Names of the functions called since the last time this was asked, where the answers name the log."""
        taken = self.log.with_suffix(".taken")
        try:
            _when_allowed(lambda: self.log.replace(taken))
        except FileNotFoundError:
            return []
        return taken.read_text(encoding="ascii").split()


def _when_allowed(replace: Callable[[], object]) -> None:
    """Do it once the library, which opens either file for a moment, lets Windows do it."""
    until = time.monotonic() + 50
    while True:
        try:
            replace()
            return
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
            time.sleep(0.002)
