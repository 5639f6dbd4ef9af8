"""Recognises the crawl: an EMA of rates, a streak of slow observations under a full memory, an episode.

One detector serves one shard on one device. It is fed every observation, whatever the memory says and whatever action
is pending, so that its windows stay true (rule 10).

Source: DESIGN.md, section 4, rules 4, 7 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from helix_crawl_otel.policy.baseline import ROUNDING, Baseline
from helix_crawl_otel.policy.model import Verdict
from helix_crawl_otel.policy.settings import Settings

__all__ = ["Detector", "Finding", "Observation"]


class Finding(str, Enum):
    """What an observation amounts to, when it amounts to something."""

    TRIP = "trip"
    RECOVERED = "recovered"


class Observation(NamedTuple):
    """A finished batch, or a slice of one in flight.

    Args:
        t: Seconds; the end of the batch or of the slice.
        rate: Judged rate in the shard's unit a second, more than 0.
        genes_rate: The same in genes a second.
        full: Whether the memory was full since the batch began; `None` when unknown.
        in_flight: A slice: the rates are upper bounds.
        fills_window: The slice with which one batch has filled a window alone.
    """

    t: float
    rate: float
    genes_rate: float
    full: bool | None
    in_flight: bool = False
    fills_window: bool = False


@dataclass
class Detector:
    """State of one shard on one device. None of it survives a change of worker (rule 9)."""

    ema: float | None = None
    genes_ema: float | None = None
    streak: int = 0
    streak_since: float = 0.0
    healthy: int = 0
    episode_open: bool = False
    verdict: Verdict = Verdict.WARMING_UP

    def observe(
        self,
        observation: Observation,
        baseline: Baseline | None,
        settings: Settings,
        *,
        hold_seconds: float,
        may_trip: bool,
    ) -> Finding | None:
        """Feed one observation.

        Args:
            observation: What was seen.
            baseline: The one in force, `None` while there is none: nothing is slow then.
            settings: The knobs.
            hold_seconds: How long a streak must have lasted to be a trip: `window` ticks (rule 7).
            may_trip: False while a RECYCLE or DEMOTE_CPU is pending (rule 8).

        Returns:
            `TRIP` when the signature has filled a window (the caller calls `tripped`), `RECOVERED` when an episode
            ends with this observation, else `None`.
        """
        average = self._average(observation, settings.ema_alpha)
        if observation.fills_window and self.genes_ema is not None:
            # A window of slices of one batch says more than the healthy batches before it, which the EMA remembers.
            average = self.ema = min(average, observation.rate)
            self.genes_ema = min(self.genes_ema, observation.genes_rate)
        slow = baseline is not None and baseline.is_slow(average, settings.factor)
        self.verdict = self._judge(baseline, slow, observation.full)
        if not slow:
            if observation.in_flight and baseline is not None and baseline.is_at_limit(average, settings.factor):
                # The first slice of a batch lies at the limit by definition. With ema_alpha = 1 the EMA is that slice,
                # and would end the streak of every crawl whose batches do finish.
                return None
            self.streak = 0
            return self._recover(settings.window) if self.episode_open else None
        self.healthy = 0
        # Inside an episode only the rate decides: the release of rung 1 lowers the reading and must not hide the crawl.
        if not (observation.full or self.episode_open):
            self.streak = 0
            return None
        if self.streak == 0:
            self.streak_since = observation.t
        self.streak += 1
        has_lasted = observation.t - self.streak_since >= hold_seconds * (1 - ROUNDING)
        if observation.fills_window:
            self.streak, has_lasted = max(self.streak, settings.window), True
        filled = self.streak >= settings.window and has_lasted
        return Finding.TRIP if filled and may_trip else None

    def tripped(self) -> None:
        """Take note of a trip: it opens an episode unless one is open, and the streak starts again."""
        self.episode_open = True
        self.streak = 0

    def ratio(self, baseline: Baseline | None) -> float | None:
        """EMA over baseline as judged; `None` while either is unknown."""
        if self.ema is None or baseline is None:
            return None
        return self.ema / baseline.rate

    def _average(self, observation: Observation, alpha: float) -> float:
        """Bring both EMAs up to date; returns the judged one."""
        if self.ema is None or self.genes_ema is None:
            self.ema, self.genes_ema = observation.rate, observation.genes_rate
        else:
            self.ema = alpha * observation.rate + (1 - alpha) * self.ema
            self.genes_ema = alpha * observation.genes_rate + (1 - alpha) * self.genes_ema
        return self.ema

    def _judge(self, baseline: Baseline | None, slow: bool, full: bool | None) -> Verdict:
        if baseline is None:
            return Verdict.WARMING_UP
        if not slow:
            return Verdict.HEALTHY
        if full or self.episode_open:
            return Verdict.CRAWLING
        return Verdict.UNKNOWN if full is None else Verdict.SLOW

    def _recover(self, window: int) -> Finding | None:
        self.healthy += 1
        if self.healthy < window:
            return None
        self.episode_open = False
        self.healthy = 0
        return Finding.RECOVERED
