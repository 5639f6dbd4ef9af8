"""A real spill, scripted by nobody: memory is really full, batches are really slow, and the ladder does the rest."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.build.rig import COMMAND, Done, Rig
from tests.run.test_run import missing, write_passages
from tests.standins.nvml import Answers, Card

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory control groups are Linux's"),
    pytest.mark.timeout(240),
]

MIB = 1024**2
TABLE = 400 * MIB
RATE = "10"


def supervise(rig: Rig, group: Path, library: Path, how: str, **shards: int) -> Done:
    """Supervise the driver with the group as its card."""
    answers = Answers(rig.folder / "answers.txt", [Card(total=None, used=None, reserved=0, cgroup=group)])
    table = rig.folder / "table"
    with table.open("wb") as file:
        for _ in range(TABLE // MIB):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    write_passages(rig.folder / "passages.db", **shards)
    options = ["--no-metrics", "--json", "--window", "4", "--clock-rate", RATE, "--device", "cuda:0"]
    driver = [sys.executable, "-m", "tests.spill.driver", str(group), str(table), str(rig.folder / "passages.db"), how]
    return rig.run([*COMMAND, "run", *options, "--", *driver], 200, **answers.environ(library))


def test_the_ladder_ends_a_real_spill(rig: Rig, group: Path, nvml_library: Path) -> None:
    """Released (no help), recycled (fast for a while), the CPU; the next shard on the card; no vector is missing."""
    done = supervise(rig, group, nvml_library, "spill", first=130, second=5)
    assert done.code == 0, done.errors
    assert missing(rig.folder / "passages.db") == 0
    starts = [(event["device"], event["reason"]) for event in done.of("worker_started")]
    assert starts == [("cuda:0", "first"), ("cuda:0", "recycle"), ("cpu", "demote"), ("cuda:0", "resume")]
    assert {event["state"] for event in done.of("gate")} & {"back", "stable"}
    detected = next(event for event in done.of("action") if event["action"] == "DETECT")
    assert detected["evidence"]["memory_fraction"] >= 0.92


@pytest.mark.parametrize("how", ["cache", "quota"])
def test_controls_do_not_trip(rig: Rig, group: Path, nvml_library: Path, how: str) -> None:
    """Full of plain page cache at healthy speed; slow at a tenth of the processor, and not full."""
    done = supervise(rig, group, nvml_library, how, only=120)
    assert done.code == 0, done.errors
    assert missing(rig.folder / "passages.db") == 0
    assert done.of("action") == []
    assert len(done.of("worker_started")) == 1
    lines = [json.loads(line) for line in (rig.folder / ".helix-crawl/timeline.jsonl").read_text().splitlines()]
    used = [line["used_bytes"] / line["limit_bytes"] for line in lines if line["event"] == "memory"]
    seconds = [line["seconds"] for line in lines if line["event"] == "batch"]
    # Each control is what it says: really full, or really slow.
    assert (max(used) >= 0.95) == (how == "cache")
    assert (median(seconds[-40:]) > 5 * median(seconds[2:10])) == (how == "quota")
