"""The plan of a shard's batches, kept in its file: in which order genes are encoded, and which of them together.

It is written once, the longest text first, so that the batches are the same however often workers are replaced. It is
an order and no account: what lacks a vector is asked of the genes themselves. So a plan that is lost or damaged is made
anew, a gene that it names and that is gone is passed over, and one that it does not name is planned after the others.

The order by characters is written in one transaction; the tokens, and with them the batches, are counted window by
window as they are reached, see `build.batches`, and each window is one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.shards.genes import PendingGene
from helix_crawl_otel.shards.schema import BLANK, ORDER_NOTE, PLAN, given, readable
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["FILE_ORDER", "LONGEST_FIRST", "BatchPlan", "PlannedGene", "SeenGenes"]

LONGEST_FIRST = "longest first"
"""Name of the rule: characters descending, then tokens descending in each window."""

FILE_ORDER = "file order"
"""Name of the rule of the versions that kept no plan: so many genes a batch, as they lie in the table. A shard that was
begun by it is finished by it, so that its vectors are those of an undisturbed build."""

LACKING = "temp.helix_crawl_lacking"
"""What a look at the genes has found, by key: those that lack a vector, with their letters; without, where none can be
made. It ends with the connection."""

PENDING = f"SELECT key FROM {LACKING} WHERE letters IS NOT NULL"
"""SQL: the pending ones among them."""

LONGEST = "letters DESC, rowid"
"""SQL: the order of the first rule, ties by key."""

PLANNED = f"SELECT gene FROM {PLAN} WHERE gene IS NOT NULL"
"""SQL: the genes that a plan names."""


@dataclass(frozen=True)
class PlannedGene:
    """A gene that lacks a vector, in its place.

    Args:
        place: In the plan, from 1 on.
        batch: Number of its batch, `None` before its window was reached.
        key: Its own, see `schema.Table`.
    """

    place: int
    batch: int | None
    key: int | str


@dataclass(frozen=True)
class SeenGenes:
    """What a look at all genes of a shard has counted.

    Args:
        pending: That lack a vector, and can have one.
        vectors: That have one.
    """

    pending: int
    vectors: int


class BatchPlan:
    """The plan of an open shard.

    Args:
        store: Open, under its lease, and claimed for an encoder.

    Attributes:
        rule: By which the plan is made; known after `prepare`.
        begin: Place before the first gene that was pending at the look, as far as a plan was there.

    Threads: the store's.
    """

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._key = f"genes.{store.table.key}"
        self._ends: list[int] = []  # places between plans that were made one after the other
        self.rule = LONGEST_FIRST
        self.begin = 0

    def look(self) -> SeenGenes:
        """Look at every gene, once: each vector is read for that, which takes seconds where there are a million."""
        lacking, pending = self._look()
        ((genes,),) = self._store.read("SELECT count(*) FROM genes")
        return SeenGenes(pending, max(0, genes - lacking))

    def _look(self, known: str | None = None) -> tuple[int, int]:
        """Write down what lacks a vector, with all that an order needs: it is no part of a transaction, since an
        application that writes into the same file would have to wait for as long.

        Args:
            known: SQL: the genes to leave out, `None` for none. They are looked up first, since to see that a vector
                is one takes longer.

        Returns:
            How many genes there are, and how many of them are pending.
        """
        is_wanted = self._store.lacking_condition()
        if known is not None:
            is_wanted = f"CASE WHEN {self._key} IN ({known}) THEN 0 ELSE {is_wanted} END"
        can_have_one = f"NOT {BLANK} AND NOT {self._store.table.quarantined}"
        letters = f"CASE WHEN {can_have_one} THEN length(content) END"
        with self._store.reading() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {LACKING}")
            connection.execute(
                f"CREATE TABLE {LACKING} AS SELECT {self._key} AS key, {letters} AS letters FROM genes"
                f" WHERE {is_wanted} ORDER BY {self._key}"
            )
            lacking, pending = connection.execute(f"SELECT count(*), count(letters) FROM {LACKING}").fetchone()
        return int(lacking), int(pending)

    def prepare(self, batch_size: int) -> None:
        """Go on with the plan that is there, or make one; genes that it does not name are planned behind it. By what
        `look` has seen.

        Args:
            batch_size: Genes a batch, of a shard that is finished in file order.
        """
        self._drop_damaged()
        self._ends = [int(row[0]) for row in self._store.read(f"SELECT place FROM {PLAN} WHERE gene IS NULL")]
        ((first,),) = self._store.read(f"SELECT min(place) FROM {PLAN} WHERE gene IN ({PENDING})")
        if self._is_begun_in_file_order():
            self._plan_anew(FILE_ORDER, "rowid", f"(place + {batch_size - 1}) / {batch_size}")
        elif first is not None:
            self.begin = first - 1
            self.rule = str(self._store.meta(ORDER_NOTE) or LONGEST_FIRST)
            if self.rule == LONGEST_FIRST:
                with self._store.reading() as connection:
                    connection.execute(f"DELETE FROM {LACKING} WHERE key IN ({PLANNED} AND place >= {first})")
                self._append()
        else:
            self._ends = []
            self._plan_anew(LONGEST_FIRST, LONGEST)

    def _drop_damaged(self) -> None:
        """Somebody has written into it: nothing is lost with a plan but the grid of its batches."""
        wrong = (
            "count(*) <> coalesce(max(place), 0) OR min(place) < 1 OR total(typeof(batch) NOT IN ('integer', 'null'))"
            " OR max(batch) > count(*) OR min(batch) < 1"
        )
        ((is_damaged,),) = self._store.read(f"SELECT {wrong} FROM {PLAN}")
        if is_damaged:
            watchdog.warning("%s: the plan of its batches is damaged, and is made anew", self._store.path)
            self.drop()

    def _is_begun_in_file_order(self) -> bool:
        """Whether a version that kept no plan has encoded some of it."""
        if self._store.meta(ORDER_NOTE) is not None:
            return False
        return bool(self._store.read("SELECT 1 FROM helix_crawl_sessions LIMIT 1")) and bool(self._store.sample(1))

    def _plan_anew(self, rule: str, order: str, batch: str | None = None) -> None:
        """Write down all that is pending, in place of what is there.

        Args:
            rule: Its name.
            order: SQL, of `letters` and `rowid`.
            batch: SQL: the number of a gene's batch, by its `place`; `None` where its window says it.
        """
        self.rule = rule
        with self._store.writing() as connection:
            connection.execute(f"DELETE FROM {PLAN}")
            self._store.set_meta(ORDER_NOTE, rule)
            self._add(connection, order)
            if batch is not None:
                connection.execute(f"UPDATE {PLAN} SET batch = {batch}")

    @staticmethod
    def _add(connection: sqlite3.Connection, order: str) -> None:
        """Put what is pending at the end of the plan. Within a transaction."""
        connection.execute(f"INSERT INTO {PLAN} (gene) {PENDING} ORDER BY {order}")

    def extend(self) -> int:
        """Plan the genes that are pending and not in the plan, apart from those in it. Returns how many there were.

        A shard that is finished in file order has come to the end of it before.
        """
        self._look(PLANNED)
        return self._append()

    def _append(self) -> int:
        ((added,),) = self._store.read(f"SELECT count(letters) FROM {LACKING}")
        if added:
            with self._store.writing() as connection:
                end = connection.execute(f"INSERT INTO {PLAN} (gene) VALUES (NULL)").lastrowid
                self._add(connection, LONGEST)
                self._store.set_meta(ORDER_NOTE, LONGEST_FIRST)
            self.rule = LONGEST_FIRST
            self._ends.append(int(end or 0))
        return int(added)

    def unreached(self) -> list[str]:
        """Ids, as text, of genes that are pending and that nobody can plan: SQLite does not find them by their key."""
        self._look(PLANNED)
        keys = [key for (key,) in self._store.read(f"{PENDING} ORDER BY {LONGEST}")]
        found = {gene.key for gene in self.genes(keys)}  # an application has just written them
        return [str(key) for key in keys if key not in found]

    def page(self, after: int, limit: int) -> list[PlannedGene]:
        """The next genes in the plan that are pending.

        Args:
            after: Place of the last one taken, 0 to begin.
            limit: At most so many, and none beyond the end of a plan but at its beginning.
        """
        sql = (
            f"SELECT planned.place, planned.batch, {self._key} FROM {PLAN} AS planned"
            f" CROSS JOIN genes ON {self._key} = planned.gene WHERE planned.place > ? AND planned.gene IS NOT NULL"
            f" AND {self._store.pending_condition()} ORDER BY planned.place LIMIT ?"
        )
        with self._store.reading() as connection:
            found = [PlannedGene(*row) for row in connection.execute(sql, (after, limit)).fetchall()]
        end = min((end for end in self._ends if found and end > found[0].place), default=None)
        return found if end is None else [one for one in found if one.place < end]

    def write(self, genes: Iterable[PlannedGene]) -> None:
        """Keep the batches of a window: in each of these places stands this gene now."""
        with self._store.writing() as connection:
            for one in genes:
                sql = f"UPDATE {PLAN} SET batch = ?, gene = {given(one.key)} WHERE place = ?"
                connection.execute(sql, (one.batch, one.key, one.place))

    def last(self) -> tuple[int, int]:
        """The last place, and the highest number of a batch; 0 without one."""
        ((place, batch),) = self._store.read(f"SELECT coalesce(max(place), 0), coalesce(max(batch), 0) FROM {PLAN}")
        return int(place), int(batch)

    def genes(self, keys: Sequence[int | str], letters: int | None = None) -> list[PendingGene]:
        """Genes by their keys, each once and in that order, but for those that are not pending any more.

        Args:
            keys: Of the genes.
            letters: Of their texts, from the beginning; `None` for the whole texts.
        """
        content = "content" if letters is None else f"substr(content, 1, {letters})"
        sql, pending = f"SELECT {self._key}, gene_id, {content} FROM genes", self._store.pending_condition()
        with self._store.reading() as connection:
            rows = [
                connection.execute(f"{sql} WHERE {self._key} = {given(key)} AND {pending}", (key,)).fetchone()
                for key in dict.fromkeys(keys)
            ]
        return [PendingGene(row[0], row[1], readable(row[2])) for row in rows if row is not None]

    def drop(self) -> None:
        """Forget it: all is done. What comes later is planned anew; the name of the rule stays."""
        if self._store.read(f"SELECT 1 FROM {PLAN} LIMIT 1"):
            with self._store.writing() as connection:
                connection.execute(f"DELETE FROM {PLAN}")
