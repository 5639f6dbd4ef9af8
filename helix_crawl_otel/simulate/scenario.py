"""A scenario: a card, and shards as stretches of genes that are alike. Expands into batches, the same for every policy.

Those that `simulate` knows are both incidents, and what must and must not be taken for a crawl. All are on the card of
the incidents (`CardModel`), most with 25,000 genes in batches of 64 at 15.3 genes/s. With padded lengths of 256 to 512
in steps of 32 there are nine shapes; most are met within some 30 batches.

Source: DESIGN.md, sections 3.3 (`simulate`), 4 ("what must not trip") and 10; INCIDENTS.md.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from helix_crawl_otel.modelled_card import BatchLoad, CardModel, check_number, check_whole
from helix_crawl_otel.policy.batch_limits import BATCH_TOKENS, BatchLimits, cut_by_length

__all__ = ["MAX_BATCHES", "MOST_SEEDS", "ORDERS", "SCENARIOS", "Scenario", "Stretch", "by_name"]

MAX_BATCHES = 20_000
"""Batches a run may have: 1.28 million genes in batches of 64. Keeps a typing error from running for hours."""

_MOST = 1_000_000_000

ORDERS = ("files", "tokens")

MOST_SEEDS = _MOST + 1
"""Seeds that there are, from 0 on."""


def _of_kind(name: str, value: object, kind: type, accepted: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {value!r}; accepted: {accepted}")


@dataclass(frozen=True)
class Stretch:
    """A shard, or a part of one: the next stretch of the same name goes on with it.

    Args:
        name: Of the shard.
        genes: Passages in it.
        batch_size: Passages a batch.
        tokens: Shortest and longest padded length of a batch; each length between is as likely.
        mixed: `tokens` is said of single passages, and a batch is as long as its longest: lengths that no two batches
            share. They are log-normal about the middle, as those of real texts are.
        pad: Lengths are padded to a multiple of this, so it sets how many distinct shapes there are.
        fragment_gib: What each new padded length leaves in the cache.
        surge_gib: Workspace that the first batch of the stretch needs at once.
        leak_gib: What each batch takes and nothing but the end of the process gives back.
        others_gib: What other programs take meanwhile; they begin inside the first batch of the stretch.
        stalls: The first batch of the stretch never ends in a context that has encoded anything before it.
        speed: Speed of the card, 0.001 to 1; 0.5 = throttled to a half.
        read_seconds: Reading and committing a batch, outside the encode stage.

    Raises:
        ValueError: A value is out of range, naming the field.
    """

    name: str
    genes: int
    batch_size: int = 64
    tokens: tuple[int, int] = (256, 512)
    mixed: bool = False
    pad: int = 32
    fragment_gib: float = 0.05
    surge_gib: float = 0.0
    leak_gib: float = 0.0
    others_gib: float = 0.0
    stalls: bool = False
    speed: float = 1.0
    read_seconds: float = 0.2

    def __post_init__(self) -> None:
        _of_kind("name", self.name, str, "a name")
        if not self.name:
            raise ValueError("name is ''; accepted: a name")
        for name in ("genes", "batch_size", "pad"):
            check_whole(name, getattr(self, name), 1, _MOST)
        for bound in self.tokens:
            check_whole("tokens", bound, 1, _MOST)
        if self.tokens[0] > self.tokens[1]:
            raise ValueError(f"tokens is {list(self.tokens)!r}; accepted: two whole numbers, [shortest, longest]")
        for name in ("stalls", "mixed"):
            _of_kind(name, getattr(self, name), bool, "true or false")
        for name in ("fragment_gib", "surge_gib", "leak_gib", "others_gib", "read_seconds"):
            check_number(name, getattr(self, name), 0.0, 1e6)
        check_number("speed", self.speed, 0.001, 1.0)

    def lengths(self, genes: int, dice: random.Random) -> list[int]:
        """Padded lengths of the passages of one batch in file order."""
        first, last = (-(-bound // self.pad) for bound in self.tokens)
        if not self.mixed:
            return [self.pad * (first + int(dice.random() * (last - first + 1)))] * genes
        middle, spread = math.log(self.tokens[0] * self.tokens[1]) / 2, math.log(self.tokens[1] / self.tokens[0]) / 6.5
        drawn = (dice.lognormvariate(middle, spread) for _ in range(genes))
        return [self.pad * min(last, max(first, math.ceil(length / self.pad))) for length in drawn]


@dataclass(frozen=True)
class Scenario:
    """What is run.

    Args:
        name: Shown in the table.
        text: What it models.
        stretches: In order.
        card: The card.
        release_every: The driver's own release of the cache, in batches of a worker; 0 = never. In force for every
            policy but `none` and `best`.
        order: `files`: batches as the passages come; `tokens`: longest first over the shard, at most
            `batch_tokens` and at most `batch_size` passages, as `build` does it. What a stretch says holds for as many
            passages, and it begins with a batch.
        batch_tokens: The most padded tokens of a batch; a longer passage goes alone.
        vram_cap: What the policies with a cap let a worker hold, as a fraction of the memory that is free or its own.
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
    release_every: int = 256
    order: str = "files"
    batch_tokens: int = BATCH_TOKENS
    vram_cap: float = 0.95
    jitter: float = 0.05
    seed: int = 7

    def __post_init__(self) -> None:
        if not self.stretches:
            raise ValueError("shards is empty; accepted: at least one shard")
        check_whole("release_every", self.release_every, 0, _MOST)
        check_whole("seed", self.seed, 0, _MOST)
        check_whole("batch_tokens", self.batch_tokens, 1, _MOST)
        check_number("vram_cap", self.vram_cap, 0.01, 1.0)
        check_number("jitter", self.jitter, 0.0, 0.9)
        _of_kind("order", self.order, str, "files or tokens")
        if self.order not in ORDERS:
            raise ValueError(f"order is {self.order!r}; accepted: {' or '.join(ORDERS)}")
        if self.batches > MAX_BATCHES:
            raise ValueError(f"shards have {self.batches} batches in all; accepted: at most {MAX_BATCHES}")

    @property
    def batches(self) -> int:
        """Batches in all; by tokens, at most."""
        found = 0
        for stretch in self.stretches:
            most = self.batch_tokens // stretch.tokens[1] if self.order == "tokens" else stretch.batch_size
            found += -(-stretch.genes // max(1, min(stretch.batch_size, most)))
        return found

    @property
    def genes(self) -> int:
        """Passages in all."""
        return sum(stretch.genes for stretch in self.stretches)

    def drawn(self, seed: int) -> Scenario:
        """The same kind of job with another seed."""
        return replace(self, seed=seed)

    def loads(self) -> list[BatchLoad]:
        """The batches, in order. The same for the same scenario, on every machine."""
        dice = random.Random(f"{self.name}|{self.seed}")
        loads: list[BatchLoad] = []
        for stretch, lengths, begins in self._batches(dice):
            loads.append(
                BatchLoad(
                    index=len(loads),
                    shard=stretch.name,
                    genes=len(lengths),
                    tokens=max(lengths),
                    own_tokens=sum(lengths),
                    noise=1 + self.jitter * (2 * dice.random() - 1),
                    fragment_gib=stretch.fragment_gib,
                    surge_gib=stretch.surge_gib if begins else 0.0,
                    leak_gib=stretch.leak_gib,
                    others_gib=stretch.others_gib,
                    stalls=stretch.stalls and begins,
                    speed=stretch.speed,
                    read_seconds=stretch.read_seconds,
                )
            )
        return loads

    def _batches(self, dice: random.Random) -> Iterator[tuple[Stretch, list[int], bool]]:
        """Stretch and lengths of the passages of each batch, and whether it is the first of its stretch."""
        if self.order == "files":
            for stretch in self.stretches:
                for done in range(0, stretch.genes, stretch.batch_size):
                    genes = min(stretch.batch_size, stretch.genes - done)
                    yield stretch, stretch.lengths(genes, dice), done == 0
            return
        for name in dict.fromkeys(stretch.name for stretch in self.stretches):
            mine = [stretch for stretch in self.stretches if stretch.name == name]
            lengths: list[int] = []
            for stretch in mine:
                for done in range(0, stretch.genes, stretch.batch_size):
                    lengths += stretch.lengths(min(stretch.batch_size, stretch.genes - done), dice)
            lengths.sort(reverse=True)
            ends = list(itertools.accumulate(stretch.genes for stretch in mine))
            for stretch, begin, end in zip(mine, (0, *ends), ends, strict=False):
                at = begin
                for genes in cut_by_length(lengths[begin:end], BatchLimits(stretch.batch_size, self.batch_tokens)):
                    yield stretch, lengths[at : at + genes], at == begin
                    at += genes


# Nine shapes of 0.53 GiB fill 4.77 of the 4.98 GiB that weights and activations leave: 97 % full, healthy.
_full = partial(Stretch, fragment_gib=0.53)

SCENARIOS = (
    Scenario(
        name="incident-06-10",
        text="shard confluence: one shape needs 0.43 GiB more at once, 0.21 GiB spill and stay: 15.3 to 2.3 genes/s",
        stretches=(
            _full("confluence", 9_600),
            _full("confluence", 15_400, surge_gib=0.431),
        ),
    ),
    Scenario(
        name="incident-06-11",
        text="shard slack__eng-oncall: one shape needs 4.4 GiB at once beside a full cache, 4.2 GiB spill: 64 genes in "
        "47 minutes from then on, although the cache is released every 64 batches; 66 hours to go",
        stretches=(
            _full("slack__eng-oncall", 19_648),
            _full("slack__eng-oncall", 5_352, surge_gib=4.4),
        ),
        release_every=64,
    ),
    Scenario(
        name="gradual-decay",
        text="each new shape leaves a little: from 22 genes/s to about 1.2 within some 60 batches of the first spill",
        stretches=(
            Stretch("folder", 9_600, tokens=(144, 376), pad=8, fragment_gib=0.1935),
            Stretch("folder", 15_400, tokens=(137, 376), pad=1, fragment_gib=0.008),
        ),
    ),
    Scenario(
        name="endless-batch",
        text="with 4.2 s healthy batches, one batch never ends in the context that meets it; a fresh one encodes it",
        stretches=(
            _full("wiki", 12_800),
            _full("wiki", 12_200, stalls=True),
        ),
    ),
    Scenario(
        name="born-crawling",
        text="three healthy shards fill the cache; the fourth spills 4.2 GiB with its first batch and never shows a "
        "healthy one: only the card's earlier shards tell that it is slow",
        stretches=(
            *(_full(name, 6_400) for name in ("one", "two", "three")),
            _full("four", 5_800, surge_gib=4.4),
        ),
    ),
    Scenario(
        name="recurring-crawl",
        text="65 shapes: every fresh context is full after some 150 batches and spills again, sooner than the release",
        stretches=(Stretch("mixed", 25_000, pad=4, fragment_gib=0.086),),
    ),
    Scenario(
        name="release-is-enough",
        text="129 shapes fill a context within some 320 batches; a release every 256 is in time, without one it spills",
        stretches=(Stretch("repository", 40_000, pad=2, fragment_gib=0.042),),
    ),
    Scenario(
        name="long-documents",
        text="passages of up to 128 tokens, then of up to 1,024 with the card 96 % full: an eighth of the genes/s, "
        "as it should be",
        stretches=(
            Stretch("manuals", 12_800, tokens=(96, 128), fragment_gib=0.2),
            Stretch("manuals", 12_200, tokens=(896, 1024), fragment_gib=0.2),
        ),
    ),
    Scenario(
        name="slow-disk",
        text="an 18 GB shard file outgrows the file cache: reading a batch takes 60 s instead of 0.2, and the card is "
        "97 % full",
        stretches=(
            _full("archive", 12_800),
            _full("archive", 12_200, read_seconds=60.0),
        ),
    ),
    Scenario(
        name="throttling",
        text="the card gets hot and runs at half its speed for 200 batches, 97 % full",
        stretches=(
            _full("notes", 6_400),
            _full("notes", 12_800, speed=0.5),
            _full("notes", 5_800),
        ),
    ),
)


def by_name(name: str) -> Scenario | None:
    """The scenario of that name, `None` when there is none."""
    return next((scenario for scenario in SCENARIOS if scenario.name == name), None)
