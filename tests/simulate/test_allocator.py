"""Torch's allocator, replayed: its rules, and what INCIDENTS.md says of the order of batches."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest

from helix_crawl_otel.formats import GIB, MIB
from helix_crawl_otel.modelled_allocator import EncoderModel, replay_forward
from helix_crawl_otel.modelled_card import BatchLoad, CardModel, Context
from helix_crawl_otel.simulate.scenario import Scenario, Stretch

BGE_M3 = EncoderModel()
WEIGHTS_GIB = 2.1


def reserved_gib(order: str, encoder: EncoderModel = BGE_M3) -> float:
    """After 99 batches of 64 passages of up to 2,929 tokens, with the weights: the middle of nine draws."""
    return median(_reserved_gib(order, encoder, seed) for seed in range(9))


def _reserved_gib(order: str, encoder: EncoderModel, seed: int) -> float:
    stretch = Stretch("shard", 99 * 64, tokens=(4, 2929), mixed=True, pad=1)
    loads = Scenario("long", "long", (stretch,), order="tokens" if order == "tokens" else "files", seed=seed).loads()
    if order in ("shortest", "longest"):
        lengths = sorted((load.tokens for load in loads), reverse=order == "longest")
        loads = [replace(load, tokens=length) for load, length in zip(loads, lengths, strict=True)]
    segments: tuple[int, ...] = ()
    for load in loads:
        segments = replay_forward(segments, encoder, load.genes, load.tokens, None).segments
    return WEIGHTS_GIB * encoder.number_bytes / 4 + sum(segments) / GIB


def test_what_fills_a_card_is_the_order_of_batches() -> None:
    """INCIDENTS.md: 22.7 GiB as the files come, 15.5 longest first, 4.9 under a budget of tokens; half needs half."""
    files, longest, tokens = reserved_gib("files"), reserved_gib("longest"), reserved_gib("tokens")
    assert files == pytest.approx(22.7, rel=0.2)
    assert longest == pytest.approx(15.5, rel=0.2)
    assert tokens == pytest.approx(4.9, rel=0.2)
    assert reserved_gib("shortest") > files
    assert reserved_gib("files", replace(BGE_M3, number_bytes=2)) == pytest.approx(files / 2, rel=0.2)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 3), (8, 64), (64, 128), (7, 555)])
def test_a_layer_that_changes_nothing_is_what_all_later_ones_do(rows: int, tokens: int) -> None:
    """A forward of 24 layers holds what one of 200 does, also on top of others."""
    segments: tuple[int, ...] = ()
    for each in (2 * tokens, tokens, 3 * tokens):
        done = [
            replay_forward(segments, EncoderModel(layers, 256), rows, each, None).segments for layers in (6, 24, 200)
        ]
        assert done[0] == done[1] == done[2]
        segments = done[0]


def test_segments_are_of_2_and_20_mib_and_of_even_mib_above() -> None:
    """And kept: the same batch again takes nothing."""
    first = replay_forward((), BGE_M3, 4, 130, None)
    assert {size for size in first.segments if size < 20 * MIB} == {2 * MIB}
    assert all(size == 20 * MIB or size % (2 * MIB) == 0 for size in first.segments)
    assert replay_forward(first.segments, BGE_M3, 4, 130, None) == first
    assert replay_forward((), BGE_M3, 64, 512, None).segments[-1] == 512 * MIB


def test_a_cap_flushes_first_and_refuses_then() -> None:
    """What a longer batch left is given back for it; a batch beyond the cap is refused."""
    first = replay_forward((), BGE_M3, 16, 512, None)
    cap = sum(first.segments)
    other = replay_forward(first.segments, BGE_M3, 16, 500, cap)
    assert other.fits
    assert sum(other.segments) <= cap
    assert replay_forward(first.segments, BGE_M3, 16, 2048, cap).fits is False
    assert replay_forward((), BGE_M3, 1, 1, 1).segments == ()


def load(
    index: int, tokens: int, *, surge_gib: float = 0.0, leak_gib: float = 0.0, others_gib: float = 0.0
) -> BatchLoad:
    """A batch of 64."""
    return BatchLoad(
        index,
        "shard",
        64,
        tokens,
        fragment_gib=0.5,
        surge_gib=surge_gib,
        leak_gib=leak_gib,
        others_gib=others_gib,
    )


@pytest.mark.parametrize("layers", [0, 24])
def test_under_a_cap_nothing_spills_whatever_comes(layers: int) -> None:
    """Each batch is encoded, whole or in parts; without the cap the same ones spill."""
    card = CardModel(layers=layers)
    capped, free = Context(card, cap_gib=9.0), Context(card)
    for index, tokens in enumerate((300, 900, 301, 1300, 302, 620, 303, 1500)):
        healthy = load(index, tokens).healthy_seconds(card)
        seconds = capped.encode(load(index, tokens))
        assert healthy <= seconds <= 1.5 * healthy + 8
        assert not capped.lacks_memory
        assert capped.reserved_gib <= 9.0
        free.encode(load(index, tokens))
    assert capped.spilled_gib == 0
    assert free.spilled_gib > 1


def test_a_leak_ends_in_a_worker_that_lacks_memory() -> None:
    """What leaks no flush gives back: the batch is halved, and when no eighth fits any more the worker is ended."""
    context = Context(CardModel(), cap_gib=6.0)
    seconds = [context.encode(load(index, 256, leak_gib=0.1)) for index in range(40) if not context.lacks_memory]
    assert context.lacks_memory
    assert 20 <= len(seconds) < 40
    context.release()
    assert context.reserved_gib > 5


def test_others_that_come_make_a_full_context_spill_and_a_lower_cap_keeps_the_next_one_from_it() -> None:
    """What they take is seen at a boundary only."""
    card = CardModel()
    context = Context(card, cap_gib=9.5)
    for index in range(8):
        context.encode(load(index, 256 + 32 * index))
    assert context.spilled_gib == 0
    context.encode(load(8, 256, others_gib=6.0))
    assert context.spilled_gib > 1
    fresh = Context(card, cap_gib=0.95 * (card.budget_gib - 6.0), others_gib=6.0)
    for index in range(8):
        fresh.encode(load(index, 256 + 32 * index, others_gib=6.0))
    assert fresh.spilled_gib == 0
    assert context.limit(4.5)
    assert context.reading().cap_fraction is not None


def test_a_release_heals_only_where_the_card_says_so() -> None:
    """Nobody has seen it on WDDM."""
    for heals in (0, 1):
        context = Context(CardModel(heals=heals))
        context.encode(load(0, 256, surge_gib=9.0))
        assert context.spilled_gib > 0
        context.release()
        assert (context.spilled_gib == 0) is bool(heals)
