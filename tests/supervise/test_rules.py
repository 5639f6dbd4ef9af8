"""What a slot goes by: what the end of a worker means (the whole table), the crash budget, the gate of the memory."""

from __future__ import annotations

import errno
import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.formats import MIB
from helix_crawl_otel.lacks import is_passing, passing_cause
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.supervise.rules import (
    BACK_WITHIN,
    MAX_SECONDS,
    MOST_NARROWED,
    RESTARTS,
    CrashBudget,
    End,
    Ending,
    GateState,
    MemoryGate,
    exit_text,
    judge_end,
    start_reason,
    why_ended,
)

RECYCLE, DEMOTE = ActionKind.RECYCLE, ActionKind.DEMOTE_CPU

CODES = {
    0: Ending.DONE,
    1: Ending.CRASH,
    2: Ending.CRASH,
    75: Ending.PAUSED_ITSELF,
    78: Ending.NEVER,
    79: Ending.CRASH,
    130: Ending.CRASH,
    -9: Ending.CRASH,
    -11: Ending.CRASH,
    0xC0000005: Ending.CRASH,
}


@pytest.mark.parametrize(("code", "ending"), CODES.items())
def test_a_worker_that_was_asked_for_nothing(code: int, ending: Ending) -> None:
    """A 75 that nobody asked for ends the run as paused, a 79 that nobody asked for is a crash."""
    assert judge_end(End(code, finished=code == 0)) is ending


def test_what_is_left_decides_about_a_worker_that_ended_by_itself() -> None:
    """A library that ends the process with 0 has not done the shard; one that crashes after the last gene has."""
    assert judge_end(End(0, finished=False)) is Ending.CRASH
    assert "with work left" in why_ended(None, Ending.CRASH, 0)
    for code in (1, 79, -9, 0xC0000005):
        assert judge_end(End(code, finished=True)) is Ending.DONE
    assert judge_end(End(-9, ended_for="hang", finished=True)) is Ending.DONE
    assert judge_end(End(75, finished=True)) is Ending.PAUSED_ITSELF


@pytest.mark.parametrize("code", [code for code in CODES if code != 78])
def test_a_worker_that_left_for_an_action_did_so_with_whatever_code(code: int) -> None:
    """Its driver may make 0 or 1 of the exit, on Windows anything."""
    assert judge_end(End(code, leaving=RECYCLE)) is Ending.RECYCLE
    assert judge_end(End(code, leaving=DEMOTE)) is Ending.DEMOTE


@pytest.mark.parametrize("code", CODES)
def test_a_worker_that_we_ended_is_judged_by_why(code: int) -> None:
    """On Windows a killed process returns 1: the code says nothing."""
    for kind in (ActionKind.EMPTY_CACHE, RECYCLE):
        assert judge_end(End(code, ended_for=kind.value)) is Ending.RECYCLE
    assert judge_end(End(code, ended_for=DEMOTE.value)) is Ending.DEMOTE
    for why in ("hang", "silent", "broken", "interrupt"):
        assert judge_end(End(code, ended_for=why)) is Ending.CRASH


def test_79_means_the_other_device() -> None:
    """To the CPU for a shard that belongs there, back to the card by a worker that was on the CPU for one shard."""
    assert judge_end(End(79, refused=True)) is Ending.DEMOTE
    assert judge_end(End(79, demoted=True)) is Ending.RETURN
    assert judge_end(End(79, refused=True, demoted=True)) is Ending.DEMOTE


def test_while_pausing_only_a_clean_end_is_done() -> None:
    """All else is work for the next run, whoever ended it and for whatever."""
    whys = [None, "RECYCLE", "hang", "interrupt"]
    for code, why, leaving in itertools.product(CODES, whys, [None, RECYCLE, DEMOTE]):
        ending = judge_end(End(code, ended_for=why, leaving=leaving, pausing=True))
        assert ending is (Ending.DONE if (code, why, leaving) == (0, None, None) else Ending.PAUSED)


def test_why_is_said_in_words() -> None:
    """By why it was ended, by how it crashed, or by what the end means."""
    assert why_ended("hang", Ending.CRASH, -15) == "a batch hung and its worker was ended"
    assert why_ended("RECYCLE", Ending.RECYCLE, -15) == "it was ended for RECYCLE"
    assert "SIGSEGV" in why_ended(None, Ending.CRASH, -11)
    assert why_ended(None, Ending.PAUSED, 75) == "paused"


