"""Reads a source as text, or says why it is none.

Text is UTF-8, with or without a mark, or UTF-16 with one. A NUL byte near the beginning, or bytes that cannot be
decoded, make it something else. Line ends become `\\n`, so that the same tree gives the same genes on every system.
"""

from __future__ import annotations

import codecs
import hashlib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NotText", "SourceText", "read_text"]

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
