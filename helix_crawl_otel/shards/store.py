"""One shard's file, open for writing under a lease: what is pending, vectors, quarantine, the encoder's identity.

Every write is one short transaction that first makes sure of the lease: a worker that was replaced and wakes up writes
nothing. Readers of the file are never in the way (WAL), and a killed process loses nothing that was committed.

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from helix_crawl_otel.shards import schema
from helix_crawl_otel.shards.app_provenance import VectorProvenance, append_provenance, read_provenance
from helix_crawl_otel.shards.errors import EncoderRefused, LeaseLost, StoreReadOnly, shown_identity, store_errors
from helix_crawl_otel.shards.genes import PendingGene
from helix_crawl_otel.shards.notes import parse_note, read_notes
from helix_crawl_otel.shards.schema import ANY_LENGTH_NOTE, PLAN, VECTOR, Table, VectorForm, given, readable

__all__ = ["ShardStore"]

BEGINNING = 60
"""Letters of a text that are shown, so that it can be found in its file."""

PROVENANCE_NOTE = "app provenance"
"""Note of what stands in the row that was last added to the application's own table."""

LONGEST = 2
"""Of the longest texts so many are looked at: of one alone white space at its end may hide the right cap."""

CLEARED_AT_ONCE = 5000
"""Vectors that one transaction of a `reencode` takes away."""


