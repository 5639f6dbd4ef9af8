"""Windows: Ctrl-Break for a process and its group, which is what is left of a terminal's Ctrl-C in a new group.

Sent not by `os.kill`: where there is no console (a scheduled task, a service) it goes on to end the process (3.11).

Source: Microsoft, "GenerateConsoleCtrlEvent function"; CPython, `os_kill_impl`. Under Wine the event does not arrive.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["send_break"]

CTRL_BREAK_EVENT = 1


def send_break(pid: int) -> bool:
    """Send it to a process that leads a group of its own.

    Returns:
        Whether the system has taken it; it does not without a console that both share.
    """
    if sys.platform != "win32":
        return False
    return bool(ctypes.windll.kernel32.GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, pid))
