"""What the end of a worker means: the whole table."""

from __future__ import annotations

import itertools

import pytest

from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.supervise.rules import End, Ending, judge_end, why_ended

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
