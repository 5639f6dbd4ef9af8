"""A scenario: a card, and shards as stretches of genes that are alike. Expands into batches, the same for every policy.

Source: DESIGN.md, section 3.3 (`simulate`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from helix_crawl_otel.modelled_card import BatchLoad, CardModel, check_number

__all__ = ["MAX_BATCHES", "Kind", "Scenario", "Stretch"]

MAX_BATCHES = 20_000
"""Batches a run may have: 1.28 million genes in batches of 64. Keeps a typing error from running for hours."""

Kind = str
"""What a scenario is judged by: `one-crawl` (section 10's 1.25), `recurring` (shown), `healthy` (no intervention),
or `own` (a user's file: no goal)."""


_MOST = 1_000_000_000


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
        raise ValueError(f"{name} is {value!r}; accepted: a whole number from {least} to {_MOST}")


def _of_kind(name: str, value: object, kind: type, accepted: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}; accepted: {accepted}")


@dataclass(frozen=True)
class Stretch:
    """A shard, or a part of one: the next stretch of the same name goes on with it.

    Args:
        shard: Name.
        genes: Passages in it.
        batch_size: Passages a batch.
        tokens: Shortest and longest padded length of a batch; each length between is as likely.
        pad: Lengths are padded to a multiple of this, so it sets how many distinct shapes there are.
        fragment_gib: What each new padded length leaves in the cache.
        surge_gib: Workspace that the first batch of the stretch needs at once.
        stalls: The first batch of the stretch never ends in a context that has encoded anything before it.
        speed: Speed of the card, 0.001 to 1; 0.5 = throttled to a half.
        read_seconds: Reading and committing a batch, outside the encode stage.

    Raises:
        ValueError: A value is out of range, naming the field.
    """

    shard: str
    genes: int
    batch_size: int = 64
    tokens: tuple[int, int] = (256, 512)
    pad: int = 32
    fragment_gib: float = 0.05
    surge_gib: float = 0.0
    stalls: bool = False
    speed: float = 1.0
    read_seconds: float = 0.2

    def __post_init__(self) -> None:
        _of_kind("shard", self.shard, str, "a name")
        if not self.shard:
            raise ValueError("shard is ''; accepted: a name")
        for name in ("genes", "batch_size", "pad"):
            _whole(name, getattr(self, name), 1)
        for bound in self.tokens:
            _whole("tokens", bound, 1)
        if self.tokens[0] > self.tokens[1]:
            raise ValueError(f"tokens is {list(self.tokens)!r}; accepted: two whole numbers, [shortest, longest]")
        _of_kind("stalls", self.stalls, bool, "true or false")
        for name in ("fragment_gib", "surge_gib", "read_seconds"):
            check_number(name, getattr(self, name), 0.0, 1e6)
        check_number("speed", self.speed, 0.001, 1.0)


@dataclass(frozen=True)
class Scenario:
    """What is run.

    Args:
        name: Shown in the table.
        text: What it models.
        stretches: In order.
        card: The card.
        kind: See `Kind`.
        release_every: The driver's own release of the cache, in batches of a worker; 0 = never. In force for every
            policy but `none` and `best`.
        jitter: Spread of the batch times, a fraction, 0 to 0.9: each takes between 1 - jitter and 1 + jitter times its
            share.
        seed: Of the batch lengths and the jitter.

    Raises:
        ValueError: A value is out of range, or there are more than `MAX_BATCHES` batches.
    """

    name: str
    text: str
    stretches: tuple[Stretch, ...]
    card: CardModel = field(default_factory=CardModel)
    kind: Kind = "own"
    release_every: int = 256
    jitter: float = 0.05
    seed: int = 7

    def __post_init__(self) -> None:
        if not self.stretches:
            raise ValueError("shards is empty; accepted: at least one shard")
        _whole("release_every", self.release_every, 0)
        _whole("seed", self.seed, 0)
        check_number("jitter", self.jitter, 0.0, 0.9)
        if self.batches > MAX_BATCHES:
            raise ValueError(f"shards have {self.batches} batches in all; accepted: at most {MAX_BATCHES}")

    @property
    def batches(self) -> int:
        """Batches in all."""
        return sum(-(-stretch.genes // stretch.batch_size) for stretch in self.stretches)

    @property
    def genes(self) -> int:
        """Passages in all."""
        return sum(stretch.genes for stretch in self.stretches)

    def loads(self) -> list[BatchLoad]:
        """The batches, in order. The same for the same scenario, on every machine."""
        dice = random.Random(f"{self.name}|{self.seed}")
        loads: list[BatchLoad] = []
        for stretch in self.stretches:
            first, last = (-(-bound // stretch.pad) for bound in stretch.tokens)
            left = stretch.genes
            while left > 0:
                genes = min(left, stretch.batch_size)
                begins = left == stretch.genes
                left -= genes
                loads.append(
                    BatchLoad(
                        index=len(loads),
                        shard=stretch.shard,
                        genes=genes,
                        tokens=stretch.pad * (first + int(dice.random() * (last - first + 1))),
                        noise=1 + self.jitter * (2 * dice.random() - 1),
                        fragment_gib=stretch.fragment_gib,
                        surge_gib=stretch.surge_gib if begins else 0.0,
                        stalls=stretch.stalls and begins,
                        speed=stretch.speed,
                        read_seconds=stretch.read_seconds,
                    )
                )
        return loads
