"""Counts the operator's interrupts: Ctrl-C, SIGTERM, and Ctrl-Break or the closed terminal where there are such.

One wish may come as several signals: a service manager and a terminal both send one, a wrapper hands its own on. So all
within a second of one that counts are that one.

Source: DESIGN.md, section 3.3: the first finishes the batch, the second ends at once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupts"]

INTERRUPTS = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")

TOGETHER_SECONDS = 1.0
"""Signals that follow one that counts this soon are part of it; the world's seconds."""


class Interrupts:
    """Takes the signals over while its `with` block lasts.

    Args:
        heard: Called with how many there have been, in the main thread, between two of its instructions: it must only
            put something into a queue that may be put to from there (`queue.SimpleQueue`).
        clock: Seconds of the world; may be read from a handler.

    Threads: the main thread's.
    """

    def __init__(self, heard: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._heard = heard
        self._clock = clock
        self._times = 0
        self._counted_at = float("-inf")
        self._is_over = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for name in INTERRUPTS:
            number = getattr(signal, name, None)
            # What was ignored stays so: under nohup a closed terminal is no reason to stop.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        if not self._is_part():  # else the rest of it may still be on its way, and would end the program
            self._give_back()

    def _is_part(self) -> bool:
        return self._clock() - self._counted_at < TOGETHER_SECONDS

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._is_part():
            return
        if self._is_over:
            self._give_back()
            signal.raise_signal(number)
            return
        self._times += 1
        self._counted_at = self._clock()
        self._heard(self._times)
