"""Reads how much time of the CPU the container of this process is allowed.

A container that is allowed 2 of 64 cores shows all 64; 64 threads on 2 cores' time is far slower than 2.

Source: cgroups(7): `cpu.max` of version 2, `cpu.cfs_quota_us` and `cpu.cfs_period_us` of version 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["quota_cores"]

ROOT = Path("/")


def quota_cores(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the control groups of this process allow; `None` without a limit.

    Args:
        root: `/`, or a folder with a recorded `proc/self/cgroup` and `sys/fs/cgroup`.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    quotas = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            quotas += [_version_2(folder) for folder in _folders(root / "sys/fs/cgroup", path)]
        elif "cpu" in controllers.split(","):
            tops = (root / "sys/fs/cgroup/cpu", root / f"sys/fs/cgroup/{controllers}")
            quotas += [_version_1(folder) for top in tops for folder in _folders(top, path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _folders(top: Path, path: str) -> Iterator[Path]:
    """The group and those above it. In a container the path may lead nowhere, and the top is its own group."""
    inside = PurePosixPath(path.lstrip("/"))
    if ".." not in inside.parts:
        yield from (top / folder for folder in (inside, *inside.parents))


def _version_2(folder: Path) -> float | None:
    """`cpu.max` holds "200000 100000" or "max 100000"."""
    return _quota(*(*_words(folder / "cpu.max"), "", "")[:2])


def _version_1(folder: Path) -> float | None:
    """A quota of -1 is none."""
    quota, period = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _quota("".join(quota), "".join(period))


def _quota(quota: str, period: str) -> float | None:
    if not quota.isdigit() or not period.isdigit() or not int(period):
        return None
    return int(quota) / int(period)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
