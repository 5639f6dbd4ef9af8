"""`status` of real runs: while they work, killed, paused, done; seen from another process that writes nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.console.status import NoRun, status_of
from helix_crawl_otel.probes.torch_cuda import may_have_card
from tests.build.rig import COMMAND, SECONDS, Rig, run_here

JOB = """
import os, sys, time
from helix_crawl_otel import CrawlWatch
with CrawlWatch() as watch, watch.shard("notes", device="cpu") as shard:
    for _ in range(4):
        with shard.batch(genes=16):
            time.sleep(0.01)
        shard.boundary()
    while not os.path.exists(sys.argv[1]):
        with shard.batch(genes=16):
            time.sleep(0.3)
        shard.boundary()
"""


def asked(folder: Path) -> dict[str, Any]:
    """What `--json` prints; its exit code is the command's."""
    code, out, _ = run_here("status", str(folder), "--json")
    told: dict[str, Any] = json.loads(out)
    assert told["exit_code"] == code
    return told


def stands(folder: Path, encoded: int) -> bool:
    """Whether a run there has told of so many genes."""
    try:
        found = status_of(folder)
    except NoRun:
        return False
    return found.record is not None and found.record.standing.encoded >= encoded


def test_a_build_while_it_works_killed_and_done(rig: Rig) -> None:
    """Each time the truth, and the exit code for it; nothing in the folder is changed by the question."""
    rig.write_shards(2, 2, 8)
    slow = ("--fault", "slow:seconds=0.01", "--batch-size", "1")
    with rig.started(rig.build_command(*slow), **rig.held(3)) as process:
        rig.until(lambda: stands(rig.out, 2), process)
        told = asked(rig.out)
        assert (told["state"], told["run"]["pid"], told["exit_code"]) == ("running", process.pid, 0)
        assert told["run"]["standing"]["running"][0]["shard"] == "shard-0"
        assert told["run"]["standing"]["shards"] | {"planned": 2, "running": 1} == told["run"]["standing"]["shards"]
        assert (told["run"]["model"], told["run"]["devices"]) == ("hashing", ["cpu"])
        code, out, _ = run_here("status", str(rig.out))
        assert code == 0
        assert out.startswith("running: helix-crawl build ")
        names = {path.name for path in (rig.out / ".helix-crawl").iterdir()}
        process.kill()
        process.wait(SECONDS)
    told = asked(rig.out)
    assert (told["state"], told["exit_code"]) == ("killed", 1)
    assert f"process {process.pid} is gone" in told["why"]
    assert {path.name for path in (rig.out / ".helix-crawl").iterdir()} <= names
    assert rig.build(*slow).code == 0
    told = asked(rig.out)
    assert (told["state"], told["exit_code"], told["run"]["end"]["exit_code"]) == ("done", 0, 0)
    assert told["run"]["standing"]["shards"]["done"] == 2
    assert told["run"]["standing"]["left"] == 0
    assert told["holder"] is None


@pytest.mark.skipif(sys.platform == "win32", reason="a pause by a signal")
def test_a_job_on_the_cpu_that_is_paused_and_goes_on(rig: Rig) -> None:
    """It is on no card, but where it says; `--total` counts what earlier runs have done."""
    (rig.folder / "job.py").write_text(JOB)
    options = ("--state", "job", "--total", "1000", "--no-metrics", "--json")
    command = [*COMMAND, "run", *options, "--", sys.executable, "job.py", "go"]
    state = rig.folder / "job"
    with rig.started(command) as process:
        rig.until(lambda: stands(state, 64), process)
        told = asked(state)
        assert (told["state"], told["run"]["devices"], told["run"]["expected"]) == ("running", ["cpu"], 1000)
        assert told["run"]["standing"]["left"] + told["run"]["standing"]["vectors"] == 1000
        process.send_signal(signal.SIGTERM)
        first = rig.ended(process, SECONDS)
    assert first.code == 75
    assert [event["device"] for event in first.of("worker_started")] == ["unknown"]
    told = asked(state)
    assert (told["state"], told["exit_code"]) == ("paused", 75)
    before = told["run"]["standing"]["vectors"]
    assert before >= 64
    (rig.folder / "go").touch()
    assert rig.run(command).code == 0
    told = asked(state)
    assert (told["state"], told["run"]["standing"]["encoded"]) == ("done", 64)
    assert told["run"]["standing"]["vectors"] == before + 64


@pytest.mark.skipif(may_have_card(os.environ), reason="there a job that says nothing may be on the card")
def test_a_job_that_says_nothing_is_on_no_card_where_there_is_none(rig: Rig) -> None:
    """Its batches, its worker and its shard have an unknown device; one that says `cuda:0` has that."""
    for said in ("", ", device='cuda:0'"):
        code = (
            "from helix_crawl_otel import CrawlWatch\n"
            f"with CrawlWatch() as watch, watch.shard('a'{said}) as shard, shard.batch(genes=1): pass\n"
        )
        (rig.folder / "job.py").write_text(code)
        done = rig.run([*COMMAND, "run", "--json", "--no-metrics", "--", sys.executable, "job.py"])
        assert done.code == 0, done.errors
        device = "cuda:0" if said else "unknown"
        assert [event["device"] for event in done.of("shard_started")] == [device]
        assert asked(rig.folder)["run"]["devices"] == [device]


def test_a_folder_without_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also this one, when none is named; and a file."""
    monkeypatch.chdir(tmp_path)
    for arguments in ((), (str(tmp_path),), (str(tmp_path / "gone"),)):
        code, out, errors = run_here("status", *arguments)
        assert (code, out) == (2, "")
        assert "accepted: the folder of a build or a backfill, or the one of `run --state`" in errors
    (tmp_path / "file").write_text("")
    assert run_here("status", str(tmp_path / "file"))[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
