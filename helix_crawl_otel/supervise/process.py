"""Starts worker processes and ends them, with everything they have started, on each system by its own means.

No worker outlives its supervisor. Linux: the parent-death signal. Windows: a Job Object that closes with it. macOS, and
all that a driver of the user's own starts on a POSIX system: a guard, see `launch.py`.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from helix_crawl_otel.import_path import VARIABLE, folders_for_worker, variable_for_worker
from helix_crawl_otel.link import launch
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.probes.processes import descendants, processor_seconds
from helix_crawl_otel.supervise.windows import JobObject, send_break
from helix_crawl_otel.timing import RunningClock

__all__ = ["ProcessHandle", "Spawn", "WorkerProcess", "python_command", "spawn", "worker_command"]

KILL_SECONDS = 30.0
"""What a killed process gets to be gone: on a machine that swaps, its memory takes a while to be given back. One that
is stuck in the driver is not gone, however long one waits."""

LOOK_SECONDS, LATE_SECONDS = 0.02, 1.0


class ProcessHandle(Protocol):
    """A worker's process, as its slot sees it; see `WorkerProcess`."""

    @property
    def pid(self) -> int:
        """Its number."""

    @property
    def exit_code(self) -> int | None:
        """Its code, `None` while it runs."""

    def poll(self) -> int | None:
        """Its code, `None` while it runs."""

    def has_rest(self) -> bool:
        """It has ended by itself: whether something that it has started runs on, as far as that is known."""

    def end_rest(self) -> None:
        """It has ended by itself: end what it has left running."""

    def interrupt(self) -> None:
        """What a terminal sends it on Ctrl-C."""

    def processor_seconds(self) -> float | None:
        """What it and all that it has started have used of the processor; `None` when unknown."""

    def end(self, grace_seconds: float) -> bool:
        """Ask it to end, then kill it. Returns whether it is gone."""


