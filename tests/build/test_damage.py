"""Damaged shards, wrong models: named, set aside, never deleted; the same command ends well."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.build.rig import Rig, prose
from tests.encoders.models import write_model
from tests.programs import require_module
from tests.shards.shards import made, rows, sql


def _garbage_header(path: Path) -> None:
    path.write_bytes(b"garbage, garbage" * 8 + path.read_bytes()[128:])


def _empty_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:12288] = b"\xff" * 8192
    path.write_bytes(content)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 // 4096 * 4096])


@pytest.mark.parametrize("damage", [_garbage_header, _empty_page, _half])
def test_a_damaged_shard_is_set_aside_and_built_again(rig: Rig, damage: Callable[[Path], None]) -> None:
    """Nothing is deleted, and at the end every gene is there with the digest of an undisturbed build."""
    rig.write_shards(2, 3, 40)
    assert rig.build().code == 0
    whole = rig.verify()
    path = rig.out / "shard-0.db"
    damage(path)
    damaged = path.read_bytes()
    rig.write({"shard-0/new.txt": prose(77, 3)})
    done = rig.build()
    assert done.code == 0, (done.errors, done.events[-3:])
    assert damaged in [kept.read_bytes() for kept in rig.out.glob("shard-0.db.corrupt-*")]
    (rig.source / "shard-0/new.txt").unlink()
    assert rig.build("--prune").code == 0
    assert rig.verify() == whole


def test_a_log_full_of_garbage(rig: Rig) -> None:
    """SQLite takes nothing from a log that does not fit: the shard is what its own file says, and is whole."""
    rig.write_shards(1, 3, 20)
    assert rig.build().code == 0
    whole = rig.verify()
    (rig.out / "shard-0.db-wal").write_bytes(b"no log at all " * 4000)
    assert rig.build().code == 0
    assert rig.verify() == whole


def test_a_missing_model_cannot_ever_start(rig: Rig) -> None:
    """Exit code 78 and no retry, whether that is known before or only in the worker."""
    require_module("sentence_transformers", "helix-crawl-otel[models]")
    rig.write({"a/one.txt": "cat dog"})
    broken = write_model(rig.folder / "broken")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    done = rig.build("--model", str(broken))
    assert done.code == 78, (done.errors, done.events)
    assert len(done.of("worker_started")) == 1
    assert rig.build().code == 0
    assert rig.verify()["code"] == 0


@pytest.mark.timeout(180)
def test_a_model_of_another_dimension_is_refused(rig: Rig) -> None:
    """The shards stay as they are; --reencode takes the new model, and the old one is then refused in its turn."""
    require_module("sentence_transformers", "helix-crawl-otel[models]")
    rig.write({"a/one.txt": "cat dog cat", "b/two.txt": "dog"})
    assert rig.build().code == 0
    whole = rig.verify()
    model = str(write_model(rig.folder / "tiny"))
    refused = rig.build("--model", model)
    assert refused.code == 1
    assert sorted(refused.summary["failed"]) == ["a", "b"]
    assert "was encoded by hashing (1, 256 dimensions), not by" in refused.summary["failed"]["a"]
    assert refused.of("model_loaded") == []
    assert rig.verify() == whole
    assert rig.build("--model", model, "--reencode").code == 0
    with sqlite3.connect(rig.out / "a.db") as connection:
        assert connection.execute("SELECT DISTINCT length(embedding_dense_v2) FROM genes").fetchall() == [(16,)]
    connection.close()
    assert rig.build().code == 1
    assert rig.build("--reencode").code == 0
    assert rig.verify() == whole


def test_the_lock_of_a_killed_build_is_taken_over(rig: Rig) -> None:
    """What a killed supervisor has left beside the lock says nothing of who is at work."""
    rig.write_shards(1, 3, 20)
    with rig.started(rig.build_command("--batch-size", "4", "--fault", "slow:seconds=0"), **rig.held()) as process:
        rig.worker_pid(process)
        process.kill()
        process.wait()
        assert (rig.out / ".helix-crawl/lock.json").exists()
        assert rig.build().code == 0
    assert rig.verify()["code"] == 0


APP = "CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, meta TEXT, embedding_dense_v2 BLOB)"


def _of_an_app(path: Path, *statements: str) -> None:
    contents = {f"g{number:03}": f"passage {number} " * 20 for number in range(300)}
    sql(made(path, contents, APP), *statements)


def _refused_by_a_trigger(path: Path) -> str:
    _of_an_app(
        path,
        "CREATE TRIGGER t AFTER INSERT ON genes BEGIN SELECT RAISE(ABORT, 'database disk image is malformed'); END",
    )
    return "database disk image is malformed"


def _refused_by_json(path: Path) -> str:
    _of_an_app(path, "CREATE TRIGGER t AFTER UPDATE ON genes BEGIN SELECT json_extract('', '$'); END")
    return "malformed JSON"


def _refused_by_an_index(path: Path) -> str:
    _of_an_app(
        path,
        "CREATE VIRTUAL TABLE words USING fts5 (content, content = genes)",
        "CREATE TRIGGER t AFTER UPDATE ON genes BEGIN"
        " INSERT INTO words (words, rowid, content) VALUES ('delete', old.rowid, old.content); END",
    )
    return "database disk image is malformed"


def _damaged_and_not_ours(path: Path) -> str:
    _of_an_app(path)
    _empty_page(path)
    return "left where it is"


@pytest.mark.parametrize("make", [_refused_by_a_trigger, _refused_by_json, _refused_by_an_index, _damaged_and_not_ours])
def test_a_file_that_build_has_not_made_is_never_set_aside(rig: Rig, make: Callable[[Path], str]) -> None:
    """Whole or damaged: the shard fails with what SQLite says, the others are built, its rows stay where they are."""
    rig.write_shards(2, 2, 12)
    rig.out.mkdir()
    path = rig.out / "shard-0.db"
    try:
        said = make(path)
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no FTS5")
    inode = path.stat().st_ino
    for _ in range(2):
        done = rig.build()
        assert done.code == 1, done.errors
        assert list(done.summary["failed"]) == ["shard-0"]
        assert said in done.summary["failed"]["shard-0"]
        assert str(path) in done.summary["failed"]["shard-0"]
        assert path.stat().st_ino == inode
        assert list(rig.out.glob("*.corrupt-*")) == []
    if make is not _damaged_and_not_ours:
        assert rows(path, "SELECT count(*) FROM genes WHERE gene_id LIKE 'g___'") == [(300,)]
    assert rig.verify(rig.out / "shard-1.db")["code"] == 0


def test_damage_that_a_worker_meets_is_set_aside_once(rig: Rig) -> None:
    """In an index, where a look at what is pending does not come: with a journal beside it, and built anew."""
    rig.write_shards(2, 3, 40)
    assert rig.build().code == 0
    path = rig.out / "shard-0.db"
    ((root,),) = rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'helix_crawl_by_source'")
    content = bytearray(path.read_bytes())
    content[(int(str(root)) - 1) * 4096 : int(str(root)) * 4096] = b"\xff" * 4096
    path.write_bytes(content)
    path.with_name("shard-0.db-journal").write_bytes(b"")
    rig.write({"shard-0/file-000.txt": prose(77, 30)})
    done = rig.build()
    assert done.code == 0, (done.errors, done.events[-3:])
    kept = sorted(item.name for item in rig.out.glob("shard-0.db.corrupt-*"))
    assert kept[0] == "shard-0.db.corrupt-1"
    assert all(name.startswith("shard-0.db.corrupt-1") for name in kept)
    assert rig.verify()["code"] == 0
    assert rig.build().code == 0
    assert sorted(item.name for item in rig.out.glob("shard-0.db.corrupt-*")) == kept
