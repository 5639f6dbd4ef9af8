"""Named tuples by the million: a column a field, 8 bytes a number and 4 a word in place of some 300 bytes a row."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar, get_type_hints

__all__ = ["Columns"]

Row = TypeVar("Row", bound="tuple[Any, ...]")

_UNKNOWN = float("nan")


class Columns(Collection[Row]):
    """Rows that are appended and read, never changed.

    Args:
        kind: A named tuple. A field is a `str`, a `bool`, or a number that a float holds; a number may be `None`.

    Threads: one.
    """

    def __init__(self, kind: type[Row]) -> None:
        self._kind = kind
        self._columns: dict[str, array[Any]] = {}
        self._puts: list[Callable[[Any], None]] = []
        self._gets: list[Callable[[int], Any]] = []
        for name, hint in get_type_hints(kind).items():
            column: array[Any] = array("I" if hint is str else "b" if hint is bool else "d")
            put, get = _ways(column, hint)
            self._columns[name] = column
            self._puts.append(put)
            self._gets.append(get)

    def append(self, row: Row) -> None:
        """Put a row at the end."""
        for put, value in zip(self._puts, row, strict=True):
            put(value)

    def column(self, name: str) -> array[Any]:
        """The numbers of a field, NaN where one is unknown; not to be changed."""
        return self._columns[name]

    def rows(self, first: int, past: int) -> Iterator[Row]:
        """Some of them, one by one; `past` may lie beyond the end."""
        return map(self.__getitem__, range(first, min(past, len(self))))

    def __getitem__(self, at: int) -> Row:
        return self._kind(*[get(at) for get in self._gets])

    def __iter__(self) -> Iterator[Row]:
        return self.rows(0, len(self))

    def __contains__(self, row: object) -> bool:
        return any(own == row for own in self)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))


def _ways(column: array[Any], hint: Any) -> tuple[Callable[[Any], None], Callable[[int], Any]]:
    """How a value goes into a column, and comes out of it."""
    if hint is float:
        return column.append, column.__getitem__
    if hint is bool:
        return column.append, lambda at: bool(column[at])
    if hint is str:
        return _words(column)
    made: Callable[[float], Any] = float if hint == float | None else int

    def put(value: Any) -> None:
        column.append(_UNKNOWN if value is None else value)

    def get(at: int) -> Any:
        value = column[at]
        return None if value != value else made(value)

    return put, get


def _words(column: array[Any]) -> tuple[Callable[[str], None], Callable[[int], str]]:
    numbers: dict[str, int] = {}
    words: list[str] = []

    def put(word: str) -> None:
        number = numbers.setdefault(word, len(words))
        if number == len(words):
            words.append(word)
        column.append(number)

    return put, lambda at: words[column[at]]
