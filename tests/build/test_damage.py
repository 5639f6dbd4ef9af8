"""Damaged shards, wrong models: named, set aside, never deleted; the same command ends well."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.shards.schema import TREE_NOTE, create_genes
from tests.build.rig import Rig, prose
from tests.encoders.models import write_model
from tests.programs import require_installed
from tests.shards.damages import half, header, noise, page, root_of
from tests.shards.shards import encode_all, made, opened, sql


@pytest.mark.parametrize("damage", [header, page, half])
def test_a_damaged_shard_is_set_aside_and_built_again(rig: Rig, damage: Callable[[Path], None]) -> None:
    """Nothing is deleted, and at the end every gene is there with the digest of an undisturbed build."""
    whole = rig.write_shards(2, 3, 40).built().verify()
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
    whole = rig.write_shards(2, 3, 40).built().verify()
    (rig.out / "shard-0.db-wal").write_bytes(b"no log at all " * 4000)
    assert rig.build().code == 0
    assert rig.verify() == whole


def test_a_missing_model_cannot_ever_start(rig: Rig) -> None:
    """Exit code 78 and no retry, whether that is known before or only in the worker."""
    require_installed("sentence_transformers", "helix-crawl-otel[models]")
    rig.write({"a/one.txt": "cat dog"})
    broken = write_model(rig.folder / "broken")
    (broken / "model.safetensors").write_bytes(b"no tensors")
    done = rig.build("--model", str(broken))
    assert done.code == 78, (done.errors, done.events)
    assert len(done.of("worker_started")) == 1, done.events
    assert rig.build().code == 0
    assert rig.verify()["code"] == 0


@pytest.mark.timeout(180)
def test_a_model_of_another_dimension_is_refused(rig: Rig) -> None:
    """The shards stay as they are; --reencode takes the new model, and the old one is then refused in its turn."""
    require_installed("sentence_transformers", "helix-crawl-otel[models]")
    rig.write({"a/one.txt": "cat dog cat", "b/two.txt": "dog"})
    assert rig.build().code == 0
    whole = rig.verify()
    model = str(write_model(rig.folder / "tiny"))
    refused = rig.build("--model", model)
    assert (refused.code, refused.events) == (2, [])
    assert "was encoded by hashing (1, 256 dimensions), not by" in refused.errors
    assert rig.verify() == whole
    assert rig.build("--model", model, "--reencode").code == 0
    with sqlite3.connect(rig.out / "a.db") as connection:
        assert connection.execute("SELECT DISTINCT length(embedding_dense_v2) FROM genes").fetchall() == [(16,)]
    connection.close()
    assert rig.build().code == 2
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


def _of_an_app(path: Path) -> str:
    sql(made(path, {f"g{number:03}": f"passage {number} " * 20 for number in range(300)}, APP))
    return "`build` has not made its table `genes`"


def _encoded_here_before(path: Path) -> str:
    said = _of_an_app(path)
    with opened(path) as store:
        encode_all(store)
        store.keep(TREE_NOTE, ["tree", "shard-0"])
    return said


def _of_another_kind(path: Path) -> str:
    sql(path, "CREATE TABLE users (id, name)", "INSERT INTO users VALUES (1, 'somebody')")
    return "is no shard"


def _with_a_table_of_genes_of_another_kind(path: Path) -> str:
    sql(path, "CREATE TABLE genes (chromosome, base)")
    return "is no shard"


def _damaged_and_not_ours(path: Path) -> str:
    _of_an_app(path)
    header(path)
    return "left where it is"


def _noise(path: Path) -> str:
    noise(path)
    return "nothing in it says that `build` has made it"


FOREIGN = [
    _of_an_app,
    _encoded_here_before,
    _of_another_kind,
    _with_a_table_of_genes_of_another_kind,
    _damaged_and_not_ours,
    _noise,
]


def test_a_file_that_build_has_not_made_is_left_as_it_is(tmp_path: Path) -> None:
    """Whole or damaged, with a table of genes or without: its shard fails, named; the others are built."""
    rig = Rig(tmp_path).write({f"shard-{number}/one.txt": f"Text {number}." for number in range(len(FOREIGN) + 1)})
    rig.out.mkdir()
    said = {}
    for number, make in enumerate(FOREIGN):
        path = rig.out / f"shard-{number}.db"
        said[path] = make(path)
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in said}
    for _ in range(2):
        done = rig.build()
        assert done.code == 1, done.errors
        assert sorted(done.summary["failed"]) == [path.stem for path in said]
        for path, words in said.items():
            assert words in done.summary["failed"][path.stem]
            assert str(path) in done.summary["failed"][path.stem]
            assert (path.stat().st_ino, path.read_bytes()) == before[path]
        assert list(rig.out.glob("*.corrupt-*")) == []
    assert rig.verify(rig.out / f"shard-{len(FOREIGN)}.db")["code"] == 0


def test_what_a_killed_build_has_begun_is_built_into(rig: Rig) -> None:
    """An empty file, an empty table, a lease without a source, no note of a tree as an older version left it."""
    rig.write({f"{name}/one.txt": f"Text of {name}." for name in "abcd"})
    rig.out.mkdir()
    (rig.out / "a.db").touch()
    with closing(sqlite3.connect(rig.out / "b.db")) as connection, connection:
        create_genes(connection)
    opened(rig.out / "c.db", create=True).close()
    assert rig.build().code == 0
    sql(rig.out / "d.db", "DELETE FROM helix_crawl_meta WHERE key = 'tree'", "CREATE VIEW short AS SELECT 1")
    rig.write({"d/two.txt": "Another text."})
    done = rig.build()
    assert (done.code, done.summary["encoded"]) == (0, 1)


def test_damage_that_a_worker_meets_is_set_aside_once(rig: Rig) -> None:
    """In an index, where a look at what is pending does not come: with a journal beside it, and built anew."""
    rig.write_shards(2, 3, 40).built()
    path = rig.out / "shard-0.db"
    root_of(path, "helix_crawl_by_source")
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
