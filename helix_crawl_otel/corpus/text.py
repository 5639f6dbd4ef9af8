"""Reads a source as text, or says why it is none, and cuts text into passages.

Text is UTF-8, with or without a mark, or UTF-16 with one. A NUL byte near the beginning, or bytes that cannot be
decoded, make it something else. Line ends become `\\n`, so that the same tree gives the same genes on every system.

Passages are whole paragraphs where they fit, then lines, then sentences and words. Cutting is deterministic: the same
text gives the same passages on every system and in every version with the same fingerprint.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ChunkRule", "NotText", "SourceText", "chunks", "read_text"]

LOOKED_AT = 8192
TRIES = 3


class NotText(Exception):
    """The source is no text. The message says what makes it none."""


@dataclass(frozen=True)
class SourceText:
    """A source that has been read.

    Args:
        text: Decoded, with `\\n` at the ends of lines.
        digest: SHA-256 of its bytes, in hex.
        size: Bytes.
        mtime_ns: Nanoseconds, of the moment that the bytes are of.
    """

    text: str
    digest: str
    size: int
    mtime_ns: int


def read_text(path: Path) -> SourceText:
    """Read a source whole.

    Raises:
        NotText: It is no text.
        OSError: It cannot be read, is gone, or is written to all the time.
    """
    for _ in range(TRIES):
        before = path.stat()
        raw = path.read_bytes()
        after = path.stat()
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns) and len(raw) == after.st_size:
            digest = hashlib.sha256(raw).hexdigest()
            return SourceText(_decoded(raw), digest, after.st_size, after.st_mtime_ns)
    raise OSError(0, "it is being written to; the next build takes it in")


def _decoded(raw: bytes) -> str:
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not utf16 and b"\0" in raw[:LOOKED_AT]:
        raise NotText("it is binary")
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotText(f"it is neither UTF-8 nor UTF-16 with a mark (byte {error.start})") from None
    if utf16 and "\0" in text[:LOOKED_AT]:
        raise NotText("it is binary")  # or UTF-32, whose mark begins like that of UTF-16
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " ")


# -- passages ----------------------------------------------------------------------------------------------------------

# From the best place to break to the worst; each is the end of what stays together.
_BREAKS = tuple(re.compile(pattern) for pattern in (r"\n[ \t]*\n+", r"\n", r"[.!?;][ \t]+", r"[ \t]+"))


@dataclass(frozen=True)
class ChunkRule:
    """How text is cut.

    Args:
        max_chars: Longest passage, in characters, 16 or more. 1,000 characters of prose are 200 to 250 tokens: what
            MiniLM reads whole (256 tokens), and far below what BGE-M3 can. Code takes more tokens a character; what is
            beyond an encoder's limit is not seen by it.
    """

    max_chars: int = 1000

    def __post_init__(self) -> None:
        if isinstance(self.max_chars, bool) or not isinstance(self.max_chars, int) or self.max_chars < 16:
            raise ValueError(f"max_chars is {self.max_chars!r}; accepted: an integer >= 16")

    @property
    def fingerprint(self) -> str:
        """Another one means that sources have to be cut anew."""
        return f"chunk-1:{self.max_chars}"


def chunks(text: str, rule: ChunkRule) -> Iterator[str]:
    """The passages of a text, in order; none is blank, and together they hold every character that is not blank.

    Args:
        text: With `\\n` at the ends of lines.
        rule: How it is cut.
    """
    start = 0
    while start < len(text):
        end = _end(text, start, rule.max_chars)
        passage = text[start:end].strip()
        if passage:
            yield passage
        start = end


def _end(text: str, start: int, most: int) -> int:
    """Where the passage that begins at `start` ends."""
    limit = start + most
    if limit >= len(text):
        return len(text)
    for pattern in _BREAKS:
        # A break in the first quarter would leave a crumb: a worse one further on is better.
        least = start + most // 4
        found = 0
        for match in pattern.finditer(text, least, limit):
            found = match.end()
        if found:
            return found
    return limit
