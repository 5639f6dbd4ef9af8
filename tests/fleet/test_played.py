"""What a driver does with its slots, on a cluster without Ray: the same hosts, and real workers."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.exit_codes import DONE, USAGE
from helix_crawl_otel.fleet.host import Host, digest_of_names
from tests.build.rig import Rig, run_here
from tests.fleet.nodes import OPTIONS
from tests.fleet.played import node, played

TOKEN = ".helix-crawl/fleet-token"


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ray", "nowhere"), "--ray is 'nowhere'; accepted: auto"),
        (("--ray", "127.0.0.1:99999"), "--ray is '127.0.0.1:99999'; accepted: auto"),
        (("--ray", "127.0.0.1:{closed}"), "no cluster is there: Connection refused; accepted"),
        (("--stage", "x"), "--stage is given without --ray; accepted"),
        (("--ray", "auto", "--checkpoint", "0"), "--checkpoint is '0'; accepted: seconds, a number from 1"),
        (("--ray", "auto", "--lease", "soon"), "--lease is 'soon'; accepted: seconds, a number from 5"),
        (("--ray", "auto", "--dry-run"), "--dry-run and --ray are given; accepted: one of them"),
        (("--ray", "auto", "--device", "cuda:1"), "--device is 'cuda:1' with --ray; accepted: auto, cpu or cuda"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(rig: Rig, words: tuple[str, ...], said: str) -> None:
    """And nothing is made."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        done = rig.build(*(word.format(closed=closed.getsockname()[1]) for word in words))
    assert done.code == USAGE
    assert said in done.errors
    assert len(done.errors.splitlines()) == 1
    assert not rig.out.exists()


def test_without_ray_the_extra_is_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has one machine needs none."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else find(name, *more))
    done = rig.build("--ray", "auto")
    assert done.code == USAGE
    assert "pip install 'helix-crawl-otel[ray]'" in done.errors
    assert len(done.errors.splitlines()) == 1


@pytest.mark.parametrize("lacks", ["nothing", "model", "out", "another out", "sources", "other sources"])
def test_a_node_tells_what_it_lacks(tmp_path: Path, lacks: str) -> None:
    """In a sentence each."""
    out, source = tmp_path / "out", tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a")
    digest = digest_of_names(source)
    out.mkdir()
    (out / TOKEN).parent.mkdir()
    (out / TOKEN).write_text("x" if lacks == "another out" else "token")
    if lacks == "other sources":
        (source / "b.txt").write_text("b")
    (tmp_path / "file").touch()
    asked = {
        "model": str(tmp_path / "gone" / "model") if lacks == "model" else "hashing",
        "out": str(tmp_path / "file" / "out" if lacks == "out" else out),
        "token_name": TOKEN,
        "token": "token",
        "sources": {str(tmp_path / "gone" if lacks == "sources" else source): digest},
    }
    told = json.loads(Host().describe(json.dumps(asked)))
    said = {
        "nothing": [],
        "model": ["no model"],
        "out": ["cannot be written"],
        "another out": ["another folder there than where the command was typed"],
        "sources": ["gone cannot be read there: No such file or directory"],
        "other sources": ["holds other files there"],
    }[lacks]
    assert len(told["troubles"]) == len(said), told
    assert all(part in text for part, text in zip(said, told["troubles"], strict=True)), told


def test_the_timelines_of_the_nodes_are_one_report(rig: Rig, tmp_path: Path) -> None:
    """And `status` tells of the whole run."""
    with played(node("a"), node("b")):
        assert rig.build("--ray", "auto").code == DONE
    assert len(list(rig.out.glob(".helix-crawl/nodes/*/cuda-0/timeline-*.jsonl"))) == 2
    code, said, errors = run_here("replay", str(rig.out), "--json")
    assert code == DONE, errors
    assert json.loads(said.splitlines()[-1])["shards"] == 4
    code, said, errors = run_here("status", str(rig.out), "--json")
    told = json.loads(said)
    assert (code, told["state"]) == (DONE, "done"), errors
    assert told["shards"]["done"] == 4
