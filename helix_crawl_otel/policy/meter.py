"""Measures what crawls and their remedies cost, in every mode, and puts it together when `adaptive` has to choose.

Source: DESIGN.md, section 5, `adaptive`.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from helix_crawl_otel.policy.baseline import Baseline
from helix_crawl_otel.policy.batch import Batch
from helix_crawl_otel.policy.choice import Situation
from helix_crawl_otel.policy.costs import CardCosts, note
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import PolicyState, ShardState, WorkerState

__all__ = ["CostMeter"]

RECYCLE_SECONDS = 60.0
DEMOTE_SECONDS = 60.0
"""Guesses, until the first one was measured: the memory comes back, a process starts, a model is loaded."""

CPU_SHARE = 0.1
"""Of the card's rate, what the CPU does, until a shard was encoded there. A wrong guess costs little: tried, runs that
know the CPU's rate from the start finish no sooner."""

SLOW_AFRESH = 0.5
"""Of the baseline's rate: a worker that was slower before its memory was full is slow for another reason."""

FEWEST_BATCHES = 32
"""Work that waits is as much as was done, where nobody tells; but not less than so many batches."""


class CostMeter:
    """What crawls cost, over a state that the policy owns.

    Args:
        settings: The knobs.
        state: Shared with the policy.
        baseline: The one in force for a shard on a device.

    Threads: as `Policy`.
    """

    def __init__(
        self, settings: Settings, state: PolicyState, baseline: Callable[[str, str], tuple[Baseline | None, str]]
    ) -> None:
        self._factor = settings.factor
        self._state = state
        self._baseline = baseline

    # -- what happens -------------------------------------------------------------------------------------------------

    def begin(self, batch: Batch, shard: ShardState, worker: WorkerState) -> None:
        """A batch begins. The first of a new worker ends the wait for it."""
        if batch.device != "cpu":
            shard.card = batch.device
        if worker.batches == 1 and worker.reason in ("recycle", "demote") and shard.left_at is not None:
            worker.idle_seconds = max(0.0, batch.started - shard.left_at)
            shard.costs.spend(worker.idle_seconds)

    def count(self, batch: Batch, seconds: float) -> None:
        """A batch has run for so long."""
        more = batch.count(seconds)
        self._state.shards[batch.shard].costs.spend(more)
        self._state.workers[batch.worker].costs.seconds += more

    def finish(self, t: float, batch: Batch, seconds: float, baseline: Baseline | None, full: bool | None) -> None:
        """A batch has ended at `t`, under this baseline, and the memory was full meanwhile, or not, or nobody knows."""
        shard, worker = self._state.shards[batch.shard], self._state.workers[batch.worker]
        rate = batch.work / seconds
        is_slow = baseline is not None and baseline.is_slow((batch.weighed or batch.work) / seconds, self._factor)
        more = batch.count(seconds)
        shard.costs.spend(more, batch.work)
        shard.costs.stuck, shard.left_at = 0, t
        if shard.waiting is not None:
            shard.waiting = max(0.0, shard.waiting - batch.work)
        context = worker.costs
        context.seconds += more
        context.work += batch.work
        context.rate = rate
        if not is_slow:
            context.healthy_seconds, context.healthy_work = context.seconds, context.work
        if full is False and not batch.warmup:
            context.clear_rate = max(rate, context.clear_rate or 0.0)
        if worker.idle_seconds is not None:
            warmup = max(0.0, seconds - batch.work / baseline.rate) if baseline is not None and not is_slow else 0.0
            self._note_start(worker, shard, worker.idle_seconds + warmup)
            worker.idle_seconds = None

    def end_worker(self, t: float, batch: Batch) -> None:
        """The worker of a batch in flight is ended at `t`."""
        shard = self._state.shards[batch.shard]
        self.count(batch, t - batch.started)
        shard.costs.stuck += 1
        shard.left_at = t

    def trip(self, batch: Batch, baseline: Baseline, inflight_seconds: float | None) -> None:
        """The signature has filled a window, inside of a batch that has run for so long or at the end of one."""
        if inflight_seconds is not None:
            self.count(batch, inflight_seconds)
        if batch.device != "cpu":
            self._state.workers[batch.worker].costs.note_crawl(self._costs(batch), baseline.rate)

    def recycle(self, batch: Batch) -> None:
        """A fresh worker is asked for."""
        costs, (baseline, _) = self._state.shards[batch.shard].costs, self._baseline(batch.shard, batch.device)
        costs.recycles += 1
        if baseline is not None:
            costs.begin_cycle(self._cpu_rate(batch.shard, baseline.rate))

    def release(self, name: str) -> None:
        """The cache was released for a crawl of a shard, as it was asked."""
        shard = self._state.shards[name]
        worker, (baseline, _) = self._state.workers.get(shard.worker), self._baseline(name, shard.device)
        if worker is None or baseline is None:
            return
        self._state.card_costs(shard.device, shard.unit).tries += 1
        worker.costs.released_work, worker.costs.is_cured = worker.costs.healthy_work, False
        shard.costs.begin_cycle(self._cpu_rate(name, baseline.rate))

    def recover(self, batch: Batch) -> None:
        """The episode has ended in this context: by the release of its cache, where there was one."""
        context = self._state.workers[batch.worker].costs
        if context.released_work is not None and not context.is_cured:
            context.is_cured = True
            self._costs(batch).cures += 1

    # -- what is known ------------------------------------------------------------------------------------------------

    def situation(self, batch: Batch, baseline: Baseline, rate: float, inflight_seconds: float | None) -> Situation:
        """All that a choice goes by.

        Args:
            batch: The one of the trip.
            baseline: The one in force.
            rate: Of the newest observation, in work a second.
            inflight_seconds: Age of the batch, `None` when it has ended.
        """
        shard, context = self._state.shards[batch.shard], self._state.workers[batch.worker].costs
        card, costs = self._costs(batch), shard.costs
        cpu_rate = self._cpu_rate(batch.shard, baseline.rate)
        clear_rate = context.clear_rate or baseline.rate
        return Situation(
            left=self._left(shard, batch),
            batch=batch.work,
            pace=rate if inflight_seconds is None else context.pace(batch.work, inflight_seconds),
            healthy=baseline.rate,
            fresh=clear_rate if clear_rate < SLOW_AFRESH * baseline.rate else baseline.rate,
            cpu=cpu_rate,
            recycle_seconds=_usual(card.recycle_seconds, RECYCLE_SECONDS),
            demote_seconds=_usual(card.demote_seconds, DEMOTE_SECONDS),
            crawl_seconds=_usual(card.crawl_seconds, 0.0),
            span=card.span,
            released_span=card.released_span,
            cure_chance=card.cure_chance,
            lost_seconds=costs.lost(cpu_rate),
            recycles=costs.recycles,
            stuck=costs.stuck,
            shards_follow=shard.shards_follow,
            at_boundary=inflight_seconds is None,
            was_released=shard.ladder.pending is not None
            or (context.released_work is not None and not context.is_cured),
        )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _costs(self, batch: Batch) -> CardCosts:
        return self._state.card_costs(batch.device, self._state.shards[batch.shard].unit)

    def _note_start(self, worker: WorkerState, shard: ShardState, seconds: float) -> None:
        card = self._state.card_costs(shard.card or worker.device, shard.unit)
        note(card.recycle_seconds if worker.reason == "recycle" else card.demote_seconds, seconds)

    def _left(self, shard: ShardState, batch: Batch) -> float:
        """Work left, the batch in flight among it."""
        if shard.waiting is not None and shard.unit == "work":
            return max(shard.waiting, batch.work)
        return max(shard.costs.done, FEWEST_BATCHES * batch.work)

    def _cpu_rate(self, name: str, healthy_rate: float) -> float:
        """What the CPU does: in this shard, else in earlier ones, else a guess."""
        known, _ = self._baseline(name, "cpu")
        return CPU_SHARE * healthy_rate if known is None else known.rate


def _usual(measured: list[float], guess: float) -> float:
    return fmean(measured) if measured else guess
