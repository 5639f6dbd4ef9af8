"""Promises of `verify`: every gene in exactly one class, an exit code that a script can rely on, nothing changed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helix_crawl_otel.cli import main
from tests.build.rig import run_here
from tests.shards.shards import VECTOR, encode_all, made, opened, sql

COUNTS = ["genes", "vectors", "missing", "wrong_length", "not_finite", "not_normalised", "not_encodable", "quarantined"]
FOUND = ["content_changed", "wrong_id", "same_id", "no_source", "genes_gone", "sources_gone"]
KEYS = ["shards", "shards_planned", *COUNTS, *FOUND, "unread", "encoders", "digest", "by_shard"]
IDENTITY = {"model": "test", "revision": "1", "dim": 2, "normalised": True}


def verify(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it, in this process: another one takes longer to start than that."""
    return subprocess.CompletedProcess([], *run_here("verify", *map(str, arguments)))


def whole_shard(path: Path, ids: str = "abc") -> Path:
    """Every gene has its vector."""
    with opened(made(path, ids)) as store:
        store.claim(IDENTITY)
        encode_all(store)
    return path


def mixed_shard(path: Path) -> Path:
    """A gene of each class: two with a vector, then missing, wrong length, blank and quarantined."""
    made(path, {"a": "one", "b": "two", "none": "three", "short": "four", "blank": " \n", "bad": "five"})
    with opened(path) as store:
        store.claim(IDENTITY)
        genes = {gene.gene_id: gene for gene in store.pending(None, 10)}
        store.commit([(genes["a"], VECTOR), (genes["b"], VECTOR), (genes["short"], VECTOR[:4])])
        store.quarantine("bad", "it is bad")
    return path


def test_scripts_get_exactly_the_promised_keys(tmp_path: Path) -> None:
    """In their order, and the five classes add up to the genes."""
    done = verify(mixed_shard(tmp_path / "a.db"), "--json")
    found = json.loads(done.stdout)
    assert list(found) == KEYS
    assert len(found["digest"]) == 64
    assert [found[key] for key in KEYS[:10]] == [1, 1, 6, 2, 1, 1, 0, 0, 1, 1]
    assert found["encoders"] == [{"encoder": IDENTITY, "shards": 1, "vectors": 2, "devices": {}, "dtypes": {}}]
    (one,) = found["by_shard"]
    assert (one["name"], one["file"], one["state"], one["encoder"], one["devices"]) == (
        "a",
        "a.db",
        "begun",
        IDENTITY,
        [],
    )
    assert [one[key] for key in COUNTS] == [6, 2, 1, 1, 0, 0, 1, 1]
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_pipe_beside_a_shard_is_named_and_not_waited_for(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQLite would open it; so would each command that reads a shard, for all of them open it in one way."""
    path = whole_shard(tmp_path / "a.db")
    for part in tmp_path.glob("a.db?*"):
        part.unlink()
    os.mkfifo(tmp_path / f"a.db{suffix}")
    assert main(["verify", str(path)]) == 1
    assert f"a.db{suffix} is no file, but a folder, a pipe or a device" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
def test_a_pipe_beside_the_file_that_a_link_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There SQLite looks for it."""
    whole_shard(tmp_path / "a.db")
    link = tmp_path / "elsewhere" / "b.db"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "a.db")
    os.mkfifo(tmp_path / "a.db-journal")
    assert main(["verify", str(link)]) == 1
    assert "a.db-journal is no file, but a folder, a pipe or a device" in capsys.readouterr().err


def test_people_get_a_table(tmp_path: Path) -> None:
    """A line a shard, the sum, the digest, and what it comes to."""
    mixed_shard(tmp_path / "a.db")
    whole_shard(tmp_path / "b.db")
    done = verify(tmp_path)
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["shard", "genes", "vectors", "missing", "wrong", "length", "not", "encodable", "quarantined"],
        ["a.db", "6", "2", "1", "1", "1", "1"],
        ["b.db", "3", "3", "0", "0", "0", "0"],
        ["2", "shards", "9", "5", "1", "1", "1", "1"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4].startswith("digest ")
    assert lines[5] == "encoder test (1, 2 dimensions): 5 vectors in 2 shards"
    assert lines[-1:] == ["not whole: see missing, wrong length, quarantined"]
    assert done.returncode == 1


def test_a_whole_shard_is_said_to_be_whole(tmp_path: Path) -> None:
    """Exit code 0, and one shard is `1 shard`."""
    done = verify(whole_shard(tmp_path / "a.db"))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[2].startswith("1 shard ")
    assert lines[-1] == "every gene that can have a vector has one"


