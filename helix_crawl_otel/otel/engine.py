"""The whole way from what a driver does to what it is asked to do, for one process or one supervisor.

driver -> instruments -> CrawlPolicyReader -> policy.Policy -> decisions -> hook, queue, counters, log, timeline.

Source: DESIGN.md, section 6.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from helix_crawl_otel.formats import duration, genes
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel.dispatch import Dispatcher
from helix_crawl_otel.otel.gauges import ExportedMetrics, GaugeState
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.otel.policy_reader import LockedPolicy, Measurements, is_known
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import ActionKind, CardReading, Decision, MemoryReading, ShardStatus, sample_problem
from helix_crawl_otel.policy.policy import TICK_SECONDS, Policy
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import PolicyState, durable_shard, take_durable
from helix_crawl_otel.timeline import TimelineWriter

__all__ = ["Pipeline"]

CORPUS_GENES, CORPUS_SECONDS = 10_000, 600.0
"""A batch of so many genes, or the first of a shard once it has run for so long, holds what should be many batches. A
usual one has 64 genes and takes some seconds."""

LARGE_GENES, TIMES_USUAL = 1000, 20
"""So does one of so many genes that costs so many times what the shard's batches do."""


class Pipeline:
    """Instruments, policy and actions.

    Args:
        settings: The knobs.
        hub: For the exported instruments.
        clock: Seconds, not counting sleep.
        tick_seconds: Length of a tick; the owner calls `tick` about so often.
        state: Of an earlier process, `None` to begin.
        keep_state: Called with the state when what is kept of it has changed. What it returns is called to write it
            down, when the policy is free again; may raise `OSError`.
        timeline: Where everything is recorded, `None` for nowhere.
        can_end_worker: Whether the owner ends workers when `on_forced` says so.
        on_forced: Called with each decision that needs the worker ended.

    Attributes:
        ask: Puts a question to the policy, such as `Policy.open_shards`; see `LockedPolicy.ask`.

    Threads: any. The owner guards the calls: what goes wrong in here must not reach the job.
    """

    def __init__(
        self,
        settings: Settings,
        hub: Instruments,
        clock: Callable[[], float],
        *,
        tick_seconds: float = TICK_SECONDS,
        state: PolicyState | None = None,
        keep_state: Callable[[PolicyState], Callable[[], None]] | None = None,
        timeline: TimelineWriter | None = None,
        can_end_worker: bool = False,
        on_forced: Callable[[Decision], None] | None = None,
    ) -> None:
        self._hub = hub
        self._clock = clock
        self._can_end_worker = can_end_worker
        self._timeline = timeline
        self._keep_state = keep_state
        self._saving = threading.Lock()
        self._unsaved = False  # the last save failed; the next tick tries again
        self._has_told_of_corpus = False
        self._waiting: dict[str, dict[str, Any]] = {}  # of shards, as the timeline has it; by the reader of each
        self._feed = LockedPolicy(Policy(settings, tick_seconds=tick_seconds, state=state))
        self.ask = self._feed.ask
        self._gauge_state = GaugeState(self._feed)
        self._measurements = Measurements(self._feed.apply, lambda error: self.error("policy", error))
        self._exported = ExportedMetrics(
            hub,
            lambda: self._gauge_state.snapshot(self._clock()),
            settings=settings,
            batch_age=self._batch_age,
            batch_deadline=lambda shard: self._feed.ask(Policy.batch_deadline, shard),
            queue_length=lambda: len(self.actions),
        )
        self._dispatcher = Dispatcher(
            self._feed,
            self._exported,
            clock,
            can_end_worker=can_end_worker,
            on_forced=on_forced,
            on_error=self._exported.error,
        )
        self.sinks = self._dispatcher.sinks
        if timeline is not None:
            self.sinks.append(timeline)
        self.actions = self._dispatcher.queue
        self.hooks = self._dispatcher.hooks
        self._exported.open()  # last: a scrape may come at once

    # -- workers and shards -------------------------------------------------------------------------------------------

    def start_worker(self, worker: str, device: str, reason: str, pid: int) -> None:
        """A worker runs, for one of `gauges.START_REASONS`."""
        t = self._clock()
        self._feed.tell(Policy.start_worker, t, worker, device, reason)
        self._gauge_state.start_worker(worker, device)
        self._exported.begin_worker(device, reason)
        if self._timeline is not None:
            self._timeline.worker(t, device=device, pid=pid, reason=reason, worker=worker)
        self._settle()

    def place_worker(self, worker: str, device: str) -> None:
        """A worker that runs has said where it encodes."""
        self._gauge_state.start_worker(worker, device)
        self._exported.begin_device(device)
        self._settle()

    def stop_worker(self, worker: str) -> None:
        """A worker runs no longer."""
        self._gauge_state.stop_worker(worker)
        self._settle()

    def open_shard(self, shard: str, worker: str, device: str, can_take: Iterable[ActionKind]) -> None:
        """A worker begins a shard; `can_take` is what its driver can do."""
        t = self._clock()
        kinds = tuple(can_take)
        can_end = self._can_end_worker and ActionKind.RECYCLE in kinds  # a job that does not resume is never ended
        self._feed.tell(Policy.open_shard, t, shard, worker, device, kinds, can_end_worker=can_end)
        self._gauge_state.open_shard(shard)
        self._exported.begin_shard(shard, device)
        self._settle()

    def give_shard(self, shard: str) -> dict[str, Any] | None:
        """What another supervisor has to know of a shard to go on with it, as JSON; `None` where there is nothing."""
        return self._feed.ask(lambda policy: durable_shard(policy.state, shard))

    def take_shard(self, shard: str, content: Any) -> None:
        """Go on with a shard from what another supervisor's `give_shard` has told.

        Raises:
            ValueError: The content is damaged.
        """
        self._feed.ask(lambda policy: take_durable(policy.state, shard, content))

    def move_shard(self, shard: str, device: str) -> None:
        """An open shard goes on on another device, in the same process."""
        self._feed.tell(Policy.move_shard, shard, device)
        self._exported.begin_shard(shard, device)
        self._settle()

    def expect_shards(
        self,
        shards: Collection[str],
        genes: Mapping[str, int] = MappingProxyType({}),
        devices: Collection[str] = (),
    ) -> None:
        """These shards are pending: each is counted so until it is opened, or closed without having been.

        Args:
            shards: By name.
            genes: How many lack a vector in them, counted or estimated, where that is known.
            devices: Where they are to be encoded, as far as that is known.
        """
        self._gauge_state.expect_shards(shards, genes)
        self._exported.expect_shards(shards, devices)
        self._settle()

    def set_pending(self, shard: str, genes: int) -> None:
        """So many genes of a shard still lack a vector."""
        self._gauge_state.set_pending(shard, genes)
        self._exported.has_changed = True

    def wait_for(self, shard: str, work: float) -> None:
        """So much work of a shard still waits for a vector."""
        follow = self._gauge_state.has_pending_shards()
        self._waiting[shard] = {"work_pending": work if work > 0 else None, "shards_follow": follow}
        self._feed.tell(Policy.wait_for, shard, work, shards_follow=follow)

    def set_pending_in_all(self, genes: int) -> None:
        """So many genes of a job whose shards nobody has counted."""
        self._gauge_state.set_pending_in_all(genes)
        self._exported.has_changed = True

    def set_quarantined(self, shard: str, genes: int) -> None:
        """So many genes of a shard are left out because they cannot be encoded, those of earlier runs among them."""
        self._gauge_state.set_quarantined(shard, genes)
        self._exported.has_changed = True

    def set_shards(self, **counts: int) -> None:
        """How many shards are in states that no open shard tells: `pending`, or `done` by earlier runs."""
        for state, count in counts.items():
            self._gauge_state.set_shard_state(state, count)
        self._exported.has_changed = True

    def close_shard(self, shard: str, state: str) -> None:
        """A worker leaves a shard that is now `done`, `paused`, `failed` or `pending`."""
        t = self._clock()
        was_open = shard in self._feed.ask(Policy.open_shards)
        self._feed.tell(Policy.close_shard, t, shard, is_done=state == "done")
        self._gauge_state.close_shard(shard, state, was_open=was_open)
        self._waiting.pop(shard, None)
        self.actions.drain(shard)  # nobody is left to take them
        self._settle()
        self.save_state()

    def close(self) -> None:
        """Keep the state. Nothing happens any more, and nobody reads memory; how it ended is shown until `hide`."""
        self.save_state()
        self._gauge_state.forget_readings()
        self._exported.has_changed = True
        self._measurements.close()

    def hide(self) -> None:
        """Show the gauges no longer. Counters stay with the provider."""
        self._exported.close()

    # -- batches ------------------------------------------------------------------------------------------------------

    def start_batch(self, info: BatchInfo) -> RunningBatch:
        """A batch begins now. Its numbers are looked at when it ends."""
        started = self._clock()
        self._hub.time_stage(info.device, "read", info.read_seconds)
        if sample_problem(info.genes, work=info.work) is None:
            self._look_for_corpus(info, 0.0)
        self._feed.tell(Policy.start_batch, started, info)
        return info, started

    def finish_batch(self, running: RunningBatch, seconds: float) -> None:
        """A batch has been encoded in `seconds`: measure, judge, and carry out what is decided."""
        info, started = running
        problem = sample_problem(info.genes, seconds, info.work)
        if problem is not None:
            self.abandon_batch(running)
            self._exported.not_judged(problem, info, seconds)
        else:
            self._finish(info, started, seconds)

    def _finish(self, info: BatchInfo, started: float, seconds: float) -> None:
        """The numbers of the batch are good."""
        self._exported.count_shard("helix_dense_genes", info.genes, info.shard, device=info.device)
        self._hub.time_stage(info.device, "encode", seconds)
        if self._timeline is not None:
            self._timeline.batch(started + seconds, seconds=seconds, **self._recorded(info))
        self._measurements.finish((info, started), seconds)
        self._settle()

    def abandon_batch(self, running: RunningBatch) -> None:
        """A batch has raised: it is the driver's affair, and not counted."""
        self._feed.tell(Policy.abandon_batch, running[0].id)
        self._settle()

    def lose_batches(self, worker: str) -> float:
        """A worker is gone, or about to be ended: its batches are judged up to now; they are no samples, but recorded.

        Returns:
            For how many seconds the oldest of them had been running, 0 when there was none.
        """
        if not self._feed.ask(Policy.inflight, worker=worker):
            return 0.0
        self._measurements.collect(self._clock())
        lost = [(batch.info, batch.started) for batch in self._feed.ask(Policy.inflight, worker=worker)]
        now, longest = self._clock(), 0.0
        for info, started in lost:
            longest = max(longest, now - started)
            if self._timeline is not None and now > started:
                self._timeline.unfinished(now, seconds=now - started, **self._recorded(info))
            self.abandon_batch((info, started))
        return longest

    def running(self, batch_id: str) -> RunningBatch | None:
        """The batch in flight of this id."""

        def found(policy: Policy) -> RunningBatch | None:
            batch = policy.state.inflight.get(batch_id)
            return None if batch is None else (batch.info, batch.started)

        return self._feed.ask(found)

    def has_batch(self, worker: str, shard: str | None = None, t: float = math.inf) -> bool:
        """Whether a worker has a batch in flight: of a shard, or of any; and begun by `t`."""
        return self._feed.ask(
            lambda policy: any(
                batch.started <= t and shard in (None, batch.shard) for batch in policy.inflight(worker=worker)
            )
        )

    def record_batch(self, info: BatchInfo, seconds: float) -> None:
        """A batch that the driver has timed itself has ended now."""
        problem = sample_problem(info.genes, seconds, info.work)
        if problem is not None:
            self._exported.not_judged(problem, info, seconds)
            return
        self._look_for_corpus(info, seconds)
        self._finish(info, self._clock() - seconds, seconds)

    def boundary(
        self,
        shard: str,
        device: str,
        commit_seconds: float | None,
        genes: int | None,
        pending: int | None,
        work_pending: float | None,
    ) -> None:
        """All earlier batches of a shard are committed; see `link.messages.Boundary`."""
        self._hub.time_stage(device, "commit", commit_seconds)
        if pending is not None:
            self.set_pending(shard, pending)
        if work_pending is not None:
            self.wait_for(shard, work_pending)

    # -- the world ----------------------------------------------------------------------------------------------------

    def read_memory(self, device: str, reading: MemoryReading, sources: Mapping[str, bool]) -> None:
        """A reading of a device's memory has been made; an unknown one too."""
        t = self._clock()
        self._gauge_state.set_memory(device, reading, sources)
        if self._timeline is not None and is_known(reading):
            self._timeline.memory(t, device, **asdict(reading))
        self._measurements.read_memory(t, device, reading)
        self._settle()

    def read_card(self, device: str, card: CardReading) -> None:
        """A card has said of itself what is beside its memory: for the gauges alone."""
        self._gauge_state.set_card(device, card)
        self._exported.has_changed = True

    def use_processor(self, worker: str) -> None:
        """A worker has used the processor until now."""
        t = self._clock()
        self._feed.tell(Policy.use_processor, t, worker)

    def tick(self) -> None:
        """Look at the clock: batches in flight are judged, deadlines pass, the gauges are made new."""
        now = self._clock()
        self._measurements.collect(now)
        self._settle()
        if self._unsaved:
            self.save_state()
        if not self._has_told_of_corpus:
            running = self._feed.ask(lambda policy: [(batch.info, batch.started) for batch in policy.inflight()])
            for info, started in running:
                self._look_for_corpus(info, now - started)

    def status(self, shard: str) -> ShardStatus:
        """A snapshot of a shard."""
        now = self._clock()
        return self._feed.ask(Policy.status, shard, now)

    def ignore(self, problem: str, info: BatchInfo, seconds: object) -> None:
        """Count a batch that cannot be judged: one of its numbers, `problem`, is none that is accepted."""
        self._exported.not_judged(problem, info, seconds)

    def save_state(self) -> None:
        """Write the durable state, if anybody keeps it."""
        keep = self._keep_state
        if keep is None:
            return
        with self._saving:
            try:
                write = self._feed.ask(lambda policy: keep(policy.state))
                write()
                self._unsaved = False
            except (OSError, ValueError) as error:
                self._unsaved = True
                self._exported.error("state", error)

    def error(self, place: str, error: Exception) -> None:
        """Count and log an error of our own; it goes no further."""
        self._exported.error(place, error)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _look_for_corpus(self, info: BatchInfo, age: float) -> None:
        """Say once that a batch, whose numbers are good, holds a whole corpus: nothing can be judged or done for hours,
        and nobody sees why."""
        if self._has_told_of_corpus:
            return
        is_large, is_long = info.genes >= LARGE_GENES, age >= CORPUS_SECONDS
        if not (is_large or is_long):
            return
        baseline, _ = self._feed.ask(Policy.baseline, info.shard, info.device)
        cost = info.genes if info.work is None else info.work
        if info.genes >= CORPUS_GENES or (is_large and baseline is not None and cost > TIMES_USUAL * baseline.work):
            what = f"one batch holds {genes(int(info.genes))}"
        elif is_long and baseline is None:
            what = f"a first batch has run for {duration(age)}"
        else:
            return
        self._has_told_of_corpus = True
        watchdog.warning(
            "shard %r: %s; nothing is judged or done before it ends: open a batch for each call of the model (some 64 "
            "genes), then boundary()",
            info.shard,
            what,
        )

    def _batch_age(self, shard: str) -> float | None:
        """Of a shard's oldest batch, in seconds; 0 without one, `None` when the clock, the caller's, fails."""
        began = self._feed.ask(lambda policy: [batch.started for batch in policy.inflight(shard=shard)])
        try:
            return max(0.0, self._clock() - min(began)) if began else 0.0
        except Exception:  # noqa: BLE001 - unknown is an absent series
            return None

    def _settle(self) -> None:
        """After every change: carry out what was decided, save what must survive; what is shown is not as it was."""
        self._dispatcher.run()
        while self._feed.ignored:
            with suppress(IndexError):  # another thread has taken the last one
                self._exported.ignored(self._feed.ignored.popleft())
        if self._keep_state is not None and self._feed.durable_changed():
            self.save_state()
        self._exported.has_changed = True

    def _recorded(self, info: BatchInfo) -> dict[str, Any]:
        """What the timeline keeps of a batch beside its times."""
        told = {"shard": info.shard, "device": info.device, "genes": info.genes, "work": info.work}
        told |= {"worker": info.worker, "tokens": info.tokens, "read_seconds": info.read_seconds}
        return {**told, **self._waiting.get(info.shard, {})}
