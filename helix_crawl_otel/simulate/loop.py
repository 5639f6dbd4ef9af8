"""The closed loop: a policy sees what the modelled card does, and what it decides changes what the card does next.

Virtual time only: a run of days takes milliseconds.

Source: DESIGN.md, section 7 for what a supervisor and a worker do, section 5 for the memory gate.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from helix_crawl_otel.formats import GIB
from helix_crawl_otel.modelled_card import BatchLoad, Context, IdealContext, slowdown
from helix_crawl_otel.policy.bad_batches import BadBatches
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.policy.policy import TICK_SECONDS
from helix_crawl_otel.policy.release import ReleaseByNeed, fullest
from helix_crawl_otel.simulate.policies import CARD, CPU, SimulatedAction, SimulatedPolicy
from helix_crawl_otel.simulate.scenario import Scenario

__all__ = ["GIVE_UP_SECONDS", "Attempt", "Mark", "SimulatedRun", "play"]

GIVE_UP_SECONDS = 30 * 86400.0
"""A run that has not finished by then is given up: 30 days. It has no finish time."""

CRAWL_SLOWDOWN = 2.0
"""What the model calls a crawl: the batch takes at least twice as long because of what has spilled, or stands still.
A definition of the truth, apart from every policy's rule."""

CAP_EVERY_SECONDS, CAP_STEP_GIB = 30.0, 0.25
"""How often a worker looks whether its cap still fits what others hold, and by how much that must have changed."""

_FINE_TICKS = 2000
_COARSE_TICKS = 12
"""A batch is watched every 5 s for 2,000 ticks (almost three hours), every minute after that."""


@dataclass(frozen=True)
class Attempt:
    """One try at a batch.

    Args:
        load: The batch.
        device: `cuda:0` or `cpu`.
        began: Start of its encode stage, seconds.
        ended: End of it, or when its worker was ended or the run given up.
        finished: Whether its vectors were committed.
        crawling: Whether the card was slower than half its healthy speed because of its memory, or stood still.
        used_gib: Memory reading of the card while it ran.
        baseline: In force at its end, in genes/s at this batch's length; `None` where the policy has none.
        limit: Crawl limit, the same way.
        work_pending: Of its shard when it began, its own among it.
    """

    load: BatchLoad
    device: str
    began: float
    ended: float
    finished: bool
    crawling: bool
    used_gib: float
    baseline: float | None = None
    limit: float | None = None
    work_pending: float = 0.0

    @property
    def rate(self) -> float:
        """Genes/s; of an unfinished batch, the most it can have been."""
        return self.load.genes / max(self.ended - self.began, 1e-9)


@dataclass(frozen=True)
class Mark:
    """Something that was done, or noticed.

    Args:
        t: Seconds.
        what: `DETECT`, `EMPTY_CACHE`, `RECYCLE`, `DEMOTE_CPU`, `RESTART` (after a hang), `RETURN` (the next shard goes
            back to the card) or `release` (the driver's own).
        shard: The shard it was for.
        forced: The worker was ended inside a batch.
        crawling: Whether there was a crawl at that moment.
    """

    t: float
    what: str
    shard: str
    forced: bool = False
    crawling: bool = False

    @property
    def intervenes(self) -> bool:
        """Whether it answers a verdict; a release by the clock and the way back to the card do not."""
        return self.what in ("EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU", "RESTART")


@dataclass
class SimulatedRun:
    """One policy on one scenario.

    Args:
        policy: Its name.
        finish_seconds: When the last batch was committed, `None` when the run was given up.
        attempts: Every try at a batch, in order.
        marks: What was done, in order.
        memory: Readings of the card by time, (seconds, GiB), where they change.
        workers: Workers as they became ready: (seconds, device, reason).
        crawl_began: Start of the first batch that crawled, `None` when none did.
        peak_gib: The most that a worker held, weights and what had spilled with it.
    """

    policy: str
    finish_seconds: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    workers: list[tuple[float, str, str]] = field(default_factory=list)
    crawl_began: float | None = None
    peak_gib: float = 0.0

    @property
    def detect_seconds(self) -> float | None:
        """From the start of the first crawl to the first DETECT since; `None` when there was none, or no DETECT."""
        if self.crawl_began is None:
            return None
        began = self.crawl_began
        return next((mark.t - began for mark in self.marks if mark.what == "DETECT" and mark.t >= began), None)

    @property
    def interventions(self) -> int:
        """Remedies taken in answer to a verdict."""
        return sum(mark.intervenes for mark in self.marks)

    @property
    def false_interventions(self) -> int:
        """Remedies taken while there was no crawl."""
        return sum(mark.intervenes and not mark.crawling for mark in self.marks)

    @property
    def genes_encoded(self) -> int:
        """Genes committed."""
        return sum(attempt.load.genes for attempt in self.attempts if attempt.finished)


