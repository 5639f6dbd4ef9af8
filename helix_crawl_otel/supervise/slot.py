"""One slot of a run: a device and the workers that follow each other on it, one at a time.

idle -> running -> (ending) -> waiting -> running ... -> over. A worker ends by itself or is ended; the next one starts
when the device's memory has come back and the backoff after a crash is over.

Source: DESIGN.md, sections 5 and 7.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from helix_crawl_otel.core.decisions import Decision, What
from helix_crawl_otel.core.model import Action, ActionKind, MemoryReading, Outcome, ShardStatus
from helix_crawl_otel.supervise.budget import CrashBudget
from helix_crawl_otel.supervise.ending import End, Ending, judge_end
from helix_crawl_otel.supervise.gate import GateState, MemoryGate
from helix_crawl_otel.supervise.job import Start
from helix_crawl_otel.supervise.process import exit_text
from helix_crawl_otel.supervise.relay import lost_seconds
from helix_crawl_otel.supervise.run_state import Run
from helix_crawl_otel.supervise.worker import Worker

__all__ = ["Phase", "Slot"]

logger = logging.getLogger("helix_crawl_otel")

GRACE_SECONDS = 5.0
"""Between asking a worker's process to end and killing it with all it started; the world's seconds."""

HELLO_SECONDS = 120.0
"""A worker of ours that has not said hello by then cannot: importing the package takes one or two."""

SILENT_SECONDS = 1800.0
"""A worker of ours that has said nothing for so long while no batch is in flight hangs in a file or in a model."""

DRAIN_SECONDS = 5.0


class Phase(str, Enum):
    """Where a slot is."""

    IDLE = "idle"
    RUNNING = "running"
    ENDING = "ending"
    WAITING = "waiting"
    OVER = "over"


class Slot:
    """A device and its workers.

    Args:
        name: Of the slot, which is its workers' name as well.
        device: Where its workers encode unless a shard was demoted.
        run: What all slots share.

    Threads: the supervisor's, except for what a `Listener` hears, which comes in the worker's reader thread.
    """

    def __init__(self, name: str, device: str, run: Run) -> None:
        self.name = name
        self.device = device
        self.phase = Phase.IDLE
        self.worker: Worker | None = None
        self._run = run
        self._start: Start | None = None  # of the running worker, or of the next one while waiting
        self._budget = CrashBudget()
        self._gate: MemoryGate | None = None
        self._not_before = 0.0
        self._before_bytes: int | None = None
        self._open_shards: set[str] = set()  # left open by the last worker for the next one
        self._ended_for: str | None = None
        self._refused: str | None = None  # a shard that the worker has to leave to one on the CPU; set by its reader
        self._progressed = False  # a gene has been committed since the last crash; set by the reader

    # -- the supervisor's calls ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the first worker, if there is work for this slot."""
        self._next(is_first=True)

    def advance(self) -> None:
        """Look at the world: has the worker ended, has the memory come back?"""
        if self.phase is Phase.RUNNING:
            self._look_at_worker()
        elif self.phase is Phase.WAITING:
            self._look_at_gate()

    def end_worker(self, why: str) -> None:
        """End the worker, in a thread of its own: a process in the driver's hands may take its time to die.

        Args:
            why: An action's name, `hang`, `silent`, `broken` or `interrupt`.
        """
        worker = self.worker
        if worker is None or self.phase is not Phase.RUNNING:
            return
        self.phase, self._ended_for = Phase.ENDING, why
        self._drop(worker, is_crawl=why in ActionKind.__members__)
        threading.Thread(target=self._end, args=(worker,), name=f"helix-crawl-end-{self.name}", daemon=True).start()

    def force(self, decision: Decision) -> None:
        """The policy wants this slot's worker ended."""
        if decision.worker != self.name or self.phase is not Phase.RUNNING:
            return
        kind = decision.kind
        self._refused = decision.shard if kind is ActionKind.DEMOTE_CPU else None
        if kind is ActionKind.DEMOTE_CPU:
            self._run.demoted.add(decision.shard)
        why = "hang" if decision.what is What.HANG or kind is None else kind.value
        self._run.tell_forced(self.name, why, decision.reason)
        self.end_worker(why)

    def pause(self) -> None:
        """The operator has asked: the worker finishes its batch, a slot that waits is over."""
        if self.phase is Phase.RUNNING and self.worker is not None:
            if self.worker.relay.hello is None and not self._run.is_ours(self.worker):
                self.worker.process.interrupt()  # it knows nothing of us: it gets what a terminal would have sent it
            self.worker.relay.pause()
        elif self.phase in (Phase.WAITING, Phase.IDLE):
            self._over("paused")

    def tick(self) -> None:
        """Send what the policy has decided since."""
        worker = self.worker
        if worker is not None and self.phase is Phase.RUNNING:
            worker.relay.push()

    # -- the worker's words -------------------------------------------------------------------------------------------

    def opened(self, shard: str, device: str) -> bool:
        """See `Listener`."""
        self._open_shards.discard(shard)
        if shard in self._run.demoted and device != "cpu":
            self._refused = shard
            return True
        self._run.shard_opened(self.name, shard, device)
        return False

    def closed(self, shard: str, state: str) -> None:
        """See `Listener`."""
        if state == "done":
            self._run.demoted.discard(shard)
        self._run.shard_closed(self.name, shard, state)

    def measured(self, shard: str, genes: float, seconds: float, status: ShardStatus) -> None:
        """See `Listener`."""
        self._run.measured(self.name, shard, genes, seconds, status, lost_seconds(genes, seconds, status))

    def passed(self, shard: str) -> None:
        """See `Listener`. For a driver of the user's own, a boundary after a batch is a commit."""
        if not self._run.job_reports_commits:
            self._progressed = True

    def acknowledged(self, action: Action, outcome: Outcome) -> None:
        """See `Listener`."""
        if action.kind is ActionKind.DEMOTE_CPU and outcome is Outcome.APPLIED:
            self._run.demoted.add(action.shard)

    def read(self, device: str, reading: MemoryReading, source: str, up: bool) -> None:
        """See `Listener`."""
        self._run.memory.report(device, reading, source, up)

    def said(self, payload: Mapping[str, Any]) -> None:
        """See `Listener`."""
        worker = self.worker
        if worker is not None and self._run.job.said(self.name, Voice(worker), payload):
            self._progressed = True

    # -- how a worker ends --------------------------------------------------------------------------------------------

    def _look_at_worker(self) -> None:
        worker = self.worker
        assert worker is not None
        if self._progressed:
            self._progressed = False
            self._budget.progressed()
        code = worker.process.poll()
        if code is not None:
            self._ended(worker, code)
        elif worker.broken is not None:
            logger.error("[crawl-watchdog] worker %s: %s; it is ended", self.name, worker.broken)
            self.end_worker("broken")
        elif self._run.is_ours(worker):
            since = self._run.clock() - worker.relay.heard_at
            deadline = SILENT_SECONDS if worker.relay.hello is not None else HELLO_SECONDS
            if since > deadline and not worker.relay.has_batch():
                self.end_worker("silent")

    def _end(self, worker: Worker) -> None:
        gone = worker.process.end(GRACE_SECONDS)
        self._run.wake(lambda: self._ended(worker, worker.process.exit_code or 0) if gone else self._survived(worker))

    def _survived(self, worker: Worker) -> None:
        text = f"process {worker.process.pid} cannot be ended (stuck in the driver?); {self.name} is out of use"
        logger.error("[crawl-watchdog] %s for the rest of this run", text)
        self._run.gave_up(self.name, text)
        self.worker = None
        self._over("failed")

    def _ended(self, worker: Worker, code: int) -> None:
        worker.finish_reading(DRAIN_SECONDS)
        start = self._start
        assert start is not None
        ending = judge_end(
            End(
                code,
                ended_for=self._ended_for,
                leaving=worker.relay.leaving.kind if worker.relay.leaving else None,
                refused=self._refused is not None,
                demoted=start.demoted_shard is not None,
                pausing=self._run.pausing,
            )
        )
        if ending is Ending.DONE and self._run.pausing and self._open_shards:
            ending = Ending.PAUSED
        self._drop(worker, is_crawl=False)
        leaving = worker.relay.leaving
        shard = self._refused or (leaving.shard if leaving else None)
        why = _why(self._ended_for, ending, code)
        self.worker, self._ended_for, self._refused = None, None, None
        self._run.worker_ended(self.name, start.device, worker.process.pid, code, ending, why)
        self._go_on(ending, start, shard, why)

    def _go_on(self, ending: Ending, start: Start, shard: str | None, why: str) -> None:
        if ending is Ending.RECYCLE:
            self._wait(Start("recycle", self.device), start)
        elif ending is Ending.DEMOTE:
            self._wait(Start("demote", "cpu", demoted_shard=shard), start)
        elif ending is Ending.RETURN:
            self._wait(Start("resume", self.device), start)
        elif ending is Ending.CRASH:
            self._crashed(start, why)
        elif ending is Ending.DONE:
            self._close_left("done")
            self._next(is_first=False)
        else:
            self._run.stopped(self.name, ending, why)
            self._over("failed" if ending is Ending.NEVER else "paused")

    def _crashed(self, start: Start, why: str) -> None:
        if self._progressed:
            self._progressed = False
            self._budget.progressed()
        if self._run.job.crashed(self.name, why):
            self._budget.narrowed()
        retry = self._budget.crashed()
        self._run.crashed(self.name, why, self._budget.left, retry.after_seconds if retry else None)
        if retry is not None:
            # Its shard, and with it the device, may have become another one by what the job has learnt.
            self._wait(Start("crash", start.device, start.demoted_shard), start, after=retry.after_seconds)
            return
        self._budget = CrashBudget()
        self._close_left("failed")
        self._run.gave_up(self.name, why)
        if self._run.job.gave_up(self.name, why):
            self._next(is_first=False)
        else:
            self._over("failed")

    def _drop(self, worker: Worker, *, is_crawl: bool) -> None:
        shards, age = worker.relay.drop()
        self._open_shards.update(shards)
        if is_crawl:
            self._run.lost(age)

    # -- how the next one starts --------------------------------------------------------------------------------------

    def _next(self, *, is_first: bool) -> None:
        previous = self._start
        if self._run.pausing:
            self._over("paused" if self._run.job.has_work(self.name) else "done")
            return
        start = self._run.job.next_start(self.name, self.device, is_first)
        if start is None:
            self._over("done")
        else:
            self._wait(start, previous)

    def _wait(self, start: Start, previous: Start | None, after: float = 0.0) -> None:
        """Start when the memory of the card that the last worker was on has come back."""
        if self._run.pausing:
            self._over("paused")
            return
        now = self._run.clock()
        self._start, self.phase, self._not_before = start, Phase.WAITING, now + after
        was_on_card = previous is not None and previous.device != "cpu"
        needs_gate = was_on_card and start.device != "cpu" and self._run.memory.used(start.device) is not None
        self._gate = MemoryGate(self._before_bytes, now) if needs_gate else None
        self._look_at_gate()

    def _look_at_gate(self) -> None:
        start = self._start
        assert start is not None
        now = self._run.clock()
        if self._gate is not None:
            used = self._run.memory.used(start.device)
            state = self._gate.feed(now, used)
            self._run.gate(self.name, start.device, used, self._before_bytes, state)
            if state is GateState.WAITING:
                return
            self._gate = None
        if now >= self._not_before:
            self._launch(start)

    def _launch(self, start: Start) -> None:
        self._run.memory.watch(start.device, is_modelled=self._run.is_modelled and start.device != "cpu")
        self._before_bytes = self._run.memory.used(start.device)
        try:
            self.worker = self._run.launch(self, start)
        except OSError as error:
            self._run.stopped(self.name, Ending.NEVER, f"the worker cannot be started: {error.strerror or error}")
            self._over("failed")
            return
        self.phase = Phase.RUNNING

    def _close_left(self, state: str) -> None:
        for shard in sorted(self._open_shards):
            self._run.pipeline.close_shard(shard, state)
            self._run.shard_closed(self.name, shard, state)
        self._open_shards = set()

    def _over(self, state: str) -> None:
        """No more workers here; shards that the last one left open are now `done`, `paused` or `failed`."""
        self._close_left(state)
        self._run.is_paused = self._run.is_paused or state == "paused"
        self.phase, self._start, self._gate = Phase.OVER, None, None


@dataclass(frozen=True)
class Voice:
    """A worker as its job may talk to it."""

    worker: Worker

    @property
    def number(self) -> int:
        """See `JobWorker`."""
        return self.worker.number

    def tell(self, payload: Mapping[str, object]) -> None:
        """See `JobWorker`."""
        self.worker.relay.send_job(payload)


def _why(ended_for: str | None, ending: Ending, code: int) -> str:
    if ended_for is not None:
        return _ENDED_FOR.get(ended_for, f"ended for {ended_for}")
    return exit_text(code) if ending is Ending.CRASH else ending.value


_ENDED_FOR = {
    "hang": "a batch hung and its worker was ended",
    "silent": "it had not been heard from and was ended",
    "broken": "its channel broke and it was ended",
    "interrupt": "it was ended by the operator",
}
