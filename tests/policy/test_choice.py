"""Section 5, `adaptive`: what each way on would take, and the smallest. Each term by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.policy.choice import MOST_RECYCLES, RELEASE_SECONDS, Choice, Situation, choose
from helix_crawl_otel.policy.model import REMEDIES
from tests.policy.timeline import DEMOTE_CPU, DETECT, EMPTY_CACHE, RECYCLE

PLAIN = Situation(
    left=100_000.0,
    batch=4000.0,
    pace=10.0,
    healthy=1000.0,
    fresh=1000.0,
    cpu=100.0,
    recycle_seconds=40.0,
    demote_seconds=30.0,
    crawl_seconds=160.0,
    span=None,
    released_span=None,
    cure_chance=0.2,
)
"""A crawl at a hundredth: 100 s of work are left to a healthy card, 1,000 s to the CPU, 10,000 s to this context."""


def of(**changes: Any) -> Situation:
    """Another one."""
    return replace(PLAIN, **changes)


# -- the four terms ----------------------------------------------------------------------------------------------------


def test_to_stay_takes_the_work_left_at_the_rate_of_now() -> None:
    """And a fresh context for what comes after it."""
    assert PLAIN.stay() == 10_000
    assert of(shards_follow=True).stay() == 10_000 + 40


def test_a_recycle_takes_a_start_and_the_work_at_the_healthy_rate() -> None:
    """At that of a fresh context, where the last one was slow before its memory was full."""
    assert PLAIN.recycle() == 40 + 100
    assert of(fresh=20.0).recycle() == 40 + 5000


def test_a_context_that_crawls_again_costs_a_start_and_a_crawl_each_time() -> None:
    """One that crawled with its first batch is taken to end one batch."""
    assert of(span=25_000.0).recycle() == 40 + 100 + 4 * (40 + 160)
    assert of(span=0.0).recycle() == 40 + 100 + 25 * (40 + 160)


def test_the_cpu_takes_a_start_and_its_own_rate() -> None:
    """And the way back to the card, for what comes after it."""
    assert PLAIN.demote() == 30 + 1000
    assert of(shards_follow=True).demote() == 30 + 1000 + 40


def test_a_release_is_weighed_by_its_chance() -> None:
    """It cures, for as long as that lasted before; or two batches are lost to see that it does not."""
    two_batches = 2 * (4000 / 10 - 4000 / 1000)
    assert PLAIN.empty_cache(140.0) == RELEASE_SECONDS + 0.2 * 100 + 0.8 * (two_batches + 140)
    cured = 100 + 2 * (RELEASE_SECONDS + 160)
    assert of(released_span=50_000.0).empty_cache(140.0) == RELEASE_SECONDS + 0.2 * cured + 0.8 * (two_batches + 140)
    assert of(cure_chance=1.0).empty_cache(140.0) == RELEASE_SECONDS + 100


# -- the smallest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "kind"),
    [
        (PLAIN, RECYCLE),
        (of(left=300.0, batch=100.0), None),  # 30 s to the end
        (of(span=0.0), DEMOTE_CPU),
        (of(fresh=10.0), DEMOTE_CPU),
        (of(fresh=10.0, cpu=5.0), None),  # throttled: nothing helps
        (of(pace=190.0, cure_chance=0.9), EMPTY_CACHE),
        (of(pace=190.0, cure_chance=0.9, at_boundary=False), RECYCLE),
        (of(pace=190.0, cure_chance=0.9, was_released=True), RECYCLE),
        (of(pace=190.0, cure_chance=0.9, fresh=200.0), None),
    ],
    ids=[
        "plain",
        "nearly-done",
        "crawls-at-once",
        "slow-afresh",
        "throttled",
        "release",
        "in-flight",
        "tried-already",
        "slow-anyway",
    ],
)
def test_the_smallest_is_taken(situation: Situation, kind: Any) -> None:
    """Of those that there are; what each would take goes with it."""
    choice = choose(situation, REMEDIES)
    assert choice.kind is kind
    assert choice.seconds[kind or DETECT] == min(choice.seconds.values())
    assert choice.missed is None


def test_what_the_driver_cannot_take_is_no_candidate() -> None:
    """What it misses by that is said."""
    assert choose(PLAIN, (EMPTY_CACHE, DEMOTE_CPU)) == Choice(
        DEMOTE_CPU, {DETECT: 10_000, DEMOTE_CPU: 1030, EMPTY_CACHE: PLAIN.empty_cache(1030)}, missed=RECYCLE
    )
    assert choose(PLAIN, ()) == Choice(None, {DETECT: 10_000}, missed=RECYCLE)


@given(st.sets(st.sampled_from(REMEDIES)), st.sets(st.sampled_from(REMEDIES)))
def test_what_was_refused_is_used_up(can_take: set[Any], refused: set[Any]) -> None:
    """It is neither taken nor missed."""
    choice = choose(PLAIN, can_take, refused)
    assert choice.seconds.keys() <= (can_take - refused) | {DETECT}
    assert choice.missed not in refused | can_take


# -- the bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("situation", "may_retry"),
    [
        (of(lost_seconds=0.0, crawl_seconds=1e6), True),  # nothing was lost yet
        (of(lost_seconds=50.0), True),  # 50 + 40 + 160 = a quarter of 1,000
        (of(lost_seconds=50.1), False),
        (of(recycles=MOST_RECYCLES - 1), True),
        (of(recycles=MOST_RECYCLES), False),
        (of(stuck=1), True),
        (of(stuck=2), False),  # a third worker that is ended in one batch: the CPU
    ],
)
def test_the_card_is_tried_again_within_bounds(situation: Situation, may_retry: bool) -> None:
    """What the recycles have lost and may lose is a quarter of the CPU's time at most; 20 a shard in any case."""
    choice = choose(situation, REMEDIES)
    assert (RECYCLE in choice.seconds) is may_retry
    assert (EMPTY_CACHE in choice.seconds) is may_retry
    assert choice.kind is (RECYCLE if may_retry else DEMOTE_CPU)
