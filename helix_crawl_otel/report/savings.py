"""What was off in a run, and would have saved time: `adaptive`, the cap on the allocator, batches by tokens.

A timeline does not tell what did not happen, so each is an estimate with its reason, or a bound, or unknown; never more
than can be defended.

Source: DESIGN.md, sections 5 and 10; the choice itself is `policy.choice`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from statistics import fmean, median
from typing import Any

from helix_crawl_otel.formats import count, duration
from helix_crawl_otel.logs import logger
from helix_crawl_otel.policy.batch_limits import BATCH_TOKENS
from helix_crawl_otel.policy.choice import SPARE
from helix_crawl_otel.policy.model import ActionKind, Decision
from helix_crawl_otel.policy.settings import ADAPTIVE, Settings
from helix_crawl_otel.replay.engine import ReplayEngine
from helix_crawl_otel.replay.order import Axis, in_runs, travel
from helix_crawl_otel.report.effect import lost_seconds, remedy_seconds, remedy_waits
from helix_crawl_otel.report.story import REMEDIES, PaddedBatches, RunReport, ShardReport
from helix_crawl_otel.report.tell import tell
from helix_crawl_otel.timeline import RunEvent, TimelineError, read_timeline

__all__ = ["MEANING", "Saving", "savings", "savings_of_run"]

MEANING = (
    "Would have been saved, by what was off in a run. adaptive: what a shard took to its end from the first trip at "
    "which a replay with adaptive does something else, less what it would have taken on that way, by what the run "
    "shows: the speeds of card and CPU, how much fresh workers do until they crawl, the time between batches, what "
    "a new worker costs, and a crawl until it is seen; at most what the CPU would have taken, with the quarter that "
    "adaptive may lose until it goes there. The cap: at most all that was lost to crawls, spent on new workers and "
    "slower on the CPU, for with it the memory does not spill; memory that other programs take is no matter of the "
    "cap. Batches by tokens: the padding of the batches, less what batches by tokens pad themselves, at the padded "
    "work a second of the shard's healthy batches; and at most what its crawls cost, for smaller batches may not "
    "fill the memory."
)
"""How the numbers are made, as the page prints it."""

LEAST_PADDING = 0.02
"""Of what was computed: less that batches by tokens would spare is not told."""

MOST_EVENTS = 400_000
"""Of a run: one that is longer is not replayed once more for an estimate."""

MOST_BYTES = 8 << 20
"""Of a run's part of the timeline that is looked at when the run ends: some seconds."""

_WAYS = {
    "stay_seconds": ("", "stayed as it was"),
    "empty_cache_seconds": ("EMPTY_CACHE", "released the cache"),
    "recycle_seconds": ("RECYCLE", "recycled the worker"),
    "cpu_seconds": ("DEMOTE_CPU", "moved to the CPU"),
}
"""By the key of the evidence: the remedy, and what was done in words."""


