"""Reads the control groups that hold this process: memory against its limit, and the time of the CPU it is allowed.

A container sees the top of its own part only. What lies above is hidden by a namespace or by a bind mount, and a
limit up there cannot be compared with its usage.

Usage over limit alone is no sign: it reads 0.996 on a healthy group full of page cache. Usage without the cache is
none either: it misses a process that thrashes on its files (a mapped model, a mapped table), whose memory is all
cache. What tells them apart is major faults: 700 to 13,000 a batch while thrashing, 0 when healthy. So the cache
counts as used while the group takes major faults, and as free while it does not.

Source: INCIDENTS.md, "Probes", cgroup memory; cgroups(7), cgroup_namespaces(7), proc_pid_mountinfo(5).

Blocking: a few small files of /proc and of the groups, 0.6 ms, read without the GIL. In a group at its
limit the reading thread itself may have to wait for the kernel to free a page.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.probe import Probe, ProbeFailure

__all__ = ["THRASHING_PER_SECOND", "CgroupProbe", "Groups", "find_groups", "quota_cores"]

ROOT = Path("/")

THRASHING_PER_SECOND = 20.0
"""Major faults a second from which a group thrashes. The slowest thrashing batch seen took 700 of them, a healthy one
0; at 20/s those 700 would have taken 35 s."""

_JUDGE_SECONDS = 1.0
"""Faults come in bursts: no rate is taken over less than this, the last judgement stands until then."""

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


# -- which groups -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of a process.

    Args:
        version: 1 or 2.
        folders: The process's own group first, then each one above it up to the top that can be seen.
    """

    version: int
    folders: tuple[Path, ...]


def find_groups(root: Path, controller: str = "memory", *, needs_own: bool = True) -> Groups:
    """Find the groups of the calling process.

    Args:
        root: `/`, or a folder with a recorded `proc/self` and the cgroup mounts below it.
        controller: What is limited; version 1 has a hierarchy for each.
        needs_own: False: where the process's own group is not there (in a container its path may lead nowhere), those
            above it will do.

    Raises:
        ProbeFailure: There is no such group, or it is hidden.
        OSError: `/proc` cannot be read.
    """
    paths = _paths((root / "proc/self/cgroup").read_text(encoding="utf-8"))
    mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8")
    for version, name, found in (
        (1, controller, _mounts_of(mounts, "cgroup", controller)),
        (2, "", _mounts_of(mounts, "cgroup2", None)),
    ):
        if name in paths and found:
            return Groups(version, _folders(root, paths[name], found, needs_own))
    raise ProbeFailure(f"cgroup: this process is in no {controller} control group that is mounted")


def _paths(text: str) -> dict[str, str]:
    """Path of the process by controller, from `/proc/self/cgroup`; version 2 stands under the empty name."""
    paths = {}
    for line in text.splitlines():
        _id, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _mounts_of(text: str, kind: str, option: str | None) -> list[tuple[str, str]]:
    """(root within the hierarchy, mount point) of each mount of a kind, from `/proc/self/mountinfo`."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if not separator or len(fields) < 5 or not kinds or kinds[0] != kind:
            continue
        if option is None or option in kinds[-1].split(","):
            mounts.append((_unescaped(fields[3]), _unescaped(fields[4])))
    return mounts


def _folders(root: Path, path: str, mounts: list[tuple[str, str]], needs_own: bool) -> tuple[Path, ...]:
    """The group's folder and those above it, by the mount that shows the most of them."""
    group = PurePosixPath(path)
    candidates = []
    for mount_root, point in sorted(mounts, key=lambda mount: len(mount[0])):
        # A path that leads up and out: the group lies outside of the namespace.
        if ".." not in group.parts and group.is_relative_to(mount_root):
            inside = group.relative_to(mount_root)
            own = root / point.lstrip("/") / inside
            candidates.append(tuple([own, *own.parents][: len(inside.parts) + 1]))
    for folders in candidates:
        if folders[0].is_dir():
            return folders
    if needs_own or not candidates:
        raise ProbeFailure(f"cgroup: the group {path} is hidden by a namespace or not mounted")
    return candidates[0]


