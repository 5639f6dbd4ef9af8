"""Promises of the commands that take folders: the app's sharded layout is found, and what is no shard is named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.shards.errors import NoShards
from helix_crawl_otel.shards.find import find_shards
from tests.build.rig import COMMAND, Rig
from tests.commands.app import hashed, vectors_of
from tests.commands.genome import LONG, write_genome, write_routing
from tests.shards.shards import sql

FEW = {name: LONG[name] for name in list(LONG)[:9]}

LAYOUT = (
    "main/genome.db",
    "agent/laude.genome.db",
    "F/Projects/docs/docs.genome.db",
    "F/Projects/mail/docs.genome.db",
    "_overflow/long-name-0123456789.genome.db",
)
"""As the app lays out its shards: two are called the same."""


def laid_out(root: Path) -> list[Path]:
    """Its folder, with the database that holds no genes and what others have put there."""
    paths = [root / name for name in LAYOUT]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_genome(path, FEW)
    write_routing(root / "main.genome.db")
    (root / "vault").mkdir()
    sql(root / "vault" / "vault.db", "CREATE TABLE vault_state (gene_id TEXT)")
    (root / "F" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 no database")
    return paths


def test_the_sharded_layout_is_encoded_and_verified_as_one_folder(rig: Rig) -> None:
    """Each shard by its place in the folder; the routing database and others are named and stay as they were."""
    root = rig.folder / "genomes"
    root.mkdir()
    paths = laid_out(root)
    others = [root / "main.genome.db", root / "vault/vault.db", root / "F/Thumbs.db"]
    before = [path.read_bytes() for path in others]
    done = rig.run([*COMMAND, "backfill", str(root), *rig.options, "--json"])
    assert done.code == 0, done.errors
    assert [vectors_of(path) for path in paths] == [hashed(FEW)] * len(paths)
    names = {name.removesuffix(".db") for name in LAYOUT}
    assert {event["shard"] for event in done.of("shard_ended")} == names
    notes = " ".join(event["text"] for event in done.of("note"))
    assert "main.genome.db, F/Thumbs.db, vault/vault.db in" in notes
    assert "are no shards and are left alone" in notes
    assert [path.read_bytes() for path in others] == before
    counted = rig.verify(root)
    assert (counted["code"], counted["shards"], counted["vectors"]) == (0, len(paths), len(paths) * len(FEW))
    assert (root / ".helix-crawl/timeline.jsonl").is_file()  # where `status` and `report` look


def test_a_database_that_is_no_shard_keeps_its_log(tmp_path: Path) -> None:
    """It is left alone: what its own program has not written into it yet stays where it is."""
    with closing(sqlite3.connect(tmp_path / "live")) as live:
        live.execute("PRAGMA journal_mode = WAL")
        live.execute("CREATE TABLE shards (path)")
        for end in ("", "-wal", "-shm"):
            shutil.copyfile(f"{tmp_path / 'live'}{end}", f"{tmp_path / 'main.genome.db'}{end}")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("main.genome.db*") if path.suffix != ".db-shm"}
    assert len(before) == 2
    with pytest.raises(NoShards, match=r"main\.genome\.db in .* is no shard and is left alone"):
        find_shards([tmp_path])
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    "name", ["a%20b", "q#1", "sp ace", "ä", *(["q?x", "n\udcff"] if sys.platform == "linux" else [])]
)
def test_any_name_is_a_name(tmp_path: Path, name: str) -> None:
    """Also of the folder, and in the address by which SQLite opens a file; a folder that leads back is not entered."""
    (tmp_path / name).mkdir()
    path = write_genome(tmp_path / "made.db")
    path = path.rename(tmp_path / name / f"{name}.genome.db")
    if sys.platform != "win32":
        (tmp_path / name / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert find_shards([tmp_path]) == ([path], [])


def test_a_damaged_file_of_the_app_is_no_other_program_s(tmp_path: Path) -> None:
    """By its name, however deep it lies: the command says that it is damaged."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    for name in ("x.genome.db", "genome.db", "x.db"):
        (folder / name).write_bytes(b"noise" * 1000)
    found, (note,) = find_shards([tmp_path])
    assert [path.name for path in found] == ["genome.db", "x.genome.db"]
    assert "a/b/x.db" in note


def test_a_folder_of_a_build_has_its_shards_at_the_top(rig: Rig) -> None:
    """A copy that somebody keeps in it is not encoded or counted."""
    rig.write_shards(2, 3, 40).built()
    (rig.out / "copy").mkdir()
    write_genome(rig.out / "copy" / "a.genome.db", FEW)
    assert {path.parent for path in find_shards([rig.out])[0]} == {rig.out}


def test_a_folder_without_a_shard_says_what_is_in_it(tmp_path: Path) -> None:
    """Whoever has named the wrong folder sees it."""
    write_routing(tmp_path / "main.genome.db")
    with pytest.raises(NoShards, match=r"holds no shard; .*; main.genome.db in .* is no shard and is left alone"):
        find_shards([tmp_path])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the rights of a folder hold for others")
def test_a_folder_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    """The others are found."""
    for name in ("closed", "open"):
        (tmp_path / name).mkdir()
        write_genome(tmp_path / name / "a.genome.db", FEW)
    (tmp_path / "closed").chmod(0)
    try:
        found, (note,) = find_shards([tmp_path])
    finally:
        (tmp_path / "closed").chmod(0o755)
    assert [path.parent.name for path in found] == ["open"]
    assert "closed cannot be looked into" in note
