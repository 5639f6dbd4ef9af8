"""What a crawl cost and what the ladder was worth: rates before and after an action, time lost, time saved; and by that
the shards that are shown, the most interesting first."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from statistics import median

from helix_crawl_otel.formats import count
from helix_crawl_otel.report.story import REMEDIES, ReportAction, ReportBatch, RunReport, ShardReport

__all__ = [
    "MEANINGS",
    "Effect",
    "Shown",
    "Speed",
    "choose",
    "effect_of",
    "lost_seconds",
    "numbered",
    "remedy_seconds",
    "remedy_waits",
    "saved_seconds",
]

MEANINGS = {
    "lost": "Lost to the crawl: the seconds that batches took during a crawl, beyond what they would have taken at the "
    "baseline. A crawl lasts from the first of the slow batches under a full memory that led to its detection until "
    "speed was back, its worker was ended or the shard was. A batch that was thrown away with its worker counts whole.",
    "remedies": "Spent on new workers: from the end of the last batch before a recycle or a move to the CPU, or from "
    "that action where its batch was thrown away, to the beginning of the next batch.",
    "saved": "Saved by the ladder, an estimate: what the rest of the shard would have taken at the speed seen when its "
    "first remedy was asked for, less what it took, new workers and later crawls included. It assumes that the crawl "
    "would have gone on at that speed to the end of the shard. Less than nothing means that the remedies cost time.",
}
"""The definitions, as the page prints them."""


_ROUNDING = 1e-3
"""Seconds: lines are rounded."""


@dataclass(frozen=True)
class Speed:
    """A median rate.

    Args:
        rate: Genes/s.
        ratio: Of the baseline, as judged; `None` when unknown.
        is_in_flight: Of the batch in flight when the action was asked for, not of finished ones.
    """

    rate: float
    ratio: float | None
    is_in_flight: bool = False


@dataclass(frozen=True)
class Effect:
    """The speed before and after an action; `None` where no batch tells."""

    before: Speed | None
    after: Speed | None


def effect_of(step: ReportAction, tale: ShardReport, window: int) -> Effect:
    """The median of up to `window` batches on either side; after it, only up to the shard's next remedy.

    The first batch of a new worker is left out, also where it is the only one: it loads and warms up.
    """
    next_remedy = bisect_right(tale.remedy_times, step.t)
    until = tale.remedy_times[next_remedy] if next_remedy < len(tale.remedy_times) else math.inf
    ended = tale.batches.ended
    past = bisect_right(ended, step.t + _ROUNDING)
    before = list(tale.batches.rows(max(0, past - window), past))
    later = tale.batches.rows(bisect_left(ended, step.t - _ROUNDING), bisect_right(ended, until + _ROUNDING))
    warm: list[ReportBatch] = []
    previous = step.t - _ROUNDING
    for batch in islice((batch for batch in later if batch.began >= step.t - _ROUNDING), window + 1):
        start = bisect_left(tale.starts, previous, key=attrgetter("t"))
        if start == len(tale.starts) or tale.starts[start].t > batch.began + _ROUNDING:
            warm.append(batch)
        previous = batch.ended
    return Effect(_seen(step) or _median(before), _median(warm[:window]))


def _seen(step: ReportAction) -> Speed | None:
    """The batch in flight, where it was one that gave the crawl away: finished batches do not show it."""
    rate, ratio = step.evidence.get("rate"), step.evidence.get("ratio")
    if step.evidence.get("inflight_seconds") is None or not isinstance(rate, (int, float)):
        return None
    return Speed(rate, ratio if isinstance(ratio, (int, float)) else None, is_in_flight=True)


def _median(batches: list[ReportBatch]) -> Speed | None:
    if not batches:
        return None
    ratios = [batch.ratio for batch in batches if batch.ratio is not None]
    return Speed(median(batch.rate for batch in batches), median(ratios) if ratios else None)


def lost_seconds(tale: ShardReport, *, until_seen: bool = False) -> float:
    """See `MEANINGS`; or only until each crawl was detected."""
    lost = 0.0
    overdue = [step for step in tale.steps if step.outcome == "overdue"]
    for episode in tale.episodes:
        began, ended = episode.began, episode.detected if until_seen else episode.end
        for batch in tale.batches.during(began, ended):
            if batch.ratio is not None:
                lost += (min(batch.ended, ended) - max(batch.began, began)) * max(0.0, 1 - batch.ratio)
        lost += sum(min(batch.ended, ended) - max(batch.began, began) for batch in tale.unfinished.during(began, ended))
        first = bisect_left(overdue, began, key=attrgetter("t"))
        past = bisect_right(overdue, ended, key=attrgetter("t"))
        lost += sum(_thrown_away(step, tale) for step in overdue[first:past])
    return lost


def _thrown_away(step: ReportAction, tale: ShardReport) -> float:
    """Seconds of the batch that was ended with its worker, where the timeline has no line of it. One that has a line is
    counted by it, or was not thrown away."""
    age = step.evidence.get("inflight_seconds")
    unfinished = tale.unfinished
    just_lost = bisect_left(unfinished.began, step.t) - bisect_left(unfinished.ended, step.t - _ROUNDING)
    if not isinstance(age, (int, float)) or tale.batches.running(step.t) or just_lost > 0:
        return 0.0
    return max(0.0, age)


def remedy_seconds(tale: ShardReport) -> float:
    """See `MEANINGS`."""
    return sum(remedy_waits(tale))


def remedy_waits(tale: ShardReport, *reasons: str) -> list[float]:
    """What was spent on each new worker, in seconds; see `MEANINGS`. For other reasons than a remedy, where given."""
    waits = []
    ends = (tale.batches.ended, tale.unfinished.ended, [step.t for step in tale.steps if step.outcome == "overdue"])
    for start in tale.starts:
        after = bisect_left(tale.batches.began, start.t)
        if start.reason not in (reasons or ("recycle", "demote")) or after == len(tale.batches):
            continue
        before = [times[past - 1] for times in ends if (past := bisect_right(times, start.t))]
        if before:
            waits.append(tale.batches.began[after] - max(before))
    return waits


def saved_seconds(tale: ShardReport) -> float | None:
    """See `MEANINGS`. `None` where no remedy was taken, or nothing says how fast the crawl was."""
    first = next((step for step in tale.steps if step.is_taken and step.kind in REMEDIES), None)
    if first is None or not len(tale.batches):
        return None
    speed = first.crawl_speed or _crawl_speed(tale, first.t)
    if speed is None:
        return None
    units = float(sum(tale.batches.column("units")[bisect_right(tale.batches.ended, first.t) :]))
    units -= sum(b.units * (first.t - b.began) / b.seconds for b in tale.batches.during(first.t, first.t))
    return units / speed - max(0.0, tale.batches[-1].ended - first.t)


def _crawl_speed(tale: ShardReport, t: float) -> float | None:
    """Units a second of the finished batches that crawled before then."""
    speeds = [
        batch.units / batch.seconds
        for episode in tale.episodes
        if episode.began < t
        for batch in tale.batches.during(episode.began, episode.end)
        if batch.ended <= t
    ]
    return median(speeds) if speeds else None


# -- the shards that are shown ----------------------------------------------------------------------------------------

MOST_FIGURES = 12
MOST_MARKS = 60


@dataclass(frozen=True)
class Shown:
    """The shards to show.

    Args:
        tales: In the order in which they were begun.
        left_out: How many there are besides, and how many of those crawled.
    """

    tales: list[ShardReport]
    left_out: tuple[int, int]

    def sentences(self, story: RunReport) -> Iterator[str]:
        """What is not shown; nothing when all are."""
        others, crawled = self.left_out
        if not others:
            return
        more = f", {crawled} of them with a crawl" if crawled else ", none of them with a crawl"
        what = "shards" if story.runs < 2 else "shards and runs"
        yield (
            f"Shown are {len(self.tales)} of {len(story.tales)} {what}, those that lost most to a crawl; "
            f"{count(others, 'other is', 'others are')} left out{more}."
        )


def choose(story: RunReport, most: int = MOST_FIGURES) -> Shown:
    """Those with crawls before others, by the time lost; then those with actions; then the longest.

    Args:
        story: What happened.
        most: Shards to show at most.
    """
    tales = sorted((tale for tale in story.tales if not tale.is_empty), key=_interest)
    kept, others = tales[:most], tales[most:]
    kept.sort(key=lambda tale: (tale.run, tale.span))
    return Shown(kept, (len(others), sum(bool(tale.episodes) for tale in others)))


def _interest(tale: ShardReport) -> tuple[bool, float, bool, float]:
    began, ended = tale.span
    return not tale.episodes, -lost_seconds(tale), not tale.steps, began - ended


def numbered(tale: ShardReport) -> dict[int, ReportAction]:
    """The actions of a shard in order of time, from 1; of very many, the first."""
    return dict(enumerate(sorted(tale.steps, key=lambda step: step.t)[:MOST_MARKS], start=1))