def test_how_it_ended_in_words() -> None:
    """Signals by name, Windows' codes by meaning, also as the negative numbers that some callers make of them."""
    if sys.platform != "win32":
        assert exit_text(-11) == "it was killed by SIGSEGV"
        assert "lack of memory" in exit_text(-9)
    assert exit_text(3) == "it ended with exit code 3"
    assert "access violation" in exit_text(0xC0000005)


# -- crashes ----------------------------------------------------------------------------------------------------------


def test_three_restarts_after_one_two_and_four_seconds() -> None:
    """The fourth crash without a committed gene is the last."""
    budget = CrashBudget()
    waits = [retry.after_seconds for retry in iter(budget.crashed, None)]
    assert waits == [1.0, 2.0, 4.0]
    assert budget.left == 0
    assert budget.crashed() is None


def test_progress_gives_the_whole_budget_back() -> None:
    """A gene that was committed in between makes the next crash a first one."""
    budget = CrashBudget()
    budget.crashed()
    budget.crashed()
    budget.progressed()
    assert budget.left == RESTARTS
    retry = budget.crashed()
    assert retry is not None
    assert retry.after_seconds == 1.0


def test_a_crash_that_narrows_a_suspicion_is_paid_back_but_not_for_ever() -> None:
    """A worker that can encode nothing at all must not go on halving until the whole shard is quarantined."""
    budget = CrashBudget()
    crashes = 0
    while True:
        budget.narrowed()
        if budget.crashed() is None:
            break
        crashes += 1
    assert crashes == MOST_NARROWED + RESTARTS - 1


@given(st.lists(st.sampled_from(["crash", "progress", "narrow"]), max_size=200))
def test_whatever_happens_no_four_crashes_in_a_row_are_restarted(steps: list[str]) -> None:
    """Without progress and without news between them there are three restarts at most, and the waits double."""
    budget = CrashBudget()
    row = 0
    for step in steps:
        if step == "progress":
            budget.progressed()
            row = 0
        elif step == "narrow":
            before = budget.left
            budget.narrowed()
            row = 0 if budget.left > before or budget.left == RESTARTS else row
        else:
            retry = budget.crashed()
            assert (retry is None) == (row >= RESTARTS)
            if retry is not None:
                assert retry.after_seconds == 2.0**row
                row += 1
        assert 0 <= budget.left <= RESTARTS


# -- memory -----------------------------------------------------------------------------------------------------------

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


# -- what is worth another try -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC])
def test_what_may_pass(number: int) -> None:
    """Others may give back what is lacking."""
    assert is_passing(OSError(number, "words"))


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR])
def test_what_does_not_pass(number: int) -> None:
    """It fails tomorrow as it does today; so does what is no lack at all."""
    assert not is_passing(OSError(number, "words"))
    assert not is_passing(RuntimeError("words"))
    assert not is_passing(ValueError("words"))


def test_a_lack_is_found_behind_what_it_has_led_to() -> None:
    """A model's file could not be opened for it: that is no reason never to start again."""
    assert passing_cause(ModelError("no such model")) is None
    for lack in (OSError(errno.EMFILE, "words"), MemoryError(), RuntimeError("can't start new thread")):
        with pytest.raises(ModelError) as raised:
            cannot_be_loaded(lack)
        assert passing_cause(raised.value) is lack
    for other in (FileNotFoundError(errno.ENOENT, "words"), ConnectionError("no network")):
        assert passing_cause(other) is None


def cannot_be_loaded(why: Exception) -> None:
    """Say so of a model, and leave the error itself out."""
    try:
        raise why
    except (OSError, MemoryError, RuntimeError) as error:
        raise ModelError(f"it cannot be read: {error}") from None


def test_the_reason_names_the_limit() -> None:
    """For the summary: what to raise."""
    assert "`ulimit -n`" in start_reason(OSError(errno.EMFILE, "Too many open files"))
    assert "`ulimit -u`" in start_reason(RuntimeError("can't start new thread"))
    assert start_reason(MemoryError()).startswith("the worker cannot be started: out of memory (")
    assert start_reason(OSError(errno.ENOENT, "No such file", "x")) == "the worker cannot be started: No such file: x"
