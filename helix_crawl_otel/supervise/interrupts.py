"""Counts the operator's interrupts: Ctrl-C, SIGTERM, and Ctrl-Break or the closed terminal where there are such.

Source: DESIGN.md, section 3.3: the first finishes the batch, the second ends at once.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]

_NAMES = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")


class Interrupts:
    """Takes the signals over while its `with` block lasts.

    Args:
        heard: Called with how many there have been, in the main thread, between two of its instructions: it must only
            put something into a queue that may be put to from there (`queue.SimpleQueue`).

    Threads: the main thread's.
    """

    def __init__(self, heard: Callable[[int], None]) -> None:
        self._heard = heard
        self._times = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for name in _NAMES:
            number = getattr(signal, name, None)
            # What was ignored stays so: under nohup a closed terminal is no reason to stop.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._times += 1
        self._heard(self._times)
