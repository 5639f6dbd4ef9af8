"""The work of a build as its supervisor sees it: a queue of shards, and what is known of each.

Which worker gets which shard, which batch killed a worker, what failed; and what the workers say, for the displays and
the gauges. The shards' files are the workers' to write; the supervisor sets a corrupt file aside, and only while no
worker is on it.

Source: DESIGN.md, sections 5, 7 and 8.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from helix_crawl_otel.formats import count, shard_name
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.messages import Assignment, Message, WorkerSettings
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.policy.bad_batches import BadBatches
from helix_crawl_otel.probes.cuda_order import without_cards
from helix_crawl_otel.shards.damage import set_aside
from helix_crawl_otel.shards.errors import CannotSetAside
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.job import JobWorker, Launch, WorkerStart
from helix_crawl_otel.supervise.process import worker_command
from helix_crawl_otel.supervise.rules import backoff_seconds

__all__ = ["BuildJob", "ShardWork"]

MOST_SHORTAGES = 1
"""Workers of a shard that may follow each other on a device because there was no memory for one gene alone."""

MOST_LEAN, ENOUGH = 3, 8
"""Workers of a shard that may follow each other on a card because memory ran out before they had done the work of so
many of its largest batches: a leak that leaves room for a few a process would have them follow each other for ever."""

MOST_LOADS = {"card": 3, "cpu": 14}
"""Likewise, because there was none for the model: another program may end. After a card there is the CPU; after the CPU
there is nothing, so that it gets some ten minutes. The next shard tries once."""

STARVED_SECONDS = 60.0
"""What the next shard waits before, on a CPU without memory."""


@dataclass
class ShardWork:
    """One shard of the run.

    Args:
        assignment: What its worker is told; the epoch grows each time that it is given out.
        pending: Genes that lacked a vector before the run, `None` where nobody has counted them. From then on their
            worker counts.
        expected: How many do, estimated before its sources are read; `None` where nobody can say.
        quarantined: Genes that are left out for ever, as last counted.
        bad_batches: Batches that killed a worker.
        batch: The batch that its worker is on: first gene and size.
        is_wary: A worker has died while it was on none.
        state: `pending`, `running`, `done`, `failed`, `paused` or `not begun`.
        reason: Why it failed.
        was_set_aside: Its file was corrupt and has been replaced once.
        shortages: How many workers in a row had to leave it on its device for want of memory, no batch in between.
        lean: How many workers in a row had to leave its card for want of memory before they had done much.
        cost: Of the batch that its worker is on, in the encoder's unit.
        largest: The most that a batch has cost.
        done: What the batches have cost that its worker has finished.
        encoded: Genes that got a vector in this run.
        left: Genes that lacked one when a worker last said so, `None` before.
        unsaid: Genes of batches that began since: they may be in the store, and their worker died before it said so.
        problems: Sources that cannot be read.
    """

    assignment: Assignment
    pending: int | None = None
    expected: int | None = None
    quarantined: int = 0
    bad_batches: BadBatches = field(default_factory=BadBatches)
    batch: tuple[str, int] | None = None
    is_wary: bool = False
    state: str = "pending"
    reason: str = ""
    was_set_aside: bool = False
    shortages: int = 0
    lean: int = 0
    cost: float = 0.0
    largest: float = 0.0
    done: float = 0.0
    encoded: int = 0
    left: int | None = None
    unsaid: int = 0
    problems: int = 0

    def finish_batch(self) -> None:
        """Its worker has finished the batch that it was on."""
        if self.batch is not None:
            self.bad_batches.committed(*self.batch)
            self.done += self.cost
            self.largest = max(self.largest, self.cost)
        self.batch, self.shortages = None, 0
        if self.has_done_much:
            self.lean = 0

    @property
    def has_done_much(self) -> bool:
        """Whether its worker was worth its start."""
        return self.done > 0 and self.done >= ENOUGH * self.largest

    def found(self, left: int) -> int:
        """The store lacks so many vectors now. Returns how many it has got of a worker that died before it said so."""
        unsaid = 0 if self.left is None else max(0, min(self.left - left, self.unsaid))
        self.encoded += unsaid
        self.left, self.unsaid = left, 0
        return unsaid


class BuildJob:
    """See `supervise.job.Job`.

    Args:
        shards: In the order in which they are given out.
        settings: For the worker of a slot on a device: how it encodes.
        environ: Of this process.
        demoted: Shards that have to be finished on the CPU; shared with the supervisor.
        pipeline: Told of what the gauges show; knows rates and rungs.
        emit: Takes events, for the displays.
        clock: Seconds.
        memory: Says of a device how full it is and who holds it, as far as that is known.

    Threads: `said` from the workers' readers, the rest from the supervisor's; `_lock` guards all fields.
    """

    keeps_account = True
    resumes = True

    def __init__(
        self,
        shards: list[ShardWork],
        settings: Callable[[str, int], WorkerSettings],
        environ: Mapping[str, str],
        demoted: set[str],
        pipeline: Pipeline,
        emit: Callable[[events.Event], None],
        clock: Callable[[], float],
        memory: Callable[[str], str],
    ) -> None:
        self.shards = shards
        self.never: str | None = None
        """Why no worker can ever start, once one has said so."""
        self._settings = settings
        self._environ = environ
        self._demoted = demoted
        self._pipeline = pipeline
        self._emit = emit
        self._clock = clock
        self._memory = memory
        self._lock = threading.RLock()
        self._queue = deque(shards)
        self._current: dict[str, ShardWork] = {}  # by slot
        self._devices: dict[str, str] = {}  # of the slots' running workers
        self._homes: dict[str, str] = {}
        self._noted: set[str] = set()  # of models, by their workers: each is said once
        self._starved: set[str] = set()  # devices on which a model has found no memory, again and again

    # -- starting workers ---------------------------------------------------------------------------------------------

    def next_start(self, slot: str, device: str, is_first: bool) -> WorkerStart | None:
        """See `Job`."""
        with self._lock:
            self._homes[slot] = device
            work = self._current.get(slot) or self._take(slot)
            if work is None:
                return None
            shard = work.assignment.shard
            leaves = max(work.shortages, work.lean)
            after = backoff_seconds(leaves) if leaves else 0.0
            if device == "cpu" and device in self._starved:
                after = max(after, STARVED_SECONDS)
            if shard in self._demoted and device != "cpu":
                return WorkerStart("demote", "cpu", demoted_shard=shard, after_seconds=after)
            if leaves:
                return WorkerStart("recycle", device, after_seconds=after)
            return WorkerStart("first" if is_first else "resume", device)

    def has_work(self, slot: str) -> bool:
        """See `Job`."""
        with self._lock:
            return bool(self._queue) or slot in self._current

    def next_shard(self, slot: str) -> str | None:
        """See `Job`."""
        with self._lock:
            work = self._current.get(slot)
            return work.assignment.shard if work else None

    def has_finished(self, slot: str, code: int | None) -> bool:
        """See `Job`. A worker that was told to leave the next shard to one on another device was not given it."""
        with self._lock:
            work = self._current.get(slot)
            return work is None or work.state == "pending"

    def launch(self, slot: str, start: WorkerStart, number: int) -> Launch:
        """See `Job`."""
        with self._lock:
            work = self._current[slot]
            self._devices[slot] = start.device
            if work.batch is not None and start.reason == "recycle":  # the last worker was ended inside of it
                work.bad_batches.stuck(*work.batch)
            task = messages.BuildTask(self._settings(start.device, number), self._assignment(work))
        argv, environ = worker_command("helix_crawl_otel.build.worker", self._environ)
        return Launch(argv, {**environ, **_device_variables(start, environ)}, task, is_ours=True)

    def _assignment(self, work: ShardWork) -> Assignment:
        """What a worker is told now: with a lease above every earlier one, and what is known of bad batches."""
        work.assignment = replace(
            work.assignment,
            epoch=work.assignment.epoch + 1,
            limits=work.bad_batches.limits(),
            quarantine=work.bad_batches.quarantined(),
            shortages=work.shortages,
            is_wary=work.is_wary,
        )
        work.state, work.batch, work.done = "running", None, 0.0
        return work.assignment

    def _take(self, slot: str) -> ShardWork | None:
        work = self._queue.popleft() if self._queue else None
        if work is not None:
            self._current[slot] = work
        return work

    # -- what workers say ---------------------------------------------------------------------------------------------

    def said(self, slot: str, worker: JobWorker, message: Message) -> bool:
        """See `Job`."""
        way_on, with_genes = None, isinstance(message, messages.Boundary) and bool(message.genes)
        with self._lock:
            work = self._current.get(slot)
            if work is not None:
                self._note(work, message)
            self._show(slot, work, message)
            if isinstance(message, (messages.ShardDone, messages.ShardFailed)):
                self._finished(slot, work, message)
                self._give_next(slot, worker)
            elif isinstance(message, messages.PassOnShard) and work is not None:
                way_on = self._left(slot, work, message)
                worker.tell(messages.Leave())
        if isinstance(message, messages.PassOnShard) and work is not None and way_on is not None:
            # Last, and without the lock: it asks who holds a card, and a driver in trouble may not answer.
            before, (device, why) = self._devices[slot], way_on
            known = self._memory(before) if message.lacks_memory else ""
            self._tell_moved(work, before, device, why + (f" ({before}: {known})" if known else ""))
        return with_genes

    def _note(self, work: ShardWork, message: Message) -> None:
        """Remember what a worker says of the shard that it is on."""
        match message:
            case messages.StartBatch(genes=genes, first=str(first)) | messages.NextBatch(genes=genes, first=str(first)):
                work.batch = first, int(genes)
                work.unsaid += int(genes)
                if isinstance(message, messages.StartBatch):
                    work.cost = genes if message.work is None else message.work
            case messages.QuarantineGene():
                work.quarantined += 1
                if work.left is not None:
                    work.left -= 1
            case messages.Boundary(genes=int(genes)):
                work.finish_batch()
                work.encoded += genes
                work.left, work.unsaid = message.pending, 0
            case messages.Encoding(quarantined=quarantined):
                work.quarantined = quarantined
                # Once a run: a worker that takes over must not try again what the one before has just quarantined.
                work.assignment = replace(work.assignment, retry_quarantined=False)
            case messages.IngestEnd():
                work.problems = message.problem_count
                if message.added or message.removed:
                    work.left = None  # sources have changed in between: what is missing tells nothing

    def _show(self, slot: str, work: ShardWork | None, message: Message) -> None:
        """Tell the displays. `work` is `None` where it has been given up meanwhile."""
        t = self._clock()
        match message:
            case messages.CannotStart(reason):
                self.never = reason
            case messages.LoadStart(model, device):
                self._emit(events.ModelLoading(t, slot, model, device))
            case messages.LoadEnd(model, device, seconds, dtype, why, note):
                if work is not None:
                    self._starved.discard(self._devices[slot])
                self._emit(events.ModelLoaded(t, slot, model, device, seconds, dtype, why))
                if note and note not in self._noted:
                    self._noted.add(note)
                    self._emit(events.Note(t, "warning", note))
            case messages.IngestProgress(shard, sources, genes):
                self._emit(events.Ingesting(t, shard, slot, sources, genes))
            case messages.IngestEnd(shard, sources, added, removed, skipped, left_out, read_as, problems):
                for source, kind, reason in left_out:
                    self._emit(events.SourceSkipped(t, shard, source, kind, reason))
                for source, kind in read_as:
                    self._emit(events.SourceReadAs(t, shard, source, kind))
                for source, reason in problems:
                    self._emit(events.SourceTrouble(t, shard, source, reason))
                self._emit(events.Ingested(t, shard, sources, added, removed, skipped))
                if message.gone:
                    self._emit(events.Note(t, "warning", _kept(shard, message.gone)))
            case messages.StartBatch(shard=shard, genes=genes):
                self._emit(events.BatchStarted(t, shard, slot, int(genes)))
            case messages.QuarantineGene(shard, gene, source, begins, reason):
                if work is not None:
                    self._pipeline.set_quarantined(shard, work.quarantined)
                self._emit(events.Quarantined(t, shard, gene, source, begins, reason))
            case messages.Encoding(shard, label, pending, vectors, cost) if work is not None:
                self._pipeline.set_pending(shard, pending)
                self._pipeline.set_quarantined(shard, work.quarantined)
                if message.work_pending is not None:
                    self._pipeline.wait_for(shard, message.work_pending)
                self._find_unsaid(slot, work, pending)
                self._emit(events.ShardStarted(t, shard, slot, label, pending, vectors, cost))
                for note in message.notes:
                    self._emit(events.Note(t, "warning", note))
            case messages.Boundary(shard, device, _, int(genes), pending, cost) if work is not None:
                status = self._pipeline.status(shard)
                self._emit(events.Committed(t, shard, slot, device, genes, pending, *status.told, cost))
            case messages.ShardDone(shard) if work is not None:
                self._find_unsaid(slot, work, 0)
                self._pipeline.close_shard(shard, "done")
                self._emit(events.ShardEnded(t, shard, "done", work.encoded, ""))

    def _find_unsaid(self, slot: str, work: ShardWork, left: int) -> None:
        """A worker tells how many genes its shard lacks: one before it may have died between a commit and saying so."""
        found, shard = work.found(left), work.assignment.shard
        if found:
            status = self._pipeline.status(shard)
            self._emit(events.Committed(self._clock(), shard, slot, self._devices[slot], found, left, *status.told))

    def _finished(self, slot: str, work: ShardWork | None, how: messages.ShardDone | messages.ShardFailed) -> None:
        self._current.pop(slot, None)
        if work is None:
            return
        if isinstance(how, messages.ShardDone):
            work.state = "done"
            return
        reason = how.reason
        try:
            is_made_anew = how.is_corrupt and self._set_aside(work)
        except CannotSetAside as error:
            is_made_anew, reason = False, f"{reason}; {error}"
        if is_made_anew:
            work.state = "pending"
            self._queue.appendleft(work)
        else:
            self._fail(work, reason)

    def _left(self, slot: str, work: ShardWork, said: messages.PassOnShard) -> tuple[str, str] | None:
        """A worker leaves its shard to another one: on the same device when that has memory again, or on the CPU.

        Returns:
            The device and why, `None` where the shard has failed.
        """
        device, is_loading = self._devices[slot], said.is_loading
        work.state, work.batch = "pending", None
        if said.lacks_memory:
            work.shortages += 1
            most = MOST_SHORTAGES
            if is_loading:
                most = 0 if device in self._starved else MOST_LOADS["cpu" if device == "cpu" else "card"]
            elif device != "cpu" and not work.has_done_much:
                work.lean += 1
            if work.shortages <= most and work.lean <= MOST_LEAN:
                return device, said.reason
            if is_loading:
                self._starved.add(device)
        if device == "cpu":
            del self._current[slot]
            self._fail(work, said.reason)
            return None
        why = f"{work.lean} workers in a row had no memory for {ENOUGH} batches: " if work.lean > MOST_LEAN else ""
        self._to_cpu(work)
        return "cpu", why + said.reason

    def _to_cpu(self, work: ShardWork) -> None:
        self._demoted.add(work.assignment.shard)
        work.shortages = work.lean = 0

    def _give_next(self, slot: str, worker: JobWorker) -> None:
        """Another shard for the same worker, if the device is right; else it leaves and another one is started."""
        work = self._take(slot)
        shard = work.assignment.shard if work else None
        wanted = "cpu" if shard in self._demoted else self._homes[slot]
        if work is None or wanted != self._devices[slot]:
            worker.tell(messages.Leave())
        else:
            worker.tell(messages.GiveShard(self._assignment(work)))

    def _set_aside(self, work: ShardWork) -> bool:
        """Put a corrupt file out of the way, once, if its genes can be made again. Returns whether it did.

        Raises:
            CannotSetAside: See there.
        """
        if work.was_set_aside or work.assignment.source is None:
            return False
        kept = set_aside(Path(work.assignment.path))
        work.was_set_aside = True
        watchdog.error("%s is corrupt; it was set aside as %s", work.assignment.path, kept.name)
        return True

    # -- crashes ------------------------------------------------------------------------------------------------------

    def crashed(self, slot: str, why: str) -> bool:
        """See `Job`: the batch in flight is suspected."""
        with self._lock:
            work = self._current.get(slot)
            if work is None:
                return False
            if work.batch is None:
                work.is_wary = True
                return False
            (first, genes), work.batch = work.batch, None
            verdict = work.bad_batches.crashed(first, genes, why, is_on_card=self._devices[slot] != "cpu")
            if verdict.needs_cpu:
                self._give_up_card(slot, work, f"a gene alone ends its worker: {why}")
            return verdict.narrows

    def gave_up_card(self, slot: str, why: str) -> str | None:
        """See `Job`."""
        with self._lock:
            work = self._current.get(slot)
            if work is None:
                return None
            self._give_up_card(slot, work, f"its worker failed again and again: {why}")
            return work.assignment.shard

    def _give_up_card(self, slot: str, work: ShardWork, reason: str) -> None:
        self._tell_moved(work, self._devices[slot], "cpu", reason)
        self._to_cpu(work)

    def _tell_moved(self, work: ShardWork, before: str, after: str, reason: str) -> None:
        """A worker leaves its shard to another one, on the same device or another."""
        again = f"another worker tries again on {before}"
        way_on = again if after == before else f"it is finished on the {after.upper()}"
        text = f"shard {shard_name(work.assignment.shard)}: {reason}; {way_on}"
        self._emit(events.Note(self._clock(), "warning", text))

    def hands_over(self, slot: str) -> bool:
        """See `Job`: one machine finishes its shards by itself."""
        return False

    def gave_up(self, slot: str, why: str) -> bool:
        """See `Job`: the shard has failed, the slot goes on with the next one."""
        with self._lock:
            work = self._current.pop(slot, None)
            if work is not None:
                self._fail(work, why)
            return True

    def paused(self) -> None:
        """The run has ended early: what is not done is paused, or has not been begun where there is no file."""
        with self._lock:
            for work in self.shards:
                if work.state in ("pending", "running"):
                    work.state = "paused" if Path(work.assignment.path).exists() else "not begun"

    def _fail(self, work: ShardWork, reason: str) -> None:
        """The shard cannot be finished in this run."""
        work.state, work.reason = "failed", reason
        self._pipeline.close_shard(work.assignment.shard, "failed")
        self._emit(events.ShardEnded(self._clock(), work.assignment.shard, "failed", work.encoded, reason))


def _kept(shard: str, gone: int) -> str:
    """What is said of sources whose genes stay although nothing of them is taken any more."""
    are = "is" if gone == 1 else "are"
    where = f"shard {shard_name(shard)}: {count(gone, 'source')} {are} there no longer, or {are} left out now"
    return f"{where}; the genes stay until --prune"


def _device_variables(start: WorkerStart, environ: Mapping[str, str]) -> dict[str, str]:
    """What the environment of a worker says of its device. A worker on the CPU does not even see a card."""
    if start.device == "cpu":
        return {**without_cards(environ), "BGEM3_DEVICE": "cpu"}
    # NVML numbers cards by the bus; with this torch does as well, so that both mean the same card.
    return {"BGEM3_DEVICE": start.device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
