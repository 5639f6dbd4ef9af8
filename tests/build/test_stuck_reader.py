"""Nobody reads what a supervised command shows: it does its work, gives all back, and then waits for its reader."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import COMMAND, SECONDS, Done, Rig, kill, left_running
from tests.build.test_interrupts import WORKER, interrupt, started

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="processes are found on Linux and Windows only")

ONE_BY_ONE = ("--batch-size", "1")
"""Two events a gene, of some 350 bytes together."""

HELD = 30_000
"""More than a terminal holds that is not read: some 17 kB on Linux."""

FULL = 300
"""Genes after which the largest pipe is full: 64 kB on Linux."""


GIVEN_SECONDS = 0.5
"""What a first interrupt gets to be heard where that cannot be seen."""


def vectors(rig: Rig, shard: str = "shard-0") -> int:
    """How many genes of a shard that is being written have one."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(rig.out / f"{shard}.db")) as database:
        (found,) = database.execute("SELECT count(embedding_dense_v2) FROM genes").fetchone()
        return int(found)
    return 0


def until_full(rig: Rig, process: subprocess.Popen[bytes]) -> None:
    """Wait until the events of a build are more than its pipe holds."""
    rig.until(lambda: (rig.out / "shard-0.db").exists() and vectors(rig) >= FULL, process)


def until_over(rig: Rig, process: subprocess.Popen[bytes]) -> None:
    """Wait until a build has released its folder; it has no worker then, and waits for its reader."""
    rig.until(lambda: is_released(rig.out / ".helix-crawl"), process)
    assert left_running(rig.mark, WORKER) == []


def is_released(state: Path) -> bool:
    """Whether a run was in this folder, and has released it: the timeline is begun under the lock."""
    return (state / "timeline.jsonl").exists() and not (state / "lock.json").exists()


def assert_quiet_and_resumable(rig: Rig, done: Done) -> None:
    """What was interrupted twice has nothing to complain of, and the same command brings it to its end."""
    assert "Traceback" not in done.errors
    assert "Fatal" not in done.errors
    assert rig.build().code == 0
    assert rig.verify()["missing"] == 0


def test_a_build_whose_events_nobody_reads(rig: Rig) -> None:
    """Its worker is killed meanwhile and started again, all is encoded, somebody is told, and then a reader comes.

    He finds every event, in order, and the exit code is that of the run.
    """
    rig.write_shards(1, 4, 400)
    told = rig.folder / "told.py"
    summary_file = rig.folder / "told.json"
    told.write_text(
        f"import os, sys; part = {str(rig.folder / 'part.json')!r}\n"
        "with open(part, 'w') as file:\n    file.write(sys.stdin.read())\n"
        f"os.replace(part, {str(summary_file)!r})"
    )
    notify = subprocess.list2cmdline([sys.executable, str(told)])
    hang = ("--fault", f"hang:batch={FULL + 1},worker=1")  # so that it is not done before it is killed
    with rig.started(rig.build_command(*ONE_BY_ONE, *hang, "--notify", notify)) as process:
        until_full(rig, process)
        kill(rig.worker_pid(process))
        until_over(rig, process)
        found = rig.verify()
        rig.until(summary_file.exists, process)
        summary = json.loads(summary_file.read_text())
        done = rig.ended(process)
    assert found["missing"] == 0
    assert done.code == 0, done.errors
    assert done.summary == {"event": "summary", **summary, "time": done.summary["time"]}
    assert [event["reason"] for event in done.of("worker_started")] == ["first", "crash"]
    assert done.events[0]["event"] == "run_started"
    assert done.events[-1] == done.summary
    pending = [event["pending"] for event in done.of("committed")]
    assert pending == sorted(set(pending), reverse=True)
    assert found["genes"] - 1 <= len(pending) <= found["genes"]  # a worker may be killed before it has said so
    assert done.of("dropped") == []


def test_a_reader_that_goes_without_having_read(rig: Rig) -> None:
    """The build has hung on nothing, and ends by itself with its own exit code."""
    rig.write_shards(1, 3, 400)
    with rig.started(rig.build_command(*ONE_BY_ONE)) as process:
        until_full(rig, process)
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert rig.verify()["missing"] == 0


