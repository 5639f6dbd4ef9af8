"""What a driver says over the link beside batches: records, its status, threads, a fork, an exception; and in place."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import COMMAND, Done, Rig

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="what is left running is looked for")


def run(rig: Rig, way: str, *arguments: str) -> Done:
    """One of the plain drivers, supervised, on a clock that is a hundred times as fast."""
    options = ("--no-metrics", "--json", "--window", "4", "--clock-rate", "100")
    driver = [sys.executable, "-m", "tests.run.plain", way, *arguments]
    return rig.run([*COMMAND, "run", *options, "--", *driver])


def said(done: Done) -> list[dict[str, Any]]:
    """What the driver has told its test."""
    return [json.loads(line[5:]) for line in done.errors.splitlines() if line.startswith("said ")]


def batches(rig: Rig) -> list[dict[str, Any]]:
    """The batches of the timeline."""
    text = (rig.folder / ".helix-crawl/timeline.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if row["event"] == "batch"]


def test_a_driver_that_times_itself_has_a_status(rig: Rig) -> None:
    """`record` is judged as a batch is, and `status` answers with the supervisor's numbers."""
    done = run(rig, "recorded", "20")
    assert done.code == 0, done.errors
    (status,) = said(done)
    assert status["verdict"] == "HEALTHY"
    assert status["baseline"] == pytest.approx(32.0)
    assert status["ema"] == pytest.approx(32.0)
    assert (status["applied"], status["rung"]) == ([], 0)
    assert [(row["shard"], row["genes"], row["seconds"], row["work"]) for row in batches(rig)] == [
        ("own", 16, 0.5, 1600)
    ] * 20
    assert done.summary["encoded"] == 320


def test_a_driver_that_times_itself_is_helped(rig: Rig) -> None:
    """The slow ones trip: the release is applied at its boundary, then it is ended, and its successor is healthy."""
    done = run(rig, "recorded", "60")
    assert done.code == 0, done.errors
    applied = [event["action"] for event in done.of("action") if event["outcome"] == "applied"]
    assert [kind for kind in applied if kind != "DETECT"][:2] == ["EMPTY_CACHE", "RECYCLE"]
    assert done.of("worker_ended")[0]["code"] == 75


def test_a_rung_that_the_driver_cannot_take_is_passed_over(rig: Rig) -> None:
    """`exit_to_recycle=False`: it is released and never ended, and the log says why."""
    done = run(rig, "embedded")
    assert done.code == 0, done.errors
    assert len(done.of("worker_started")) == 1
    outcomes = [(event["action"], event["outcome"]) for event in done.of("action") if event["action"] != "DETECT"]
    assert outcomes == [("EMPTY_CACHE", "applied"), ("RECYCLE", "passed_over"), ("DEMOTE_CPU", "passed_over")]
    lines = [line for line in done.errors.splitlines() if "passed over action=RECYCLE" in line]
    assert len(lines) == 1
    assert "exit_to_recycle" in lines[0]


def test_eight_threads_record(rig: Rig) -> None:
    """Not one batch is lost or doubled on the link."""
    done = run(rig, "threaded")
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == 8 * 250 * 3
    genes = [row["genes"] for row in batches(rig)]
    assert (genes.count(2), genes.count(1), len(genes)) == (2000, 2000, 4000)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_in_the_driver(rig: Rig) -> None:
    """The child's use of the shard harms nobody: it has a link, and a shard, of its own, and is judged by itself."""
    done = run(rig, "forked")
    assert done.code == 0, done.errors
    assert said(done) == [{"verdict": "WARMING_UP", "applied": []}]
    genes = {name: [row["genes"] for row in batches(rig) if row["shard"] == name] for name in ("one", "one (2)")}
    assert genes == {"one": [5, 7, 3], "one (2)": [100]}
    assert done.summary["encoded"] == 115
    assert [(event["slot"], event["code"]) for event in done.of("worker_ended")] == [("job/2", None), ("job", 0)]


def test_an_exception_in_a_batch(rig: Rig) -> None:
    """It passes through, and its batch is not counted; uncaught it is a crash with the driver's own traceback."""
    done = run(rig, "raising", str(rig.folder / "out"))
    assert done.code == 1
    assert said(done)[0] == {"caught": "the first"}
    assert "RuntimeError: the second" in done.errors
    assert len(done.of("worker_started")) == len(done.of("crash")) == 4
    assert [row["genes"] for row in batches(rig)] == [4, 6]
    assert {event["code"] for event in done.of("worker_ended")} == {1}
