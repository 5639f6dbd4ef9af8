"""The generated parts of the reference that are about the main job: events, the summary, shards, faults, knobs."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sqlite3
from collections.abc import Callable

from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.faults import faults
from helix_crawl_otel.shards import schema
from helix_crawl_otel.shards.accounts import Accounts
from helix_crawl_otel.supervise import events
from tests.docs.blocks import _arguments, code, listed, table

__all__ = ["JOB_BLOCKS"]


def event_rows() -> list[str]:
    """What `--json` prints, an object a line: the kinds in the order of their classes."""
    kinds = [kind for kind in vars(events).values() if inspect.isclass(kind) and issubclass(kind, events.Event)]
    rows = []
    for kind in kinds:
        if kind is events.Event:
            continue
        fields = [field.name for field in dataclasses.fields(kind) if field.name != "t"]
        rows.append((code(kind.KIND), listed(fields), _first(kind)))
    return table(("`event`", "its other keys", "what it says"), rows)


def _first(kind: type) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


def summary_rows() -> list[str]:
    """The keys of the last line."""
    meanings = _arguments(Summary)
    # The contract that the class names is this page's own section.
    rows = [(code(field.name), meanings[field.name]) for field in dataclasses.fields(Summary)]
    return table(
        ("key of `summary`", "meaning"),
        [(name, text.replace("See DESIGN.md, section 3.3.", "See [exit codes](#exit-codes).")) for name, text in rows],
    )


def verify_rows() -> list[str]:
    """The keys of `verify --json`."""
    meanings = _arguments(Accounts)
    rows = [(code(field.name), meanings[field.name]) for field in dataclasses.fields(Accounts)]
    return table(("key of `verify`", "meaning"), rows)


def shard_tables() -> list[str]:
    """The tables of a new shard, asked of SQLite itself."""
    with sqlite3.connect(":memory:") as connection:
        schema.create_genes(connection)
        schema.ensure_own(connection, schema.Table(frozenset({"gene_id", "content", *schema._ADDED}), "rowid", False))
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = [
            (code(name), listed(row[1] for row in connection.execute(f"PRAGMA table_info({name})"))) for name in names
        ]
    connection.close()
    return table(("table", "columns"), rows)


def fault_rows() -> list[str]:
    """The faults, as `--fault help` prints them, and the keys of each."""
    listing = re.search(r"(?:^    \S.*\n)+", faults.__doc__ or "", re.MULTILINE)
    assert listing is not None
    rows = [(code(name), listed(keys)) for name, keys in faults._KEYS.items()]
    return ["```text", *(line[4:] for line in listing[0].splitlines()), "```", "", *table(("fault", "keys"), rows)]


JOB_BLOCKS: dict[str, Callable[[], list[str]]] = {
    "events": event_rows,
    "summary": summary_rows,
    "verify keys": verify_rows,
    "shard tables": shard_tables,
    "faults": fault_rows,
}
