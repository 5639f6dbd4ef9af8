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
from helix_crawl_otel.shards.schema import ORDER_NOTE, PLAN, given, readable
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["FILE_ORDER", "LONGEST_FIRST", "BatchPlan", "PlannedGene"]

LONGEST_FIRST = "longest first"
"""Name of the rule: characters descending, then tokens descending in each window."""

FILE_ORDER = "file order"
"""Name of the rule of the versions that kept no plan: so many genes a batch, as they lie in the table. A shard that was
begun by it is finished by it, so that its vectors are those of an undisturbed build."""

LONGEST = "length(content) DESC, key"
"""The order of the first, in SQL; ties by key."""

SORTED = "temp.helix_crawl_sorted"

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


class BatchPlan:
    """The plan of an open shard.

    Args:
        store: Open, under its lease, and claimed for an encoder.

    Attributes:
        rule: By which the plan is made; known after `prepare`.
        begin: Place before the first gene that was pending then: to find it takes a look at every vector before it.

    Threads: the store's.
    """

    def __init__(self, store: ShardStore) -> None:
        self._store = store
        self._key = f"genes.{store.table.key}"
        self._ends: list[int] = []  # places between plans that were made one after the other
        self.rule = LONGEST_FIRST
        self.begin = 0

    def prepare(self, batch_size: int) -> None:
        """Go on with the plan that is there, or make one; genes that it does not name are planned behind it.

        Args:
            batch_size: Genes a batch, of a shard that is finished in file order.
        """
        self._drop_damaged()
        self._ends = [int(row[0]) for row in self._store.read(f"SELECT place FROM {PLAN} WHERE gene IS NULL")]
        if self._is_begun_in_file_order():
            self._plan_anew(FILE_ORDER, "key", f"(place + {batch_size - 1}) / {batch_size}")
        elif first := self.page(0, 1):
            self.begin = first[0].place - 1
            self.rule = str(self._store.meta(ORDER_NOTE) or LONGEST_FIRST)
            if self.rule == LONGEST_FIRST:
                self.extend()
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
            order: SQL, of `key` and `content`.
            batch: SQL: the number of a gene's batch, by its `place`; `None` where its window says it.
        """
        self.rule = rule
        self._sort(order)
        with self._store.writing() as connection:
            connection.execute(f"DELETE FROM {PLAN}")
            self._store.set_meta(ORDER_NOTE, rule)
            self._add(connection)
            if batch is not None:
                connection.execute(f"UPDATE {PLAN} SET batch = {batch}")

    def _sort(self, order: str, *, known: str = "NULL") -> int:
        """Sort what is pending, into a table that ends with the connection. Returns how many genes there are.

        That takes seconds where there are many, and is no part of a transaction: an application that writes into the
        same file would have to wait for as long. SQLite sorts keys alone, and in a file where there are many: the
        texts of a shard need not fit into memory.

        Args:
            order: SQL, of `key` and `content`.
            known: SQL: the genes to leave out. Looked up first, since to see that a vector is one takes longer.
        """
        is_wanted = f"CASE WHEN {self._key} IN ({known}) THEN 0 ELSE {self._store.pending_condition()} END"
        with self._store.reading() as connection:
            connection.execute(f"DROP TABLE IF EXISTS {SORTED}")
            connection.execute(
                f"CREATE TABLE {SORTED} AS SELECT {self._key} AS key FROM genes WHERE {is_wanted} ORDER BY {order}"
            )
            (number,) = connection.execute(f"SELECT count(*) FROM {SORTED}").fetchone()
        return int(number)

    @staticmethod
    def _add(connection: sqlite3.Connection) -> None:
        """Put what was sorted at the end of the plan. Within a transaction."""
        connection.execute(f"INSERT INTO {PLAN} (gene) SELECT key FROM {SORTED} ORDER BY rowid")

    def extend(self) -> int:
        """Plan the genes that are pending and not in the plan, apart from those in it. Returns how many there were.

        A shard that is finished in file order has come to the end of it before.
        """
        added = self._sort(LONGEST, known=PLANNED)
        if added:
            with self._store.writing() as connection:
                end = connection.execute(f"INSERT INTO {PLAN} (gene) VALUES (NULL)").lastrowid
                self._add(connection)
                self._store.set_meta(ORDER_NOTE, LONGEST_FIRST)
            self.rule = LONGEST_FIRST
            self._ends.append(int(end or 0))
        return added

    def unreached(self) -> list[str]:
        """Ids, as text, of genes that are pending and that nobody can plan: SQLite does not find them by their key."""
        if not self._sort(LONGEST, known=PLANNED):
            return []
        keys = [key for (key,) in self._store.read(f"SELECT key FROM {SORTED} ORDER BY rowid")]
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
