"""Finds out with what vectors were made that say nothing of it: where their texts were cut off, and the prompt.

A text that is shorter than the cap has the vector of the whole text, and a longer one has not. So texts are sorted by
their length and halved: the longest of the one kind and the shortest of the other enclose the cap, in letters, in
bytes or in tokens, whichever tells the two kinds apart. What lies between is tried, round numbers first.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from helix_crawl_otel.encoders.base import BadVector, Encoder
from helix_crawl_otel.encoders.precision import LEAST_COSINE
from helix_crawl_otel.encoders.truncation import TruncatedEncoder, Truncation
from helix_crawl_otel.shards.vectors import cosine

__all__ = [
    "BYTES",
    "MOST_LETTERS",
    "TOKENS",
    "Explanation",
    "Sample",
    "explained",
    "least_cosine",
    "prompts_to_try",
]

Row = tuple[str, str, bytes]
"""Id, text and vector."""

Sample = Sequence[Row]

CAPS = (2000, 1000, 4000, 500, 1500, 3000, 8000, 512, 1024, 2048, 4096, 8192, 256, 750, 1250, 2500, 6000, 12000)
"""Caps of letters that are tried first, the app's own before all. Any other is looked for between them."""

PROMPTS = (
    "Represent this sentence for searching relevant passages: ",
    "passage: ",
    "query: ",
    "search_document: ",
    "search_query: ",
    "title: none | text: ",
    "Represent this document for retrieval: ",
)
"""Prompts that are tried beside the model's own: that of the app's questions, and those that the cards of much used
models name (E5, BGE, Nomic, EmbeddingGemma, Instructor)."""

MOST_LETTERS = 16_000
"""Of a text that is encoded to find out: a longer one may need more memory than any batch."""

NEAREST = 3
"""Caps that are tried with each prompt: those whose vectors come nearest without it."""

SURE = 0.99999
"""A cosine that nothing but the right cap reaches: the next one is not looked for."""

BESIDE = 4
"""Texts on each side of the boundary that show in which unit it is one."""

MOST_TRIED = 250
"""Caps that are tried between the longest text that is whole and the shortest that is not."""

_WORD = re.compile(r"\w+|[^\w\s]")
"""A part of a word may make more tokens than the whole of it."""

LETTERS, BYTES, TOKENS = "letters", "bytes", "tokens"


@dataclass(frozen=True)
class Explanation:
    """What vectors agree with.

    Args:
        truncation: What is cut off. Of another unit than letters, as far as letters can say it.
        prompt: Before each text; `None` for the encoder's own.
        cosine: The least of the texts that were looked at.
        caps: Behind how many units texts were cut off; empty for nowhere, several where texts differ, 0 of them for
            those that were not.
        unit: `letters`, `bytes` or `tokens`.
    """

    truncation: Truncation
    prompt: str | None
    cosine: float
    caps: tuple[int, ...] = ()
    unit: str = LETTERS

    @property
    def explains(self) -> bool:
        """Whether the vectors are made so."""
        return self.cosine >= LEAST_COSINE

    @property
    def is_truncation(self) -> bool:
        """Whether that is all, so that `truncation` alone makes such vectors."""
        return self.prompt is None and self.unit == LETTERS and len(self.caps) < 2

    def __str__(self) -> str:
        caps = " and ".join(f"{cap:,}" if cap else "none" for cap in self.caps)
        parts = [f"a cap of {caps} {self.unit}"] if len(self.caps) == 1 else []
        parts += [f"caps of {caps} {self.unit}, each for some of them"] if len(self.caps) > 1 else []
        parts += [] if self.prompt is None else [f"the prompt {self.prompt!r} before each text"]
        return " with ".join(parts) or "the whole text"


def least_cosine(sample: Sample, encoder: Encoder, prompt: str | None = None) -> float | None:
    """The least cosine of stored vectors with this encoder's; `None` where it makes no vector of any of the texts.

    Args:
        sample: That is compared.
        encoder: Of the same texts, one by one.
        prompt: Before each text, `None` for the encoder's own.
    """
    size = 4 * int(str(encoder.identity["dim"]))
    if any(len(stored) != size for _, _, stored in sample):
        return 0.0
    found = []
    for _, content, stored in sample:  # one by one: there may be memory for no more
        try:
            vector = encoder.encode([content])[0] if prompt is None else encoder.encode_after(prompt, content)
        except BadVector:
            continue
        found.append(cosine(stored, vector))
    return min(found, default=None)


