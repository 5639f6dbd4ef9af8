"""Promises about a whole folder that is gone: its genes stay until `--prune`, and no other tree's are touched."""

from __future__ import annotations

import shutil

import pytest

from tests.build.conftest import rig as empty_rig
from tests.build.rig import COMMAND, Rig, prose
from tests.shards.shards import rows

__all__ = ["empty_rig"]


@pytest.fixture
def rig(empty_rig: Rig) -> Rig:
    """Two folders, built."""
    return empty_rig.write({"a/one.txt": prose(1, 6), "b/two.txt": prose(2, 6)}).built()


def test_a_folder_that_is_gone_is_told_of_and_pruned_when_asked(rig: Rig) -> None:
    """Its shard is left empty, and is not told of again."""
    before = rig.verify()["genes"]
    shutil.rmtree(rig.source / "b")
    done = rig.build()
    assert done.code == 0
    assert any("b.db is of 'b', which is gone" in note["text"] for note in done.of("note"))
    assert rig.verify()["genes"] == before
    assert rig.build("--prune").code == 0
    assert rows(rig.out / "b.db", "SELECT count(*) FROM genes") == [(0,)]
    assert rig.verify()["code"] == 0
    done = rig.build()
    assert not any("b.db" in note["text"] for note in done.of("note"))


def test_shards_of_another_tree_are_not_pruned(rig: Rig) -> None:
    """Another tree alone is refused; beside the first it is added, and neither of the two is pruned for the other."""
    other = rig.folder / "other"
    (other / "c").mkdir(parents=True)
    (other / "c/three.txt").write_text(prose(3, 4), encoding="utf-8")
    before = rig.verify()["genes"]
    command = [*COMMAND, "build", "--out", str(rig.out), *rig.options, "--json", "--prune", str(other)]
    refused = rig.run(command)
    assert (refused.code, refused.events) == (2, [])
    assert f"{rig.out} was built of {rig.source}, and not of {other}" in refused.errors
    done = rig.run([*command, str(rig.source)])
    assert done.code == 0, done.errors
    both = before + done.summary["encoded"]
    assert rig.verify()["genes"] == both
    shutil.rmtree(rig.source / "b")
    done = rig.run(command)
    assert done.code == 0, done.errors
    assert [note["text"] for note in done.of("note")] == [
        f"{rig.source} is left out this time: its shards stay as they are"
    ]
    assert rig.verify()["genes"] == both
