"""Promises of `query` as a command: what scripts get, on shards of a build and on those of the app."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from tests.build.rig import COMMAND, SECONDS, Rig
from tests.shards.shards import encode_all, made, opened, sql

VECTOR = b"\0\0\x80?" + bytes(255 * 4)

KEYS = ["gene_id", "source_id", "score", "content", "line", "state"]


def query(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it."""
    command = [*COMMAND, "query", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)


def test_scripts_get_a_list_best_first(rig: Rig) -> None:
    """Exactly the promised keys, in their order, from every shard of a build."""
    rig.write(
        {
            "docs/backup.md": "To rotate the backup key, stop the service first.",
            "docs/other.md": "Something else entirely.",
            "food/lunch.txt": "Lunch is served at noon.",
        }
    )
    assert rig.build().code == 0
    done = query(rig.out, "rotate the backup key", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert [list(gene) for gene in found] == [KEYS] * 3
    assert found[0]["source_id"] == "docs/backup.md"
    assert found[0]["content"] == "To rotate the backup key, stop the service first."
    scores = [gene["score"] for gene in found]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[0] <= 1
    assert len(json.loads(query(rig.out, "rotate the backup key", "--count", 1, "--json").stdout)) == 1


def test_people_get_sources_and_first_lines(rig: Rig) -> None:
    """The best one first."""
    rig.write({"docs/backup.md": "Rotate the backup key.", "docs/other.md": "Something else entirely."})
    assert rig.build().code == 0
    lines = query(rig.out, "rotate the backup key").stdout.splitlines()
    assert lines[0].startswith("1. 0.")
    assert lines[0].endswith("docs/backup.md:1")
    assert lines[1].strip() == "Rotate the backup key."


def test_ids_that_are_no_text_can_be_told_apart(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    """By their bytes, as `verify` shows them; and a number stays one."""
    path = made(rig.folder / "app.db", {}, "CREATE TABLE genes (gene_id, content TEXT)")
    for given in ("CAST(X'FF61' AS TEXT)", "CAST(X'FE61' AS TEXT)", "X'FD'", "7"):
        sql(path, f"INSERT INTO genes VALUES ({given}, 'rotate the key')")
    with opened(path) as store:
        store.claim(HASHING_IDENTITY)
        encode_all(store, VECTOR)
    assert main(["query", str(path), "key", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [gene["gene_id"] for gene in found] == ["\\xffa", "\\xfea", "\\xfd", 7]


def test_a_shard_of_the_app_can_be_asked_once_it_was_backfilled(rig: Rig) -> None:
    """Its genes have no source, and an id may be a number; before, nobody knows whose its vectors are."""
    path = made(
        rig.folder / "app.db",
        {"7": "rotate the backup key", "8": "lunch at noon"},
        "CREATE TABLE genes (gene_id INTEGER PRIMARY KEY, content TEXT, tier INTEGER)",
    )
    before = query(path, "backup key", "--json")
    assert (before.returncode, before.stdout) == (1, "")
    assert "says whose vectors these are" in before.stderr
    assert rig.run([*COMMAND, "backfill", str(path), *rig.options, "--json"]).code == 0
    found = json.loads(query(path, "rotate the backup key", "--json").stdout)
    assert [list(gene) for gene in found] == [KEYS] * 2
    assert found[0] == {
        "gene_id": 7,
        "source_id": None,
        "score": 1.0,
        "content": "rotate the backup key",
        "line": None,
        "state": "unknown",
    }
    assert query(path, "rotate the backup key").stdout.startswith("1. 1.000  gene 7\n")


def test_the_vectors_of_the_app_itself_are_not_guessed_at(tmp_path: Path) -> None:
    """Without an identity no question is encoded: the command says what makes one."""
    path = made(tmp_path / "app.db", {"a": "text"})
    [vector] = HashingEncoder().encode(["text"])
    sql(path, "ALTER TABLE genes ADD COLUMN embedding_dense_v2 BLOB")
    sql(path, f"UPDATE genes SET embedding_dense_v2 = x'{vector.hex()}'")
    done = query(tmp_path, "text", "--model", "hashing", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert "let `helix-crawl backfill` look at vectors that another program made" in done.stderr


def test_a_path_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    """As for `verify`: nothing on standard output, and the message names it."""
    done = query(tmp_path / "nowhere", "text", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / 'nowhere'} is not there" in done.stderr
