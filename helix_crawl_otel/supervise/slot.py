"""One slot of a run: a device and the workers that follow each other on it, one at a time.

idle -> running -> (ending) -> waiting -> running ... -> over. A worker ends by itself or is ended; the next one starts
when the device's memory has come back and the backoff after a crash is over.

Source: DESIGN.md, sections 5 and 7.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum

from helix_crawl_otel.lacks import is_passing
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.supervise.job import WorkerStart
from helix_crawl_otel.supervise.rules import (
    CrashBudget,
    End,
    Ending,
    GateState,
    MemoryGate,
    StartBudget,
    judge_end,
    start_reason,
    why_ended,
)
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.worker import Worker, launch_worker

__all__ = ["Phase", "Restart", "Slot"]

GRACE_SECONDS = 5.0
"""Between asking a worker's process to end and killing it with all it started; the world's seconds."""

HELLO_SECONDS = 120.0
"""A worker of ours that has not said hello by then cannot, unless it still uses the processor: importing the package
takes a second or two, and longer on a machine that others load. The world's."""

SILENT_SECONDS = 1800.0
"""One whose loop has said nothing for so long while no batch is in flight hangs in a file or in a model; one that is
busy and has not said hello by then never will. Likewise."""

LEAVE_SECONDS = 30.0
"""One that has been told to leave, or to pause outside of a batch, has long written all by then, unless a file of a
dead network folder keeps it. Likewise."""

BUSY_SECONDS = 86_400.0
"""A worker on the CPU that says nothing and uses the processor loads a large model, say. Likewise."""

DRAIN_SECONDS = 5.0

LINGERS = "lingers"
"""Why a worker is ended that has said why it ends, or was told to leave, and does not: its libraries keep it."""


class Phase(str, Enum):
    """Where a slot is."""

    IDLE = "idle"
    RUNNING = "running"
    ENDING = "ending"
    WAITING = "waiting"
    OVER = "over"


@dataclass
class Hang:
    """A batch that the policy takes for a hang. What its worker has said by then is read before it is ended.

    Args:
        decision: Of the policy.
        since: When the slot was told, in seconds.
        heard_at: When the worker had last said anything, at the turn before; `None` at the first.
    """

    decision: Decision
    since: float
    heard_at: float | None = None


class Restart:
    """When the next worker may start: after the backoff, and once the card's memory has come back. Pure.

    Args:
        start: What is to be started.
        now: Seconds.
        after_seconds: Backoff, 0 for none.
        gate: Of the card's memory, `None` where there is nothing to wait for.
    """

    def __init__(
        self, start: WorkerStart, now: float, after_seconds: float = 0.0, gate: MemoryGate | None = None
    ) -> None:
        self.start = start
        self.gate_seconds = 0.0
        """How long the gate took, once it is open."""
        self._since = now
        self._not_before = now + after_seconds
        self._gate = gate
        self._state: GateState | None = None

    def feed(self, now: float, used_bytes: int | None) -> GateState | None:
        """Take a reading, `None` for unknown. Returns the gate's state when it has changed, else `None`."""
        if self._gate is None:
            return None
        state = self._gate.feed(now, used_bytes)
        if state.is_open:
            self._gate, self.gate_seconds = None, now - self._since
        news, self._state = state if state is not self._state else None, state
        return news

    def is_due(self, now: float) -> bool:
        """Whether the worker may start."""
        return self._gate is None and now >= self._not_before


