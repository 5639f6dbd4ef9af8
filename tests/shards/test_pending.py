"""Promises of what is pending: the same order always, in pages, and only what an encoder can do something with."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.shards.accounts import account
from helix_crawl_otel.shards.genes import PendingGene
from helix_crawl_otel.shards.inspect import salvage
from tests.shards.shards import GENES, IDENTITY, VECTOR, encode_all, every_pending, made, opened, rows, sql

WITHOUT_ROWID = "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT) WITHOUT ROWID"
BLANK = ["", " ", "\n\t \r\f\v", "\u00a0 ", None, b"bytes", 7, 1.5]


def test_genes_come_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    """Not in that of their ids: neighbours in a file stay neighbours in a batch."""
    with opened(made(tmp_path / "a.db", ["c", "a", "b"])) as store:
        assert [(gene.key, gene.gene_id) for gene in every_pending(store)] == [(1, "c"), (2, "a"), (3, "b")]


def test_a_table_without_rowid_is_taken_by_id(tmp_path: Path) -> None:
    """There is no other order."""
    with opened(made(tmp_path / "a.db", ["c", "a", "b"], WITHOUT_ROWID)) as store:
        assert [(gene.key, gene.gene_id) for gene in every_pending(store)] == [("a", "a"), ("b", "b"), ("c", "c")]


@pytest.mark.parametrize("table", [GENES, WITHOUT_ROWID])
@pytest.mark.parametrize("page", [1, 2, 3, 7, 100])
def test_pages_hold_every_gene_once(tmp_path: Path, table: str, page: int) -> None:
    """Whatever the size of a page, with gaps in the table, and with vectors written between two pages."""
    path = made(tmp_path / "a.db", [f"{n:02}" for n in range(25)], table)
    sql(path, "DELETE FROM genes WHERE gene_id IN ('03', '04', '24')")
    with opened(path) as store:
        store.claim(IDENTITY)
        taken: list[PendingGene] = []
        while part := store.pending(taken[-1].key if taken else None, page):
            assert len(part) <= page
            store.commit([(gene, VECTOR) for gene in part])
            taken += part
    assert [gene.gene_id for gene in taken] == [f"{n:02}" for n in range(24) if n not in (3, 4)]


def test_blank_content_is_not_pending_and_blocks_nothing(tmp_path: Path) -> None:
    """Nothing in it could be encoded: white space, NULL, and what is no text."""
    table = "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content)"
    path = made(tmp_path / "a.db", {f"blank {n}": content for n, content in enumerate(BLANK)} | {"x": "x"}, table)
    assert not salvage(path).is_complete
    with opened(path) as store:
        store.claim(IDENTITY)
        assert [gene.gene_id for gene in every_pending(store)] == ["x"]
        assert store.pending_count() == 1
        encode_all(store)
    assert salvage(path).is_complete
    counted = account(path)
    assert (counted.vectors, counted.not_encodable, counted.is_whole) == (1, len(BLANK), True)


@pytest.mark.parametrize("wrong", ["X''", "X'00'", "zeroblob(4)", "zeroblob(12)", "'12345678'", "12345678", "1.5"])
def test_a_vector_of_the_wrong_length_or_kind_is_pending(tmp_path: Path, wrong: str) -> None:
    """By the encoder that the shard names; text of as many letters as a vector has bytes is none either."""
    path = made(tmp_path / "a.db", "ab", "CREATE TABLE genes (gene_id TEXT, content TEXT, embedding_dense_v2)")
    with opened(path) as store:
        store.claim(IDENTITY)
        encode_all(store)
        assert salvage(path).is_complete
        sql(path, f"UPDATE genes SET embedding_dense_v2 = {wrong} WHERE gene_id = 'b'")
        assert [gene.gene_id for gene in every_pending(store)] == ["b"]
        assert not salvage(path).is_complete
        counted = account(path)
        assert (counted.vectors, counted.wrong_length, counted.is_whole) == (1, 1, False)
        encode_all(store)
    assert account(path).is_whole
    assert salvage(path).is_complete


@pytest.mark.parametrize("wrong", ["X''", "X'00'", "zeroblob(4)", "zeroblob(12)", "'12345678'"])
def test_wrong_lengths_are_found_without_an_identity_too(tmp_path: Path, wrong: str) -> None:
    """The app's vectors: most are of one length, and what `verify` complains of is what a run repairs."""
    path = made(tmp_path / "a.db", "abc", "CREATE TABLE genes (gene_id TEXT, content TEXT, embedding_dense_v2)")
    sql(path, "UPDATE genes SET embedding_dense_v2 = X'0000803F00000000'")
    assert salvage(path).is_complete
    sql(path, f"UPDATE genes SET embedding_dense_v2 = {wrong} WHERE gene_id = 'b'")
    assert account(path).wrong_length == 1
    assert not salvage(path).is_complete
    with opened(path) as store:
        assert store.has_foreign_vectors()
        assert [gene.gene_id for gene in every_pending(store)] == ["b"]


