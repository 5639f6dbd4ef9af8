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
        unread: What stands there for the cap and is no number, such as `2 k`; empty for nothing.
    """

    cap: int | None = None
    dim: int | None = None
    unread: str = ""


@dataclass(frozen=True)
class _Column:
    name: str
    kind: str
    is_needed: bool  # a row cannot be without
    refers: bool = False  # to a row of another table

    def is_of(self, ends: tuple[str, ...]) -> bool:
        words = self.name.lower()
        is_other = any(other in words for other in _OTHERS)
        return not is_other and any(words == end or words.endswith(f"_{end}") for end in ends)


def read_provenance(connection: sqlite3.Connection) -> VectorProvenance:
    """What the app says of the vectors in this file; nothing where it keeps no such table.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    unread = ""
    for table, columns in _tables(connection, ("table", "view")):
        cap, dim = (_last(connection, table, columns, _MEANINGS[name]) for name in ("cap", "dim"))
        if _count(cap) is None:
            named = _keys_and_values(connection, table, columns)
            cap, dim = (cap or _named(named, _CAPS)), _named(named, _MEANINGS["dim"])
        if (number := _count(cap)) is not None:
            return VectorProvenance(number, _count(dim))
        unread = unread or ("" if cap is None or _is_none(cap) else str(cap)[:40])
    return VectorProvenance(unread=unread)


def append_provenance(connection: sqlite3.Connection, values: Mapping[str, object]) -> str:
    """Add a row to the app's table, where it keeps one with a column for the cap. Within the caller's transaction.

    Args:
        connection: Open.
        values: By their meaning: `cap`, `dim`, `model`, `batch`, `device`, `genes`, `writer`, `column`; the time is
            now.

    Returns:
        What stood in the way; empty where there is no such table, or the row is there.
    """
    for table, columns in _tables(connection, ("table",)):
        if not any(column.is_of(_CAPS) for column in columns):
            continue
        own = [column for column in columns if not column.refers]
        row = {column.name: value for column in own if (value := _value(column, values)) is not None}
        lacking = [column.name for column in columns if column.is_needed and column.name not in row]
        if lacking:
            return f"its table {table} needs a {' and a '.join(lacking)} in each row, which only the app can say"
        if not row:
            return ""  # it has a column for the cap alone, and there is none
        names, marks = ", ".join(map(_quoted, row)), ", ".join("?" * len(row))
        try:
            connection.execute(f"INSERT INTO {_quoted(table)} ({names}) VALUES ({marks})", tuple(row.values()))
        except sqlite3.IntegrityError as error:  # a constraint of the app's
            return f"its table {table} takes no further row: {error}"
        return ""
    return ""


def _tables(connection: sqlite3.Connection, kinds: tuple[str, ...]) -> Iterator[tuple[str, list[_Column]]]:
    sql = "SELECT name, type FROM sqlite_master WHERE lower(name) LIKE '%provenance%' ORDER BY name"
    for name, kind in connection.execute(sql).fetchall():
        if kind not in kinds:
            continue
        try:
            rows = connection.execute(f"PRAGMA table_info({_quoted(name)})").fetchall()
        except sqlite3.OperationalError as error:
            if "no such" not in str(error):
                raise
            continue  # a view of a table that is gone, a module that only the app has
        referring = {row[3] for row in connection.execute(f"PRAGMA foreign_key_list({_quoted(name)})")}
        columns = []
        for _, column, type_of, not_null, default, key in rows:
            # SQLite numbers a row itself where its only key is an integer.
            is_number = key and str(type_of).upper() == "INTEGER" and sum(row[5] > 0 for row in rows) == 1
            is_needed = bool(not_null or key) and default is None and not is_number
            columns.append(_Column(str(column), str(type_of).upper(), is_needed, column in referring))
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


def _named(found: Mapping[str, object], ends: tuple[str, ...]) -> object:
    return next((value for key, value in found.items() if _Column(str(key), "", False).is_of(ends)), None)


def _count(value: object) -> int | None:
    """A number of letters, or of a vector's numbers; `None` for what is none."""
    try:
        number = float(str(value).strip())
    except ValueError:
        return None
    return int(number) if 0 < number <= _MOST and number.is_integer() else None


def _is_none(value: object) -> bool:
    """Whether it says that there is no cap: a number below 1, or a word."""
    try:
        return float(str(value).strip()) < 1
    except ValueError:
        return str(value).strip().lower() in ("", "none", "null", "off")


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