class ShardStore:
    """A shard. Use `open`; close it, or use it in a `with` block.

    Args:
        path: The file.
        connection: Open.
        table: As it is.
        epoch: The lease.

    Attributes:
        kept_out: Ids of genes whose vector the file did not keep, though SQLite reported no error.

    Threads: one.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, table: Table, epoch: int) -> None:
        self.path = path
        self.epoch = epoch
        self.table = table
        self.kept_out: list[object] = []
        self._connection = connection
        self._foreign: schema.VectorForm | None = None  # of vectors without an identity, until some are written

    @classmethod
    def open(cls, path: Path, *, epoch: int, create: bool, lock_seconds: float = 30.0) -> ShardStore:
        """Open a shard and take the lease.

        Args:
            path: The file.
            epoch: The lease, higher than any before it. The supervisor gives it out.
            create: For `build`: make the file when it is not there, and take none that something else has made.
            lock_seconds: How long to wait for another program that holds the file.

        Raises:
            LeaseLost: A lease as high or higher has been taken.
            StoreError: The file cannot be used; the message says why.
        """
        if not create and not path.is_file():
            raise StoreReadOnly(f"{path} is not there any more")
        with store_errors(path):
            connection = schema.connect(path, lock_seconds)
        try:
            with store_errors(path):
                # Before anything is changed in a file that is no shard.
                if create:
                    schema.require_built(connection, path)
                else:
                    schema.read_table(connection, path)
                connection.execute("PRAGMA journal_mode = WAL").fetchall()
                connection.execute("PRAGMA synchronous = NORMAL")
                if create:
                    schema.create_genes(connection)
                table = schema.read_table(connection, path)
                store = cls(path, connection, table, epoch)
                store._take_lease(index=create)
                store.table = schema.read_table(connection, path)
            return store
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._connection.close()

    def __enter__(self) -> ShardStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the lease ----------------------------------------------------------------------------------------------------

    def _take_lease(self, *, index: bool) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            schema.ensure_own(self._connection, self.table)
            if index:
                schema.index_sources(self._connection)
            read_notes(self._connection, schema.read_table(self._connection, self.path))
            stored = self._stored_epoch()
            if stored >= self.epoch:
                raise LeaseLost(f"{self.path} has been taken over by another worker (lease {stored}, not {self.epoch})")
            self.set_meta("epoch", self.epoch)
            self._connection.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _stored_epoch(self) -> int:
        return self.meta("epoch") or 0

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction under the lease. What is raised inside undoes it.

        Raises:
            LeaseLost: Another worker has taken the shard over; nothing was written.
            StoreError: It cannot be written; nothing was.
        """
        with store_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                if self._stored_epoch() != self.epoch:
                    raise LeaseLost(f"{self.path} has been taken over by another worker; this one writes nothing more")
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                self._rollback()
                raise

    def _rollback(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._connection.close()  # which undoes it as well

    # -- facts about the shard ----------------------------------------------------------------------------------------

    def meta(self, key: str) -> Any:
        """A value of our own, `None` when there is none. Plain JSON."""
        with store_errors(self.path):
            row = self._connection.execute("SELECT value FROM helix_crawl_meta WHERE key = ?", (key,)).fetchone()
            return None if row is None else parse_note(key, row[0])

    def set_meta(self, key: str, value: object) -> None:
        """Keep a value. Within a transaction."""
        text = json.dumps(value, sort_keys=True)
        self._connection.execute("INSERT OR REPLACE INTO helix_crawl_meta VALUES (?, ?)", (key, text))

    def keep(self, key: str, value: object) -> None:
        """Keep a value, in a transaction of its own."""
        with self.writing():
            self.set_meta(key, value)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for queries that change nothing."""
        with store_errors(self.path):
            yield self._connection

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a query that changes nothing."""
        with store_errors(self.path):
            return self._connection.execute(sql).fetchall()

    def identity(self) -> dict[str, object] | None:
        """The encoder that the vectors are of, `None` when nothing says so."""
        return self.meta("encoder")  # type: ignore[no-any-return]  # as `parse_note` lets it pass

    def has_foreign_vectors(self) -> bool:
        """Whether there are vectors whose encoder nobody has written down: the app's own."""
        if self.identity() is not None:
            return False
        with store_errors(self.path):
            return self._form().length > 0

    def claim(self, identity: Mapping[str, object], *, reencode: bool = False) -> None:
        """Write down whose vectors these are.

        Args:
            identity: The encoder's.
            reencode: Take it in place of another one: the vectors there are go first. Until the last of them has gone
                every gene counts as pending, so that a kill half-way leaves none under the wrong name. In place of the
                same one the vectors go that are not of length 1, where its vectors are.

        Raises:
            EncoderRefused: The vectors are another encoder's.
        """
        present = self.identity()
        if (reencode and present != identity) or (present == identity and self.meta("clearing")):
            self.clear(identity)
        elif present == identity and reencode:
            self._clear_other_lengths()
        elif present is None:
            self.keep("encoder", dict(identity))
        elif present != identity:
            raise EncoderRefused.of(self.path, present, shown_identity(identity))

    def clear(self, identity: Mapping[str, object]) -> None:
        """Take every vector out, for those of this encoder."""
        with self.writing() as connection:
            self.set_meta("encoder", dict(identity))
            self.set_meta("clearing", True)
            self.set_meta(ANY_LENGTH_NOTE, False)
            connection.execute("DELETE FROM helix_crawl_unread")
            connection.execute(f"DELETE FROM {PLAN}")  # its batches are of another encoder's tokens
        after, is_done = None, False
        while not is_done:
            with self.writing() as connection:
                after = schema.clear_some(connection, self.table, after, CLEARED_AT_ONCE)
                is_done = after is None
                if is_done:
                    self.set_meta("clearing", False)

    def _clear_other_lengths(self) -> None:
        with store_errors(self.path):
            for keys in schema.of_other_lengths(self._connection, self.table, self._form()):
                with self.writing() as connection:
                    for key in keys:
                        clear = f"UPDATE genes SET {VECTOR} = NULL WHERE {self.table.key} = {given(key)}"
                        connection.execute(clear, (key,))

    def adopt(self, identity: Mapping[str, object]) -> None:
        """Vectors that another program has made are this encoder's, and need not be of length 1 as its own are.

        Before `claim`.
        """
        form = VectorForm(self._form().length, is_normalised=identity.get("normalised") is True)
        with store_errors(self.path):
            if any(schema.of_other_lengths(self._connection, self.table, form)):
                self.keep(ANY_LENGTH_NOTE, True)

    def note_session(
        self,
        device: str,
        versions: Mapping[str, str],
        threads: int,
        batch_size: int,
        dtype: str = "float32",
        *,
        batch_tokens: int | None = None,
    ) -> None:
        """Keep with the vectors where and with what they were made; the same as last time is not said twice."""
        row = (device, json.dumps(dict(versions), sort_keys=True), threads, batch_size, dtype, batch_tokens)
        columns = "device, versions, threads, batch_size, dtype, batch_tokens"
        with self.writing() as connection:
            last = connection.execute(f"SELECT {columns} FROM helix_crawl_sessions ORDER BY id DESC LIMIT 1").fetchone()
            if last != row:
                connection.execute(
                    f"INSERT INTO helix_crawl_sessions ({columns}, at) VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, _now())
                )

    def app_provenance(self) -> VectorProvenance:
        """What the application has written down of its vectors."""
        with self.reading() as connection:
            return read_provenance(connection)

    def note_app_provenance(self, values: Mapping[str, object]) -> str:
        """Add a row where the application keeps such a table; none that would say again what our last one says.

        Args:
            values: See `append_provenance`.

        Returns:
            What stood in the way; empty for nothing.
        """
        with self.writing() as connection:
            if self.meta(PROVENANCE_NOTE) == dict(values):
                return ""
            trouble = append_provenance(connection, values)
            if not trouble:
                self.set_meta(PROVENANCE_NOTE, dict(values))
        return trouble

    def made_with(self) -> list[tuple[str, str]]:
        """Kinds of devices that vectors here were made on, `cpu` or `cuda`, with what was computed in; the last one is
        last. Empty for what an older version made, which computed as the model is saved."""
        rows = self.read("SELECT device, coalesce(dtype, '') FROM helix_crawl_sessions ORDER BY id")
        return [(str(device).partition(":")[0], str(dtype)) for device, dtype in rows]

    # -- pending ------------------------------------------------------------------------------------------------------

    def pending_condition(self) -> str:
        """SQL: whether a gene of this shard lacks a vector and can have one."""
        return self.table.pending(self._form())

    def lacking_condition(self) -> str:
        """SQL: whether a gene of this shard lacks a vector, see `Table.lacking`."""
        return self.table.lacking(self._form())

    def _form(self) -> VectorForm:
        notes = {key: self.meta(key) for key in ("encoder", "clearing", ANY_LENGTH_NOTE)}
        if notes["encoder"] is not None or notes["clearing"]:
            return schema.vector_form(self._connection, self.table, notes)
        if self._foreign is None:  # that takes a look at every vector
            self._foreign = schema.vector_form(self._connection, self.table, notes)
        return self._foreign

    def pending_count(self) -> int:
        """Genes that lack a vector and can have one."""
        with store_errors(self.path):
            row = self._connection.execute(f"SELECT count(*) FROM genes WHERE {self.pending_condition()}").fetchone()
        return int(row[0])

    def quarantined_count(self) -> int:
        """Genes that are left out because they cannot be encoded."""
        return int(self.read("SELECT count(*) FROM helix_crawl_quarantine")[0][0])

    def pending(self, after: int | str | None, limit: int) -> list[PendingGene]:
        """The next of them, in the order of the table.

        Args:
            after: Key of the last one taken, `None` to begin.
            limit: At most so many.
        """
        key = self.table.key
        where, values = ("1", ()) if after is None else (f"{key} > {given(after)}", (after,))
        where = f"{where} AND {self.pending_condition()}"
        sql = f"SELECT {key}, gene_id, content FROM genes WHERE {where} ORDER BY {key} LIMIT ?"
        with store_errors(self.path):
            rows = self._connection.execute(sql, (*values, limit)).fetchall()
        return [PendingGene(key, gene_id, readable(content)) for key, gene_id, content in rows]

    def commit(
        self, vectors: Sequence[tuple[PendingGene, bytes]], unread: Mapping[int | str, int] | None = None
    ) -> int:
        """Write the vectors of a batch, all or none. A gene that is gone, or has other content now, is left out.

        One that a trigger of the app's keeps out without a word is noted in `kept_out`.

        Args:
            vectors: Of the batch.
            unread: Characters that are in no vector, by the key of their gene: noted beside it. `None` where nobody has
                looked.

        Returns:
            How many were written.
        """
        written, kept_out = 0, []
        with self.writing() as connection:
            for gene, vector in vectors:
                is_it = f"{self.table.key} = {given(gene.key)}"
                row = connection.execute(f"SELECT gene_id, content FROM genes WHERE {is_it}", (gene.key,)).fetchone()
                if row is None or (row[0], readable(row[1])) != (gene.gene_id, gene.content):
                    continue
                connection.execute(f"UPDATE genes SET {VECTOR} = ? WHERE {is_it}", (vector, gene.key))
                (is_there,) = connection.execute(
                    f"SELECT count(*) FROM genes WHERE {is_it} AND {VECTOR} = ?", (gene.key, vector)
                ).fetchone()
                written += is_there
                if unread is not None:
                    _note_unread(connection, gene, unread.get(gene.key, 0) if is_there else 0)
                if not is_there:
                    kept_out.append(gene.gene_id)
        self.kept_out += kept_out
        self._foreign = None
        return written

    def quarantine(self, gene_id: str, reason: str) -> None:
        """Leave a gene out from now on."""
        with self.writing() as connection:
            sql = f"INSERT OR REPLACE INTO helix_crawl_quarantine VALUES ({given(gene_id)}, ?, ?)"
            connection.execute(sql, (gene_id, reason[:1000], _now()))

    def place_of(self, gene_id: object) -> tuple[str, str]:
        """The source of a gene and its first words; empty where nothing says so."""
        sql = f"SELECT source_id, substr(content, 1, 200) FROM genes WHERE gene_id = {given(gene_id)}"
        with store_errors(self.path):
            row = self._connection.execute(sql, (gene_id,)).fetchone()
        source, content = row or ("", "")
        words = " ".join(str(content or "").split())
        return str(source or ""), words if len(words) <= BEGINNING else f"{words[: BEGINNING - 1]}…"

    def retry_quarantined(self) -> int:
        """Let all of them be tried again. Returns how many there were."""
        with self.writing() as connection:
            return connection.execute("DELETE FROM helix_crawl_quarantine").rowcount

    def longest_encoded(self) -> str:
        """The longest text that has a vector, empty where none has. Reads the whole file."""
        wanted = f"NOT {self.lacking_condition()} AND NOT {schema.BLANK}"
        rows = self.read(f"SELECT content FROM genes WHERE {wanted} ORDER BY length(content) DESC LIMIT 1")
        return readable(rows[0][0]) if rows else ""

    def sample_with_longest(self, count: int, letters: int) -> list[tuple[str, str, bytes]]:
        """As `sample`, and before it the longest texts that have a vector: what was cut off shows there alone.

        Reads the whole file.

        Args:
            count: As of `sample`.
            letters: That each of the longest has at most, for it has to be encoded.
        """
        wanted = f"NOT {self.lacking_condition()} AND NOT {schema.BLANK} AND length(content) <= {letters}"
        sql = f"SELECT gene_id, content, {self.table.vector} FROM genes WHERE {wanted} ORDER BY length(content) DESC"
        found = dict.fromkeys([*self.read(f"{sql} LIMIT {LONGEST}"), *self.sample(count)])
        return [(gene_id, readable(content), vector) for gene_id, content, vector in found]

    def is_any_longer(self, letters: int) -> bool:
        """Whether a gene that lacks its vector has more letters."""
        wanted = f"{self.table.pending(self._form())} AND length(content) > {letters}"
        return bool(self.read(f"SELECT 1 FROM genes WHERE {wanted} LIMIT 1"))

    def sample(self, count: int) -> list[tuple[str, str, bytes]]:
        """A few genes that have a vector, spread over the shard, the same ones each time. At most `count`."""
        with store_errors(self.path):
            return schema.spread_sample(self._connection, self.table, self._form(), count)


def _note_unread(connection: sqlite3.Connection, gene: PendingGene, chars: int) -> None:
    if chars:
        row = (gene.gene_id, len(gene.content), chars)
        connection.execute(f"INSERT OR REPLACE INTO helix_crawl_unread VALUES ({given(gene.gene_id)}, ?, ?)", row)
    else:
        connection.execute(f"DELETE FROM helix_crawl_unread WHERE gene_id = {given(gene.gene_id)}", (gene.gene_id,))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
