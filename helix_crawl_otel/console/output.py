"""The threads that write while a supervised command lasts: one draws on standard output, one tells on standard error.

A pipe that nobody reads is full after 64 kB, on Windows after less; a console freezes every write while its user
selects text. Whoever shows a run must not hold up who decides in it: all others put what they have to show or to log
into a bounded queue.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple, TextIO, cast

from helix_crawl_otel.formats import is_gone_reader, printable
from helix_crawl_otel.interrupts import Interrupts
from helix_crawl_otel.logs import LineFormatter, log_thread_error

__all__ = ["LogHandler", "OutputThread", "Piece", "StandardOutput"]

PIECE_BYTES = 64
"""What a queued piece takes beside its letters."""

TEXT_BYTES = 4 << 20
JSON_BYTES = 64 << 20
"""Some 270,000 events: what a script wants is all of them."""

LOOK_SECONDS = 0.1
TELL_SECONDS = 30.0
LOG_SECONDS = 10.0
"""How long log lines alone wait for somebody who does not read: a caller may only read standard output, to its end."""

HURRY_SECONDS = 1.0

STD_OUTPUT_HANDLE = -11
ENABLE_VIRTUAL_TERMINAL_PROCESSING = 4


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
        self.shown: OutputThread | None = None  # draws on standard output; none where that is closed
        self._told: OutputThread | None = None  # and on standard error; the same one where both are the same file
        self._as_json = as_json
        self._clock = clock
        self._look_seconds = look_seconds
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StandardOutput:
        # Either is None where it was closed.
        shown, told = cast("TextIO | None", sys.stdout), cast("TextIO | None", sys.stderr)
        self._stack.callback(_VirtualTerminal(shown).restore)
        is_same = shown is not None and told is not None and _is_same(shown, told)
        if told is not None and not is_same:
            self._told = OutputThread(told, TEXT_BYTES, _text_gap)
        if shown is not None:
            most_bytes, gap = (JSON_BYTES, _json_gap) if self._as_json else (TEXT_BYTES, _text_gap)
            self.shown = OutputThread(shown, most_bytes, gap, None if is_same else self._tell_of)
        if is_same:
            self._told = self.shown
        root = logging.getLogger()
        if self._told is not None and not root.handlers:
            handler = LogHandler(self._told)
            root.addHandler(handler)
            self._stack.callback(root.removeHandler, handler)
            # These write to standard error by themselves, and would wait for its reader.
            logging.captureWarnings(True)
            self._stack.callback(logging.captureWarnings, False)
            self._stack.callback(setattr, threading, "excepthook", threading.excepthook)
            threading.excepthook = log_thread_error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        hurries = self.hurries or isinstance(error, KeyboardInterrupt)
        with self._stack:
            if self.shown is not None:
                self._wait(self.shown, HURRY_SECONDS if hurries else None)
            if self._told is not None:
                self._wait(self._told, HURRY_SECONDS if hurries else LOG_SECONDS)

    def _wait(self, output: OutputThread, patience_seconds: float | None) -> None:
        """Wait for the reader of an output.

        Args:
            output: Nothing more is shown there.
            patience_seconds: For the next piece to be read; `None` without a bound.

        Raises:
            KeyboardInterrupt: The operator has.
        """
        output.end()
        if output.wait(0.0):
            return
        interrupts: SimpleQueue[int] = SimpleQueue()
        pieces, since, is_told = output.pieces, self._clock(), False
        with Interrupts(interrupts.put):
            while not output.wait(self._look_seconds):  # by turns: on Windows no interrupt ends a wait
                try:
                    interrupts.get_nowait()
                except Empty:
                    pass
                else:
                    raise KeyboardInterrupt
                now = self._clock()
                if output.pieces != pieces:
                    pieces, since = output.pieces, now
                elif patience_seconds is not None and now - since > patience_seconds:
                    return
                elif now - since > TELL_SECONDS and not is_told and self._told is not None:
                    is_told = True
                    self._told.say(
                        "helix-crawl: the run is over and its folder free, but nobody reads what it has to show on "
                        "standard output; Ctrl-C gives that up"
                    )

    def _tell_of(self, error: OSError) -> None:
        if self._told is not None:
            self._told.say(
                f"helix-crawl: standard output cannot be written ({error.strerror or error}): it ends here, "
                "perhaps within a line; the run goes on"
            )


class Piece(NamedTuple):
    """What is shown at once, and never torn.

    Args:
        text: Whole lines.
        level: Of a log line, 0 of any other.
        bars: What stands below from now on, on a screen that has such: something that `rich` draws.
        is_last: The run is over: the bars go.
    """

    text: str
    level: int = 0
    bars: Any = None
    is_last: bool = False


class OutputThread(QueueListener):
    """Writes to one stream what any thread has put into its queue, in that order; who puts waits for nobody.

    A reader that has gone ends the show and nothing else, and so does a full disk.

    Args:
        stream: Where to.
        most_bytes: What may wait. Of more than that the oldest pieces are dropped.
        gap: Where some are missing this is written, given how many.
        on_failure: Called once, in the thread, with what has ended the show, unless it was a reader that has gone.

    Threads: any, but for `get` and `handle`.
    """

    def __init__(
        self,
        stream: TextIO,
        most_bytes: int,
        gap: Callable[[int], str],
        on_failure: Callable[[OSError], None] | None = None,
    ) -> None:
        super().__init__(self)  # it is its queue as well
        self.draw: Callable[[Piece, TextIO], None] = _write_lines  # called by the thread; what has bars replaces it
        self.is_terminal = stream.isatty()
        self.pieces = 0  # written so far; set by the thread
        self._most_bytes = most_bytes
        self._gap = gap
        self._on_failure = on_failure
        # Asked for here, once: on Windows the system may let this wait for a write that hangs.
        self._stream = stream
        self._closing = contextlib.ExitStack()
        self._target = self._closing.enter_context(_another(stream))
        # Guards what follows. It is reentrant: a finalizer may log in the middle.
        self._changed = threading.Condition()
        self._waiting: deque[Piece] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._is_ending = False
        self._is_over = False
        self.start()

    @property
    def is_behind(self) -> bool:
        """Whether something is still to be written."""
        with self._changed:
            return bool(self._waiting) or self._is_writing

    def say(self, *lines: str, bars: Any = None, is_last: bool = False) -> None:
        """Queue lines for people, each by way of `formats.printable`. Bars and end: see `Piece`."""
        self.put_nowait(Piece("".join(f"{printable(line)}\n" for line in lines), bars=bars, is_last=is_last))

    def write(self, text: str) -> None:
        """Queue whole lines for programs, as they are."""
        self.put_nowait(Piece(text))

    def as_stream(self) -> TextIO:
        """A stream that queues what is written to it, whole lines, for people."""
        return cast("TextIO", _QueuedStream(self))

    def put_nowait(self, piece: Piece) -> None:
        """Queue a piece. After `end`, or without a reader, it is thrown away."""
        with self._changed:
            if self._is_ending:
                return
            self._waiting.append(piece)
            self._waiting_bytes += _bytes(piece)
            while self._waiting_bytes > self._most_bytes and len(self._waiting) > 1:
                self._waiting_bytes -= _bytes(self._waiting.popleft())
                self._dropped += 1
            self._changed.notify_all()

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

    def get(self, block: bool = True) -> Piece | None:
        """The next piece; `None`, which is the listener's end, when all has been written."""
        with self._changed:
            self._is_writing = False
            self._changed.wait_for(lambda: self._waiting or self._is_ending)
            if self._waiting:
                self._is_writing = True
                if self._dropped:
                    missing, self._dropped = self._dropped, 0
                    return Piece(self._gap(missing))
                piece = self._waiting.popleft()
                self._waiting_bytes -= _bytes(piece)
                return piece
        with contextlib.suppress(OSError, ValueError):
            self._closing.close()
        self._finish()
        return None

    def handle(self, record: Any) -> None:
        """Draw a piece. Whatever ends the show, a reader that has gone or letters that cannot be encoded, the run is
        none the wiser; and who waits for the end does not wait for a thread that has failed.
        """
        is_shown = False
        try:
            if not self.pieces:  # what was printed before
                with contextlib.suppress(OSError, ValueError):
                    self._stream.flush()
            self.draw(record, self._target)
            self.pieces += 1
            is_shown = True
        except ValueError:
            pass
        except OSError as error:
            if self._on_failure is not None and not is_gone_reader(error):
                self._on_failure(error)
        finally:
            if not is_shown:
                self._finish()

    def _finish(self) -> None:
        with self._changed:
            self._is_ending, self._is_over, self._is_writing = True, True, False
            self._waiting.clear()
            self._changed.notify_all()


