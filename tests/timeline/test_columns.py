"""Rows in columns: what goes in comes out, by place, in order, and after more was put in."""

from __future__ import annotations

from typing import NamedTuple

from helix_crawl_otel.timeline.columns import Columns


class Made(NamedTuple):
    """A row with a field of every kind."""

    word: str
    number: float
    perhaps: float | None
    whole: int | None
    flag: bool


def made(at: int) -> Made:
    """A row that is like no other."""
    return Made(f"w{at % 7}", at / 8, None if at % 3 else at / 4, None if at % 5 else at, at % 2 == 0)


def test_what_goes_in_comes_out() -> None:
    """In order, from behind, and by leaps; the kinds of numbers stay, and unknown is unknown."""
    wanted = [made(at) for at in range(1_000)]
    columns = Columns(Made)
    for row in wanted:
        columns.append(row)
    assert len(columns) == 1_000
    assert list(columns) == wanted
    assert [columns[at] for at in reversed(range(1_000))] == wanted[::-1]
    assert [columns[at * 377 % 1_000] for at in range(1_000)] == [wanted[at * 377 % 1_000] for at in range(1_000)]
    assert (columns[-1], columns[-1_000]) == (wanted[-1], wanted[0])
    assert [type(value) for value in columns[15]] == [str, float, float, int, bool] == [type(v) for v in wanted[15]]
    assert list(columns.rows(990, 2_000)) == wanted[990:]
    places = [at * 377 % 1_000 for at in range(1_000)]
    assert list(columns.at(places, 3, 2_000)) == [wanted[at] for at in places[3:]]
    assert list(columns.column("number")) == [row.number for row in wanted]


def test_rows_can_be_read_between_those_that_are_put_in() -> None:
    """A stretch that was read before it was full is read again."""
    columns = Columns(Made)
    for at in range(200):
        columns.append(made(at))
        assert columns[at // 2] == made(at // 2)
        assert columns[-1] == made(at)
    assert made(77) in columns
    assert made(200) not in columns


def test_none_are_none() -> None:
    """Nothing to read, nothing to count."""
    columns = Columns(Made)
    assert len(columns) == 0
    assert list(columns) == []
    assert list(columns.column("word")) == []
