"""Whoever takes, puts, is lost, freezes, wakes and finishes in whatever order: the shard is one holder's at a time."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from helix_crawl_otel.fleet.folder_storage import FolderStorage
from helix_crawl_otel.fleet.stage import Stage, StagedShard
from helix_crawl_otel.fleet.storage import Storage, StorageBusy, Superseded
from tests.fleet.genes import add_gene, genes_in
from tests.programs import require_module

NAME = "shard.db"

FAULTS = st.lists(st.sampled_from(["503", "lost", "late", ""]), max_size=3)


@dataclass
class Holds:
    """A holder, and the genes that it has on its stage."""

    shard: StagedShard
    genes: list[str] = field(default_factory=list)


class Leases(RuleBasedStateMachine):
    """One shard. The model is what is there: whose put was the last one, and with which genes."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = contextlib.ExitStack()
        place = Path("/dev/shm")
        self.folder = Path(
            self.memory.enter_context(tempfile.TemporaryDirectory(dir=place if place.is_dir() else None))
        )
        self.stage = self.memory.enter_context(Stage(self.folder / "stage"))
        self.storage = self.made()
        self.holders: list[Holds] = []
        self.owner = ""
        self.genes: list[str] | None = None
        self.acknowledged: list[str] = []
        self.epoch = 0
        self.added = 0

    def made(self) -> Storage:
        """The store."""
        return FolderStorage(self.folder / "OUT")

    def teardown(self) -> None:
        """No file is left."""
        self.memory.close()

    def now(self) -> tuple[str, list[str]] | None:
        """Who has put what is there, and the genes in it."""
        copy = self.folder / "looked at"
        if self.storage.get(NAME, copy) is None:
            return None
        with closing(sqlite3.connect(f"{copy.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            notes = dict(connection.execute("SELECT key, value FROM helix_crawl_meta"))
        assert int(notes["epoch"]) >= self.epoch, "an older version has replaced a newer one"
        self.epoch = int(notes["epoch"])
        return notes["holder"].strip('"'), genes_in(copy)

    def agree(self, *allowed: tuple[str, list[str]] | None) -> None:
        """What is there is one of these."""
        now = self.now()
        assert now in allowed
        if now is not None:
            self.owner, self.genes = now

    @property
    def model(self) -> tuple[str, list[str]] | None:
        """What is there."""
        return None if self.genes is None else (self.owner, self.genes)

    def take(self) -> None:
        """By somebody new."""
        before = list(self.genes or [])
        shard = StagedShard.take(self.storage, NAME, self.stage, create=True)
        assert genes_in(shard.path) == before
        self.agree((shard.holder, before))
        self.holders.append(Holds(shard, before))

    def add(self, holds: Holds) -> None:
        """A gene, on its stage only."""
        self.added += 1
        add_gene(holds.shard, f"gene {self.added}")
        holds.genes.append(f"gene {self.added}")

    def put(self, holds: Holds, how: Callable[[], object]) -> None:
        """It puts what it has."""
        mine = holds.shard.holder, list(holds.genes)
        try:
            how()
        except Superseded:
            assert self.owner != holds.shard.holder, "it holds the shard, and was told that it does not"
            self.agree(self.model)
            self.holders.remove(holds)
        except StorageBusy:
            self.agree(self.model, mine)
        else:
            assert self.owner == holds.shard.holder, "it does not hold the shard, and was not told"
            self.agree(mine)
            self.acknowledged += [gene for gene in mine[1] if gene not in self.acknowledged]

    @rule()
    def somebody_takes(self) -> None:
        """Whoever held it does not learn of it."""
        self.take()

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def one_adds(self, data: st.DataObject) -> None:
        """Also one that holds it no longer."""
        self.add(data.draw(st.sampled_from(self.holders)))

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def one_puts(self, data: st.DataObject) -> None:
        """Its checkpoint."""
        holds = data.draw(st.sampled_from(self.holders))
        self.put(holds, holds.shard.checkpoint)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def one_finishes(self, data: st.DataObject) -> None:
        """Its last put."""
        holds = data.draw(st.sampled_from(self.holders))
        self.put(holds, holds.shard.finish)
        if not holds.shard.path.exists() and holds in self.holders:
            self.holders.remove(holds)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def one_is_lost(self, data: st.DataObject) -> None:
        """With all that it has not put."""
        holds = data.draw(st.sampled_from(self.holders))
        holds.shard.drop()
        self.holders.remove(holds)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """Of what anybody was told to be there."""
        genes = self.genes or []
        assert len(set(genes)) == len(genes)
        assert set(self.acknowledged) <= set(genes)


class Interrupted(FolderStorage):
    """A folder in which something happens after the last comparison of a put, once."""

    meanwhile: Callable[[], object] | None = None

    def _take_away_others(self, name: str, own: Path) -> None:
        super()._take_away_others(name, own)
        self._compared = 0

    def _require(self, name: str, expected: str | None) -> None:
        super()._require(name, expected)
        is_last, self._compared = getattr(self, "_compared", 1) == 0, 1
        if is_last and self.meanwhile is not None:
            happens, self.meanwhile = self.meanwhile, None
            happens()


class LeasesInAFolder(Leases):
    """With others at work between the comparison of a put and its rename."""

    def made(self) -> Storage:
        """The store."""
        return Interrupted(self.folder / "OUT")

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), takes=st.booleans())
    def one_is_frozen_in_a_put(self, data: st.DataObject, *, takes: bool) -> None:
        """It wakes when another one has put, or has taken the shard."""
        frozen, other = (data.draw(st.sampled_from(self.holders)) for _ in range(2))
        self.add(frozen)
        if other is not frozen:
            self.add(other)
        assert isinstance(self.storage, Interrupted)
        if takes:
            self.storage.meanwhile = self.take
        elif other is not frozen:
            self.storage.meanwhile = lambda: self.put(other, other.shard.checkpoint)
        self.put(frozen, frozen.shard.checkpoint)
        self.storage.meanwhile = None


