"""What runs behind an embedded watch: one pipeline, a ticker, a monitor of memory; made anew after a fork."""

from __future__ import annotations

import os
import platform
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from opentelemetry.metrics import MeterProvider

from helix_crawl_otel._version import __version__
from helix_crawl_otel.config import CrawlConfig, environment
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel import instruments
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.logline import action_line
from helix_crawl_otel.otel.run_gauges import embedded_run
from helix_crawl_otel.policy.model import Action, MemoryReading
from helix_crawl_otel.policy.policy import TICK_SECONDS, Policy
from helix_crawl_otel.policy.state import PolicyState
from helix_crawl_otel.probes.gpu_counters import GpuCounters
from helix_crawl_otel.probes.monitor import MemoryMonitor, default_probe
from helix_crawl_otel.probes.probe import CallableProbe, CombinedProbe
from helix_crawl_otel.probes.processes import ProcessorUse
from helix_crawl_otel.probes.shared import COUNTERS
from helix_crawl_otel.statefile import StateFile
from helix_crawl_otel.timeline import TimelineWriter
from helix_crawl_otel.timing import SleepMeter, Ticker
from helix_crawl_otel.watch.backend import Backend, WatchedShard

__all__ = ["LocalBackend"]


class LocalBackend(Backend):
    """One pipeline in this process, with its threads; see `Backend`.

    Args:
        config: The knobs.
        meter_provider: The app's, `None` for the global one.
        memory: Somebody's probe, `None` for the package's own.
        clock: Seconds, not counting sleep.
        tick_seconds: `None` starts no thread.
        state: File of the ladder's state, `None` to keep none.
        timeline: File of the flight recorder, `None` to record nothing.
        encoder: Identity of the encoder, for baselines that outlive the process.
        counters: Makes what reads shared memory beside the package's own probe, `None` for nothing; a seam for tests.

    Threads: any. `_devices` guards the workers, the ticker and what is closed.
    """

    pipeline: Pipeline

    def __init__(
        self,
        config: CrawlConfig,
        *,
        meter_provider: MeterProvider | None,
        memory: Callable[[], MemoryReading] | None,
        clock: Callable[[], float],
        tick_seconds: float | None,
        state: Path | None,
        timeline: Path | None,
        encoder: str,
        counters: Callable[[], GpuCounters] | None = COUNTERS,
    ) -> None:
        self.clock = clock
        self.sleep = SleepMeter(clock)
        self._config = config
        self._memory = memory
        self._counters = counters if memory is None else None
        self._tick_seconds = tick_seconds
        self._hub = instruments.instruments_of(meter_provider, __version__)
        self._state_file = StateFile(state) if state is not None else None
        self._shards: weakref.WeakSet[WatchedShard] = weakref.WeakSet()  # those that the driver still holds
        self._timeline, unopened = self._open_timeline(timeline)
        loaded = self._state_file.load(encoder) if self._state_file else PolicyState(encoder=encoder)
        self._resumed = bool(loaded.shards or loaded.cards.cards)
        self._reset(loaded)
        if self._counters is not None:
            self.pipeline.hooks.append(self._tell_holders)
        if self._timeline is not None:
            self.pipeline.hooks += self._timeline.hooks
        if unopened is not None:
            self.report("timeline", unopened)
        if self._timeline is not None:
            ticks = {"tick_seconds": tick_seconds or TICK_SECONDS}
            self._timeline.run(config=asdict(config) | ticks, encoder=encoder, host=platform.node(), state=loaded)
        _live.add(self)

    def _open_timeline(self, path: Path | None) -> tuple[TimelineWriter | None, OSError | None]:
        """A timeline that cannot be opened is no reason for the job not to run."""
        on_failure = self._on_error("timeline")
        try:
            if any(asked := [_asks_for(signal) for signal in ("TRACES", "LOGS")]):
                from helix_crawl_otel.otel.signals import global_timeline  # late: few ask for spans

                return global_timeline(path, self.clock, *asked, on_failure=on_failure), None
            return None if path is None else TimelineWriter(path, self.clock, on_failure=on_failure), None
        except OSError as error:
            return None, error

    def _reset(self, state: PolicyState) -> None:
        self._devices = threading.Lock()
        self._workers: set[str] = set()
        self._ticker: Ticker | None = None
        self.is_closed = False
        self._processor_use = ProcessorUse()
        self._run = embedded_run(self._hub)
        self._run.begin(self._config, state.encoder)
        ticks = self._tick_seconds or TICK_SECONDS
        self.pipeline = Pipeline(
            self._config,
            self._hub,
            self.clock,
            tick_seconds=ticks,
            state=state,
            keep_state=self._state_file.keep if self._state_file else None,
            timeline=self._timeline,
        )
        self._monitor = MemoryMonitor(
            self.pipeline.read_memory,
            self.clock,
            tick_seconds=ticks,
            on_error=self._on_error("probe"),
            has_threads=self._tick_seconds is not None,
            hint="nothing trips; pass memory=, or see the probe's reason",
            judges_shared=self._config.shared and self._memory is None,
            deliver_card=self.pipeline.read_card,
            probe_of=self._probe,
            counters=self._counters,
        )

    # -- what a supervisor would decide -------------------------------------------------------------------------------

    may_exit = False
    """Nothing is known to restart this process: a library must not end a job that nobody restarts."""

    def device_of(self, device: str, *, is_said: bool = True) -> str:
        """The driver's word counts, and the default where it has none."""
        return device

    def admit(self, shard: str) -> None:
        """Every shard is welcome."""

    def belongs_on_cpu(self, shard: str) -> bool:
        """By what an earlier process, or this one, has kept."""
        return self.pipeline.ask(Policy.is_demoted, shard)

    def arrive(self, shard: str, *, may_pause: bool = True) -> None:
        """What was decided on the last batch is in the queue already."""

    def tell(self, happened: str, action: Action, what: str) -> None:
        """Log what came of an action."""
        watchdog.warning("%s", action_line(happened, action, what))

    # -- workers and devices ------------------------------------------------------------------------------------------

    def run_worker(self, device: str, reason: str | None = None) -> None:
        """See `Backend`. No reason is `first`, or `resume` where an earlier process left its state."""
        with self._devices:
            self._run_threads()
            known = device in self._workers
            self._workers.add(device)
            # The caller's probe goes on reading the card that the driver has just left for the CPU.
            if not self.is_closed and (self._memory is None or device != "cpu" or not self._monitor.devices()):
                self._monitor.watch(device)
        if not known:
            self._monitor.start_worker(device, device, os.getpid())
            self.pipeline.start_worker(device, device, reason or ("resume" if self._resumed else "first"), os.getpid())

    def add_shard(self, shard: WatchedShard) -> None:
        """See `Backend`."""
        self._shards.add(shard)

    def hold_shard(self, shard: str) -> None:
        """Nobody waits for its end."""

    def leave_device(self, device: str) -> None:
        """A shard's encoder has moved away. When it was the last there and comes back, it counts as a new worker."""
        with self._devices:
            if any(shard.is_open and shard.device == device for shard in list(self._shards)):
                return
            self._workers.discard(device)
        self._monitor.forget_worker(device)
        self.pipeline.stop_worker(device)

    def close(self, state: str = "done") -> None:
        """See `Backend`."""
        with self._devices:
            was_closed, self.is_closed = self.is_closed, True
            ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.stop()
        self._monitor.close()
        for device in sorted(self._workers):
            self.guarded("driver", partial(self.pipeline.stop_worker, device))
        self.guarded("driver", self.pipeline.close)
        self.pipeline.hide()
        if not was_closed:
            self._run.end(state)
        if self._timeline is not None:
            self._timeline.close()
        _live.discard(self)

    def tick(self) -> None:
        """Look at the clock and, where no thread does, at the memory; on the CPU, whether the driver is busy."""
        now = self.clock()
        is_due = "cpu" in self._workers and self._processor_use.is_due(now)
        if is_due and self._processor_use.feed(now, sum(os.times()[:4])):
            self.pipeline.use_processor("cpu")
        self._monitor.tick()
        self.pipeline.tick()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _run_threads(self) -> None:
        if self._ticker is None and self._tick_seconds is not None and not self.is_closed:
            on_error = self._on_error("policy")
            self._ticker = Ticker("helix-crawl-ticker", self.tick, self._tick_seconds, on_error).start()

    def _probe(self, device: str) -> CombinedProbe:
        if self._memory is None:
            return default_probe(device, environment())
        return CombinedProbe([CallableProbe(self._memory, device)])

    def _tell_holders(self, action: Action) -> None:
        self._monitor.tell_holders(action)

    def _on_error(self, place: str) -> Callable[[Exception], None]:
        return partial(self.report, place)

    def after_fork(self) -> None:
        """In a forked child: locks of its own, threads when it needs them, none of the parent's files."""
        hooks = self.pipeline.hooks
        if self._timeline is not None:
            self._timeline.abandon()
            hooks = [hook for hook in hooks if hook not in self._timeline.hooks]
        self._timeline, self._state_file = None, None
        self._reset(PolicyState())
        self.pipeline.hooks.extend(hooks)
        for shard in list(self._shards):
            shard.after_fork()


def _asks_for(signal: str) -> bool:
    """Whether the environment has this signal exported: by the job's own provider, since we make it none."""
    return environment().get(f"OTEL_{signal}_EXPORTER", "").strip().lower() not in ("", "none")


_live: weakref.WeakSet[LocalBackend] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    instruments.after_fork()
    for backend in list(_live):
        try:
            backend.after_fork()
        except Exception as error:  # noqa: BLE001 - one watch that cannot start anew must not take the others down
            watchdog.warning("a watch cannot go on in the forked child: %r", error)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