class _GivenUp(Exception):
    """The run has passed `GIVE_UP_SECONDS`."""


class _Loop:
    def __init__(self, scenario: Scenario, policy: SimulatedPolicy) -> None:
        self.scenario, self.card, self.policy = scenario, scenario.card, policy
        self.run = SimulatedRun(policy.name)
        self.loads = scenario.loads()
        self.waiting = Counter[str]()  # work without a vector, by shard
        for load in self.loads:
            self.waiting[load.shard] += load.work
        self.now = 0.0
        self.device = policy.first_device
        self.context: Context | None = None
        self.batches = 0  # of this worker
        self.others_gib = 0.0  # beyond those of the card, as the newest batch met it
        self.crawling = False
        self.need = ReleaseByNeed()  # of this worker
        self.looked_at = 0.0  # when it was last seen what others hold, for the cap

    def play(self) -> SimulatedRun:
        try:
            self._start(self.device, "first")
            for load in self.loads:
                self._encode_in_parts(load)
            self.run.finish_seconds = self.now
        except _GivenUp:
            self.run.finish_seconds = None
        return self.run

    # -- workers ------------------------------------------------------------------------------------------------------

    def _start(self, device: str, reason: str) -> None:
        """Start a worker; its first batch begins when it is ready."""
        self._pass(self.card.cpu_start_seconds if device == CPU else self.card.start_seconds)
        self.device, self.batches, self.crawling, self.looked_at = device, 0, False, self.now
        self.context, self.need = None if device == CPU else self._context(), ReleaseByNeed()
        self._sample()
        self.run.workers.append((self.now, device, reason))
        self.policy.worker_started(self.now, device, reason)

    def _context(self) -> Context:
        if self.policy.foresees:
            return IdealContext(self.card)
        return Context(self.card, self._cap_gib() if self.policy.caps else None, self.others_gib)

    def _cap_gib(self) -> float:
        """The most that a worker may hold, by what others hold now."""
        return self.scenario.vram_cap * max(0.0, self.card.budget_gib - self.others_gib)

    def _move_cap(self) -> None:
        """At a boundary, every so often: by what others hold. What is held beyond it is given back."""
        if self.context is None or self.context.cap_gib is None or self.now - self.looked_at < CAP_EVERY_SECONDS:
            return
        self.looked_at, wanted_gib = self.now, self._cap_gib()
        if abs(wanted_gib - self.context.cap_gib) >= CAP_STEP_GIB and self.context.limit(wanted_gib):
            self._sample()
            self._pass(self.card.release_seconds)

    def _replace(self, device: str, reason: str, *, gate: bool) -> None:
        """End the worker and start another, after the old one's memory has come back where that is waited for."""
        held, self.context = self.context, None
        self._sample()
        if held is not None and gate:
            self._pass(self.card.memory_return_seconds)
        self._start(device, reason)

    def _apply(self, step: SimulatedAction, load: BatchLoad, *, forced: bool = False) -> None:
        self.run.marks.append(Mark(self.now, step.value, load.shard, forced, self.crawling))
        if step in (SimulatedAction.RELEASE, SimulatedAction.EMPTY_CACHE):
            if self.context is not None:
                self.context.release()
                self._sample()
                self._pass(self.card.release_seconds)
                self.need.released(self.now, self.card.release_seconds)
        elif step is SimulatedAction.DEMOTE_CPU:
            self._replace(CPU, "demote", gate=self.policy.supervised)
        elif step is SimulatedAction.RESTART:
            self._replace(self.device, "crash", gate=True)
        else:
            self._replace(CARD, "recycle" if step is SimulatedAction.RECYCLE else "resume", gate=True)

    # -- batches ------------------------------------------------------------------------------------------------------

    def _encode_in_parts(self, load: BatchLoad) -> None:
        """Encode a batch, in one piece unless that ends its worker again and again."""
        bad, waiting = BadBatches(), [load]
        while waiting:
            part = waiting[0]
            first = f"{load.index}.{len(waiting)}"
            ended = self._encode(part)
            if ended is None:
                waiting.pop(0)
            elif ended is SimulatedAction.RESTART:
                outcome = bad.crashed(first, part.genes, "hang", is_on_card=self.device != CPU)
                most = bad.limits().get(first, part.genes)
                waiting[:1] = part.cut(most)
                if outcome.needs_cpu:
                    self._apply(SimulatedAction.DEMOTE_CPU, load)

    def _encode(self, load: BatchLoad) -> SimulatedAction | None:
        """Boundary, read, encode, commit. Returns how the worker was ended inside the batch, if it was."""
        self._move_cap()
        if self._routine_release_is_due() or self._needs_release(load):
            self._apply(SimulatedAction.RELEASE, load)
        while (step := self.policy.boundary(self.now, load, self.device)) is not None:
            self._apply(step, load)
        follow = load.shard != self.loads[-1].shard
        self.policy.work_waits(load.shard, self.waiting[load.shard], shards_follow=follow)
        self._pass(load.read_seconds)
        began, seconds = self.now, self._take_memory(load)
        reading = MemoryReading(None, None) if self.context is None else self.context.reading()
        self._sample()
        if self.crawling and self.run.crawl_began is None:
            self.run.crawl_began = began
        self.policy.batch_started(began, load, self.device, reading)
        self._note_detection(load)
        end: SimulatedAction | None = None
        if self.policy.ticks:
            ticks = 0
            t = TICK_SECONDS * (math.floor(began / TICK_SECONDS) + 1)
            while end is None and t < began + seconds:
                self._reach(t, load, began)
                end = self.policy.tick(t, reading)
                self._note_detection(load)
                ticks += 1
                t += TICK_SECONDS * (1 if ticks < _FINE_TICKS else _COARSE_TICKS)
        if end is not None:
            self._note(load, began, finished=False)
            self._apply(end, load, forced=True)
            return end
        self._reach(began + seconds, load, began)
        if self.context is not None and self.context.lacks_memory:
            self._note(load, began, finished=False)
            end = SimulatedAction.DEMOTE_CPU if self.context.batches == 1 else SimulatedAction.RECYCLE
            self._apply(end, load)
            return end
        self.policy.batch_finished(self.now, load, self.device, seconds, reading)
        self._note_detection(load)
        self._note(load, began, finished=True)
        self.batches += 1
        self.waiting[load.shard] -= load.work
        return None

    def _take_memory(self, load: BatchLoad) -> float:
        """Seconds of the encode stage; whether it crawls goes to `crawling`."""
        self.others_gib = load.others_gib
        if self.context is None:
            self.crawling = False
            return load.cpu_seconds(self.card)
        warmup = self.card.warmup_seconds if self.context.batches == 0 else 0.0
        seconds = self.context.encode(load)
        self.run.peak_gib = max(self.run.peak_gib, self.context.reserved_gib)
        self.crawling = (
            math.isinf(seconds)
            or self.context.lacks_memory
            or slowdown(self.card, self.context.spilled_gib) >= CRAWL_SLOWDOWN
        )
        return seconds + warmup

    def _routine_release_is_due(self) -> bool:
        every = self.scenario.release_every if self.policy.routine_release else 0
        return every > 0 and self.context is not None and self.batches > 0 and self.batches % every == 0

    def _needs_release(self, load: BatchLoad) -> bool:
        if not self.policy.releases_by_need or self.context is None:
            return False
        cached_bytes = round((self.context.held_gib - self.context.live_gib) * GIB)
        streak = partial(self.policy.streak, self.now, load.shard)
        return self.need.is_due(self.now, fullest(self.context.reading()), cached_bytes, streak)

    # -- time and records ---------------------------------------------------------------------------------------------

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        if self.now > GIVE_UP_SECONDS:
            self.now = GIVE_UP_SECONDS
            raise _GivenUp

    def _reach(self, t: float, load: BatchLoad, began: float) -> None:
        """Go on to `t` inside a batch."""
        self.now = min(t, GIVE_UP_SECONDS)
        if t > GIVE_UP_SECONDS:
            self._note(load, began, finished=False)
            raise _GivenUp

    def _note(self, load: BatchLoad, began: float, *, finished: bool) -> None:
        baseline, limit = self.policy.baseline(load, self.device) or (None, None)
        used_gib, waiting = self._used_gib(), self.waiting[load.shard]
        came = self.now, finished, self.crawling, used_gib
        self.run.attempts.append(Attempt(load, self.device, began, *came, baseline, limit, waiting))

    def _note_detection(self, load: BatchLoad) -> None:
        if self.policy.detected():
            self.run.marks.append(Mark(self.now, "DETECT", load.shard, crawling=self.crawling))

    def _used_gib(self) -> float:
        return self.card.others_gib + self.others_gib if self.context is None else self.context.used_gib

    def _sample(self) -> None:
        used_gib = self._used_gib()
        if not self.run.memory or self.run.memory[-1][1] != used_gib:
            self.run.memory.append((self.now, used_gib))


def play(scenario: Scenario, policy: SimulatedPolicy) -> SimulatedRun:
    """Run a scenario under a policy.

    Args:
        scenario: The card and the batches.
        policy: A fresh one; it keeps state.

    Returns:
        The run; one that is not over after `GIVE_UP_SECONDS` has no finish time.
    """
    return _Loop(scenario, policy).play()