class Slot:
    """A device and its workers.

    Args:
        name: Of the slot, which is its workers' name as well.
        device: Where its workers encode unless a shard was demoted; what a driver of the user's own says of it counts.
        run: What all slots share.

    Threads: the supervisor's, except for `tick`, which is the ticker's.
    """

    def __init__(self, name: str, device: str, run: RunContext) -> None:
        self.name = name
        self.device = device
        self.phase = Phase.IDLE
        self.worker: Worker | None = None
        self._run = run
        self._start: WorkerStart | None = None  # of the running worker, or of the last one
        self._restart: Restart | None = None  # while waiting
        self._budget = self._new_budget()
        self._breaks = (
            self._new_budget()
        )  # of workers that broke their channel: what they commit says nothing of the next
        self._starts = StartBudget()
        self._before_bytes: int | None = None  # used on the device before its last worker was started
        self._ended_for: str | None = None
        self._demotes: str | None = None  # the shard for whose demotion it was
        self._hang: Hang | None = None

    def _new_budget(self) -> CrashBudget:
        return CrashBudget() if self._run.job.resumes else CrashBudget(most=0)

    # -- the supervisor's calls ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the first worker, if there is work for this slot."""
        self._next(is_first=True)

    def advance(self) -> None:
        """Look at the world: has the worker ended, has the memory come back?"""
        if self.phase is Phase.RUNNING:
            self._look_at_worker()
        elif self.phase is Phase.WAITING:
            self._look_at_restart()

    def end_worker(self, why: str) -> None:
        """End the worker for an action's name, `hang`, `silent`, `broken`, `return` or `interrupt`.

        In a thread of its own: a process in the driver's hands may take its time to die.
        """
        worker = self.worker
        if worker is None or self.phase is not Phase.RUNNING:
            return
        self.phase, self._ended_for = Phase.ENDING, why
        age = worker.drop()
        if why in ActionKind.__members__:
            self._run.lost(age)
        ending = threading.Thread(target=self._end, args=(worker,), name=f"helix-crawl-end-{self.name}", daemon=True)
        try:
            ending.start()
        except RuntimeError:  # the system has no thread to give; the others wait
            self._end(worker)

    def force(self, decision: Decision) -> None:
        """The policy wants this slot's worker ended. What concerns an earlier one, or a shard left, is void."""
        worker = self.worker
        if decision.worker not in self._names() or worker is None or self.phase is not Phase.RUNNING:
            return
        if decision.t < worker.started_at or not worker.has_shard(decision.shard):
            return
        if worker.exit_code is not None:
            return  # it has just ended by itself
        kind = decision.kind
        if decision.what is DecisionKind.HANG or kind is None:
            self._hang = Hang(decision, self._run.clock())
            return
        if kind is ActionKind.DEMOTE_CPU:
            self._demotes = decision.shard
            self._run.demoted.add(decision.shard)
        self._run.tell_forced(self.name, kind.value, decision.reason)
        self.end_worker(kind.value)

    def pause(self) -> None:
        """The operator has asked: the worker finishes its batch, a slot that waits is over."""
        if self.phase is Phase.RUNNING and self.worker is not None:
            self.worker.pause()
        elif self.phase is Phase.WAITING:
            self._over("paused")

    def tick(self) -> None:
        """Send what the policy has decided since, and see whether a worker on the CPU uses the processor."""
        worker, start = self.worker, self._start
        if worker is None or start is None or self.phase is not Phase.RUNNING:
            return
        worker.push()
        now = self._run.clock()
        # Not on a card: its driver burns the processor while it waits for something that may never come. Before its
        # hello a worker has no driver.
        has_driver = (worker.device or start.device) != "cpu" and worker.has_said_hello
        if not has_driver and worker.processor_use.is_due(now):
            used = worker.process.processor_seconds()
            if worker.processor_use.feed(now, None if used is None else self._run.scaled(used)):
                worker.busy_at = now
                for name in self._names():
                    self._run.pipeline.use_processor(name)

    def abandon(self) -> None:
        """The supervisor itself has failed: its worker must not outlive it."""
        if self.worker is not None:
            self.worker.process.end(0.0)
            self.worker.let_nobody_in()

    # -- how a worker ends --------------------------------------------------------------------------------------------

    def _look_at_worker(self) -> None:
        worker = self.worker
        assert worker is not None
        if worker.progressed():
            self._budget.progressed()
        if (code := worker.exit_code) is not None:
            worker.process.end_rest()
            self._ended(worker, code)
        elif self._hang is not None:
            self._look_at_hang(worker, self._hang)
        elif worker.broken is not None:
            watchdog.error("worker %s: %s; it is ended", self.name, worker.broken)
            self.end_worker("broken")
        elif worker.stays_on_cpu and not self._run.pausing:
            self.end_worker("return")
        elif worker.last_words is not None:
            if self._run.clock() - worker.heard_at > self._run.scaled(GRACE_SECONDS):
                self.end_worker(LINGERS)
        elif (lost := worker.waits_for_ever) is not None:
            if self._run.clock() - worker.heard_at > self._run.scaled(LEAVE_SECONDS):
                watchdog.error(
                    "worker %s: a process of its pool died in shard %s; the pool waits for ever", self.name, lost
                )
                self.end_worker("lost")
        elif worker.is_ours and not worker.has_batch():
            has_left = self._run.job.has_finished(self.name, None)
            seconds = LEAVE_SECONDS if has_left or self._run.pausing else SILENT_SECONDS
            seconds = seconds if worker.has_said_hello else HELLO_SECONDS
            silent = self._run.clock() - worker.heard_at
            most = {SILENT_SECONDS: BUSY_SECONDS, HELLO_SECONDS: SILENT_SECONDS}.get(seconds, 0.0)
            if silent <= self._run.scaled(most):
                silent = min(silent, self._run.clock() - worker.busy_at)
            if silent > self._run.scaled(seconds):
                self.end_worker(LINGERS if has_left else "silent")

    def _look_at_hang(self, worker: Worker, hang: Hang) -> None:
        """Wait for a turn in which nothing comes: after a stop of this process the channel holds what it missed."""
        heard_at, hang.heard_at = hang.heard_at, worker.heard_at
        if heard_at != worker.heard_at and self._run.clock() - hang.since < self._run.scaled(DRAIN_SECONDS):
            return
        self._hang = None
        if worker.is_in_batch(hang.decision.shard, hang.decision.t):
            self._run.tell_forced(self.name, "hang", hang.decision.reason)
            self.end_worker("hang")

    def _end(self, worker: Worker) -> None:
        gone = worker.process.end(GRACE_SECONDS)
        self._run.wake(lambda: self._ended(worker, worker.process.exit_code or 0) if gone else self._survived(worker))

    def _survived(self, worker: Worker) -> None:
        text = f"process {worker.process.pid} cannot be ended (stuck in the driver?); {self.name} is out of use"
        watchdog.error("%s for the rest of this run", text)
        self._run.worker_lost(self.name)
        self._run.gave_up(self.name, text)
        self._run.job.gave_up(self.name, text)
        worker.let_nobody_in()
        self.worker = None
        self._over("failed")

    def _ended(self, worker: Worker, code: int) -> None:
        start = self._start
        assert start is not None
        worker.finish_reading(DRAIN_SECONDS)
        worker.drop()
        leaving = worker.shards.owed
        refused = worker.refused or self._demotes
        ending = judge_end(
            End(
                code,
                ended_for=self._ended_for,
                leaving=leaving.kind if leaving else None,
                refused=refused is not None,
                demoted=start.demoted_shard is not None,
                pausing=self._run.pausing,
                finished=worker.shards.lost is None
                and self._run.job.has_finished(self.name, code if self._ended_for is None else None),
            )
        )
        if ending is Ending.DONE and self._run.pausing and (worker.has_paused or self._left()):
            ending = Ending.PAUSED  # its driver has made a success of the pause
        words = worker.last_words if ending is Ending.CRASH and self._ended_for in (None, LINGERS) else None
        why = words.reason if words else why_ended(self._ended_for, ending, code)
        if code == 0 and ending is Ending.CRASH and worker.shards.lost is not None:
            why = f"one of its processes died in shard {worker.shards.lost}, and it ended as if it were done"
        budget = self._breaks if self._ended_for == "broken" else self._budget
        shard = refused or (leaving.shard if leaving else None)
        if worker.progressed():
            self._budget.progressed()
        if worker.device is not None and start.demoted_shard is None:
            self.device = worker.device
        self.worker, self._ended_for, self._demotes, self._hang = None, None, None, None
        self._run.worker_ended(self.name, start.device, worker.process.pid, code, why)
        self._go_on(ending, start, shard, why, budget, is_device=words is not None and words.is_device)

    def _go_on(
        self, ending: Ending, start: WorkerStart, shard: str | None, why: str, budget: CrashBudget, *, is_device: bool
    ) -> None:
        owed = self._owed_demotion()
        if ending is Ending.RECYCLE:
            self._resume("recycle", owed)
        elif ending is Ending.DEMOTE:
            self._resume("demote", owed or shard)
        elif ending is Ending.RETURN:
            self._resume("resume", owed)
        elif ending is Ending.DONE:
            self._close_done()
            self._next(is_first=False)
        elif ending is Ending.CRASH:
            self._crashed(
                start, owed or start.demoted_shard, why, budget, is_device=is_device and start.device != "cpu"
            )
        else:
            self._run.stopped(ending, why)
            self._over("failed" if ending is Ending.NEVER else "paused")

    def _crashed(
        self, start: WorkerStart, demoted: str | None, why: str, budget: CrashBudget, *, is_device: bool
    ) -> None:
        """A worker has crashed; if its card is the reason, a smaller batch is no progress, and the CPU is left."""
        if self._run.job.crashed(self.name, why) and not is_device:
            budget.narrowed()
        retry = budget.crashed()
        demoted_now = self._run.job.gave_up_card(self.name, why) if retry is None and is_device else None
        after = retry.after_seconds if retry else None if demoted_now is None else 0.0
        shard = self._run.job.next_shard(self.name) or next(iter(self._left()), None)
        if demoted_now is not None:
            self._budget = budget = self._new_budget()
        self._run.crashed(self.name, shard, why, budget.left, after)
        if retry is not None:
            self._resume("crash", demoted, retry.after_seconds)
            return
        if demoted_now is not None:
            self._resume("demote", demoted_now)
            return
        self._budget, self._breaks = self._new_budget(), self._new_budget()
        self._close_left("failed")
        self._run.gave_up(self.name, why)
        if self._run.job.gave_up(self.name, f"its worker crashed again and again: {why}"):
            self._next(is_first=False)
        else:
            self._over("failed")

    def _close_done(self) -> None:
        """A worker has done all it was given. What a build's worker has left open it has left to the next one."""
        if not self._run.job.keeps_account:
            self._close_left("done")

    def _left(self) -> list[str]:
        """Shards that the workers of this slot have opened and not closed: the next one goes on with them."""
        return sorted(shard for name in self._names() for shard in self._run.pipeline.ask(Policy.open_shards, name))

    def _names(self) -> list[str]:
        """Of its workers: its own, and those of the processes that a driver of the user's own has started."""
        return list({self.name: None, **self._run.names.get(self.name, {})})

    # -- how the next one starts --------------------------------------------------------------------------------------

    def _next(self, *, is_first: bool) -> None:
        if self._run.pausing:
            self._over("paused" if self._run.job.has_work(self.name) else "done")
            return
        start = self._run.job.next_start(self.name, self.device, is_first)
        if start is None:
            self._over("done")
        else:
            self._wait(start, start.after_seconds)

    def _owed_demotion(self) -> str | None:
        """A shard whose demotion was asked for and had not come to its boundary when the worker ended.

        The policy takes the change of worker for the demotion, and no rung is left: so it has to be one.
        """
        for shard in self._left():
            if self._run.pipeline.ask(Policy.pending, shard) is ActionKind.DEMOTE_CPU:
                self._run.demoted.add(shard)
                return shard
        return None

    def _resume(self, reason: str, shard: str | None, after_seconds: float = 0.0) -> None:
        """Go on with the shard: on the slot's own device, or on the CPU where it was demoted. Where somebody else
        finishes those on the CPU, with the next one.

        Args:
            reason: Of the start.
            shard: As far as the last worker told, `None` for unknown; the job may know better.
            after_seconds: Backoff, 0 for none.
        """
        shard = self._run.job.next_shard(self.name) or shard
        if shard not in self._run.demoted or self.device == "cpu":
            self._wait(WorkerStart(reason, self.device), after_seconds)
        elif self._run.job.hands_over(self.name):
            self._next(is_first=False)
        else:
            reason = "demote" if reason == "resume" else reason
            self._wait(WorkerStart(reason, "cpu", demoted_shard=shard), after_seconds)

    def _wait(self, start: WorkerStart, after_seconds: float = 0.0) -> None:
        """Start when the backoff is over and the memory of the card that the last worker was on has come back."""
        if self._run.pausing:
            self._over("paused")
            return
        now = self._run.clock()
        was_on_card = self._start is not None and self._start.device != "cpu"
        needs_gate = was_on_card and start.device != "cpu" and self._run.memory.used(start.device) is not None
        gate = MemoryGate(self._before_bytes, now) if needs_gate else None
        self.phase, self._restart = Phase.WAITING, Restart(start, now, after_seconds, gate)
        self._look_at_restart()

    def _look_at_restart(self) -> None:
        restart = self._restart
        assert restart is not None
        now = self._run.clock()
        used = self._run.memory.used(restart.start.device)
        news = restart.feed(now, used)
        if news is not None:
            self._run.gate(self.name, restart.start.device, used, self._before_bytes, news, restart.gate_seconds)
        if restart.is_due(now):
            self._restart = None
            self._launch(restart.start)

    def _launch(self, start: WorkerStart) -> None:
        self._start = start
        try:
            self._run.memory.watch(start.device, is_modelled=self._run.is_modelled and start.device != "cpu")
            self._before_bytes = self._run.memory.used(start.device)
            self.worker = launch_worker(self._run, self.name, start)
        except (OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not is_passing(error):
                raise
            self._not_started(start, start_reason(error), is_passing=is_passing(error))
            return
        self._starts = StartBudget()
        self.phase = Phase.RUNNING

    def _not_started(self, start: WorkerStart, why: str, *, is_passing: bool) -> None:
        """The system would not start a worker: try again where that may pass, and leave the work to another run."""
        if not is_passing:
            self._run.stopped(Ending.NEVER, why)
            self._over("failed")
            return
        left, retry = self._starts.left, self._starts.failed()
        shard = self._run.job.next_shard(self.name) or next(iter(self._left()), None)
        after = retry.after_seconds if retry else None
        self._run.crashed(self.name, shard, why, max(0, left - 1), after)
        if after is not None:
            self._wait(start, after)
        else:
            self._run.stopped(Ending.PAUSED, why)
            self._over("paused")

    def _close_left(self, state: str) -> None:
        for shard in self._left():
            self._run.pipeline.close_shard(shard, state)

    def _over(self, state: str) -> None:
        """No more workers here; shards that the last one left open are now `done`, `paused` or `failed`."""
        self._close_left(state)
        self._run.is_paused = self._run.is_paused or state == "paused"
        self.phase, self._restart = Phase.OVER, None