@dataclass(frozen=True)
class Saving:
    """What one way of working would have saved.

    Args:
        name: `adaptive`, `cap` or `batch_tokens`.
        seconds: So many; less than 0, so many more would have been taken; `None`: unknown.
        is_at_most: They are a bound.
        text: One sentence.
    """

    name: str
    seconds: float | None
    is_at_most: bool
    text: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without the name."""
        seconds = None if self.seconds is None else round(self.seconds, 1)
        return {"seconds": seconds, "is_at_most": self.is_at_most, "text": self.text}


def savings(runs: Sequence[tuple[RunEvent | None, Axis]], story: RunReport) -> list[Saving]:
    """Of everything that was off, as far as it can have mattered: without a crawl, batches by tokens alone.

    Args:
        runs: As `in_runs` finds them.
        story: What was told of them.
    """
    found = [_adaptive(runs, story), _cap(story), _batch_tokens(story)]
    return [saving for saving in found if saving is not None]


def savings_of_run(path: Path, begins_at: int, settings: Settings, *, has_crawled: bool) -> list[Saving]:
    """The same of one run that has just ended, from its part of a timeline, as long as that is quickly read.

    Args:
        path: The timeline.
        begins_at: Byte at which the run begins there.
        settings: Its knobs.
        has_crawled: Else it is not even judged once more unless its batches are padded, and what is unknown is no news.
    """
    try:
        if path.stat().st_size - begins_at > MOST_BYTES:
            return []
        with path.open("rb") as file:
            file.seek(begins_at)
            runs = list(in_runs(read_timeline(file)))
        if not (has_crawled or any(_is_padded(axis) for _, axis in runs)):
            return []
        found = savings(runs, tell(runs, settings))
        return found if has_crawled else [saving for saving in found if saving.seconds is not None]
    except (OSError, TimelineError):
        return []
    except Exception:  # the summary of a night's run must not be lost for an estimate
        logger.exception("what would have been saved is not known")
        return []


# -- adaptive ---------------------------------------------------------------------------------------------------------


@dataclass
class _Found:
    """Of the shards of a timeline.

    Args:
        seconds: Saved in each of those of which it can be said.
        ways: What would have been done there where the ways part; empty where they do not.
        unknown: Why it cannot be said of the others.
    """

    seconds: list[float] = field(default_factory=list)
    ways: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def _adaptive(runs: Sequence[tuple[RunEvent | None, Axis]], story: RunReport) -> Saving | None:
    found = _Found()
    for number, (run, axis) in enumerate(runs):
        action = story.settings.action if run is None else run.config.get("action", story.settings.action)
        crawled = [tale for tale in story.tales if tale.run == number and tale.episodes]
        if action != ADAPTIVE and crawled:
            _look_back(run, axis, crawled, story.settings, found)
    total, known = sum(found.seconds), len(found.seconds)
    if not (known or found.unknown):
        return None
    ways = [way for way in found.ways if way]
    others, same = (
        count(shards, "shard that crawled", "shards that crawled") for shards in (len(ways), found.ways.count(""))
    )
    parts = []
    if ways:
        sooner = f"about {duration(abs(total))} {'sooner' if total >= 0 else 'later'}"
        first = " or ".join(dict.fromkeys(ways))
        parts.append(f"it would have ended {others} {sooner}, an estimate; where the ways part it would have {first}")
    if known > len(ways):
        parts.append(f"it would have done the same in {same}")
    if found.unknown:
        others = f"{count(len(found.unknown), 'other')} " if known else f"{count(len(found.unknown), 'shard')} "
        parts.append(f"what it would have saved in {others}is unknown: {found.unknown[0]}")
    return Saving(ADAPTIVE, total if known else None, False, f"--action adaptive: {'; '.join(parts)}.")


def _look_back(
    run: RunEvent | None, axis: Axis, crawled: Sequence[ShardReport], settings: Settings, found: _Found
) -> None:
    """Put what `adaptive` would have saved in the shards of a run to what is found."""
    costs = _Costs.of(crawled)
    reasons = {tale.shard: _why_unknown(tale, costs) for tale in crawled}
    trips: dict[str, list[_Trip]] = {}
    if len(axis) > MOST_EVENTS:
        reasons = dict.fromkeys(reasons, "the run is too long to be replayed for that")
    elif not all(reasons.values()):
        engine = ReplayEngine(replace(settings, action=ADAPTIVE))
        travel([(run, axis)], engine)
        trips = _trips(engine.result.issued())
    for tale in crawled:
        seconds, text = None, reasons[tale.shard]
        if not text:
            seconds, text = _of_shard(tale, costs, trips.get(tale.shard, []))
        if seconds is None:
            found.unknown.append(text)
        else:
            found.seconds.append(seconds)
            found.ways.append(text)


@dataclass(frozen=True)
class _Costs:
    """What this run has shown, in seconds and units a second; `None` where it has not.

    Args:
        worker: Of a new worker, until its first batch and by which that was slower than those after.
        crawl: Of a crawl until it was seen.
        cpu_rate: Of the CPU.
    """

    worker: float | None
    crawl: float
    cpu_rate: float | None

    @classmethod
    def of(cls, crawled: Sequence[ShardReport]) -> _Costs:
        """Of the shards that crawled in a run."""
        waits = [seconds for tale in crawled for seconds in remedy_waits(tale)]
        warmups = [seconds for tale in crawled for seconds in _warmups(tale)]
        rates = [
            b.units / b.seconds for tale in crawled if "cpu" in tale.left for b in tale.batches if b.device == "cpu"
        ]
        crawls = sum(len(tale.episodes) for tale in crawled)
        return cls(
            fmean(waits) + (fmean(warmups) if warmups else 0.0) if waits else None,
            sum(lost_seconds(tale, until_seen=True) for tale in crawled) / crawls,
            median(rates) if rates else None,
        )


@dataclass(frozen=True)
class _Trip:
    """A trip of a replay with `adaptive`.

    Args:
        t: Seconds.
        kind: The remedy, empty for none.
        seconds: What each way on would have cost from there, by the key of the evidence.
    """

    t: float
    kind: str
    seconds: Mapping[str, float]


def _of_shard(tale: ShardReport, costs: _Costs, trips: Sequence[_Trip]) -> tuple[float | None, str]:
    """Seconds saved, and what would have been done where the ways part; or `None` and why that is unknown.

    Until the ways part the run is what it would have been.
    """
    healthy = _healthy_rate(tale)
    if not trips or healthy is None or costs.worker is None:
        return None, "the replay sees no crawl of it"
    taken = [step.kind for step in tale.steps if step.is_taken and step.kind in REMEDIES]
    parting = next((trip for trip, kind in zip_longest(trips, taken) if trip is None or trip.kind != kind), None)
    if parting is None:
        return 0.0, ""
    kind, words = parting.kind, next(words for kind, words in _WAYS.values() if kind == parting.kind)
    if kind == "EMPTY_CACHE":
        return None, "it would have tried a release of the cache, and nobody knows what would have come of that"
    t = parting.t
    later = [batch for batch in tale.batches if batch.ended > t]
    left = sum(batch.units for batch in later)
    between = len(later) * _gap(tale, t)
    on_cpu = math.inf if costs.cpu_rate is None else costs.worker + left / costs.cpu_rate + between
    again = _crawls_again(tale, left) * (costs.worker + costs.crawl)
    afresh = costs.worker + left / healthy + between + again
    would = {
        "": parting.seconds["stay_seconds"],
        "RECYCLE": min(afresh, (1 + SPARE) * on_cpu + costs.worker + costs.crawl),
        "DEMOTE_CPU": on_cpu,
    }[kind]
    if math.isinf(would):
        return None, "it would have moved to the CPU, whose speed is not known"
    return tale.batches[-1].ended - t - would, words


def _crawls_again(tale: ShardReport, left: float) -> float:
    """How often fresh workers crawl on the card in so much work, by what those of the run have done until they did.

    Where none of them has: not again where one has done more than the first worker until that crawled; else it may
    have been too early to see, and each so much work as that one's is another crawl.
    """
    (first, _), *fresh = _spans(tale)
    ends = [units for units, has_crawled in fresh if has_crawled]
    batch = max(tale.batches.column("units"))  # a worker that crawls at once still ends one
    if ends:
        return left / fmean([units for units in ends if units] or [batch])
    return 0.0 if any(units >= first for units, _ in fresh) else left // max(first, batch)


def _spans(tale: ShardReport) -> list[tuple[float, bool]]:
    """Of each worker on the card, the first first: units until it crawled or ended, and whether it crawled."""
    begins = [start.t for start in tale.starts if start.device != "cpu"]
    spans = []
    for began, ended in zip([-math.inf, *begins], [*begins, math.inf], strict=True):
        crawl = next((e.began for e in tale.episodes if began <= e.began < ended), None)
        until = ended if crawl is None else crawl
        units = sum(b.units for b in tale.batches if began <= b.began and b.ended <= until and b.device != "cpu")
        if units or crawl is not None:
            spans.append((units, crawl is not None))
    return spans or [(math.inf, False)]


def _gap(tale: ShardReport, t: float) -> float:
    """From a batch to the next one, in seconds, where no worker was replaced: reading and committing."""
    gaps = [
        after.began - before.ended
        for before, after in pairwise(tale.batches)
        if after.ended > t and not any(before.ended <= start.t <= after.began for start in tale.starts)
    ]
    return max(0.0, median(gaps)) if gaps else 0.0


def _warmups(tale: ShardReport) -> list[float]:
    """By how many seconds the first batch of each new worker on the card was slower than a healthy one."""
    healthy, found = _healthy_rate(tale), []
    for start in tale.starts:
        first = next((b for b in tale.batches if b.began >= start.t), None)
        if healthy and first is not None and start.device != "cpu" and not tale.is_crawling(first):
            found.append(max(0.0, first.seconds - first.units / healthy))
    return found


def _why_unknown(tale: ShardReport, costs: _Costs) -> str:
    """Why nobody can say of a shard what `adaptive` would have saved; empty where it can be said."""
    if tale.waiting is None:
        return "its batches do not tell how much work waits"
    if not tale.batches or tale.waiting > tale.batches[-1].units:
        return "the run did not come to its end"
    if costs.worker is None:
        return "no worker was replaced, so that nobody knows what that costs"
    if any(start.reason == "crash" for start in tale.starts):
        return "a worker crashed or hung in it"
    return ""


def _trips(decisions: Sequence[Decision]) -> dict[str, list[_Trip]]:
    """Those of each shard, in order."""
    found: dict[str, list[_Trip]] = {}
    for decision in decisions:
        seconds = {key: value for key in _WAYS if isinstance(value := decision.evidence.get(key), float)}
        if not seconds:
            continue
        trips = found.setdefault(decision.shard, [])
        if trips and trips[-1].t == decision.t:
            trips.pop()  # of the detection
        kind = "" if decision.kind is None or decision.kind is ActionKind.DETECT else decision.kind.value
        trips.append(_Trip(decision.t, kind, seconds))
    return found


# -- the cap, and batches by tokens -----------------------------------------------------------------------------------


def _cap(story: RunReport) -> Saving | None:
    uncapped = [tale for tale in story.tales if not tale.is_capped]
    if not any(tale.episodes for tale in uncapped):
        return None
    most = sum(map(_cost_of_crawls, uncapped))
    text = (
        f"The cap on the worker's memory (HELIX_DENSE_VRAM_CAP) would have saved at most {duration(most)}, all that "
        "the crawls cost without it; against memory that other programs take it does not help."
    )
    return Saving("cap", most, True, text)


def _batch_tokens(story: RunReport) -> Saving | None:
    """Of the shards whose batches tell their tokens, what they show; of others that no plan by tokens was told of, that
    nobody knows."""
    known = [(tale, gain) for tale in story.tales if (gain := _Gain.of(tale)) is not None]
    unknown = [tale for tale in story.tales if len(tale.batches) and not tale.padded and tale.waiting is None]
    seconds = sum(gain.seconds for _, gain in known) if known else None
    parts = []
    if seconds is not None:
        share = sum(gain.saved_work for _, gain in known) / sum(gain.work for _, gain in known)
        sooner = f"{_shards([tale for tale, _ in known])} about {duration(seconds)} sooner"
        without = f"{share:.0%} of what was computed there was padding that they do without"
        parts.append(f"they would have ended {sooner}, an estimate: {without}")
        most = sum(_cost_of_crawls(tale) for tale, _ in known)
        if most >= 1:
            parts.append(f"at most {duration(most)} more if smaller batches had not filled the memory")
    if unknown:
        what = f"what they would have saved in {_shards(unknown)} is unknown"
        parts.append(
            f"{what}: its batches give the longest text of each, not the others (`tokens` of a timeline's batch)"
        )
    if not parts:
        return None
    return Saving("batch_tokens", seconds, False, f"Batches by tokens: {'; '.join(parts)}.")


@dataclass(frozen=True)
class _Gain:
    """What batches by tokens would have saved in a shard without a crawl.

    Args:
        work: All that was computed, padding included.
        saved_work: Of that, what they do without.
        seconds: That it took, at the speed of the shard's healthy batches.
    """

    work: float
    saved_work: float
    seconds: float

    @classmethod
    def of(cls, tale: ShardReport) -> _Gain | None:
        """`None` where no batch tells, where nothing was healthy, and where the batches are as good as by tokens."""
        work = saved_work = seconds = 0.0
        for padded in tale.padded.values():
            spared = _spared_work(padded)
            sooner = padded.seconds_of(spared)
            if spared and sooner is not None:
                saved_work += spared
                seconds += sooner
            work += padded.work
        return cls(work, saved_work, seconds) if saved_work else None


def _is_padded(axis: Axis) -> bool:
    """Whether batches by tokens would have spared anything in a run."""
    padded: dict[tuple[str, str], PaddedBatches] = {}
    (_, batches), _ = axis.tries().items()
    for batch in batches if batches.knows("tokens") else ():
        if batch.tokens is not None and batch.work is not None:
            own = padded.setdefault((batch.shard, batch.device), PaddedBatches())
            own.add(batch.genes, batch.work, batch.tokens, None)
    return any(map(_spared_work, padded.values()))


def _spared_work(padded: PaddedBatches) -> float:
    """Padding that batches by tokens do without; 0 where that is too little to tell of, or they would pad as much."""
    padding, left = padded.work - padded.tokens, _padding_by_tokens(padded)
    return padding - left if padding > max(2 * left, LEAST_PADDING * padded.work) else 0.0


def _padding_by_tokens(padded: PaddedBatches) -> float:
    """What batches by tokens would pad: half of the most that they can.

    From one batch to the next the longest falls to what was the shortest, so that `rows * (longest - shortest)` adds up
    to the rows a batch, over all lengths: as many as ever were in one, or as many of that length as the budget holds.
    """
    rows, longest = padded.genes, padded.longest
    whole = min(longest, BATCH_TOKENS / rows)  # up to this length a batch is as many rows as ever
    return (rows * whole + BATCH_TOKENS * math.log(longest / whole)) / 2


def _cost_of_crawls(tale: ShardReport) -> float:
    """At most what a shard's crawls cost, in seconds: whatever its batches took longer than healthy ones on the card,
    also on the CPU, what was thrown away, and each new worker. Of a shard without a crawl, what slow batches did."""
    healthy = _healthy_rate(tale)
    if healthy is None:
        return lost_seconds(tale) + remedy_seconds(tale)
    if not (tale.episodes or any(tale.batches.column("slow"))):
        return 0.0
    own = tale.batches if tale.episodes else (batch for batch in tale.batches if batch.slow)
    slower = sum(max(0.0, batch.seconds - batch.units / healthy) for batch in own)
    if not tale.episodes:
        return slower
    thrown_away = sum(batch.seconds for batch in tale.unfinished)
    return slower + thrown_away + sum(remedy_waits(tale, "recycle", "demote", "crash"))


def _healthy_rate(tale: ShardReport) -> float | None:
    """Units a second on the card, by the newest baseline there; `None` where there was none."""
    newest_first = (tale.batches[at] for at in reversed(range(len(tale.batches))))
    for batch in newest_first:
        if batch.device != "cpu" and batch.baseline:
            return batch.baseline * batch.units / batch.genes
    return None


def _shards(tales: Sequence[ShardReport]) -> str:
    return count(len({tale.shard for tale in tales}), "shard")
