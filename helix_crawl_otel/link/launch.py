"""Starts a command that ends with its supervisor, whatever it starts itself: leaves a guard, then becomes the command.

    python -I -S launch.py SUPERVISOR_PID GUARD_FD COMMAND ARGUMENT...

Run by its path, so that nothing of the package is loaded: it costs a bare interpreter's start. The guard waits on a
pipe that only the supervisor holds open. When that ends, by the supervisor's wish or by its death, the guard kills what
is left of the command's group. What has left that group on purpose (a daemon) is not reached.

Our own workers are started without it; they call its first two functions themselves.

On Linux the command gets the parent-death signal as well: the kernel is quicker. It survives the exec, reaches the
command alone, and fires when the THREAD that started it ends, so the supervisor starts children from its main thread.

Source: prctl(2), PR_SET_PDEATHSIG; DESIGN.md, section 7.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time

__all__ = ["die_with_parent", "leave_interrupts_to_supervisor", "set_parent_death_signal"]

PR_SET_PDEATHSIG = 1
MOST_DESCRIPTORS = 65_536
_IGNORED_BY_PYTHON = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)]
NOT_FOUND, NOT_EXECUTABLE = 127, 126
TRY_LATER = 75
"""Of `exit_codes`, which cannot be imported here: the run pauses, and the same command goes on."""
AGAIN_AFTER = (1, 2, 4, 8, 16, 32, *[60] * 9)
"""Seconds after which a process is tried to be started again."""


def set_parent_death_signal(supervisor_pid: int) -> bool:
    """Ask the kernel to kill this process when its parent's thread ends, where the kernel can.

    Returns:
        Whether the supervisor is still there: it may have ended before the kernel was asked.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == supervisor_pid


def die_with_parent(supervisor_pid: int) -> None:
    """Called first in our own workers: end with the supervisor, or now, if it is gone already."""
    if sys.platform == "linux" and not set_parent_death_signal(supervisor_pid):
        sys.exit(1)


def leave_interrupts_to_supervisor() -> None:
    """Called first in our own workers: what asks a run to stop may reach every process of it, and would end this one in
    the middle of a batch. A service manager signals all it has started, a script a whole group; Ctrl-Break reaches
    every process of the console, new groups too.

    The supervisor hears it as well, and tells the worker by a message to finish its batch. Ignored and not handled: no
    call of a driver is woken by it.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def leave_guard(pipe: int) -> bool:
    """Start the guard of this process, later where the system lets no process start just now.

    Returns:
        Whether it runs. Without it the command would be left behind by a supervisor that dies.
    """
    for seconds in AGAIN_AFTER:
        if _started_guard(pipe):
            return True
        time.sleep(seconds)
    return _started_guard(pipe)


def _started_guard(pipe: int) -> bool:
    """The guard is nobody's child for long, so that the command does not wait for it."""
    command = os.getpid()
    try:
        child = os.fork()
    except OSError:
        return False
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        os.setsid()  # a signal to the command's group is not for the guard
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(1)
    try:
        guard(command, pipe)
    finally:
        os._exit(0)


def guard(command: int, pipe: int) -> None:
    """Wait for the end of the pipe, then kill what is left of the command's group."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):  # who reads the command's output must see its end
        os.dup2(nowhere, stream)
    os.closerange(3, pipe)  # nor must the channel stay open by the guard
    os.closerange(pipe + 1, MOST_DESCRIPTORS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(pipe, 1):
        pass
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(command, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Become the command; comes back only when it cannot be started."""
    supervisor_pid, pipe, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if not leave_guard(pipe):
        print("helix-crawl: error: the system has let no more processes start for ten minutes", file=sys.stderr)
        return TRY_LATER
    os.close(pipe)
    if not set_parent_death_signal(supervisor_pid):
        return 1
    for number in _IGNORED_BY_PYTHON:  # the command is to find them as a shell would have left them
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        print(f"helix-crawl: error: {command[0]}: command not found", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"helix-crawl: error: {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_EXECUTABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
