"""Accounts for every gene of a shard, each in exactly one class, and makes the digest of its content.

Source: DESIGN.md, section 3.3: genes = vectors + missing + wrong_length + not_encodable + quarantined.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from helix_crawl_otel.shards.inspect import reading, stored_meta
from helix_crawl_otel.shards.schema import BLANK, right_length

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
        own = stored_meta(connection, table)
        # While a `reencode` is clearing, what is there is no vector of the encoder that the shard names.
        length = 0 if own.get("clearing") else right_length(connection, table, own.get("encoder"))
        counts = dict.fromkeys(("vectors", "quarantined", "not_encodable", "missing", "wrong_length"), 0)
        digest = hashlib.sha256()
        sql = (
            f"SELECT CAST(gene_id AS BLOB), CAST(content AS BLOB), CAST({table.vector} AS BLOB),"
            f" typeof({table.vector}), {table.quarantined}, {BLANK} FROM genes ORDER BY 1, 2, 3"
        )
        for number, (gene_id, content, vector, kind, quarantined, blank) in enumerate(connection.execute(sql), 1):
            if kind == "blob" and 0 < length == len(vector):
                counts["vectors"] += 1
            elif quarantined:
                counts["quarantined"] += 1
            elif blank:
                counts["not_encodable"] += 1
            else:
                counts["missing" if kind == "null" else "wrong_length"] += 1
            for field in (gene_id, content, vector):
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
    counts = [field.name for field in fields(Accounts) if field.name != "digest"]
    return Accounts(**{name: sum(getattr(one, name) for _, one in named) for name in counts}, digest=digest.hexdigest())


def _add(digest: hashlib._Hash, field: bytes | None) -> None:
    """Each with its length before it, so that no two contents run together to the same bytes."""
    digest.update(b"-" if field is None else b"%d:" % len(field))
    if field is not None:
        digest.update(field)