class Spawn(Protocol):
    """How a process is started; see `spawn`."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        popen_arguments: Mapping[str, Any],
        stdout: BinaryIO | None,
        stderr: BinaryIO | None,
        is_ours: bool,
    ) -> ProcessHandle:
        """Start it."""


class WorkerProcess:
    """A started process and its family.

    Args:
        popen: Started, in a group of its own where there are groups.
        job: On Windows, the job it is in.
        is_ours: It is this package's own worker, which leaves every request to end to us: it can only be killed.
        guard: Descriptor of the pipe that its guard waits on, `None` when it has none.

    Threads: the supervisor's; `end` from one thread of its own. `exit_code` from any.
    """

    def __init__(
        self, popen: subprocess.Popen[bytes], job: JobObject | None, *, is_ours: bool, guard: int | None = None
    ) -> None:
        self.pid = popen.pid
        self._popen = popen
        self._is_ours = is_ours
        self._job = job
        self._guard = guard

    @property
    def exit_code(self) -> int | None:
        """Its code; negative for a signal on POSIX; `None` while it runs or has not been waited for."""
        return self._popen.returncode

    def poll(self) -> int | None:
        """Its code, `None` while it runs."""
        return self._popen.poll()

    def has_rest(self) -> bool:
        """Whether something of its group runs on, once it has ended by itself. Windows does not tell."""
        if sys.platform == "win32":
            return False
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # of another user by now
            pass
        return True

    def end_rest(self) -> None:
        """End what it has left running in its group, once it has ended by itself."""
        if self._job is not None:
            self._job.close()
        elif sys.platform != "win32":
            self._signal_group(signal.SIGKILL)
        self._dismiss_guard()

    def interrupt(self) -> None:
        """What a terminal sends it on Ctrl-C."""
        if sys.platform != "win32":
            self._signal_group(signal.SIGINT)
        # Ctrl-C is off in a new group, Ctrl-Break is not.
        elif self.exit_code is None and not send_break(self.pid):
            watchdog.warning("process %d has no console and is not interrupted", self.pid)

    def processor_seconds(self) -> float | None:
        """What it and all that it has started have used of the processor; `None` when unknown."""
        return processor_seconds(self.pid)

    def end(self, grace_seconds: float) -> bool:
        """Ask a driver of the user's own to end, then kill it with all it started; ours is killed at once.

        Args:
            grace_seconds: Between the two. The world's seconds, as all here.

        Returns:
            Whether it is gone. A process that the kernel cannot end is not.
        """
        family = descendants(self.pid)
        if sys.platform != "win32" and not self._is_ours:
            self._signal_group(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)  # a stopped process would not hear the first
            if not self._wait(grace_seconds):
                family |= descendants(self.pid)
        for pid in family:
            _kill(pid)
        self._kill()
        is_gone = self._wait(KILL_SECONDS)
        if is_gone and self._job is not None:
            self._job.close()
        self._dismiss_guard()
        return is_gone

    # -- inside -------------------------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> bool:
        clock = RunningClock(time.monotonic, LATE_SECONDS)  # neither is gone before both have run for so long
        deadline = clock() + seconds
        while self._popen.poll() is None:
            if clock() >= deadline:
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def _kill(self) -> None:
        if self._job is not None:
            self._job.terminate()
        elif sys.platform == "win32":
            self._popen.kill()
        else:
            self._signal_group(signal.SIGKILL)

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            os.close(guard)

    def _signal_group(self, number: int) -> None:
        if sys.platform != "win32":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _kill(pid: int) -> None:
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    popen_arguments: Mapping[str, Any],
    stdout: BinaryIO | None,
    stderr: BinaryIO | None,
    is_ours: bool,
) -> WorkerProcess:
    """Start a process.

    Args:
        argv: Program and arguments; no shell is involved.
        env: Its whole environment.
        popen_arguments: Of the channel's end that it inherits.
        stdout: Where it writes, `None` for where we do.
        stderr: Likewise.
        is_ours: It is this package's own worker, which starts nothing and sees to its own end where the kernel helps.

    Returns:
        The process.

    Raises:
        OSError: It cannot be started: no such program, no right to run it.

    Threads: the main thread: on Linux a child dies with the thread that made it.
    """
    if sys.platform == "win32":
        popen = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
            **popen_arguments,
        )
        return WorkerProcess(popen, _job_of(popen), is_ours=is_ours)
    command, inherited, guard = list(argv), tuple(popen_arguments.get("pass_fds", ())), None
    waits: int | None = None
    if not is_ours or sys.platform != "linux":
        waits, guard = os.pipe()
        launcher = Path(launch.__file__)
        command = [sys.executable, "-I", "-S", str(launcher), str(os.getpid()), str(waits), *command]
        inherited = (*inherited, waits)
    try:
        popen = subprocess.Popen(
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=inherited,
        )
    except BaseException:
        if guard is not None:
            os.close(guard)
        raise
    finally:
        if waits is not None:
            os.close(waits)
    return WorkerProcess(popen, None, is_ours=is_ours, guard=guard)


def _job_of(popen: subprocess.Popen[bytes]) -> JobObject | None:
    if sys.platform != "win32":
        return None
    try:
        return JobObject(int(popen._handle))
    except OSError:
        popen.kill()
        raise


def python_command() -> tuple[list[str], dict[str, str]]:
    """How to start this Python: the command, and variables to add to its environment.

    On Windows a virtual environment's `python.exe` only starts the real one, which would be another process than the
    one we know; so the real one is started, as `multiprocessing` does it.
    """
    base = getattr(sys, "_base_executable", None)
    if sys.platform == "win32" and base and base != sys.executable:
        return [base], {"__PYVENV_LAUNCHER__": sys.executable}
    return [sys.executable], {}


def worker_command(module: str, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """How to start a module of this package as a worker: the command, and its whole environment.

    It imports from where we do, without the current folder. Nothing of this is for a driver of the user's own, which
    gets what it would have got without us.

    Args:
        module: With a `main` that takes no arguments; it finds our process id in `sys.argv`.
        environ: Ours.
    """
    python, added = python_command()
    flags = ["-I"] if sys.flags.isolated else [*["-E"] * sys.flags.ignore_environment, *["-s"] * sys.flags.no_user_site]
    variable = environ.get(VARIABLE, "")
    start = Path(launch.__file__).with_name("start.py").absolute()
    command = [*python, *flags, str(start), module, str(os.getpid()), *folders_for_worker(variable)]
    # From Python 3.11 on, what the worker's libraries start is kept out of there too (`multiprocessing`, with -c).
    changed = {**environ, **added, VARIABLE: variable_for_worker(variable), "PYTHONSAFEPATH": "1"}
    return command, {name: value for name, value in changed.items() if name != VARIABLE or value}
