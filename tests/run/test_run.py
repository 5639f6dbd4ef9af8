"""A driver of a user's own: recycled, demoted, back on the card, and what each exit code of it means."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import COMMAND, Done, Rig

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="what is left running is looked for")

ROOT = Path(__file__).parents[2]
QUICK = ("--window", "4", "--clock-rate", "25")


def write_passages(path: Path, **shards: int) -> None:
    """Passages of so many batches of 16 for each shard."""
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("CREATE TABLE passages (id INTEGER PRIMARY KEY, shard TEXT, text TEXT, vector BLOB)")
        rows = [(name, f"Passage {n:05} of {name}.") for name, batches in shards.items() for n in range(batches * 16)]
        store.executemany("INSERT INTO passages (shard, text) VALUES (?, ?)", rows)


def missing(path: Path) -> int:
    """Passages without a vector."""
    with closing(sqlite3.connect(path)) as store:
        return int(store.execute("SELECT count(*) FROM passages WHERE vector IS NULL").fetchone()[0])


def supervise(rig: Rig, *command: str, options: tuple[str, ...] = QUICK) -> Done:
    """`helix-crawl run -- COMMAND`."""
    return rig.run([*COMMAND, "run", "--no-metrics", "--json", *options, "--", *command])


def test_the_whole_ladder_of_a_driver(rig: Rig) -> None:
    """Released, recycled (75), demoted (79) with the card hidden, the next shard on the card; no vector is missing."""
    path, log = rig.folder / "passages.db", rig.folder / "log"
    write_passages(path, first=60, second=3)
    done = supervise(rig, sys.executable, "-m", "tests.run.driver", "card", "minimal", str(log), str(path))
    assert done.code == 0, done.errors
    assert missing(path) == 0
    starts = [(event["device"], event["reason"]) for event in done.of("worker_started")]
    assert starts == [("unknown", "first"), ("cuda:0", "recycle"), ("cpu", "demote"), ("cuda:0", "resume")]
    assert [event["code"] for event in done.of("worker_ended")] == [75, 79, 79, 0]
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({process["pid"] for process in seen}) == 4
    assert [process["BGEM3_DEVICE"] == "cpu" for process in seen] == [False, False, True, False]
    assert seen[2]["CUDA_VISIBLE_DEVICES"] == "-1"
    applied = [event["action"] for event in done.of("action") if event["outcome"] == "applied"]
    assert [kind for kind in applied if kind != "DETECT"] == ["EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]


def test_the_example_runs_as_it_stands(rig: Rig) -> None:
    """Supervised, and alone; the second time there is nothing to do."""
    path = rig.folder / "passages.db"
    write_passages(path, only=5)
    example = str(ROOT / "docs/examples/minimal.py")
    assert supervise(rig, sys.executable, example, str(path), options=()).code == 0
    assert missing(path) == 0
    assert rig.run([sys.executable, example, str(path)]).code == 0


@pytest.mark.parametrize(
    ("code", "expected", "starts"),
    [(0, 0, 1), (75, 75, 1), (78, 78, 1), (79, 1, 4), (3, 1, 4)],
)
def test_exit_codes_that_nobody_asked_for(rig: Rig, code: int, expected: int, starts: int) -> None:
    """75 pauses the run, 78 ends it, all others are crashes: three restarts, then 1. The driver uses no watch."""
    done = supervise(rig, sys.executable, "-c", f"raise SystemExit({code})")
    assert done.code == expected, done.errors
    assert len(done.of("worker_started")) == starts


def test_a_command_that_is_not_there(rig: Rig) -> None:
    """Wrong usage, in one sentence."""
    done = supervise(rig, "no-such-program-of-ours")
    assert done.code == 2
    assert "no-such-program-of-ours: command not found" in done.errors
