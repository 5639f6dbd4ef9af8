"""Follows a timeline with the detector, changing nothing: baselines, verdicts, crawls as they were.

Other than `replay` it never ends a worker or takes a rung: what the timeline says was done is what was done. Only where
a timeline has no action at all, `replay` says what would have been asked for.

Source: DESIGN.md, sections 3.6 and 4.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from operator import attrgetter

from helix_crawl_otel.policy.batch import Batch, BatchInfo
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind
from helix_crawl_otel.policy.policy import TICK_SECONDS, Policy
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from helix_crawl_otel.replay.engine import replay
from helix_crawl_otel.replay.order import in_runs, travel
from helix_crawl_otel.report.story import (
    DETECT,
    HANG,
    Episode,
    Reading,
    ReportAction,
    ReportBatch,
    RunReport,
    ShardReport,
    StartMark,
)
from helix_crawl_otel.timeline import (
    ActionEvent,
    BatchEvent,
    Event,
    MemoryEvent,
    RunEvent,
    TriedBatch,
    UnfinishedEvent,
    WorkerEvent,
)

__all__ = ["tell"]

_ENDS_WORKER = ("RECYCLE", "DEMOTE_CPU")

_JUST_BEFORE = 1e-8
"""Seconds. A reading at the moment at which a slice is due comes first."""


def tell(events: Iterable[Event], settings: Settings) -> RunReport:
    """Make a story of a timeline.

    Args:
        events: From `read_timeline`; all are held in memory.
        settings: The knobs to judge by.
    """
    kept = list(events)
    is_recorded = any(type(event) is ActionEvent for event in kept)
    builder = _ReportBuilder(settings, is_recorded)
    for run, axis in in_runs(kept):
        if run is not None:
            builder.begin_run(run)
        builder.play(axis)
    if not is_recorded:
        _add_what_would_have_been(builder.story, kept, settings)
    return builder.story


def _add_what_would_have_been(story: RunReport, events: Sequence[Event], settings: Settings) -> None:
    tales = {(tale.run, tale.shard): tale for tale in story.tales}
    for run, decision in replay(events, settings).decisions:
        kind = decision.kind.value if decision.what is DecisionKind.ISSUE and decision.kind else HANG
        tale = tales.get((run, decision.shard))
        if tale is not None and decision.what in (DecisionKind.ISSUE, DecisionKind.HANG):
            tale.steps.append(ReportAction(decision.t, kind, "", decision.evidence, decision.reason))


class _ReportBuilder:
    """Threads: one."""

    def __init__(self, settings: Settings, is_recorded: bool) -> None:
        self.story = RunReport(settings, is_recorded)
        # With `off` the policy detects and never asks: a crawl is open for as long as it lasted.
        self._settings = replace(settings, action="off")
        self._policy = Policy(self._settings)
        self._runs = 0
        self._forget_axis()

    def begin_run(self, run: RunEvent) -> None:
        """A new time axis. Baselines carry on, unless the encoder is another."""
        self._runs += 1
        self.story.runs = self._runs
        if run.source and run.source not in self.story.sources:
            self.story.sources.append(run.source)
        state = self._policy.state
        if run.encoder and run.encoder != state.encoder and state.shards:
            state = restore_durable(dump_durable(state), run.encoder)
        elif run.encoder:
            state.encoder = run.encoder
        self._policy = Policy(self._settings, tick_seconds=run.tick_seconds or TICK_SECONDS, state=state)
        self._policy.restart()

    def play(self, axis: list[Event]) -> None:
        """Take all events of one time axis."""
        self._forget_axis()
        span = travel(axis, self)
        self.story.seconds += span.length
        self._finish(span.last)

    def _forget_axis(self) -> None:
        self._tales: dict[str, ShardReport] = {}
        self._readings: dict[str, list[Reading]] = {}  # by device, in the order of time
        self._starts: list[StartMark] = []
        self._newest: dict[str, TriedBatch] = {}  # that has begun, by shard

    # -- a traveller's ------------------------------------------------------------------------------------------------

    def reach(self, t: float) -> None:
        """The policy sees what a batch in flight has come to."""
        self._take(self._policy.advance(t - _JUST_BEFORE))

    def begin(self, t: float, number: int, batch: TriedBatch) -> None:
        """It is in flight."""
        self._take(self._policy.start_batch(t, self._info(t, number, batch)))

    def end(self, t: float, number: int, batch: BatchEvent) -> None:
        """It is told with its verdict."""
        info = self._info(t, number, batch)
        decisions, problem = self._policy.finish_batch(t, info, batch.seconds)
        self._take(decisions)
        self._tale(batch.shard).batches.append(self._batch(t, info, batch, is_judged=problem is None))

    def lose(self, t: float, number: int, batch: UnfinishedEvent) -> None:
        """It is told as one that came to nothing; its worker's crawls end here."""
        info = self._info(t, number, batch)
        self._tale(batch.shard).unfinished.append(self._batch(t, info, batch, is_judged=True))
        self._policy.abandon_batch(info.id)
        self._close_of(batch.worker, t)

    def read(self, t: float, event: MemoryEvent) -> None:
        """A point of the memory's line."""
        reading = event.reading
        self._policy.read_memory(t, event.device, reading)
        own = self._readings.setdefault(event.device, [])
        is_known = reading.shared_bytes is not None and reading.limit_bytes is not None
        shared = (reading.shared_bytes or 0) / (reading.limit_bytes or 1) if is_known else None
        own.append(Reading(t, event.device, reading.fraction, shared))

    def start(self, t: float, event: WorkerEvent) -> None:
        """The crawls of the one before end here."""
        self._close_of(event.worker, t)
        self._take(self._policy.start_worker(t, event.worker, event.device))
        self._starts.append(StartMark(t, event.device, event.worker, event.reason))

    def act(self, t: float, event: ActionEvent) -> None:
        """A step of its shard's tale."""
        tale = self._tale(event.shard)
        ratio = event.evidence.get("ratio")
        newest = self._newest.get(event.shard)
        known, _ = self._policy.baseline(event.shard, newest.device) if newest is not None else (None, "")
        speed = ratio * known.rate if isinstance(ratio, (int, float)) and known is not None else None
        step = ReportAction(t, event.kind, event.outcome or "applied", event.evidence, crawl_speed=speed or None)
        tale.steps.append(step)
        if event.kind == DETECT:
            self._open(tale, t, newest.worker if newest is not None else "")
        elif event.kind in _ENDS_WORKER and step.is_taken:
            for episode in tale.episodes:
                _close(episode, t)

    # -- batches and workers ------------------------------------------------------------------------------------------

    def _batch(self, t: float, info: BatchInfo, event: TriedBatch, *, is_judged: bool) -> ReportBatch:
        state = self._policy.state.shards[event.shard]
        units = float(event.genes if state.unit == "genes" or event.work is None else event.work)
        known, _ = self._policy.baseline(event.shard, event.device)
        baseline = known.rate * event.genes / units if known is not None and is_judged else None
        began = t - event.seconds
        ended = Batch(info, units, started=began)
        is_full = bool(self._policy.is_full(ended, t))
        is_slow = baseline is not None and event.genes / event.seconds < baseline / self._settings.factor
        return ReportBatch(began, t, event.genes, units, event.device, event.worker, baseline, is_full and is_slow)

    def _info(self, t: float, number: int, event: TriedBatch) -> BatchInfo:
        self._newest[event.shard] = event
        if event.shard not in self._tales:
            self._take(self._policy.open_shard(t, event.shard, event.worker, event.device))
            self._tale(event.shard)
        return BatchInfo(str(number), event.shard, event.worker, event.device, event.genes, event.work)

    def _close_of(self, worker: str, t: float) -> None:
        """A worker has ended, and its crawls with it."""
        for tale in self._tales.values():
            for episode in tale.episodes:
                if episode.worker == worker:
                    _close(episode, t)

    def _take(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            tale = self._tale(decision.shard)
            if decision.kind is ActionKind.DETECT and not self.story.is_recorded:
                self._open(tale, decision.t, decision.worker)
            elif decision.what is DecisionKind.RECOVERED:
                for episode in tale.episodes:
                    _close(episode, decision.t)

    # -- shards -------------------------------------------------------------------------------------------------------

    def _tale(self, shard: str) -> ShardReport:
        if shard not in self._tales:
            self._tales[shard] = ShardReport(max(self._runs - 1, 0), shard)
            self.story.tales.append(self._tales[shard])
        return self._tales[shard]

    @staticmethod
    def _open(tale: ShardReport, t: float, worker: str) -> None:
        if not tale.episodes or tale.episodes[-1].ended is not None:
            tale.episodes.append(Episode(t, worker, t))

    def _finish(self, last: float) -> None:
        """What is still open ends with its shard; readings and workers go to the shards that they belong to."""
        for tale in self._tales.values():
            began, ended = tale.span
            for episode in tale.episodes:
                _close(episode, last)
                # A shard that ended takes its crawl along, whenever the next worker was started.
                episode.ended = min(episode.ended or last, max(ended, episode.detected))
                episode.began = _slow_since(tale, episode)
            devices = {batch.device for batch in tale.tries}
            workers = {batch.worker for batch in tale.tries}
            for device in sorted(devices):
                tale.readings += self._readings_of(tale, device, began, ended)
            # The worker of a shard's first batch is started before it: only those in place of another count.
            tale.starts = [s for s in self._starts if s.worker in workers and began <= s.t <= ended]

    def _readings_of(self, tale: ShardReport, device: str, began: float, ended: float) -> list[Reading]:
        """A device's readings during a shard. The one before holds at its beginning, the last one to its end there."""
        own = self._readings.get(device, [])
        first = bisect_left(own, began, key=attrgetter("t"))
        inside = own[first : bisect_right(own, ended, key=attrgetter("t"))]
        if first:
            inside.insert(0, own[first - 1]._replace(t=began))
        left = max((batch.ended for batch in tale.tries if batch.device == device), default=ended)
        if inside and left > inside[-1].t:
            inside.append(inside[-1]._replace(t=left))
        return inside


def _slow_since(tale: ShardReport, episode: Episode) -> float:
    """The beginning of the unbroken row of slow batches that leads to a detection."""
    since = episode.detected
    for batch in reversed(tale.tries):
        if batch.began >= episode.detected:
            continue
        # One in flight at that moment is where it was detected, whatever was known of the memory at its end.
        if not batch.slow and batch.ended <= episode.detected:
            break
        since = batch.began
    return since


def _close(episode: Episode, t: float) -> None:
    if episode.ended is None:
        episode.ended = t
