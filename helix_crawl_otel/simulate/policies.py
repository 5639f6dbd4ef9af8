"""The policies that `simulate` compares, each with its definition.

A policy is told what a driver and a supervisor would see, and says what they do; the closed loop does it. `ladder` and
`finished-batches` hold the real core; nothing is decided here that the product does not decide.

Source: DESIGN.md, sections 4 and 5; issue "simulate": none, release only, finished batches, ours, best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial

from helix_crawl_otel.modelled_card import BatchLoad
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import REMEDIES, ActionKind, Decision, DecisionKind, MemoryReading, Outcome
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import ADAPTIVE, Settings

__all__ = [
    "CARD",
    "CPU",
    "DEFINITIONS",
    "MAKERS",
    "CorePolicy",
    "PlannedPolicy",
    "SimulatedAction",
    "SimulatedPolicy",
    "finished_batches",
    "ladder",
]

CARD, CPU = "cuda:0", "cpu"
_WORKER = "worker"

DEFINITIONS = {
    "none": "no policy and no release: the driver encodes to the end in one context, however slow it gets",
    "release": "the driver's own release of the cache every so many batches (256 unless the scenario says), no more",
    "finished-batches": "release, and the rule on finished batches only, with two rungs: release, then the CPU for the "
    "rest of the shard; acts between batches, and nobody can end the worker",
    "ladder": "release, and this package: the rule on finished batches and batches in flight, all rungs, under a "
    "supervisor that ends a worker stuck in a batch; with the knobs given",
    "ladder+cap": "the ladder with a cap on the worker's allocator (95 % of the memory that is free or its own): a "
    "request beyond it is refused, so that the cache is given back, then the batch halved, then the worker recycled",
    "adaptive": "as ladder, but at a trip what finishes the shard sooner, by the rates and costs measured so far "
    "(`--action adaptive`), and the cache is released by need, as `build` does it unless told a number of batches",
    "adaptive+cap": "the same with the cap of ladder+cap",
    "best": "a bound, knowing all that will come: the cheapest plan of recycles and of moves to the CPU and back, each "
    "at its full cost; emptying the cache and cutting a batch that does not fit cost nothing",
}
"""What each policy is, in the order of the table."""


class SimulatedAction(str, Enum):
    """What is done at a boundary, or to a worker."""

    RELEASE = "release"
    EMPTY_CACHE = "EMPTY_CACHE"
    RECYCLE = "RECYCLE"
    DEMOTE_CPU = "DEMOTE_CPU"
    RESTART = "RESTART"
    RETURN = "RETURN"


class SimulatedPolicy:
    """Does nothing: `none`, and with the routine release of the loop, `release`.

    Args:
        name: Shown in the table.
        routine_release: Whether the driver releases every `Scenario.release_every` batches.
    """

    ticks = False
    """Whether it is asked every 5 s inside a batch."""
    supervised = False
    """Whether a move to the CPU is a new process, which waits for the memory of the old one."""
    caps = False
    """Whether its workers have a cap on their allocator."""
    releases_by_need = False
    """Whether the driver releases its cache where that leaves the next batch no room."""
    foresees = False
    """Whether its card is the ideal one, for the bound."""
    first_device = CARD

    def __init__(self, name: str, *, routine_release: bool) -> None:
        self.name = name
        self.routine_release = routine_release

    def boundary(self, t: float, load: BatchLoad, device: str) -> SimulatedAction | None:
        """What to do before this batch. Asked again after each step until there is none."""
        return None

    def worker_started(self, t: float, device: str, reason: str) -> None:
        """A worker is ready, for one of the reasons of `helix_dense_worker_starts`."""

    def work_waits(self, shard: str, work: float, *, shards_follow: bool) -> None:
        """So many padded tokens of the shard lack a vector, and other shards come after it or do not."""

    def batch_started(self, t: float, load: BatchLoad, device: str, reading: MemoryReading) -> None:
        """A batch begins its encode stage."""

    def tick(self, t: float, reading: MemoryReading) -> SimulatedAction | None:
        """Asked inside a batch: how to end its worker, or `None`."""
        return None

    def batch_finished(self, t: float, load: BatchLoad, device: str, seconds: float, reading: MemoryReading) -> None:
        """A batch has ended."""

    def streak(self, t: float, shard: str) -> int:
        """Slow observations in a row: no time for a release by need."""
        return 0

    def detected(self) -> bool:
        """Whether a crawl was detected since this was last asked."""
        return False

    def baseline(self, load: BatchLoad, device: str) -> tuple[float, float] | None:
        """Baseline and limit in genes/s for a batch of this length, `None` when there is none."""
        return None


@dataclass
class PlannedPolicy(SimulatedPolicy):
    """Follows a plan made with foresight: `best`.

    Args:
        steps: By index of the batch, what is done before it.
        first_device: Where the first worker starts.
        name: Shown in the table.
    """

    steps: dict[int, SimulatedAction]
    first_device: str = CARD
    name: str = "best"
    routine_release: bool = False
    foresees = True
    taken: set[int] = field(default_factory=set)

    def boundary(self, t: float, load: BatchLoad, device: str) -> SimulatedAction | None:
        """The planned step, once."""
        if load.index in self.taken:
            return None
        self.taken.add(load.index)
        return self.steps.get(load.index)


class CorePolicy(SimulatedPolicy):
    """Feeds the real core and does what it decides.

    Args:
        name: Shown in the table.
        settings: The knobs.
        can_take: Rungs that the driver can take.
        can_end_worker: A supervisor ends the worker of an overdue action or a hang.
        caps: Its workers have a cap on their allocator.
        releases_by_need: They release their cache by need, not every so many batches.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        can_take: tuple[ActionKind, ...],
        can_end_worker: bool,
        caps: bool = False,
        releases_by_need: bool = False,
    ) -> None:
        super().__init__(name, routine_release=not releases_by_need)
        self.releases_by_need = releases_by_need
        self.core = Policy(settings)
        self.can_take = can_take
        self.ticks = self.supervised = can_end_worker
        self.caps = caps
        self._shard: str | None = None
        self._pending: Decision | None = None
        self._end: SimulatedAction | None = None
        self._detected = False
        self._info: BatchInfo | None = None
        self._batches = 0

    def boundary(self, t: float, load: BatchLoad, device: str) -> SimulatedAction | None:
        """The action that waits; the next shard goes back to the card first."""
        if self._shard != load.shard:
            if self._shard is not None:
                self._take(self.core.close_shard(t, self._shard))
                self._shard = self._pending = None
            if device == CPU:
                return SimulatedAction.RETURN
            self._shard = load.shard
            self._open(t, device)
        pending, self._pending = self._pending, None
        if pending is None or pending.kind is None:
            return None
        if pending.kind is ActionKind.EMPTY_CACHE:
            self.core.resolve(load.shard, pending.action_id, Outcome.APPLIED)
        return SimulatedAction(pending.kind.value)

    def worker_started(self, t: float, device: str, reason: str) -> None:
        """The core is told; the worker goes on with the shard."""
        self._pending = None
        self._take(self.core.start_worker(t, _WORKER, device, reason))
        if self._shard is not None:
            self._open(t, device)

    def work_waits(self, shard: str, work: float, *, shards_follow: bool) -> None:
        """As the driver says it, when it has opened the shard and at each boundary."""
        self.core.wait_for(shard, work, shards_follow=shards_follow)

    def batch_started(self, t: float, load: BatchLoad, device: str, reading: MemoryReading) -> None:
        """As the driver says it."""
        self._batches += 1
        self._info = BatchInfo(f"{self._batches}", load.shard, _WORKER, device, load.genes, load.work)
        self.core.read_memory(t, device, reading)
        self._take(self.core.start_batch(t, self._info))

    def tick(self, t: float, reading: MemoryReading) -> SimulatedAction | None:
        """As the supervisor's ticker does it."""
        assert self._info is not None
        self.core.read_memory(t, self._info.device, reading)
        self._end = None
        self._take(self.core.advance(t))
        return self._end

    def batch_finished(self, t: float, load: BatchLoad, device: str, seconds: float, reading: MemoryReading) -> None:
        """As the driver says it, before its boundary."""
        assert self._info is not None
        self.core.read_memory(t, device, reading)
        decisions, problem = self.core.finish_batch(t, self._info, seconds)
        assert problem is None, problem
        self._take(decisions)

    def streak(self, t: float, shard: str) -> int:
        """As the core has counted."""
        return self.core.status(shard, t).streak

    def detected(self) -> bool:
        """Whether a DETECT was issued since this was last asked."""
        detected, self._detected = self._detected, False
        return detected

    def baseline(self, load: BatchLoad, device: str) -> tuple[float, float] | None:
        """The judged baseline is a rate of work; at the length of this batch it is so many genes/s."""
        baseline, _ = self.core.baseline(load.shard, device)
        if baseline is None:
            return None
        return baseline.rate / load.tokens, baseline.rate / load.tokens / self.core.settings.factor

    def _open(self, t: float, device: str) -> None:
        assert self._shard is not None
        self._take(self.core.open_shard(t, self._shard, _WORKER, device, self.can_take, can_end_worker=self.supervised))

    def _take(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if decision.forced:
                self._end = SimulatedAction.RESTART if decision.kind is None else SimulatedAction(decision.kind.value)
            elif decision.what is DecisionKind.ISSUE and decision.kind is ActionKind.DETECT:
                self._detected = True
            elif decision.what is DecisionKind.ISSUE:
                self._pending = decision
            elif (
                decision.what is DecisionKind.SUPERSEDED
                and self._pending is not None
                and self._pending.action_id == decision.action_id
            ):
                self._pending = None


def ladder(settings: Settings, *, caps: bool = False, name: str = "ladder") -> CorePolicy:
    """`ladder`, and with a cap `ladder+cap`: see `DEFINITIONS`."""
    return CorePolicy(
        f"{name}+cap" if caps else name,
        settings,
        can_take=REMEDIES,
        can_end_worker=True,
        caps=caps,
        releases_by_need=name != "ladder",
    )


def adaptive(settings: Settings, *, caps: bool = False) -> CorePolicy:
    """`adaptive`, and with a cap `adaptive+cap`: see `DEFINITIONS`."""
    return ladder(replace(settings, action=ADAPTIVE), caps=caps, name="adaptive")


def finished_batches(settings: Settings) -> CorePolicy:
    """`finished-batches`: see `DEFINITIONS`. It judges by work, as ours does, so that only two things differ."""
    kinds = (ActionKind.EMPTY_CACHE, ActionKind.DEMOTE_CPU)
    return CorePolicy("finished-batches", replace(settings, inflight=False), can_take=kinds, can_end_worker=False)


MAKERS: dict[str, Callable[[Settings], SimulatedPolicy]] = {
    "none": lambda settings: SimulatedPolicy("none", routine_release=False),
    "release": lambda settings: SimulatedPolicy("release", routine_release=True),
    "finished-batches": finished_batches,
    "ladder": ladder,
    "ladder+cap": partial(ladder, caps=True),
    "adaptive": adaptive,
    "adaptive+cap": partial(adaptive, caps=True),
}
"""What makes a policy of the knobs, for each but `best`."""
