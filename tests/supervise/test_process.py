"""Processes that are started and ended, with all they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helix_crawl_otel.interrupts import INTERRUPTS
from helix_crawl_otel.supervise.process import WorkerProcess, spawn
from tests.build.processes import FINDS_PROCESSES, is_running

finds = pytest.mark.skipif(not FINDS_PROCESSES, reason="processes are found on Linux and Windows only")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals, and kills at once")
linux = pytest.mark.skipif(sys.platform != "linux", reason="lists descriptors in /proc; tests/link has a channel's")

FAMILY = """
import subprocess, sys, time
apart = sys.argv[2] == "apart"
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=apart)
with open(sys.argv[1] + ".part", "w") as file: file.write(str(child.pid))
import os; os.replace(sys.argv[1] + ".part", sys.argv[1])
if sys.argv[3] == "stays": time.sleep(600)
"""


def _start(*argv: str, is_ours: bool = False) -> WorkerProcess:
    arguments = {"pass_fds": ()} if os.name == "posix" else {}
    command = [sys.executable, *argv]
    return spawn(command, env=os.environ, popen_arguments=arguments, stdout=None, stderr=None, is_ours=is_ours)


def _wait(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@finds
@pytest.mark.parametrize("where", ["beside", "apart"])
def test_what_a_worker_has_started_ends_with_it(tmp_path: Path, where: str) -> None:
    """In its group, and in a session of its own as well. On Windows it is killed at once, with code 1."""
    told = tmp_path / "pid"
    process = _start("-c", FAMILY, str(told), where, "stays")
    _wait(told.exists)
    child = int(told.read_text())
    assert process.end(60.0)
    _wait(lambda: not is_running(child))
    assert not is_running(process.pid)
    assert process.exit_code == (1 if sys.platform == "win32" else -signal.SIGTERM)


@finds
def test_what_a_worker_leaves_behind_in_its_group_is_ended(tmp_path: Path) -> None:
    """It has ended by itself; its child holds memory that the next worker needs. Not before that is asked for."""
    told = tmp_path / "pid"
    process = _start("-c", FAMILY, str(told), "beside", "leaves")
    _wait(lambda: process.poll() is not None)
    child = int(told.read_text())
    assert process.exit_code == 0
    assert is_running(child)
    assert process.has_rest() == (sys.platform != "win32")
    process.end_rest()
    _wait(lambda: not is_running(child))


@posix
def test_a_stopped_worker_and_one_that_ignores_the_request_are_ended() -> None:
    """The first is continued to hear it, the second is killed. Ours leave every request to us, and get none."""
    for is_ours, number in ((False, signal.SIGTERM), (True, signal.SIGKILL)):
        process = _start("-c", "import time; time.sleep(600)", is_ours=is_ours)
        os.kill(process.pid, signal.SIGSTOP)
        assert process.end(60.0)
        assert process.exit_code == -number
    program = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(600)"
    )
    read, write = os.pipe()
    with os.fdopen(write, "wb") as output:
        arguments = {"pass_fds": ()}
        command = [sys.executable, "-c", program]
        deaf = spawn(command, env=os.environ, popen_arguments=arguments, stdout=output, stderr=None, is_ours=False)
    with os.fdopen(read, "rb") as told:
        told.readline()
        assert deaf.end(0.1)
    assert deaf.exit_code == -signal.SIGKILL


@linux
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_worker_inherits_nothing_but_its_streams(is_ours: bool) -> None:
    """Not our files, not another worker's channel, not the pipe of its guard."""
    stray = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(stray, True)
    program = "import os, sys; sys.exit(len(os.listdir('/proc/self/fd')) - 4)"  # the listing itself is one
    process = _start("-c", program, is_ours=is_ours)
    _wait(lambda: process.poll() is not None)
    os.close(stray)
    assert process.exit_code == 0


def test_the_exit_code_is_the_commands_own() -> None:
    """The launcher becomes the command: its pid, its code."""
    process = _start("-c", "import sys; sys.exit(79)")
    _wait(lambda: process.poll() is not None)
    assert process.exit_code == 79


def test_a_program_that_is_not_there() -> None:
    """The launcher says so with a shell's code; on Windows, where there is none, the system does."""
    if sys.platform == "win32":
        with pytest.raises(FileNotFoundError):
            spawn(["no-such-program"], env={}, popen_arguments={}, stdout=None, stderr=None, is_ours=False)
        return
    arguments = {"pass_fds": ()}
    missing = spawn(["no-such-program"], env={}, popen_arguments=arguments, stdout=None, stderr=None, is_ours=False)
    _wait(lambda: missing.poll() is not None)
    assert missing.exit_code == 127


WITHOUT_CONSOLE = """
import os, sys
from helix_crawl_otel.interrupts import INTERRUPTS
from helix_crawl_otel.supervise.process import spawn
command = [sys.executable, "-c", "import time; time.sleep(600)"]
process = spawn(command, env=os.environ, popen_arguments={}, stdout=None, stderr=None, is_ours=False)
for _ in range(2):
    process.interrupt()
    print(process.poll(), end=" ")
    print(process.end(0.0), end=" ")
"""


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: there are signals here")
def test_a_job_without_a_console_is_not_ended_by_an_interrupt() -> None:
    """Nothing can be sent to it, and that is told once: no error, no kill. Where one is, Wine does not carry it."""
    if sys.platform == "win32":
        command = [sys.executable, "-c", WITHOUT_CONSOLE]
        flags = subprocess.DETACHED_PROCESS
        done = subprocess.run(command, creationflags=flags, capture_output=True, timeout=120, check=True)
        assert done.stdout.split() == [b"None", b"True", b"1", b"True"]
        assert done.stderr.count(b"has no console and is not interrupted") == 1


@pytest.mark.parametrize("name", [name for name in INTERRUPTS if hasattr(signal, name)])
def test_an_interrupt_does_not_end_a_worker(name: str) -> None:
    """It may reach whoever is in the group or the console: a worker finishes its batch, and anything else ends."""
    press = f"import signal, time; signal.raise_signal(signal.{name}); time.sleep(0.1); print('alive')"
    ours = "from helix_crawl_otel.link.launch import leave_interrupts_to_supervisor as first; first()\n"
    for program, expected in ((ours + press, b"alive"), (press, b"")):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=False)
        assert done.stdout.strip() == expected, done.stderr
