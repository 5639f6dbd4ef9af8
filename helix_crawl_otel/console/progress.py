"""What a run has come to so far, from its events: the displays draw it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from helix_crawl_otel.formats import count, genes, gib, shard_name
from helix_crawl_otel.policy.model import UNKNOWN_DEVICE
from helix_crawl_otel.supervise import events

__all__ = ["Activity", "Progress", "ShardProgress", "tells_speed"]

RATE_WINDOW_SECONDS = 60.0
LEAST_COMMITS = 4
LEAST_GUESSED = 50

LEAST_MEASURED = 64
MOST_TIMES_MEASURED = 100
"""So many genes tell how long any number takes; fewer how long so many times as many do."""

MOST_NAMED = 5
MOST_ACTIONS = 10

LONG_BATCH_SECONDS = 10.0
"""A batch that has been running for so long is worth a word, and what it can still come to is its rate."""

_RUNGS = {"EMPTY_CACHE": 1, "RECYCLE": 2, "DEMOTE_CPU": 3}


@dataclass
class ShardProgress:
    """One shard that a worker is on.

    Args:
        slot: The worker's place.
        device: Where it encodes.
        total: Genes that lacked a vector when it was begun in this run, `None` when nobody knows.
        done: Of those, committed.
        rate: Newest average in genes/s, `None` while unknown.
        baseline: What it is judged by.
        memory_fraction: Of the device's memory, used.
        rung: Of the ladder.
        is_crawling: An episode is open.
        batch_since: When the batch in flight was begun, `None` when there is none.
        batch_genes: Its genes.
        work_left: What the genes that lack a vector cost, in the unit of a batch's work; `None` where nobody knows.
        work_done: What those cost that were committed, as far as that is known.
    """

    slot: str
    device: str
    total: int | None
    done: int = 0
    rate: float | None = None
    baseline: float | None = None
    memory_fraction: float | None = None
    rung: int = 0
    is_crawling: bool = False
    batch_since: float | None = None
    batch_genes: int = 0
    work_left: float | None = None
    work_done: float = 0.0

    def commit(self, genes: int, pending: int | None, work_pending: float | None) -> float | None:
        """Take in that genes were committed; `pending` are left, which cost `work_pending`, as far as that is known.

        Returns:
            What they cost; `None` where nobody knows.
        """
        before, left = self.work_left, self.left
        self.done += genes
        if pending is not None:
            self.total = self.done + pending
        self.work_left = work_pending
        if before is None:
            return None
        if work_pending is None:  # found by the next worker, which tells in a moment what is left
            self.work_left = before * max(0.0, 1 - genes / left) if left else before
        assert self.work_left is not None
        work = max(0.0, before - self.work_left)
        self.work_done += work
        return work

    @property
    def share(self) -> float | None:
        """How much of it is done, 0 to 1: of its work where that is known, else of its genes; `None` without either."""
        if self.work_left is not None and self.work_left + self.work_done > 0:
            return self.work_done / (self.work_left + self.work_done)
        if self.total is None:
            return None
        return self.done / self.total if self.total else 1.0

    def batch_age(self, now: float) -> float:
        """Seconds that the batch in flight has been running, 0 without one."""
        return 0.0 if self.batch_since is None else max(0.0, now - self.batch_since)

    def rate_of_batch(self, now: float) -> float | None:
        """The most that a batch in flight can have, in genes/s, once that is less than the average of those before it,
        which is no longer true then; else `None`.
        """
        age = self.batch_age(now)
        if age < LONG_BATCH_SECONDS or self.rate is None or self.batch_genes / age >= self.rate:
            return None
        return self.batch_genes / age

    @property
    def left(self) -> int:
        """Genes that still lack a vector, as far as is known."""
        return 0 if self.total is None else max(0, self.total - self.done)


@dataclass
class Activity:
    """What a slot does while it encodes nothing.

    Args:
        text: Such as `loading minilm`.
        since: When it began.
    """

    text: str
    since: float


@dataclass(frozen=True)
class TakenAction:
    """What became of an action of the ladder, and when: `moment` is a date and time, as `time.time` has it."""

    moment: float
    shard: str
    action: str
    outcome: str


class _Commit(NamedTuple):
    """When so many genes were committed, and what they cost; `None` where nobody knows."""

    t: float
    genes: int
    work: float | None


@dataclass
class Progress:
    """The whole run.

    Genes are counted, and their rate is shown. How much is done and how long the rest takes is judged by work, where
    that is known: the costly genes of a shard come first, so that a gene there says little of those behind it. What
    nobody knows the work of, such as shards that wait, costs what a gene of the shards begun so far does.

    Args:
        run: How it began, `None` before that.
        metrics: Where they are served, empty for nowhere.
        shards: How many there are, 0 when nobody knows.
        ended: How many of them are over, those that were complete before included.
        running: Those that a worker encodes, by name.
        reading: Those of which a worker reads the sources.
        waiting: Genes that lack a vector in shards that nobody is on yet, by name, where they have been counted.
        estimated: The same, where they were estimated from the bytes of their files.
        activities: What slots do that encode nothing at the moment.
        encoded: Genes committed in this run.
        actions: Actions by name.
        crashes: How many.
        quarantined: Genes, in this run.
        troubles: The first sources that could not be read, with their shard and the reason.
        quarantines: The first genes that were quarantined, with their shard and the reason.
        failed: Shards that failed, with the reason.
        given_up: Genes that lack a vector in those, as far as they have been counted: nobody comes to them in this run.
        paused: Shards that were left before their end.
        vectors: Genes that had a vector before this run, as far as they have been counted.
        newest_actions: The last ones, in order.
    """

    run: events.RunStarted | None = None
    metrics: str = ""
    shards: int = 0
    ended: int = 0
    running: dict[str, ShardProgress] = field(default_factory=dict)
    reading: set[str] = field(default_factory=set)
    waiting: dict[str, int] = field(default_factory=dict)
    estimated: dict[str, int] = field(default_factory=dict)
    activities: dict[str, Activity] = field(default_factory=dict)
    encoded: int = 0
    actions: dict[str, int] = field(default_factory=dict)
    crashes: int = 0
    quarantined: int = 0
    troubles: list[dict[str, str]] = field(default_factory=list)
    quarantines: list[dict[str, str]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    given_up: int = 0
    paused: set[str] = field(default_factory=set)
    vectors: int = 0
    newest_actions: list[TakenAction] = field(default_factory=list)
    _commits: list[_Commit] = field(default_factory=list)
    _guessed: int = 0
    _found: int = 0
    _weighed: tuple[int, float] = (0, 0.0)  # genes of the shards begun whose work is known, and that work
    _work_done: float = 0.0  # of the genes committed, as far as it is known
    _unweighed_done: int = 0  # genes committed beside those

    def take(self, event: events.Event, moment: float = 0.0) -> None:
        """Take an event into account, of which was told at this date and time, as `time.time` has them."""
        if isinstance(event, events.RunStarted):
            self.run, self.vectors = event, event.vectors
            self.shards, self.ended = event.shards, event.complete
        elif isinstance(event, events.MetricsAt):
            self.metrics = event.url
        elif isinstance(event, events.ShardCounted):
            waiting = self.estimated if event.is_estimate else self.waiting
            waiting[event.shard] = event.pending
        elif isinstance(event, events.Ingesting):
            self.reading.add(event.shard)
        elif isinstance(event, events.ShardStarted):
            self._start(event)
        elif isinstance(event, events.BatchStarted):
            shard = self.running.get(event.shard)
            if shard is not None:
                shard.batch_since, shard.batch_genes = event.t, event.genes
        elif isinstance(event, events.BatchAbandoned):
            if (shard := self.running.get(event.shard)) is not None:
                shard.batch_since = None
        elif isinstance(event, events.Committed):
            self._commit(event)
        elif isinstance(event, events.ShardEnded):
            begun = self.running.pop(event.shard, None)
            not_begun = self.waiting.pop(event.shard, 0)
            self.reading.discard(event.shard)
            self._check_estimate(event.shard, 0 if event.state == "done" else None)
            self.ended += event.state != "paused"
            if event.state == "paused":
                self.paused.add(event.shard)
            elif event.state == "failed":
                self.failed[event.shard] = event.reason
                self.given_up += not_begun if begun is None else begun.left
        elif isinstance(event, events.ActionEnded):
            self._act(event)
            self.newest_actions.append(TakenAction(moment, event.shard, event.action, event.outcome))
            del self.newest_actions[:-MOST_ACTIONS]
        elif isinstance(event, events.Crash):
            self.crashes += 1
        elif isinstance(event, events.Quarantined):
            self.quarantined += 1
            row = {"shard": event.shard, "gene": event.gene, "source": event.source, "begins": event.begins}
            _name(self.quarantines, **row, reason=event.reason)
        elif isinstance(event, events.SourceTrouble):
            _name(self.troubles, shard=event.shard, source=event.source, reason=event.reason)
        self._note_activity(event)

    def _start(self, event: events.ShardStarted) -> None:
        before = self.running.get(event.shard)
        done = before.done if before else 0
        total = None if event.pending is None else event.pending + done
        self.waiting.pop(event.shard, None)
        self.reading.discard(event.shard)
        self.paused.discard(event.shard)
        if before is None:
            self.vectors += event.vectors
        if self.run is not None and self.run.devices == (UNKNOWN_DEVICE,):
            self.run = replace(self.run, devices=(event.device,))
        self._check_estimate(event.shard, event.pending)
        shard = ShardProgress(event.slot, event.device, total, done, work_left=event.work_pending)
        if before is not None:
            shard.rung, shard.work_done = before.rung, before.work_done
        elif event.work_pending and event.pending:
            genes, work = self._weighed
            self._weighed = genes + event.pending, work + event.work_pending
        self.running[event.shard] = shard

    def _check_estimate(self, shard: str, found: int | None) -> None:
        """A shard was estimated, and now it is known: the others are estimated better."""
        guessed = self.estimated.pop(shard, None)
        if guessed is not None and found is not None:
            self._guessed, self._found = self._guessed + guessed, self._found + found

    def _commit(self, event: events.Committed) -> None:
        self.encoded += event.genes
        shard = self.running.get(event.shard)
        work = None if shard is None else shard.commit(event.genes, event.pending, event.work_pending)
        if work is None:
            self._unweighed_done += event.genes
        else:
            self._work_done += work
        self._commits.append(_Commit(event.t, event.genes, work))
        # A minute of them, and at least a few: a batch that crawls takes longer than that.
        while len(self._commits) > LEAST_COMMITS and event.t - self._commits[0].t > RATE_WINDOW_SECONDS:
            self._commits.pop(0)
        if shard is None:
            return
        shard.device, shard.batch_since = event.device, None
        shard.rate, shard.baseline, shard.memory_fraction = event.rate, event.baseline, event.memory_fraction
        shard.rung, shard.is_crawling = event.rung, event.is_crawling

    def _act(self, event: events.ActionEnded) -> None:
        shard = self.running.get(event.shard)
        if event.outcome in ("applied", "overdue"):
            # Its batch kept it from its boundary, so its worker was ended: for a release that is a recycle.
            is_late_release = event.outcome == "overdue" and event.action == "EMPTY_CACHE"
            action = "RECYCLE" if is_late_release else event.action
            self.actions[action] = self.actions.get(action, 0) + 1
        if shard is None:
            return
        # A batch that crawls commits nothing for minutes: what is known of it comes with the actions.
        shard.is_crawling = shard.is_crawling or event.action == "DETECT"
        shard.rung = max(shard.rung, _RUNGS.get(event.action, 0))
        ema, baseline, memory = (event.evidence.get(key) for key in ("ema", "baseline", "memory_fraction"))
        if isinstance(ema, (int, float)) and isinstance(baseline, (int, float)):
            shard.rate, shard.baseline = float(ema), float(baseline)
        if isinstance(memory, (int, float)):
            shard.memory_fraction = float(memory)

    def _note_activity(self, event: events.Event) -> None:
        if isinstance(event, events.WorkerStarted):
            # A driver of the user's own may be silent for hours, also one that uses no CrawlWatch.
            does = "starts" if self.shards else "runs and has begun no shard yet"
            self._now_does(event.slot, f"process {event.pid} {does}", event.t)
        elif isinstance(event, events.Ingesting):
            text = f"reading {shard_name(event.shard)}: {count(event.sources, 'source')}, {genes(event.genes)}"
            self._now_does(event.slot, text, event.t, goes_on="reading")
        elif isinstance(event, events.ModelLoading):
            self._now_does(event.slot, f"loading {event.model}", event.t)
        elif isinstance(event, events.Gate):
            used = "" if event.used_bytes is None else f", {gib(event.used_bytes)} in use"
            self._now_does(event.slot, f"waiting for the card's memory{used}", event.t, goes_on="waiting")
        elif isinstance(event, events.Crash) and event.retry_in_seconds is not None:
            self._now_does(event.slot, "crashed, about to start again", event.t)
        elif isinstance(event, (events.ShardStarted, events.ModelLoaded)):
            self.activities.pop(event.slot, None)
        elif isinstance(event, events.WorkerEnded):
            self.activities.pop(event.slot, None)
            for shard in self.running.values():
                if shard.slot == event.slot:
                    shard.batch_since = None

    def _now_does(self, slot: str, text: str, t: float, goes_on: str | None = None) -> None:
        before = self.activities.get(slot)
        is_same = before is not None and goes_on is not None and before.text.startswith(goes_on)
        self.activities[slot] = Activity(text, before.since if before and is_same else t)

    def counts(self) -> dict[str, int]:
        """Shards in each state, all of them first; empty where nobody knows how many there are."""
        if not self.shards:
            return {}
        paused = len((self.paused | set(self.waiting)) - self.reading)  # of a shard that is counted there is a file
        known = {
            "done": self.ended - len(self.failed),
            "running": len(self.running) + len(self.reading),
            "paused": paused,
            "failed": len(self.failed),
        }
        return {"planned": self.shards, **known, "not_begun": max(0, self.shards - sum(known.values()))}

    def rate(self, now: float) -> float | None:
        """Genes a second over the last minute or the last few batches, all workers together; `None` before that.

        A batch that takes longer than its share makes that of its shard what it can still come to.
        """
        if len(self._commits) < 2:
            return None
        if self.is_late(now):
            rates = ((shard.rate_of_batch(now), shard.rate) for shard in self.running.values())
            return sum(most if most is not None else usual or 0.0 for most, usual in rates)
        seconds = now - self._commits[0].t
        return sum(commit.genes for commit in self._commits[1:]) / seconds if seconds > 0 else None

    def is_late(self, now: float) -> bool:
        """Whether a batch takes longer than its share: then the rate is the most, and the time to go the least."""
        return any(shard.rate_of_batch(now) is not None for shard in self.running.values())

    @property
    def left(self) -> int:
        """Genes that still lack a vector, those of shards that are not begun included: as far as they have been counted
        or estimated. Estimates are put right by what the shards before them came to. Of a driver of the user's own it
        is what its user has said that there is, less what is done.
        """
        if self._expected is not None:
            return max(0, self._expected - self.vectors - self.encoded)
        known = sum(shard.left for shard in self.running.values()) + sum(self.waiting.values())
        # One that is a few genes long tells nothing of the others.
        ratio = self._found / self._guessed if self._guessed >= LEAST_GUESSED else 1.0
        return known + round(sum(self.estimated.values()) * ratio)

    @property
    def share(self) -> float | None:
        """How much of this run is done, 0 to 1, what is not begun included: of the work where that is known, else of
        the genes. `None` while nobody knows how much there is.
        """
        if self._expected is not None:
            return min(1.0, (self.vectors + self.encoded) / self._expected)
        if self._is_blind or not self.shards or not self.is_all_known:
            return None
        done = self._work_done + self._unweighed_done * self._work_each
        return done / (done + self._work_left) if self._work_left and done else float(not self.left)

    def to_go(self, now: float) -> float | None:
        """Seconds that what is left still needs at the rate of now. `None` while nobody can say."""
        rate = self.rate(now) if tells_speed(self.encoded, self.left) else None
        is_known = not self._is_blind and bool(self.running or self.waiting or self.estimated)
        is_known = self.left > 0 if self._expected is not None else is_known
        newest = self._newest_each
        return self._work_left / (rate * newest) if rate and newest and is_known else None

    @property
    def knows_work(self) -> bool:
        """Whether shares are of work; else they are of genes."""
        return self._weighed[1] > 0 and self._expected is None

    @property
    def _work_each(self) -> float:
        """Mean work of a gene, by the shards begun so far; 1 while nobody knows any: then genes are all alike."""
        genes, work = self._weighed
        return work / genes if work else 1.0

    @property
    def _work_left(self) -> float:
        weighed = [shard for shard in self.running.values() if shard.work_left is not None]
        genes = max(0, self.left - sum(shard.left for shard in weighed))
        return sum(shard.work_left or 0.0 for shard in weighed) + genes * self._work_each

    @property
    def _newest_each(self) -> float:
        """Mean work of the genes that the rate is of; 0 where that is nothing."""
        newest, each = self._commits[1:], self._work_each
        work = sum(commit.genes * each if commit.work is None else commit.work for commit in newest)
        return work / max(1, sum(commit.genes for commit in newest))

    @property
    def _expected(self) -> int | None:
        return self.run.expected if self.run is not None else None

    @property
    def _is_blind(self) -> bool:
        return any(shard.total is None for shard in self.running.values())

    @property
    def is_all_known(self) -> bool:
        """Whether no shard waits whose genes nobody has counted or estimated."""
        return self.ended + len(self.running) + len(self.waiting) + len(self.estimated) >= self.shards


def tells_speed(measured: int, left: int) -> bool:
    """Whether the speed of so many genes says how long others take: that of the first three is that of beginning."""
    return measured >= min(LEAST_MEASURED, left / MOST_TIMES_MEASURED)


def _name(named: list[dict[str, str]], **content: str) -> None:
    if len(named) < MOST_NAMED:
        named.append(content)
