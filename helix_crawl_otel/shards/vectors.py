"""Vectors as bytes: little-endian float32 on every machine. Needs no numpy; a search uses it where it is there."""

from __future__ import annotations

import heapq
import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import mul
from typing import Any, TypeVar

Key = TypeVar("Key")

__all__ = ["are_of_length_1", "cosine", "cosines", "is_vector", "nearest", "pack", "unpack"]

_DIGITS = 9

_SINGLE_PRECISION = 1e-4
"""What a cosine in float32 may be off by, with room to spare: 4,096 dimensions cost 1e-6."""

_LANE_BYTES = 4

LENGTH_TOLERANCE = 0.01
"""What the length of a normalised vector may differ by from 1: a model that computes in bfloat16, with 8 bits, and
normalises there is off by up to 0.004."""


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


def is_vector(stored: object) -> bool:
    """Whether stored bytes are a vector: every number is finite, and not all are 0.

    Looks at all lanes at once, as one large integer: this is asked of each row of a shard, also where there is no
    numpy, and takes a tenth of what unpacking the floats does.
    """
    if not isinstance(stored, bytes) or not stored or len(stored) % _LANE_BYTES:
        return False
    exponents, carry, signs, magnitudes = _masks(len(stored))
    lanes = int.from_bytes(stored, "little")
    # An exponent of ones alone is infinite or NaN. One more carries it into its lane's sign.
    return not ((lanes & exponents) + carry) & signs and bool(lanes & magnitudes)


@lru_cache(maxsize=16)
def _masks(length: int) -> tuple[int, int, int, int]:
    lanes = length // _LANE_BYTES
    exponents, carry, signs, magnitudes = (
        int.from_bytes(lane.to_bytes(_LANE_BYTES, "little") * lanes, "little")
        for lane in (0x7F800000, 0x00800000, 0x80000000, 0x7FFFFFFF)
    )
    return exponents, carry, signs, magnitudes


def are_of_length_1(vectors: Sequence[bytes]) -> list[bool]:
    """Whether each stored vector is of length 1, within `LENGTH_TOLERANCE`. All have the same number of bytes."""
    if not vectors:
        return []
    try:
        import numpy
    except ImportError:
        lengths: Iterable[float] = (math.hypot(*unpack(vector)) for vector in vectors)
    else:
        matrix = _matrix(vectors)
        lengths = numpy.sqrt(numpy.einsum("ij,ij->i", matrix, matrix)).tolist()
    return [abs(length - 1) < LENGTH_TOLERANCE for length in lengths]


def cosine(one: bytes, other: bytes) -> float:
    """Cosine of the angle between two stored vectors of the same length, -1 to 1.

    Returns:
        0 when one of them is 0 or not finite: such a vector agrees with nothing.
    """
    a, b = unpack(one), unpack(other)
    try:
        lengths = math.sqrt(math.fsum(map(mul, a, a))) * math.sqrt(math.fsum(map(mul, b, b)))
        found = math.fsum(map(mul, a, b)) / lengths if lengths else 0.0
    except ValueError:  # infinities of both signs
        return 0.0
    return found if math.isfinite(found) else 0.0


def nearest(query: bytes, pages: Iterable[Sequence[tuple[Key, bytes]]], count: int) -> list[tuple[float, Key]]:
    """The stored vectors nearest to one, best first; of equals the first one met.

    Args:
        query: Not 0.
        pages: Keys and vectors of the same length in bytes, some thousand at once.
        count: At most so many.

    Returns:
        Cosine, rounded so that it is the same with and without numpy, and key. What is no vector, see `is_vector`, is
        near to nothing and left out.
    """
    best: list[tuple[float, int, Key]] = []
    number = 0
    for page in pages:
        near = _may_be_near(query, page, best[0][0] if len(best) == count else None)
        for (key, _), score in zip(near, cosines(query, [vector for _, vector in near]), strict=True):
            number += 1
            if score is None:
                continue
            item = (score, -number, key)  # no two numbers are equal, so keys are never compared
            if len(best) < count:
                heapq.heappush(best, item)
            else:
                heapq.heappushpop(best, item)
    return [(score, key) for score, _, key in sorted(best, key=lambda item: item[:2], reverse=True)]


def _may_be_near(query: bytes, page: Sequence[tuple[Key, bytes]], least: float | None) -> Sequence[tuple[Key, bytes]]:
    """Those whose cosine may be more than `least`, by single precision, which costs a third; without numpy all."""
    if least is None or not page:
        return page
    try:
        import numpy
    except ImportError:
        return page
    matrix = numpy.frombuffer(b"".join([vector for _, vector in page]), dtype="<f4").reshape(len(page), -1)
    asked = numpy.frombuffer(query, dtype="<f4")
    with numpy.errstate(all="ignore"):
        lengths = numpy.sqrt(numpy.einsum("ij,ij->i", matrix, matrix)) * numpy.linalg.norm(asked)
        is_less = (matrix @ asked) / lengths < least - _SINGLE_PRECISION  # not so of what is no number
    return [page[n] for n in numpy.flatnonzero(~is_less).tolist()]


def cosines(query: bytes, vectors: Sequence[bytes]) -> list[float | None]:
    """`cosine` of each vector with one, rounded; `None` for what is no vector.

    With numpy and without it is computed in double precision; rounding takes away what they differ by, and is far finer
    than the float32 of the vectors.
    """
    if not vectors:
        return []
    try:
        import numpy
    except ImportError:
        return [round(cosine(query, vector), _DIGITS) if is_vector(vector) else None for vector in vectors]
    matrix = _matrix(vectors)
    asked = numpy.frombuffer(query, dtype="<f4").astype("f8")
    with numpy.errstate(all="ignore"):
        found = (matrix @ asked) / (numpy.linalg.norm(matrix, axis=1) * numpy.linalg.norm(asked))
    return [round(float(score), _DIGITS) if math.isfinite(score) else None for score in found]


def _matrix(vectors: Sequence[bytes]) -> Any:
    import numpy

    return numpy.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1).astype("f8")
