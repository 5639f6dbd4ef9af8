"""`query`: the nearest genes of a folder of shards, with the encoder that made them and no other."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.commands.query import query
from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.shards.errors import EncoderRefused, StoreError
from helix_crawl_otel.shards.store import ShardStore

BACKUP = "To rotate the backup key, stop the service first.\n\nThen start it again."
LUNCH = "Lunch is served at noon.\nOn Fridays there is fish."


def make(path: Path, passages: Mapping[str, str], identity: Mapping[str, object] | None = HASHING_IDENTITY) -> Path:
    """A shard with a vector for every passage, by its source."""
    encoder = HashingEncoder()
    with ShardStore.open(path, epoch=1, create=True) as store:
        with store.writing() as connection:
            for number, (source, content) in enumerate(passages.items()):
                connection.execute(
                    "INSERT INTO genes (gene_id, content, source_id) VALUES (?, ?, ?)",
                    (f"{path.stem}-{number}", content, source),
                )
        if identity is not None:
            store.claim(identity)
        genes = store.pending(None, 1000)
        store.commit(list(zip(genes, encoder.encode([gene.content for gene in genes]), strict=True)))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two shards."""
    folder = tmp_path / "shards"
    folder.mkdir()
    make(folder / "docs.db", {"docs/backup.md": BACKUP, "docs/other.md": "Something else entirely."})
    make(folder / "food.db", {"food/lunch.txt": LUNCH})
    return folder


def test_the_nearest_genes_of_all_shards(shards: Path) -> None:
    """Best first, with what the design promises of each."""
    found = query(shards, "rotate the backup key", 3)
    assert next(gene["source_id"] for gene in found) == "docs/backup.md"
    assert len(found) == 3
    assert all(set(gene) == {"gene_id", "source_id", "score", "content"} for gene in found)
    scores = [gene["score"] for gene in found]
    assert scores == sorted(scores, reverse=True)
    assert found[0]["content"] == BACKUP
    assert [gene["source_id"] for gene in query(shards, "lunch on fridays", 1)] == ["food/lunch.txt"]


def test_a_gene_finds_itself(shards: Path) -> None:
    """With a score of 1; one shard alone can be asked too."""
    [found] = query(shards / "food.db", LUNCH, 1)
    assert (found["gene_id"], found["score"]) == ("food-0", 1.0)


def test_shards_are_read_page_by_page(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer does not depend on where a page ends."""
    make(shards / "many.db", {f"many/{n}": f"passage number {n} of many" for n in range(50)})
    whole = query(shards, "passage number 17", 20)
    monkeypatch.setattr("helix_crawl_otel.shards.inspect.PAGE", 7)
    assert query(shards, "passage number 17", 20) == whole
    assert whole[0]["source_id"] == "many/17"


def test_genes_without_a_vector_and_of_another_length_are_left_out(shards: Path) -> None:
    """A build that is under way can be asked."""
    with closing(sqlite3.connect(shards / "docs.db")) as connection:
        connection.execute("UPDATE genes SET embedding_dense_v2 = NULL WHERE gene_id = 'docs-1'")
        connection.execute("UPDATE genes SET embedding_dense_v2 = zeroblob(8) WHERE gene_id = 'docs-0'")
        connection.commit()
    assert [gene["gene_id"] for gene in query(shards, "rotate the backup key", 10)] == ["food-0"]


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
    assert {gene["gene_id"] for gene in query(shards, "backup", 9, model="hashing")} == {"docs-0", "docs-1", "food-0"}


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


# -- the command ------------------------------------------------------------------------------------------------------


def test_json_is_a_list_for_scripts(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, whatever the letters."""
    make(shards / "odd.db", {"odd/né\n.txt": "naïve \ud83c\udf0d".encode("utf-16", "surrogatepass").decode("utf-16")})
    assert main(["query", str(shards), "naïve", "--json", "-k", "2"]) == 0
    output = capsys.readouterr()
    assert output.out.count("\n") == 1
    found: list[dict[str, Any]] = json.loads(output.out)
    assert [list(gene) for gene in found] == [["gene_id", "source_id", "score", "content"]] * 2
    assert found[0]["source_id"] == "odd/né\n.txt"
    assert output.err == ""


def test_people_get_rank_score_source_and_the_first_lines(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty lines are left out."""
    assert main(["query", str(shards), "rotate the backup key", "-k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1. 0.")
    assert lines[0].endswith("  docs/backup.md")
    assert [line.strip() for line in lines[1:]] == [line for line in BACKUP.splitlines() if line]


def test_a_passage_cannot_move_the_cursor(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a file holds is shown, not obeyed."""
    make(shards / "evil.db", {"evil\x1b[2J.txt": "clear \x1b[2J the screen \x07 \u202e now"})
    assert main(["query", str(shards), "clear the screen now", "-k", "1"]) == 0
    shown = capsys.readouterr().out
    assert "the screen" in shown
    assert not set(shown) & set("\x1b\x07\u202e")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["{shards}", " \t"], 2, "the text is empty; accepted: at least one word"),
        (["{shards}", "text", "-k", "0"], 2, "--count is '0'; accepted: an integer from 1 to 9999"),
        (["{shards}", "text", "-k", "many"], 2, "--count is 'many'; accepted: an integer from 1 to 9999"),
        (["{shards}", "text", "--device", "gpu"], 2, "--device is 'gpu'; accepted: cpu, cuda or cuda:N"),
        (["{shards}/missing", "text"], 2, "is not there"),
        (["{shards}/..", "text"], 2, "holds no shard"),
        (["{shards}", "text", "--model", "no/such/model"], 78, "there is no model 'no/such/model'"),
    ],
)
def test_bad_arguments_are_one_clear_sentence(
    shards: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    """On standard error, with the exit code of its kind."""
    assert main(["query", *(text.format(shards=shards) for text in arguments)]) == code
    output = capsys.readouterr()
    assert says in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""


def test_bytes_that_are_no_text_are_looked_for_as_question_marks(shards: Path) -> None:
    """A command line may hold anything; it is no reason to fall over."""
    assert main(["query", str(shards), "backup \udcff key"]) == 0
