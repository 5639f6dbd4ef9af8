"""CgroupProbe on recorded folders: which limit counts, and what is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cgroup import CgroupProbe
from helix_crawl_otel.probes.probe import UNKNOWN
from tests.probes.groups import HEALTHY, MIB, NO_LIMIT_V1, Clock, Figures, Machine


def test_the_fullest_of_nested_limits_is_the_reading(machine: Machine, probe: CgroupProbe) -> None:
    """A half-full group in a nearly full one waits for the outer one, whatever its own limit is."""
    machine.place("/pod/app")
    machine.write("pod", Figures(990 * MIB, limit=1000 * MIB))
    machine.write("pod/app", Figures(50 * MIB, limit=100 * MIB))
    assert probe() == MemoryReading(990 * MIB, 1000 * MIB)
    machine.write("pod", Figures(300 * MIB, limit=1000 * MIB))
    assert probe() == MemoryReading(50 * MIB, 100 * MIB)


def test_a_limit_above_the_group_counts(machine: Machine, probe: CgroupProbe) -> None:
    """The usage is that of the group with the limit, with all that share it."""
    machine.place("/pod/app")
    machine.write("pod", Figures(90 * MIB, limit=100 * MIB))
    machine.write("pod/app", Figures(10 * MIB, limit=None), hierarchical=100 * MIB)
    assert probe() == MemoryReading(90 * MIB, 100 * MIB)


def test_each_group_thrashes_for_itself(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """Faults of a neighbour in the outer group make the outer one full, not the process's own."""
    machine.place("/pod/app")
    pod = Figures(300 * MIB, limit=1000 * MIB, inactive_file=100 * MIB)
    app = Figures(99 * MIB, limit=100 * MIB, inactive_file=90 * MIB)
    machine.write("pod", pod)
    machine.write("pod/app", app)
    assert probe() == MemoryReading(200 * MIB, 1000 * MIB)
    machine.write("pod", pod.after(10_000))
    clock.seconds += 5.0
    assert probe() == MemoryReading(300 * MIB, 1000 * MIB)


def test_no_limit_is_unknown(machine: Machine, probe: CgroupProbe) -> None:
    """Version 1 has no word for it but a huge number; the top group of version 2 has no files at all."""
    machine.write("app", Figures(100 * MIB, limit=None))
    assert probe() == UNKNOWN
    assert probe.why == "cgroup: no memory limit is set"


def test_a_hidden_limit_is_unknown_in_version_1(tmp_path: Path) -> None:
    """The group knows of a limit above it that no visible group has: its usage cannot be seen."""
    machine = Machine(tmp_path, 1)
    machine.place("/docker/ab12", mount_root="/docker/ab12")
    machine.write("/", Figures(100 * MIB, limit=None), hierarchical=512 * MIB)
    probe = CgroupProbe(tmp_path, platform="linux")
    assert probe() == UNKNOWN
    assert probe.why is not None
    assert "hidden by a namespace" in probe.why


def test_a_hidden_tighter_limit_is_unknown_in_version_1(tmp_path: Path) -> None:
    """The visible limit can never be reached then, and would read as never full."""
    machine = Machine(tmp_path, 1)
    machine.place("/docker/ab12", mount_root="/docker/ab12")
    machine.write("/", Figures(100 * MIB, limit=1024 * MIB), hierarchical=512 * MIB)
    assert CgroupProbe(tmp_path, platform="linux")() == UNKNOWN


def test_a_top_group_that_is_not_the_root_hides_what_is_above_in_version_2(tmp_path: Path) -> None:
    """In a namespace without a limit of its own, one above may exist."""
    machine = Machine(tmp_path, 2)
    machine.place("/")
    machine.write("/", Figures(100 * MIB, limit=None))
    probe = CgroupProbe(tmp_path, platform="linux")
    assert probe() == UNKNOWN
    assert probe.why is not None
    assert "hidden by a namespace" in probe.why


