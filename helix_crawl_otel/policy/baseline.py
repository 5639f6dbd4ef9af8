"""What healthy looks like: the shard's own baseline, and the card's stand-in while there is none.

Source: DESIGN.md, section 4, rules 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

__all__ = ["ROUNDING", "Baseline", "BaselineMeter", "CardBaselines"]

ROUNDING = 1e-9
"""Two values that differ by less, in proportion, are equal: a rate at the limit is not below it."""

CARD_HISTORY = 64
"""Baselines kept a card. The median of the latest 64 says what the card does, and the memory stays flat over 10,000
shards."""


@dataclass(frozen=True)
class Baseline:
    """A healthy rate.

    Args:
        rate: Judged rate, in the shard's unit (work or genes) a second; more than 0.
        genes_rate: The same batches in genes a second, for reports.
        work: Median work of the batches measured, in the shard's unit; more than 0.

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


def _median(samples: list[Baseline]) -> Baseline:
    return Baseline(
        rate=median(sample.rate for sample in samples),
        genes_rate=median(sample.genes_rate for sample in samples),
        work=median(sample.work for sample in samples),
    )


@dataclass
class BaselineMeter:
    """Measures one shard on one device: the median of the first `window` finished batches after the warm-up.

    Survives every change of worker, with the batches measured so far (rule 9).
    """

    samples: list[Baseline] = field(default_factory=list)
    baseline: Baseline | None = None

    def add(self, sample: Baseline, window: int) -> Baseline | None:
        """Take one finished batch. Returns the baseline when this batch completes it, else `None`."""
        if self.baseline is not None:
            return None
        self.samples.append(sample)
        if len(self.samples) < window:
            return None
        self.baseline = _median(self.samples)
        self.samples = []
        return self.baseline


@dataclass
class CardBaselines:
    """Baselines of earlier shards by card, encoder and unit: the stand-in for a shard that has none."""

    cards: dict[str, list[Baseline]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stand_ins: dict[str, Baseline] = {}  # asked for with every batch of a shard without a baseline

    @staticmethod
    def key(device: str, encoder: str, unit: str) -> str:
        """Two rates compare only on the same card, with the same encoder, in the same unit."""
        return f"{device}|{unit}|{encoder}"

    def add(self, key: str, baseline: Baseline) -> None:
        """Remember the finished baseline of a shard."""
        history = self.cards.setdefault(key, [])
        history.append(baseline)
        del history[:-CARD_HISTORY]
        self._stand_ins.pop(key, None)

    def stand_in(self, key: str) -> Baseline | None:
        """The median of the shards so far, `None` while there is none."""
        history = self.cards.get(key)
        if not history:
            return None
        if key not in self._stand_ins:
            self._stand_ins[key] = _median(history)
        return self._stand_ins[key]
