"""What the Helix/Cymatix app writes down of its vectors, where it keeps a table for that: read, and added to.

The app's schema is its own and changes, so the table is known by its words: `provenance` in its name, and a column for
the letters of a passage that were encoded, such as `char_cap`. Its newest row says what holds. A table of keys and
values is read as well, and never written to: what another row of it would mean nobody but the app can say.

Source: the app's names of its settings, `dense_model`, `dense_embedding_dim` and `dense_passage_char_cap`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from helix_crawl_otel.shards.schema import VECTOR

__all__ = ["VectorProvenance", "append_provenance", "read_provenance"]

_CAPS = ("char_cap", "max_chars", "chars_cap", "passage_cap")
"""Ends of the names of the cap, such as `dense_passage_char_cap`."""

_OTHERS = ("splade", "sparse", "sema")
"""The app caps texts for its other encoders as well."""

_TIMES = ("at", "timestamp", "time", "created", "updated", "written", "date")

_MEANINGS: Mapping[str, tuple[str, ...]] = {
    "cap": _CAPS,
    "dim": ("dim", "dims", "dimension", "dimensions"),
    "model": ("model", "model_name", "model_id", "encoder"),
    "batch": ("batch", "batch_size"),
    "device": ("device",),
    "genes": ("rows_processed", "genes", "rows", "count", "processed"),
    "writer": ("source", "writer", "tool", "producer", "script", "written_by"),
    "column": ("column", "column_name"),
}
"""What a column means, by the end of its name."""

_MOST = 10**9


@dataclass(frozen=True)
class VectorProvenance:
    """With what vectors were made.

    Args:
        cap: Letters of a text that were encoded; `None` where it is not said, or there is no cap.
        dim: Numbers of a vector; `None` where it is not said.
    """

    cap: int | None = None
    dim: int | None = None


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    is_needed: bool  # a row cannot be without

    def is_of(self, ends: tuple[str, ...]) -> bool:
        words = self.name.lower()
        is_other = any(other in words for other in _OTHERS)
        return not is_other and any(words == end or words.endswith(f"_{end}") for end in ends)


def read_provenance(connection: sqlite3.Connection) -> VectorProvenance:
    """What the app says of the vectors in this file; nothing where it keeps no such table.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    for table, columns in _tables(connection):
        cap, dim = (_count(_last(connection, table, columns, _MEANINGS[name])) for name in ("cap", "dim"))
        if cap is not None:
            return VectorProvenance(cap, dim)
        named = _keys_and_values(connection, table, columns)
        if (cap := _named(named, _CAPS)) is not None:
            return VectorProvenance(cap, _named(named, _MEANINGS["dim"]))
    return VectorProvenance()


def append_provenance(connection: sqlite3.Connection, values: Mapping[str, object]) -> str:
    """Add a row to the app's table, where it keeps one with a column for the cap. Within the caller's transaction.

    Args:
        connection: Open.
        values: By their meaning: `cap`, `dim`, `model`, `batch`, `device`, `genes`, `writer`, `column`; the time is
            now.

    Returns:
        What stood in the way; empty where there is no such table, or the row is there.
    """
    for table, columns in _tables(connection):
        if not any(column.is_of(_CAPS) for column in columns):
            continue
        row = {column.name: value for column in columns if (value := _value(column, values)) is not None}
        lacking = [column.name for column in columns if column.is_needed and column.name not in row]
        if lacking:
            return f"its table {table} needs a {' and a '.join(lacking)} in each row, which only the app can say"
        names, marks = ", ".join(map(_quoted, row)), ", ".join("?" * len(row))
        try:
            connection.execute(f"INSERT INTO {_quoted(table)} ({names}) VALUES ({marks})", tuple(row.values()))
        except sqlite3.IntegrityError as error:  # a constraint of the app's
            return f"its table {table} takes no further row: {error}"
        return ""
    return ""


def _tables(connection: sqlite3.Connection) -> Iterator[tuple[str, list[_Column]]]:
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND lower(name) LIKE '%provenance%' ORDER BY name"
    for (name,) in connection.execute(sql).fetchall():
        rows = connection.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
        columns = []
        for _, column, kind, not_null, default, key in rows:
            # SQLite numbers a row itself where its only key is an integer.
            is_number = key and str(kind).upper() == "INTEGER" and sum(row[5] > 0 for row in rows) == 1
            is_needed = bool(not_null or key) and default is None and not is_number
            columns.append(_Column(str(column), str(kind).upper(), is_needed))
        yield str(name), columns


def _last(connection: sqlite3.Connection, table: str, columns: list[_Column], ends: tuple[str, ...]) -> object:
    """What the newest row says that says it at all: of our column, where rows are of several."""
    wanted = next((_quoted(column.name) for column in columns if column.is_of(ends)), None)
    if wanted is None:
        return None
    sql = f"SELECT {wanted} FROM {_quoted(table)} WHERE {wanted} IS NOT NULL"
    of_column = next((column.name for column in columns if column.is_of(_MEANINGS["column"])), None)
    if of_column is not None:
        sql += f" AND {_quoted(of_column)} = '{VECTOR}'"
    try:
        row = connection.execute(f"{sql} ORDER BY rowid DESC LIMIT 1").fetchone()
    except sqlite3.OperationalError:  # a table without rowid has its own order
        row = (connection.execute(sql).fetchall() or [None])[-1]
    return None if row is None else row[0]


def _keys_and_values(connection: sqlite3.Connection, table: str, columns: list[_Column]) -> dict[str, object]:
    names = {column.name.lower(): column.name for column in columns}
    value = next((names[name] for name in ("value", "value_json") if name in names), None)
    if "key" not in names or value is None:
        return {}
    found: dict[str, object] = {}
    sql = f"SELECT {_quoted(names['key'])}, {_quoted(value)} FROM {_quoted(table)}"
    for key, text in connection.execute(sql).fetchall():
        try:
            parsed = json.loads(text) if isinstance(text, str) else text
        except ValueError:
            parsed = text
        found |= parsed if isinstance(parsed, dict) else {str(key): parsed}
    return found


def _named(found: Mapping[str, object], ends: tuple[str, ...]) -> int | None:
    return next((_count(value) for key, value in found.items() if _Column(str(key), "", False).is_of(ends)), None)


def _count(value: object) -> int | None:
    """A number of letters, or of a vector's numbers; `None` for what is none."""
    try:
        number = int(str(value))
    except ValueError:
        return None
    return number if 0 < number <= _MOST else None


def _value(column: _Column, values: Mapping[str, object]) -> Any:
    """What stands in a column of the new row; `None` for what is not known."""
    meaning = next((name for name, ends in _MEANINGS.items() if column.is_of(ends)), None)
    if meaning is not None:
        return values.get(meaning)
    if not column.is_of(_TIMES):
        return None
    now = datetime.now(timezone.utc)
    return now.isoformat(timespec="seconds") if "TEXT" in column.kind or "CHAR" in column.kind else now.timestamp()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
