"""Reads a timeline, tolerant of what a crash, a full disk or another program has left in it.

A line that cannot be used is named by number, skipped and counted. A torn last line is no error: it is what a killed
job leaves. Only a file that cannot be read at all, or is no timeline, is.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.paths import looked_at
from helix_crawl_otel.timeline.events import BadLine, Event, FutureVersion, parse_event, usual_event

__all__ = ["JoinedFiles", "SkippedLine", "TimelineError", "TimelineReader", "read_timeline"]

MAX_LINE_BYTES = 1 << 20
SKIPPED_KEPT = 100
"""Skipped lines remembered with their reason; beyond that they are only counted."""


class TimelineError(Refusal, ValueError):
    """There is nothing to read: the message names the file and says why."""


class SkippedLine(NamedTuple):
    """A line that could not be used."""

    number: int
    reason: str


def read_timeline(source: str | os.PathLike[str] | BinaryIO) -> TimelineReader:
    """Read a timeline; see `TimelineReader`."""
    return TimelineReader(source)


class TimelineReader:
    """The events of a timeline, in the order of its lines. Iterate once; the counts are complete after that.

    Args:
        source: A file, plain or gzip, or an open binary stream.

    Attributes:
        lines: Lines seen, blank ones included.
        events: Events given out.
        unknown_events: Lines of a kind of event that this version does not know; ignored.
        skipped_lines: Lines that could not be used.
        skipped: The first 100 of them, each with its number and reason.
        torn_line: Number of a last line that was cut short, else `None`.

    Raises:
        TimelineError: While iterating: it cannot be opened or read, is a folder, is empty, or has no line of a
            timeline.

    Threads: one.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO) -> None:
        if isinstance(source, (str, os.PathLike)):
            self.name = os.fspath(source)
        else:
            self.name = str(getattr(source, "name", "the stream"))
        self._source = source
        self.lines = self.events = self.unknown_events = self.skipped_lines = 0
        self.skipped: list[SkippedLine] = []
        self.torn_line: int | None = None

    def __iter__(self) -> Iterator[Event]:
        with contextlib.ExitStack() as stack:
            stream = self._open(stack)
            for raw in self._lines(stream):
                if len(raw) <= MAX_LINE_BYTES and (usual := usual_event(raw)) is not None:
                    self.events += 1
                    yield usual
                    continue
                try:
                    event = self._parse(raw)
                except FutureVersion as problem:
                    self._refuse(f"line {self.lines}: {problem}")
                except BadLine as problem:
                    self._skip(raw, problem)
                else:
                    if event is not None:
                        self.events += 1
                        yield event
        if not (self.events or self.unknown_events):
            self._refuse_empty()

    # -- bytes --------------------------------------------------------------------------------------------------------

    def _open(self, stack: contextlib.ExitStack) -> BinaryIO:
        try:
            place = ""  # who waits for a pipe knows it
            if isinstance(self._source, (str, os.PathLike)):
                looked_at.place = place = self.name
                if Path(self._source).is_dir():
                    self._refuse("is a folder; accepted: a file of JSON lines")
                file = Path(self._source).open("rb")  # noqa: SIM115 - the stack of the caller closes it
                stream: BinaryIO = stack.enter_context(file)
            else:
                stream = self._source
            buffered = io.BufferedReader(_Raw(stream, place), 1 << 16)
            if buffered.peek(2)[:2] == b"\x1f\x8b":
                return gzip.GzipFile(fileobj=buffered)  # type: ignore[return-value]  # it reads lines as BinaryIO does
            return buffered
        except (OSError, ValueError) as error:
            if isinstance(error, TimelineError):
                raise
            self._refuse(f"cannot be read: {_why(error)}")

    def _lines(self, stream: BinaryIO) -> Iterator[bytes]:
        """Lines with their line end, at most `MAX_LINE_BYTES` + 1 of each; the last one may have none."""
        while True:
            try:
                raw = stream.readline(MAX_LINE_BYTES + 1)
                rest = raw
                while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                    if not (self.events or self.unknown_events):
                        self._refuse("is not a timeline: it begins with a line of more than 1 MiB")
                    rest = stream.readline(MAX_LINE_BYTES + 1)
            except (OSError, EOFError, zlib.error) as error:  # a damaged end of a gzip file, a share that went away
                if not (self.events or self.unknown_events):
                    self._refuse(f"cannot be read: {_why(error)}")
                self.lines += 1
                self.torn_line = self.lines
                return
            if not raw:
                return
            self.lines += 1
            yield raw

    # -- lines --------------------------------------------------------------------------------------------------------

    def _parse(self, raw: bytes) -> Event | None:
        if len(raw) > MAX_LINE_BYTES:
            raise BadLine("longer than 1 MiB")
        try:
            text = raw.decode("utf-8-sig" if self.lines == 1 else "utf-8").strip()
        except UnicodeDecodeError:
            raise _NotJson("not UTF-8") from None
        if not text:
            return None
        try:
            line, end = _DECODER.raw_decode(text)
            if end < len(text):
                raise json.JSONDecodeError("Extra data", text, end)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(text) or error.msg.startswith("Unterminated")
            raise _NotJson("cut short" if cut else f"not JSON ({error.msg.lower()}, column {error.colno})") from None
        except BadLine:
            raise
        except (ValueError, RecursionError):  # an integer of thousands of digits, brackets thousands deep
            raise _NotJson("not JSON (too long a number, or too deep)") from None
        event = parse_event(line)
        if event is None:
            self.unknown_events += 1
        return event

    def _skip(self, raw: bytes, problem: BadLine) -> None:
        if isinstance(problem, _NotJson) and not raw.endswith(b"\n"):
            self.torn_line = self.lines
            return
        self.skipped_lines += 1
        if len(self.skipped) < SKIPPED_KEPT:
            self.skipped.append(SkippedLine(self.lines, str(problem)))

    # -- refusals -----------------------------------------------------------------------------------------------------

    def _refuse(self, why: str) -> NoReturn:
        raise TimelineError(f"{self.name} {why}")

    def _refuse_empty(self) -> NoReturn:
        if self.skipped:
            number, reason = self.skipped[0]
            self._refuse(f"is not a timeline: none of its {self.lines} lines can be used; line {number}: {reason}")
        if self.torn_line is not None:
            self._refuse("is not a timeline: it has no whole line")
        self._refuse("is empty; accepted: a file of JSON lines, see the timeline's reference")


