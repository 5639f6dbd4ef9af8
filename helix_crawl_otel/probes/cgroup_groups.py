"""Finds the memory control groups that hold a process: its own and those above it, as far as it can see them.

A container sees the top of its own part only. What lies above is hidden by a namespace or by a bind mount, and a
limit up there cannot be compared with its usage.

Source: cgroups(7), cgroup_namespaces(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["CgroupUnknown", "Groups", "find_groups"]


class CgroupUnknown(Exception):
    """The memory of the group is not known. The text is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The memory groups of a process.

    Args:
        version: 1 or 2.
        folders: The process's own group first, then each one above it up to the top that can be seen.
    """

    version: int
    folders: tuple[Path, ...]


def find_groups(root: Path) -> Groups:
    """Find the groups of the calling process.

    Args:
        root: `/`, or a folder with a recorded `proc/self` and the cgroup mounts below it.

    Raises:
        CgroupUnknown: There is no memory group, or it is hidden.
        OSError: `/proc` cannot be read.
    """
    paths = _paths((root / "proc/self/cgroup").read_text(encoding="utf-8"))
    mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8")
    first = _mounts_of(mounts, "cgroup", "memory")
    if "memory" in paths and first:
        return Groups(1, _folders(root, paths["memory"], first))
    second = _mounts_of(mounts, "cgroup2", None)
    if "" in paths and second:
        return Groups(2, _folders(root, paths[""], second))
    raise CgroupUnknown("cgroup: this process is in no memory control group that is mounted")


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


def _folders(root: Path, path: str, mounts: list[tuple[str, str]]) -> tuple[Path, ...]:
    """The group's folder and those above it, by the mount that shows the most of them."""
    if "/.." not in path:  # a path that leads up and out: the group lies outside of the namespace
        for mount_root, point in sorted(mounts, key=lambda mount: len(mount[0])):
            try:
                inside = PurePosixPath(path).relative_to(mount_root)
            except ValueError:
                continue
            top = root / point.lstrip("/")
            own = top / inside
            if own.is_dir():
                return tuple([own, *own.parents][: len(inside.parts) + 1])
    raise CgroupUnknown(f"cgroup: the group {path} is hidden by a namespace or not mounted")


def _unescaped(field: str) -> str:
    r"""Blanks and backslashes are written as octal numbers: `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
