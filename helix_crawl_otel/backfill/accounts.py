"""Accounts for every gene of a shard, each in exactly one class, and makes the digest of its content.

Source: DESIGN.md, section 3.3: genes = vectors + missing + wrong_length + not_encodable + quarantined.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helix_crawl_otel.backfill.salvage import reading, stored_meta
from helix_crawl_otel.backfill.schema import BLANK, Table

__all__ = ["Accounts", "account", "combine"]

TOLD_EVERY = 10_000


@dataclass(frozen=True)
class Accounts:
    """Where every gene is.

    Args:
        shards: How many were counted.
        genes: All of them; the sum of the five that follow.
        vectors: With a vector of the right length.
        missing: Without one.
        wrong_length: With something else in its place.
        not_encodable: Nothing in them that could be encoded.
        quarantined: Left out because they cannot be encoded.
        digest: SHA-256, in hex, of every id, content and vector.
    """

    shards: int
    genes: int
    vectors: int
    missing: int
    wrong_length: int
    not_encodable: int
    quarantined: int
    digest: str

    @property
    def is_whole(self) -> bool:
        """Nothing is missing that could be there."""
        return not (self.missing or self.wrong_length or self.quarantined)

    def to_json(self) -> dict[str, object]:
        """The object that `verify --json` prints."""
        return asdict(self)


def account(path: Path, progress: Callable[[int], None] = lambda genes: None) -> Accounts:
    """Count one shard.

    Args:
        path: The file.
        progress: Called now and then with how many genes have been read.

    Raises:
        StoreError: It cannot be read; the message says why.
    """
    with reading(path) as (connection, table):
        length = _right_length(connection, table)
        counts = dict.fromkeys(("vectors", "quarantined", "not_encodable", "missing", "wrong_length"), 0)
        digest = hashlib.sha256()
        sql = (
            f"SELECT CAST(gene_id AS BLOB), CAST(content AS BLOB), {table.vector}, {table.quarantined}, {BLANK},"
            f" typeof({table.vector}) FROM genes ORDER BY CAST(gene_id AS BLOB)"
        )
        for number, (gene_id, content, vector, quarantined, blank, kind) in enumerate(connection.execute(sql), 1):
            value = None if kind == "null" else vector if kind == "blob" else str(vector).encode()
            if kind == "blob" and len(vector) == length:
                counts["vectors"] += 1
            elif quarantined:
                counts["quarantined"] += 1
            elif blank:
                counts["not_encodable"] += 1
            else:
                counts["missing" if kind == "null" else "wrong_length"] += 1
            for field in (gene_id, content, value):
                _add(digest, field)
            if number % TOLD_EVERY == 0:
                progress(number)
    return Accounts(shards=1, genes=sum(counts.values()), **counts, digest=digest.hexdigest())


def combine(named: Sequence[tuple[str, Accounts]]) -> Accounts:
    """The sum of several shards, in whatever order they come."""
    digest = hashlib.sha256()
    for name, one in sorted(named, key=lambda item: (item[0], item[1].digest)):
        _add(digest, name.encode("utf-8", "surrogateescape"))
        _add(digest, one.digest.encode())
    fields = ("shards", "genes", "vectors", "missing", "wrong_length", "not_encodable", "quarantined")
    return Accounts(
        **{field: sum(getattr(one, field) for _, one in named) for field in fields}, digest=digest.hexdigest()
    )


def _right_length(connection: sqlite3.Connection, table: Table) -> int:
    """Bytes of a vector: by the encoder's identity, else the commonest length that is whole floats; 0 for none."""
    identity = stored_meta(connection, table, "encoder")
    if isinstance(identity, dict):
        return 4 * int(identity["dim"])
    vector = table.vector
    row = connection.execute(
        f"SELECT length({vector}) FROM genes WHERE typeof({vector}) = 'blob' AND length({vector}) > 0"
        f" AND length({vector}) % 4 = 0 GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 1"
    ).fetchone()
    return 0 if row is None else int(row[0])


def _add(digest: hashlib._Hash, field: bytes | None) -> None:
    """Each with its length before it, so that no two contents run together to the same bytes."""
    digest.update(b"-" if field is None else b"%d:" % len(field))
    if field is not None:
        digest.update(field)