@pytest.mark.parametrize("nothing", ["NULL", "X''", "'text'"])
def test_a_shard_with_nothing_that_could_be_a_vector_has_no_foreign_ones(tmp_path: Path, nothing: str) -> None:
    """There is nothing to adopt, and everything to encode."""
    path = made(tmp_path / "a.db", "abc", "CREATE TABLE genes (gene_id TEXT, content TEXT, embedding_dense_v2)")
    sql(path, f"UPDATE genes SET embedding_dense_v2 = {nothing}")
    with opened(path) as store:
        assert not store.has_foreign_vectors()
        assert store.pending_count() == 3
    assert account(path).vectors == 0


@pytest.mark.parametrize("change", ["DELETE FROM genes", "UPDATE genes SET content = 'other'"])
def test_a_gene_that_changed_while_it_was_encoded_gets_no_vector(tmp_path: Path, change: str) -> None:
    """The vector is of a text that is no longer there."""
    path = made(tmp_path / "a.db", "ab")
    with opened(path) as store:
        store.claim(IDENTITY)
        batch = [(gene, VECTOR) for gene in every_pending(store)]
        sql(path, f"{change} WHERE gene_id = 'a'")
        assert store.commit(batch) == 1
    assert rows(path, "SELECT gene_id FROM genes WHERE embedding_dense_v2 IS NOT NULL") == [("b",)]


def test_another_gene_in_the_same_row_gets_no_vector(tmp_path: Path) -> None:
    """SQLite gives a row's number again: the id counts."""
    path = made(tmp_path / "a.db", {"a": "same text"})
    with opened(path) as store:
        store.claim(IDENTITY)
        batch = [(gene, VECTOR) for gene in every_pending(store)]
        sql(path, "DELETE FROM genes", "INSERT INTO genes (gene_id, content) VALUES ('new', 'same text')")
        assert store.commit(batch) == 0


def test_text_that_is_no_utf_8_and_an_id_that_is_null_get_their_vectors(tmp_path: Path) -> None:
    """An application writes what it likes; such a gene must not be pending for ever."""
    path = made(tmp_path / "a.db", "a")
    sql(
        path,
        "INSERT INTO genes VALUES (CAST(X'FF61' AS TEXT), 'odd id')",
        "INSERT INTO genes VALUES ('odd', CAST(X'FF62' AS TEXT))",
        "INSERT INTO genes VALUES (NULL, 'no id')",
    )
    with opened(path) as store:
        store.claim(IDENTITY)
        store.quarantine("a", "because")
        assert [gene.content for gene in every_pending(store)] == ["odd id", "\ufffdb", "no id"]
        assert not salvage(path).is_complete
        assert encode_all(store) == 3
        assert store.pending_count() == 0
    counted = account(path)
    assert (counted.vectors, counted.quarantined) == (3, 1)
