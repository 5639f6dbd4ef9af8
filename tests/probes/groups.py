"""Folders that look like `/proc/self` and the mounted control groups of a machine, for CgroupProbe.

`HEALTHY` and `THRASHING` of version 1 were recorded on Linux 6.18 in a group with a limit of 160 MiB: a process that
reads a 400 MiB file from end to end, and one that probes the same file through a mapping at random places. The same
figures in the words of version 2 are synthetic.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

MIB = 1024**2
LIMIT = 160 * MIB
NO_LIMIT_V1 = 9223372036854771712
"""What version 1 shows for "no limit" on a machine with pages of 4 KiB."""


@dataclass(frozen=True)
class Figures:
    """One group: bytes, and the count of major faults."""

    usage: int
    limit: int | None = LIMIT
    inactive_file: int = 0
    active_file: int = 0
    slab_reclaimable: int = 0
    major_faults: int = 0

    def after(self, faults: int) -> Figures:
        """The same group so many major faults later."""
        return replace(self, major_faults=self.major_faults + faults)


HEALTHY = Figures(166_461_440, inactive_file=157_286_400, active_file=4_096)
THRASHING = Figures(167_686_144, inactive_file=157_859_840, active_file=4_096, major_faults=65_579)
FAULTS_WHILE_THRASHING = 85_293 - 65_579
"""In 1.5 s."""


def write_v1(folder: Path, figures: Figures, hierarchical: int | None = None) -> None:
    """Write a group of version 1; `hierarchical` is the tightest limit of all above it, its own if not given."""
    limit = NO_LIMIT_V1 if figures.limit is None else figures.limit
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{figures.usage}\n")
    (folder / "memory.stat").write_text(
        "inactive_file 0\nactive_file 0\npgmajfault 0\n"  # the group without those below it: not what counts
        f"hierarchical_memory_limit {limit if hierarchical is None else hierarchical}\n"
        f"total_inactive_file {figures.inactive_file}\ntotal_active_file {figures.active_file}\n"
        f"total_pgmajfault {figures.major_faults}\n"
    )


def write_v2(folder: Path, figures: Figures) -> None:
    """Write a group of version 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text("max\n" if figures.limit is None else f"{figures.limit}\n")
    (folder / "memory.current").write_text(f"{figures.usage}\n")
    (folder / "memory.stat").write_text(
        f"anon 0\ninactive_file {figures.inactive_file}\nactive_file {figures.active_file}\n"
        f"slab_reclaimable {figures.slab_reclaimable}\npgmajfault {figures.major_faults}\n"
    )


def write_proc(root: Path, cgroup: str, mountinfo: str) -> None:
    """Write `/proc/self/cgroup` and `/proc/self/mountinfo`."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text(mountinfo)


V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:9 master:1 - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
V2_MOUNTS = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@dataclass(frozen=True)
class Machine:
    """A recorded machine of one version.

    Args:
        root: What CgroupProbe gets as `/`.
        version: 1 or 2.
    """

    root: Path
    version: int

    def place(self, path: str, mount_root: str = "/") -> None:
        """Put the process into the group `path`, with the hierarchy mounted from `mount_root` on."""
        if self.version == 1:
            write_proc(self.root, f"5:cpu:/elsewhere\n4:memory:{path}\n0::/\n", V1_MOUNTS.format(root=mount_root))
        else:
            write_proc(self.root, f"0::{path}\n", V2_MOUNTS.format(root=mount_root))

    def write(self, path: str, figures: Figures, hierarchical: int | None = None) -> None:
        """Write the figures of a group, by its path below the mount point."""
        if self.version == 1:
            write_v1(self.root / "sys/fs/cgroup/memory" / path.strip("/"), figures, hierarchical)
        else:
            write_v2(self.root / "sys/fs/cgroup" / path.strip("/"), figures)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds
