"""The policy: takes events in the order of time, keeps the state of every shard, says what to do.

The live job, the supervisor, `replay` and `simulate` all drive this one class; none of them decides anything itself.

Source: DESIGN.md, sections 4 and 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from helix_crawl_otel.policy.baseline import Baseline
from helix_crawl_otel.policy.batch import HANG_SECONDS, Batch, BatchInfo
from helix_crawl_otel.policy.memory import AnyReading, MemoryTrack, SharedFloor
from helix_crawl_otel.policy.model import (
    REMEDIES,
    ActionKind,
    Decision,
    DecisionKind,
    Outcome,
    ShardStatus,
    Verdict,
    sample_problem,
)
from helix_crawl_otel.policy.rule import Rule
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import PolicyState, ShardState, WorkerState, forget_closed

__all__ = ["TICK_SECONDS", "Policy"]

TICK_SECONDS = 5.0
"""The default tick: a slice is at least one, a trip has lasted at least `window` of them."""


class Policy:
    """Detector and ladder of all shards of a run.

    Args:
        settings: The knobs.
        tick_seconds: Length of a tick, more than 0.
        state: To go on from, `None` to begin.

    Threads: none of its own, not thread-safe; the owner serialises the calls. No call reads a clock: `t` and `now` are
    seconds on one clock that never counts the time the machine slept, and do not fall, except across `restart`.
    """

    def __init__(
        self, settings: Settings, *, tick_seconds: float = TICK_SECONDS, state: PolicyState | None = None
    ) -> None:
        if not (math.isfinite(tick_seconds) and tick_seconds > 0):
            raise ValueError(f"tick_seconds is {tick_seconds!r}; accepted: a number of seconds > 0")
        self.settings = settings
        self.tick_seconds = tick_seconds
        self.state = state or PolicyState()
        self._rule = Rule(settings, tick_seconds, self.state)

    # -- shards and workers -------------------------------------------------------------------------------------------

    def open_shard(
        self,
        t: float,
        shard: str,
        worker: str,
        device: str,
        can_take: Iterable[ActionKind] = REMEDIES,
        *,
        can_end_worker: bool = False,
    ) -> list[Decision]:
        """Say that a worker is about to encode a shard, and what its driver can do.

        Args:
            t: Seconds.
            shard: Name.
            worker: Name of the worker.
            device: Its device.
            can_take: Rungs that the driver can take; others are passed over.
            can_end_worker: Whether an overdue action has the worker ended.
        """
        state = self._shard(shard)
        allowed = frozenset(can_take)
        state.can_take = [kind for kind in REMEDIES if kind in allowed]
        state.can_end_worker = can_end_worker
        state.is_open, state.is_done = True, False
        decisions = self._hand_over(t, shard, state, worker)
        state.device = state.runs_on = device
        return decisions

    def close_shard(self, t: float, shard: str, *, is_done: bool = True) -> list[Decision]:
        """Say that the driver has left a shard, done with it or not. What was learnt stays, should it come back."""
        state = self.state.shards.get(shard)
        if state is None:
            return []
        decisions = self._rule.settle(t, shard, state, DecisionKind.SUPERSEDED)
        self._drop_batches(lambda batch: batch.shard == shard)
        state.is_open, state.is_done = False, is_done
        forget_closed(self.state)
        return decisions

    def move_shard(self, shard: str, device: str) -> None:
        """Say that an open shard goes on on another device, in the same process: judged there by its next batch."""
        if shard in self.open_shards():
            self.state.shards[shard].runs_on = device

    def start_worker(self, t: float, worker: str, device: str, reason: str = "") -> list[Decision]:
        """Say that a worker has been started in place of an earlier one of that name, or as the first.

        Rule 9: the rung, the baseline and the batches measured for one survive; EMA, streak and episode do not, nor
        what the earlier one held in shared memory.

        Args:
            t: Seconds.
            worker: Its name.
            device: Its device.
            reason: `recycle` or `demote` where it takes another one's place for that: what that costs is measured.
        """
        before = self.state.workers.get(worker)
        self.state.workers[worker] = WorkerState(device, SharedFloor(t), reason=reason)
        self._drop_batches(lambda batch: batch.worker == worker)
        decisions: list[Decision] = []
        for name in before.shards if before else ():
            shard = self.state.shards[name]
            if shard.worker == worker:
                shard.detectors = {}
                decisions += self._rule.settle(t, name, shard, DecisionKind.APPLIED)
        return decisions

    def restart(self) -> None:
        """Begin a new time axis: another supervisor, all workers new, no reading known. Rungs and baselines stay."""
        self.state.workers, self.state.inflight, self.state.memory = {}, {}, {}
        for shard in self.state.shards.values():
            shard.detectors, shard.worker, shard.ladder.pending = {}, "", None
            shard.left_at = shard.waiting = None

    # -- what happens -------------------------------------------------------------------------------------------------

    def read_memory(self, t: float, device: str, reading: AnyReading) -> None:
        """Take a memory reading of a device. What is unknown in it changes nothing."""
        track = self.state.memory.get(device)
        if track is None:
            track = self.state.memory[device] = MemoryTrack()
        track.add(t, reading)
        if reading.shared_bytes is not None:
            for worker in self.state.workers.values():
                if worker.device == device:
                    worker.floor.add(t, int(reading.shared_bytes))

    def wait_for(self, shard: str, work: float | None, *, shards_follow: bool = False) -> None:
        """Say how much of a shard still waits for a vector.

        Args:
            shard: Name.
            work: In the unit of its batches' work, 0 or more; `None` for unknown.
            shards_follow: Other shards wait for the same worker.
        """
        state = self.state.shards.get(shard)
        if state is None:
            state = self.state.shards[shard] = ShardState(is_open=False)
        state.waiting, state.shards_follow = work, shards_follow

    def use_processor(self, t: float, worker: str) -> None:
        """Say that a worker has used the processor up to `t`: on the CPU, that is life (rule 11)."""
        if worker in self.state.workers:
            self.state.workers[worker].busy_at = t

    def start_batch(self, t: float, info: BatchInfo) -> list[Decision]:
        """Say that a batch begins. One whose numbers cannot be judged is watched for a hang alone, or not at all."""
        state = self._shard(info.shard)
        if sample_problem(info.genes, work=info.work) is not None:
            return []
        decisions = [] if state.worker == info.worker else self._hand_over(t, info.shard, state, info.worker)
        self._track(t, info, state)
        return decisions

    def finish_batch(self, t: float, info: BatchInfo, seconds: float) -> tuple[list[Decision], str | None]:
        """Say that a batch ended at `t` after `seconds` of encoding, whether its start was told or not.

        Returns:
            The decisions, and why the sample was ignored: `genes`, `seconds`, `work`, or `None` when it counted.
        """
        state = self._shard(info.shard)
        problem = sample_problem(info.genes, seconds, info.work)
        if problem is None and self._weigh(state, info) is None:
            problem = "work"
        if problem is not None:
            self.abandon_batch(info.id)
            return [], problem
        decisions = [] if state.worker == info.worker else self._hand_over(t, info.shard, state, info.worker)
        batch = self.state.inflight.pop(info.id, None)  # it keeps no action from its boundary any more
        if batch is None:
            batch = self._track(t - seconds, info, state)
            del self.state.inflight[info.id]
        if not self._rule.is_quiet(batch.started + seconds):
            decisions += self._rule.advance_batch(batch, batch.started + seconds, deadlines=False)
        self.state.workers[batch.worker].floor.finish_batch(t, self.settings.warmup)
        decisions += self._rule.observe_finished(t, batch, seconds)
        return decisions, None

    def abandon_batch(self, batch_id: str) -> None:
        """Say that a batch ended without a result: it raised. It is not counted, in no way."""
        batch = self.state.inflight.pop(batch_id, None)
        if batch is not None and batch.warmup and batch.worker in self.state.workers:
            self.state.workers[batch.worker].batches -= 1

    def advance(self, now: float) -> list[Decision]:
        """Observe every slice, deadline and hang that fell due up to `now`, one by one, in order within a batch."""
        return self._rule.advance(now)

    @property
    def quiet_until(self) -> float:
        """In seconds: `advance` has nothing to do before, unless something else happens."""
        return self._rule.quiet_until

    def resolve(self, shard: str, action_id: int, outcome: Outcome) -> None:
        """Say how an action ended. A rung that was vetoed, passed over or failed is used up all the same."""
        state = self.state.shards.get(shard)
        pending = state.ladder.pending if state else None
        if state is not None and pending is not None and pending.id == action_id and outcome is not Outcome.OVERDUE:
            state.ladder.pending = None
            if outcome in (Outcome.VETOED, Outcome.PASSED_OVER, Outcome.FAILED):
                state.ladder.refuse(pending.kind)
            elif outcome is Outcome.APPLIED and pending.kind is ActionKind.EMPTY_CACHE:
                self._rule.costs.release(shard)

    # -- what is known ------------------------------------------------------------------------------------------------

    def baseline(self, shard: str, device: str) -> tuple[Baseline | None, str]:
        """The baseline in force and whose it is: `shard`, `card` (a stand-in), or `none`."""
        return self._rule.baseline(shard, device)

    def is_full(self, batch: Batch, now: float) -> bool | None:
        """Rule 6 for a batch at `now`, whether it still runs or has ended; `None` when unknown."""
        return self._rule.is_full(batch, now)

    def open_shards(self, worker: str | None = None) -> dict[str, str]:
        """Shards between `open_shard` and `close_shard`, those of a worker if one is named, and where each is."""
        return {
            name: shard.runs_on or shard.device
            for name, shard in self.state.shards.items()
            if shard.is_open and worker in (None, shard.worker)
        }

    def inflight(self, *, shard: str | None = None, worker: str | None = None) -> list[Batch]:
        """Batches in flight, of a shard or a worker if one is named. They are the policy's own: to be read only."""
        return [
            batch
            for batch in self.state.inflight.values()
            if shard in (None, batch.shard) and worker in (None, batch.worker)
        ]

    def batch_deadline(self, shard: str) -> float | None:
        """The age in seconds at which the oldest batch in flight of a shard has its worker ended, between two batches
        the least that the next one has; `None` where nobody ends it.
        """
        state = self.state.shards.get(shard)
        if state is None or not state.can_end_worker:
            return None
        oldest = min(self.inflight(shard=shard), key=lambda batch: batch.started, default=None)
        return HANG_SECONDS if oldest is None else self._rule.ends_at(oldest) - oldest.started

    def pending(self, shard: str) -> ActionKind | None:
        """The remedy that waits for the shard's boundary, `None` for none."""
        state = self.state.shards.get(shard)
        return state.ladder.pending.kind if state and state.ladder.pending else None

    def is_demoted(self, shard: str) -> bool:
        """Whether a shard has to be finished on the CPU, or has been."""
        state = self.state.shards.get(shard)
        return state is not None and state.ladder.is_demoted

    def status(self, shard: str, now: float) -> ShardStatus:
        """A snapshot of a shard on its newest device. An unknown shard is one that has seen nothing."""
        state = self.state.shards.get(shard) or ShardState()
        detector = state.detectors.get(state.device)
        baseline, _ = self._rule.baseline(shard, state.device)
        track = self.state.memory.get(state.device)
        return ShardStatus(
            verdict=detector.verdict if detector else Verdict.WARMING_UP,
            ema=detector.genes_ema if detector else None,
            baseline=baseline.genes_rate if baseline else None,
            ratio=detector.ratio(baseline) if detector else None,
            streak=detector.streak if detector else 0,
            rung=state.ladder.rung,
            episode_open=detector.episode_open if detector else False,
            memory_fraction=track.newest(now) if track else None,
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _shard(self, name: str) -> ShardState:
        state = self.state.shards.get(name)
        if state is None:
            state = self.state.shards[name] = ShardState()
        return state

    def _hand_over(self, t: float, name: str, state: ShardState, worker: str) -> list[Decision]:
        """Rule 9, when a shard goes on in another worker than before."""
        previous, state.worker = state.worker, worker
        if previous in ("", worker):
            return []
        state.detectors = {}
        self._drop_batches(lambda batch: batch.shard == name and batch.worker == previous)
        return self._rule.settle(t, name, state, DecisionKind.APPLIED)

    @staticmethod
    def _weigh(state: ShardState, info: BatchInfo) -> float | None:
        """The work of a batch in the shard's unit; `None` when it cannot be told. The first batch settles the unit."""
        if not state.unit:
            state.unit = "genes" if info.work is None else "work"
        return info.genes if state.unit == "genes" else info.work

    def _track(self, t: float, info: BatchInfo, state: ShardState) -> Batch:
        """Put a batch in flight that began at `t`."""
        worker = self.state.workers.get(info.worker)
        if worker is None:
            worker = self.state.workers[info.worker] = WorkerState(info.device, SharedFloor(t))
        if worker.device != info.device:  # it has the last word on that, and is measured anew there
            worker.device, worker.floor = info.device, SharedFloor(t)
        worker.batches += 1
        worker.shards[info.shard] = True
        state.device = info.device
        work = self._weigh(state, info)
        warmup = worker.batches <= self.settings.warmup or work is None
        batch = Batch(info, info.genes if work is None else work, started=t, warmup=warmup)
        self._rule.begin(batch, state, worker)
        return batch

    def _drop_batches(self, which: Callable[[Batch], bool]) -> None:
        self.state.inflight = {key: batch for key, batch in self.state.inflight.items() if not which(batch)}