def explained(
    sample: Sample, wider: Sample, encoder: TruncatedEncoder, first: Iterable[int | None] = ()
) -> Explanation | None:
    """Where texts were cut off, and behind which prompt, to make these vectors; else what comes nearest.

    Args:
        sample: A few, with the longest: as many numbers a vector as the encoder makes.
        wider: Many of all lengths, of which a few more are encoded where a cap has to be looked for.
        encoder: It cuts off as before when this returns.
        first: Caps of letters that are tried before all others.

    Returns:
        `None` where there is no vector, or they are of another length.
    """
    by_length = sorted(sample, key=_letters)
    size = 4 * int(str(encoder.identity["dim"]))
    if not by_length or len(by_length[0][2]) != size:
        return None
    wide = dict.fromkeys(row for row in (*sample, *wider) if len(row[2]) == size and _letters(row) <= MOST_LETTERS)
    before = encoder.truncation
    try:
        return _Search(by_length, sorted(wide, key=_letters), encoder).run(first)
    finally:
        encoder.truncate(before)


def prompts_to_try(encoder: Encoder) -> list[str | None]:
    """The encoder's own, as `None`, and the others."""
    own = str(encoder.identity.get("prompt", ""))
    return [None, *(prompt for prompt in dict.fromkeys(("", *encoder.prompts, *PROMPTS)) if prompt != own)]


def _letters(row: Row) -> int:
    return len(row[1])


