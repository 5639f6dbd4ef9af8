"""Vectors as bytes, and the search over them: the same with numpy and without."""

from __future__ import annotations

import math
import random
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.shards.vectors import cosine, cosines, nearest, pack, unpack
from tests.programs import require_module

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.fixture(params=["numpy", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With numpy, and in a process that has none."""
    if request.param == "plain":
        monkeypatch.setitem(sys.modules, "numpy", None)
    else:
        require_module("numpy", "numpy")
    return str(request.param)


@given(st.lists(NUMBERS))
def test_packed_floats_are_little_endian(values: list[float]) -> None:
    """Four bytes each, on any machine, and back."""
    stored = pack(values)
    assert stored == struct.pack(f"<{len(values)}f", *values)
    assert list(unpack(stored)) == values


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1, 0], [1, 0], 1.0),
        ([1, 0], [-2, 0], -1.0),
        ([1, 0], [0, 3], 0.0),
        ([1, 1], [1, 0], math.sqrt(0.5)),
        ([0, 0], [1, 0], None),
        ([math.nan, 1], [1, 0], None),
        ([math.inf, 1], [1, 0], None),
        ([math.inf, -math.inf], [1, 1], None),
    ],
)
def test_cosine(one: list[float], other: list[float], expected: float | None, way: str) -> None:
    """Of any lengths; what is no vector agrees with nothing, and has no cosine among others."""
    assert cosine(pack(one), pack(other)) == pytest.approx(expected or 0.0)
    assert cosines(pack(other), [pack(one)]) == pytest.approx([expected])


def unit(seed: int, dim: int = 16) -> bytes:
    """A vector of length 1."""
    source = random.Random(seed)
    values = [source.gauss(0, 1) for _ in range(dim)]
    return pack(value / math.hypot(*values) for value in values)


def pages(sizes: list[int]) -> list[list[tuple[int, bytes]]]:
    """Vectors with their numbers as keys."""
    found, number = [], 0
    for size in sizes:
        found.append([(number + n, unit(number + n)) for n in range(size)])
        number += size
    return found


def test_the_nearest_are_those_of_a_full_sort(way: str) -> None:
    """Best first, over several pages, one of them empty."""
    query = unit(-1)
    every = [item for page in pages([7, 0, 13, 30]) for item in page]
    expected = sorted(every, key=lambda item: -cosine(query, item[1]))[:6]
    found = nearest(query, pages([7, 0, 13, 30]), 6)
    assert [key for _, key in found] == [key for key, _ in expected]
    assert [score for score, _ in found] == pytest.approx([cosine(query, vector) for _, vector in expected])


def test_the_way_does_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are the same to the last digit given, and equal vectors stay in order."""
    require_module("numpy", "numpy")
    many = pages([200])
    twice = [[*many[0], *((key + 1000, vector) for key, vector in many[0])]]
    with_numpy = nearest(unit(-2), twice, 400)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert nearest(unit(-2), twice, 400) == with_numpy


def test_of_equals_the_first_one_met_comes_first(way: str) -> None:
    """The same question has the same answer each time; keys need no order of their own."""
    same = [[({"key": n}, unit(5)) for n in range(4)]]
    assert [key["key"] for _, key in nearest(unit(5), same, 3)] == [0, 1, 2]


def test_fewer_than_asked_for(way: str) -> None:
    """All of them, and nothing of nothing."""
    assert len(nearest(unit(1), pages([3]), 10)) == 3
    assert nearest(unit(1), [], 10) == []


def test_a_broken_vector_is_never_the_nearest(way: str) -> None:
    """The app's own vectors may be anything."""
    broken = [("nan", pack([math.nan] * 16)), ("zero", pack([0.0] * 16)), ("inf", pack([math.inf] * 16))]
    assert nearest(unit(1), [[*broken, ("good", unit(1))]], 1) == [(pytest.approx(1.0), "good")]