@pytest.mark.parametrize("column", ["missing", "wrong_length", "quarantined"])
def test_any_of_three_classes_alone_makes_the_exit_code_1(tmp_path: Path, column: str) -> None:
    """And a blank gene does not."""
    path = whole_shard(tmp_path / "a.db")
    sql(path, "INSERT INTO genes (gene_id, content) VALUES ('blank', '')")
    assert verify(path).returncode == 0
    change = {
        "missing": "UPDATE genes SET embedding_dense_v2 = NULL WHERE gene_id = 'a'",
        "wrong_length": "UPDATE genes SET embedding_dense_v2 = x'00' WHERE gene_id = 'a'",
        "quarantined": "UPDATE genes SET embedding_dense_v2 = NULL WHERE gene_id = 'a'",
    }[column]
    sql(path, change)
    if column == "quarantined":
        sql(path, "INSERT INTO helix_crawl_quarantine VALUES ('a', 'it is bad', 'now')")
    done = verify(path, "--json")
    found = json.loads(done.stdout)
    assert {name: found[name] for name in ("missing", "wrong_length", "quarantined") if found[name]} == {column: 1}
    assert done.returncode == 1


def test_files_and_folders_count_once(tmp_path: Path) -> None:
    """A shard that is named beside its folder is the same shard; a database that is no shard is left out."""
    one = whole_shard(tmp_path / "a.db")
    whole_shard(tmp_path / "b.db")
    sql(tmp_path / "notes.db", "CREATE TABLE notes (n INTEGER)")
    found = json.loads(verify(tmp_path, one, "--json").stdout)
    assert (found["shards"], found["genes"]) == (2, 6)
    assert found["digest"] == json.loads(verify(tmp_path / "b.db", one, "--json").stdout)["digest"]


def test_the_digest_sees_ids_contents_and_vectors(tmp_path: Path) -> None:
    """And nothing else: an added column or another order of rows changes nothing."""

    def digest() -> str:
        return str(json.loads(verify(path, "--json").stdout)["digest"])

    path = whole_shard(tmp_path / "a.db")
    before = digest()
    sql(path, "ALTER TABLE genes ADD COLUMN tier INTEGER DEFAULT 7", "UPDATE genes SET rowid = 10 - rowid")
    assert digest() == before
    seen = {before}
    for change in ("gene_id = 'x'", "content = 'x'", "embedding_dense_v2 = x'0000000000000001'"):
        sql(path, f"UPDATE genes SET {change} WHERE gene_id IN ('b', 'x')")
        seen.add(digest())
    assert len(seen) == 4


@pytest.mark.parametrize("json_option", [(), ("--json",)])
def test_a_path_that_is_not_there_is_wrong_usage(tmp_path: Path, json_option: tuple[str, ...]) -> None:
    """Exit code 2, nothing on standard output, and the message names it."""
    done = verify(tmp_path / "nowhere", *json_option)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path / 'nowhere'} is not there" in done.stderr


def test_a_folder_without_shards_is_wrong_usage(tmp_path: Path) -> None:
    """Also when there are databases of others in it."""
    sql(tmp_path / "notes.db", "CREATE TABLE notes (n INTEGER)")
    done = verify(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} holds no shard; accepted: a folder with .db files that have a table `genes`" in done.stderr


def test_a_file_that_is_no_shard_is_named(tmp_path: Path) -> None:
    """It was asked for by name, so it is not passed over."""
    sql(tmp_path / "notes.db", "CREATE TABLE notes (n INTEGER)")
    done = verify(tmp_path / "notes.db", whole_shard(tmp_path / "a.db"))
    assert done.returncode == 1
    assert "notes.db is no shard: it has no table `genes`" in done.stderr
    assert "a.db" in done.stdout


def test_a_corrupt_shard_is_named_and_left_where_it_is(tmp_path: Path) -> None:
    """The others are counted; the exit code is 1 although they are whole, and the table says that one is not in it."""
    whole_shard(tmp_path / "a.db")
    damaged = tmp_path / "b.db"
    damaged.write_bytes(b"this is no database, and too long to be empty " * 100)
    before = damaged.read_bytes()
    done = verify(tmp_path)
    assert done.returncode == 1
    assert f"helix-crawl: error: {damaged} is damaged" in done.stderr
    assert done.stdout.splitlines()[-1] == "not whole: 1 shard that cannot be read is not counted"
    found = json.loads(verify(tmp_path, "--json").stdout)
    assert list(found) == KEYS
    assert found["shards"] == 1
    assert damaged.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*.db*")) == ["a.db", "b.db"]


def test_shards_of_one_name_in_several_folders_are_told_apart(tmp_path: Path) -> None:
    """In the table, where a gene is named, and for scripts; of one folder the names alone are shown."""
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        mixed_shard(tmp_path / folder / "docs.genome.db")
    shown = verify(tmp_path).stdout
    for folder in ("north", "south"):
        assert re.search(rf"^{folder}/docs\.genome\.db +6 ", shown, re.MULTILINE)
        assert f"bad of {folder}/docs.genome.db" in shown
    paths = [row["path"] for row in json.loads(verify(tmp_path, "--json").stdout)["by_shard"]]
    assert paths == ["north/docs.genome.db", "south/docs.genome.db"]  # the same wherever they are copied to
    assert re.search(r"^docs\.genome\.db +6 ", verify(tmp_path / "north").stdout, re.MULTILINE)
