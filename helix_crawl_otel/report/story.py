"""What a timeline tells, as values: batches with their baseline, crawls, actions, workers, by shard and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from helix_crawl_otel.policy.settings import Settings

__all__ = [
    "DETECT",
    "HANG",
    "REMEDIES",
    "Episode",
    "Reading",
    "ReportAction",
    "ReportBatch",
    "RunReport",
    "ShardReport",
    "StartMark",
]

DETECT, HANG = "DETECT", "HANG"
REMEDIES = ("EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU")


class ReportBatch(NamedTuple):
    """A batch that ended, or one whose worker did: its rate is then the most that it can have had.

    Args:
        began: Seconds, start of its encode stage.
        ended: Seconds, of the batch or of its worker.
        genes: Passages.
        units: Its work in the shard's unit.
        device: Where it was encoded.
        worker: By whom.
        baseline: In force at its end, in genes/s at this batch's passage length; `None` while there was none.
        slow: Below the limit while the memory was full.
    """

    began: float
    ended: float
    genes: float
    units: float
    device: str
    worker: str
    baseline: float | None
    slow: bool

    @property
    def seconds(self) -> float:
        """Length of its encode stage."""
        return max(self.ended - self.began, 1e-9)

    @property
    def rate(self) -> float:
        """Genes/s."""
        return self.genes / self.seconds

    @property
    def ratio(self) -> float | None:
        """Rate over baseline, judged as the detector does; `None` without a baseline."""
        return self.rate / self.baseline if self.baseline else None


class Reading(NamedTuple):
    """Memory of a device as a fraction of its limit; `None` where it was unknown.

    Args:
        t: Seconds.
        device: Its name.
        fraction: Dedicated memory in use.
        shared: What the workers held in shared memory, of the same limit.
    """

    t: float
    device: str
    fraction: float | None
    shared: float | None = None


class StartMark(NamedTuple):
    """A worker was started."""

    t: float
    device: str
    worker: str
    reason: str


@dataclass
class Episode:
    """A crawl.

    Args:
        detected: When it was detected.
        worker: Who crawled.
        began: The beginning of the slow batches under a full memory that led to the detection; at the latest then.
        ended: When speed was back, the worker was ended, or the shard was.
    """

    detected: float
    worker: str
    began: float
    ended: float | None = None


@dataclass
class ReportAction:
    """An action, taken or, in a report without recorded actions, one that would have been asked for.

    Args:
        t: Seconds.
        kind: `DETECT`, `EMPTY_CACHE`, `RECYCLE`, `DEMOTE_CPU` or `HANG`.
        outcome: As recorded; empty where it was not taken.
        evidence: The numbers behind it.
        reason: One sentence, where one is known.
        crawl_speed: Units a second at the time, as the detector saw them; `None` when unknown.
    """

    t: float
    kind: str
    outcome: str
    evidence: Mapping[str, Any]
    reason: str = ""
    crawl_speed: float | None = None

    @property
    def is_taken(self) -> bool:
        """Whether it happened: applied, or a worker ended for it because its batch kept it waiting."""
        return self.outcome in ("applied", "overdue")


@dataclass
class ShardReport:
    """One shard in one run.

    Args:
        run: Number of the run, from 0.
        shard: Name.
        batches: In the order in which they ended.
        unfinished: Batches that did not end, in the order in which their workers did.
        episodes: Crawls.
        steps: Actions, in order.
        starts: Workers started while it was encoded, or to go on with it.
        readings: Memory of its devices while it was encoded.
    """

    run: int
    shard: str
    batches: list[ReportBatch] = field(default_factory=list)
    unfinished: list[ReportBatch] = field(default_factory=list)
    episodes: list[Episode] = field(default_factory=list)
    steps: list[ReportAction] = field(default_factory=list)
    starts: list[StartMark] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    @property
    def span(self) -> tuple[float, float]:
        """First and last second."""
        times = [batch.began for batch in self.batches[:1]] + [batch.ended for batch in self.batches[-1:]]
        times += [t for batch in self.unfinished for t in (batch.began, batch.ended)]
        times += [step.t for step in self.steps if step.is_taken]
        return min(times, default=0.0), max(times, default=0.0)

    @property
    def tries(self) -> list[ReportBatch]:
        """Batches whether they ended or not, in the order in which they began."""
        return (
            sorted([*self.batches, *self.unfinished], key=lambda batch: batch.began)
            if self.unfinished
            else self.batches
        )

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell of."""
        return not (self.batches or self.unfinished or self.steps)

    @property
    def tells_shared(self) -> bool:
        """Whether the timeline knows shared memory, as it does where counters were read."""
        return any(reading.shared is not None for reading in self.readings)

    def lent(self, device: str) -> list[Reading]:
        """Shared memory of a device's workers, as readings of their own; empty where the timeline has none."""
        own = [reading for reading in self.readings if reading.device == device]
        if all(reading.shared is None for reading in own):
            return []
        return [Reading(reading.t, device, reading.shared) for reading in own]

    @property
    def genes(self) -> float:
        """Passages encoded."""
        return sum(batch.genes for batch in self.batches)

    def is_crawling(self, batch: ReportBatch) -> bool:
        """Whether it ran during a crawl."""
        return any(
            batch.ended > episode.began and batch.began < (batch.ended if episode.ended is None else episode.ended)
            for episode in self.episodes
        )


@dataclass
class RunReport:
    """A whole timeline.

    Args:
        settings: The knobs by which it was judged.
        is_recorded: Whether the actions are the job's own; else they are what the policy would have asked for.
        tales: By run and shard, in the order of their first batch.
        runs: How many.
        seconds: Over all runs.
        sources: Where reconstructed runs come from.
    """

    settings: Settings
    is_recorded: bool
    tales: list[ShardReport] = field(default_factory=list)
    runs: int = 1
    seconds: float = 0.0
    sources: list[str] = field(default_factory=list)

    @property
    def crawls(self) -> int:
        """Crawls, over all shards."""
        return sum(len(tale.episodes) for tale in self.tales)
