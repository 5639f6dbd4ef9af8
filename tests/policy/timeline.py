"""A job on a virtual clock: a test says what a driver does and how full its card is, and reads what the policy decided.

The usual batch has 64 genes and 4,000 of work and takes 4 s when healthy (16 genes/s). With the default factor of 5 a
shard at its limit needs 20 s for it: one slice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.codec import decode, encode
from helix_crawl_otel.policy.model import (
    REMEDIES,
    ActionKind,
    Decision,
    DecisionKind,
    MemoryReading,
    Outcome,
    ShardStatus,
)
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import PolicyState

WORK = 4000.0
GENES = 64
RATE = 1000.0
GENES_RATE = 16.0
SECONDS = 4.0
SLICE = 20.0
LIMIT = RATE / 5
TICK = 5.0
CARD_BYTES = 12_000_000_000

FULL = 0.99
LOW = 0.5

DETECT, EMPTY_CACHE, RECYCLE, DEMOTE_CPU = ActionKind


def reading(
    fraction: float | None, shared: int | None = None, other: int | None = None, cap: float | None = None
) -> MemoryReading:
    """A reading of the test's card, with bytes of shared memory and the part of a cap; `None` is unknown."""
    used, reserved = (None if part is None else round(part * CARD_BYTES) for part in (fraction, cap))
    return MemoryReading(used, CARD_BYTES, shared, other, reserved, CARD_BYTES)


def copied(state: PolicyState) -> PolicyState:
    """The state after a trip through a JSON file."""
    back: PolicyState = decode(PolicyState, json.loads(json.dumps(encode(state), allow_nan=False)))
    return back


