"""No process outlives a supervisor that was killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.build.conftest import rig
from tests.build.processes import FINDS_PROCESSES, is_running
from tests.build.rig import COMMAND, Rig, kill, left_running

__all__ = ["rig"]

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="processes are found on Linux and Windows only")

JOB = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").close()
time.sleep(600)
"""


WAITING_JOB = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    file.write("1")
while not os.path.exists(sys.argv[2]):
    time.sleep(0.02)
"""


def _wait(holds: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.mark.parametrize("fault", ["slow:seconds=600", "wedge:batch=1"])
def test_a_worker_that_encodes_or_holds_the_gil_ends_with_its_supervisor(rig: Rig, fault: str) -> None:
    """The kernel sees to it, on Windows its job object: a wedged worker cannot."""
    rig.write_shards(1, 2, 20)
    with rig.started(rig.build_command("--fault", fault)) as process:
        rig.worker_pid(process)
        _wait_for_line(process, b"shard_started")
        process.kill()
        process.wait(60)
        _wait(lambda: not left_running(rig.mark))


def test_what_a_job_of_the_users_own_has_started_ends_as_well(rig: Rig, tmp_path: Path) -> None:
    """The command and its child, neither of which has ever heard of a supervisor."""
    job, started = tmp_path / "job.py", tmp_path / "started"
    job.write_text(JOB)
    command = [*COMMAND, "run", "--no-metrics", "--", sys.executable, str(job), str(started)]
    with rig.started(command) as process:
        _wait(started.exists)
        assert len(left_running(rig.mark, "time.sleep(600)")) == 1
        process.kill()
        process.wait(60)
        _wait(lambda: not left_running(rig.mark))


def _wait_for_line(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError("the build ended")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows needs no guard: what a job starts is in its job object")
def test_a_killed_guard_takes_nobody_along(rig: Rig, tmp_path: Path) -> None:
    """It only waits: without it the job goes on, and the run ends as the job does."""
    job, started, goes_on = tmp_path / "job.py", tmp_path / "started", tmp_path / "goes_on"
    job.write_text(WAITING_JOB)
    command = [*COMMAND, "run", "--no-metrics", "--", sys.executable, str(job), str(started), str(goes_on)]
    with rig.started(command) as process:
        _wait(started.exists)  # what was the launcher is the job by then, and the guard alone has the name
        (guard,) = left_running(rig.mark, "launch.py")
        kill(guard)
        _wait(lambda: not is_running(guard))
        goes_on.touch()
        assert process.wait(60) == 0
    assert started.read_text() == "1", "another one was started"
