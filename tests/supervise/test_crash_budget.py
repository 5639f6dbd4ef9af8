"""How often a worker may crash without progress."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.supervise.crash_budget import MOST_NARROWED, RESTARTS, CrashBudget


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
