"""Reads the figures of one memory control group, of version 1 or 2, into the same four numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["GroupMemory", "has_limit_file", "hierarchical_limit", "read_group"]

_NO_LIMIT = 2**60
"""Version 1 has no word for "no limit": it shows the largest whole number of pages, near 2^63."""

_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_USAGE = {1: "memory.usage_in_bytes", 2: "memory.current"}
_DROPPABLE = {
    1: ("total_inactive_file", "total_active_file"),
    2: ("inactive_file", "active_file", "slab_reclaimable"),
}
"""What the kernel gives up without anybody waiting for it, as long as nobody uses it: page cache, and directory and
inode caches, which version 1 does not show."""
_MAJOR_FAULTS = {1: "total_pgmajfault", 2: "pgmajfault"}


@dataclass(frozen=True, slots=True)
class GroupMemory:
    """One group, the groups below it included.

    Args:
        usage: Bytes, page cache included.
        limit: Bytes, more than 0; `None` when the group has no limit.
        droppable: Bytes of the usage that are cache.
        major_faults: Page faults that waited for a disk, since the group was made; `None` when not shown.
    """

    usage: int
    limit: int | None
    droppable: int
    major_faults: int | None


def has_limit_file(folder: Path, version: int) -> bool:
    """Whether a group can have a limit at all: the real root of version 2 cannot, nor one without the controller."""
    return (folder / _LIMIT[version]).is_file()


def read_group(folder: Path, version: int) -> GroupMemory:
    """Read one group.

    Raises:
        OSError: A file is missing.
        ValueError: A file holds something else than numbers.
    """
    stat = _stat(folder)
    return GroupMemory(
        usage=int((folder / _USAGE[version]).read_text(encoding="ascii")),
        limit=_limit((folder / _LIMIT[version]).read_text(encoding="ascii").strip()),
        droppable=sum(stat.get(name, 0) for name in _DROPPABLE[version]),
        major_faults=stat.get(_MAJOR_FAULTS[version]),
    )


def hierarchical_limit(folder: Path) -> int | None:
    """Version 1: the tightest limit of a group and all above it, hidden ones included; `None` when there is none."""
    limit = _stat(folder).get("hierarchical_memory_limit")
    return None if limit is None else _limit(str(limit))


def _limit(text: str) -> int | None:
    if text == "max" or int(text) >= _NO_LIMIT:
        return None
    return max(int(text), 1)


def _stat(folder: Path) -> dict[str, int]:
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
