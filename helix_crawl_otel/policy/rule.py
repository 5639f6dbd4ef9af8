"""Applies the rule to one batch: its slices, deadlines and hang while it runs, its rate when it ends, and the trips.

Source: DESIGN.md, section 4 (rules 2 to 8, 11) and section 5.
"""

from __future__ import annotations

import math
from dataclasses import replace

from helix_crawl_otel.formats import whole_seconds
from helix_crawl_otel.policy import explain
from helix_crawl_otel.policy.baseline import ROUNDING, Baseline, BaselineMeter, CardBaselines, Sample
from helix_crawl_otel.policy.batch import HANG_SECONDS, REST_SECONDS, Batch, is_small
from helix_crawl_otel.policy.choice import Choice, choose
from helix_crawl_otel.policy.detector import Finding, Observation
from helix_crawl_otel.policy.ladder import Pending
from helix_crawl_otel.policy.memory import Shared
from helix_crawl_otel.policy.meter import CostMeter
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind, Evidence
from helix_crawl_otel.policy.release import NEAR_FULL
from helix_crawl_otel.policy.settings import ADAPTIVE, Settings
from helix_crawl_otel.policy.state import PolicyState, ShardState, WorkerState

__all__ = ["Rule"]

GIVEN_BACK = 0.005
"""Of the memory: a reading that is so much lower than an earlier one tells of a release."""


