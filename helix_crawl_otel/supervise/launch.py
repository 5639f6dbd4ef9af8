"""Starts a command so that it dies with its supervisor (Linux): sets the parent-death signal, then becomes the command.

    python -I -S launch.py SUPERVISOR_PID COMMAND ARGUMENT...

Run by its path, so that nothing of the package is loaded: it costs a bare interpreter's start. The signal survives the
exec. It fires when the THREAD that started the child ends, so the supervisor starts children from its main thread.

Source: prctl(2), PR_SET_PDEATHSIG; DESIGN.md, section 7.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

__all__ = ["set_parent_death_signal"]

PR_SET_PDEATHSIG = 1
NOT_FOUND, NOT_EXECUTABLE = 127, 126


def set_parent_death_signal(supervisor_pid: int) -> bool:
    """Ask the kernel to kill this process when its parent's thread ends.

    Returns:
        Whether the supervisor is still there: it may have ended before the kernel was asked.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == supervisor_pid


def main(arguments: list[str]) -> int:
    """Become the command; comes back only when it cannot be started."""
    supervisor_pid, command = int(arguments[0]), arguments[1:]
    if not set_parent_death_signal(supervisor_pid):
        return 1
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
