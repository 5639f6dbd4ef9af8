"""What all slots of a run share, and what is counted of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.policy.model import Evidence, ShardStatus, Verdict
from helix_crawl_otel.probes.monitor import MemoryMonitor
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.job import Job, WorkerStart
from helix_crawl_otel.supervise.process import Spawn, spawn
from helix_crawl_otel.supervise.rules import Ending, GateState

__all__ = ["RunContext", "Totals", "do_what_came"]

LOOK_SECONDS = 0.1
"""How often a process is asked whether it has ended, where its channel does not say so at once; the world's seconds."""


def do_what_came(inbox: SimpleQueue[Callable[[], object]]) -> None:
    """Wait a moment for what threads and signals put there, and do all of it in this thread."""
    try:
        inbox.get(timeout=LOOK_SECONDS)()
        while True:
            inbox.get_nowait()()
    except Empty:
        pass


@dataclass
class Totals:
    """What the summary is made of.

    Args:
        encoded: Genes of all batches that ended.
        lost_seconds: What batches of a crawl took beyond their share.
        gate_seconds: How long the memory of a card was waited for.
        starts: Workers started, by reason.

    Threads: guarded by the run's lock while it lasts.
    """

    encoded: int = 0
    lost_seconds: float = 0.0
    gate_seconds: float = 0.0
    starts: dict[str, int] = field(default_factory=dict)


class RunContext:
    """The shared part of a supervised run.

    Args:
        job: The work.
        pipeline: Instruments, policy, timeline.
        memory: Readings of the devices.
        clock: Seconds, not counting sleep.
        tick_seconds: On that clock.
        clock_rate: Seconds of that clock a second of the world's.
        emit: Takes each event.
        logs: Folder of our own workers' log files, `None` when workers write where the supervisor does.
        is_modelled: A modelled card is laid over the workers' devices.
        demoted: Shards that have to be finished on the CPU; single operations only.
        spawn: Starts a worker's process; a seam for tests.

    Threads: `wake`, `action` and `measured` from any; the rest is the supervisor's.
    """

    def __init__(
        self,
        job: Job,
        pipeline: Pipeline,
        memory: MemoryMonitor,
        clock: Callable[[], float],
        *,
        tick_seconds: float,
        clock_rate: float,
        emit: Callable[[events.Event], None],
        logs: Path | None,
        is_modelled: bool,
        demoted: set[str],
        spawn: Spawn = spawn,
    ) -> None:
        self.job = job
        self.pipeline = pipeline
        self.memory = memory
        self.spawn = spawn
        self.clock = clock
        self.tick_seconds = tick_seconds
        self.clock_rate = clock_rate
        self.emit = emit
        self.logs = logs
        self.is_modelled = is_modelled
        self.demoted = demoted
        self.pausing = False  # workers have been asked to leave
        self.is_paused = False  # work is left that a next run takes up
        self.failures: list[str] = []
        self.endings: list[tuple[Ending, str]] = []
        self.totals = Totals()
        self.inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.Lock()
        pipeline.sinks.append(self)
        self.numbers = itertools.count(1)  # of workers and their processes
        self.names: dict[str, dict[str, None]] = {}  # that processes have had, by slot; single operations only

    def wake(self, step: Callable[[], object] = int) -> None:
        """Have the supervisor's thread do something, nothing as it stands, and look at every slot."""
        self.inbox.put(step)

    def scaled(self, seconds: float) -> float:
        """So many seconds of the world, on the run's clock: what an import takes is no faster for a fault injection."""
        return seconds * self.clock_rate

    def world_clock(self) -> float:
        """The run's clock, in seconds of the world."""
        return self.clock() / self.clock_rate

    # -- workers ------------------------------------------------------------------------------------------------------

    def worker_started(self, slot: str, start: WorkerStart, pid: int) -> None:
        """A worker runs."""
        self.memory.start_worker(slot, start.device, pid)
        self.pipeline.start_worker(slot, start.device, start.reason, pid)
        with self._lock:
            self.totals.starts[start.reason] = self.totals.starts.get(start.reason, 0) + 1
        self.emit(events.WorkerStarted(self.clock(), slot, start.device, pid, start.reason))

    def worker_placed(self, slot: str, device: str, pid: int) -> None:
        """A worker that runs has said where it encodes."""
        self.memory.watch(device)
        self.memory.start_worker(slot, device, pid)
        self.pipeline.place_worker(slot, device)

    def worker_ended(self, slot: str, device: str, pid: int, code: int | None, why: str) -> None:
        """A worker is gone. Nobody here learns the code of a process that was not started here."""
        self.worker_lost(slot)
        self.emit(events.WorkerEnded(self.clock(), slot, device, pid, code, why))

    def worker_lost(self, slot: str) -> None:
        """A worker does no more work, gone or not."""
        self.pipeline.stop_worker(slot)
        self.memory.forget_worker(slot)

    def tell_forced(self, slot: str, why: str, reason: str) -> None:
        """A worker is about to be ended, for this reason."""
        self.emit(events.Note(self.clock(), "warning", f"worker {slot} is ended ({why}): {reason}"))

    def crashed(self, slot: str, shard: str | None, why: str, left: int, after: float | None) -> None:
        """A worker has crashed, and is started again `after` so many seconds, or not at all."""
        self.emit(events.Crash(self.clock(), slot, shard, why, left, after))

    def gate(
        self, slot: str, device: str, used: int | None, before: int | None, state: GateState, seconds: float
    ) -> None:
        """The memory of a card is waited for, or has been, for so many seconds."""
        self.totals.gate_seconds += seconds
        self.emit(events.Gate(self.clock(), slot, device, used, before, state.value))

    # -- batches ------------------------------------------------------------------------------------------------------

    def action(self, t: float, shard: str, kind: str, outcome: str, evidence: Evidence) -> None:
        """See `ActionSink`: an action has ended so."""
        self.emit(events.ActionEnded(t, shard, kind, outcome, dict(evidence)))

    def measured(self, genes: float, seconds: float, status: ShardStatus) -> None:
        """A batch has been encoded. While its shard crawled, what it took beyond its share is lost."""
        crawls = status.episode_open or status.verdict is Verdict.CRAWLING
        lost = max(0.0, seconds - genes / status.baseline) if crawls and status.baseline else 0.0
        with self._lock:
            self.totals.encoded += int(genes)
            self.totals.lost_seconds += lost

    def lost(self, seconds: float) -> None:
        """A batch of a crawl was thrown away after so many seconds."""
        with self._lock:
            self.totals.lost_seconds += seconds

    # -- ends ---------------------------------------------------------------------------------------------------------

    def stopped(self, ending: Ending, why: str) -> None:
        """A slot is over before its work is done."""
        self.endings.append((ending, why))

    def ends_early(self) -> bool:
        """Whether one slot's end is the end of the run."""
        return any(ending in (Ending.NEVER, Ending.PAUSED_ITSELF) for ending, _ in self.endings)

    def gave_up(self, slot: str, why: str) -> None:
        """A slot could not bring its work to an end."""
        self.failures.append(f"{slot}: {why}")