class _QueuedStream:
    """As much of a stream as an exporter to the console needs.

    Args:
        output: Writes.
    """

    def __init__(self, output: OutputThread) -> None:
        self._output = output

    def write(self, text: str) -> int:
        """Queue it."""
        self._output.say(*text.splitlines())
        return len(text)

    def flush(self) -> None:
        """Nobody waits for it."""


class LogHandler(QueueHandler):
    """Queues log lines among what an `OutputThread`, its queue, writes."""

    def __init__(self, output: OutputThread) -> None:
        super().__init__(output)
        self.setFormatter(LineFormatter(is_terminal=output.is_terminal))

    def prepare(self, record: logging.LogRecord) -> Any:
        """See `QueueHandler`: as a piece."""
        return Piece(self.format(record) + "\n", record.levelno)


class _VirtualTerminal:
    """Windows: has a console understand the control sequences of the bars. It can, and is not told to from the start.

    Otherwise `rich` moves the cursor by calls of the system, past what is queued.

    Args:
        stream: Standard output, `None` when it is closed; nothing is done where it is no such console.

    Source: Microsoft, "Console Virtual Terminal Sequences". Tried under Wine only.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._before: int | None = None
        if sys.platform == "win32" and stream is not None and stream.isatty():
            mode = ctypes.c_uint32()
            handle = _handle()
            if not _kernel32.GetConsoleMode(handle, ctypes.byref(mode)):
                return  # NUL says that it is a terminal
            if _kernel32.SetConsoleMode(handle, mode.value | ENABLE_VIRTUAL_TERMINAL_PROCESSING):
                self._before = mode.value

    def restore(self) -> None:
        """Leave the console as it was: it outlives us."""
        if sys.platform == "win32" and self._before is not None:
            _kernel32.SetConsoleMode(_handle(), self._before)


if sys.platform == "win32":
    _kernel32 = ctypes.WinDLL("kernel32")
    _kernel32.GetStdHandle.restype = ctypes.c_void_p

    def _handle() -> ctypes.c_void_p:
        return ctypes.c_void_p(_kernel32.GetStdHandle(STD_OUTPUT_HANDLE))


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


def _write_lines(piece: Piece, stream: TextIO) -> None:
    stream.write(piece.text)
    stream.flush()


def _bytes(piece: Piece) -> int:
    return len(piece.text) + PIECE_BYTES


def _another(stream: TextIO) -> contextlib.AbstractContextManager[TextIO]:
    """The same file through a stream of its own, closed with the block; a stream without a file as it is.

    A write that hangs holds the locks of its stream: the interpreter's last flush of that one would fail, and end the
    process with another exit code. On Windows the system has such a lock as well, so a console is opened anew.
    """
    buffer: Any = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.RawIOBase):
        return contextlib.nullcontext(stream)
    kind: Any = type(raw)
    with contextlib.suppress(OSError, ValueError):
        if kind is io.FileIO:
            file = io.FileIO(os.dup(stream.fileno()), "wb")
        elif sys.platform == "win32":
            file = kind("CONOUT$", "wb")  # it is Python's own for a console
        else:
            return contextlib.nullcontext(stream)
        return io.TextIOWrapper(io.BufferedWriter(file), encoding=stream.encoding, errors=stream.errors)
    return contextlib.nullcontext(stream)  # the first write will tell what is wrong with it
