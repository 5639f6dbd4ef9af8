"""When the next worker may start on a card."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.supervise.job import WorkerStart
from helix_crawl_otel.supervise.memory_gate import BACK_WITHIN, MAX_SECONDS, MIB, GateState, MemoryGate
from helix_crawl_otel.supervise.restart import Restart

GIB = 1024 * MIB


def test_it_opens_when_the_memory_is_back() -> None:
    """To within 512 MiB of what it was before the worker started."""
    gate = MemoryGate(GIB, 0.0)
    assert gate.feed(0.0, 11 * GIB) is GateState.WAITING
    assert gate.feed(1.0, GIB + BACK_WITHIN + 1) is GateState.WAITING
    assert gate.feed(2.0, GIB + BACK_WITHIN) is GateState.BACK


def test_it_opens_when_the_memory_has_been_stable_for_five_seconds() -> None:
    """Somebody else holds the rest. A step of more than 64 MiB begins the five seconds anew."""
    gate = MemoryGate(GIB, 0.0)
    assert gate.feed(0.0, 8 * GIB) is GateState.WAITING
    assert gate.feed(4.9, 7 * GIB) is GateState.WAITING
    assert gate.feed(9.8, 7 * GIB + MIB) is GateState.WAITING
    assert gate.feed(9.9, 7 * GIB + 64 * MIB) is GateState.STABLE


def test_what_was_used_before_may_be_unknown() -> None:
    """Then it is the stable one that counts."""
    gate = MemoryGate(None, 0.0)
    assert gate.feed(0.0, 0) is GateState.WAITING
    assert gate.feed(5.0, 0) is GateState.STABLE


def test_an_unknown_reading_holds_it_for_five_seconds_only() -> None:
    """A probe that is lost must not hold a worker back; one that misses a reading must not let it through."""
    gate = MemoryGate(GIB, 0.0)
    assert gate.feed(0.0, 9 * GIB) is GateState.WAITING
    assert gate.feed(4.9, None) is GateState.WAITING
    assert gate.feed(5.0, None) is GateState.UNKNOWN


def test_memory_that_falls_slowly_is_waited_for_two_minutes() -> None:
    """And not longer."""
    gate = MemoryGate(GIB, 0.0)
    for second in range(120):
        assert gate.feed(float(second), (200 - second) * GIB) is GateState.WAITING
    assert gate.feed(120.0, 80 * GIB) is GateState.TIMED_OUT


@given(
    st.one_of(st.none(), st.integers(0, 12 * GIB)),
    st.lists(st.tuples(st.floats(0.01, 20.0), st.one_of(st.none(), st.integers(0, 12 * GIB))), max_size=60),
)
def test_it_is_open_after_two_minutes_whatever_is_read(
    before: int | None, readings: list[tuple[float, int | None]]
) -> None:
    """Once open it is not asked again; a reading at or beyond 120 s always opens it."""
    gate, now = MemoryGate(before, 0.0), 0.0
    for seconds, used in readings:
        now += seconds
        state = gate.feed(now, used)
        if state.is_open:
            return
        assert now < MAX_SECONDS
    assert gate.feed(max(now, MAX_SECONDS), 12 * GIB).is_open


def test_a_restart_waits_for_the_backoff_and_for_the_gate() -> None:
    """Both have to be over, and how long the gate took is told."""
    restart = Restart(WorkerStart("crash", "cuda:0"), 100.0, 4.0, MemoryGate(GIB, 100.0))
    assert restart.feed(100.0, 9 * GIB) is GateState.WAITING
    assert restart.feed(100.1, 8 * GIB) is None, "no news"
    assert not restart.is_due(104.5)
    assert restart.feed(102.0, GIB) is GateState.BACK
    assert restart.gate_seconds == 2.0
    assert not restart.is_due(103.9)
    assert restart.is_due(104.0)


def test_a_restart_without_a_gate_needs_no_reading() -> None:
    """On the CPU, and where nothing can be read."""
    restart = Restart(WorkerStart("first", "cpu"), 7.0)
    assert restart.feed(7.0, None) is None
    assert restart.is_due(7.0)
