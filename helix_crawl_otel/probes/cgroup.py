"""Reads the memory of the container that encodes on the CPU: its control group against the group's limit.

Usage over limit alone is no sign: it reads 0.996 on a healthy group full of page cache. Usage without the cache is
none either: it misses a process that thrashes on its files (a mapped model, a mapped table), whose memory is all
cache. What tells them apart is major faults: 700 to 13,000 a batch while thrashing, 0 when healthy. So the cache
counts as used while the group takes major faults, and as free while it does not.

Source: INCIDENTS.md, "Probes", cgroup memory.

Blocking: a few small files of /proc and of the groups, 0.6 ms, read without the GIL. In a group at its
limit the reading thread itself may have to wait for the kernel to free a page.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cgroup_files import GroupMemory, has_limit_file, hierarchical_limit, read_group
from helix_crawl_otel.probes.cgroup_groups import CgroupUnknown, Groups, find_groups
from helix_crawl_otel.probes.probe import UNKNOWN, sentence

__all__ = ["THRASHING_PER_SECOND", "CgroupProbe"]

THRASHING_PER_SECOND = 20.0
"""Major faults a second from which a group thrashes. The slowest thrashing batch seen took 700 of them, a healthy one
0; at 20/s those 700 would have taken 35 s."""

_JUDGE_SECONDS = 1.0
"""Faults come in bursts: no rate is taken over less than this, the last judgement stands until then."""


class CgroupProbe:
    """Used and limit of the memory group that holds this process.

    Each group with a limit counts, the process's own and those above it that can be seen; the fullest one is the
    reading, since it is the one that makes the process wait.

    Args:
        root: `/`, or a folder with a recorded `proc/self` and the cgroup mounts below it.
        clock: Gives seconds; only differences count.
        device: Name to report, `cpu`.
        platform: As `sys.platform`; anything but Linux has no control groups.

    Threads: one thread at a time.
    """

    source = "cgroup"

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        clock: Callable[[], float] = time.monotonic,
        device: str = "cpu",
        platform: str = sys.platform,
    ) -> None:
        self.device = device
        self.why: str | None = None
        self._root = root
        self._clock = clock
        self._platform = platform
        self._faults: dict[Path, _Faults] = {}

    def __call__(self) -> MemoryReading:
        """Read the groups now. Never raises."""
        try:
            reading = self._read()
        except Exception as error:  # noqa: BLE001 - a probe never raises: the reading is unknown
            self.why = str(error) if isinstance(error, CgroupUnknown) else f"cgroup: {sentence(error)}"
            return UNKNOWN
        self.why = None
        return reading

    def _read(self) -> MemoryReading:
        if not self._platform.startswith("linux"):
            raise CgroupUnknown(f"cgroup: there are no control groups on {self._platform}")
        groups = find_groups(self._root)
        limited = {
            folder: memory
            for folder in groups.folders
            if has_limit_file(folder, groups.version)
            and (memory := read_group(folder, groups.version)).limit is not None
        }
        _refuse_hidden_limit(groups, limited)
        now = self._clock()
        self._faults = {folder: self._faults.get(folder, _Faults()) for folder in limited}
        readings = [
            MemoryReading(_used(memory, self._faults[folder].thrashing(memory.major_faults, now)), memory.limit)
            for folder, memory in limited.items()
        ]
        return max(readings, key=lambda reading: reading.fraction or 0.0)


class _Faults:
    """Judges one group's count of major faults, reading by reading."""

    def __init__(self) -> None:
        self._mark: tuple[int, float] | None = None
        self._thrashing = False

    def thrashing(self, count: int | None, now: float) -> bool:
        """Whether the group has thrashed since the last judgement; not at the first reading, which knows no rate."""
        if count is None:
            return False
        if self._mark is None:
            self._mark = (count, now)
        seconds = now - self._mark[1]
        if seconds >= _JUDGE_SECONDS or seconds < 0:
            self._thrashing = seconds > 0 and (count - self._mark[0]) / seconds >= THRASHING_PER_SECOND
            self._mark = (count, now)
        return self._thrashing


def _used(memory: GroupMemory, thrashing: bool) -> int:
    return memory.usage if thrashing else max(memory.usage - memory.droppable, 0)


def _refuse_hidden_limit(groups: Groups, limited: dict[Path, GroupMemory]) -> None:
    """Raise when the limit that counts is above what can be seen, or when there is none.

    Version 1 tells of a hidden limit, not of the usage there. Version 2 tells nothing: only that a group on top which
    has limit files cannot be the real root.
    """
    seen = [memory.limit for memory in limited.values() if memory.limit is not None]
    hidden = "cgroup: the limit is set in a group above, hidden by a namespace: its usage cannot be seen"
    if groups.version == 1:
        tightest = hierarchical_limit(groups.folders[0])
        if tightest is not None and tightest < min(seen, default=sys.maxsize):
            raise CgroupUnknown(hidden)
    if seen:
        return
    if groups.version == 2 and has_limit_file(groups.folders[-1], 2):
        raise CgroupUnknown("cgroup: no limit in the groups that can be seen, those above are hidden by a namespace")
    raise CgroupUnknown("cgroup: no memory limit is set")
