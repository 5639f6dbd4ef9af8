"""Which folders hold the groups of the process: mounts, namespaces, containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.probes.cgroup import CgroupProbe, find_groups
from helix_crawl_otel.probes.probe import UNKNOWN, ProbeFailure
from tests.probes.groups import V1_MOUNTS, V2_MOUNTS, Machine, write_proc


def found(root: Path) -> tuple[int, list[str]]:
    """Version, and folders as seen from the root."""
    groups = find_groups(root)
    return groups.version, [folder.relative_to(root).as_posix() for folder in groups.folders]


def test_the_own_group_comes_first_and_then_all_above_it(tmp_path: Path) -> None:
    """Up to the mount point and not beyond."""
    (tmp_path / "sys/fs/cgroup/a/b").mkdir(parents=True)
    Machine(tmp_path, 2).place("/a/b")
    assert found(tmp_path) == (2, ["sys/fs/cgroup/a/b", "sys/fs/cgroup/a", "sys/fs/cgroup"])


def test_the_memory_group_is_not_that_of_another_controller(tmp_path: Path) -> None:
    """Version 1 has a hierarchy for each controller; one mixed with version 2 counts by where memory is."""
    (tmp_path / "sys/fs/cgroup/memory/job").mkdir(parents=True)
    Machine(tmp_path, 1).place("/job")
    assert found(tmp_path) == (1, ["sys/fs/cgroup/memory/job", "sys/fs/cgroup/memory"])


def test_controllers_that_share_a_hierarchy(tmp_path: Path) -> None:
    """Memory may be mounted together with others."""
    (tmp_path / "sys/fs/cgroup/cpu,memory/job").mkdir(parents=True)
    mounts = "35 31 0:32 / /sys/fs/cgroup/cpu,memory rw - cgroup cgroup rw,cpu,memory\n"
    write_proc(tmp_path, "4:cpu,memory:/job\n", mounts)
    assert found(tmp_path)[1][0] == "sys/fs/cgroup/cpu,memory/job"


def test_a_path_from_outside_of_a_container_is_cut_at_the_mount(tmp_path: Path) -> None:
    """Version 1 without a namespace: the process sees the host's path, the mount shows its own part."""
    (tmp_path / "sys/fs/cgroup/memory/inner").mkdir(parents=True)
    Machine(tmp_path, 1).place("/docker/ab12/inner", mount_root="/docker/ab12")
    assert found(tmp_path)[1] == ["sys/fs/cgroup/memory/inner", "sys/fs/cgroup/memory"]


def test_a_colon_in_a_path(tmp_path: Path) -> None:
    """Container runtimes name groups with colons."""
    (tmp_path / "sys/fs/cgroup/kube:pod:a").mkdir(parents=True)
    Machine(tmp_path, 2).place("/kube:pod:a")
    assert found(tmp_path)[1][0] == "sys/fs/cgroup/kube:pod:a"


def test_a_blank_in_a_mount_point(tmp_path: Path) -> None:
    """Mount tables write it as an octal number."""
    (tmp_path / "my groups").mkdir()
    write_proc(tmp_path, "0::/\n", "31 23 0:28 / /my\\040groups rw - cgroup2 cgroup2 rw\n")
    assert found(tmp_path) == (2, ["my groups"])


def test_the_mount_that_shows_most_is_taken(tmp_path: Path) -> None:
    """The same hierarchy mounted twice: the whole of it tells more than a part."""
    (tmp_path / "part").mkdir()
    (tmp_path / "whole/a/b").mkdir(parents=True)
    mounts = "31 23 0:28 /a/b /part rw - cgroup2 cgroup2 rw\n32 23 0:28 / /whole rw - cgroup2 cgroup2 rw\n"
    write_proc(tmp_path, "0::/a/b\n", mounts)
    assert found(tmp_path)[1] == ["whole/a/b", "whole/a", "whole"]


@pytest.mark.parametrize(
    ("path", "mount_root"), [("/../other", "/"), ("/..", "/"), ("/host/a", "/docker/b"), ("/gone", "/")]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_group_that_cannot_be_seen_is_unknown(tmp_path: Path, version: int, path: str, mount_root: str) -> None:
    """Outside of the namespace, outside of the mount, or no such folder."""
    (tmp_path / "sys/fs/cgroup/memory").mkdir(parents=True)
    Machine(tmp_path, version).place(path, mount_root)
    with pytest.raises(ProbeFailure, match="hidden by a namespace or not mounted"):
        find_groups(tmp_path)
    assert CgroupProbe(tmp_path, platform="linux")() == UNKNOWN


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [
        ("", V2_MOUNTS.format(root="/")),
        ("0::/app\n", ""),
        ("0::/app\n", "a line of some other shape\n31 23 - \n"),
        ("4:memory:/app\n", V1_MOUNTS.replace("rw,memory", "rw,misc").format(root="/")),
    ],
)
def test_a_process_in_no_mounted_group_is_unknown(tmp_path: Path, cgroup: str, mountinfo: str) -> None:
    """No line, no mount, or the hierarchy of another controller only."""
    write_proc(tmp_path, cgroup, mountinfo)
    probe = CgroupProbe(tmp_path, platform="linux")
    assert probe() == UNKNOWN
    assert probe.why == "cgroup: this process is in no memory control group that is mounted"


def test_a_machine_without_proc_is_unknown(tmp_path: Path) -> None:
    """The reason says what could not be read."""
    probe = CgroupProbe(tmp_path, platform="linux")
    assert probe() == UNKNOWN
    assert probe.why is not None
    assert probe.why.startswith("cgroup: FileNotFoundError")
