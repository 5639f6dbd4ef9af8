"""Reads a source as text, or says why it is none.

Text is UTF-8, with or without a mark, or UTF-16 with one. A NUL byte near the beginning, a hole, or bytes that cannot
be decoded, make it something else. Line ends become `\\n`, so that the same tree gives the same genes on every system.

The beginning is looked at first, and no more than a block is held: a source may be larger than the memory. What is
large is read twice, once to make sure of it and once to be cut.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from helix_crawl_otel.corpus.tree import size_and_time

__all__ = ["CannotRead", "NotText", "SourceText", "read_text"]

LOOKED_AT = 8192
"""Bytes, or characters of UTF-16, at the beginning of a source that hold no NUL if it is text."""

BLOCK = 1 << 20
"""Bytes read at once. So many NULs in a row are a hole, such as a disk image or a sparse file has."""

KEPT_BYTES = 4 * BLOCK
"""A larger source is not kept in memory between its two readings."""

TRIES = 3

_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


class NotText(Exception):
    """The source is no text. The message says what makes it none."""


class CannotRead(Exception):
    """The source cannot be read, or is written to all the time. The message is the reason."""


@dataclass(frozen=True)
class SourceText:
    """A source that has been read.

    Args:
        pieces: Its text, decoded, with `\\n` at the ends of lines, some at once. May be gone through again. Of a large
            source it is read anew, which raises `CannotRead`.
        chars: How many characters that is.
        is_kept: `pieces` are in memory.
        digest: SHA-256 of its bytes, in hex.
        size: Bytes.
        mtime_ns: Nanoseconds, of the moment that the bytes are of.
    """

    pieces: Iterable[str]
    chars: int
    is_kept: bool
    digest: str
    size: int
    mtime_ns: int


def read_text(path: Path, each_block: Callable[[], object] = lambda: None) -> SourceText:
    """Read a source to its end, and make sure that it is text.

    Args:
        path: The file.
        each_block: Called between two blocks of a mebibyte, also of `SourceText.pieces`. What it raises ends the
            reading.

    Raises:
        NotText: It is no text.
        FileNotFoundError: It is gone.
        CannotRead: See there.
    """
    for _ in range(TRIES):
        with _opened(path) as file:
            kept: list[str] | None = []
            chars = 0
            reading = _Reading(file, each_block)
            try:
                for piece in reading:
                    chars += len(piece)
                    if kept is not None:
                        kept.append(piece)
                        kept = kept if reading.at <= KEPT_BYTES else None
            except _Changed:
                continue
            except OSError as error:
                raise _cannot_read(error) from error
            pieces = _ReadAgain(path, reading, each_block) if kept is None else kept
            return SourceText(pieces, chars, kept is not None, reading.digest, *reading.stamp)
    raise CannotRead(str(_Changed()))


class _Changed(Exception):
    def __str__(self) -> str:
        return "it is being written to; the next build takes it in"


def _cannot_read(error: OSError) -> CannotRead:
    return CannotRead(error.strerror or str(error) or type(error).__name__)


def _opened(path: Path) -> BinaryIO:
    """Nothing is waited for: what is there under this name now may be a pipe, or a file of the kernel's that blocks.

    Raises:
        FileNotFoundError: It is gone.
        CannotRead: It cannot be opened, or is no regular file any more.
    """
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))  # noqa: SIM115 - closed by who uses it; `Path.open` takes no opener
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _cannot_read(error) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CannotRead("it is no regular file any more")
    return file


class _Reading:
    """One reading of a file from its beginning to its end; gone through once, it gives the text.

    Args:
        file: Open.
        each_block: See `read_text`.

    Attributes:
        stamp: Size and time of the file, when it was begun.
        at: Bytes that were read so far.

    Raises:
        NotText: See there.
        _Changed: It is not, at the end, what it was at the beginning.
        OSError: It cannot be read.
    """

    def __init__(self, file: BinaryIO, each_block: Callable[[], object]) -> None:
        self._file = file
        self._each_block = each_block
        self._hash = hashlib.sha256()
        self.stamp = self._stamp()
        self.at = 0

    @property
    def digest(self) -> str:
        """SHA-256 of what was read, in hex."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[str]:
        head = self._read(LOOKED_AT)
        mark = next((mark for mark in (codecs.BOM_UTF8, *_UTF16) if head.startswith(mark)), b"")
        decoder = codecs.getincrementaldecoder(_UTF16.get(mark, "utf-8"))()
        is_utf16 = mark in _UTF16
        if not is_utf16 and b"\0" in head:
            raise NotText("it is binary")
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        looked_at = 0
        for block in chain((head.removeprefix(mark),), iter(lambda: self._read(BLOCK), b""), (b"",)):
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, not block)
            except UnicodeDecodeError as error:
                at = self.at - len(block) - held + error.start
                raise NotText(f"it is neither UTF-8 nor UTF-16 with a mark (byte {at})") from None
            if is_utf16 and "\0" in text[: max(0, LOOKED_AT - looked_at)]:
                raise NotText("it is binary")  # or UTF-32, whose mark begins like that of UTF-16
            looked_at += len(text)
            yield newlines.decode(text, not block).replace("\0", " ")
        if self.at != self.stamp[0] or self._stamp() != self.stamp:
            raise _Changed

    def _read(self, most: int) -> bytes:
        if self.at >= BLOCK:
            self._each_block()
        block = self._file.read(most)
        if block is None:
            raise BlockingIOError(0, "it would have to be waited for")
        self._hash.update(block)
        self.at += len(block)
        if self.at > self.stamp[0]:
            raise _Changed  # it may grow as fast as it is read
        if len(block) == BLOCK and not block.strip(b"\0"):
            raise NotText(f"it is binary: nothing but NUL bytes from byte {self.at - BLOCK} on, for {BLOCK} bytes")
        return block

    def _stamp(self) -> tuple[int, int]:
        return size_and_time(os.fstat(self._file.fileno()))


@dataclass(frozen=True)
class _ReadAgain:
    """The text of a file that is too large to be kept.

    Args:
        path: Of the file.
        before: How it was read the first time.
        each_block: See `read_text`.
    """

    path: Path
    before: _Reading
    each_block: Callable[[], object]

    def __iter__(self) -> Iterator[str]:
        try:
            with _opened(self.path) as file:
                reading = _Reading(file, self.each_block)
                yield from reading
        except OSError as error:
            raise _cannot_read(error) from error
        except (NotText, _Changed):
            raise CannotRead(str(_Changed())) from None
        if (reading.stamp, reading.digest) != (self.before.stamp, self.before.digest):
            raise CannotRead(str(_Changed()))
