"""The modelled card does what INCIDENTS.md says of the real ones."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from helix_crawl_otel.modelled_card import BatchLoad, CardModel, Context, slowdown
from tests.simulate.results import rate, result, split

CARD = CardModel()


def load(index: int, **changes: object) -> BatchLoad:
    """A batch of 64 passages, each with a padded length of its own."""
    plain = BatchLoad(index, "shard", genes=64, tokens=256 + index, fragment_gib=0.1)
    return replace(plain, **changes)  # type: ignore[arg-type]  # the fields of a batch


def test_a_healthy_batch_takes_four_seconds() -> None:
    """15.3 genes/s: 64 passages of 384 tokens in 4.18 s."""
    assert Context(CARD).encode(load(0, tokens=384)) == pytest.approx(64 / 15.3, rel=0.01)


def test_a_worker_needs_five_to_six_gib() -> None:
    """BGE-M3 in fp32 with 64 passages of 512 tokens."""
    context = Context(CARD)
    context.encode(load(0, tokens=512, fragment_gib=0.0))
    assert 5.0 <= context.reserved_gib <= 6.05


def test_incident_06_10_falls_from_15_3_to_2_3_with_11_85_of_12_in_use() -> None:
    """Shard confluence."""
    run = result("incident-06-10").runs["none"]
    healthy, crawled = split(run)
    assert rate(healthy) == pytest.approx(15.3, rel=0.05)
    assert rate(crawled) == pytest.approx(2.3, rel=0.05)
    assert crawled[-1].used_gib == pytest.approx(11.85)


def test_incident_06_11_encodes_64_genes_in_47_minutes_with_66_hours_to_go() -> None:
    """Shard slack__eng-oncall; the release every 64 batches changes nothing."""
    for policy in ("none", "release"):
        run = result("incident-06-11").runs[policy]
        _, crawled = split(run)
        assert 64 / rate(crawled) / 60 == pytest.approx(47, rel=0.05)
        assert run.finish_seconds is not None
        assert run.crawl_began is not None
        assert (run.finish_seconds - run.crawl_began) / 3600 == pytest.approx(66, rel=0.05)
    assert any(mark.what == "release" for mark in result("incident-06-11").runs["release"].marks)


def test_gradual_decay_falls_from_22_to_1_2_in_about_60_batches() -> None:
    """The folder of 05-24."""
    run = result("gradual-decay").runs["none"]
    card = result("gradual-decay").scenario.card
    first = next(
        at
        for at, item in enumerate(run.attempts)
        if item.ended - item.began > 1.0001 * item.load.healthy_seconds(card) and at
    )
    assert rate(run.attempts[1:first]) == pytest.approx(22, rel=0.1)
    assert rate(run.attempts[first + 50 : first + 70]) == pytest.approx(1.2, rel=0.35)


def test_the_exponent_meets_the_rtx_3070_series() -> None:
    """8.2, 10.2, 12.0, 13.6 GiB reserved: 26, 98, 179, 309 s a step; 7.6 of its 8 GiB can be had."""
    card = CardModel(limit_gib=8.0, withheld_gib=0.4, others_gib=0.0, spill_cost=16 / 20)
    series = {8.2: 26, 10.2: 98, 12.0: 179, 13.6: 309}
    for reserved_gib, seconds in series.items():
        spilled_gib = reserved_gib - card.budget_gib
        assert 20 * slowdown(card, spilled_gib) == pytest.approx(seconds, rel=0.1), reserved_gib


def test_each_new_shape_takes_memory_and_an_old_one_does_not() -> None:
    """The cache grows with distinct shapes."""
    context = Context(CARD)
    context.encode(load(9))
    before = context.reserved_gib
    context.encode(load(9))
    assert context.reserved_gib == before
    context.encode(load(8))
    assert context.reserved_gib == pytest.approx(before + 0.1)


def test_a_release_helps_early() -> None:
    """Nothing has spilled: the context is as good as fresh."""
    context = Context(CARD)
    for index in range(40):
        context.encode(load(index))
    context.release()
    assert context.used_gib == pytest.approx(CARD.others_gib + CARD.context_gib)
    context.encode(load(0))
    fresh = Context(CARD)
    fresh.encode(load(0))
    assert context.reserved_gib == pytest.approx(fresh.reserved_gib)


def test_a_release_does_not_help_late() -> None:
    """A context that has spilled stays spilled; the reading is low until the next batch."""
    context = Context(CARD)
    for index in range(79):
        context.encode(load(index))
    slow = context.encode(load(79))
    assert context.spilled_gib > 0
    context.release()
    assert context.used_gib < 4
    again = context.encode(load(79))
    assert again == pytest.approx(slow)
    assert context.used_gib == pytest.approx(CARD.limit_gib - CARD.withheld_gib)


def test_what_spilled_once_stays_spilled_when_the_need_is_gone() -> None:
    """One surge is enough."""
    context = Context(CARD)
    context.encode(load(0, surge_gib=9.0))
    assert context.encode(load(0)) > 10 * load(0).healthy_seconds(CARD)


def test_the_reading_never_passes_what_the_driver_hands_out() -> None:
    """On WDDM dedicated memory saturates; the rest is in the system's."""
    context = Context(CARD)
    context.encode(load(0, surge_gib=30.0))
    fraction = context.reading().fraction
    assert fraction is not None
    assert 0.98 < fraction < 0.99


def test_a_stall_ends_in_a_fresh_context_only() -> None:
    """Endless in the context that has encoded something, fine in a new one."""
    context = Context(CARD)
    context.encode(load(0))
    assert math.isinf(context.encode(load(1, stalls=True)))
    assert Context(CARD).encode(load(1, stalls=True)) == load(1).healthy_seconds(CARD)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit_gib", 0),
        ("limit_gib", float("nan")),
        ("limit_gib", True),
        ("tokens_per_second", 0.0),
        ("spill_cost", -1.0),
        ("spill_power", 11.0),
        ("start_seconds", "20"),
        ("others_gib", 10**400),
    ],
)
def test_a_card_that_cannot_be_is_refused(name: str, value: object) -> None:
    """The message names the field and what is accepted."""
    with pytest.raises(ValueError, match=rf"^{name} is .*; accepted: a number from "):
        CardModel(**{name: value})  # type: ignore[arg-type]  # a bad value is the point


def test_a_card_without_room_is_refused() -> None:
    """What others hold has to leave something."""
    with pytest.raises(ValueError, match="accepted: together less than limit_gib"):
        CardModel(limit_gib=8.0, others_gib=8.0)
    with pytest.raises(ValueError, match="release_seconds is 100"):
        CardModel(release_seconds=100)
