"""A text stream that nobody who writes to it waits for: it queues, and a thread of its own does the writing.

A pipe that nobody reads is full after 64 kB, on Windows after less; a console freezes every write while its user
selects text. Whoever shows a run must not hold up who decides in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from helix_crawl_otel.formats import is_gone_reader

__all__ = ["QueuedOutput"]

PIECE_BYTES = 64
"""What a queued piece takes beside its letters."""


class QueuedOutput(io.TextIOBase):
    """Stands before a stream. Order is kept, whoever writes; a reader that has gone ends the show and nothing else, and
    so does a full disk.

    Args:
        stream: Where to. What is asked of the system about it is asked here, once: on Windows such a question may wait
            for a write that hangs.
        most_bytes: What may wait. Of more than that the oldest pieces are dropped.
        gap: Where some are missing this is written, given how many.
        on_failure: Called once, in the thread, with what has ended the show, unless it was a reader that has gone.

    Threads: any.
    """

    encoding: str = "utf-8"  # else the base class has it, for reading only
    errors: str | None = None

    def __init__(
        self,
        stream: TextIO,
        most_bytes: int,
        gap: Callable[[int], str],
        on_failure: Callable[[OSError], None] | None = None,
    ) -> None:
        super().__init__()
        self.encoding = stream.encoding or "utf-8"
        self.errors = stream.errors
        self.pieces = 0  # written so far; set by the thread
        self._most_bytes = most_bytes
        self._gap = gap
        self._on_failure = on_failure
        self._is_terminal = stream.isatty()
        self._number = _number(stream)
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[str] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._is_ending = False
        self._is_over = False
        threading.Thread(target=self._deliver, args=(stream,), name="helix-crawl-outlet", daemon=True).start()

    @property
    def is_behind(self) -> bool:
        """Whether something is still to be written."""
        with self._changed:
            return bool(self._waiting) or self._is_writing

    def write(self, text: str, /) -> int:
        """Queue a piece, which is never torn. After `end`, or without a reader, it is thrown away."""
        with self._changed:
            if self._is_ending or self._is_over or not text:
                return len(text)
            self._waiting.append(text)
            self._waiting_bytes += _bytes(text)
            while self._waiting_bytes > self._most_bytes and len(self._waiting) > 1:
                self._waiting_bytes -= _bytes(self._waiting.popleft())
                self._dropped += 1
            self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def writable(self) -> bool:
        """It is for that."""
        return True

    def isatty(self) -> bool:
        """Whether the stream behind is a terminal."""
        return self._is_terminal

    def fileno(self) -> int:
        """Of the stream behind.

        Raises:
            OSError: It has none.
        """
        if self._number is None:
            raise io.UnsupportedOperation("fileno")
        return self._number

    def end(self) -> None:
        """Take nothing more; what waits is still written, by the thread."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until the thread has done its work after `end`, or has no reader. Returns whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_over, seconds)

    # -- its thread ---------------------------------------------------------------------------------------------------

    def _deliver(self, stream: TextIO) -> None:
        try:
            # Whatever ends it, a reader that has gone or letters that cannot be encoded: the run is none the wiser.
            with contextlib.suppress(ValueError), _another(stream) as target:
                while (text := self._next()) is not None:
                    target.write(text)
                    target.flush()
                    self.pieces += 1
        except OSError as error:
            if self._on_failure is not None and not is_gone_reader(error):
                self._on_failure(error)
        finally:  # who waits for the end must not wait for a thread that has failed
            with self._changed:
                self._is_over, self._is_writing = True, False
                self._waiting.clear()
                self._changed.notify_all()

    def _next(self) -> str | None:
        with self._changed:
            self._is_writing = False
            self._changed.wait_for(lambda: self._waiting or self._is_ending)
            if not self._waiting:
                return None
            text = self._waiting.popleft()
            self._waiting_bytes -= _bytes(text)
            self._is_writing = True
            missing, self._dropped = self._dropped, 0
            return self._gap(missing) + text if missing else text


def _bytes(text: str) -> int:
    return len(text) + PIECE_BYTES


def _number(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _another(stream: TextIO) -> contextlib.AbstractContextManager[TextIO]:
    """The same file through a stream of its own, closed with the block; a stream without a file as it is.

    A write that hangs holds the locks of its stream: the interpreter's last flush of that one would fail, and end the
    process with another exit code. On Windows the system has such a lock as well, so a console is opened anew.
    """
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    buffer: Any = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.RawIOBase):
        return contextlib.nullcontext(stream)
    kind: Any = type(raw)
    if kind is io.FileIO:
        file = io.FileIO(os.dup(stream.fileno()), "wb")
    elif sys.platform == "win32":
        file = kind("CONOUT$", "wb")  # it is Python's own for a console
    else:
        return contextlib.nullcontext(stream)
    return io.TextIOWrapper(io.BufferedWriter(file), encoding=stream.encoding, errors=stream.errors)
