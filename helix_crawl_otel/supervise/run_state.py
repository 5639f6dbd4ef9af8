"""What all slots of a run share, and how a worker is launched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO

from helix_crawl_otel.core.model import ShardStatus
from helix_crawl_otel.link.channel import open_pair
from helix_crawl_otel.otel.pipeline import Pipeline
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.ending import Ending
from helix_crawl_otel.supervise.gate import GateState
from helix_crawl_otel.supervise.job import Job, Launch, Start
from helix_crawl_otel.supervise.memory_watch import MemoryWatch
from helix_crawl_otel.supervise.process import spawn
from helix_crawl_otel.supervise.relay import Relay
from helix_crawl_otel.supervise.worker import Worker

if TYPE_CHECKING:
    from helix_crawl_otel.supervise.slot import Slot

__all__ = ["Run", "Totals"]

PROTOCOL = 1


@dataclass
class Totals:
    """What the summary is made of. Guarded by `Run.lock`."""

    encoded: int = 0
    lost_seconds: float = 0.0
    gate_seconds: float = 0.0
    starts: dict[str, int] = field(default_factory=dict)


class Run:
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

    Threads: `wake` from any; what readers call (`shard_opened`, `measured`, ...) only emits and counts under `lock`;
    the rest is the supervisor's.
    """

    def __init__(
        self,
        job: Job,
        pipeline: Pipeline,
        memory: MemoryWatch,
        clock: Callable[[], float],
        *,
        tick_seconds: float,
        clock_rate: float,
        emit: Callable[[events.Event], None],
        logs: Path | None,
        is_modelled: bool,
        demoted: set[str],
    ) -> None:
        self.job = job
        self.pipeline = pipeline
        self.memory = memory
        self.clock = clock
        self.demoted = demoted
        self.is_modelled = is_modelled
        self.job_reports_commits = logs is not None
        self.pausing = False  # workers have been asked to leave
        self.is_paused = False  # work is left that a next run takes up
        self.failures: list[str] = []
        self.endings: list[tuple[Ending, str]] = []
        self.totals = Totals()
        self.lock = threading.Lock()
        self.inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._tick_seconds = tick_seconds
        self._clock_rate = clock_rate
        self.emit = emit
        self._logs = logs
        self._launched = 0
        self._ours: set[int] = set()

    def wake(self, step: Callable[[], None]) -> None:
        """Have the supervisor's thread do something, and look at every slot."""
        self.inbox.put(step)

    def is_ours(self, worker: Worker) -> bool:
        """Whether it is this package's own worker."""
        return worker.number in self._ours

    # -- workers ------------------------------------------------------------------------------------------------------

    def launch(self, slot: Slot, start: Start) -> Worker:
        """Start a worker. Called by the supervisor's main thread: on Linux a child dies with the thread that made it.

        Raises:
            OSError: It cannot be started.
        """
        self._launched += 1
        number = self._launched
        launch = self.job.launch(slot.name, start, number)
        channel, end = open_pair()
        try:
            with closing(end), _Output(self._log_file(slot) if launch.is_ours else None) as output:
                process = spawn(
                    launch.argv,
                    env={**launch.environ, **end.environment()},
                    popen_arguments=end.popen_arguments(),
                    stdout=output.file,
                    stderr=output.file,
                    dies_with_us=not launch.is_ours,
                )
        except BaseException:
            channel.close()
            raise
        if launch.is_ours:
            self._ours.add(number)
        self.pipeline.start_worker(slot.name, start.device, start.reason, process.pid)
        self.totals.starts[start.reason] = self.totals.starts.get(start.reason, 0) + 1
        self.emit(events.WorkerStarted(self.clock(), slot.name, start.device, process.pid, start.reason))
        relay = Relay(self.pipeline, slot.name, channel, self._welcome(start, launch), slot, self.clock)
        return Worker(
            number,
            process,
            channel,
            relay,
            wake=lambda: self.wake(_nothing),
            on_error=lambda error: self.pipeline.error("driver", error),
        )

    def _welcome(self, start: Start, launch: Launch) -> dict[str, object]:
        return {
            "version": PROTOCOL,
            "demoted_shard": start.demoted_shard,
            "tick_seconds": self._tick_seconds,
            "clock_rate": self._clock_rate,
            "job": launch.welcome,
        }

    def _log_file(self, slot: Slot) -> Path | None:
        if self._logs is None:
            return None
        return self._logs / f"worker-{slot.name.replace(':', '-').replace('#', '-')}.log"

    def worker_ended(self, slot: str, device: str, pid: int, code: int, ending: Ending, why: str) -> None:
        """A worker is gone."""
        self.pipeline.stop_worker(device)
        self.memory.forget_worker(device)
        self.emit(events.WorkerEnded(self.clock(), slot, device, pid, code, why))

    def tell_forced(self, slot: str, why: str, reason: str) -> None:
        """A worker is about to be ended, for this reason."""
        self.emit(events.Note(self.clock(), "warning", f"worker {slot} is ended ({why}): {reason}"))

    def crashed(self, slot: str, why: str, left: int, after: float | None) -> None:
        """A worker has crashed, and is started again `after` so many seconds, or not at all."""
        self.emit(events.Crash(self.clock(), slot, self._shard_of(slot), why, left, after))

    def _shard_of(self, slot: str) -> str | None:
        return None

    def gate(self, slot: str, device: str, used: int | None, before: int | None, state: GateState) -> None:
        """The memory of a card is waited for."""
        self.emit(events.Gate(self.clock(), slot, device, used, before, state.value))

    # -- shards -------------------------------------------------------------------------------------------------------

    def shard_opened(self, slot: str, shard: str, device: str) -> None:
        """A worker encodes a shard."""

    def shard_closed(self, slot: str, shard: str, state: str) -> None:
        """A worker has left a shard."""

    def measured(
        self, slot: str, shard: str, genes: float, seconds: float, status: ShardStatus, lost_seconds: float
    ) -> None:
        """A batch has been encoded."""
        with self.lock:
            self.totals.encoded += int(genes)
            self.totals.lost_seconds += lost_seconds

    def lost(self, seconds: float) -> None:
        """A batch of a crawl was thrown away after so many seconds."""
        with self.lock:
            self.totals.lost_seconds += seconds

    # -- ends ---------------------------------------------------------------------------------------------------------

    def stopped(self, slot: str, ending: Ending, why: str) -> None:
        """A slot is over before its work is done."""
        self.endings.append((ending, why))

    def ends_early(self) -> bool:
        """Whether one slot's end is the end of the run."""
        return any(ending in (Ending.NEVER, Ending.PAUSED_ITSELF) for ending, _ in self.endings)

    def gave_up(self, slot: str, why: str) -> None:
        """A slot could not bring its work to an end."""
        self.failures.append(f"{slot}: {why}")


class _Output:
    """Where a worker writes: a log file, appended to, or the supervisor's own streams."""

    def __init__(self, path: Path | None) -> None:
        self.file: BinaryIO | None = None
        self._path = path

    def __enter__(self) -> _Output:
        if self._path is not None:
            self.file = self._path.open("ab")
        return self

    def __exit__(self, *raised: object) -> None:
        if self.file is not None:
            self.file.close()


def _nothing() -> None:
    """Only to look at the slots."""
