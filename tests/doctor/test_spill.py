"""What the doctor says of memory that the cards borrow from the system."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from helix_crawl_otel.doctor.checks import Check, Severity
from helix_crawl_otel.doctor.spill import SharedMemory, shared_memory
from helix_crawl_otel.probes.gpu_counters import AdapterUsage, GpuUsage, ProcessUsage
from tests.doctor.machines import LINUX_80, WINDOWS_12, about, checks_of
from tests.probes.counters import CARD, MIB, usage

NAMES = {4711: "python.exe", 99: "game.exe"}
BUSY = usage((4711, 6000, 200), (99, 3000, 10))


def of(found: SharedMemory, **environ: str) -> Check:
    """The line about it on the small card under Windows."""
    return about(replace(WINDOWS_12, shared=found, environ=environ), "shared memory")


def test_it_says_what_each_adapter_borrows_and_who_holds_most() -> None:
    """With the advice what to look for, and that judging by it is off."""
    check = of(SharedMemory(BUSY, None, NAMES))
    assert check.verdict is Severity.NOTE
    assert check.fact == (
        f"adapter {CARD}: 8.79 GiB of its own and 0.21 GiB of the system's in use; most by "
        "python.exe (pid 4711) 5.86 and 0.20 GiB, game.exe (pid 99) 2.93 and 0.01 GiB"
    )
    assert 'off until somebody has seen it on a real card ($env:HELIX_BFM_CRAWL_SHARED = "on")' in check.advice
    assert check.source == "docs/runbook.md"


def test_with_the_knob_on_it_says_so() -> None:
    """Nothing has to be set then."""
    assert of(SharedMemory(BUSY, None, NAMES), HELIX_BFM_CRAWL_SHARED="on").advice.endswith("Judging by it is on")


@pytest.mark.parametrize(
    ("dedicated", "shared", "verdict"),
    [(1024, 513, Severity.WARN), (1024, 512, Severity.NOTE), (1023, 4000, Severity.NOTE)],
)
def test_a_process_that_has_spilled_is_named(dedicated: int, shared: int, verdict: Severity) -> None:
    """Not one on the graphics of a CPU, which borrow all that they use."""
    check = of(SharedMemory(usage((4711, dedicated, shared)), None, NAMES))
    assert check.verdict is verdict
    assert ("python.exe (pid 4711) borrows more than 512 MiB" in check.advice) is (verdict is Severity.WARN)


def test_an_adapter_that_nobody_uses_is_left_out() -> None:
    """Windows lists one that is drawn in software; and a program may be gone or have a strange name."""
    found = GpuUsage(
        (ProcessUsage(7, CARD, MIB, 0), ProcessUsage(8, CARD, 2 * MIB, 0)),
        (AdapterUsage("0x0_0x1", 0, 0), AdapterUsage(CARD, 3 * MIB, 0)),
    )
    fact = of(SharedMemory(found, None, {8: "a\nb.exe"})).fact
    assert fact.startswith(f"adapter {CARD}: ")
    assert r"a\nb.exe (pid 8)" in fact
    assert "a program (pid 7)" in fact
    assert of(SharedMemory(GpuUsage((), (AdapterUsage("0x0_0x1", 0, 0),)))).fact == "no adapter has any in use"


def test_counters_that_cannot_be_read_say_why() -> None:
    """A warning only to who has set the knob."""
    broken = SharedMemory(None, "PDH: no such object (0xC0000BB8)")
    check = of(broken)
    assert (check.verdict, "0xC0000BB8" in check.fact) == (Severity.NOTE, True)
    assert "lodctr /R" in check.advice
    judged = of(broken, HELIX_BFM_CRAWL_SHARED="on")
    assert judged.verdict is Severity.WARN
    assert "HELIX_BFM_CRAWL_SHARED=on has no effect" in judged.advice


def test_elsewhere_there_is_no_such_line() -> None:
    """As of the driver's fallback: it concerns Windows only."""
    assert [check for check in checks_of(LINUX_80) if check.topic == "shared memory"] == []


def test_this_machine() -> None:
    """Under Windows something is found or a reason given; elsewhere nothing is read."""
    found = shared_memory()
    if sys.platform != "win32":
        assert found is None
    else:
        assert found is not None
        assert (found.usage is None) == (found.why is not None)
