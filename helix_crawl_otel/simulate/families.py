"""Random scenarios by family and seed: cards of 6 to 24 GiB, and what people have seen happen on them.

Nothing here knows a policy. Each number is drawn from what a card, an encoder or an incident can have; a seed makes the
same scenario on every machine. The scenarios of `--random N` go round the families, so that each has as many.

Source: INCIDENTS.md, "what fills a card" names the families; its other sections and `CardModel` the ranges.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from helix_crawl_otel.modelled_card import CardModel
from helix_crawl_otel.policy.batch_limits import BATCH_TOKENS, LARGE_BATCH_TOKENS
from helix_crawl_otel.simulate.scenario import MOST_SEEDS, Scenario, Stretch

__all__ = ["FAMILIES", "RandomScenario", "random_scenario", "random_scenarios"]

CARDS_GIB = (6.0, 8.0, 10.0, 12.0, 16.0, 24.0)

LARGE_GIB = 16.0
"""From this size on a card's batches by tokens are so large, as those of `build`."""


@dataclass(frozen=True)
class _Draw:
    """A card that is drawn, with a batch that fits it, and what else a family needs.

    Args:
        dice: Of the scenario.
        card: The card.
        base: A stretch of all passages of the scenario, its cache not full.
        room_gib: What is free on the card beside weights and the widest batch.
    """

    dice: random.Random
    card: CardModel
    base: Stretch
    room_gib: float

    @property
    def shapes(self) -> int:
        """Distinct padded lengths."""
        return (self.base.tokens[1] - self.base.tokens[0]) // self.base.pad + 1

    def full(self, least: float, most: float) -> Stretch:
        """The base with a cache that takes so much of the room when all lengths were seen."""
        return replace(self.base, fragment_gib=self.dice.uniform(least, most) * self.room_gib / self.shapes)

    def cut(self, whole: Stretch, least: float, most: float, parts: int = 1) -> tuple[Stretch, ...]:
        """The stretch in pieces, cut at random places between two shares of it."""
        at = sorted(round(self.dice.uniform(least, most) * whole.genes) for _ in range(parts))
        bounds = [0, *at, whole.genes]
        pieces = (behind - before for before, behind in pairwise(bounds))
        return tuple(replace(whole, genes=genes) for genes in pieces if genes > 0)


def _drawn(dice: random.Random) -> _Draw:
    limit_gib = dice.choice(CARDS_GIB)
    tokens_per_second = dice.uniform(3_000, 12_000)
    card = CardModel(
        limit_gib=limit_gib,
        withheld_gib=dice.uniform(0.1, 0.5),
        others_gib=dice.uniform(0.2, 1.0),
        context_gib=dice.choice((1.6, 2.8)),
        tokens_per_second=tokens_per_second,
        batch_seconds=dice.uniform(0.03, 0.15),
        spill_cost=dice.uniform(20, 100),
        spill_power=dice.uniform(1.2, 1.9),
        start_seconds=dice.uniform(10, 40),
        warmup_seconds=dice.uniform(1, 8),
        memory_return_seconds=dice.uniform(2, 20),
        release_seconds=dice.uniform(0.2, 1.0),
        cpu_tokens_per_second=tokens_per_second / dice.uniform(3, 20),
        cpu_start_seconds=dice.uniform(8, 25),
    )
    shortest = 32 * dice.randint(1, 8)
    tokens = (shortest, shortest + 32 * dice.randint(4, 12))
    batch_size = 64
    free_gib = card.budget_gib - card.context_gib
    while batch_size > 4 and _activations_gib(card, batch_size, tokens[1]) > 0.5 * free_gib:
        batch_size //= 2
    genes = batch_size * dice.randint(100, 400)
    base = Stretch("shard", genes, batch_size, tokens, fragment_gib=0.0, read_seconds=dice.uniform(0.05, 0.5))
    return _Draw(dice, card, base, free_gib - _activations_gib(card, batch_size, tokens[1]))


def _activations_gib(card: CardModel, rows: int, tokens: int) -> float:
    return rows * tokens * card.activation_mib_per_token / 1024


# -- the families: each makes the stretches, and may change the card ---------------------------------------------------

_Made = tuple[CardModel, tuple[Stretch, ...]]


def _fragments(draw: _Draw) -> _Made:
    card = replace(draw.card, context_gib=2.7, layers=24)
    longest = draw.dice.choice((512, 1024, 2048, 2929))
    rows = 64
    while rows > 8 and rows * longest * 56 / 2**20 > 0.8 * (card.budget_gib - card.context_gib):
        rows //= 2
    genes = rows * draw.dice.randint(60, 200)
    return card, (replace(draw.base, genes=genes, batch_size=rows, tokens=(8, longest), mixed=True, pad=1),)


def _leak(draw: _Draw) -> _Made:
    whole = draw.full(0.1, 0.5)
    batches = whole.genes // whole.batch_size
    return draw.card, (replace(whole, leak_gib=draw.room_gib / (draw.dice.uniform(0.2, 0.9) * batches)),)


def _surge(draw: _Draw) -> _Made:
    before, behind = draw.cut(draw.full(0.75, 0.97), 0.1, 0.8)
    return draw.card, (before, replace(behind, surge_gib=draw.dice.uniform(0.1, 0.9) * draw.room_gib))


