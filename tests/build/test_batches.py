"""Promises of the batches of a shard: the longest first, up to so many tokens, and the same ones however often a worker
is replaced."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.build.batches import WINDOW, ShardBatches, WaitingWork
from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.policy.batch_limits import TOKENS_OF_A_BATCH, BatchLimits, cut, cut_by_length
from helix_crawl_otel.shards.accounts import account
from helix_crawl_otel.shards.batch_plan import FILE_ORDER, LONGEST_FIRST, BatchPlan
from helix_crawl_otel.shards.genes import PendingGene, SourceMark
from helix_crawl_otel.shards.sources import SourceTable
from helix_crawl_otel.shards.store import ShardStore
from helix_crawl_otel.shards.vectors import is_vector
from tests.shards.shards import GENES, IDENTITY, OTHER, every_pending, made, opened, rows, sql

LIMITS = BatchLimits(4, 40)
WITHOUT_ROWID = "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT) WITHOUT ROWID"
MOST = 10**6


class Words(HashingEncoder):
    """Counts words: the order by tokens is another one than that by characters."""

    def work(self, texts: Sequence[str]) -> float:
        """Passages times the longest one's words."""
        return len(texts) * float(max(len(text.split()) for text in texts))


def texts(count: int, seed: int = 1) -> dict[str, str]:
    """Of 2 to 21 words, of 1 to 9 letters each."""
    dice = random.Random(seed)
    return {
        f"g{seed}-{n:03}": f"{n} " + " ".join("x" * dice.randint(1, 9) for _ in range(dice.randint(1, 20)))
        for n in range(count)
    }


def batches_of(
    store: ShardStore, limits: BatchLimits = LIMITS, encoder: Words | None = None, **suspects: dict[str, str]
) -> ShardBatches:
    """Of an open shard, as its worker makes them."""
    plan = BatchPlan(store)
    plan.look()
    plan.prepare(limits.genes)
    assignment = Assignment("a", str(store.path), **suspects)  # type: ignore[arg-type]  # `quarantine` alone
    return ShardBatches(plan, encoder or Words(), limits, assignment, lambda genes: None)


def vectors(genes: Sequence[PendingGene]) -> list[tuple[PendingGene, bytes]]:
    """Those of genes that were encoded together say so: of another grid the digest is another one."""
    together = hashlib.sha256("|".join(gene.gene_id for gene in genes).encode()).digest()
    angle = int.from_bytes(together[:4], "little")
    return [(gene, struct.pack("<2f", math.cos(angle), math.sin(angle))) for gene in genes]


def lease(path: Path) -> int:
    """Above those before."""
    is_known = rows(path, "SELECT 1 FROM sqlite_master WHERE name = 'helix_crawl_meta'")
    found = rows(path, "SELECT value FROM helix_crawl_meta WHERE key = 'epoch'") if is_known else []
    return int(str(found[0][0])) + 1 if found else 1


def work_on(path: Path, batches: int = MOST, limits: BatchLimits = LIMITS) -> list[list[str]]:
    """A worker that ends in the middle of the batch after so many. Returns those that it has committed."""
    found: list[list[str]] = []
    with opened(path, lease(path)) as store:
        store.claim(IDENTITY)
        for genes in itertools.islice(batches_of(store, limits), batches + 1):
            if len(found) < batches:
                store.commit(vectors(genes))
                found.append([gene.gene_id for gene in genes])
    return found


def finished(path: Path, limits: BatchLimits = LIMITS) -> str:
    """The digest of a shard whose every gene has its vector now."""
    work_on(path, limits=limits)
    counted = account(path)
    assert counted.is_whole, counted
    return counted.digest


# -- what a batch holds ------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 600).map(float), max_size=300), st.integers(1, 70), st.integers(1, 20_000).map(float))
def test_a_batch_is_as_full_as_it_may_be_and_a_longer_text_goes_alone(
    lengths: list[float], genes: int, tokens: float
) -> None:
    """Whatever the order: each in one batch, none too large, and none that could have taken the next one."""
    limits, start = BatchLimits(genes, tokens), 0
    for size in cut(lengths, limits):
        here, with_next = lengths[start : start + size], lengths[start : start + size + 1]
        assert 1 <= size <= genes
        assert size == 1 or size * max(here) <= tokens
        assert len(with_next) == size or size == genes or len(with_next) * max(with_next) > tokens
        start += size
    assert start == len(lengths)


