"""Named tuples by the million: a column a field, 8 bytes a number and 4 a word in place of some 300 bytes a row."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, repeat
from math import isnan
from typing import Any, TypeVar, get_type_hints

__all__ = ["Columns"]

Row = TypeVar("Row", bound="tuple[Any, ...]")

_UNKNOWN = float("nan")

_TOGETHER = 128
"""Rows that are packed, and unpacked, at once: a loop over a column is several times as fast as one over a row."""

_KEPT = 4
"""Stretches that stay unpacked: who goes through the rows in order of time goes through a few in turn."""


class Columns(Collection[Row]):
    """Rows that are appended and read, never changed.

    Args:
        kind: A named tuple. A field is a `str`, a `bool`, or a number that a float holds; a number may be `None`.

    Threads: one.
    """

    def __init__(self, kind: type[Row]) -> None:
        self._made = partial(tuple.__new__, kind)  # `_make` without its own look at the number of fields
        self._columns = {name: _Column(hint) for name, hint in get_type_hints(kind).items()}
        self._fresh: list[Row] = []
        self._packed = 0
        self._unpacked: dict[int, list[Row]] = {}

    def append(self, row: Row) -> int:
        """Put a row at the end. Returns its place."""
        fresh = self._fresh
        place = self._packed + len(fresh)
        fresh.append(row)
        if len(fresh) == _TOGETHER:
            self._pack()
        return place

    def extend(self, rows: Collection[Row]) -> None:
        """Put some at the end."""
        self._pack()
        if rows:
            self._put(rows)

    def column(self, name: str) -> array[Any]:
        """The numbers of a field, NaN where one is unknown, of a `str` its places in `words`; not to be changed."""
        self._pack()
        return self._columns[name].all()

    def knows(self, name: str) -> bool:
        """Whether a field that may be unknown is known of any row."""
        self._pack()
        return self._columns[name].is_known

    def words(self, name: str) -> list[str]:
        """The different words of a field that is a `str`; not to be changed."""
        self._pack()
        return self._columns[name].words

    def rows(self, first: int, past: int) -> Iterator[Row]:
        """Some of them, one by one; `past` may lie beyond the end."""
        return map(self.__getitem__, range(first, min(past, len(self))))

    def at(self, places: Sequence[int], first: int, past: int) -> Iterator[Row]:
        """Those of some of these places, in that order, one by one; `past` may lie beyond the end. Few are unpacked at
        first, since who looks for one may need no more."""
        self._pack()
        past, many = min(past, len(places)), 1
        while first < past:
            some = places[first : min(first + many, past)]
            yield from self._made_of(column.at(some) for column in self._columns.values())
            first, many = first + many, min(2 * many, _TOGETHER)

    def __getitem__(self, at: int) -> Row:
        if self._fresh:
            self._pack()
        at = at + len(self) if at < 0 else at
        stretch, place = divmod(at, _TOGETHER)
        rows = self._unpacked.get(stretch)
        if rows is None:
            if place:  # not gone through in order
                return self._rows(at, at + 1)[0]
            rows = self._unpacked[stretch] = self._rows(at, at + _TOGETHER)
            if len(self._unpacked) > _KEPT:
                del self._unpacked[next(iter(self._unpacked))]
        return rows[place]

    def __iter__(self) -> Iterator[Row]:
        self._pack()
        return chain.from_iterable(self._rows(first, first + _TOGETHER) for first in range(0, len(self), _TOGETHER))

    def __contains__(self, row: object) -> bool:
        return any(own == row for own in self)

    def __len__(self) -> int:
        return self._packed + len(self._fresh)

    def _pack(self) -> None:
        if self._fresh:
            self._put(self._fresh)
            self._fresh.clear()

    def _put(self, rows: Collection[Row]) -> None:
        for column, values in zip(self._columns.values(), zip(*rows, strict=True), strict=True):
            column.extend(values)
        self._packed += len(rows)
        self._unpacked.clear()

    def _rows(self, first: int, past: int) -> list[Row]:
        return self._made_of(column.part(first, past) for column in self._columns.values())

    def _made_of(self, columns: Iterable[Iterable[Any]]) -> list[Row]:
        return list(map(self._made, zip(*columns, strict=True)))


class _Column:
    """The values of a field, as numbers."""

    __slots__ = ("_kind", "_may_be_unknown", "_numbers", "_unknown", "is_known", "values", "words")

    def __init__(self, hint: Any) -> None:
        self.values: array[Any] = array("I" if hint is str else "b" if hint is bool else "d")
        self._kind = {float | None: float, int | None: int}.get(hint, hint)
        self._may_be_unknown = self._kind is not hint
        self.is_known = not self._may_be_unknown  # of any row
        self._unknown = 0  # rows as long as it is not: they take no room
        self.words: list[str] = []
        self._numbers: dict[str, int] = {}

    def extend(self, values: Sequence[Any]) -> None:
        if self._kind is str:
            try:
                values = array("I", map(self._numbers.__getitem__, values))
            except KeyError:  # a new one among them
                values = [self._number(word) for word in values]
        elif self._may_be_unknown:
            unknown = values.count(None)
            if unknown == len(values) and not self.is_known:
                self._unknown += unknown
                return
            if not self.is_known:
                self.values, self.is_known = self.all(), True
            if unknown:
                values = [_UNKNOWN if value is None else value for value in values]
        self.values.extend(values)

    def all(self) -> array[Any]:
        return self.values if self.is_known else array("d", [_UNKNOWN]) * self._unknown

    def part(self, first: int, past: int) -> Iterable[Any]:
        if not self.is_known:
            return repeat(None, min(past, self._unknown) - first)
        return self._given(self.values[first:past])

    def at(self, places: Sequence[int]) -> Iterable[Any]:
        if not self.is_known:
            return repeat(None, len(places))
        return self._given(array(self.values.typecode, map(self.values.__getitem__, places)))

    def _given(self, values: array[Any]) -> Iterable[Any]:
        """As they were given."""
        if self._kind is str:
            return map(self.words.__getitem__, values)
        if self._may_be_unknown:
            if not isnan(sum(values)):
                return map(self._kind, values)
            return [None if value != value else self._kind(value) for value in values]
        return map(bool, values) if self._kind is bool else values

    def _number(self, word: str) -> int:
        number = self._numbers.setdefault(word, len(self.words))
        if number == len(self.words):
            self.words.append(word)
        return number
