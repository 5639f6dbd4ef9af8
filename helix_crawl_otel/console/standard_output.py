"""Puts outlets in the place of standard output and standard error while a supervised command lasts."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TextIO, cast

from helix_crawl_otel.console.output import QueuedOutput
from helix_crawl_otel.console.virtual_terminal import VirtualTerminal
from helix_crawl_otel.supervise.interrupts import Interrupts

__all__ = ["StandardOutput"]

TEXT_BYTES = 4 << 20
JSON_BYTES = 64 << 20
"""Some 270,000 events: what a script wants is all of them."""

LOOK_SECONDS = 0.1
TELL_SECONDS = 30.0
LOG_SECONDS = 10.0
"""How long log lines alone wait for somebody who does not read: a caller may only read standard output, to its end."""

HURRY_SECONDS = 1.0


class StandardOutput:
    """Use it in a `with` block, around all that others wait for: folder locks, workers, the notice of the end.

    At the end it waits until what was shown has been read: for ever, since a pager or a console in which text is being
    selected may take all night; an interrupt gives it up. Log lines alone, or anybody after a second interrupt, get a
    moment in which at least something must be read.

    Args:
        as_json: Standard output holds events, one object a line.
        clock: Seconds.
        look_seconds: How often it is looked for interrupts at the end.

    Raises:
        KeyboardInterrupt: At `__exit__`: the wait was given up by an interrupt.

    Threads: the main thread's.
    """

    def __init__(
        self, as_json: bool, clock: Callable[[], float] = time.monotonic, look_seconds: float = LOOK_SECONDS
    ) -> None:
        self.hurries = False
        self._as_json = as_json
        self._clock = clock
        self._look_seconds = look_seconds
        self._shown: QueuedOutput | None = None  # in the place of standard output
        self._told: QueuedOutput | None = None  # and of standard error; the same one where both are the same file
        self._handler: logging.Handler | None = None

    def __enter__(self) -> StandardOutput:
        # Either is None where it was closed.
        shown, told = self._before = cast("TextIO | None", sys.stdout), cast("TextIO | None", sys.stderr)
        self._terminal = VirtualTerminal(shown)
        is_same = shown is not None and told is not None and _is_same(shown, told)
        if told is not None and not is_same:
            self._told = QueuedOutput(told, TEXT_BYTES, _text_gap)
        if shown is not None:
            most_bytes, gap = (JSON_BYTES, _json_gap) if self._as_json else (TEXT_BYTES, _text_gap)
            self._shown = QueuedOutput(shown, most_bytes, gap, None if is_same else self._tell_of)
            sys.stdout = cast("TextIO", self._shown)
        if is_same:
            self._told = self._shown
        if self._told is not None:
            sys.stderr = cast("TextIO", self._told)
        root = logging.getLogger()
        if self._told is not None and not root.handlers:
            self._handler = logging.StreamHandler(self._told)
            self._handler.setFormatter(logging.Formatter("%(message)s"))
            root.addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hurries = self.hurries or isinstance(error, KeyboardInterrupt)
        try:
            if self._shown is not None:
                self._wait(self._shown, HURRY_SECONDS if hurries else None)
            if self._told is not None:
                self._wait(self._told, HURRY_SECONDS if hurries else LOG_SECONDS)
        finally:
            sys.stdout, sys.stderr = cast("tuple[TextIO, TextIO]", self._before)
            if self._handler is not None:
                logging.getLogger().removeHandler(self._handler)
            self._terminal.restore()

    def _wait(self, outlet: QueuedOutput, patience_seconds: float | None) -> None:
        """Wait for an outlet's reader.

        Args:
            outlet: Nothing more is shown there.
            patience_seconds: For the next piece to be read; `None` without a bound.

        Raises:
            KeyboardInterrupt: The operator has.
        """
        outlet.end()
        if outlet.wait(0.0):
            return
        interrupts: SimpleQueue[int] = SimpleQueue()
        pieces, since, is_told = outlet.pieces, self._clock(), False
        with Interrupts(interrupts.put):
            while not outlet.wait(self._look_seconds):  # by turns: on Windows no interrupt ends a wait
                try:
                    interrupts.get_nowait()
                except Empty:
                    pass
                else:
                    raise KeyboardInterrupt
                now = self._clock()
                if outlet.pieces != pieces:
                    pieces, since = outlet.pieces, now
                elif patience_seconds is not None and now - since > patience_seconds:
                    return
                elif now - since > TELL_SECONDS and not is_told and self._told is not None:
                    is_told = True
                    self._told.write(
                        "helix-crawl: the run is over and its folder free, but nobody reads what it has to show on "
                        "standard output; Ctrl-C gives that up\n"
                    )

    def _tell_of(self, error: OSError) -> None:
        if self._told is not None:
            self._told.write(
                f"helix-crawl: standard output cannot be written ({error.strerror or error}): it ends here, "
                "perhaps within a line; the run goes on\n"
            )


def _is_same(shown: TextIO, told: TextIO) -> bool:
    """Whether both are the same terminal, pipe or file: then one queue keeps their lines in order."""
    if shown is told:
        return True
    try:
        if sys.platform == "win32":  # which knows the number of a file, not of a pipe or a console
            return shown.isatty() and told.isatty()
        return os.path.sameopenfile(shown.fileno(), told.fileno())
    except (OSError, ValueError):
        return False


def _text_gap(missing: int) -> str:
    return f"[{missing:,} messages are missing here: nobody was reading]\n"


def _json_gap(missing: int) -> str:
    return json.dumps({"event": "dropped", "lines": missing}) + "\n"