@given(st.lists(st.integers(1, 600), max_size=11), st.integers(1, 12), st.integers(1, 2_000).map(float))
def test_no_other_cut_of_a_window_costs_less(found: list[int], genes: int, tokens: float) -> None:
    """Padding and batches together, against each way to cut it; and what is cut is not cut again on a resume."""
    lengths, limits = sorted(map(float, found), reverse=True), BatchLimits(genes, tokens)

    def cost(sizes: Sequence[int]) -> float:
        starts = itertools.accumulate(sizes, initial=0)
        return sum(TOKENS_OF_A_BATCH + size * lengths[start] for size, start in zip(sizes, starts, strict=False))

    def ways(start: int) -> Iterator[list[int]]:
        if start == len(lengths):
            yield []
        for size in range(1, min(genes, len(lengths) - start) + 1):
            if size == 1 or size * lengths[start] <= tokens:
                yield from ([size, *rest] for rest in ways(start + size))

    sizes = cut_by_length(lengths, limits)
    assert cost(sizes) == min(map(cost, ways(0)))
    start = 0
    for size in sizes:
        for again in (cut, cut_by_length):
            assert again(lengths[start : start + size], limits) == [size]
        start += size
    assert start == len(lengths)


@pytest.mark.parametrize("table", [GENES, WITHOUT_ROWID])
def test_the_longest_come_first_and_each_once(tmp_path: Path, table: str) -> None:
    """By characters over the shard, by tokens in windows; the plan says so afterwards."""
    contents = texts(333)
    path = made(tmp_path / "a.db", contents, table)
    with opened(path) as store:
        store.claim(IDENTITY)
        found = list(batches_of(store))
        planned = rows(path, "SELECT place, batch, gene FROM helix_crawl_plan ORDER BY place")
    assert sorted(gene.gene_id for batch in found for gene in batch) == sorted(contents)
    assert [row[2] for row in planned] == [gene.key for batch in found for gene in batch]
    assert [len(list(same)) for _, same in itertools.groupby(planned, key=lambda row: row[1])] == list(map(len, found))
    words = [[len(gene.content.split()) for gene in batch] for batch in found]
    assert all(len(batch) == 1 or len(batch) * max(batch) <= 40 for batch in words)
    assert all(max(batch) == batch[0] for batch in words)
    letters = [len(gene.content) for batch in found for gene in batch]
    size = WINDOW * LIMITS.genes
    windows = [letters[start : start + size] for start in range(0, len(letters), size)]
    assert all(min(one) >= max(other) for one, other in itertools.pairwise(windows))


def test_the_work_of_a_batch_is_its_genes_times_the_longest(tmp_path: Path) -> None:
    """Also of a part of it, and of a gene that was planned long ago."""
    with opened(made(tmp_path / "a.db", texts(50))) as store:
        store.claim(IDENTITY)
        batches = batches_of(store)
        for batch in batches:
            for part in (batch, batch[1:], batch[:1]):
                assert not part or batches.cost(part)[0] == Words().work([gene.content for gene in part])
        assert batches.cost([PendingGene(9999, "x", "one two three"), PendingGene(9998, "y", "one")]) == (6.0, 4.0)


def test_on_the_cpu_a_batch_is_what_a_slow_core_does_in_a_minute() -> None:
    """Of MiniLM that is more than a batch has anyway; of BGE-M3 a few thousand tokens; of a huge one a text."""
    assert BatchLimits(64, 16_384).on_cpu(0.0).tokens == 16_384
    assert BatchLimits(64, 16_384).on_cpu(21e6).tokens == 16_384
    assert BatchLimits(64, 16_384).on_cpu(0.6e9).tokens == 2000
    assert BatchLimits(64, 16_384).on_cpu(1e15).tokens == 1


# -- the same batches however often a worker is replaced ---------------------------------------------------------------


@pytest.mark.parametrize("table", [GENES, WITHOUT_ROWID])
def test_whoever_takes_a_shard_up_is_on_the_same_grid(tmp_path: Path, table: str) -> None:
    """Workers that end after two batches, after some, at the end of a window, in the middle of a batch."""
    whole = finished(made(tmp_path / "whole.db", texts(150), table))
    for ends_after in (5, 16, 17):
        path = made(tmp_path / f"{ends_after}.db", texts(150), table)
        while work_on(path, ends_after):
            pass
        assert account(path).digest == whole


