"""Sets a supervised run up and takes it down again: instruments, endpoint, policy, timeline, state, ticker. Its loop
waits for what happens, lets each slot look, and ends when all slots are over.

Source: DESIGN.md, sections 3.3, 6 and 7. It never imports torch and never touches an API that makes a CUDA context.
"""

from __future__ import annotations

import errno
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from opentelemetry.metrics import MeterProvider

from helix_crawl_otel._version import __version__
from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, NEVER, PAUSED
from helix_crawl_otel.interrupts import Interrupts
from helix_crawl_otel.lacks import is_passing, lack_sentence
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.exporters import Exporters, Exporting, present_provider
from helix_crawl_otel.otel.instruments import instruments_of
from helix_crawl_otel.paths import TIMELINE, job_folder
from helix_crawl_otel.policy.model import Decision
from helix_crawl_otel.policy.policy import TICK_SECONDS
from helix_crawl_otel.probes.monitor import FIRST_SECONDS, MemoryMonitor
from helix_crawl_otel.statefile import LadderFiles
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.job import Job
from helix_crawl_otel.supervise.rules import Ending
from helix_crawl_otel.supervise.run_state import RunContext, do_what_came
from helix_crawl_otel.supervise.slot import Phase, Slot
from helix_crawl_otel.timeline import TimelineWriter
from helix_crawl_otel.timing import RunningClock, Ticker, awake_clock, scaled_clock

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.trace import TracerProvider

    from helix_crawl_otel.otel.endpoint import MetricsEndpoint

__all__ = ["Metrics", "RunOptions", "Session", "Supervisor", "open_metrics"]


@dataclass(frozen=True)
class Metrics:
    """Where instruments are made and shown, where spans and log records go, and who sends all of that away.

    Args:
        provider: `None` for the global one.
        endpoint: `None` when nothing is served.
        exporting: Is closed with the run, while the gauges still show its end.
        tracers: `None` where nobody asks for spans.
        loggers: `None` where nobody asks for log records.
    """

    provider: MeterProvider | None = None
    endpoint: MetricsEndpoint | None = None
    exporting: Exporting | None = None
    tracers: TracerProvider | None = None
    loggers: LoggerProvider | None = None


