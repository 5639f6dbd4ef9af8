"""What a driver does with its slots, on a cluster without Ray: the same hosts, and real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.exit_codes import DONE, USAGE
from tests.build.rig import Rig
from tests.fleet.nodes import OPTIONS
from tests.fleet.played import node, played


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A tree and its output."""
    return Rig(tmp_path, OPTIONS).write_shards(4, 2, 8)


def assert_whole(rig: Rig) -> None:
    """What is there is what one machine builds of the tree."""
    found = rig.verify()
    assert (found["code"], found["digest"]) == (0, rig.undisturbed()["digest"]), found


def test_a_build_on_two_nodes_is_one_machines(rig: Rig) -> None:
    """Then nothing is left to do, and nobody is asked."""
    with played(node("a"), node("b")) as cluster:
        done = rig.build("--ray", "auto")
        assert done.code == DONE, done.errors
        assert_whole(rig)
        assert set(cluster.actors) == {"a", "b"}
        again = rig.build("--ray", "auto")
    assert again.code == DONE
    assert again.summary["shards"]["complete before"] == 4
    assert sum(map(len, cluster.actors.values())) == 2
    plain = rig.build()
    assert plain.summary["shards"]["complete before"] == 4, "one machine goes on with it"


def changed(name: str, value: Any) -> dict[str, Any]:
    """A node that tells another fact."""
    return {"describe": lambda told: told | {"facts": told["facts"] | {name: value}}}


def test_versions_that_differ_are_refused_before_anything_is_begun(rig: Rig) -> None:
    """With the difference."""
    with played(node("a"), node("b"), b=changed("Python", "3.9.1")):
        done = rig.build("--ray", "auto")
    assert done.code == USAGE
    assert "Python is 3.9.1 on b" in done.errors
    assert not list(rig.out.glob("*.db"))


def test_what_a_node_lacks_is_told_with_its_name(rig: Rig) -> None:
    """Its model, its sources, its output."""
    lacks = {"describe": lambda told: told | {"troubles": ["no model"]}}
    with played(node("a"), node("b"), b=lacks):
        done = rig.build("--ray", "auto")
    assert done.code == USAGE
    assert "b: no model" in done.errors


def test_a_slot_that_is_lost_is_begun_again(rig: Rig) -> None:
    """And its shards go on."""
    with played(node("a")) as cluster:
        cluster.dies = {("a", 1)}
        done = rig.build("--ray", "auto")
    assert done.code == DONE, done.errors
    assert any("a/cuda:0 is lost" in event["text"] for event in done.of("note"))
    assert_whole(rig)
