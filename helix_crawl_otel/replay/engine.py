"""Drives the policy along a timeline as a job and its supervisor would have driven it, and keeps what it decided.

What the policy asks for changes nothing but its own state, because the timeline is already there. An action counts as
applied at the end of the shard's next batch. One that is overdue inside a batch, and a hang, end the worker there: the
rest of that batch is not judged, and its line is ignored. A batch whose worker ended in the job itself is judged up to
there, and is no sample.

Source: DESIGN.md, section 3.6, and section 5 for deadlines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from helix_crawl_otel import timeline
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind, Outcome
from helix_crawl_otel.policy.policy import TICK_SECONDS, Policy
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import PolicyState, dump_durable, restore_durable
from helix_crawl_otel.replay.order import Span, in_runs, travel
from helix_crawl_otel.timeline import Event

__all__ = ["ROUNDED_SECONDS", "PolicyInRuns", "ReplayEngine", "ReplayResult", "replay"]

_JUST_BEFORE = 4e-9
"""Part of a tick. The policy takes what is due within a billionth of a tick; a reading at the moment a slice is due
has to come first, so the policy is taken up to a little before every event."""

ROUNDED_SECONDS = 2e-6
"""Seconds. A timeline is rounded: what was due at the end of a worker must not seem to be due just after it."""


@dataclass
class ReplayResult:
    """What the policy would have done.

    Args:
        settings: The knobs it was given.
        decisions: Each with the number of its run (from 0), in order.
        runs: The `run` lines.
        shards: Names, in the order in which they were first seen.
        batches: Batch lines.
        trips: Windows that the signature filled.
        actions: Issued, by kind; every kind is there.
        recorded: Actions of the recorded job itself, by kind, and by outcome where they were not applied.
        ignored_samples: Batch lines that could not be judged, such as one without work in a shard judged by work.
        cut_batches: Batch lines ignored because their worker would have been ended inside.
        unfinished_batches: Lines of batches whose worker ended in the recorded job.
        seconds: Length of the timeline, over all its runs.
    """

    settings: Settings
    decisions: list[tuple[int, Decision]] = field(default_factory=list)
    runs: list[timeline.RunEvent] = field(default_factory=list)
    shards: dict[str, None] = field(default_factory=dict)
    batches: int = 0
    trips: int = 0
    actions: dict[str, int] = field(default_factory=lambda: {kind.value: 0 for kind in ActionKind})
    recorded: dict[str, int] = field(default_factory=dict)
    ignored_samples: int = 0
    cut_batches: int = 0
    unfinished_batches: int = 0
    seconds: float = 0.0

    def issued(self) -> list[Decision]:
        """Every DETECT and every action issued, in order."""
        return [decision for _, decision in self.decisions if decision.what is DecisionKind.ISSUE]

    def count(self, what: DecisionKind) -> int:
        """How many decisions of a kind there were."""
        return sum(decision.what is what for _, decision in self.decisions)


def replay(events: Iterable[Event], settings: Settings, *, tick_seconds: float | None = None) -> ReplayResult:
    """Take a timeline's events through the policy.

    Args:
        events: From `read_timeline`, or made; in the order of the lines. All events of one run are held in memory.
        settings: The knobs.
        tick_seconds: Length of a tick; `None` takes what each run recorded, else 5 s. It is no knob: it says how often
            the run was looked at.
    """
    engine = ReplayEngine(settings, tick_seconds)
    travel(in_runs(events), engine)
    return engine.result


class PolicyInRuns:
    """A policy that follows the runs of a timeline: each has its own time axis; rungs and baselines carry on.

    Args:
        settings: The knobs.
        tick_seconds: Length of a tick; `None` takes what each run recorded, else 5 s.
    """

    def __init__(self, settings: Settings, tick_seconds: float | None = None) -> None:
        self._tick_seconds = tick_seconds
        self.policy = Policy(settings, tick_seconds=tick_seconds or TICK_SECONDS)
        self.runs: list[timeline.RunEvent] = []

    @property
    def run(self) -> int:
        """Number of the run, from 0. What comes before the first `run` line belongs to it."""
        return max(len(self.runs) - 1, 0)

    def begin_run(self, run: timeline.RunEvent) -> None:
        """A new time axis. A baseline belongs to one encoder."""
        self.runs.append(run)
        state = self.policy.state
        if run.encoder and run.encoder != state.encoder and state.shards:
            restored = restore_durable(dump_durable(state), run.encoder)
            restored.next_action, restored.trips = state.next_action, state.trips
            state = restored
        elif run.encoder:
            state.encoder = run.encoder
        if run.state is not None:
            _recall(state, run.state)
        ticks = self._tick_seconds or run.tick_seconds or TICK_SECONDS
        self.policy = Policy(self.policy.settings, tick_seconds=ticks, state=state)
        self.policy.restart()


def _recall(state: PolicyState, kept: Mapping[str, Any]) -> None:
    """What a run knew when it began, and no line before has told: by another timeline, or one that is gone."""
    try:
        known = restore_durable(kept, state.encoder)
    except ValueError:  # of a later version, or damaged
        return
    state.shards = known.shards | state.shards
    state.costs = known.costs | state.costs
    seen = state.cards.cards.keys() | state.cards.early.keys()
    state.cards.cards.update({key: history for key, history in known.cards.cards.items() if key not in seen})
    state.cards.early.update({key: samples for key, samples in known.cards.early.items() if key not in seen})


class ReplayEngine(PolicyInRuns):
    """A `TimelineVisitor` that does at once what the policy asks for. Its `result` is complete after the last run.

    Threads: one.
    """

    def __init__(self, settings: Settings, tick_seconds: float | None = None) -> None:
        super().__init__(settings, tick_seconds)
        self.result = ReplayResult(settings, runs=self.runs)
        self._forget_axis()

    def finish(self, span: Span) -> None:
        """What was in flight goes on in no other run."""
        self.result.seconds += span.length
        self.result.trips = self.policy.state.trips
        self._forget_axis()

    def _forget_axis(self) -> None:
        self._now = float("-inf")
        self._running: dict[int, tuple[float, BatchInfo]] = {}  # beginning and batch, by number of the line
        self._cut: set[int] = set()
        self._opened: set[str] = set()

    # -- the moments of a run -----------------------------------------------------------------------------------------

    def reach(self, t: float) -> None:
        """Take the policy up to just before `t`, in steps: whoever is asked to end a worker does so at that moment,
        not after what else would have become of its batch."""
        until = t - _JUST_BEFORE * self.policy.tick_seconds
        while self.policy.quiet_until <= until:
            self._now = max(self._now, self.policy.quiet_until)
            self._take(self.policy.advance(self._now))
        self._now = max(self._now, until)

    def begin(self, t: float, number: int, batch: timeline.TriedBatch) -> None:
        """It is in flight, for the policy too."""
        info = self._info(t, number, batch)
        self._running[number] = (t, info)
        if batch.work_pending is not None:
            self.policy.wait_for(batch.shard, batch.work_pending, shards_follow=batch.shards_follow)
        self._take(self.policy.start_batch(t, info))
        if isinstance(batch, timeline.BatchEvent):  # it came to its end: on the CPU it was no hang
            self.policy.use_processor(t + batch.seconds, info.worker)

    def end(self, t: float, number: int, batch: timeline.BatchEvent) -> None:
        """It is a sample, and a boundary; unless its worker would have been ended inside."""
        self.result.batches += 1
        if number in self._cut:
            self._cut.discard(number)
            self.result.cut_batches += 1
            return
        running = self._running.pop(number, None)
        info = running[1] if running else self._info(t, number, batch)
        decisions, problem = self.policy.finish_batch(t, info, batch.seconds)
        if problem is not None:
            self.result.ignored_samples += 1
        if decisions:
            self._take(decisions)
        self._reach_boundary(t, info)

    def lose(self, t: float, number: int, batch: timeline.UnfinishedEvent) -> None:
        """What was due by then has been seen: it may be why the worker ended."""
        self._take(self.policy.advance(t + ROUNDED_SECONDS))
        self.result.unfinished_batches += 1
        self._cut.discard(number)
        self._running.pop(number, None)
        self.policy.abandon_batch(self._info(t, number, batch).id)

    def read(self, t: float, number: int, event: timeline.MemoryEvent) -> None:
        """The policy takes the reading."""
        self.policy.read_memory(t, event.device, event)

    def start(self, t: float, number: int, event: timeline.WorkerEvent) -> None:
        """It takes the place of the one before."""
        self._start_worker(t, event.worker, event.device, event.reason)

    def act(self, t: float, number: int, event: timeline.ActionEvent) -> None:
        """It is counted: what was done then is not what would be done now."""
        is_done = event.outcome in ("", Outcome.APPLIED.value)
        what = event.kind if is_done else f"{event.kind} ({event.outcome.replace('_', ' ')})"
        self.result.recorded[what] = self.result.recorded.get(what, 0) + 1

    # -- batches and workers ------------------------------------------------------------------------------------------

    def _info(self, t: float, number: int, batch: timeline.TriedBatch) -> BatchInfo:
        info = BatchInfo(str(number), batch.shard, batch.worker, batch.device, batch.genes, batch.work)
        if batch.shard not in self._opened:
            self._opened.add(batch.shard)
            self.result.shards[batch.shard] = None
            self._take(self.policy.open_shard(t, batch.shard, batch.worker, batch.device, can_end_worker=True))
        return info

    def _reach_boundary(self, t: float, info: BatchInfo) -> None:
        """The action that waits for this shard is applied."""
        pending = self.policy.state.shards[info.shard].ladder.pending
        if pending is None:
            return
        if pending.kind.ends_worker:
            self._start_worker(t, info.worker, info.device)
        else:
            self.policy.resolve(info.shard, pending.id, Outcome.APPLIED)

    def _start_worker(self, t: float, worker: str, device: str, reason: str = "") -> None:
        """A worker in place of the one before. A batch that the timeline ends later cannot be the old one's, so it is
        the first of the new one: rounded times overlap a little."""
        self._take(self.policy.start_worker(t, worker, device, reason))
        for begun, info in self._running.values():
            if info.worker == worker:
                self._take(self.policy.start_batch(begun, info))

    def _take(self, decisions: list[Decision]) -> None:
        """Keep decisions, and do at once what a supervisor does at once."""
        for decision in sorted(decisions, key=lambda decision: decision.t):
            self.result.decisions.append((self.run, decision))
            if decision.what is DecisionKind.ISSUE and decision.kind is not None:
                self.result.actions[decision.kind.value] += 1
            if decision.forced:
                self._end_worker(decision)

    def _end_worker(self, decision: Decision) -> None:
        for number in [number for number, (_, info) in self._running.items() if info.worker == decision.worker]:
            del self._running[number]
            self._cut.add(number)
        self._take(self.policy.start_worker(decision.t, decision.worker, decision.device))
