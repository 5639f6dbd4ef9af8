"""Promises of the planning: what is complete is found out from the files alone; no worker, no model."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.build.options import EncodeOptions, add_encode_options, read_encode_options
from helix_crawl_otel.build.plan import plan_backfill
from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY
from helix_crawl_otel.shards import schema
from helix_crawl_otel.shards.find import find_shards
from tests.rules.fresh import loaded_by, roots
from tests.shards.shards import encode_all, made, opened

VECTOR = b"\0\0\x80?" + bytes(255 * 4)


def options(*arguments: str) -> EncodeOptions:
    """Those of a command with the hashing encoder."""
    parser = argparse.ArgumentParser()
    add_encode_options(parser)
    return read_encode_options(parser.parse_args(["--model", "hashing", *arguments]))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A complete one."""
    path = made(tmp_path / "a.db", "abc")
    with opened(path) as store:
        store.claim(HASHING_IDENTITY)
        encode_all(store, VECTOR)
    return path


def test_a_complete_shard_needs_no_worker(shard: Path) -> None:
    """One that lacks a vector does; one that is no shard has failed, and the others are not held up by it."""
    other, broken = made(shard.with_name("b.db"), "ab"), shard.with_name("c.db")
    broken.write_bytes(b"no database at all" * 100)
    planned = plan_backfill([shard, other, broken], options(), given=[shard.parent])
    assert (planned.complete, planned.complete_genes) == ([shard], 3)
    assert [work.assignment.shard for work in planned.works] == ["b"]
    assert list(planned.failures) == ["c"]
    assert planned.shards == 3


def test_a_shard_that_another_program_holds_is_waited_for_as_told(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then it has failed: which lease was taken on it cannot be read, and is not guessed."""
    waits, connect = [], schema.connect

    def noted(path: Path, lock_seconds: float, *, is_read_only: bool = False) -> sqlite3.Connection:
        waits.append(lock_seconds)
        return connect(path, 0.01, is_read_only=is_read_only)

    monkeypatch.setattr(schema, "connect", noted)
    with closing(sqlite3.connect(shard, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        planned = plan_backfill([shard], options("--lock-seconds", "77"), given=[shard.parent])
    assert (planned.works, set(waits)) == ([], {77.0})
    assert "is locked by another program" in planned.failures["a"]


def test_a_lease_is_given_out_above_the_one_that_was_read(shard: Path) -> None:
    """Also where the shard has come from somebody who had more workers."""
    with opened(shard, 1234) as store:
        store.quarantine("a", "too long")
    planned = plan_backfill([shard], options("--retry-quarantined"))
    assert [work.assignment.epoch for work in planned.works] == [1234]


def test_what_is_asked_for_again_is_not_complete(shard: Path) -> None:
    """Quarantined genes when they are to be tried again, and not otherwise."""
    with opened(shard, 2) as store:
        store.quarantine("a", "too long")
    assert (plan_backfill([shard], options()).complete, plan_backfill([shard], options()).quarantined) == (
        [shard],
        {shard.with_suffix("").as_posix(): 1},
    )
    again = plan_backfill([shard], options("--retry-quarantined"))
    assert (again.complete, [work.quarantined for work in again.works]) == ([], [1])


def placed(path: Path) -> Path:
    """A shard in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return made(path, "a")


def names(*paths: Path) -> list[str]:
    """Of existing shards, as a command with these paths has them: files, or folders that hold some."""
    found, _ = find_shards(paths)
    return [work.assignment.shard for work in plan_backfill(found, options(), given=paths).works]


def whole(path: Path) -> str:
    """The name of a shard that is not in the one folder that a command names."""
    return Path(os.path.realpath(path)).with_suffix("").as_posix()


def test_two_shards_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    """A name stands for one shard in messages and metrics; the folders have one name too."""
    paths = [placed(tmp_path / top / "src" / "src.genome.db") for top in ("S1", "S2", "S3")]
    assert names(*paths) == list(map(whole, paths))
    assert names(*(path.parent for path in paths)) == list(map(whole, paths))


def test_a_files_name_does_not_depend_on_what_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, among others, among those of its folder, behind others, and from whatever folder the command is typed."""
    first, second = (placed(tmp_path / top / "a.db") for top in ("x", "y"))
    others = [placed(tmp_path / top / f"{name}.db") for top, name in (("x", "b"), ("y", "b"), ("z", "a"))]
    assert names(first) == [whole(first)]
    for beside in (others[:1], [second], others):
        assert names(*beside, first)[-1] == names(first, *beside)[0] == whole(first)
    assert whole(first) in names(first.parent, second)
    monkeypatch.chdir(tmp_path / "x")
    assert names(Path("a.db").absolute(), Path("../y/a.db").absolute()) == [whole(first), whole(second)]


def test_one_folder_gives_its_shards_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a build, and as boards know them; however the folder is spelt, and once more is not another one."""
    shards = [placed(tmp_path / "x" / f"{name}.genome.db") for name in "ab"]
    folder = shards[0].parent
    monkeypatch.chdir(folder)
    for given in ([folder], [Path().absolute()], [folder, folder / ".." / "x"]):
        assert names(*given) == ["a.genome", "b.genome"]
    placed(tmp_path / "y" / "c.db")
    assert names(folder, tmp_path / "y")[:2] == list(map(whole, shards))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_file_has_one_name_by_whatever_link_it_is_named(tmp_path: Path) -> None:
    """The series of a shard goes on when the same file is given by another way."""
    shard = placed(tmp_path / "x" / "a.db")
    (tmp_path / "by folder").symlink_to(shard.parent)
    (tmp_path / "by file.db").symlink_to(shard)
    for way in (shard, tmp_path / "by folder" / "a.db", tmp_path / "by file.db"):
        assert names(way) == [whole(shard)]
    assert names(tmp_path / "by folder") == ["a"]


def test_files_of_one_folder_never_share_a_name(tmp_path: Path) -> None:
    """With the usual ending or without, and with another one."""
    paths = [made(tmp_path / name, "a") for name in ("a.db", "a", "a.db.db", "a.sqlite", "b")]
    if not (upper := tmp_path / "A.DB").exists():  # some systems take it for a.db
        paths.append(made(upper, "a"))
    found = names(*paths)
    folder = Path(os.path.realpath(tmp_path)).as_posix()
    assert (found[0], found[2], found[4]) == (f"{folder}/a", f"{folder}/a.db", f"{folder}/b")
    assert len(set(found)) == len(paths)


def test_planning_loads_no_model(shard: Path, tmp_path: Path) -> None:
    """Not even the libraries of one: the supervisor never holds a context of the card."""
    decoys = tmp_path / "decoys"
    decoys.mkdir()
    loaded = loaded_by(
        "from pathlib import Path\n"
        "from tests.build.test_plan import options\n"
        "from helix_crawl_otel.build.plan import plan_backfill\n"
        f"assert plan_backfill([Path({str(shard)!r})], options()).complete",
        decoys,
    )
    assert not roots(loaded) & {"torch", "sentence_transformers", "transformers", "numpy"}
