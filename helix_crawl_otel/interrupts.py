"""Counts the operator's interrupts: Ctrl-C, SIGTERM, and Ctrl-Break or the closed terminal where there are such.

One wish may come as several signals: a service manager and a terminal both send one, a wrapper hands its own on. So all
within a second of one that counts are that one.

Source: DESIGN.md, section 3.3: the first finishes the batch, the second ends at once.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, TypeVar

from helix_crawl_otel.exit_codes import INTERRUPTED, PAUSED, Refusal
from helix_crawl_otel.formats import duration
from helix_crawl_otel.logs import logger
from helix_crawl_otel.paths import looked_at

__all__ = ["Interrupts", "LeftEarly", "PausedEarly", "hearing"]

Value = TypeVar("Value")

INTERRUPTS = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")

TOGETHER_SECONDS = 1.0
"""Signals that follow one that counts this soon are part of it; the world's seconds."""


class Interrupts:
    """Takes the signals over while its `with` block lasts. In another thread than the main one it hears nothing.

    Args:
        heard: Called with how many there have been, in the main thread, between two of its instructions: it must only
            put something into a queue that may be put to from there (`queue.SimpleQueue`).
        clock: Seconds of the world; may be read from a handler.

    Threads: the main thread's, if it is to hear anything.
    """

    def __init__(self, heard: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._heard = heard
        self._clock = clock
        self._times = 0
        self._counted_at = float("-inf")
        self._is_over = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for name in INTERRUPTS if threading.current_thread() is threading.main_thread() else ():
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


class PausedEarly(Refusal):
    """The operator has interrupted before anything was begun."""

    exit_code = PAUSED


class LeftEarly(Refusal):
    """The operator has interrupted a command that only reads."""

    exit_code = INTERRUPTED


LOOK_SECONDS = 0.1
SLOW_SECONDS = 10.0
"""Without an answer from one place after which that is told, and again after twice as long each time."""
LEAVE_SECONDS = 1.0
"""For a step that is interrupted to end with what it is at, the renaming of a file say."""


def hearing(
    step: Callable[[], Value], clock: Callable[[], float] = time.monotonic, *, only_reads: bool = False
) -> Value:
    """Do something that looks through folders, in a thread of its own: of a network mount that is dead no call ever
    comes back, and the thread that has made it hears no signal.

    Args:
        step: What to do; where it is stands in `paths.looked_at`.
        clock: Seconds of the world.
        only_reads: The command has nothing to go on with.

    Returns:
        What `step` does; what it raises is raised.

    Raises:
        PausedEarly: An interrupt came first. The thread is left behind.
        LeftEarly: The same, of a command that only reads.
        RuntimeError: The system has no thread to give.

    Threads: the main thread's.
    """
    done: SimpleQueue[int] = SimpleQueue()  # 0, or how many interrupts there have been
    values: list[Value] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            values.append(step())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)
        done.put(0)

    thread = threading.Thread(target=run, name="helix-crawl-look", daemon=True)
    looked_at.place = ""  # what was looked at before has answered
    seen, since, patience = ("", 0), clock(), SLOW_SECONDS
    with Interrupts(done.put, clock):
        thread.start()
        while True:
            try:
                interrupts = done.get(timeout=LOOK_SECONDS)  # by turns: on Windows no interrupt ends a wait
            except Empty:
                now = clock()
                place = looked_at.place
                if (place, looked_at.answers) != seen:
                    seen, since, patience = (place, looked_at.answers), now, SLOW_SECONDS
                elif place and now - since >= patience:
                    patience *= 2
                    logger.warning(
                        "still looking at %s after %s: does its server not answer? an interrupt ends the wait",
                        place,
                        duration(now - since),
                    )
                continue
            if interrupts:
                thread.join(LEAVE_SECONDS)
                where = f" while {looked_at.place} was looked at" if looked_at.place else ""
                if only_reads:
                    raise LeftEarly(f"interrupted{where}")
                raise PausedEarly(f"interrupted{where}; nothing was begun, and the same command begins it")
            break
    if failures:
        raise failures[0]
    return values[0]