class Killed(BaseException):
    """As a kill: nothing is caught."""


def test_a_kill_at_any_write_leaves_the_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a transaction and within it: the plan, a window, a batch; each time the next worker goes on."""
    whole = finished(made(tmp_path / "whole.db", texts(100)))
    path = made(tmp_path / "a.db", texts(100))
    writing, left = ShardStore.writing, MOST

    @contextmanager
    def killed(store: ShardStore) -> Iterator[sqlite3.Connection]:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        with writing(store) as connection:
            yield connection
            if left == 1:
                raise Killed  # all is written, nothing is committed

    monkeypatch.setattr(ShardStore, "writing", killed)
    for moment in itertools.count():
        with opened(path, lease(path)) as store:
            store.claim(IDENTITY)
            left = 1 + moment % 9
            try:
                for genes in batches_of(store):
                    store.commit(vectors(genes))
            except Killed:
                continue
            finally:
                left = MOST
        break
    assert moment > 9
    assert account(path).digest == whole


def test_other_limits_cut_what_is_planned_and_never_join_it(tmp_path: Path) -> None:
    """As after a demotion to the CPU in the middle of a shard: pieces of the planned batches, in their order."""
    path = made(tmp_path / "a.db", texts(60))
    planned = work_on(made(tmp_path / "whole.db", texts(60)))
    done = work_on(path, 3)
    small = BatchLimits(4, 20)
    while pieces := work_on(path, 2, small):
        done += pieces
    assert account(path).is_whole
    assert list(itertools.chain(*done[3:])) == list(itertools.chain(*planned[3:]))
    ends = set(itertools.accumulate(map(len, planned)))
    assert ends <= set(itertools.accumulate(map(len, done)))
    path = made(tmp_path / "larger.db", texts(60))
    assert work_on(path, 3) + work_on(path, MOST, BatchLimits(64, 4000)) == planned


def test_a_batch_of_which_a_half_is_left_keeps_its_place(tmp_path: Path) -> None:
    """Quarantined or encoded: its neighbours do not move up."""
    planned = work_on(made(tmp_path / "whole.db", texts(60)))
    path = made(tmp_path / "a.db", texts(60))
    done = work_on(path, 1)
    out = {planned[1][0], planned[3][-1]}
    with opened(path, lease(path)) as store:
        for gene_id in out:
            store.quarantine(gene_id, "it fails")
    done += work_on(path)
    kept = [[gene for gene in batch if gene not in out] for batch in planned]
    assert done == [batch for batch in kept if batch]


# -- what becomes of a plan --------------------------------------------------------------------------------------------


def plan_of(path: Path) -> int:
    """How many genes are planned."""
    return len(rows(path, "SELECT gene FROM helix_crawl_plan WHERE gene IS NOT NULL"))


def test_genes_that_come_later_are_planned_apart(tmp_path: Path) -> None:
    """Behind the others, the longest of them first, and not in one batch with them."""
    path = made(tmp_path / "a.db", texts(30))
    done = work_on(path, 2)
    later = {key: f"{text} {text}" for key, text in texts(30, seed=2).items()}
    with sqlite3.connect(path) as connection:
        connection.executemany("INSERT INTO genes (gene_id, content) VALUES (?, ?)", list(later.items()))
    connection.close()
    done += work_on(path, 1)
    done += work_on(path)
    assert account(path).is_whole
    names = [gene_id for batch in done for gene_id in batch]
    assert set(names[:30]) == set(texts(30))
    assert set(names[30:]) == set(later)
    assert done[: len(work_on(made(tmp_path / "whole.db", texts(30))))] == work_on(made(tmp_path / "w.db", texts(30)))


def test_a_gene_that_comes_while_the_last_batch_is_encoded_is_taken_as_well(tmp_path: Path) -> None:
    """An application may write while its shard is encoded."""
    path = made(tmp_path / "a.db", texts(5))
    with opened(path) as store:
        store.claim(IDENTITY)
        found = []
        for genes in batches_of(store):
            store.commit(vectors(genes))
            found += genes
            if len(found) == 5:
                sql(path, "INSERT INTO genes (gene_id, content) VALUES ('late', 'late')")
    assert [gene.gene_id for gene in found][5:] == ["late"]


@pytest.mark.parametrize(
    "damage",
    [
        ("UPDATE helix_crawl_plan SET gene = gene + 100000",),
        ("UPDATE helix_crawl_plan SET gene = 7",),
        ("UPDATE helix_crawl_plan SET gene = 'x''y'",),
        ("UPDATE helix_crawl_plan SET gene = X'00ff'",),
        ("UPDATE helix_crawl_plan SET gene = NULL",),
        ("UPDATE helix_crawl_plan SET batch = 'x'",),
        ("UPDATE helix_crawl_plan SET batch = 1.5 WHERE place = 20",),
        ("UPDATE helix_crawl_plan SET batch = 1",),
        ("UPDATE helix_crawl_plan SET batch = NULL",),
        ("UPDATE helix_crawl_plan SET batch = 9223372036854775807",),
        ("UPDATE helix_crawl_plan SET batch = 9223372036854775807 WHERE place = 1",),
        ("UPDATE helix_crawl_plan SET batch = -5 WHERE place = 1",),
        ("UPDATE helix_crawl_plan SET place = -place",),
        ("UPDATE helix_crawl_plan SET place = 9223372036854775807 WHERE place = 60",),
        ("DELETE FROM helix_crawl_plan WHERE place % 3 = 0",),
        ("DELETE FROM helix_crawl_plan",),
        ("DROP TABLE helix_crawl_plan",),
        ("DROP TABLE helix_crawl_plan", "CREATE VIEW helix_crawl_plan AS SELECT 1 AS one"),
        ("DROP TABLE helix_crawl_plan", "CREATE TABLE helix_crawl_plan (place, batch, gene)"),
        ("DROP TABLE helix_crawl_plan", "CREATE TABLE HELIX_CRAWL_PLAN (a)"),
        ("ALTER TABLE helix_crawl_plan ADD COLUMN more",),
        ("CREATE UNIQUE INDEX once ON helix_crawl_plan (gene)",),
        (
            "DELETE FROM helix_crawl_plan",
            "CREATE TRIGGER t BEFORE INSERT ON helix_crawl_plan BEGIN SELECT RAISE(IGNORE); END",
        ),
        ("DELETE FROM genes WHERE rowid % 2 = 0",),
        ("UPDATE genes SET content = content || content",),
        ("UPDATE helix_crawl_meta SET value = '\"another rule\"' WHERE key = 'order'",),
        ("DELETE FROM helix_crawl_meta WHERE key = 'order'",),
    ],
)
def test_nothing_is_lost_with_a_plan(tmp_path: Path, damage: tuple[str, ...]) -> None:
    """Whatever is in it: each gene gets its vector, no batch is too large, and it comes to an end."""
    path = made(tmp_path / "a.db", texts(150))
    work_on(path, 3)
    sql(path, *damage)
    with opened(path, lease(path)) as store:
        store.claim(IDENTITY)
        is_begun_in_file_order = "key = 'order'" in damage[0]
        for number, genes in enumerate(batches_of(store)):
            assert number < 300
            assert len(genes) <= LIMITS.genes
            words = [len(gene.content.split()) for gene in genes]
            assert is_begun_in_file_order or len(words) == 1 or len(words) * max(words) <= LIMITS.tokens
            store.commit(vectors(genes))
        assert store.pending_count() == 0
    assert account(path).is_whole


def test_to_go_on_a_worker_looks_once_at_what_is_done(tmp_path: Path) -> None:
    """Of a million genes that takes half a minute each time."""
    path, looked = made(tmp_path / "a.db", texts(150)), 0
    work_on(path, 20)

    def look(stored: bytes) -> bool:
        nonlocal looked
        looked += 1
        return is_vector(stored)

    with opened(path, lease(path)) as store:
        store.claim(IDENTITY)
        with store.reading() as connection:
            connection.create_function("helix_crawl_is_vector", 1, look, deterministic=True)
        done, looked = BatchPlan(store).look().vectors, 0
        assert next(iter(batches_of(store)))
        assert 0 < looked <= done + 5


def test_an_application_may_write_while_a_shard_is_sorted(tmp_path: Path) -> None:
    """Where there are many genes that takes many seconds."""
    path, written = made(tmp_path / "a.db", texts(30)), 0
    work_on(path, 6)
    sql(path, "DELETE FROM helix_crawl_plan")

    def write(stored: bytes) -> bool:
        nonlocal written
        with closing(sqlite3.connect(path, timeout=0)) as app, app:
            app.execute("INSERT INTO genes (gene_id, content) VALUES (?, 'late')", (f"late-{written}",))
        written += 1
        return is_vector(stored)

    with opened(path, lease(path)) as store:
        store.claim(IDENTITY)
        plan = BatchPlan(store)
        with store.reading() as connection:
            connection.create_function("helix_crawl_is_vector", 1, write, deterministic=True)
        plan.look()
        plan.prepare(4)
        with store.reading() as connection:
            connection.create_function("helix_crawl_is_vector", 1, is_vector, deterministic=True)
    assert written > 5
    work_on(path)
    assert account(path).is_whole


def test_a_gene_does_not_take_the_place_of_one_that_is_gone(tmp_path: Path) -> None:
    """SQLite gives a key out again. What a changed source has now is planned behind what was there before."""
    with opened(tmp_path / "a.db", create=True) as store:
        sources = SourceTable(store)
        sources.put([(name, SourceMark(1, 1, name, 0), texts(20, seed).values()) for seed, name in enumerate("ab")])
        store.claim(IDENTITY)
        assert next(iter(batches_of(store)))
        sources.drop(["b"])
        sources.put([("c", SourceMark(1, 1, "c", 0), [f"{n} new" for n in range(20)])])
        found = [[gene.content.endswith("new") for gene in batch] for batch in batches_of(store)]
    assert list(itertools.chain(*found)) == [False] * 20 + [True] * 20
    assert all(len(set(batch)) == 1 for batch in found)


def test_another_model_makes_another_plan(tmp_path: Path) -> None:
    """The tokens are others."""
    path = made(tmp_path / "a.db", texts(60))
    work_on(path, 3)
    assert plan_of(path) == 60
    with opened(path, lease(path)) as store:
        store.claim(OTHER, reencode=True)
        assert plan_of(path) == 0
        assert sum(map(len, batches_of(store))) == 60


def test_a_plan_that_is_done_makes_room(tmp_path: Path) -> None:
    """The name of the rule stays. What was left by a worker that was killed before it could is no plan for others."""
    path = made(tmp_path / "a.db", texts(10))
    work_on(path)
    assert plan_of(path) == 10
    sql(path, "UPDATE genes SET embedding_dense_v2 = NULL WHERE rowid < 4")
    with opened(path, lease(path)) as store:
        BatchPlan(store).drop()
        assert plan_of(path) == 0
        assert store.meta("order") == LONGEST_FIRST
    work_on(path, 0)
    assert plan_of(path) == 3


# -- ids that are no text ----------------------------------------------------------------------------------------------

ODD_IDS = ("CAST(X'FF41' AS TEXT)", "CAST(X'FE41' AS TEXT)", "'\ufffdA'", "X'FF41'", "CAST(X'C141' AS TEXT)", "'g'")
"""The first three and the fifth read alike when what cannot be decoded is replaced."""


def with_odd_ids(path: Path, table: str) -> Path:
    """A gene of each: its text is its own."""
    made(path, {}, table)
    sql(path, *(f"INSERT INTO genes (gene_id, content) VALUES ({one}, 'text {n}')" for n, one in enumerate(ODD_IDS)))
    return path


@pytest.mark.parametrize("table", ["CREATE TABLE genes (gene_id, content TEXT)", WITHOUT_ROWID])
def test_ids_that_are_no_text_are_told_apart(tmp_path: Path, table: str) -> None:
    """Each gene gets its own vector, one by one and whoever goes on; one is quarantined, tried again, encoded again."""
    path = with_odd_ids(tmp_path / "a.db", table)
    one_by_one = BatchLimits(1, 40)
    for number in range(len(ODD_IDS)):
        with opened(path, number + 1) as store:
            store.claim(IDENTITY)
            (gene,) = next(iter(batches_of(store, one_by_one)))
            if number == 0:
                store.quarantine(gene.gene_id, "it fails")
                assert store.place_of(gene.gene_id)[1] == gene.content
            else:
                angle = float(gene.content[-1:])
                assert store.commit([(gene, struct.pack("<2f", math.cos(angle), math.sin(angle)))], {gene.key: 1}) == 1
    counted = account(path)
    assert (counted.vectors, counted.quarantined, counted.missing) == (len(ODD_IDS) - 1, 1, 0)
    assert counted.named["quarantined"][0]["reason"] == "it fails"
    with_vectors = "SELECT content, embedding_dense_v2 FROM genes WHERE embedding_dense_v2 NOT NULL"
    for content, vector in rows(path, with_vectors):
        assert isinstance(vector, bytes)
        assert struct.unpack("<2f", vector)[0] == pytest.approx(math.cos(float(str(content)[-1:])))
    with opened(path, 50) as store:
        assert store.retry_quarantined() == 1
        found = [genes for genes in batches_of(store, one_by_one) if store.commit(vectors_of_any(genes))]
        assert len(found) == 1
        store.claim(OTHER, reencode=True)
        assert store.pending_count() == len(ODD_IDS)
        found = list(batches_of(store))
        assert sorted(gene.content for genes in found for gene in genes) == [f"text {n}" for n in range(len(ODD_IDS))]


def vectors_of_any(genes: Sequence[PendingGene]) -> list[tuple[PendingGene, bytes]]:
    """One and the same."""
    return [(gene, struct.pack("<2f", 1.0, 0.0)) for gene in genes]


@pytest.mark.parametrize(
    ("encoding", "table", "odd", "said"),
    [
        ("UTF-8", "CREATE TABLE genes (gene_id TEXT, content TEXT, rowid TEXT)", "NULL", "None"),
        ("UTF-16le", WITHOUT_ROWID, "CAST(X'41D84100' AS TEXT)", None),
    ],
)
def test_genes_that_sqlite_does_not_find_again_are_told_and_end_it(
    tmp_path: Path, encoding: str, table: str, odd: str, said: str | None
) -> None:
    """By a key that is NULL, or that SQLite itself does not give back: all others get their vectors, each time."""
    path = tmp_path / "a.db"
    sql(path, f"PRAGMA encoding = '{encoding}'", table, f"INSERT INTO genes (gene_id, content) VALUES ({odd}, 'odd')")
    for run in range(2):
        sql(path, f"INSERT INTO genes (gene_id, content) VALUES ('g{run}', 'text {run}')")
        with opened(path, run + 1) as store:
            store.claim(IDENTITY)
            batches = batches_of(store)
            found = list(itertools.chain(*itertools.islice(batches, 5)))
            assert store.commit(vectors_of_any(found)) == 1
            assert [gene.gene_id for gene in found] == [f"g{run}"]
            assert len(batches.unreached) == 1
            assert said in (None, *batches.unreached)
    assert account(path).missing == 1


# -- shards of versions before -----------------------------------------------------------------------------------------


def begun_in_file_order(path: Path, count: int) -> Path:
    """A shard as a version without plans leaves it, of whose genes the first ones have vectors."""
    with opened(made(path, texts(count))) as store:
        store.claim(IDENTITY)
        store.note_session("cpu", {}, 1, LIMITS.genes)
        store.commit(vectors(every_pending(store)[:8]))
    sql(path, "DROP TABLE helix_crawl_plan")
    return path


def test_a_shard_that_was_begun_in_file_order_is_finished_in_it(tmp_path: Path) -> None:
    """So many genes a batch whatever their length, for all workers; genes that come later are planned as today."""
    path, names = begun_in_file_order(tmp_path / "a.db", 30), list(texts(30))
    found = work_on(path, 2)
    assert rows(path, "SELECT value FROM helix_crawl_meta WHERE key = 'order'") == [(f'"{FILE_ORDER}"',)]
    found += work_on(path, 2, BatchLimits(4, 1))
    found += work_on(path)
    assert found == [names[start : start + 4] for start in range(8, 30, 4)]
    sql(path, "INSERT INTO genes (gene_id, content) VALUES ('a', 'one'), ('b', 'one two three')")
    assert work_on(path, MOST, BatchLimits(4, 1)) == [["b"], ["a"]]
    assert rows(path, "SELECT value FROM helix_crawl_meta WHERE key = 'order'") == [(f'"{LONGEST_FIRST}"',)]


def test_the_vectors_of_an_application_are_no_beginning_in_file_order(tmp_path: Path) -> None:
    """Nobody of ours has encoded there."""
    path = made(tmp_path / "a.db", texts(30))
    with opened(path) as store:
        store.claim(IDENTITY)
        store.commit(vectors(every_pending(store)[:8]))
    found = work_on(path)
    assert len(found[0]) < 4 or found[0] != list(texts(30))[8:12]
    assert rows(path, "SELECT value FROM helix_crawl_meta WHERE key = 'order'") == [(f'"{LONGEST_FIRST}"',)]


# -- the work that waits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 200, 3000])
def test_the_work_that_waits_is_that_of_the_batches_to_come(tmp_path: Path, count: int) -> None:
    """At the beginning, in the middle, for a worker that takes over, and nothing at the end."""
    limits = BatchLimits(16, 250)
    with opened(made(tmp_path / "a.db", texts(count))) as store:
        store.claim(IDENTITY)
        batches = batches_of(store, limits)
        told: list[float] = [batches.work_pending() or 0.0]
        work: list[float] = []
        for genes in batches:
            work.append(batches.cost(genes)[0])
            told.append(batches.work_pending(genes) or 0.0)
        again = batches_of(store, limits).work_pending()
    left = [sum(work[number:]) for number in range(len(work) + 1)]
    assert told[-1] == 0.0
    assert again == pytest.approx(told[0], rel=0.05)
    assert all(abs(a - b) <= 0.1 * left[0] for a, b in zip(told, left, strict=True)), list(zip(told, left, strict=True))
    assert told == sorted(told, reverse=True)


def test_the_work_of_a_shard_in_file_order_is_not_known(tmp_path: Path) -> None:
    """There the genes that wait are like those that are done."""
    with opened(begun_in_file_order(tmp_path / "a.db", 30), 2) as store:
        assert batches_of(store).work_pending() is None


def test_a_gene_on_a_line_of_its_own_is_counted_between_its_neighbours() -> None:
    """Places between those that were looked at."""
    waiting = WaitingWork([(10, 6.0), (20, 4.0), (30, 2.0)], 30, BatchLimits(1, 1e9))
    assert waiting.after(0) == pytest.approx(waiting.after(9)) == pytest.approx(50 + 1 + 30 + 1 + 2)
    assert waiting.after(19) == pytest.approx(30 + 1 + 2)
    assert waiting.after(29) == pytest.approx(2.0)
    assert waiting.after(30) == waiting.after(1000) == 0.0


# -- texts whose tokens cannot be counted ------------------------------------------------------------------------------


class Picky(Words):
    """Fails for a word, in whatever company."""

    def work(self, texts: Sequence[str]) -> float:
        """See above."""
        if any("gremlin" in text for text in texts):
            raise ValueError("no such token")
        return super().work(texts)


def test_a_text_whose_tokens_cannot_be_counted_is_planned_by_its_letters(tmp_path: Path) -> None:
    """Whether it can be encoded is found out when it is."""
    path = made(tmp_path / "a.db", texts(30) | {"bad": "gremlin" * 5})
    with opened(path) as store:
        store.claim(IDENTITY)
        found = [gene.gene_id for batch in batches_of(store, encoder=Picky()) for gene in batch]
    assert sorted(found) == sorted([*texts(30), "bad"])


def test_a_gene_that_has_killed_workers_is_not_counted_again(tmp_path: Path) -> None:
    """It is in a batch all the same: who encodes leaves it out."""
    told: list[str] = []

    class Told(Words):
        def work(self, texts: Sequence[str]) -> float:
            told.extend(texts)
            return super().work(texts)

    path = made(tmp_path / "a.db", texts(30) | {"bad": "gremlin"})
    with opened(path) as store:
        store.claim(IDENTITY)
        batches = batches_of(store, encoder=Told(), quarantine={"bad": "it kills"})
        assert "bad" in [gene.gene_id for batch in batches for gene in batch]
    assert "gremlin" not in told
    assert len(told) >= 30


def test_no_more_is_read_of_a_text_than_can_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest texts of a shard come first, and need not fit into memory together."""
    longest: list[int] = []
    genes: Callable[..., list[PendingGene]] = BatchPlan.genes

    def read(plan: BatchPlan, keys: Sequence[int | str], letters: int | None = None) -> list[PendingGene]:
        found = genes(plan, keys, letters)
        longest.append(sum(len(gene.content) for gene in found))
        return found

    monkeypatch.setattr(BatchPlan, "genes", read)
    with opened(made(tmp_path / "a.db", {f"{n}": "word " * 20_000 for n in range(40)})) as store:
        store.claim(IDENTITY)
        assert [len(batch) for batch in batches_of(store, BatchLimits(16, 3000))] == [1] * 40
    assert max(longest) <= 40 * 512 * 32
