"""Looks at shards without a worker and without a model: is one complete, which files are there, what is in them.

Read by the supervisor, while no worker is on the file, and by the commands. Nothing is written, but SQLite may recover
what a killed writer has left in its log.

Source: DESIGN.md, section 8: a shard whose every encodable gene has a vector of the right length is complete.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helix_crawl_otel.formats import count
from helix_crawl_otel.paths import is_no_file, looked_at
from helix_crawl_otel.shards import schema
from helix_crawl_otel.shards.app_provenance import VectorProvenance, read_provenance
from helix_crawl_otel.shards.errors import EmptyFile, StoreError, cannot_write, store_errors
from helix_crawl_otel.shards.ingested import unlike_sources
from helix_crawl_otel.shards.notes import read_notes
from helix_crawl_otel.shards.schema import INGESTING, LOCK_SECONDS, RULE_NOTE, TREE_NOTE, Table, vector_form

__all__ = [
    "Held",
    "Salvage",
    "Unread",
    "built_from",
    "count_quarantined",
    "count_unread",
    "has_log",
    "has_vectors",
    "held",
    "lease_of_sources",
    "reading",
    "salvage",
    "spoken",
    "stored_identity",
    "vector_pages",
]

COUNTED_BYTES = 256 * 1024**2
"""Of larger files the pending genes are counted by their worker alone: that takes seconds."""

PAGE = 2000
"""Vectors read at once."""


@contextmanager
def reading(
    path: Path, lock_seconds: float = LOCK_SECONDS, *, leaves_log: bool = False
) -> Iterator[tuple[sqlite3.Connection, Table]]:
    """Open a shard to read it, also a copy where nothing may be written.

    Args:
        path: The file.
        lock_seconds: How long to wait for another program that holds it.
        leaves_log: Nothing of a log beside it is written into it: it may be another program's.

    Raises:
        StoreError: It cannot be read; the message says why.
    """
    looked_at.place = str(path)
    if is_no_file(path):
        raise StoreError(f"{path} is no file, but a folder, a pipe or a device: move it away")
    if not path.is_file():
        if left := [part.name for part in schema.beside(path)[:2] if part.is_file()]:
            raise EmptyFile(
                f"{path} is not there, but {' and '.join(left)} of it: put the file back beside it, or let the same "
                "`helix-crawl build` make it again"
            )
        raise StoreError(f"{path} is not there")
    with store_errors(path):
        connection, table = _opened(path, lock_seconds, leaves_log)
        with closing(connection):
            yield connection, table


def _opened(path: Path, lock_seconds: float, leaves_log: bool) -> tuple[sqlite3.Connection, Table]:
    try:
        return _looked_at(schema.connect(path, lock_seconds, is_read_only=leaves_log), path)
    except sqlite3.Error as error:
        if not cannot_write(error):
            raise
        if has_log(path):
            raise StoreError(
                f"{path} has a log beside it that a killed program has left, and nothing may be written there; copy "
                "both to a folder that can be written"
            ) from error
    # To read a file in WAL mode SQLite makes two more beside it. Where it cannot, nobody else can change the file.
    return _looked_at(schema.connect_unchanging(path), path)


def has_log(path: Path) -> bool:
    """Whether something beside the file belongs into it: transactions, or what takes half of one back."""
    journal, log, _ = schema.beside(path)
    if log.is_file() and log.stat().st_size:
        return True
    if not journal.is_file():
        return False
    with journal.open("rb") as file:
        return file.read(1) not in (b"", b"\0")  # one that is done with may stay, emptied or begun with zeros


def _looked_at(connection: sqlite3.Connection, path: Path) -> tuple[sqlite3.Connection, Table]:
    try:
        return connection, schema.read_table(connection, path)
    except BaseException:
        connection.close()
        raise


def stored_identity(path: Path, lock_seconds: float = LOCK_SECONDS) -> dict[str, object] | None:
    """The encoder that a shard's vectors are of, `None` when nothing says so.

    Args:
        path: The file.
        lock_seconds: How long to wait for another program that holds it.

    Raises:
        StoreError: It cannot be read.
    """
    with reading(path, lock_seconds) as (connection, table):
        return read_notes(connection, table).get("encoder")


@dataclass(frozen=True)
class Unread:
    """Text that is in no vector, for it lies beyond what the encoder reads.

    Args:
        genes: That are longer.
        chars: Characters in those.
        unread: How many of these are in no vector, estimated by the share of the tokens.
    """

    genes: int = 0
    chars: int = 0
    unread: int = 0

    def __add__(self, other: Unread) -> Unread:
        return Unread(self.genes + other.genes, self.chars + other.chars, self.unread + other.unread)

    @property
    def share(self) -> float:
        """Of the text of these genes, 0 to 1."""
        return round(self.unread / self.chars, 4) if self.chars else 0.0

    def to_json(self) -> dict[str, float]:
        """A JSON object."""
        return {**asdict(self), "share": self.share}

    def __str__(self) -> str:
        verb, whose = ("is", "its") if self.genes == 1 else ("are", "their")
        longer = f"{count(self.genes, 'gene')} {verb} longer than the model reads"
        return f"{longer}; {max(1, round(100 * self.share))} % of {whose} text is in no vector"


@dataclass(frozen=True)
class Salvage:
    """What a shard holds before a run.

    Args:
        is_complete: Every gene that can have a vector has one of the right length.
        genes: How many there are; 0 where it is not complete, for then nobody has counted.
        identity: The encoder, `None` when nothing says so.
        fingerprint: Of the sources that it was cut from, see `tree.fingerprint`.
        epoch: The highest lease that was taken on it, 0 for none.
        pending: Genes that lack a vector; `None` where the file is too large to count them before the run.
        quarantined: Genes that are left out.
        rule: By which its sources were cut, `None` where nobody has written it down.
        unread: What its encoder has not read.
        tree: That it was cut from the last time, `None` where nobody has written it down.
        provenance: What the application says of its vectors.
        has_foreign: There are vectors, and nothing says by which encoder.
    """

    is_complete: bool
    genes: int
    identity: dict[str, object] | None
    fingerprint: str | None
    epoch: int
    pending: int | None = 0
    quarantined: int = 0
    rule: str | None = None
    unread: Unread = Unread()
    tree: str | None = None
    provenance: VectorProvenance = field(default_factory=VectorProvenance)
    has_foreign: bool = False


def salvage(path: Path, lock_seconds: float = LOCK_SECONDS, *, is_built: bool = False, deep: bool = False) -> Salvage:
    """Look at one shard. As little as possible is read: a run may begin with a thousand of them.

    Args:
        path: The file.
        lock_seconds: How long to wait for another program that holds it.
        is_built: It is for `build` to write.
        deep: Look also for what `--reencode` puts right: vectors that are not of length 1, changed contents and ids.

    Raises:
        EmptyFile: There is nothing in it.
        NotAShard: It is none, or `build` has not made it.
        StoreError: It cannot be read.
    """
    with reading(path, lock_seconds) as (connection, table):
        own = read_notes(connection, table)
        if is_built:
            schema.require_built(connection, path)
        form = vector_form(connection, table, own)
        is_open = table.pending(form)
        lacks = connection.execute(f"SELECT 1 FROM genes WHERE {is_open} LIMIT 1").fetchone() is not None
        genes = 0 if lacks else int(connection.execute("SELECT count(*) FROM genes").fetchone()[0])
        quarantined, unread = _quarantined(connection, table), _unread(connection, table)
        pending: int | None = 0
        if lacks:
            is_small = path.stat().st_size <= COUNTED_BYTES
            counting = f"SELECT count(*) FROM genes WHERE {is_open}"
            pending = int(connection.execute(counting).fetchone()[0]) if is_small else None
        # Genes that somebody has taken away are made again from their sources, which are read again for that.
        is_as_ingested = not (is_built and table.has_own) or not unlike_sources(connection, deep=deep)
        # An ingest that was killed, as of `--prune`, leaves the fingerprint of the one before.
        is_as_ingested = is_as_ingested and not own.get(INGESTING)
        is_complete = not lacks and not own.get("clearing")
        is_complete = is_complete and not (deep and any(schema.of_other_lengths(connection, table, form)))
        provenance = VectorProvenance() if is_built else read_provenance(connection)
    return Salvage(
        is_complete,
        genes,
        own.get("encoder"),
        own.get("fingerprint") if is_as_ingested else None,
        own.get("epoch", 0),
        pending,
        quarantined,
        own.get(RULE_NOTE),
        unread,
        _tree(own),
        provenance,
        own.get("encoder") is None and form.length > 0,
    )


def spoken(
    path: Path, lock_seconds: float, genes: int
) -> tuple[dict[str, object] | None, VectorProvenance, list[tuple[str, str, bytes]]]:
    """What a shard says of its vectors: the encoder's identity; else what the application has written down, and some
    genes with their vectors.

    Args:
        path: The file.
        lock_seconds: How long to wait for another program that holds it.
        genes: At most so many, spread over the shard.

    Raises:
        StoreError: It cannot be read.
    """
    with reading(path, lock_seconds) as (connection, table):
        own = read_notes(connection, table)
        if (identity := own.get("encoder")) is not None:
            return identity, VectorProvenance(), []
        form = vector_form(connection, table, own)
        sample = schema.spread_sample(connection, table, form, genes) if form.length else []
        texts = [(gene_id, schema.readable(content), vector) for gene_id, content, vector in sample]
        return None, read_provenance(connection), texts


@dataclass(frozen=True)
class Held:
    """What a shard holds, to estimate by.

    Args:
        fingerprint: See `Salvage`.
        rule: See `Salvage`.
        source_bytes: Of the sources that it was cut from.
        genes: How many there are.
        pending: Of those, how many lack a vector; `None` where the file is too large to count them.
    """

    fingerprint: str | None
    rule: str | None
    source_bytes: int
    genes: int
    pending: int | None


def held(path: Path) -> Held | None:
    """What a shard that `build` has made holds. Makes nothing beside the file, and waits for nobody.

    Returns:
        `None` where it is not there, or cannot be read like that, as while somebody writes to it.
    """
    looked_at.place = str(path)
    try:
        if not path.is_file() or not path.stat().st_size or has_log(path):
            return None
        with store_errors(path), closing(schema.connect_unchanging(path)) as connection:
            table = schema.read_table(connection, path)
            if not table.has_own:
                return None
            own = read_notes(connection, table)
            is_open = table.pending(vector_form(connection, table, own))
            counting = f"SELECT count(*) FROM genes WHERE {is_open}"
            is_small = path.stat().st_size <= COUNTED_BYTES
            (source_bytes,) = connection.execute("SELECT coalesce(sum(size), 0) FROM helix_crawl_sources").fetchone()
            (genes,) = connection.execute("SELECT count(*) FROM genes").fetchone()
            pending = connection.execute(counting).fetchone()[0] if is_small else None
    except (StoreError, OSError):
        return None
    return Held(own.get("fingerprint"), own.get(RULE_NOTE), source_bytes, genes, pending)


def count_quarantined(path: Path, lock_seconds: float) -> int:
    """Genes of a shard that are left out, 0 where that cannot be read in so long."""
    try:
        with reading(path, lock_seconds) as (connection, table):
            return _quarantined(connection, table)
    except StoreError:
        return 0


def count_unread(path: Path, lock_seconds: float = LOCK_SECONDS) -> Unread:
    """What the encoder of a shard has not read, nothing where that cannot be read in so long."""
    try:
        with reading(path, lock_seconds) as (connection, table):
            return _unread(connection, table)
    except StoreError:
        return Unread()


def _unread(connection: sqlite3.Connection, table: Table) -> Unread:
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'helix_crawl_unread'"
    if connection.execute(known).fetchone() is None:  # a version that counted none has written the shard
        return Unread()
    # Only of the genes that are noted is the vector asked for: there are few of them, and many others.
    noted = "gene_id IN (SELECT gene_id FROM helix_crawl_unread)"
    sql = (
        "SELECT count(*), coalesce(sum(chars), 0), coalesce(sum(unread), 0) FROM helix_crawl_unread"
        f" WHERE gene_id IN (SELECT gene_id FROM genes WHERE {noted} AND {table.vector} IS NOT NULL)"
    )
    return Unread(*connection.execute(sql).fetchone())


def _quarantined(connection: sqlite3.Connection, table: Table) -> int:
    if not table.has_own:
        return 0
    return int(connection.execute("SELECT count(*) FROM helix_crawl_quarantine").fetchone()[0])


def lease_of_sources(path: Path, lock_seconds: float) -> int | None:
    """The highest lease of a shard that holds sources; `None` where it holds none, or cannot be read.

    Args:
        path: The file.
        lock_seconds: How long to wait for another program that holds it.
    """
    try:
        with reading(path, lock_seconds) as (connection, table):
            if not table.has_own or not connection.execute("SELECT 1 FROM helix_crawl_sources LIMIT 1").fetchone():
                return None
            return int(read_notes(connection, table).get("epoch", 0))
    except StoreError:
        return None  # what cannot be read is not known to be ours


def has_vectors(path: Path) -> bool:
    """Whether any gene of a shard has a vector. Raises as `reading` does."""
    with reading(path) as (connection, table):
        return (
            connection.execute(f"SELECT 1 FROM genes WHERE {table.vector} IS NOT NULL LIMIT 1").fetchone() is not None
        )


def vector_pages(path: Path, length: int) -> Iterator[list[tuple[object, bytes]]]:
    """The ids and vectors of a shard, some thousand at once. Raises as `reading` does.

    Args:
        path: The file.
        length: Of a vector, in bytes; others are left out.
    """
    with reading(path) as (connection, table):
        vector = table.vector
        cursor = connection.execute(f"SELECT gene_id, {vector} FROM genes WHERE length({vector}) = ?", (length,))
        while rows := cursor.fetchmany(PAGE):
            yield [(gene_id, vector) for gene_id, vector in rows if isinstance(vector, bytes)]


def built_from(path: Path) -> str | None:
    """The tree that a shard was cut from, `None` where `build` has not made it. Raises as `reading` does."""
    with reading(path) as (connection, table):
        return _tree(read_notes(connection, table))


def _tree(own: Mapping[str, Any]) -> str | None:
    note = own.get(TREE_NOTE)
    return None if note is None else str(note[0])
