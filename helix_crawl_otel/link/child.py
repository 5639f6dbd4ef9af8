"""What our own workers do first: they end with their supervisor, and leave the keyboard to it."""

from __future__ import annotations

import signal
import sys

from helix_crawl_otel.link.launch import set_parent_death_signal

__all__ = ["die_with_parent", "leave_break_to_supervisor"]


def die_with_parent(supervisor_pid: int) -> None:
    """Called first in our own workers: end with the supervisor, or now, if it is gone already."""
    if sys.platform == "linux" and not set_parent_death_signal(supervisor_pid):
        sys.exit(1)


def leave_break_to_supervisor() -> None:
    """Called first in our own workers: Ctrl-Break at the keyboard reaches every process of the console, new groups too.

    The supervisor hears it as well, and tells the worker by a message to finish its batch.
    """
    if sys.platform == "win32":
        for number in (signal.SIGINT, signal.SIGBREAK):
            signal.signal(number, signal.SIG_IGN)
