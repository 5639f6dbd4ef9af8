"""What a timeline tells, as values: batches with their baseline, crawls, actions, workers, by shard and run."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from operator import attrgetter
from typing import Any, NamedTuple

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.timeline import RunEvent, ShardStages
from helix_crawl_otel.timeline.columns import Columns

__all__ = [
    "DETECT",
    "HANG",
    "REMEDIES",
    "Episode",
    "PaddedBatches",
    "Reading",
    "Readings",
    "ReportAction",
    "ReportBatch",
    "ReportBatches",
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


class ReportBatches(Collection[ReportBatch]):
    """Batches of a shard, in the order in which they, or their workers, ended. Asked for once all are there.

    Args:
        rows: Of all shards of a run, which go in together: a shard has no columns of its own.
    """

    def __init__(self, rows: Columns[ReportBatch]) -> None:
        self._rows = rows
        self._places = array("I")

    def append(self, batch: ReportBatch) -> None:
        """Put one at the end."""
        self._places.append(self._rows.append(batch))

    def column(self, name: str) -> array[float]:
        """A number of each, NaN where it is unknown."""
        return array("d", map(self._rows.column(name).__getitem__, self._places))

    @cached_property
    def ended(self) -> array[float]:
        """When each did."""
        return self.column("ended")

    @cached_property
    def began(self) -> array[float]:
        """When they began, the first first."""
        return array("d", sorted(self.column("began")))

    def rows(self, first: int, past: int) -> Iterator[ReportBatch]:
        """Some of them, one by one; `past` may lie beyond the end."""
        return self._rows.at(self._places, first, past)

    def __getitem__(self, at: int) -> ReportBatch:
        return self._rows[self._places[at]]

    def __iter__(self) -> Iterator[ReportBatch]:
        return self.rows(0, len(self))

    def __contains__(self, batch: object) -> bool:
        return any(own == batch for own in self)

    def __len__(self) -> int:
        return len(self._places)

    def running(self, t: float) -> int:
        """How many had begun by then, and not ended."""
        return bisect_left(self.began, t) - bisect_right(self.ended, t)

    def during(self, began: float, ended: float) -> Iterator[ReportBatch]:
        """Those that overlap with a stretch of time."""
        first = bisect_right(self.ended, began)
        past = max(first, bisect_left(self.ended, ended))
        yield from self.rows(first, past)
        at_its_end = bisect_left(self.began, ended) - past  # begun before, and ended then or later
        rest = (batch for batch in self.rows(past, len(self)) if batch.began < ended)
        yield from islice(rest, at_its_end)


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


class Readings(Collection[Reading]):
    """A device's readings during a shard. The one before holds at its beginning, the last one to its end there.

    Args:
        rows: All of the device, in the order of time.
        began: Of the shard.
        ended: Of the shard.
        left: When its last batch on the device ended.
        is_lent: Tell of shared memory in place of the dedicated one.
    """

    def __init__(
        self, rows: Columns[Reading], began: float, ended: float, left: float, *, is_lent: bool = False
    ) -> None:
        self._rows, self._is_lent = rows, is_lent
        self._span = began, ended, left
        times = rows.column("t")
        self._first, self._past = bisect_left(times, began), bisect_right(times, ended)
        self._begins_before = self._first > 0
        last = times[self._past - 1] if self._past > self._first else began
        self._goes_on = self._past > 0 and left > last

    @property
    def tells_shared(self) -> bool:
        """Whether any of them knows shared memory."""
        if not self._rows.knows("shared"):
            return False
        known = self._rows.column("shared")[max(0, self._first - 1) : self._past]
        return any(value == value for value in known)

    def lent(self) -> Readings:
        """Shared memory as readings of its own."""
        return Readings(self._rows, *self._span, is_lent=True)

    def __iter__(self) -> Iterator[Reading]:
        began, _, left = self._span
        if self._begins_before:
            yield self._shown(self._rows[self._first - 1]._replace(t=began))
        yield from map(self._shown, self._rows.rows(self._first, self._past))
        if self._goes_on:
            yield self._shown(self._rows[self._past - 1]._replace(t=left))

    def _shown(self, reading: Reading) -> Reading:
        return Reading(reading.t, reading.device, reading.shared) if self._is_lent else reading

    def __len__(self) -> int:
        return self._begins_before + self._past - self._first + self._goes_on

    def __contains__(self, reading: object) -> bool:
        return any(own == reading for own in self)


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

    @property
    def end(self) -> float:
        """When it ended; of an open one, when it was detected."""
        return self.detected if self.ended is None else self.ended


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


LINE_BATCHES, LINE_SPREAD = 16, 0.05
"""Batches, and how much their work has to differ (standard deviation over mean), for a line through them."""


@dataclass
class PaddedBatches:
    """Batches of a shard on one device of which it is known what they would cost without padding: sums.

    Args:
        work: What they cost, their number times the longest each.
        tokens: What they would cost without padding, in the unit of work.
        genes: Passages of the largest.
        longest: Of all passages, in the unit of work.
        healthy: Of those that were neither a worker's first nor slow under a full memory: their number, work, seconds,
            squares of work, and products of work and seconds.
    """

    work: float = 0.0
    tokens: float = 0.0
    genes: float = 0.0
    longest: float = 0.0
    healthy: tuple[float, ...] = (0.0,) * 5

    def add(self, genes: float, work: float, tokens: float, healthy_seconds: float | None) -> None:
        """Take in a batch; `None` for the seconds of one that tells no healthy speed."""
        self.work += work
        self.tokens += tokens
        self.genes = max(self.genes, genes)
        self.longest = max(self.longest, work / genes)
        if healthy_seconds is not None:
            told = 1.0, work, healthy_seconds, work * work, work * healthy_seconds
            self.healthy = tuple(old + new for old, new in zip(self.healthy, told, strict=True))

    def seconds_of(self, work: float) -> float | None:
        """How long so much work less in the same number of batches would have taken less; `None` where nobody knows.

        By the line through the healthy batches, seconds over work, as a batch takes some time whatever is in it; where
        they are too few or too much alike for one, in proportion.
        """
        count, total, seconds, squares, products = self.healthy
        if not count:
            return None
        slope = seconds / total
        spread = squares - total * total / count
        if count >= LINE_BATCHES and spread > LINE_SPREAD**2 * total * total / count:
            slope = min(slope, max(0.0, (products - total * seconds / count) / spread))
        return work * slope


@dataclass
class ShardReport:
    """One shard in one run.

    Args:
        run: Number of the run, from 0.
        shard: Name.
        batches: That ended.
        unfinished: That did not.
        left: When the last batch on a device ended, by device, in the order of their first ones.
        workers: Who encoded it.
        episodes: Crawls, one after the other.
        steps: Actions, in order.
        starts: Workers started while it was encoded, or to go on with it, in order.
        readings: Memory of its devices while it was encoded.
        waiting: Work that its newest batch left to be done, where the batches tell of it; else `None`.
        is_capped: The allocator of a worker on its devices was known to have a cap.
        padded: Its batches by device, where they tell their tokens without padding.
    """

    run: int
    shard: str
    batches: ReportBatches
    unfinished: ReportBatches
    left: dict[str, float] = field(default_factory=dict)
    workers: dict[str, None] = field(default_factory=dict)
    episodes: list[Episode] = field(default_factory=list)
    steps: list[ReportAction] = field(default_factory=list)
    starts: list[StartMark] = field(default_factory=list)
    readings: dict[str, Readings] = field(default_factory=dict)
    waiting: float | None = None
    is_capped: bool = False
    padded: dict[str, PaddedBatches] = field(default_factory=dict)

    @property
    def span(self) -> tuple[float, float]:
        """First and last second."""
        times = [self.batches[0].began, self.batches[-1].ended] if self.batches else []
        if self.unfinished:
            times += [min(self.unfinished.column("began")), self.unfinished[-1].ended]
        times += [step.t for step in self.steps if step.is_taken]
        return min(times, default=0.0), max(times, default=0.0)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to tell of."""
        return not (self.batches or self.unfinished or self.steps)

    @property
    def tells_shared(self) -> bool:
        """Whether the timeline knows shared memory, as it does where counters were read."""
        return any(readings.tells_shared for readings in self.readings.values())

    def lent(self, device: str) -> Collection[Reading]:
        """Shared memory of a device's workers, as readings of their own; empty where the timeline has none."""
        own = self.readings.get(device)
        return own.lent() if own is not None and own.tells_shared else []

    @property
    def genes(self) -> float:
        """Passages encoded."""
        return float(sum(self.batches.column("genes")))

    @cached_property
    def remedy_times(self) -> list[float]:
        """When the actions were asked for that were more than a detection, in order."""
        return sorted(step.t for step in self.steps if step.kind != DETECT)

    def is_crawling(self, batch: ReportBatch) -> bool:
        """Whether it ran during a crawl."""
        at = bisect_right(self.episodes, batch.began, key=attrgetter("end"))
        return at < len(self.episodes) and batch.ended > self.episodes[at].began


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
        origins: Of each run, what it recorded of itself, `None` where it has no line.
        slow_stages: Shards that reading and committing make slow, the longest first.
    """

    settings: Settings
    is_recorded: bool
    tales: list[ShardReport] = field(default_factory=list)
    runs: int = 1
    seconds: float = 0.0
    sources: list[str] = field(default_factory=list)
    origins: list[RunEvent | None] = field(default_factory=list)
    slow_stages: list[tuple[str, ShardStages]] = field(default_factory=list)

    @property
    def crawls(self) -> int:
        """Crawls, over all shards."""
        return sum(len(tale.episodes) for tale in self.tales)
