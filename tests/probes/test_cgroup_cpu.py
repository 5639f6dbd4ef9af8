"""A container that is allowed two of 64 cores shows all 64: the quota says how many there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.probes.cgroup import quota_cores

MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A recorded `/proc` and `/sys`; version 1 is mounted where its files are."""
    tops = {name.split("/")[3] for name in files if name.startswith("sys/fs/cgroup/cpu") and ".cfs_" in name}
    mounts = MOUNTS + "".join(f"33 31 0:30 / /sys/fs/cgroup/{top} rw - cgroup cgroup rw,{top}\n" for top in tops)
    for name, content in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2 = "sys/fs/cgroup"
V1 = "sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {f"{V2}/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {f"{V2}/cpu.max": "max 100000\n"}, None),
        ("0::/app/job\n", {f"{V2}/app/job/cpu.max": "max 100000", f"{V2}/app/cpu.max": "150000 100000"}, 1.5),
        ("0::/app/job\n", {f"{V2}/app/job/cpu.max": "50000 100000", f"{V2}/app/cpu.max": "150000 100000"}, 0.5),
        ("0::/docker/123\n", {f"{V2}/cpu.max": "400000 100000"}, 4.0),
        ("0::/../other\n", {f"{V2}/cpu.max": "400000 100000"}, None),
        (
            "4:memory:/x\n3:cpu,cpuacct:/\n",
            {f"{V1}/cpu.cfs_quota_us": "50000", f"{V1}/cpu.cfs_period_us": "100000"},
            0.5,
        ),
        ("3:cpu:/\n", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, None),
        (
            "3:cpu,cpuacct:/a\n",
            {
                f"{V2}/cpu,cpuacct/a/cpu.cfs_quota_us": "300000",
                f"{V2}/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        ("0::/\n", {f"{V2}/cpu.max": "nonsense\n"}, None),
        ("0::/\n", {f"{V2}/cpu.max": "1 0\n"}, None),
        ("nonsense\n", {}, None),
        ("", {}, None),
    ],
    ids=[
        "limit",
        "none",
        "parent",
        "own",
        "container",
        "hidden",
        "version 1",
        "version 1, none",
        "version 1, both",
        "no number",
        "no period",
        "no group",
        "empty",
    ],
)
def test_the_smallest_quota_counts(tmp_path: Path, groups: str, files: dict[str, str], expected: float | None) -> None:
    """Of the process's group and those above it that can be seen, in either version."""
    assert quota_cores(machine(tmp_path, groups, files)) == expected


def test_the_hosts_path_is_cut_at_the_mount(tmp_path: Path) -> None:
    """A container without a namespace of its own sees the host's path; its mount says where it begins."""
    files = {f"{V2}/cpu.max": "400000 100000", f"{V2}/inner/cpu.max": "150000 100000"}
    root = machine(tmp_path, "0::/docker/123/inner\n", files)
    (root / "proc/self/mountinfo").write_text("31 23 0:28 /docker/123 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert quota_cores(root) == 1.5


def test_no_control_groups(tmp_path: Path) -> None:
    """As on Windows and macOS."""
    assert quota_cores(tmp_path) is None
