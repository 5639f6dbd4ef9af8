"""A supervised run on a virtual clock, whose workers are played by the test.

Policy, ladder, instruments, slots, relays and channels are the real ones; a worker's process is played, and its words
come through a real pipe. Whatever a worker asks is answered only after all it had said before was taken in: so no test
sleeps, and none depends on the order of threads.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from helix_crawl_otel.build.job import BuildJob, ShardWork
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.messages import Assignment, WorkerSettings
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.policy.model import Action, Decision, MemoryReading
from helix_crawl_otel.policy.settings import Settings as Knobs
from helix_crawl_otel.policy.state import DurableText, PolicyState
from helix_crawl_otel.probes.monitor import MemoryMonitor
from helix_crawl_otel.probes.probe import CallableProbe, Probe
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.external import RunJob
from helix_crawl_otel.supervise.job import Job
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.session import Supervisor
from helix_crawl_otel.supervise.slot import Phase, Slot
from helix_crawl_otel.timeline import TimelineWriter
from helix_crawl_otel.timing import RunningClock
from tests.supervise.played import SECONDS, PlayedWorker
from tests.watch.rig import CARD_BYTES, FULL, GENES, HEALTHY, LOW, SLOW, TICK, WORK, Clock, collected, make_provider

__all__ = ["Stage", "build_job"]


class Stage:
    """A run with its slots.

    Args:
        job: The work; `None` is a driver of the user's own.
        devices: Of the slots.
        card: Bytes used on every card, as the supervisor reads them; `None` lays a modelled card over the workers,
            which tell of it themselves.
        logs: Folder of the workers' log files.
        demoted: Shards that belong on the CPU.
        timeline: File of the flight recorder, `None` to record nothing.
        may_stop: The supervisor looks at the clock at each turn, as the real one does: when the test lets more time
            pass between two turns than it would, the supervisor was stopped.

    Attributes:
        fraction: How full the modelled card is.
        cannot_start: What comes of starting a worker.
        saved: The ladder's state, as it is kept for the next run.
        at_turn: Called at each turn of the supervisor's own loop.
    """

    def __init__(
        self,
        job: Job | None = None,
        devices: Sequence[str] = ("cuda:0",),
        *,
        card: list[int] | None = None,
        logs: Path | None = None,
        demoted: set[str] | None = None,
        timeline: Path | None = None,
        may_stop: bool = False,
    ) -> None:
        self.clock = Clock()
        clock = RunningClock(self.clock) if may_stop else self.clock
        self._timeline = None if timeline is None else TimelineWriter(timeline, clock)
        if self._timeline is not None:
            self._timeline.run(config={"tick_seconds": TICK})
        self.workers: list[PlayedWorker] = []
        self.events: list[events.Event] = []
        self.fraction = LOW
        self.cannot_start: Exception | None = None
        self.saved = ""
        provider, self.reader = make_provider()
        self.pipeline = Pipeline(
            Knobs(),
            Instruments(provider.get_meter("stage")),
            clock,
            keep_state=self._keep,
            timeline=self._timeline,
            can_end_worker=True,
            on_forced=self._force,
        )

        def card_probe(device: str, environ: Mapping[str, str]) -> Probe:
            assert card is not None
            return CallableProbe(lambda: MemoryReading(card[0], CARD_BYTES), device)

        self.memory = MemoryMonitor(
            self.pipeline.read_memory,
            clock,
            tick_seconds=TICK,
            clock_rate=500.0,  # the sampler's thread waits in the world's seconds
            environ={},
            on_error=lambda error: self.pipeline.error("probe", error),
            card_probe=card_probe,
            first_seconds=SECONDS,
        )
        self.run = RunContext(
            job or RunJob(["driver"], {}),
            self.pipeline,
            self.memory,
            clock,
            tick_seconds=TICK,
            clock_rate=1.0,
            emit=self.events.append,
            logs=logs,
            is_modelled=card is None,
            demoted=set() if demoted is None else demoted,
            spawn=self._spawn,
        )
        slots = [(f"slot{number}", device) for number, device in enumerate(devices)]
        self.at_turn: Callable[[], None] | None = None
        self.supervisor = Supervisor(self.run, slots, self._refresh)
        self.slots: list[Slot] = self.supervisor.slots

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *raised: object) -> None:
        for worker in self.workers:
            worker.may_end.set()
            worker.hang_up()
        for slot in self.slots:
            if slot.worker is not None:
                slot.worker.finish_reading(0.0)
        self.memory.close()
        self.pipeline.close()
        if self._timeline is not None:
            self._timeline.close()

    def _force(self, decision: Decision) -> None:
        self.supervisor.force(decision)

    def _keep(self, state: PolicyState) -> Callable[[], None]:
        self.saved = DurableText().of(state)
        return lambda: None

    def _refresh(self) -> None:
        if self.at_turn is not None:
            self.at_turn()

    def _spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        popen_arguments: Mapping[str, Any],
        stdout: BinaryIO | None,
        stderr: BinaryIO | None,
        is_ours: bool,
    ) -> PlayedWorker:
        if self.cannot_start is not None:
            raise self.cannot_start
        self.workers.append(PlayedWorker(1000 + len(self.workers), argv, env))
        return self.workers[-1]

    # -- the supervisor -----------------------------------------------------------------------------------------------

    @property
    def slot(self) -> Slot:
        """The first slot."""
        return self.slots[0]

    @property
    def worker(self) -> PlayedWorker:
        """The newest worker."""
        return self.workers[-1]

    def begin(self) -> PlayedWorker:
        """Start the first worker of the first slot."""
        self.slot.begin()
        return self.worker

    def turn(self) -> None:
        """What the supervisor does once it is woken."""
        try:
            while True:
                self.run.inbox.get_nowait()()
        except queue.Empty:
            pass
        for slot in self.slots:
            if slot.phase is not Phase.IDLE:
                slot.advance()

    def until(self, holds: Callable[[], object]) -> None:
        """Turn until something holds that another thread brings about."""
        waits = threading.Event()
        for _ in range(int(SECONDS / 0.002)):
            self.turn()
            if holds():
                return
            waits.wait(0.002)
        raise AssertionError("it did not come to that")

    def next_worker(self, count: int) -> PlayedWorker:
        """Turn until so many workers were started; the newest."""
        self.until(lambda: len(self.workers) == count and self.slot.phase is Phase.RUNNING)
        return self.worker

    def tick(self, worker: PlayedWorker | None = None) -> None:
        """One tick: the modelled card is told of, then the policy looks at the clock."""
        self.clock.now += TICK
        if worker is not None and worker.exit_code is None:
            self.tell_memory(worker)
        self.pipeline.tick()
        self.supervisor.tick()

    def tell_memory(self, worker: PlayedWorker) -> None:
        """The worker tells how full the modelled card is."""
        used = round(self.fraction * CARD_BYTES)
        worker.say(messages.Memory("cuda:0", MemoryReading(used, CARD_BYTES), "custom", up=True))
        worker.sync()

    # -- a worker's work ----------------------------------------------------------------------------------------------

    def start_batch(self, worker: PlayedWorker, shard: str, device: str = "cuda:0", batch: int = 1) -> None:
        """A batch is in flight."""
        worker.start(shard, GENES, WORK, device, batch)

    def batch(self, worker: PlayedWorker, shard: str, seconds: float = HEALTHY, *, boundary: bool = True) -> None:
        """One batch, with the ticks that fall into it and its boundary."""
        self.tell_memory(worker)
        self.start_batch(worker, shard)
        until = self.clock.now + seconds
        while self.clock.now + TICK <= until:
            self.tick(worker)
        self.clock.now = until
        worker.finish(seconds)
        if boundary:
            worker.boundary(shard)

    def healthy(self, worker: PlayedWorker, shard: str, count: int = 9) -> None:
        """The warm-up and a whole baseline, on a card with room."""
        self.fraction = LOW
        for _ in range(count):
            self.batch(worker, shard)

    def crawl(self, worker: PlayedWorker, shard: str, kind: str, *, boundary: bool = True) -> Action:
        """Crawl on a full card until a remedy is asked for, which is of this kind."""
        self.fraction = FULL
        for _ in range(40):
            self.batch(worker, shard, SLOW, boundary=boundary)
            for action in worker.actions():
                assert action.kind.value == kind
                return action
        raise AssertionError(f"no {kind}: {self.pipeline.status(shard)}")

    def stuck(self, worker: PlayedWorker, shard: str) -> None:
        """A batch that does not end on a full card, until the supervisor ends the worker for it."""
        self.fraction = FULL
        self.tell_memory(worker)
        self.start_batch(worker, shard)
        for _ in range(1000):
            if worker.exit_code is not None or self.slot.phase is not Phase.RUNNING:
                return
            self.tick(worker)
            self.turn()
        raise AssertionError("it was never ended")

    # -- what is seen of it -------------------------------------------------------------------------------------------

    def starts(self) -> list[tuple[str, str]]:
        """Device and reason of each worker."""
        return [(event.device, event.reason) for event in self.of(events.WorkerStarted)]

    def whys(self) -> list[str]:
        """Why each worker has ended."""
        return [event.why for event in self.of(events.WorkerEnded)]

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """The series of an instrument that are not 0."""
        return {labels: value for labels, value in collected(self.reader).get(name, {}).items() if value}

    def outcomes(self, shard: str = "a") -> dict[str, float]:
        """How the remedies of a shard ended: `{"RECYCLE/applied": 1}`."""
        found: dict[str, float] = {}
        for labels, value in self.series("helix_dense_ladder_actions").items():
            of = dict(label.split("=", 1) for label in labels)
            if of["shard"] == shard and of["action"] != "DETECT":
                found[f"{of['action']}/{of['outcome']}"] = value
        return found


def build_job(
    folder: Path,
    shards: Sequence[str],
    demoted: set[str],
    emit: Callable[[events.Event], None] = lambda event: None,
    clock: Callable[[], float] = lambda: 0.0,
) -> BuildJob:
    """The work of a build whose shards are not there yet."""
    works = [ShardWork(Assignment(name, str(folder / f"{name}.db"), 0)) for name in shards]

    def settings(device: str, number: int) -> WorkerSettings:
        return WorkerSettings("hashing", device, GENES, None, 0, [], number, device)

    # What it shows is looked at elsewhere: it has gauges of its own.
    pipeline = Pipeline(Knobs(), Instruments(make_provider()[0].get_meter("build")), lambda: 0.0)
    return BuildJob(works, settings, {}, demoted, pipeline, emit, clock, lambda device: "")
