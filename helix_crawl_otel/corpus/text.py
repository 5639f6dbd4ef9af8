"""Reads a source as text, or says why it is none.

`decode` says by the beginning what a source is; what then turns out not to be UTF-8 is begun anew, as what it says by
the bytes around. Line ends become `\\n`, so that the same tree gives the same genes on every system, and of HTML the
text is taken.

No more than a block is held: a source may be larger than the memory. What is large is read twice, once to make sure of
it and once to be cut.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NoReturn

from helix_crawl_otel.corpus import decode
from helix_crawl_otel.corpus.decode import MOST_REPLACED, Decoding, NotText
from helix_crawl_otel.corpus.html import RULE as HTML_RULE
from helix_crawl_otel.corpus.html import is_html, text_of_html
from helix_crawl_otel.corpus.tree import size_and_time

__all__ = ["CannotRead", "SourceText", "read_text"]

BLOCK = 1 << 20
"""Bytes read at once. So many NULs in a row are a hole, such as a disk image or a sparse file has."""

KEPT_BYTES = 4 * BLOCK
"""A larger source is not kept in memory between its two readings."""

TRIES = 3


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
        digest: SHA-256 of its bytes, in hex, and how they were read where that is not as UTF-8.
        read_as: What should be said of how it was read, such as `cp1252`; empty for what is UTF-8, or has a mark.
        size: Bytes.
        mtime_ns: Nanoseconds, of the moment that the bytes are of.
    """

    pieces: Iterable[str]
    chars: int
    is_kept: bool
    digest: str
    read_as: str
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
    decoding: Decoding | None = None
    tries = 0
    while tries < TRIES:
        with _opened(path) as file:
            kept: list[str] | None = []
            chars = 0
            is_blank = True
            reading = _Reading(file, path, decoding, each_block)
            try:
                for piece in reading:
                    chars += len(piece)
                    is_blank = is_blank and not piece.strip()
                    if kept is not None:
                        kept.append(piece)
                        kept = kept if reading.at <= KEPT_BYTES else None
                if is_blank:
                    raise NotText("empty file", "it holds no text" if reading.at else "it is empty")
            except _OtherEncoding as found:
                decoding = found.decoding
                continue
            except _Changed:
                decoding, tries = None, tries + 1
                continue
            except OSError as error:
                raise _cannot_read(error) from error
            pieces = _ReadAgain(path, reading, each_block) if kept is None else kept
            return SourceText(pieces, chars, kept is not None, reading.digest, reading.read_as, *reading.stamp)
    raise CannotRead(str(_Changed()))


class _OtherEncoding(Exception):
    """It has turned out not to be UTF-8."""

    def __init__(self, decoding: Decoding) -> None:
        super().__init__(decoding.name)
        self.decoding = decoding


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
        path: Of it, whose name may say that it is HTML.
        decoding: How, where that is known; else its beginning tells.
        each_block: See `read_text`.

    Attributes:
        stamp: Size and time of the file, when it was begun.
        at: Bytes that were read so far.
        decoding: How it is read.

    Raises:
        NotText: See there.
        _OtherEncoding: It is not as its beginning says.
        _Changed: It is not, at the end, what it was at the beginning.
        OSError: It cannot be read.
    """

    def __init__(self, file: BinaryIO, path: Path, decoding: Decoding | None, each_block: Callable[[], object]) -> None:
        self._file = file
        self._path = path
        self._each_block = each_block
        self._hash = hashlib.sha256()
        self._is_html = False
        self._replaced = 0
        self.decoding = decoding
        self.stamp = self._stamp()
        self.at = 0

    @property
    def digest(self) -> str:
        """SHA-256 of what was read, in hex, and how."""
        decoding = self.decoding or decode.UTF8
        how = [] if decoding.errors == "strict" and not decoding.is_guessed else [decoding.codec, decoding.errors]
        how += [decode.detector()] if decoding.is_guessed else []
        how += [HTML_RULE] if self._is_html else []
        return ":".join([*how, self._hash.hexdigest()])

    @property
    def read_as(self) -> str:
        """See `SourceText`."""
        decoding = self.decoding or decode.UTF8
        if self._replaced:
            return f"{decoding.name} with damaged letters"
        return decoding.name if decoding.is_guessed else ""

    def __iter__(self) -> Iterator[str]:
        head = self._read(decode.HEAD)
        decoding = self.decoding = self.decoding or decode.look(head)
        pieces = self._decoded(head, decoding)
        first = next(pieces, "")
        self._is_html = is_html(self._path.name, first)
        pieces = chain((first,), pieces)
        yield from text_of_html(pieces) if self._is_html else pieces

    def _decoded(self, head: bytes, decoding: Decoding) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder(decoding.codec)(decoding.errors)
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        chars = 0
        for block in chain((head[decoding.mark :],), iter(lambda: self._read(BLOCK), b""), (b"",)):
            held = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, not block)
            except UnicodeDecodeError as error:
                self._is_not(decoding, self.at - len(block) - held + error.start)
            chars += len(text)
            if decoding.errors != "strict":
                self._replaced += text.count("\ufffd")
            yield newlines.decode(text, not block).replace("\0", " ")
        if self._replaced * MOST_REPLACED > chars:
            raise NotText("undecodable text", f"{self._replaced} of {chars} letters are no {decoding.name}")
        if self.at != self.stamp[0] or self._stamp() != self.stamp:
            raise _Changed

    def _is_not(self, decoding: Decoding, at: int) -> NoReturn:
        """Bytes cannot be decoded: those at `at`."""
        if decoding.mark and decoding.codec != "utf-8":
            raise _OtherEncoding(replace(decoding, errors="replace"))
        if decoding.codec != "utf-8":
            what = "it may be" if decoding.is_guessed else "it begins as"
            raise NotText("undecodable text", f"{what} {decoding.name}, but byte {at} is not")
        start = max(0, at - decode.SAMPLE // 16)
        self._file.seek(0)
        head = self._file.read(decode.HEAD)
        self._file.seek(start)
        sample = self._file.read(decode.SAMPLE)
        is_end = start + len(sample) >= self.stamp[0]
        if start:  # a window begins and ends where a line does, so that no letter is cut
            sample = sample[sample.find(b"\n", 0, at - start) + 1 :]
        if not is_end:
            sample = sample[: sample.rfind(b"\n") + 1] or sample
        raise _OtherEncoding(decode.decoding_of(sample, at, is_end=is_end, head=head))

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
            raise NotText(
                "binary file", f"it is binary: nothing but NUL bytes from byte {self.at - BLOCK} on, for {BLOCK} bytes"
            )
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
                reading = _Reading(file, self.path, self.before.decoding, self.each_block)
                yield from reading
        except OSError as error:
            raise _cannot_read(error) from error
        except (NotText, _OtherEncoding, _Changed):
            raise CannotRead(str(_Changed())) from None
        if (reading.stamp, reading.digest) != (self.before.stamp, self.before.digest):
            raise CannotRead(str(_Changed()))