def test_the_limit_of_a_container_is_read_inside_its_namespace(machine: Machine, probe: CgroupProbe) -> None:
    """The usual container: the process is at "/", and the limit is on the top group."""
    machine.place("/")
    machine.write("/", Figures(90 * MIB, limit=100 * MIB))
    assert probe() == MemoryReading(90 * MIB, 100 * MIB)


def test_a_group_without_the_controller_is_passed_over(tmp_path: Path) -> None:
    """Version 2 gives a group no memory files when its parent has not enabled the controller."""
    machine = Machine(tmp_path, 2)
    machine.place("/pod/app")
    machine.write("pod", Figures(90 * MIB, limit=100 * MIB))
    (tmp_path / "sys/fs/cgroup/pod/app").mkdir()
    assert CgroupProbe(tmp_path, platform="linux")() == MemoryReading(90 * MIB, 100 * MIB)


@pytest.mark.parametrize("limit", ["max", str(NO_LIMIT_V1), "9223372036854775807", "18446744073709551615"])
def test_every_spelling_of_no_limit(tmp_path: Path, limit: str) -> None:
    """Machines with pages of other sizes show other huge numbers."""
    machine = Machine(tmp_path, 2)
    machine.place("/app")
    machine.write("app", Figures(MIB))
    (tmp_path / "sys/fs/cgroup/app/memory.max").write_text(limit + "\n")
    assert CgroupProbe(tmp_path, platform="linux")() == UNKNOWN


def test_a_limit_of_zero_is_full_and_not_an_error(machine: Machine, probe: CgroupProbe) -> None:
    """A limit of 0 is allowed by the kernel; nothing is divided by it."""
    machine.write("app", Figures(MIB, limit=0))
    assert (probe().fraction or 0.0) > 1.0


def test_a_change_of_the_limit_shows_at_the_next_reading(machine: Machine, probe: CgroupProbe) -> None:
    """Limits are set while processes run."""
    machine.write("app", Figures(50 * MIB, limit=100 * MIB))
    probe()
    machine.write("app", Figures(50 * MIB, limit=200 * MIB))
    assert probe().limit_bytes == 200 * MIB


def test_a_process_that_is_moved_is_read_in_its_new_group(machine: Machine, probe: CgroupProbe) -> None:
    """A supervisor may move its worker after the start."""
    machine.write("app", Figures(50 * MIB, limit=100 * MIB))
    machine.write("other", Figures(10 * MIB, limit=300 * MIB))
    probe()
    machine.place("/other")
    assert probe() == MemoryReading(10 * MIB, 300 * MIB)


def test_a_group_that_vanishes_is_unknown_and_comes_back(machine: Machine, probe: CgroupProbe) -> None:
    """A file that cannot be read is a reason, not an exception."""
    machine.write("app", Figures(50 * MIB))
    stat = next(machine.root.rglob("memory.stat"))
    text = stat.read_text()
    stat.unlink()
    assert probe() == UNKNOWN
    assert probe.why is not None
    assert "FileNotFoundError" in probe.why
    stat.write_text(text)
    assert probe().used_bytes == 50 * MIB
    assert probe.why is None


@pytest.mark.parametrize("text", ["", "many", "-", "12 34"])
def test_a_file_without_a_number_is_unknown(machine: Machine, probe: CgroupProbe, text: str) -> None:
    """Nonsense in a file reads as unknown, not as 0."""
    machine.write("app", Figures(50 * MIB))
    for usage in [*machine.root.rglob("memory.usage_in_bytes"), *machine.root.rglob("memory.current")]:
        usage.write_text(text)
    assert probe() == UNKNOWN
    assert probe.why is not None


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_have_no_groups(machine: Machine, platform: str) -> None:
    """Unknown, and the reason names the system."""
    machine.write("app", HEALTHY)
    probe = CgroupProbe(machine.root, platform=platform)
    assert probe() == UNKNOWN
    assert probe.why == f"cgroup: there are no control groups on {platform}"
