"""`Index` and `query`: the nearest genes of a folder of shards, with the encoder that made them and no other."""

from __future__ import annotations

import json
import re
import sqlite3
from array import array
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel import Index, ModelError, SourceState, StoreError, query
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.shards.build_record import BuildRecord, record_path, write_record
from helix_crawl_otel.shards.errors import EncoderRefused
from helix_crawl_otel.shards.schema import APP_NOTE, TREE_NOTE
from tests.search.made import BACKUP, LUNCH, make, two_shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two shards."""
    return two_shards(tmp_path / "shards")


def test_the_nearest_genes_of_all_shards(shards: Path) -> None:
    """Best first, with what the design promises of each."""
    found = query(shards, "rotate the backup key", 3)
    assert next(gene.source_id for gene in found) == "docs/backup.md"
    assert len(found) == 3
    assert {(gene.line, gene.state) for gene in found} == {(None, SourceState.UNKNOWN)}
    scores = [gene.score for gene in found]
    assert scores == sorted(scores, reverse=True)
    assert found[0].content == BACKUP
    assert [gene.source_id for gene in query(shards, "lunch on fridays", 1)] == ["food/lunch.txt"]


def test_a_gene_finds_itself(shards: Path) -> None:
    """With a score of 1; one shard alone can be asked too."""
    [found] = query(shards / "food.db", LUNCH, 1)
    assert (found.gene_id, found.score) == ("food-0", 1.0)


def test_shards_are_read_page_by_page(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer does not depend on where a page ends."""
    make(shards / "many.db", {f"many/{n}": f"passage number {n} of many" for n in range(50)})
    whole = query(shards, "passage number 17", 20)
    monkeypatch.setattr("helix_crawl_otel.shards.inspect.PAGE", 7)
    assert query(shards, "passage number 17", 20) == whole
    assert whole[0].source_id == "many/17"


def test_genes_without_a_vector_and_of_another_length_are_left_out(shards: Path) -> None:
    """A build that is under way can be asked."""
    with closing(sqlite3.connect(shards / "docs.db")) as connection:
        connection.execute("UPDATE genes SET embedding_dense_v2 = NULL WHERE gene_id = 'docs-1'")
        connection.execute("UPDATE genes SET embedding_dense_v2 = zeroblob(8) WHERE gene_id = 'docs-0'")
        connection.commit()
    assert [gene.gene_id for gene in query(shards, "rotate the backup key", 10)] == ["food-0"]


OTHER: dict[str, object] = {"model": "x/y", "revision": "b" * 40, "dim": 256, "normalised": True, "max_tokens": 9}


def test_a_model_of_another_identity_is_refused(shards: Path, tmp_path: Path) -> None:
    """Its distances would mean nothing."""
    with pytest.raises(EncoderRefused, match=r"was encoded by x/y \(bbbbbbbbbbbb, 256 dimensions\), not by hashing"):
        query(make(tmp_path / "other.db", {"a": "text"}, OTHER), "text", 1, model="hashing")
    older = make(tmp_path / "older.db", {"a": "text"}, {**HASHING_IDENTITY, "revision": "0"})
    with pytest.raises(EncoderRefused, match="not by hashing"):
        query(older, "text", 1, model="hashing")


def test_shards_of_several_models_need_a_choice(shards: Path) -> None:
    """And the choice searches those of that model."""
    make(shards / "other.db", {"other": "rotate the backup key"}, OTHER)
    with pytest.raises(EncoderRefused, match=r"was encoded by hashing .* and by x/y .*; say which of them"):
        query(shards, "rotate the backup key", 3)
    assert {gene.gene_id for gene in query(shards, "backup", 9, model="hashing")} == {"docs-0", "docs-1", "food-0"}


def test_vectors_of_a_folder_need_the_folder(tmp_path: Path) -> None:
    """Only its name is kept."""
    path = make(tmp_path / "a.db", {"a": "text"}, {**OTHER, "model": "my model"})
    with pytest.raises(ModelError, match="the vectors are of the model folder 'my model'; say where it is"):
        query(path, "text", 1)


def test_no_vectors_yet(tmp_path: Path) -> None:
    """Neither claimed by an encoder, nor encoded."""
    unclaimed = make(tmp_path / "unclaimed.db", {"a": "text"}, None)
    with pytest.raises(StoreError, match=r"nothing in .* says whose vectors these are; build it first, or let"):
        query(unclaimed, "text", 1)
    with pytest.raises(StoreError, match=r"holds no vectors of hashing \(1, 256 dimensions\) yet; build it first"):
        query(make(tmp_path / "empty.db", {}), "text", 1)


# -- a folder that is not as it should be -----------------------------------------------------------------------------


def test_a_build_that_is_not_finished_is_told_of(shards: Path) -> None:
    """Once, by the index; its answers are right as far as they go."""
    with Index(shards) as index:
        assert index.notes == []
    with closing(sqlite3.connect(shards / "docs.db")) as connection:
        connection.execute("UPDATE genes SET embedding_dense_v2 = NULL WHERE gene_id = 'docs-1'")
        connection.commit()
    with Index(shards) as index:
        assert index.notes == [f"{shards} is not complete: 1 gene lacks a vector, in 1 of 2 shards"]
        assert len(index.query("backup")) == 2