class JoinedFiles(io.RawIOBase):
    """Timelines of several nodes as one stream: the runs of the one after those of the other. Plain files alone.

    Args:
        paths: In order.
        name: What the stream is called.

    Raises:
        OSError: While it is read: one cannot be.
    """

    def __init__(self, paths: Iterable[Path], name: str) -> None:
        self.name = name
        self._paths = iter(paths)
        self._file: BinaryIO | None = None
        self._ends_line = True

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See `io.RawIOBase`."""
        while True:
            if self._file is None:
                path = next(self._paths, None)
                if path is None:
                    return 0
                self._file = path.open("rb")
            data = self._file.read(len(buffer))
            if not data:
                self._file.close()
                self._file = None
                if self._ends_line:
                    continue
                data = b"\n"  # the last line of a job that was killed
            self._ends_line = data.endswith(b"\n")
            buffer[: len(data)] = data
            return len(data)

    def close(self) -> None:
        """See `io.IOBase`."""
        if self._file is not None:
            self._file.close()
        super().close()


class _NotJson(BadLine):
    """The text of a line is damaged; at the end of a file that is a torn line."""


class _Raw(io.RawIOBase):
    """A stream under a buffer of ours, which can be peeked into and does not close the stream."""

    def __init__(self, stream: BinaryIO, place: str) -> None:
        self._stream, self._place = stream, place

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        read = getattr(self._stream, "read1", self._stream.read)
        looked_at.place = self._place
        data: bytes = read(len(buffer))
        looked_at.place = ""
        buffer[: len(data)] = data
        return len(data)


def _no_number(name: str) -> NoReturn:
    raise BadLine(f"{name} is not a number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)  # once: json.loads would make one for every line


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