_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What passes, and says nothing of the address."""


def open_metrics(
    host: str,
    port: int,
    *,
    insists: bool,
    note: Callable[[str, str], None],
    exporters: Exporters,
    serves: bool = True,
    out: IO[str] = sys.stderr,
) -> Metrics:
    """Serve the metrics of this process, and send what the environment asks for. Providers that are there are used.

    Args:
        host: Where to listen.
        port: 0 takes a free one.
        insists: The port was asked for by name: when it is in use the run stops instead of going on with a free one.
        note: Called with a level and a sentence: what is sent where; when another port than `port` is taken, or none
            for want of descriptors or memory.
        exporters: What is sent.
        serves: There is an endpoint, if we make the provider.
        out: Where an exporter to the console writes.

    Raises:
        OSError: It cannot be listened there; the message says why.
        ConfigError: An exporter refuses its variables.
    """
    environ = exporters.environ
    present = {kind: present_provider(kind, environ) for kind in ("meter", "tracer", "logger")}
    theirs = [one for one in present.values() if one is not None]
    exporting = Exporting(exporters, theirs)
    for sentence in exporters.sentences(present):
        note("info", sentence)
    if exporters.is_disabled:
        return Metrics(exporting=exporting)
    try:
        make = exporters.readers(out) if present["meter"] is None else list

        def readers() -> list[Any]:
            exporting.own += (made := make())
            return made

        tracers = exporters.tracer_provider(out) if present["tracer"] is None else None
        loggers = exporters.logger_provider(out) if present["logger"] is None else None
        endpoint = _serve(host, port, readers, insists, note) if serves and present["meter"] is None else None
        if endpoint is None and not exporting.own and (found := readers()):
            from helix_crawl_otel.otel.endpoint import set_meter_provider

            set_meter_provider(found)
    except BaseException:
        exporting.close(lambda: True)
        raise
    exporting.own += [one for one in (tracers, loggers) if one is not None]
    return Metrics(None, endpoint, exporting, tracers or present["tracer"], loggers or present["logger"])


def _serve(
    host: str, port: int, readers: Callable[[], list[Any]], insists: bool, note: Callable[[str, str], None]
) -> MetricsEndpoint | None:
    from helix_crawl_otel.otel.endpoint import open_endpoint  # late: with a server, and TLS beside it

    try:
        return open_endpoint(host, port, readers)
    except OSError as error:
        if error.errno in _LACKS:
            note("warning", f"{error.strerror}; the run goes on and serves no metrics")
            return None
        if insists:
            raise
        try:
            endpoint = open_endpoint(host, 0, readers)
        except OSError:
            raise error from None  # it is the host; of port 0 nobody has heard
        note("warning", f"{error.strerror}; the metrics are at {endpoint.url} instead")
        return endpoint
    except RuntimeError as error:
        if not is_passing(error):
            raise
        note("warning", f"{lack_sentence(error)}; the run goes on and serves no metrics")
        return None


def _timeline(path: Path, clock: Callable[[], float], metrics: Metrics) -> TimelineWriter:
    """Where somebody asks for spans or log records it tells of them too; nobody else has anything of it."""
    if metrics.tracers is None and metrics.loggers is None:
        return TimelineWriter(path, clock)
    from helix_crawl_otel.otel.signals import TracedTimeline

    return TracedTimeline(path, clock, metrics.tracers, metrics.loggers)


LADDER = "ladder.json"


@dataclass(frozen=True)
class RunOptions:
    """What a supervised run is told beside its job.

    Args:
        config: The knobs of the rule.
        folder: Where timeline, ladder state and logs are kept; made if need be.
        encoder: Identity of the encoder, for baselines; empty when the driver alone knows.
        slots: Name and device of each slot.
        environ: Of the workers.
        keeps_logs: Workers write to log files in `folder`.
        is_modelled: A modelled card is laid over the workers' devices.
        clock_rate: Fault injection: seconds of the run's clock a second of the world's.
        places: In which folder the ladder of a shard is kept, and under which name there; of other shards, in `folder`.
    """

    config: CrawlConfig
    folder: Path
    encoder: str
    slots: Sequence[tuple[str, str]]
    environ: Mapping[str, str]
    keeps_logs: bool
    is_modelled: bool = False
    clock_rate: float = 1.0
    places: Mapping[str, tuple[Path, str]] = field(default_factory=dict)


class Supervisor:
    """Runs slots until their work is done.

    Args:
        run: What they share.
        devices: Name and device of each slot.
        refresh: Called at every turn, for the display.

    Threads: `run` is the main thread's where it is to hear interrupts, `force`, `pause` and `tick` any.
    """

    def __init__(self, run: RunContext, devices: Sequence[tuple[str, str]], refresh: Callable[[], None]) -> None:
        self._run = run
        self._refresh = refresh
        self._insisted = False
        self.slots = [Slot(name, device, run) for name, device in devices]

    def force(self, decision: Decision) -> None:
        """The policy wants a worker ended."""
        self._run.wake(lambda: self._force(decision))

    def _force(self, decision: Decision) -> None:
        for slot in self.slots:
            slot.force(decision)

    def pause(self) -> None:
        """Somebody who is no signal wants a pause."""
        self._run.wake(self._pause)

    def tick(self) -> None:
        """The policy has looked at the clock: tell the workers what it wants."""
        for slot in self.slots:
            slot.tick()

    def run(self) -> int:
        """Supervise until every slot is over.

        Returns:
            The exit code, as far as the workers decide it; failed shards and genes are the job's to add.
        """
        with Interrupts(lambda times: self._run.wake(lambda: self._interrupted(times)), self._run.world_clock):
            try:
                for slot in self.slots:
                    slot.begin()
                while any(slot.phase is not Phase.OVER for slot in self.slots):
                    self._turn()
            except BaseException:
                for slot in self.slots:
                    slot.abandon()
                raise
        return self._exit_code()

    def _turn(self) -> None:
        do_what_came(self._run.inbox)
        for slot in self.slots:
            slot.advance()
        if self._run.ends_early() and not self._run.pausing:
            self._pause()
        self._refresh()

    def _interrupted(self, times: int) -> None:
        self._run.emit(events.Interrupted(self._run.clock(), times))
        if times == 1:
            self._pause()
            return
        self._insisted = True
        for slot in self.slots:
            slot.end_worker("interrupt")

    def _pause(self) -> None:
        self._run.pausing = True
        for slot in self.slots:
            slot.pause()

    def _exit_code(self) -> int:
        endings = [ending for ending, _ in self._run.endings]
        if self._insisted:
            return INTERRUPTED
        if Ending.NEVER in endings:
            return NEVER
        if self._run.is_paused:
            return PAUSED
        return FAILED if self._run.failures else DONE


class Session:
    """A supervised run, set up. Use it in a `with` block.

    Args:
        options: See there.
        metrics: Where the instruments are made, and what else is told by OpenTelemetry.
        emit: Takes each event; called from any thread.
        refresh: Called at every turn of the supervisor.
        keep: Takes what has the gauges shown no longer, to be called when nobody looks any more; `None`: at the end.

    Raises:
        OSError: The folder cannot be written.

    Threads: the main thread's.
    """

    def __init__(
        self,
        options: RunOptions,
        metrics: Metrics,
        emit: Callable[[events.Event], None],
        refresh: Callable[[], None],
        keep: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        self.config = options.config
        self._options = options
        self._emit = emit
        self._refresh = refresh
        self._supervisor: Supervisor | None = None
        self._closing = ExitStack()
        self.folder = options.folder
        # Nothing in this process holds the GIL: a long time between two looks is one in which it did not run.
        self.clock = scaled_clock(RunningClock(awake_clock()), options.clock_rate)
        options.folder.mkdir(parents=True, exist_ok=True)
        self.timeline = _timeline(options.folder / TIMELINE, self.clock, metrics)
        self._closing.callback(self.timeline.close)
        self.timeline_start = Path(self.timeline.path).stat().st_size  # bytes, of the runs before this one
        places = {name: (folder / LADDER, key) for name, (folder, key) in options.places.items()}
        ladders = LadderFiles(options.folder / LADDER, places)
        state = ladders.load(options.encoder)
        self.demoted = {name for name, shard in state.shards.items() if shard.ladder.is_demoted}
        self.timeline.run(
            config={**asdict(options.config), "tick_seconds": TICK_SECONDS},
            encoder=options.encoder,
            host=platform.node(),
            state=state,
            folder=str(job_folder(options.folder)),
            package=__version__,
        )
        self.pipeline = Pipeline(
            options.config,
            instruments_of(metrics.provider, __version__),
            self.clock,
            tick_seconds=TICK_SECONDS,
            state=state,
            keep_state=ladders.keep,
            timeline=self.timeline,
            can_end_worker=True,
            on_forced=lambda decision: self._supervisor.force(decision) if self._supervisor else None,
        )
        (keep or self._closing.callback)(self.pipeline.hide)
        self._closing.callback(self.pipeline.close)
        self.pipeline.hooks.extend(self.timeline.hooks)
        self.memory = MemoryMonitor(
            self.pipeline.read_memory,
            self.clock,
            tick_seconds=TICK_SECONDS,
            clock_rate=options.clock_rate,
            environ=options.environ,
            on_error=lambda error: self.pipeline.error("probe", error),
            first_seconds=FIRST_SECONDS,
            judges_shared=options.config.shared,
            deliver_card=self.pipeline.read_card,
        )
        self.pipeline.hooks.append(self.memory.tell_holders)
        self._closing.callback(self.memory.close)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def supervise(self, job: Job) -> tuple[RunContext, int]:
        """Run the job's workers to their end. Returns what was counted, and the exit code as far as workers decide."""
        options = self._options
        run = RunContext(
            job,
            self.pipeline,
            self.memory,
            self.clock,
            tick_seconds=TICK_SECONDS,
            clock_rate=options.clock_rate,
            emit=self._emit,
            logs=options.folder if options.keeps_logs else None,
            is_modelled=options.is_modelled,
            demoted=self.demoted,
        )
        supervisor = self._supervisor = Supervisor(run, options.slots, self._refresh)
        ticker = Ticker(
            "helix-crawl-ticker",
            lambda: self._tick(supervisor),
            TICK_SECONDS / options.clock_rate,
            lambda error: self.pipeline.error("policy", error),
        ).start()
        try:
            return run, supervisor.run()
        finally:
            ticker.stop()

    def pause(self) -> None:
        """Have the workers of a job that is supervised finish their batches and leave; as an interrupt does.

        Threads: any.
        """
        if self._supervisor is not None:
            self._supervisor.pause()

    def _tick(self, supervisor: Supervisor) -> None:
        self.memory.tick()
        self.pipeline.tick()
        supervisor.tick()
