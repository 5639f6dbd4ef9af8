"""Vectors as bytes: little-endian float32 on every machine. Needs no numpy, and uses it for a search where it is
there.
"""

from __future__ import annotations

import heapq
import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from operator import mul
from typing import TypeVar

Key = TypeVar("Key")

__all__ = ["cosine", "nearest", "pack", "unpack"]


def pack(values: Iterable[float]) -> bytes:
    """Floats as stored."""
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(stored: bytes) -> array[float]:
    """Stored bytes as floats; their length is a multiple of 4."""
    values = array("f")
    values.frombytes(stored)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def cosine(one: bytes, other: bytes) -> float:
    """Cosine of the angle between two stored vectors of the same length, -1 to 1; 0 when one of them is 0."""
    a, b = unpack(one), unpack(other)
    lengths = math.sqrt(math.fsum(map(mul, a, a))) * math.sqrt(math.fsum(map(mul, b, b)))
    return math.fsum(map(mul, a, b)) / lengths if lengths else 0.0


def nearest(query: bytes, pages: Iterable[Sequence[tuple[Key, bytes]]], count: int) -> list[tuple[float, Key]]:
    """The stored vectors nearest to one, best first.

    Args:
        query: Of length 1.
        pages: Keys and vectors of length 1, some thousand at once.
        count: At most so many.
    """
    best: list[tuple[float, int, Key]] = []
    number = 0
    for page in pages:
        for (key, _), score in zip(page, _scores(query, [vector for _, vector in page]), strict=True):
            number += 1
            item = (score, -number, key)  # of equals, the first one; keys are never compared
            if len(best) < count:
                heapq.heappush(best, item)
            else:
                heapq.heappushpop(best, item)
    return [(score, key) for score, _, key in sorted(best, reverse=True)]


def _scores(query: bytes, vectors: Sequence[bytes]) -> list[float]:
    try:
        import numpy
    except ImportError:
        values = unpack(query)
        return [math.fsum(map(mul, values, unpack(vector))) for vector in vectors]
    matrix = numpy.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1)
    return [float(score) for score in matrix @ numpy.frombuffer(query, dtype="<f4")]