def _unescaped(field: str) -> str:
    r"""Blanks and backslashes are written as octal numbers: `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


# -- memory -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _GroupMemory:
    """One group, the groups below it included.

    Args:
        usage: Bytes, page cache included.
        limit: Bytes, more than 0.
        droppable: Bytes of the usage that are cache.
        major_faults: Page faults that waited for a disk, since the group was made; `None` when not shown.
    """

    usage: int
    limit: int
    droppable: int
    major_faults: int | None


class CgroupProbe(Probe):
    """Used and limit of the memory group that holds this process.

    Each group with a limit counts, the process's own and those above it that can be seen; the fullest one is the
    reading, since it is the one that makes the process wait.

    Args:
        root: `/`, or a folder with a recorded `proc/self` and the cgroup mounts below it.
        clock: Gives seconds; only differences count.
        platform: As `sys.platform`; anything but Linux has no control groups.

    Threads: one thread at a time.
    """

    source = "cgroup"
    blames = "cgroup:"

    def __init__(
        self,
        root: Path = ROOT,
        *,
        clock: Callable[[], float] = time.monotonic,
        platform: str = sys.platform,
    ) -> None:
        super().__init__("cpu")
        self._root = root
        self._clock = clock
        self._platform = platform
        self._faults: dict[Path, _Faults] = {}

    def _read(self) -> MemoryReading:
        if not self._platform.startswith("linux"):
            raise ProbeFailure(f"cgroup: there are no control groups on {self._platform}")
        groups = find_groups(self._root)
        read = {folder: _read_group(folder, groups.version) for folder in groups.folders}
        limited = {folder: memory for folder, memory in read.items() if memory is not None}
        _refuse_hidden_limit(groups, [memory.limit for memory in limited.values()])
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


def _used(memory: _GroupMemory, thrashing: bool) -> int:
    return memory.usage if thrashing else max(memory.usage - memory.droppable, 0)


def _read_group(folder: Path, version: int) -> _GroupMemory | None:
    """One group; `None` when it has no limit.

    Raises:
        OSError: A file is missing.
        ValueError: A file holds something else than numbers.
    """
    if not _has_limit_file(folder, version):
        return None
    stat = _stat(folder)
    usage = int((folder / _USAGE[version]).read_text(encoding="ascii"))
    limit = _limit((folder / _LIMIT[version]).read_text(encoding="ascii").strip())
    droppable = sum(stat.get(name, 0) for name in _DROPPABLE[version])
    return None if limit is None else _GroupMemory(usage, limit, droppable, stat.get(_MAJOR_FAULTS[version]))


def _has_limit_file(folder: Path, version: int) -> bool:
    """Whether a group can have a limit at all: the real root of version 2 cannot, nor one without the controller."""
    return (folder / _LIMIT[version]).is_file()


def _refuse_hidden_limit(groups: Groups, seen: list[int]) -> None:
    """Raise when the limit that counts is above what can be seen, or when there is none.

    Version 1 tells of a hidden limit, the tightest of a group and all above it, not of the usage there. Version 2 tells
    nothing: only that a group on top which has limit files cannot be the real root.
    """
    if groups.version == 1:
        tightest = _limit(str(_stat(groups.folders[0]).get("hierarchical_memory_limit", "max")))
        if tightest is not None and tightest < min(seen, default=sys.maxsize):
            hidden = "the limit is set in a group above, hidden by a namespace: its usage cannot be seen"
            raise ProbeFailure(f"cgroup: {hidden}")
    if seen:
        return
    if groups.version == 2 and _has_limit_file(groups.folders[-1], 2):
        raise ProbeFailure("cgroup: no limit in the groups that can be seen, those above are hidden by a namespace")
    raise ProbeFailure("cgroup: no memory limit is set")


def _limit(text: str) -> int | None:
    if text == "max" or int(text) >= _NO_LIMIT:
        return None
    return max(int(text), 1)


def _stat(folder: Path) -> dict[str, int]:
    lines = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


# -- time of the CPU --------------------------------------------------------------------------------------------------


def quota_cores(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control groups of this process allow; `None` without a limit that can be seen.

    A container that is allowed 2 of 64 cores shows all 64; 64 threads on 2 cores' time is far slower than 2.

    Args:
        root: `/`, or a folder with a recorded `proc/self` and the cgroup mounts below it.
    """
    try:
        groups = find_groups(root, "cpu", needs_own=False)
    except (OSError, ValueError, ProbeFailure):
        return None
    quotas = [_quota(folder, groups.version) for folder in groups.folders]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota(folder: Path, version: int) -> float | None:
    """`cpu.max` of version 2 holds "200000 100000" or "max 100000"; in version 1 a quota of -1 is none."""
    files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version == 1 else ("cpu.max",)
    try:
        words = [word for name in files for word in (folder / name).read_text(encoding="ascii").split()]
        quota, period = int(words[0]), int(words[1])
    except (OSError, ValueError, IndexError):
        return None
    return quota / period if quota > 0 and period > 0 else None
