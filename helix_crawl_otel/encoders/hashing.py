"""An encoder without a model, for tests and fault injection: signed feature hashing of words and pairs of words.

Its vectors do not depend on the batch, and passages that share words are near each other; it understands nothing.
"""

from __future__ import annotations

import math
import platform
import re
import zlib
from collections.abc import Mapping, Sequence

from helix_crawl_otel.encoders.precision import FULL
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.shards.vectors import pack

__all__ = ["HASHING_IDENTITY", "HashingEncoder"]

DIM, LIMIT = 256, 512

HASHING_IDENTITY: Mapping[str, object] = {
    "model": "hashing",
    "revision": "1",
    "dim": DIM,
    "normalised": True,
    "max_tokens": LIMIT,
}

_WORD = re.compile(r"\w+|[^\w\s]")


class HashingEncoder:
    """See `Encoder`."""

    def __init__(self) -> None:
        self.identity = HASHING_IDENTITY
        self.prompts: Sequence[str] = ("",)
        self.device = "cpu"
        self.dtype, self.why_dtype = FULL, ""
        self.versions: Mapping[str, str] = {"python": platform.python_version()}
        self.threads = 1
        self.limit: int | None = LIMIT
        self.operations = 0.0

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """See `Encoder`: words and signs."""
        return [len(_WORD.findall(text.lower())) for text in texts]

    def lengths(self, texts: Sequence[str]) -> list[float]:
        """See `Encoder`."""
        return [self.work([text]) for text in texts]

    def work(self, texts: Sequence[str]) -> float:
        """Passages times the longest one's words, up to the limit: they are cheap to estimate by their letters."""
        return len(texts) * max(1.0, min(float(LIMIT), max(map(len, texts)) / 5))

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """See `Encoder`."""
        return [_vector(text) for text in texts]

    def encode_after(self, prompt: str, text: str) -> bytes:
        """See `Encoder`: as of one text."""
        return _vector(prompt + text)

    def encode_query(self, text: str) -> bytes:
        """See `Encoder`: as any text."""
        return _vector(text)

    def release(self) -> None:
        """It caches nothing."""

    def memory(self) -> MemoryReading:
        """Nothing is known of it."""
        return MemoryReading(None, None)


def _vector(text: str) -> bytes:
    words = _WORD.findall(text.lower())[:LIMIT] or [text]
    values = [0.0] * DIM
    before = ""
    for word in words:
        for feature, weight in ((word, 1.0), (f"{before} {word}", 0.5)):
            hashed = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
            values[hashed % DIM] += weight if hashed & 0x80000000 else -weight
        before = word
    length = math.sqrt(math.fsum(value * value for value in values))
    if length == 0.0:  # every feature met its opposite
        values[0] = length = 1.0
    return pack(value / length for value in values)
