"""Follows a timeline with the detector, changing nothing: baselines, verdicts, crawls as they were.

Other than `replay` it never ends a worker or takes a rung: what the timeline says was done is what was done. Only where
a timeline has no action at all, `replay` says what would have been asked for.

Source: DESIGN.md, sections 3.6 and 4.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from helix_crawl_otel import timeline
from helix_crawl_otel.policy.batch import Batch, BatchInfo
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind, share
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.engine import ROUNDED_SECONDS, PolicyInRuns, ReplayEngine
from helix_crawl_otel.replay.order import Axis, Span, travel
from helix_crawl_otel.report.story import (
    DETECT,
    HANG,
    Episode,
    PaddedBatches,
    Reading,
    Readings,
    ReportAction,
    ReportBatch,
    ReportBatches,
    RunReport,
    ShardReport,
    StartMark,
)
from helix_crawl_otel.timeline.columns import Columns

__all__ = ["tell"]

_ENDS_WORKER = ("RECYCLE", "DEMOTE_CPU")

_JUST_BEFORE = 1e-8
"""Seconds. A reading at the moment at which a slice is due comes first."""


def tell(runs: Sequence[tuple[timeline.RunEvent | None, Axis]], settings: Settings) -> RunReport:
    """Make a story of a timeline.

    Args:
        runs: All of them, as `in_runs` finds them.
        settings: The knobs to judge by.
    """
    builder = _ReportBuilder(settings, is_recorded=any(axis.has_actions for _, axis in runs))
    travel(runs, builder)
    builder.story.origins = [run for run, _ in runs]
    if builder.has_decided and not builder.story.is_recorded:  # as long as nothing happens, both see the same
        engine = ReplayEngine(settings)
        travel(runs, engine)
        _add_what_would_have_been(builder.story, engine.result.decisions)
    return builder.story


def _add_what_would_have_been(story: RunReport, decisions: Sequence[tuple[int, Decision]]) -> None:
    tales = {(tale.run, tale.shard): tale for tale in story.tales}
    for run, decision in decisions:
        kind = decision.kind.value if decision.what is DecisionKind.ISSUE and decision.kind else HANG
        tale = tales.get((run, decision.shard))
        if tale is not None and decision.what in (DecisionKind.ISSUE, DecisionKind.HANG):
            tale.steps.append(ReportAction(decision.t, kind, "", decision.evidence, decision.reason))


class _ReportBuilder(PolicyInRuns):
    """A `TimelineVisitor` that judges and lets be. Threads: one."""

    def __init__(self, settings: Settings, is_recorded: bool) -> None:
        # With `off` the policy detects and never asks: a crawl is open for as long as it lasted.
        super().__init__(replace(settings, action="off"))
        self.story = RunReport(settings, is_recorded)
        self.has_decided = False
        self._stages = timeline.StageTimes()
        self._forget_axis()

    def begin_run(self, run: timeline.RunEvent) -> None:
        """A new time axis."""
        super().begin_run(run)
        self._stages.forget()
        self.story.runs = len(self.runs)
        if run.source and run.source not in self.story.sources:
            self.story.sources.append(run.source)

    def _forget_axis(self) -> None:
        self._tales: dict[str, ShardReport] = {}
        self._batches = Columns(ReportBatch)
        self._readings: dict[str, Columns[Reading]] = defaultdict(lambda: Columns(Reading))  # by device
        self._capped: set[str] = set()  # devices of which a cap was told
        self._starts: dict[str, list[StartMark]] = defaultdict(list)  # by worker
        self._newest: dict[str, timeline.TriedBatch] = {}  # that has begun, by shard
        self._running: dict[int, tuple[BatchInfo, timeline.TriedBatch]] = {}  # those in flight
        self._slow_since: dict[str, float] = {}  # beginning of the unbroken row of slow batches, by shard
        self._crawled: dict[str, list[ShardReport]] = defaultdict(list)  # by worker, open crawls among them

    # -- the moments of a run -----------------------------------------------------------------------------------------

    def reach(self, t: float) -> None:
        """The policy sees what a batch in flight has come to."""
        if self.policy.quiet_until <= t:
            self._take(self.policy.advance(t - _JUST_BEFORE))

    def begin(self, t: float, number: int, batch: timeline.TriedBatch) -> None:
        """It is in flight."""
        info = self._info(t, number, batch)
        self._newest[batch.shard] = batch
        if decisions := self.policy.start_batch(t, info):
            self._take(decisions)
        self._running[number] = info, batch

    def end(self, t: float, number: int, batch: timeline.BatchEvent) -> None:
        """It is told with its verdict."""
        self._stages.add(batch)
        running = self._running.get(number)
        info = self._info(t, number, batch) if running is None else running[0]
        self._newest[batch.shard] = batch
        begun = None if batch.tokens is None else self.policy.state.inflight.get(info.id)
        decisions, problem = self.policy.finish_batch(t, info, batch.seconds)
        if decisions:
            self._take([decision for decision in decisions if decision.t < t])
        told = self._batch(t, info, batch, is_judged=problem is None)
        tale = self._tales[batch.shard]
        self._tell(number, told, tale, tale.batches)
        if batch.work_pending is not None:
            tale.waiting = max(0.0, batch.work_pending - (batch.work or 0.0))
        if batch.tokens is not None and batch.work is not None:
            padded = tale.padded.setdefault(batch.device, PaddedBatches())
            tells_speed = not (told.slow or (begun is not None and begun.warmup))
            padded.add(batch.genes, batch.work, batch.tokens, batch.seconds if tells_speed else None)
        if decisions:
            self._take([decision for decision in decisions if decision.t >= t])

    def lose(self, t: float, number: int, batch: timeline.UnfinishedEvent) -> None:
        """It is told as one that came to nothing; its worker's crawls end here. What was due by then has been seen."""
        self._take(self.policy.advance(t + ROUNDED_SECONDS))
        running = self._running.get(number)
        info = self._info(t, number, batch) if running is None else running[0]
        self._newest[batch.shard] = batch
        told = self._batch(t, info, batch, is_judged=True)
        tale = self._tales[batch.shard]
        self._tell(number, told, tale, tale.unfinished)
        self.policy.abandon_batch(info.id)
        self._close_of(batch.worker, t)

    def read(self, t: float, number: int, event: timeline.MemoryEvent) -> None:
        """A point of the memory's line."""
        self.policy.read_memory(t, event.device, event)
        shared = None if event.shared_bytes is None else share(event.shared_bytes, event.limit_bytes)
        self._readings[event.device].append(Reading(t, event.device, event.fraction, shared))
        if event.cap_bytes is not None:
            self._capped.add(event.device)

    def start(self, t: float, number: int, event: timeline.WorkerEvent) -> None:
        """The crawls of the one before end here."""
        self._stages.forget(event.worker)
        self._close_of(event.worker, t)
        self._take(self.policy.start_worker(t, event.worker, event.device))
        self._starts[event.worker].append(StartMark(t, event.device, event.worker, event.reason))

    def act(self, t: float, number: int, event: timeline.ActionEvent) -> None:
        """A step of its shard's tale."""
        tale = self._tale(event.shard)
        ratio = event.evidence.get("ratio")
        newest = self._newest.get(event.shard)
        known, _ = self.policy.baseline(event.shard, newest.device) if newest is not None else (None, "")
        speed = ratio * known.rate if isinstance(ratio, (int, float)) and known is not None else None
        step = ReportAction(t, event.kind, event.outcome or "applied", event.evidence, crawl_speed=speed or None)
        tale.steps.append(step)
        if event.kind == DETECT:
            self._open(tale, t, newest.worker if newest is not None else "")
        elif event.kind in _ENDS_WORKER and step.is_taken:
            self._close(tale, t)

    # -- batches and workers ------------------------------------------------------------------------------------------

    def _batch(self, t: float, info: BatchInfo, event: timeline.TriedBatch, *, is_judged: bool) -> ReportBatch:
        state = self.policy.state.shards[event.shard]
        genes = event.genes
        units = float(genes if state.unit == "genes" or event.work is None else event.work)
        known, _ = self.policy.baseline(event.shard, event.device)
        baseline = known.rate * genes / units if known is not None and is_judged else None
        began = t - event.seconds
        is_slow = baseline is not None and genes / event.seconds < baseline / self.policy.settings.factor
        if is_slow:
            ended = Batch(info, units, started=began)
            is_slow = bool(self.policy.is_full(ended, t))
        return ReportBatch(began, t, genes, units, event.device, event.worker, baseline, is_slow)

    def _tell(self, number: int, batch: ReportBatch, tale: ShardReport, batches: ReportBatches) -> None:
        batches.append(batch)
        tale.left[batch.device] = batch.ended
        tale.workers[batch.worker] = None
        self._running.pop(number, None)
        if batch.slow:
            self._slow_since.setdefault(tale.shard, batch.began)
        else:
            self._slow_since.pop(tale.shard, None)

    def _info(self, t: float, number: int, event: timeline.TriedBatch) -> BatchInfo:
        if event.shard not in self._tales:
            self._take(self.policy.open_shard(t, event.shard, event.worker, event.device))
            self._tale(event.shard)
        return BatchInfo(str(number), event.shard, event.worker, event.device, event.genes, event.work)

    def _take(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            self.has_decided = True
            tale = self._tale(decision.shard)
            if decision.kind is ActionKind.DETECT and not self.story.is_recorded:
                self._open(tale, decision.t, decision.worker)
            elif decision.what is DecisionKind.RECOVERED:
                self._close(tale, decision.t)

    # -- crawls -------------------------------------------------------------------------------------------------------

    def _open(self, tale: ShardReport, t: float, worker: str) -> None:
        """It began with the unbroken row of slow batches that led to it, or with the batch in flight in which it was
        detected, whatever is known of the memory at its end."""
        if tale.episodes and tale.episodes[-1].ended is None:
            return
        running = (batch.t - batch.seconds for _, batch in self._running.values() if batch.shard == tale.shard)
        began = min(t, self._slow_since.get(tale.shard, min(running, default=t)))
        tale.episodes.append(Episode(t, worker, began))
        self._crawled[worker].append(tale)

    def _close_of(self, worker: str, t: float) -> None:
        """A worker has ended, and its crawls with it."""
        for tale in self._crawled.pop(worker, ()):
            if tale.episodes[-1].worker == worker:
                self._close(tale, t)

    def _close(self, tale: ShardReport, t: float) -> None:
        if tale.episodes and tale.episodes[-1].ended is None:
            tale.episodes[-1].ended = t
            self._slow_since.pop(tale.shard, None)  # of this one: the next begins behind it

    # -- shards -------------------------------------------------------------------------------------------------------

    def _tale(self, shard: str) -> ShardReport:
        if shard not in self._tales:
            own = ReportBatches(self._batches), ReportBatches(self._batches)
            self._tales[shard] = ShardReport(self.run, shard, *own)
            self.story.tales.append(self._tales[shard])
        return self._tales[shard]

    def finish(self, span: Span) -> None:
        """What is still open ends with its shard; readings and workers go to the shards that they belong to."""
        self.story.seconds += span.length
        self.story.slow_stages = list(self._stages.slow())
        for tale in self._tales.values():
            began, ended = tale.span
            self._close(tale, span.last)
            for episode in tale.episodes:
                # A shard that ended takes its crawl along, whenever the next worker was started.
                episode.ended = min(episode.ended or span.last, max(ended, episode.detected))
            tale.is_capped = not self._capped.isdisjoint(tale.left)
            for device in sorted(tale.left):
                own_readings = Readings(self._readings[device], began, ended, tale.left[device])
                if len(own_readings):
                    tale.readings[device] = own_readings
            # The worker of a shard's first batch is started before it: only those in place of another count.
            for worker in tale.workers:
                own = self._starts.get(worker, [])
                first = bisect_left(own, began, key=attrgetter("t"))
                tale.starts += own[first : bisect_right(own, ended, key=attrgetter("t"))]
            tale.starts.sort(key=attrgetter("t"))
        self._forget_axis()