def test_log_lines_that_nobody_reads(rig: Rig) -> None:
    """Standard error is full: nobody who logs waits, and whoever reads at last finds the lines in order."""
    rig.write_shards(1, 2, 20)
    site = rig.with_site(
        f"""
        import logging, os, sys, threading, time
        def log():
            while not logging.getLogger().handlers:
                time.sleep(0.01)
            for number in range(3000):
                logging.getLogger("helix_crawl_otel").warning("line %d %s", number, "x" * 100)
            open({str(rig.folder / "logged")!r}, "w").close()
        if "build" in sys.orig_argv:
            threading.Thread(target=log, daemon=True).start()
        """
    )
    command = rig.build_command(*ONE_BY_ONE, "--fault", "crash:batch=5,worker=1", "--fault", "slow:seconds=0.05")
    with rig.started(command, **site) as process:
        assert process.stdout is not None
        events = [json.loads(process.stdout.readline())]
        while events[-1]["event"] != "summary":
            events.append(json.loads(process.stdout.readline()))
        rig.until((rig.folder / "logged").exists, process)
        done = rig.ended(process)
    assert done.code == 0
    assert events[-1]["starts"] == {"first": 1, "crash": 1}
    lines = [line.split()[1:] for line in done.errors.splitlines()]  # behind the date
    assert [rest[1] for rest in lines if rest[:1] == ["line"]] == [str(number) for number in range(3000)]
    assert rig.verify()["missing"] == 0


def test_an_interrupt_while_the_end_waits_for_a_reader(rig: Rig) -> None:
    """The first has paused the run, whose folder is free; the second gives the reader up."""
    rig.write_shards(1, 3, 400)
    with started(rig, rig.build_command(*ONE_BY_ONE, "--fault", "slow:seconds=0"), **rig.held(FULL + 1)) as process:
        until_full(rig, process)
        interrupt(rig, process)
        time.sleep(GIVEN_SECONDS)  # nobody sees whether it has been heard
        rig.go()
        until_over(rig, process)
        assert process.poll() is None
        interrupt(rig, process)
        assert process.wait(SECONDS) == 130
        done = rig.ended(process)
    assert_quiet_and_resumable(rig, done)


def test_a_second_interrupt_of_a_run_that_nobody_reads(rig: Rig) -> None:
    """It ends at once with 130, as it does before a reader."""
    rig.write_shards(1, 3, 400)
    with started(rig, rig.build_command(*ONE_BY_ONE, "--fault", f"hang:batch={FULL + 1}")) as process:
        until_full(rig, process)
        interrupt(rig, process)
        time.sleep(GIVEN_SECONDS)  # nobody sees whether it has been heard: two at the same time are one
        while process.poll() is None:
            interrupt(rig, process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        assert process.returncode == 130
        done = rig.ended(process)
    assert_quiet_and_resumable(rig, done)


def test_a_job_of_the_users_own_whose_events_nobody_reads(rig: Rig) -> None:
    """`run`: the job comes to its end, and so does the run once it is read."""
    program = rig.folder / "job.py"
    program.write_text(
        "from pathlib import Path\n"
        "from helix_crawl_otel import CrawlWatch\n"
        "with CrawlWatch() as watch, watch.shard('mine', device='cpu') as shard:\n"
        "    for _ in range(1000):\n"
        "        with shard.batch(genes=8):\n"
        "            sum(range(2000))\n"
        "        shard.boundary()\n"
        "Path(__file__).with_name('done').touch()\n"
    )
    options = ("--no-metrics", "--json", "--state", str(rig.folder / "state"))
    with rig.started([*COMMAND, "run", *options, "--", sys.executable, str(program)]) as process:
        rig.until((rig.folder / "done").exists, process)
        rig.until(lambda: is_released(rig.folder / "state"), process)
        done = rig.ended(process)
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == 8000
    assert len(done.of("committed")) == 1000


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_a_terminal_that_is_frozen(rig: Rig) -> None:
    """Ctrl-S: the build is done behind the bars; the summary is last when the terminal goes on."""
    import pty

    rig.write_shards(90, 1, 4)
    ours, theirs = pty.openpty()
    command = [*COMMAND, "build", str(rig.source), "--out", str(rig.out), *rig.options]
    environ = {**rig.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True)
    os.close(theirs)
    try:
        until_over(rig, process)
        assert rig.verify()["missing"] == 0
        seen = b""
        with contextlib.suppress(OSError):  # which is how Linux says that nobody has it open any more
            while piece := os.read(ours, 65536):
                seen += piece
        assert process.wait(SECONDS) == 0
    finally:
        os.close(ours)
        process.kill()
        process.wait()
    assert len(seen) > HELD, "it holds as much: this test proves nothing"
    assert b"done after" in seen.splitlines()[-3] + seen.splitlines()[-4], seen[-500:]
    assert seen.count(b"\x1b[?25l") == seen.count(b"\x1b[?25h") > 0
