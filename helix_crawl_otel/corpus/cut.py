"""Cuts text into passages that an encoder reads whole.

Twice: first by characters, which needs no model and no more than a block of the text; then what holds more tokens than
the encoder reads is cut again, in parts of about the same size. Both times at the best place: between paragraphs, then
lines, sentences of any script, words, and where there are none (Chinese and Thai have no blanks) anywhere but inside a
letter with its marks.

Cutting is deterministic: the same text and the same model give the same passages on every system, and in every version
with the same fingerprint.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

__all__ = ["ChunkRule", "Tokens", "chunks"]

COUNTED_TOGETHER = 64
"""Passages whose tokens are counted by one call: a fast tokenizer uses all cores for them."""

SPARE = 1.1
"""A passage is cut into so many times the parts that it needs, so that a part may end at a good place."""


class Tokens(Protocol):
    """What an encoder reads of a text."""

    def prepare(self) -> None:
        """Called before any text is cut, while no transaction is open: a model may have to be loaded."""

    def fills(self, texts: Sequence[str]) -> list[float]:
        """How much of the room that the encoder has for a text each of them takes; what is above 1 would be lost."""


@dataclass(frozen=True)
class ChunkRule:
    """How text is cut.

    Args:
        max_chars: Longest passage, in characters, 16 or more. 1,000 characters of English are 200 to 250 tokens.
        model: Says whose tokens are counted, for the fingerprint; empty for nobody's.
        tokens: Counts them; `None` where only characters count.
        version: 1 is the rule of before, for shards that it has cut: it counts no tokens and knows the sentences of
            European scripts only.
    """

    max_chars: int = 1000
    model: str = ""
    tokens: Tokens | None = field(default=None, compare=False)
    version: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.max_chars, bool) or not isinstance(self.max_chars, int) or self.max_chars < 16:
            raise ValueError(f"max_chars is {self.max_chars!r}; accepted: an integer >= 16")

    @classmethod
    def of(cls, fingerprint: str, tokens: Tokens | None = None) -> ChunkRule | None:
        """The rule that a shard was cut by; `None` for one that this version does not know.

        Args:
            fingerprint: As the shard keeps it.
            tokens: Of the model that the shard names.
        """
        found = re.fullmatch(r"chunk-([12]):([0-9]{1,9})(?::(.*))?", fingerprint)
        if found is None:
            return None
        version, max_chars, model = int(found[1]), int(found[2]), found[3] or ""
        return cls(max_chars, model, tokens if version > 1 else None, version)

    @property
    def fingerprint(self) -> str:
        """Another one means that sources have to be cut anew."""
        model = f":{self.model}" if self.model else ""
        return f"chunk-{self.version}:{self.max_chars}{model}"


def chunks(pieces: Iterable[str], rule: ChunkRule) -> Iterator[str]:
    """The passages of a text, in order; none is blank, and together they hold every character that is not blank.

    Args:
        pieces: The text, with `\\n` at the ends of lines, some at once. Where a piece ends makes no difference.
        rule: How it is cut.
    """
    passages = _by_characters(pieces, rule)
    if rule.tokens is None:
        yield from passages
        return
    while some := list(islice(passages, COUNTED_TOGETHER)):
        yield from _fitting(some, rule.tokens)


def _by_characters(pieces: Iterable[str], rule: ChunkRule) -> Iterator[str]:
    text = ""
    for piece in pieces:
        start, text = 0, text + piece
        while len(text) - start > rule.max_chars:
            end = _end(text, start, rule)
            if passage := text[start:end].strip():
                yield passage
            start = end
        text = text[start:]
    if passage := text.strip():
        yield passage


def _end(text: str, start: int, rule: ChunkRule) -> int:
    """Where the passage that begins at `start` ends; the text goes on for more than a passage."""
    limit = start + rule.max_chars
    # A break in the first quarter would leave a crumb: a worse one further on is better.
    least = start + rule.max_chars // 4
    for pattern in _BREAKS[rule.version]:
        found = 0
        for match in pattern.finditer(text, least, limit):
            if rule.version == 1 or _is_whole(text, match.end(), start):
                found = match.end()
        if found:
            return found
    if rule.version == 1:
        return limit
    return next((at for at in range(limit, least, -1) if _is_whole(text, at, start)), limit)


def _fitting(passages: Sequence[str], tokens: Tokens) -> Iterator[str]:
    """The passages, those that hold too many tokens in parts."""
    for passage, fill in zip(passages, tokens.fills(passages), strict=True):
        if fill <= 1 or len(passage) == 1:
            yield passage
        else:
            at = _middle(passage, fill)
            parts = (passage[:at].strip(), passage[at:].strip())
            yield from _fitting([part for part in parts if part], tokens)


def _middle(text: str, fill: float) -> int:
    """Where a passage is cut in two, each of which is cut again if it has to be.

    Args:
        text: 2 characters or more.
        fill: See `Tokens.fills`, above 1.
    """
    parts = min(max(2, math.ceil(SPARE * fill)), len(text))
    target = max(1, len(text) * (parts // 2) // parts)
    slack = len(text) // (2 * parts)  # half a part: what is too long then is cut again, and a sentence stays whole
    least, most = max(1, target - slack), min(len(text) - 1, target + slack)
    for pattern in _BREAKS[2]:
        ends = {match.end() for match in pattern.finditer(text, max(0, least - 1), most)}
        whole = [end for end in ends if least <= end <= most and _is_whole(text, end)]
        if whole:
            return min(whole, key=lambda end: (abs(end - target), end))
    nearest = sorted(range(1, len(text)), key=lambda at: (abs(at - target), at))
    return next((at for at in nearest if _is_whole(text, at)), target)


# -- places ------------------------------------------------------------------------------------------------------------

_PARAGRAPH, _LINE = r"\n[ \t]*\n+", r"\n"
_BLANKS = r" \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
# Unicode's Sentence_Terminal, but for the four of ASCII, which a number or an abbreviation holds as well: after them
# there has to be a blank.
_STOPS = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965\u0df4\u0f0d-\u0f12\u104a\u104b"
    "\u1362\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944\u1945\u1aa8-\u1aab\u1b5a\u1b5b\u1b5e\u1b5f"
    "\u1c3b\u1c3c\u1c7e\u1c7f\u203c\u203d\u2047-\u2049\u2e2e\u2e3c\u3002\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877"
    "\ua8ce\ua8cf\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff01\uff0e"
    "\uff1f\uff61"
)
_CLOSERS = "\"'\u00bb\u2019\u201d\u3009\u300b\u300d\u300f\u3011\u3015\u3017\u3019\u301b\u301f\uff02\uff07\uff09\uff3d"
_CLOSERS += "\uff5d\uff60\uff63)\\]}"
_SENTENCE = rf"[.!?;][ \t]+|[{_STOPS}]+[{_CLOSERS}]*[{_BLANKS}]*"
# Blanks, commas after which there need be none, and what stands between the words of Thai, Tibetan and Amharic.
_WORD = rf"[{_BLANKS}]+|[\u3001\uff0c\uff1b\uff1a\u30fb\ufe50\ufe51\uff64\u060c\u061b\u200b\u0f0b\u1361]"

_BREAKS = {
    1: tuple(map(re.compile, (_PARAGRAPH, _LINE, r"[.!?;][ \t]+", r"[ \t]+"))),
    2: tuple(map(re.compile, (_PARAGRAPH, rf"{_LINE}|[\x85\u2028\u2029]", _SENTENCE, _WORD))),
}
"""By version, from the best place to break to the worst; each is the end of what stays together."""

_JOINER = "\u200d"
_EXTENDERS = re.compile("[\u0e33\u0eb3\u200c\u200d\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]")
_PREPENDED = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd]")
_JAMO_LEADS = re.compile("[\u1100-\u115f\ua960-\ua97c]")
_JAMO_FOLLOWS = re.compile("[\u1160-\u11ff\ud7b0-\ud7fb]")
_HANGUL = re.compile("[\u1100-\u115f\ua960-\ua97c\uac00-\ud7a3]")
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")
_VIRAMA = 9


def _is_whole(text: str, at: int, start: int = 0) -> bool:
    """Whether no letter is cut in two there: none of its marks, parts of a syllable, of a flag or of an emoji.

    Source: Unicode Standard Annex 29, extended grapheme clusters, with the marks of this Python's Unicode.
    """
    if not start < at < len(text):
        return True
    before, after = text[at - 1], text[at]
    if (before < "\u0300" and after < "\u0300") or unicodedata.category(before) in ("Cc", "Zl", "Zp"):
        return True
    if unicodedata.category(after).startswith("M") or _EXTENDERS.match(after):
        return False
    if before == _JOINER or _PREPENDED.match(before):
        return False
    if unicodedata.combining(before) == _VIRAMA and unicodedata.category(after).startswith("L"):
        return False
    if _JAMO_FOLLOWS.match(after) or (_JAMO_LEADS.match(before) and _HANGUL.match(after)):
        return False
    if _FLAG.match(before) and _FLAG.match(after):
        first = at
        while first > start and _FLAG.match(text[first - 1]):
            first -= 1
        return (at - first) % 2 == 0
    return True
