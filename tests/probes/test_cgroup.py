"""CgroupProbe on recorded folders: what counts as used, by page cache and major faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cgroup import THRASHING_PER_SECOND, CgroupProbe
from tests.probes.groups import FAULTS_WHILE_THRASHING, HEALTHY, LIMIT, MIB, THRASHING, Clock, Figures, Machine


def read_later(probe: CgroupProbe, clock: Clock, seconds: float) -> float | None:
    """Let time pass and read the fraction."""
    clock.seconds += seconds
    return probe().fraction


def test_a_group_full_of_page_cache_is_not_full(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """Usage over limit is 0.992, but without major faults the cache costs nobody anything."""
    machine.write("app", HEALTHY)
    assert HEALTHY.usage / LIMIT > 0.99
    for _ in range(5):
        assert read_later(probe, clock, 5.0) == pytest.approx(0.0547, abs=0.001)
    assert probe.why is None


def test_a_thrashing_group_is_full(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """The same cache counts as used while the group waits for its own pages."""
    machine.write("app", THRASHING)
    assert read_later(probe, clock, 0.0) == pytest.approx(0.0586, abs=0.001)
    machine.write("app", THRASHING.after(FAULTS_WHILE_THRASHING))
    assert read_later(probe, clock, 1.5) == THRASHING.usage / LIMIT > 0.99


def test_the_first_reading_knows_no_rate(machine: Machine, probe: CgroupProbe) -> None:
    """85,000 faults since the group was made may be from an hour ago: not thrashing until seen to."""
    machine.write("app", THRASHING.after(20_000))
    fraction = probe().fraction
    assert fraction is not None
    assert fraction < 0.1


def test_a_group_that_stops_thrashing_is_not_full(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """The judgement is of the time since the last one, not of all time."""
    machine.write("app", THRASHING)
    probe()
    machine.write("app", THRASHING.after(1_000))
    assert (read_later(probe, clock, 5.0) or 0.0) > 0.99
    assert (read_later(probe, clock, 5.0) or 1.0) < 0.1


@pytest.mark.parametrize(("faults", "full"), [(THRASHING_PER_SECOND * 5, True), (THRASHING_PER_SECOND * 5 - 1, False)])
def test_the_limit_between_reading_and_thrashing(
    machine: Machine, probe: CgroupProbe, clock: Clock, faults: float, full: bool
) -> None:
    """From 20 faults a second on a group thrashes, below it does not."""
    machine.write("app", THRASHING)
    probe()
    machine.write("app", THRASHING.after(int(faults)))
    assert ((read_later(probe, clock, 5.0) or 0.0) > 0.9) is full


def test_a_burst_between_two_quick_readings_is_no_rate(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """10 faults in 0.1 s are not 100 a second: nothing is judged over less than a second, nor forgotten."""
    machine.write("app", THRASHING)
    probe()
    machine.write("app", THRASHING.after(10))
    assert (read_later(probe, clock, 0.1) or 1.0) < 0.1
    machine.write("app", THRASHING.after(30))
    assert (read_later(probe, clock, 0.9) or 0.0) > 0.9


def test_a_judgement_stands_until_the_next(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """A reading shortly after one that thrashed does not read as free."""
    machine.write("app", THRASHING)
    probe()
    machine.write("app", THRASHING.after(1_000))
    read_later(probe, clock, 5.0)
    assert (read_later(probe, clock, 0.01) or 0.0) > 0.9


def test_a_clock_that_steps_back_makes_no_thrashing(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """No rate, no judgement, and the next reading starts from there."""
    machine.write("app", THRASHING)
    probe()
    machine.write("app", THRASHING.after(1_000))
    assert (read_later(probe, clock, -50.0) or 1.0) < 0.1
    machine.write("app", THRASHING.after(2_000))
    assert (read_later(probe, clock, 5.0) or 0.0) > 0.9


def test_memory_of_the_process_itself_is_used_without_any_fault(machine: Machine, probe: CgroupProbe) -> None:
    """What is no cache counts always: a group near its limit by its own allocations is full."""
    machine.write("app", Figures(159 * MIB, inactive_file=MIB))
    assert probe() == MemoryReading(158 * MIB, 160 * MIB)


def test_active_cache_can_be_dropped_as_well(machine: Machine, probe: CgroupProbe) -> None:
    """Usage without the inactive part alone would still count a file that is read twice."""
    machine.write("app", Figures(150 * MIB, inactive_file=40 * MIB, active_file=100 * MIB))
    assert probe().used_bytes == 10 * MIB


def test_version_2_shows_caches_of_the_kernel(tmp_path: Path) -> None:
    """Directory and inode caches are dropped as easily as page cache."""
    machine = Machine(tmp_path, 2)
    machine.place("/app")
    machine.write("app", Figures(150 * MIB, inactive_file=40 * MIB, slab_reclaimable=90 * MIB))
    assert CgroupProbe(tmp_path, platform="linux")().used_bytes == 20 * MIB


def test_figures_that_do_not_fit_each_other_read_as_zero(machine: Machine, probe: CgroupProbe) -> None:
    """Usage and statistics are read one after the other: the cache may be larger than the usage was."""
    machine.write("app", Figures(10 * MIB, inactive_file=12 * MIB))
    assert probe() == MemoryReading(0, 160 * MIB)


def test_a_group_without_a_count_of_faults_never_thrashes(machine: Machine, probe: CgroupProbe, clock: Clock) -> None:
    """An unknown count is not full."""
    machine.write("app", HEALTHY)
    for stat in machine.root.rglob("memory.stat"):
        stat.write_text("\n".join(line for line in stat.read_text().splitlines() if "majfault" not in line))
    probe()
    assert (read_later(probe, clock, 5.0) or 1.0) < 0.1
