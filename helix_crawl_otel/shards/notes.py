"""Reads what is our own in a shard's file, and makes sure that it is what we write there: another program, a bad disk
or a hand may have changed any value of it. One damaged row is one sentence about one shard.

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from helix_crawl_otel.formats import printable
from helix_crawl_otel.shards.errors import DamagedRow
from helix_crawl_otel.shards.schema import (
    ANY_LENGTH_NOTE,
    APP_NOTE,
    INGESTING,
    ORDER_NOTE,
    RULE_NOTE,
    TREE_NOTE,
    Table,
    columns_of,
)

__all__ = ["parse_note", "read_notes"]

META = "helix_crawl_meta"

_KINDS: Mapping[str, Mapping[str, str]] = {
    META: {"key": "text", "value": "text"},
    "helix_crawl_quarantine": {"gene_id": "", "reason": "text", "at": "text"},
    "helix_crawl_sources": {
        "source_id": "text",
        "size": "integer",
        "mtime_ns": "integer",
        "digest": "text",
        "genes": "integer",
    },
    "helix_crawl_sessions": {
        "id": "integer",
        "device": "text",
        "versions": "text",
        "threads": "integer",
        "batch_size": "integer",
        "at": "text",
    },
}
"""What SQLite keeps each value as, by table and column; empty for any. A column that a later version adds is not in
older files."""

_LATER: Mapping[str, Mapping[str, str]] = {
    "helix_crawl_unread": {"gene_id": "", "chars": "integer", "unread": "integer"},
}
"""The same of tables that older files do not have."""

MOST_DIMENSIONS = 1_000_000
MOST_EPOCHS = 2**53
MOST_LETTERS = 40
"""Of a damaged value that are shown."""


def read_notes(connection: sqlite3.Connection, table: Table) -> dict[str, Any]:
    """Our notes in a file that is open, by key; empty where there are none. All our tables in it are looked at first.

    Raises:
        DamagedRow: A value is not what we write there, or a table or a column is gone.
    """
    if not table.has_own:
        return {}
    for name, kinds in {**_KINDS, **_LATER}.items():
        columns = columns_of(connection, name)
        if columns or name in _KINDS:
            _check_table(connection, name, kinds, columns)
    return {key: parse_note(key, value) for key, value in connection.execute(f"SELECT key, value FROM {META}")}


def _check_table(connection: sqlite3.Connection, name: str, kinds: Mapping[str, str], columns: frozenset[str]) -> None:
    missing = sorted(kinds.keys() - columns)
    if missing:
        what = f"has no column {' and no '.join(missing)}" if columns else "is gone"
        raise DamagedRow(f"its table {name} {what}")
    wrong = {column: f"typeof({column}) <> '{kind}'" for column, kind in kinds.items() if kind}
    sql = f"SELECT {', '.join(wrong)} FROM {name} WHERE {' OR '.join(wrong.values())}"
    damaged = connection.execute(sql).fetchone()
    if damaged is not None:
        column, value = next(
            (column, value)
            for column, value in zip(wrong, damaged, strict=True)
            if not isinstance(value, str if kinds[column] == "text" else int)
        )
        raise DamagedRow(
            f"a row of its table {name} is damaged: its {column} is {_shown(value)}; accepted: {kinds[column]}",
            f"DELETE FROM {name} WHERE {wrong[column]}",
        )


def parse_note(key: str, value: object) -> Any:
    """One of our notes, from its row.

    Raises:
        DamagedRow: It is not what we write there.
    """
    try:
        found = json.loads(value) if isinstance(value, str) else None
    except (ValueError, RecursionError):  # a number of too many digits is a ValueError as well
        found, accepted = None, "JSON"
    else:
        is_right, accepted = _NOTES.get(key, _ANY)
        if isinstance(value, str) and is_right(found):
            return found
    quoted = key.replace("'", "''")
    # Where a `reencode` was under way, what is there may be another encoder's: all of it goes.
    mended = "UPDATE helix_crawl_meta SET value = 'true'" if key == "clearing" else "DELETE FROM helix_crawl_meta"
    row = f"the row {_shown(key)} of its table {META}"
    raise DamagedRow(f"{row} is damaged: {_shown(value)}; accepted: {accepted}", f"{mended} WHERE key = '{quoted}'")


def _shown(value: object) -> str:
    text = printable(str(value)[: MOST_LETTERS + 1])
    return repr(text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}…")


def _is_identity(found: object) -> bool:
    if not isinstance(found, dict):
        return False
    dim, revision = found.get("dim"), found.get("revision", "")
    numbers = [found.get(key, 1) for key in ("max_chars", "model_dim")]
    return (
        isinstance(found.get("model"), str)
        and isinstance(revision, str)
        and type(dim) is int
        and 0 < dim <= MOST_DIMENSIONS
        and all(type(number) is int and number > 0 for number in numbers)
        and isinstance(found.get("normalised", True), bool)
    )


def _is_tree(found: object) -> bool:
    if not isinstance(found, list) or len(found) != 2:
        return False
    return all(isinstance(part, str) and bool(part) and "\0" not in part for part in found)


def _is_flag(found: object) -> bool:
    return isinstance(found, bool)


_ANY: tuple[Callable[[object], bool], str] = (lambda found: True, "JSON")

_NOTES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "encoder": (
        _is_identity,
        f"an object with a model, a revision and a dim from 1 to {MOST_DIMENSIONS:,}, as the encoder's identity",
    ),
    "epoch": (lambda found: type(found) is int and 0 <= found < MOST_EPOCHS, "an integer from 0 on, as the lease"),
    "fingerprint": (lambda found: found is None or isinstance(found, str), "a text or null"),
    TREE_NOTE: (_is_tree, "two texts, the tree and the shard's name, neither empty"),
    "clearing": (_is_flag, "true or false"),
    RULE_NOTE: (lambda found: isinstance(found, str), "a text"),
    ORDER_NOTE: (lambda found: isinstance(found, str), "a text"),
    INGESTING: (_is_flag, "true or false"),
    APP_NOTE: (_is_flag, "true or false"),
    ANY_LENGTH_NOTE: (_is_flag, "true or false"),
}
"""What each note has to be, and how that is said. Notes that a later version adds may be anything."""
