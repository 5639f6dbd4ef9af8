"""Accounts for every gene of a shard, each in exactly one class, looks for what is wrong with those that are there, and
makes the digest of its content. One pass over the file in the order in which it lies on the disk; nothing is kept but
counts and the first names.

Source: DESIGN.md, section 3.3: genes = vectors + missing + wrong_length + not_finite + not_normalised + not_encodable +
quarantined.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from helix_crawl_otel.shards.ingested import (
    OF_SOURCES,
    gone_sources,
    is_content_of,
    is_first_of,
    is_ingested,
    miscounted_sources,
    wrong_ids,
)
from helix_crawl_otel.shards.inspect import reading
from helix_crawl_otel.shards.notes import read_notes
from helix_crawl_otel.shards.schema import BLANK, Table, VectorForm, plain_id, vector_form
from helix_crawl_otel.shards.vectors import are_of_length_1, is_vector

__all__ = ["Accounts", "account", "combine"]

PAGE = 1000
"""Rows read at once."""

MOST_NAMED = 1000
"""Of each class, in a shard."""

_TROUBLES = (
    "missing",
    "wrong_length",
    "not_finite",
    "not_normalised",
    "quarantined",
    "content_changed",
    "wrong_id",
    "same_id",
    "no_source",
    "genes_gone",
)
"""Counts that are 0 in a shard that is whole."""


@dataclass(frozen=True)
class Accounts:
    """Where every gene is, and what is wrong with it. `None` is not looked at.

    Args:
        shards: How many were counted.
        genes: All of them; the sum of the seven that follow.
        vectors: With a vector of the right length.
        missing: Without one.
        wrong_length: With something else in its place.
        not_finite: With a vector that is none: a number in it is infinite or NaN, or all are 0.
        not_normalised: With a vector that is not of length 1, although its encoder's are.
        not_encodable: Nothing in them that could be encoded.
        quarantined: Left out because they cannot be encoded.
        content_changed: Whose content is another one than its hash says. This and the next three are in one of the
            classes above as well.
        wrong_id: Whose id follows neither from its source nor from its content.
        same_id: Whose id another one has as well.
        no_source: Of no source that is known.
        genes_gone: How many less there are than their sources gave.
        sources_gone: Sources whose file is gone; their genes are still there. Nothing is wrong with those.
        digest: SHA-256, in hex, of every id, content and vector.
        named: The first of each of these, by its name above: `gene_id` and `source_id`, of a quarantined one `reason`;
            of `genes_gone` and `sources_gone` the `source_id`, and how many `genes` there are and were (`expected`).
    """

    shards: int
    genes: int
    vectors: int
    missing: int
    wrong_length: int
    not_finite: int | None
    not_normalised: int | None
    not_encodable: int
    quarantined: int
    content_changed: int | None
    wrong_id: int | None
    same_id: int | None
    no_source: int | None
    genes_gone: int | None
    sources_gone: int | None
    digest: str
    named: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Nothing is missing that could be there, and nothing is wrong with what is."""
        return not any(getattr(self, name) for name in _TROUBLES)

    @property
    def is_pending(self) -> bool:
        """Another run has something to do, without being asked to."""
        return bool(self.missing or self.wrong_length or self.not_finite or self.genes_gone)

    def to_json(self) -> dict[str, object]:
        """The object that `verify --json` prints."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


_CHECKED = (
    "not_finite",
    "not_normalised",
    "content_changed",
    "wrong_id",
    "same_id",
    "no_source",
    "genes_gone",
    "sources_gone",
)
_COUNTED = ("vectors", "missing", "wrong_length", "not_encodable", "quarantined")
_CLASSES = (*_COUNTED, "not_finite", "not_normalised")
"""Each gene is in one of them."""
_UNNAMED = frozenset({"vectors", "missing", "not_encodable"})
"""There may be as many as there are genes."""


class _Count:
    """Counts of one shard, with the first of each class."""

    def __init__(self) -> None:
        self.of = dict.fromkeys((*_COUNTED, *_CHECKED), 0)
        self.named: dict[str, list[dict[str, object]]] = {}

    def add(self, what: str, which: tuple[object, object] | None) -> None:
        """One gene: its id and source, `None` not to name it."""
        self.of[what] += 1
        if which is not None:
            self.name(what, gene_id=which[0], source_id=which[1])

    def name(self, what: str, **which: object) -> None:
        rows = self.named.setdefault(what, [])
        if len(rows) < MOST_NAMED:
            rows.append({key: plain_id(value) for key, value in which.items()})


def account(path: Path, progress: Callable[[int], None] = lambda genes: None, *, quick: bool = False) -> Accounts:
    """Count one shard.

    Args:
        path: The file.
        progress: Called now and then with how many genes have been read.
        quick: Look at lengths alone: what `_CHECKED` names is not looked at.

    Raises:
        StoreError: It cannot be read; the message says why.
    """
    with reading(path) as (connection, table):
        own = read_notes(connection, table)
        found = _Count()
        digest = _count_genes(connection, table, own, found, progress, quick=quick)
        if not quick:
            _compare_with_sources(connection, table, own, found)
    checked = dict.fromkeys(_CHECKED) if quick else {}
    genes = sum(found.of[name] for name in _CLASSES)
    return Accounts(shards=1, genes=genes, **{**found.of, **checked}, digest=digest, named=found.named)  # type: ignore[arg-type]  # by the names of its fields


def _count_genes(
    connection: sqlite3.Connection,
    table: Table,
    own: Mapping[str, Any],
    found: _Count,
    progress: Callable[[int], None],
    *,
    quick: bool,
) -> str:
    form = vector_form(connection, table, own)
    has_sources = not quick and is_ingested(connection, table, own)
    has_repeats = False
    digest = _Digest()
    source = "source_id" if "source_id" in table.columns else "NULL"
    cursor = connection.execute(
        f"SELECT gene_id, CAST(gene_id AS BLOB), CAST(content AS BLOB), CAST({table.vector} AS BLOB),"
        f" typeof({table.vector}), {table.quarantined}, {BLANK}, {source}, {_reason(table)},"
        f" {f'content_hash, {OF_SOURCES}' if has_sources else 'NULL, 0'} FROM genes"
    )
    read = 0
    while rows := cursor.fetchmany(PAGE):
        classes = _classes([row[3:5] for row in rows], form, quick=quick)
        for row, vector_class in zip(rows, classes, strict=True):
            gene_id, raw_id, content, vector, _, is_quarantined, is_blank, source_id = row[:8]
            reason, hashed, is_of_source = row[8:]
            digest.add(raw_id, content, vector)
            is_there = vector_class == "vectors" or not (is_quarantined or is_blank)
            what = vector_class if is_there else "quarantined" if is_quarantined else "not_encodable"
            found.add(what, None if what in _UNNAMED else (gene_id, source_id))
            if what == "quarantined":
                found.named[what][-1].setdefault("reason", reason)
            if is_of_source:
                has_repeats = has_repeats or not is_first_of(gene_id, source_id, hashed)
                if not is_content_of(hashed, content):
                    found.add("content_changed", (gene_id, source_id))
            elif has_sources:
                found.add("no_source", (gene_id, source_id))
        read += len(rows)
        progress(read)
    if has_repeats:
        for which in wrong_ids(connection):
            found.add("wrong_id", which)
    return digest.hex()


def _reason(table: Table) -> str:
    """SQL: why a gene is quarantined."""
    if not table.has_own:
        return "NULL"
    sql = "SELECT kept.reason FROM helix_crawl_quarantine AS kept WHERE genes.gene_id = kept.gene_id"
    return f"CASE WHEN {table.quarantined} THEN ({sql}) END"


def _classes(vectors: Sequence[tuple[bytes | None, str]], form: VectorForm, *, quick: bool) -> list[str]:
    """Of vectors, with what SQLite keeps them as."""
    classes = []
    for vector, kind in vectors:
        if kind != "blob" or vector is None or not 0 < form.length == len(vector):
            classes.append("missing" if kind == "null" else "wrong_length")
        else:
            classes.append("vectors" if quick or is_vector(vector) else "not_finite")
    if not quick and form.is_normalised:
        there = [n for n, what in enumerate(classes) if what == "vectors"]
        lengths = are_of_length_1([vectors[n][0] or b"" for n in there])
        for n in (n for n, is_right in zip(there, lengths, strict=True) if not is_right):
            classes[n] = "not_normalised"
    return classes


def _compare_with_sources(connection: sqlite3.Connection, table: Table, own: Mapping[str, Any], found: _Count) -> None:
    for gene_id, number in _repeated_ids(connection):
        found.of["same_id"] += number
        found.name("same_id", gene_id=gene_id, genes=number)
    if not is_ingested(connection, table, own):
        return
    for source_id, expected, there in miscounted_sources(connection):
        if there < expected:
            found.of["genes_gone"] += expected - there
            found.name("genes_gone", source_id=source_id, expected=expected, genes=there)
    for source_id in gone_sources(connection, table, own):
        found.of["sources_gone"] += 1
        found.name("sources_gone", source_id=source_id)


def _repeated_ids(connection: sqlite3.Connection) -> Iterator[tuple[object, int]]:
    """Ids that several genes have. `build` makes them unique; a table of an application need not be."""
    for index in connection.execute("PRAGMA index_list(genes)").fetchall():
        columns = connection.execute("SELECT name FROM pragma_index_info(?)", (index[1],)).fetchall()
        if index[2] and not index[4] and [str(name).lower() for (name,) in columns] == ["gene_id"]:
            return
    yield from connection.execute(
        "SELECT gene_id, count(*) FROM genes WHERE gene_id IS NOT NULL GROUP BY gene_id HAVING count(*) > 1"
    )


def combine(named: Sequence[tuple[str, Accounts]]) -> Accounts:
    """The sum of several shards, in whatever order they come. Nothing is named in it."""
    digest = hashlib.sha256()
    for name, one in sorted(named, key=lambda item: (item[0], item[1].digest)):
        for part in (name.encode("utf-8", "surrogateescape"), one.digest.encode()):
            digest.update(_framed(part))
    counts = {
        one.name: _sum(getattr(accounts, one.name) for _, accounts in named)
        for one in fields(Accounts)
        if one.name not in ("digest", "named")
    }
    return Accounts(**counts, digest=digest.hexdigest())  # type: ignore[arg-type]  # by the names of its fields


def _sum(numbers: Iterator[int | None]) -> int | None:
    total = 0
    for number in numbers:
        if number is None:
            return None
        total += number
    return total


class _Digest:
    """SHA-256 over rows in whatever order they come: the hashes of the rows are added up."""

    def __init__(self) -> None:
        self._sum = 0

    def add(self, *row: bytes | None) -> None:
        self._sum += int.from_bytes(hashlib.sha256(b"".join(map(_framed, row))).digest(), "big")

    def hex(self) -> str:
        return hashlib.sha256(str(self._sum).encode()).hexdigest()


def _framed(part: bytes | None) -> bytes:
    """With its length before it, so that no two contents run together to the same bytes."""
    return b"-" if part is None else b"%d:%b" % (len(part), part)
