"""What the doctor says of the processes on a card."""

from __future__ import annotations

from dataclasses import replace

import pytest

from helix_crawl_otel.doctor.checks import Check, Severity
from helix_crawl_otel.doctor.facts import Facts
from helix_crawl_otel.probes.cards import CardProcess, CardProcesses
from tests.doctor.machines import CPU_ONLY, LINUX_80, WINDOWS_12, about, checks_of, with_card

MIB = 1024**2

WORKER = CardProcess(4711, "python.exe", 2900 * MIB, computes=True)
DESKTOP = CardProcess(812, "dwm.exe", None, computes=False)


def holders(facts: Facts, *processes: CardProcess, why: str | None = None) -> Check:
    """The line about these processes on that machine's card."""
    return about(replace(facts, processes={"cuda:0": CardProcesses(processes, why)}), "cuda:0 processes")


def test_processes_with_their_sizes() -> None:
    """In MiB; one of unknown size says so."""
    found = holders(LINUX_80, WORKER, DESKTOP)
    assert found == Check("cuda:0 processes", "python.exe (pid 4711) 2900 MiB, dwm.exe (pid 812) unknown", Severity.OK)


def test_a_process_without_a_name() -> None:
    """Its number finds it."""
    found = holders(LINUX_80, replace(WORKER, name=None))
    assert found.fact == "a program (pid 4711) 2900 MiB"


def test_no_sizes_under_wddm() -> None:
    """Who is there is told all the same, and where the sizes can be seen."""
    found = holders(WINDOWS_12, replace(WORKER, used_bytes=None), DESKTOP)
    assert found.verdict is Severity.NOTE
    assert found.fact == (
        "per-process values are not available under WDDM; on the card: python.exe (pid 4711), dwm.exe (pid 812)"
    )
    assert "performance counters" in found.advice
    assert found.source


@pytest.mark.parametrize("is_wsl", [False, True])
def test_no_sizes_elsewhere(is_wsl: bool) -> None:
    """Linux inside Windows has no driver model and no sizes either; Windows' tools are not advised there."""
    found = holders(replace(LINUX_80, is_wsl=is_wsl), DESKTOP)
    assert found.fact.startswith("per-process values are not available here; ")
    assert (found.verdict, found.advice) == (Severity.NOTE, "")


def test_a_long_list_is_cut() -> None:
    """Under Windows everything that draws is on it."""
    found = holders(WINDOWS_12, *(replace(DESKTOP, pid=number) for number in range(30)))
    assert found.fact.endswith("dwm.exe (pid 4) and 25 more")


def test_nobody_is_listed() -> None:
    """Outside Windows the doctor may sit in a container and not see those outside."""
    assert holders(WINDOWS_12).fact == "NVML lists none"
    assert holders(LINUX_80).fact == "NVML lists none; of those outside a container it may not tell"


def test_a_list_that_cannot_be_had() -> None:
    """A reason, and no problem: nothing depends on it."""
    found = holders(LINUX_80, why="NVML: Not Supported (error 3 from nvmlDeviceGetComputeRunningProcesses_v3)")
    assert found.verdict is Severity.NOTE
    assert "Not Supported" in found.fact


def test_a_machine_without_a_card_has_no_such_line() -> None:
    """Nor has a card that this process cannot use."""
    assert not [check for check in checks_of(CPU_ONLY) if check.topic.endswith("processes")]
    hidden = with_card(CPU_ONLY, 24.0, 1.0, None)
    assert not [check for check in checks_of(hidden) if check.topic.endswith("processes")]