def test_leases_in_a_folder() -> None:
    """No gene that was put is lost, none is doubled, no older version replaces a newer one."""
    run_state_machine_as_test(LeasesInAFolder, settings=settings(max_examples=20, stateful_step_count=20))


def faulty(seconds: Iterator[float]) -> Any:
    """A store in memory whose puts have faults; the loop around them is that of every bucket."""
    obstore = require_module("obstore", "obstore")
    store_module = require_module("obstore.store", "obstore")
    from helix_crawl_otel.fleet.object_storage import ObjectStorage

    class Faulty(ObjectStorage):
        def __init__(self) -> None:
            store = store_module.MemoryStore()
            super().__init__(
                "s3://model", lambda _: store, clock=lambda: next(seconds), wait=lambda _: None, patience_seconds=1
            )
            self.faults: list[str] = []
            self.late: list[Callable[[], object]] = []

        def _put_once(self, name: str, body: Any, size: int, expected: str | None, attributes: Any) -> str:
            put = partial(super()._put_once, name, bytes(body), size, expected, attributes)

            fault = self.faults.pop(0) if self.faults else ""
            if fault == "lost":
                put()
            if fault == "late":
                self.late.append(put)
            if fault:
                raise obstore.exceptions.GenericError(f"fault: {fault}")
            return put()

    return Faulty()


class LeasesInABucket(Leases):
    """With answers that are lost, and puts that arrive late."""

    def made(self) -> Storage:
        """The store."""
        self.seconds = 0.0

        def ticks() -> Iterator[float]:
            while True:
                self.seconds += 0.3
                yield self.seconds

        self.bucket: Any = faulty(ticks())
        made: Storage = self.bucket
        return made

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), faults=FAULTS)
    def one_puts_with_faults(self, data: st.DataObject, faults: list[str]) -> None:
        """It is told the truth, or that nobody knows."""
        holds = data.draw(st.sampled_from(self.holders))
        self.add(holds)
        self.bucket.faults = list(faults)
        self.put(holds, holds.shard.checkpoint)
        self.bucket.faults = []

    @rule(faults=FAULTS)
    def somebody_takes_with_faults(self, faults: list[str]) -> None:
        """Or may have taken it, and nobody knows."""
        self.bucket.faults = list(faults)
        try:
            self.take()
        except StorageBusy:
            now = self.now()
            assert (now or ("", []))[1] == (self.genes or [])
            if now is not None:
                self.owner, self.genes = now
        self.bucket.faults = []

    @precondition(lambda self: self.bucket.late)
    @rule()
    def what_is_late_arrives(self) -> None:
        """The store takes it, or not; whoever was told that theirs is there has not lost it."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        before = self.model
        for put in self.bucket.late:
            with contextlib.suppress(AlreadyExistsError, PreconditionError):
                put()
        self.bucket.late.clear()
        now = self.now()
        assert now is not None or before is None
        if now is not None:
            self.owner, self.genes = now


@pytest.mark.fleet
def test_leases_in_a_bucket() -> None:
    """The same, whatever happens to puts and to their answers."""
    run_state_machine_as_test(LeasesInABucket, settings=settings(max_examples=30, stateful_step_count=20))