class _Search:
    """One search.

    Args:
        rows: A few, by the length of their texts.
        wide: Many, likewise.
        encoder: Cuts off whatever was tried last.
    """

    def __init__(self, rows: Sample, wide: Sample, encoder: TruncatedEncoder) -> None:
        self._rows = rows
        self._wide = wide
        self._encoder = encoder
        self._dim = encoder.truncation.dim

    def run(self, first: Iterable[int | None]) -> Explanation | None:
        """The whole search."""
        longest = _letters(self._rows[-1])
        caps = list(dict.fromkeys([None, *(cap for cap in (*first, *CAPS) if cap is not None and cap < longest)]))
        nearest = []
        for prompt in prompts_to_try(self._encoder):
            tried = self._tried(prompt, caps)
            best = max(tried, key=lambda one: one.cosine, default=None)
            if best is not None and best.explains:
                # One letter more of a long text may make nearly the same vector.
                found = None if best.cosine >= SURE else self._looked_for(prompt)
                return found if found is not None and found.cosine > best.cosine else best
            if prompt is None:
                # Whatever stands before a text, most of what it says is the same.
                caps = [one.truncation.max_chars for one in sorted(tried, key=lambda one: -one.cosine)[:NEAREST]]
            nearest += [] if best is None else [best]
        nearest.sort(key=lambda one: -one.cosine)
        for best in nearest:  # whose shortest text agrees, or may do
            found = self._looked_for(best.prompt)
            if found is not None:
                return found
        return nearest[0] if nearest else None

    def _tried(self, prompt: str | None, caps: Sequence[int | None]) -> list[Explanation]:
        """How well each cap explains vectors with this prompt, up to the first that does it without any doubt."""
        shortest, longest = self._rows[0], self._rows[-1]
        is_short = _letters(shortest) <= min(CAPS)
        if prompt is not None and is_short and self._cosine([shortest], prompt, None) < LEAST_COSINE:
            return []  # no cap matters to it
        found = []
        for cap in caps:
            worst = self._cosine([longest], prompt, cap)
            if worst >= LEAST_COSINE:
                worst = self._cosine(self._rows, prompt, cap)
            found.append(Explanation(Truncation(cap, self._dim), prompt, worst, () if cap is None else (cap,)))
            if worst >= SURE:
                break
        return found

    def _looked_for(self, prompt: str | None) -> Explanation | None:
        """The cap of any number and unit, with this prompt."""
        whole, cut = self._sides(prompt)
        for unit in (LETTERS, BYTES, TOKENS) if whole and cut else ():
            least, most = max(self._measured(unit, whole)), min(self._measured(unit, cut))
            if least >= most or (unit != LETTERS and len(cut) < 2):
                continue
            if unit == BYTES and all(text.isascii() for _, text, _ in cut):
                continue  # those are its letters
            rows = sorted(cut, key=_letters)
            found = self._between(prompt, unit, range(least, most), rows if unit == TOKENS else rows[:BESIDE])
            if found is not None:
                return found
        return self._several(prompt, cut)

    def _between(self, prompt: str | None, unit: str, caps: Sequence[int], rows: Sample) -> Explanation | None:
        """The cap among these that explains the texts best, up to the first that does it without any doubt."""
        best: tuple[float, int] | None = None
        for cap in sorted(caps, key=lambda cap: -_roundness(cap))[:MOST_TRIED]:
            if unit == TOKENS:
                # Words end where tokens do in some texts only; two that agree without any doubt are no chance.
                worst = sorted(self._of([row], prompt, unit, cap) for row in rows)[-2]
                worst = worst if worst >= SURE else 0.0
            elif (worst := self._of(rows[:1], prompt, unit, cap)) >= LEAST_COSINE:
                worst = self._of(rows, prompt, unit, cap)
            if best is None or worst > best[0]:
                best = worst, cap
            if worst >= SURE:
                break
        if best is None or best[0] < LEAST_COSINE:
            return None
        worst, cap = best
        return Explanation(Truncation(cap if unit == LETTERS else None, self._dim), prompt, worst, (cap,), unit)

    def _several(self, prompt: str | None, cut: Sample) -> Explanation | None:
        """Texts of one length are cut off and whole: by which of the caps that people choose."""
        ends = set()
        for row in cut:
            caps = [cap for cap in CAPS if cap < _letters(row)]
            ends.add(next((cap for cap in caps if self._cosine([row], prompt, cap) >= LEAST_COSINE), None))
        if None in ends or not ends:
            return None
        caps = sorted(cap for cap in ends if cap is not None)
        if len(caps) < 2:
            caps = [0, *caps]
        return Explanation(Truncation(None, self._dim), prompt, LEAST_COSINE, tuple(caps))

    def _sides(self, prompt: str | None) -> tuple[list[Row], list[Row]]:
        """Texts that have the vector of the whole, and such that have not: by halves, and some more on each side."""
        known: dict[int, bool] = {}

        def is_whole(place: int) -> bool:
            if place not in known:
                known[place] = self._cosine([self._wide[place]], prompt, None) >= LEAST_COSINE
            return known[place]

        low, high = 0, len(self._wide) - 1
        if is_whole(high):
            return [], [row for row in self._rows if self._cosine([row], prompt, None) < LEAST_COSINE]
        if not is_whole(low):
            # Of texts that are all longer than the cap none shows it, but by the caps that were tried.
            return [], []
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if is_whole(middle) else (low, middle)
        for place in range(max(0, low - BESIDE), min(len(self._wide), high + BESIDE + 1)):
            is_whole(place)
        sides: tuple[list[Row], list[Row]] = [], []
        for place, whole in known.items():
            sides[not whole].append(self._wide[place])
        return sides

    def _measured(self, unit: str, rows: Sample) -> list[int]:
        if unit == LETTERS:
            return [_letters(row) for row in rows]
        if unit == BYTES:
            return [len(_bytes(text)) for _, text, _ in rows]
        self._encoder.truncate(Truncation(None, self._dim))
        return self._encoder.token_counts([text for _, text, _ in rows])

    def _of(self, rows: Sample, prompt: str | None, unit: str, cap: int) -> float:
        """The least cosine where texts are cut off behind so many units."""
        if unit == LETTERS:
            return self._cosine(rows, prompt, cap)
        return self._cosine(
            [(key, self._beginning(text, unit, cap), vector) for key, text, vector in rows], prompt, None
        )

    def _beginning(self, text: str, unit: str, cap: int) -> str:
        if unit == BYTES:
            return _bytes(text)[:cap].decode("utf-8", "ignore")
        self._encoder.truncate(Truncation(None, self._dim))
        counts = self._encoder.token_counts
        ends = [0, *(word.end() for word in _WORD.finditer(text))]
        return text[: ends[bisect.bisect_right(ends, cap, key=lambda end: counts([text[:end]])[0]) - 1]]

    def _cosine(self, rows: Sample, prompt: str | None, cap: int | None) -> float:
        self._encoder.truncate(Truncation(cap, self._dim))
        return least_cosine(rows, self._encoder, prompt) or 0.0


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _roundness(number: int) -> int:
    """The largest power of ten or of two that it is a multiple of: people choose such numbers."""
    tens: int = next(10**power for power in range(9, -1, -1) if number % 10**power == 0)
    return max(tens, number & -number)
