"""Damaged shards, wrong models: named, set aside, never deleted; the same command ends well."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.encoders.models import write_model
from tests.jobs.rig import Rig, prose
from tests.programs import require_module


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
