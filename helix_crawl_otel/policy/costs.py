"""What crawls and their remedies have cost, as measured: of a card for good, of a shard, of a worker's context.

Times are the encode stage's, and those in which a new worker was awaited: a slow disk is no crawl here either.

Source: DESIGN.md, section 5, `adaptive`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from statistics import fmean

__all__ = ["CardCosts", "ContextCosts", "ShardCosts"]

KEPT = 8
"""Of each cost the latest: a machine changes, and the file stays small."""

SPANS = 2
"""Contexts of which the mean says how long the next one lasts. With fewer the first recycle is a trial, and free."""

CURED, FAILED = 0.5, 2.0
"""How often a release of the cache cures before any was tried: Beta(0.5, 2), one in five."""


MOST = 1e18
"""Seconds, work or times: more is a damaged state file, and would make infinite costs of a sum."""


@dataclass
class CardCosts:
    """Of one card and encoder, the newest last; the work is in the unit of the card's baselines.

    Args:
        recycle_seconds: From the end of a worker to what the next one has lost by its start.
        demote_seconds: The same of a move to the CPU.
        crawl_seconds: What a crawl cost until it was answered.
        spans: Work of a context until it crawled.
        released_spans: Work of a context between a release that cured it and the next crawl.
        tries: Releases of the cache asked for.
        cures: Those after which the shard recovered.
        crawls: Seen.

    Raises:
        ValueError: A number is negative or beyond 1e18, or there were more cures than tries: a damaged state file.
    """

    recycle_seconds: list[float] = field(default_factory=list)
    demote_seconds: list[float] = field(default_factory=list)
    crawl_seconds: list[float] = field(default_factory=list)
    spans: list[float] = field(default_factory=list)
    released_spans: list[float] = field(default_factory=list)
    tries: int = 0
    cures: int = 0
    crawls: int = 0

    def __post_init__(self) -> None:
        _check(self)
        if self.cures > self.tries:
            raise ValueError(f"cures is {self.cures}; accepted: at most tries ({self.tries})")

    @property
    def mark(self) -> tuple[object, ...]:
        """Differs from an earlier one when something was measured: cheap."""
        counted = self.crawls, self.tries, self.cures
        return *counted, *self.recycle_seconds, *self.demote_seconds, *self.crawl_seconds[-1:]

    @property
    def cure_chance(self) -> float:
        """That a release of the cache cures, from 0 to 1."""
        return (CURED + self.cures) / (CURED + FAILED + self.tries)

    @property
    def span(self) -> float | None:
        """Work that a fresh context does until it crawls, 0 or more; `None` while too few have."""
        return usual_span(self.spans)

    @property
    def released_span(self) -> float | None:
        """The same of one whose cache was released."""
        return usual_span(self.released_spans)


def usual_span(spans: list[float]) -> float | None:
    """The mean of the last two, `None` while there are fewer."""
    return fmean(spans[-SPANS:]) if len(spans) >= SPANS else None


def note(kept: list[float], value: float) -> None:
    """Remember a cost, and forget the oldest."""
    kept.append(max(0.0, value))
    del kept[:-KEPT]


@dataclass
class ShardCosts:
    """Of one shard. A cycle begins with each remedy on the card and ends with the next one.

    Args:
        done: Work finished.
        recycles: Asked for.
        lost_seconds: What the cycles before the open one took beyond what the CPU would have.
        cycle_seconds: Of the open one, until now.
        cycle_work: Finished in it.
        in_cycle: One is open.
        stuck: Workers ended by force since a batch was last finished.

    Raises:
        ValueError: A number is negative or beyond 1e18: a damaged state file.
    """

    done: float = 0.0
    recycles: int = 0
    lost_seconds: float = 0.0
    cycle_seconds: float = 0.0
    cycle_work: float = 0.0
    in_cycle: bool = False
    stuck: int = 0

    def __post_init__(self) -> None:
        _check(self)

    def spend(self, seconds: float, work: float = 0.0) -> None:
        """So much time has gone into the shard, for so much work."""
        self.done += work
        if self.in_cycle:
            self.cycle_seconds += seconds
            self.cycle_work += work

    def lost(self, cpu_rate: float) -> float:
        """Seconds that the cycles so far took beyond what a CPU of this rate would have, each of them 0 or more."""
        return self.lost_seconds + max(0.0, self.cycle_seconds - self.cycle_work / cpu_rate)

    def begin_cycle(self, cpu_rate: float) -> None:
        """A remedy on the card is asked for."""
        self.lost_seconds = self.lost(cpu_rate)
        self.cycle_seconds = self.cycle_work = 0.0
        self.in_cycle = True


@dataclass
class ContextCosts:
    """Of one worker's context on its device, since the worker was started.

    Args:
        seconds: In batches.
        work: Finished.
        healthy_seconds: `seconds` at its last healthy batch.
        healthy_work: `work` at its last healthy batch.
        rate: Of its newest batch; `None` before the first.
        clear_rate: Of its fastest batch while the memory was known not to be full; `None` while there was none.
        released_work: `healthy_work` when it was last asked to release its cache, `None` when it never was.
        is_cured: The shard has recovered since.
        noted_work: `healthy_work` at the last crawl that was noted; the same again is the same crawl.
    """

    seconds: float = 0.0
    work: float = 0.0
    healthy_seconds: float = 0.0
    healthy_work: float = 0.0
    rate: float | None = None
    clear_rate: float | None = None
    released_work: float | None = None
    is_cured: bool = False
    noted_work: float | None = None

    def crawl_seconds(self, healthy_rate: float) -> float:
        """What has been lost since its last healthy batch, 0 or more."""
        since, done = self.seconds - self.healthy_seconds, self.work - self.healthy_work
        return max(0.0, since - done / healthy_rate)

    def pace(self, work: float, age_seconds: float) -> float:
        """What a batch in flight may be taken to do, in work a second: what the one before did; and once it takes
        longer, it is taken to be as late again. Of one that is stuck that is half of the most that it can do."""
        usual_seconds = work / self.rate if self.rate is not None else 0.0
        return work / max(usual_seconds, 2 * age_seconds - usual_seconds)

    def note_crawl(self, costs: CardCosts, healthy_rate: float) -> None:
        """It crawls, once more or still: what that costs, and how much it had done before."""
        if self.noted_work == self.healthy_work:
            costs.crawl_seconds[-1:] = [self.crawl_seconds(healthy_rate)]
            return
        self.noted_work = self.healthy_work
        costs.crawls += 1
        note(costs.crawl_seconds, self.crawl_seconds(healthy_rate))
        if self.is_cured and self.released_work is not None:
            note(costs.released_spans, self.healthy_work - self.released_work)
        else:
            note(costs.spans, self.healthy_work)


def _check(costs: CardCosts | ShardCosts) -> None:
    for each in fields(costs):
        value = getattr(costs, each.name)
        if isinstance(value, list):
            del value[:-KEPT]
        for number in value if isinstance(value, list) else [value]:
            if not 0 <= number <= MOST:
                raise ValueError(f"{each.name} is {str(value)[:80]}; accepted: 0 to {MOST:g}")
