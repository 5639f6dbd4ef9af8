"""Finds what a process has started, so that a kill reaches those that have left its group as well."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["descendants"]


def descendants(pid: int, proc: Path = Path("/proc")) -> set[int]:
    """Process ids of all that a process has started, and they in turn, as far as their parents still live.

    Args:
        pid: The process.
        proc: Where the kernel lists processes; a seam for tests. Where there is no such folder nothing is known: on
            Windows the Job Object knows, on macOS the group has to do.
    """
    if sys.platform != "linux":
        return set()
    children: dict[int, list[int]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            # "4711 (name, with anything in it) S 42 ...": the parent is the second word after the last parenthesis.
            parent = int(stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found