def _stall(draw: _Draw) -> _Made:
    before, *behind = draw.cut(draw.full(0.9, 0.97), 0.1, 0.9, draw.dice.randint(1, 2))
    return draw.card, (before, *(replace(stretch, stalls=True) for stretch in behind))


def _others(draw: _Draw) -> _Made:
    before, meanwhile, *behind = draw.cut(draw.full(0.6, 0.97), 0.1, 0.9, 2)
    taken_gib = draw.dice.uniform(0.1, 0.9) * draw.room_gib
    return draw.card, (before, replace(meanwhile, others_gib=taken_gib), *behind)


def _tiny_room(draw: _Draw) -> _Made:
    needed_gib = draw.dice.uniform(0.8, 1.4) * (draw.card.budget_gib - draw.card.context_gib)
    mib = needed_gib * 1024 / (draw.base.batch_size * draw.base.tokens[1])
    return replace(draw.card, activation_mib_per_token=mib), (draw.base,)


def _giant_text(draw: _Draw) -> _Made:
    before, *behind = draw.cut(draw.full(0.5, 0.95), 0.05, 0.9, draw.dice.randint(1, 3))
    # More than a fresh context has room for.
    giants = (replace(stretch, surge_gib=draw.dice.uniform(1.1, 4.0) * draw.room_gib) for stretch in behind)
    return draw.card, (before, *giants)


def _short_shards(draw: _Draw) -> _Made:
    whole = replace(draw.full(0.8, 1.6), pad=8)
    whole = replace(whole, fragment_gib=whole.fragment_gib / 4)
    shards = []
    for number in range(draw.dice.randint(20, 60)):
        genes = whole.batch_size * draw.dice.randint(1, 12)
        surge_gib = draw.dice.uniform(0.1, 0.8) * draw.room_gib if draw.dice.random() < 0.1 else 0.0
        shards.append(replace(whole, name=f"shard {number + 1}", genes=genes, surge_gib=surge_gib))
    return draw.card, tuple(shards)


def _heals(draw: _Draw) -> _Made:
    return replace(draw.card, heals=1), (draw.full(1.05, 2.0),)


def _healthy(draw: _Draw) -> _Made:
    before, behind = draw.cut(draw.full(0.8, 0.98), 0.2, 0.8)
    if draw.dice.random() < 0.5:
        behind = replace(behind, read_seconds=draw.dice.uniform(10, 60))
    return draw.card, (before, behind)


def _throttled(draw: _Draw) -> _Made:
    before, meanwhile, *behind = draw.cut(draw.full(0.85, 0.98), 0.15, 0.9, 2)
    return draw.card, (before, replace(meanwhile, speed=draw.dice.uniform(0.1, 0.7)), *behind)


FAMILIES: dict[str, tuple[str, Callable[[_Draw], _Made]]] = {
    "fragments": (
        "passages of mixed length in file order: torch's cache, replayed, grows with longer ones",
        _fragments,
    ),
    "leak": ("each batch keeps a little that only the end of the process gives back", _leak),
    "surge": ("one batch needs much more at once, which a fresh worker would have room for", _surge),
    "stall": ("one or two batches never end in the context that meets them; a fresh one encodes them", _stall),
    "others": ("another program takes memory for a time", _others),
    "tiny-room": ("the longest batches need 0.8 to 1.4 times what the card has beside the weights", _tiny_room),
    "giant-text": ("one to three batches need more than a fresh worker has room for", _giant_text),
    "short-shards": (
        "20 to 60 shards of at most 12 batches, some of which crawl from the first on",
        _short_shards,
    ),
    "heals": ("each new length takes a little for good, and a release brings back what has spilled", _heals),
    "healthy": (
        "a full cache, in half of them beside a disk that becomes slow: nothing to do",
        _healthy,
    ),
    "throttled": ("a full cache, and a card that is slow for another reason for a time: nothing to do", _throttled),
}
"""What each family models, and what makes one of it."""


class RandomScenario(Scenario):
    """One of a family, named after it. Another seed is another card and other shards."""

    def drawn(self, seed: int) -> Scenario:
        """See `Scenario`."""
        return replace(random_scenario(self.name, seed), order=self.order)


def random_scenario(family: str, seed: int) -> RandomScenario:
    """One scenario of a family, the same on every machine."""
    text, make = FAMILIES[family]
    dice = random.Random(f"{family}|{seed}")
    card, stretches = make(_drawn(dice))
    tokens = LARGE_BATCH_TOKENS if card.limit_gib >= LARGE_GIB else BATCH_TOKENS
    return RandomScenario(
        family, text, stretches, card=card, batch_tokens=tokens, jitter=dice.uniform(0.02, 0.1), seed=seed
    )


def random_scenarios(count: int, seed: int) -> list[RandomScenario]:
    """Scenarios of all families in turn.

    Args:
        count: How many, 1 or more.
        seed: Of the first; the next ones follow.
    """
    names = list(FAMILIES)
    return [random_scenario(names[at % len(names)], (seed + at) % MOST_SEEDS) for at in range(count)]