class Rule:
    """The rule, over a state that the policy owns.

    Args:
        settings: The knobs.
        tick_seconds: Length of a tick.
        state: Shared with the policy.

    Threads: as `Policy`.
    """

    def __init__(self, settings: Settings, tick_seconds: float, state: PolicyState) -> None:
        self.settings = settings
        self.tick_seconds = tick_seconds
        self.state = state
        self.costs = CostMeter(settings, state, self.baseline)
        self.quiet_until = -math.inf
        """Nothing of the batches in flight falls due before, in seconds. What a batch waits for comes sooner only by a
        new action or a new baseline, and each of them ends the quiet."""

    def begin(self, batch: Batch, shard: ShardState, worker: WorkerState) -> None:
        """Take a batch that begins, or is told of at its end."""
        self.state.inflight[batch.id] = batch
        self.costs.begin(batch, shard, worker)
        self._measure_slices(batch)
        due, _ = self._next_due(batch, deadlines=True)
        if due < self.quiet_until:
            self.quiet_until = due

    def is_quiet(self, now: float) -> bool:
        """Whether nothing of the batches in flight has fallen due up to `now`."""
        return now + ROUNDING * self.tick_seconds < self.quiet_until

    def advance(self, now: float) -> list[Decision]:
        """Take all batches in flight up to `now`."""
        if self.is_quiet(now):
            return []
        batches = list(self.state.inflight.values())
        self.quiet_until = math.inf
        decisions = [decision for batch in batches for decision in self.advance_batch(batch, now, deadlines=True)]
        due = min((self._next_due(batch, deadlines=True)[0] for batch in batches), default=math.inf)
        self.quiet_until = min(self.quiet_until, due)
        return decisions

    def baseline(self, shard: str, device: str, work: float | None = None) -> tuple[Baseline | None, str]:
        """The baseline in force and whose it is: `shard`, `card` (what stands in, rule 3), or `none`.

        Args:
            shard: Name.
            device: Where it is encoded.
            work: Of the batch that is to be judged; `None` for one as usual.
        """
        state = self.state.shards.get(shard)
        if state is None:
            return None, "none"
        meter = state.meters.get(device)
        if meter is not None and meter.baseline is not None:
            return meter.baseline, "shard"
        stand_in = None
        if state.unit:
            stand_in = self.state.cards.stand_in(self._card(device, state), self.settings.window, work)
        return stand_in, "card" if stand_in else "none"

    def advance_batch(self, batch: Batch, now: float, *, deadlines: bool) -> list[Decision]:
        """Take a batch in flight up to `now`.

        Args:
            batch: Still running, or known to have run until `now`.
            now: Seconds.
            deadlines: False for a batch that has ended: what was overdue or hung inside it no longer is.
        """
        if batch.slice_seconds is None:
            self._measure_slices(batch)
        decisions: list[Decision] = []
        until = now + ROUNDING * self.tick_seconds
        while True:
            due, what = self._next_due(batch, deadlines)
            if due == math.inf or due > until:  # of an infinite `now`, never is later too
                return decisions
            t = min(due, now)
            state = self.state.shards[batch.shard]
            if what == "slice":
                baseline, source = self.baseline(batch.shard, batch.device, batch.work)
                rate, genes_rate = batch.take_slice()
                decisions += self._observe(
                    t, batch, rate, genes_rate, baseline, source, self.is_full(batch, t), t - batch.started
                )
            elif what == "deadline":
                assert state.ladder.pending is not None
                waited, age = whole_seconds(t - state.ladder.pending.since), whole_seconds(t - batch.started)
                why = f"no batch boundary for {waited}, a batch running for {age}"
                decisions += self._overdue(t, batch, state, why)
            else:
                batch.hung = True
                decisions.append(self._hang(t, batch, state))

    def observe_finished(self, t: float, batch: Batch, seconds: float) -> list[Decision]:
        """Take a batch that ended at `t` after `seconds`: into the baseline being measured, and as an observation."""
        rate, genes_rate = batch.work / seconds, batch.genes / seconds
        baseline, source = self.baseline(batch.shard, batch.device, batch.work)
        full = self.is_full(batch, t)
        self.costs.finish(t, batch, seconds, baseline, full)
        if batch.warmup:
            return []
        meter = self.state.shards[batch.shard].meter(batch.device)
        is_observed = True
        if baseline is not None and is_small(batch.work, baseline):
            is_observed = self._is_small_observed(batch, seconds, meter, baseline, full=full)
        elif meter.baseline is not None:
            meter.small.clear()
        if meter.baseline is None:
            self._measure(batch, meter, Sample(rate, genes_rate, batch.work, bool(full)))
            baseline, source = self.baseline(batch.shard, batch.device, batch.work)
        if not is_observed or batch.is_covered(seconds):
            return []
        judged = (batch.weighed or batch.work) / seconds
        return self._observe(t, batch, judged, genes_rate, baseline, source, full, None)

    def _is_small_observed(
        self, batch: Batch, seconds: float, meter: BaselineMeter, baseline: Baseline, *, full: bool | None
    ) -> bool:
        """Rule 4, for a small batch that has ended: a window of them in a row makes them the usual ones, which are
        judged. Before, only one that is slow even as a quarter of the usual work."""
        factor, window = self.settings.factor, self.settings.window
        if len(meter.small) >= window:
            return True
        if not (full and baseline.is_slow(batch.work / seconds, factor)):
            meter.add_small(batch.work, seconds, window)
        return baseline.is_slow(batch.weighed / seconds, factor)

    def _card(self, device: str, state: ShardState) -> str:
        return CardBaselines.key(device, self.state.encoder, state.unit)

    def _measure(self, batch: Batch, meter: BaselineMeter, sample: Sample) -> None:
        """Rules 2 and 3: into what the card has shown, and into the shard's own baseline."""
        cards, key = self.state.cards, self._card(batch.device, self.state.shards[batch.shard])
        window, factor = self.settings.window, self.settings.factor
        enters = cards.is_baseline(key, sample, window, factor)
        cards.measure(key, sample, window, factor)
        meter.samples = [one for one in meter.samples if not one.full or cards.is_baseline(key, one, window, factor)]
        completed = meter.add(sample, window) if enters else None
        if completed is not None:
            cards.add(key, completed)
        self.quiet_until = -math.inf  # a batch beside this one may have waited for a baseline

    def _measure_slices(self, batch: Batch) -> None:
        """Fix the slices of a batch by the baseline in force, once there is one."""
        meter = self.state.shards[batch.shard].meter(batch.device)
        baseline = meter.baseline
        if baseline is None:
            baseline, _ = self.baseline(batch.shard, batch.device, batch.work)
        if baseline is not None:
            weighed = meter.weigh(batch.work, baseline, self.settings.window)
            batch.measure(baseline, weighed, self.settings.factor, self.tick_seconds)

    def _next_due(self, batch: Batch, deadlines: bool) -> tuple[float, str]:
        """What comes next inside a batch, and when; a slice before a deadline of the same moment. Never is infinite."""
        due, what = (batch.next_slice(), "slice") if self.settings.inflight else (math.inf, "")
        if not deadlines:
            return due, what
        if self.state.shards[batch.shard].ladder.pending is not None:
            deadline = self._deadline(batch)
            if deadline < due - ROUNDING * self.tick_seconds:  # both are so many slices after the batch began
                due, what = deadline, "deadline"
        if due <= batch.started + HANG_SECONDS or batch.hung:  # a hang has lasted longer
            return due, what
        if (hang_at := batch.hang_at(self._busy_at(batch))) < due:
            due, what = hang_at, "hang"
        return due, what

    def _deadline(self, batch: Batch) -> float:
        """When the action that the batch keeps from its boundary is overdue, in seconds; infinite without one."""
        pending = self.state.shards[batch.shard].ladder.pending
        if pending is None or pending.overdue or batch.started > pending.since:
            return math.inf
        return pending.deadline(batch.slice_seconds)

    def ends_at(self, batch: Batch) -> float:
        """When a batch in flight has its worker ended, in seconds: for an action that waits for it, or as a hang."""
        return min(self._deadline(batch), batch.hang_at(self._busy_at(batch)))

    def _pend(self, state: ShardState, pending: Pending) -> None:
        """An action waits from now on, and has a deadline."""
        state.ladder.pending = pending
        self.quiet_until = -math.inf

    def _observe(
        self,
        t: float,
        batch: Batch,
        rate: float,
        genes_rate: float,
        baseline: Baseline | None,
        source: str,
        full: bool | None,
        inflight_seconds: float | None,
    ) -> list[Decision]:
        state = self.state.shards[batch.shard]
        detector = state.detector(batch.device)
        pending = state.ladder.pending
        # Rule 8, where nobody can end a batch: one rung a boundary, so that each is carried out and judged. So a batch
        # in which a rung has been asked for brings no second one, nor do those beside it while that rung waits.
        beside = self._running(batch.shard) if pending is not None else ()
        waits = batch.is_answered or any(other.is_answered for other in beside)
        in_flight = inflight_seconds is not None
        if full is False and detector.streak > 0:
            full = self._is_near_full(t, batch)
        if in_flight:
            fits = full or detector.episode_open or (full is not None and self._has_been_full(t, batch))
            batch.full_slices = batch.full_slices + 1 if fits else 0
        elif baseline is not None and not baseline.is_slow(rate, self.settings.factor):
            for other in self.state.inflight.values():  # the card is well: what is stuck there is something else
                if other.full_slices and other.shard == batch.shard:
                    other.full_slices = 0
        fills_window = in_flight and batch.full_slices == self.settings.window
        finding = detector.observe(
            Observation(t, rate, genes_rate, fills_window or full, in_flight, fills_window),
            baseline,
            self.settings,
            hold_seconds=self.settings.window * self.tick_seconds,
            may_trip=not (waits or (pending is not None and pending.kind.ends_worker)),
        )
        if waits:  # what is seen before the remedy is no evidence against it: the next window begins behind it
            detector.streak = batch.full_slices = 0
        if finding is None or baseline is None:
            return []
        context = self._context(t, batch, baseline, source, genes_rate, inflight_seconds)
        if finding is Finding.RECOVERED:
            self.costs.recover(batch)
            reason = f"recovered: {self.settings.window} healthy observations in a row"
            evidence = explain.evidence(context, self.settings)
            return [self._decide(t, DecisionKind.RECOVERED, batch, None, reason, evidence)]
        return self._trip(t, batch, state, context, rate)

    def _answer(self, batch: Batch, state: ShardState) -> None:
        """A rung has been asked for. Where nobody can end the shard's batches, all of them have their answer."""
        if not state.can_end_worker:
            for each in (batch, *self._running(batch.shard)):
                each.is_answered = True

    def _trip(
        self, t: float, batch: Batch, state: ShardState, context: explain.TripContext, rate: float
    ) -> list[Decision]:
        """A full window: DETECT when it opens an episode, and the next rung that the driver can take, or what finishes
        the shard sooner."""
        self.state.trips += 1
        self.costs.trip(batch, context.baseline, context.inflight_seconds)
        choice = self._choice(batch, state, context, rate)
        if choice is not None:
            context = replace(context, seconds=choice.seconds)
        decisions: list[Decision] = []
        evidence = explain.evidence(context, self.settings)

        is_up = state.ladder.rung >= ActionKind.DEMOTE_CPU.rung
        nothing_left = choice is None and is_up and self.settings.action != "off"

        def issue(kind: ActionKind) -> int:
            reason = explain.sentence(kind, context, self.settings)
            if nothing_left:
                reason += "; no rung of the ladder is left for this shard"
            decision = self._decide(t, DecisionKind.ISSUE, batch, kind, reason, evidence)
            decisions.append(decision)
            return decision.action_id

        if not context.detector.episode_open:
            issue(ActionKind.DETECT)
        if choice is None:
            climb = state.ladder.climb(self.settings.action, self._can_take(batch.device, state))
        else:
            climb = state.ladder.take(choice)
        for kind in climb.passed_over:
            reason = explain.passed_over_reason(kind, batch.device)
            decisions.append(self._decide(t, DecisionKind.PASSED_OVER, batch, kind, reason, evidence))
        if climb.kind is not None:
            decisions += self.settle(t, batch.shard, state, DecisionKind.SUPERSEDED)
            self._pend(state, Pending(issue(climb.kind), climb.kind, t))
            self._answer(batch, state)
            if climb.kind is ActionKind.RECYCLE:
                self.costs.recycle(batch)
            decisions += self._end_at_once(t, batch.shard, state)
        context.detector.tripped()
        for each in (batch, *self._running(batch.shard)):
            each.full_slices = 0
        return decisions

    def _end_at_once(self, t: float, shard: str, state: ShardState) -> list[Decision]:
        """An action has been asked for: a batch that is expected to keep it from its boundary is not waited for."""
        rate = state.detector(state.device).ema
        for batch in self._running(shard) if state.can_end_worker else ():
            rest = batch.expected_rest(t, rate)
            if rest > REST_SECONDS:
                age = whole_seconds(t - batch.started)
                why = f"a batch running for {age} may take another {whole_seconds(rest)}"
                return self._overdue(t, batch, state, why)
        return []

    def _running(self, shard: str) -> list[Batch]:
        return [batch for batch in self.state.inflight.values() if batch.shard == shard]

    def _choice(self, batch: Batch, state: ShardState, context: explain.TripContext, rate: float) -> Choice | None:
        """What `adaptive` takes; `None` for the next rung of the ladder, and where DEMOTE_CPU was the last word."""
        if self.settings.action != ADAPTIVE or state.ladder.is_demoted:
            return None
        situation = self.costs.situation(batch, context.baseline, rate, context.inflight_seconds)
        return choose(situation, self._can_take(batch.device, state), state.ladder.refused)

    @staticmethod
    def _can_take(device: str, state: ShardState) -> frozenset[ActionKind]:
        kinds = set(state.can_take)
        if device == "cpu":
            kinds.discard(ActionKind.DEMOTE_CPU)
        return frozenset(kinds)

    def settle(self, t: float, shard: str, state: ShardState, what: DecisionKind) -> list[Decision]:
        """Close the action that waits, if any. A change of worker is what RECYCLE and DEMOTE_CPU ask for; it makes an
        EMPTY_CACHE void. One that was overdue with its worker ended has its outcome already."""
        pending, state.ladder.pending = state.ladder.pending, None
        if pending is None or (pending.overdue and state.can_end_worker):
            return []
        if not pending.kind.ends_worker:
            what = DecisionKind.SUPERSEDED
        return [Decision(t, what, shard, state.device, state.worker, pending.kind, pending.id, state.ladder.rung)]

    def _overdue(self, t: float, batch: Batch, state: ShardState, why: str) -> list[Decision]:
        """A stuck batch keeps an action from its boundary. Ending a worker for an EMPTY_CACHE is a RECYCLE."""
        pending = state.ladder.pending
        assert pending is not None
        pending.overdue = True
        evidence = self._evidence_now(t, batch)
        ends_now = state.can_end_worker and pending.kind.ends_worker
        overdue = self._decide(
            t, DecisionKind.OVERDUE, batch, pending.kind, why, evidence, forced=ends_now, action_id=pending.id
        )
        decisions = [overdue]
        if ends_now:
            self.costs.end_worker(t, batch)
        is_left = self.settings.action == ADAPTIVE or state.ladder.rung < ActionKind.RECYCLE.rung
        if state.can_end_worker and not pending.kind.ends_worker and is_left:
            state.ladder.rung = max(state.ladder.rung, ActionKind.RECYCLE.rung)
            reason = f"recycle the worker: {why}"
            forced = self._decide(t, DecisionKind.ISSUE, batch, ActionKind.RECYCLE, reason, evidence, forced=True)
            self._pend(state, Pending(forced.action_id, ActionKind.RECYCLE, t))
            self.costs.recycle(batch)
            self.costs.end_worker(t, batch)
            decisions.append(forced)
        return decisions

    def _evidence_now(self, t: float, batch: Batch) -> Evidence:
        baseline, source = self.baseline(batch.shard, batch.device, batch.work)
        if baseline is None:
            return {"inflight_seconds": t - batch.started}
        age = t - batch.started
        rate = batch.genes / age if age > 0 else None
        context = self._context(t, batch, baseline, source, rate, age)
        return explain.evidence(context, self.settings)

    def _busy_at(self, batch: Batch) -> float | None:
        worker = self.state.workers.get(batch.worker)
        return worker.busy_at if worker is not None else None

    def _hang(self, t: float, batch: Batch, state: ShardState) -> Decision:
        reason = f"a batch has been running for {whole_seconds(t - batch.started)}: a hang, not a crawl"
        busy_at = self._busy_at(batch)
        if batch.device == "cpu" and busy_at is not None and busy_at > batch.started:
            reason += f"; its worker last used the processor {whole_seconds(t - busy_at)} ago"
        evidence = self._evidence_now(t, batch)
        return self._decide(t, DecisionKind.HANG, batch, None, reason, evidence, forced=state.can_end_worker)

    def is_full(self, batch: Batch, t: float) -> bool | None:
        """Rule 6: whether the memory, or the allocator's cap, has been full since a batch began, or its worker has
        spilled; `None` if unknown.

        Args:
            batch: Running, or ended at `t`.
            t: Seconds.
        """
        track = self.state.memory.get(batch.device)
        if track is None:
            return None
        if self.settings.shared and track.shared.peaks and self._shared(t, batch).is_spill:
            return True
        full = self.settings.vram_full
        used = track.highest(batch.started, t)
        if used is not None and used >= full:
            return True
        of_cap = track.cap.highest(batch.started, t) if track.cap.peaks else None
        if of_cap is not None:
            return of_cap >= full
        return None if used is None else False

    def _is_near_full(self, t: float, batch: Batch) -> bool:
        """Whether the memory, or the allocator's cap, has been near full since a batch began.

        A streak that a full memory has begun goes on like that: a release by need lowers the reading by what was
        cached, and a context that has spilled stays slow all the same.
        """
        near = min(NEAR_FULL, self.settings.vram_full)
        return any(part is not None and part >= near for part in self._fractions(t, batch))

    def _has_been_full(self, t: float, batch: Batch) -> bool:
        """Whether it was since the worker was started, or near it, and some of it was given back before the batch.

        An allocator at its cap gives its cache back, and a release by need does the same before it is full: no reason
        to take a batch that does not end for anything else. A card that has always had room is another thing.
        """
        worker = self.state.workers.get(batch.worker)
        track = self.state.memory.get(batch.device)
        if worker is None or track is None:
            return False
        since = worker.floor.since
        before = (track.highest(since, t), track.cap.highest(since, t))
        near = min(NEAR_FULL, self.settings.vram_full)
        return any(
            highest is not None and now is not None and highest >= near and highest - now >= GIVEN_BACK
            for highest, now in zip(before, self._fractions(t, batch), strict=True)
        )

    def _fractions(self, t: float, batch: Batch) -> tuple[float | None, float | None]:
        """The highest since a batch began: of the device's memory, and of the allocator's cap."""
        track = self.state.memory.get(batch.device)
        if track is None:
            return None, None
        return track.highest(batch.started, t), track.cap.highest(batch.started, t)

    def _shared(self, t: float, batch: Batch) -> Shared:
        track, worker = self.state.memory.get(batch.device), self.state.workers.get(batch.worker)
        if track is None:
            return Shared()
        used, other = track.shared.highest(batch.started, t), track.other_shared.newest(t)
        floor = worker.floor.value if worker is not None and worker.device == batch.device else None
        rise = None if used is None or floor is None else int(used) - floor
        return Shared(None if used is None else int(used), rise, None if other is None else int(other))

    def _context(
        self,
        t: float,
        batch: Batch,
        baseline: Baseline,
        source: str,
        genes_rate: float | None,
        inflight_seconds: float | None,
    ) -> explain.TripContext:
        return explain.TripContext(
            self.state.shards[batch.shard].detector(batch.device),
            baseline,
            source,
            genes_rate,
            *self._fractions(t, batch),
            inflight_seconds,
            self._shared(t, batch),
        )

    def _decide(
        self,
        t: float,
        what: DecisionKind,
        batch: Batch,
        kind: ActionKind | None,
        reason: str,
        evidence: Evidence,
        *,
        forced: bool = False,
        action_id: int = 0,
    ) -> Decision:
        """A decision about a batch's shard; an action that has no id yet gets the next one."""
        if kind is not None and not action_id:
            action_id = self.state.next_action
            self.state.next_action += 1
        rung = self.state.shards[batch.shard].ladder.rung
        return Decision(
            t, what, batch.shard, batch.device, batch.worker, kind, action_id, rung, forced, reason, evidence
        )