class Job:
    """One driver, one worker at a time, one shard at a time.

    Args:
        settings: The knobs.
        memory: Fraction in use, read at each tick and at the start of each batch; `None` for no probe.
        obeys: Whether the driver takes what is asked at the next boundary, and a supervisor ends workers by force.
        state: To go on from.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        memory: float | None = LOW,
        obeys: bool = True,
        state: PolicyState | None = None,
        device: str = "cuda:0",
        can_take: Iterable[ActionKind] = REMEDIES,
        can_end_worker: bool = False,
        tick_seconds: float = TICK,
        t: float = 0.0,
    ) -> None:
        self.t = t
        self.memory = memory
        self.shared: int | None = None  # bytes of shared memory that the worker holds; None for no such reading
        self.other_shared: int | None = None
        self.cap: float | None = None  # part of the allocator's cap that the worker holds; None for no such reading
        self.obeys = obeys
        self.device = device
        self.can_take = tuple(can_take)
        self.can_end_worker = can_end_worker
        self.tick_seconds = tick_seconds
        self.policy = Policy(settings or Settings(), tick_seconds=tick_seconds, state=state)
        self.shard = "a"
        self.worker = "w"
        self.decisions: list[Decision] = []
        self.running: BatchInfo | None = None
        self.began = t
        self._batches = 0
        self._ticks = 0
        self._first_tick = t
        self._opened = False

    # -- what the driver does -----------------------------------------------------------------------------------------

    def enter(self, shard: str, *, leave: bool = True) -> Job:
        """Go on to another shard."""
        if leave and self.shard in self.policy.state.shards:
            self._note(self.policy.close_shard(self.t, self.shard))
        self.shard, self._opened = shard, False
        self._open()
        return self

    def start_worker(self, worker: str | None = None, device: str | None = None, reason: str = "") -> Job:
        """Replace the worker; the batch in flight is gone."""
        self.worker, self.device = worker or self.worker, device or self.device
        self.running = None
        self._note(self.policy.start_worker(self.t, self.worker, self.device, reason))
        self._opened = False
        return self

    def batches(self, count: int, speed: float = 1.0, *, work: float | None = WORK, genes: float = GENES) -> Job:
        """Encode so many batches at a speed relative to a healthy card."""
        for _ in range(count):
            self.begin(work=work, genes=genes)
            self.wait((work or WORK * genes / GENES) / (RATE * speed))
            self.end()
        return self

    def warmed(self) -> Job:
        """The warm-up and a whole baseline at healthy speed."""
        return self.batches(self.policy.settings.warmup + self.policy.settings.window)

    def begin(self, *, work: float | None = WORK, genes: float = GENES) -> Job:
        """Start a batch."""
        self._open()
        self._batches += 1
        self.running = BatchInfo(f"b{self._batches}", self.shard, self.worker, self.device, genes, work)
        self.began = self.t
        self.read_memory()
        self._note(self.policy.start_batch(self.t, self.running))
        return self

    def wait(self, seconds: float, *, ticks: bool = True) -> Job:
        """Let time pass, with the ticks that fall into it."""
        until = self.t + seconds
        while True:
            tick = self._first_tick + (self._ticks + 1) * self.tick_seconds
            if tick > until:
                break
            self._ticks += 1
            if ticks:
                self.t = tick
                self.read_memory()
                self.tick()
        self.t = until
        return self

    def tick(self) -> Job:
        """Advance the policy to now."""
        self._note(self.policy.advance(self.t))
        if self.obeys and any(decision.forced for decision in self.decisions[-2:]) and self.running is not None:
            self.start_worker()
        return self

    def end(self, seconds: float | None = None) -> str | None:
        """Finish the batch, then pass the boundary. Returns why the sample was ignored."""
        if self.running is None:  # its worker was ended
            return None
        info, self.running = self.running, None
        decisions, problem = self.policy.finish_batch(self.t, info, self.t - self.began if seconds is None else seconds)
        self._note(decisions)
        self.boundary()
        return problem

    def abandon(self) -> Job:
        """The batch raises."""
        assert self.running is not None
        self.policy.abandon_batch(self.running.id)
        self.running = None
        return self

    def stall(self, seconds: float, *, work: float | None = WORK) -> Job:
        """Start a batch, let it run for so long, and look."""
        return self.begin(work=work).wait(seconds).tick()

    def boundary(self) -> Job:
        """Take what is asked, when the driver obeys."""
        pending = self.pending
        if pending is None or not self.obeys:
            return self
        self.policy.resolve(self.shard, pending.action_id, Outcome.APPLIED)
        if pending.kind is RECYCLE:
            self.start_worker()
        elif pending.kind is DEMOTE_CPU:
            self.start_worker(device="cpu")
        return self

    def read_memory(self, fraction: float | None = None) -> Job:
        """Read the card now."""
        now = reading(self.memory if fraction is None else fraction, self.shared, self.other_shared, self.cap)
        self.policy.read_memory(self.t, self.device, now)
        return self

    def reload(self) -> Job:
        """Go on with a new policy made from the written state."""
        settings = self.policy.settings
        self.policy = Policy(settings, tick_seconds=self.tick_seconds, state=copied(self.policy.state))
        return self

    # -- what is known ------------------------------------------------------------------------------------------------

    @property
    def status(self) -> ShardStatus:
        """Of the shard, now."""
        return self.policy.status(self.shard, self.t)

    @property
    def baseline(self) -> float | None:
        """Judged rate of the baseline in force, in work a second."""
        baseline, _ = self.policy.baseline(self.shard, self.device)
        return None if baseline is None else baseline.rate

    @property
    def source(self) -> str:
        """Whose baseline is in force."""
        return self.policy.baseline(self.shard, self.device)[1]

    @property
    def ema(self) -> float | None:
        """Judged EMA of the shard, in work a second."""
        shard = self.policy.state.shards.get(self.shard)
        detector = shard.detectors.get(self.device) if shard else None
        return None if detector is None else detector.ema

    @property
    def pending(self) -> Decision | None:
        """The decision that issued the action that waits."""
        shard = self.policy.state.shards.get(self.shard)
        pending = shard.ladder.pending if shard else None
        if pending is None:
            return None
        return next(d for d in reversed(self.decisions) if d.what is DecisionKind.ISSUE and d.action_id == pending.id)

    @property
    def issued(self) -> list[ActionKind]:
        """Kinds of the actions issued, in order."""
        return [d.kind for d in self.decisions if d.what is DecisionKind.ISSUE and d.kind is not None]

    def of(self, what: DecisionKind) -> list[Decision]:
        """The decisions of a kind."""
        return [decision for decision in self.decisions if decision.what is what]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if not self._opened:
            self._opened = True
            opened = self.policy.open_shard(
                self.t, self.shard, self.worker, self.device, self.can_take, can_end_worker=self.can_end_worker
            )
            self._note(opened)

    def _note(self, decisions: list[Decision]) -> None:
        self.decisions += decisions
