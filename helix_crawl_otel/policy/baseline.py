"""What healthy looks like: the shard's own baseline, and what the card has shown while there is none.

Source: DESIGN.md, section 4, rules 2 and 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from helix_crawl_otel.policy.codec import OPTIONAL

__all__ = ["ROUNDING", "SMALL_BATCH", "Baseline", "BaselineMeter", "CardBaselines", "Sample"]

ROUNDING = 1e-9
"""Two values that differ by less, in proportion, are equal: a rate at the limit is not below it."""

SMALL_BATCH = 0.25
"""A batch of less than this part of the usual work: its rate is all overhead (rule 4)."""

CARD_HISTORY = 64
"""Baselines kept a card. The median of the latest 64 says what the card does, and the memory stays flat over 10,000
shards."""


@dataclass(frozen=True)
class Baseline:
    """A healthy rate.

    Args:
        rate: Judged rate, in the shard's unit (work or genes) a second; more than 0.
        genes_rate: The same batches in genes a second, for reports.
        work: Usual work of the batches measured, in the shard's unit; more than 0.

    Raises:
        ValueError: A value is not more than 0, as in a damaged state file.
    """

    rate: float
    genes_rate: float
    work: float

    def __post_init__(self) -> None:
        for name in ("rate", "genes_rate", "work"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted: a number > 0")

    def is_slow(self, rate: float, factor: float) -> bool:
        """Whether a judged rate is below the crawl limit, baseline / factor (rule 7)."""
        return rate < self.rate / factor * (1 - ROUNDING)

    def is_at_limit(self, rate: float, factor: float) -> bool:
        """Whether a rate that is not below the limit is not above it either."""
        return rate <= self.rate / factor * (1 + ROUNDING)


@dataclass(frozen=True)
class Sample(Baseline):
    """One finished batch, as a baseline is measured by it.

    Args:
        full: The memory was full since it began. Where it is slow besides, it fits the signature of the crawl.
    """

    full: bool = field(default=False, metadata={OPTIONAL: True})


def _median(samples: Sequence[Baseline]) -> Baseline:
    return Baseline(
        rate=median(sample.rate for sample in samples),
        genes_rate=median(sample.genes_rate for sample in samples),
        work=median(sample.work for sample in samples),
    )


def _fastest(samples: Sequence[Baseline], work: float | None) -> Baseline | None:
    """The best among batches that one of this work can be compared with, `None` where there is none.

    A batch is compared with none of less than a quarter of its work: it may have been fast by chance.
    """
    known = [sample for sample in samples if work is None or sample.work >= SMALL_BATCH * work]
    if not known:
        return None
    best = max(known, key=lambda sample: sample.rate)
    return Baseline(best.rate, best.genes_rate, median(sample.work for sample in known))


def _usual(samples: Sequence[Baseline]) -> list[Baseline]:
    """Those of at least a quarter of the mean work: the last batch of a short shard is often a tiny one."""
    least = SMALL_BATCH * fmean(sample.work for sample in samples)
    return [sample for sample in samples if sample.work >= least]


def _is_slow_beside(samples: Sequence[Baseline], one: Baseline, factor: float) -> bool:
    fastest = _fastest(samples, one.work)
    return fastest is not None and fastest.is_slow(one.rate, factor)


@dataclass
class BaselineMeter:
    """Measures one shard on one device: the median of the first `window` finished batches after the warm-up, but for
    those of less than a quarter of their mean work.

    Survives every change of worker, with the batches measured so far (rule 9).

    Args:
        samples: Measured so far, none once there is a baseline.
        baseline: Of the shard, `None` while it is measured.
        small: Where small batches have become the usual ones, as at the end of a shard whose longest passages come
            first: what each of the first `window` in a row has cost beyond its work, in the same unit, 0 or more.

    Raises:
        ValueError: One of `small` is negative: a damaged state file.
    """

    samples: list[Sample] = field(default_factory=list)
    baseline: Baseline | None = None
    small: list[float] = field(default_factory=list, metadata={OPTIONAL: True})

    def __post_init__(self) -> None:
        for overhead in self.small:
            if overhead < 0:
                raise ValueError(f"small has {overhead!r}; accepted: numbers >= 0")

    def add(self, sample: Sample, window: int) -> Baseline | None:
        """Take one finished batch. Returns the baseline when this batch completes it, else `None`."""
        if self.baseline is not None:
            return None
        self.samples.append(sample)
        if len(self.samples) < window:
            return None
        self.baseline = _median(_usual(self.samples))
        self.samples = []
        return self.baseline

    def add_small(self, work: float, seconds: float, window: int) -> None:
        """Take a small batch that ended after `seconds`, and was not slow under a full memory."""
        if self.baseline is not None and len(self.small) < window:
            self.small.append(max(0.0, self.baseline.rate * seconds - work))

    def weigh(self, work: float, baseline: Baseline, window: int) -> float:
        """The work that a batch is judged by (rule 4): its own, and of a small one with what any batch costs besides.

        While that is not known, and at most, it is judged as a quarter of the usual work.
        """
        least = SMALL_BATCH * baseline.work
        if work >= least or len(self.small) < window:
            return max(work, least)
        return min(work + median(self.small[:window]), least)


@dataclass
class CardBaselines:
    """What each card has shown, by card, encoder and unit: it stands in for a shard that has no baseline (rule 3).

    Args:
        cards: Baselines of earlier shards.
        early: While a card has none of those, its first healthy batches across shards, `window` of them at most. When
            there are so many their median stands in, until then the fastest of them.
    """

    cards: dict[str, list[Baseline]] = field(default_factory=dict)
    early: dict[str, list[Sample]] = field(default_factory=dict, metadata={OPTIONAL: True})

    def __post_init__(self) -> None:
        self._medians: dict[str, Baseline] = {}  # asked for with every batch of a shard without a baseline

    @staticmethod
    def key(device: str, encoder: str, unit: str) -> str:
        """Two rates compare only on the same card, with the same encoder, in the same unit."""
        return f"{device}|{unit}|{encoder}"

    def add(self, key: str, baseline: Baseline) -> None:
        """Remember the finished baseline of a shard."""
        history = self.cards.setdefault(key, [])
        history.append(baseline)
        del history[:-CARD_HISTORY]
        self.early.pop(key, None)
        self._medians.pop(key, None)

    def measure(self, key: str, sample: Sample, window: int, factor: float) -> None:
        """Take a finished batch while no shard of the card has a baseline.

        One that is so much faster than earlier ones that they fit the signature takes their place: the card's first
        batches may have been the crawl.
        """
        if self.cards.get(key) or not self._is_open(key, window):
            return
        samples = [*self.early.get(key, ()), sample]
        self.early[key] = [one for one in samples if not (one.full and _is_slow_beside(samples, one, factor))]
        self._medians.pop(key, None)

    def stand_in(self, key: str, window: int, work: float | None = None) -> Baseline | None:
        """What stands in for the baseline of a shard on this card, `None` before its first healthy batch.

        Args:
            key: See `key`.
            window: Batches of a baseline.
            work: Of the batch that is to be judged; `None` for one as usual.
        """
        history, early = self.cards.get(key), self.early.get(key, [])
        if not history and self._is_open(key, window):
            return _fastest(early, work)
        if key not in self._medians:
            self._medians[key] = _median(history or _usual(early))
        return self._medians[key]

    def is_baseline(self, key: str, sample: Sample, window: int, factor: float) -> bool:
        """Whether a batch may enter the baseline of its shard.

        Not one that is slow against the stand-in. While that is no more than the fastest batch so far, which may have
        been fast by chance, slow alone is not enough: the memory has to have been full as well.
        """
        stand_in = self.stand_in(key, window, sample.work)
        if stand_in is None or not stand_in.is_slow(sample.rate, factor):
            return True
        return not (self.cards.get(key) or sample.full) and self._is_open(key, window)

    def _is_open(self, key: str, window: int) -> bool:
        return len(self.early.get(key, ())) < window