def test_shards_that_were_planned_and_are_not_there_are_told_of(shards: Path) -> None:
    """By the record of the build, with the command that goes on."""
    planned = {name: f"{name}.db" for name in ("docs", "food", "third", "fourth")}
    write_record(shards, BuildRecord({"": "/notes"}, planned, "hashing"))
    for name in ("docs", "food"):  # as if `build` had made them
        with closing(sqlite3.connect(shards / planned[name])) as connection, connection:
            connection.execute("DELETE FROM helix_crawl_meta WHERE key = ?", (APP_NOTE,))
            connection.execute("INSERT INTO helix_crawl_meta VALUES (?, ?)", (TREE_NOTE, json.dumps(["/notes", name])))
    with Index(shards) as index:
        (note,) = index.notes
    assert note.startswith(f"{shards} is not complete (4 shards planned, 2 done, 2 not begun: ")
    assert "; to go on: helix-crawl build " in note
    record_path(shards).write_text("{", "utf-8")
    with Index(shards) as index:
        assert len(index.notes) == 1
        assert index.query("backup")


def test_a_shard_that_cannot_be_read_is_named_and_left_out(shards: Path) -> None:
    """The others answer. Where none can be read its own error is raised."""
    for broken in ("docs.db", "food.db"):
        (shards / broken).write_bytes(b"SQLite format 3\0" + b"x" * 5000)
        if broken == "docs.db":
            with Index(shards) as index:
                assert [match.source_id for match in index.query("lunch")] == ["food/lunch.txt"]
                assert len(index.notes) == 1
                assert index.notes[0].startswith(str(shards / "docs.db"))
                assert index.notes[0].endswith("; it is left out")
    with pytest.raises(StoreError, match=r"food\.db"):
        Index(shards)


# -- the object -------------------------------------------------------------------------------------------------------


def test_an_index_keeps_its_model(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded once for many questions, asked from several threads; each is asked of what is there then."""
    loaded: list[str] = []

    def load(model: str, device: str, **_: object) -> HashingEncoder:
        loaded.append(f"{model} on {device}")
        return HashingEncoder()

    monkeypatch.setattr("helix_crawl_otel.search.index.load_encoder", load)
    with Index(str(shards), device="CPU") as index, ThreadPoolExecutor(4) as pool:
        first = [one.result() for one in [pool.submit(index.query, "backup key", 2) for _ in range(8)]]
        assert all(found == first[0] for found in first)
        with closing(sqlite3.connect(shards / "docs.db")) as connection:
            connection.execute("DELETE FROM genes")
            connection.commit()
        assert [match.gene_id for match in index.query("backup key", 9)] == ["food-0"]
    assert loaded == ["hashing on cpu"]
    index.close()
    with pytest.raises(RuntimeError, match=r"^this Index is closed; make another one$"):
        index.query("backup key")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": " "}, "the text is empty; accepted: at least one word"),
        ({"text": 7}, "the text is 7; accepted: at least one word"),
        ({"count": 0}, "count is 0; accepted: an integer from 1 to 9999"),
        ({"count": "5"}, "count is '5'; accepted: an integer from 1 to 9999"),
        ({"count": True}, "count is True; accepted: an integer from 1 to 9999"),
        ({"model": 3}, "model is 3; accepted: what build takes as --model, or None"),
        ({"device": "gpu"}, "device is 'gpu'; accepted: cpu, cuda, cuda:N"),
        ({"folder": None}, "folder is None; accepted: the path of a folder of shards, or of one"),
    ],
)
def test_wrong_arguments_are_refused(shards: Path, given: dict[str, Any], message: str) -> None:
    """With what is accepted."""
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        query(**{"folder": shards, "text": "backup", **given})


def test_what_a_library_raises_is_the_packages_error(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card without room, say: one sentence, with its cause."""

    def load(model: str, device: str, **_: object) -> HashingEncoder:
        raise RuntimeError("CUDA out of memory.\nTried to allocate a page of advice")

    monkeypatch.setattr("helix_crawl_otel.search.index.load_encoder", load)
    with pytest.raises(ModelError, match=r"^hashing cannot be loaded on cuda:1: CUDA out of memory\.$"):
        Index(shards, device="cuda:1")


def test_auto_takes_what_build_would(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that uses no card gets none."""
    told: list[str] = []
    Index(shards, device="auto", telling=told.append).close()
    assert "loads hashing on cpu" in told


def test_nothing_is_printed(shards: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A library does not."""
    with Index(shards, telling=None) as index:
        index.query("backup " * 9000)
        assert index.over("backup " * 9000) == 512
        assert index.over("backup " * 30) is None
    assert capfd.readouterr() == ("", "")


def test_equal_scores_come_in_the_order_of_the_shards(tmp_path: Path) -> None:
    """However many there are, and however they are read."""
    make(tmp_path / "a.db", {f"a/{n}": "the same words" for n in range(30)})
    make(tmp_path / "b.db", {f"b/{n}": "the same words" for n in range(30)})
    found = query(tmp_path, "the same words", 40)
    assert [match.gene_id for match in found] == [f"a-{n}" for n in range(30)] + [f"b-{n}" for n in range(10)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_what_is_no_vector_is_left_out(shards: Path, value: float) -> None:
    """It is near to nothing."""
    with closing(sqlite3.connect(shards / "docs.db")) as connection:
        vector = array("f", [value] * 256).tobytes()
        connection.execute("UPDATE genes SET embedding_dense_v2 = ? WHERE gene_id = 'docs-0'", (vector,))
        connection.commit()
    assert {match.gene_id for match in query(shards, "rotate the backup key", 10)} == {"docs-1", "food-0"}
