"""Chooses the shards that get a figure, and numbers their actions: the most interesting first, not too many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from helix_crawl_otel.formats import count
from helix_crawl_otel.report.effect import lost_seconds
from helix_crawl_otel.report.story import ReportAction, RunReport, ShardReport

__all__ = ["Shown", "choose", "numbered"]

MOST_FIGURES = 12
MOST_MARKS = 60


@dataclass(frozen=True)
class Shown:
    """The shards to show.

    Args:
        tales: In the order in which they are shown.
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
            f"Shown are {len(self.tales)} of {len(story.tales)} {what}, those that lost most to a crawl first; "
            f"{count(others, 'other is', 'others are')} left out{more}."
        )


def choose(story: RunReport, most: int = MOST_FIGURES) -> Shown:
    """Those with crawls first, by the time lost; then those with actions; then the longest.

    Args:
        story: What happened.
        most: Shards to show at most.
    """
    tales = sorted((tale for tale in story.tales if not tale.is_empty), key=_interest)
    kept, others = tales[:most], tales[most:]
    return Shown(kept, (len(others), sum(bool(tale.episodes) for tale in others)))


def _interest(tale: ShardReport) -> tuple[bool, float, bool, float]:
    began, ended = tale.span
    return not tale.episodes, -lost_seconds(tale), not tale.steps, began - ended


def numbered(tale: ShardReport) -> dict[int, ReportAction]:
    """The actions of a shard in order of time, from 1; of very many, the first."""
    return dict(enumerate(sorted(tale.steps, key=lambda step: step.t)[:MOST_MARKS], start=1))
