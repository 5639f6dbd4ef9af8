"""What a driver does with its slots, on a cluster without Ray: the same hosts, and real workers."""

from __future__ import annotations

import importlib.util
import json
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.exit_codes import DONE, FAILED, PAUSED, USAGE
from helix_crawl_otel.fleet.folder_storage import FolderStorage
from helix_crawl_otel.fleet.host import Host, digest_of_names
from helix_crawl_otel.fleet.jobs import JobHost
from helix_crawl_otel.fleet.stage import StagedShard
from tests.build.rig import COMMAND, Rig, run_here
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


def test_sources_left_out_are_told_as_on_one_machine(rig: Rig) -> None:
    """So many of a kind are named, of the whole run."""
    for number in range(8):
        (rig.source / f"shard-{number % 4}" / f"picture-{number}.png").write_bytes(
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(32)
        )
    with played(node("a"), node("b")):
        done = rig.build("--ray", "auto")
    alone = rig.build("--out", str(rig.folder / "alone"))
    assert done.code == alone.code == DONE, (done.errors, alone.errors)
    for key in ("skipped_sources", "skipped_first", "read_as"):
        assert done.summary[key] == alone.summary[key]
    assert len(done.summary["skipped_first"]) == 3


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_the_ladders_of_a_fleet_are_those_of_one_machine(rig: Rig, dtype: str) -> None:
    """In the same file, of the same encoder: baselines of another precision would be thrown away."""
    with played(node("a")):
        assert rig.build("--ray", "auto", "--dtype", dtype).code == DONE
    alone = rig.folder / "alone"
    assert rig.build("--out", str(alone), "--dtype", dtype).code == DONE
    kept, expected = (json.loads((out / ".helix-crawl" / "ladder.json").read_text()) for out in (rig.out, alone))
    assert kept["encoder"] == expected["encoder"]
    assert set(kept["shards"]) == set(expected["shards"])


def test_a_slot_that_leaves_by_itself_gets_nothing_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one takes its place, and no shard has failed for it."""
    finish, errors = StagedShard.finish, iter([RuntimeError("of our own")])

    def fails_once(staged: StagedShard) -> str:
        for error in errors:
            raise error
        return finish(staged)

    monkeypatch.setattr(StagedShard, "finish", fails_once)
    with played(node("a")) as cluster:
        done = rig.build("--ray", "auto")
    assert done.code == DONE, (done.errors, done.summary)
    assert len(cluster.actors["a"]) == 2
    assert_whole(rig)


def test_without_rays_process_here_the_run_ends_as_paused(rig: Rig) -> None:
    """Ray ends what hangs on it, also on other nodes."""
    with played(node("a")) as cluster:
        cluster.own_node = "id-gone"
        done = rig.build("--ray", "auto")
        assert (done.code, done.summary["reason"]) == (
            PAUSED,
            "Ray has ended on the machine where the command was typed",
        )
        cluster.own_node = "id-a"
        assert rig.build("--ray", "auto").code == DONE
    assert_whole(rig)


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


@pytest.mark.fleet  # without Ray it is that which is told
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
    mark = FolderStorage(out).mark()
    if lacks == "other sources":
        (source / "b.txt").write_text("b")
    (tmp_path / "file").touch()
    asked = {
        "model": str(tmp_path / "gone" / "model") if lacks == "model" else "hashing",
        "out": str(tmp_path / "file" / "out" if lacks == "out" else out),
        "mark": "another" if lacks == "another out" else mark,
        "sources": {str(tmp_path / "gone" if lacks == "sources" else source): digest},
    }
    told = json.loads(Host().describe(json.dumps(asked)))
    said = {
        "nothing": [],
        "model": ["no model"],
        "out": ["cannot be written"],
        "another out": ["another place on this machine than where the command was typed"],
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
    assert told["run"]["standing"]["shards"]["done"] == 4


def test_a_backfill_on_two_nodes_is_one_machines(rig: Rig) -> None:
    """What is no shard is left alone."""
    assert rig.build().code == DONE
    whole = rig.verify()["digest"]
    for path in rig.out.glob("*.db"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE genes SET embedding_dense_v2 = NULL")
    with closing(sqlite3.connect(rig.out / "other.db")) as connection, connection:
        connection.execute("CREATE TABLE other (name TEXT)")
    with played(node("a"), node("b")):
        done = rig.run([*COMMAND, "backfill", str(rig.out), *OPTIONS, "--json", "--ray", "auto"])
        assert done.code == DONE, (done.errors, done.summary)
        assert done.summary["shards"]["done"] == 4
        again = rig.run([*COMMAND, "backfill", str(rig.out), *OPTIONS, "--json", "--ray", "auto"])
        assert again.summary["shards"]["complete before"] == 4
        several = rig.run([*COMMAND, "backfill", str(rig.out), str(rig.source), *OPTIONS, "--json", "--ray", "auto"])
    assert (several.code, len(several.errors.splitlines())) == (USAGE, 1)
    (rig.out / "other.db").unlink()
    assert rig.verify()["digest"] == whole


JOB = """
import os, sys
number, of = os.environ["HELIX_CRAWL_SLOT"], os.environ["HELIX_CRAWL_SLOTS"]
with open(f"copy-{number}-of-{of}", "a") as file:
    file.write("x")
sys.exit(3 if number == sys.argv[1] else 0)
"""


@pytest.mark.parametrize(("fails", "code"), [("none", DONE), ("1", FAILED)])
def test_a_copy_of_a_driver_runs_on_each_slot(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, code: int
) -> None:
    """With its number, and how many there are; one that fails does not stop the others."""
    monkeypatch.setattr(JobHost, "_write_to", lambda host, path: None)  # it is this process's own output here
    (tmp_path / "job.py").write_text(JOB)
    words = ["run", "--ray", "auto", "--no-metrics", "--json", "--", sys.executable, "job.py", fails]
    with played(node("a"), node("b", cards=2)):
        done = rig.run([*COMMAND, *words])
    assert done.code == code, (done.errors, done.summary)
    assert sorted(path.name for path in tmp_path.glob("copy-*")) == [f"copy-{n}-of-3" for n in range(3)]
    assert {event["node"] for event in done.of("worker_started")} == {"a", "b"}
    assert (tmp_path / ".helix-crawl" / "slot-2" / "timeline.jsonl").is_file()
