"""Cuts text into passages: whole paragraphs where they fit, then lines, then sentences and words.

Deterministic: the same text gives the same passages on every system and in every version with the same fingerprint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["ChunkRule", "chunks"]

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
