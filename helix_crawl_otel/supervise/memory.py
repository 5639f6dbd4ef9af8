"""Reads the memory of every device in use, in the supervisor, and takes in what the workers see of it themselves.

NVML and the control group are read here: a worker that is wedged cannot keep that from happening. What a framework has
reserved is known inside its process only, so the worker tells it; what it told longer ago than two ticks is unknown.
Under Windows shared memory is read beside it, of each worker's process and all that it has started.

Source: DESIGN.md, sections 4 (rule 6), 5 and 7. The supervisor never makes a CUDA context.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from helix_crawl_otel.formats import gib
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.policy.model import Action, MemoryReading
from helix_crawl_otel.probes.cards import device_processes, listed
from helix_crawl_otel.probes.cgroup import CgroupProbe
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.gpu_counters import GpuCounters
from helix_crawl_otel.probes.monitor import MemorySampler
from helix_crawl_otel.probes.nvml import NvmlProbe
from helix_crawl_otel.probes.probe import UNKNOWN, CombinedProbe, Probe, ProbeFailure, UnknownProbe
from helix_crawl_otel.probes.processes import Process, processes
from helix_crawl_otel.probes.shared import COUNTERS, SharedSampler

__all__ = ["MemoryWatch", "ReportedProbe"]

logger = logging.getLogger("helix_crawl_otel")

FRESH_TICKS = 2

FIRST_SECONDS = 2.0
"""What the first reading of a card is waited for, of the world's: with it the gate knows what was in use before the
worker. A driver that hangs keeps no worker from starting."""

HOLDERS_SECONDS = 2.0
"""What a list of a card's processes is waited for, of the world's."""

OWN = "custom"
"""Source of a reading that stands for the device in place of ours: the driver's own probe, or a modelled card."""


class ReportedProbe(Probe):
    """Answers with what the workers of a device told last: of several the fullest counts.

    Args:
        device: Its name.
        fresh_seconds: For how long a reading counts.
        clock: Seconds.

    Threads: `tell` and `forget` from any, single operations only; the rest from the sampler's.
    """

    source = "torch"

    def __init__(self, device: str, fresh_seconds: float, clock: Callable[[], float]) -> None:
        super().__init__(device)
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._told: dict[str, tuple[float, MemoryReading]] = {}  # by worker

    def tell(self, worker: str, reading: MemoryReading) -> None:
        """Take a reading made in a worker just now."""
        self._told[worker] = (self._clock(), reading)

    def forget(self, worker: str) -> None:
        """A worker is gone, and what it held with it."""
        self._told.pop(worker, None)

    def _read(self) -> MemoryReading:
        now = self._clock()
        fresh = [reading for t, reading in list(self._told.values()) if now - t <= self._fresh_seconds]
        if not fresh:
            raise ProbeFailure("no worker has told what its framework holds")
        return max(fresh, key=lambda reading: reading.fraction or 0.0)


class MemoryWatch:
    """The samplers of a run.

    Args:
        pipeline: Where readings go.
        clock: Seconds.
        tick_seconds: On that clock.
        clock_rate: Seconds of that clock a second of the world's.
        environ: Of the workers, for the numbering of cards.
        on_error: Called with what went wrong in a sampler.
        judges_shared: The knob `shared` is on.
        card_probe: Makes what reads a card in this process; a seam for tests.
        counters: Makes what reads shared memory, `None` for nothing; a seam for tests.
        table: Lists the processes of this machine; likewise.
        first_seconds: For how long the first reading of a card is waited for; likewise.

    Threads: any; `_lock` guards the samplers and readings. `_passing_on` is held from the question whose reading counts
    until it has been passed on: a reading of ours must not come after the worker's that stands in its place.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        clock: Callable[[], float],
        *,
        tick_seconds: float,
        clock_rate: float,
        environ: Mapping[str, str],
        on_error: Callable[[Exception], None],
        judges_shared: bool = False,
        card_probe: Callable[[str, Mapping[str, str]], Probe] = NvmlProbe,
        counters: Callable[[], GpuCounters] | None = COUNTERS,
        table: Callable[[], Iterable[Process]] = processes,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._clock_rate = clock_rate
        self._environ = environ
        self._on_error = on_error
        self._card_probe = card_probe
        self._first_seconds = first_seconds
        self._lock = threading.Lock()
        self._passing_on = threading.Lock()
        self._samplers: dict[str, MemorySampler] = {}
        self._reported: dict[str, ReportedProbe] = {}
        self._newest: dict[str, MemoryReading] = {}
        self._owned: dict[str, str] = {}  # devices whose memory a worker's own probe stands for, and which worker told
        self._told: set[str] = set()  # devices whose memory was said to be unknown
        self._shared = SharedSampler(counters, clock, tick_seconds, on_error, is_judged=judges_shared, table=table)

    def watch(self, device: str, *, is_modelled: bool = False) -> None:
        """Read this device from now on, if it is not read yet; a modelled one is told of by its workers alone.

        A card's first reading is waited for, for a moment.
        """
        read = threading.Event()
        with self._lock:
            if is_modelled:
                self._owned.setdefault(device, "")
            if device in self._samplers or device in self._owned:
                return
            probe = CombinedProbe(self._probes(device))
            deliver = partial(self._deliver, probe, read)
            sampler = MemorySampler(device, probe, deliver, self._lose, self._clock, self._on_error)
            self._samplers[device] = sampler
        seconds = self._tick_seconds / self._clock_rate
        sampler.start(seconds)
        self._shared.watch(device, seconds)
        if device != "cpu":
            read.wait(self._first_seconds)

    def report(self, worker: str, device: str, reading: MemoryReading, source: str, up: bool) -> None:
        """Take what a worker has read."""
        if source == OWN:
            with self._passing_on:
                with self._lock:
                    self._owned[device] = worker
                    self._newest[device] = reading
                self._pipeline.read_memory(device, reading, {source: up})
            return
        with self._lock:
            probe = self._reported.get(device)
        if probe is not None:
            probe.tell(worker, reading)

    def start_worker(self, worker: str, device: str, pid: int) -> None:
        """A process encodes on a device from now on."""
        self._shared.start_worker(worker, device, pid)

    def forget_worker(self, worker: str) -> None:
        """A worker is gone, and what it told of its memory with it."""
        self._shared.forget_worker(worker)
        with self._lock:
            for device, told_by in self._owned.items():
                if told_by == worker:
                    self._newest.pop(device, None)
            for probe in self._reported.values():
                probe.forget(worker)

    def used(self, device: str) -> int | None:
        """Bytes in use at the newest reading, `None` when unknown."""
        with self._lock:
            reading = self._newest.get(device)
        return reading.used_bytes if reading else None

    def describe(self, device: str) -> str:
        """Such as `11.2 GiB of 12.0 GiB in use, held by python.exe (pid 812) 6144 MiB`; empty where nothing is known.

        Comes back within two seconds, also where a driver hangs.
        """
        with self._lock:
            reading, is_owned = self._newest.get(device), device in self._owned
        known = []
        if reading is not None and reading.used_bytes is not None and reading.limit_bytes is not None:
            known.append(f"{gib(reading.used_bytes)} of {gib(reading.limit_bytes)} in use")
        holders = self._shared.holders(device)
        if not holders and not is_owned and parse_device(device).kind == "cuda":
            holders = self._asked_holders(device)
        if holders:
            known.append(f"held by {holders}")
        return ", ".join(known)

    def _asked_holders(self, device: str) -> str:
        found: list[str] = []
        asking = threading.Thread(
            target=lambda: found.append(listed(device_processes(device, self._environ).processes)),
            name="helix-crawl-holders",
            daemon=True,
        )
        asking.start()
        asking.join(HOLDERS_SECONDS)
        return found[0] if found else ""

    def tell_holders(self, action: Action) -> None:
        """Log who else holds memory of the device of a crawl, as far as it is known. A hook, which vetoes nothing."""
        self._shared.tell_holders(action)

    def check(self) -> None:
        """Report as lost what has hung for too long. Called at each tick."""
        self._shared.check()
        with self._lock:
            samplers = list(self._samplers.values())
        for sampler in samplers:
            sampler.check()

    def close(self) -> None:
        """End the threads."""
        with self._lock:
            samplers, self._samplers = list(self._samplers.values()), {}
        for sampler in samplers:
            sampler.stop()
        self._shared.stop()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _probes(self, device: str) -> list[Probe]:
        name = parse_device(device)
        if name.kind == "cpu":
            return [CgroupProbe()]
        if name.kind != "cuda":
            return [UnknownProbe(device, name.kind, f"no memory probe for {name.kind} devices")]
        self._reported[device] = ReportedProbe(device, FRESH_TICKS * self._tick_seconds, self._clock)
        return [self._card_probe(device, self._environ), self._reported[device]]

    def _deliver(
        self,
        probe: CombinedProbe,
        read: threading.Event,
        device: str,
        reading: MemoryReading,
        sources: Mapping[str, bool],
    ) -> None:
        with self._passing_on:
            with self._lock:
                if device in self._owned:
                    return
                self._newest[device] = reading
                is_news = reading.fraction is None and device not in self._told
                if is_news:
                    self._told.add(device)
            if is_news:
                level = logging.INFO if device == "cpu" else logging.WARNING
                text = "[crawl-watchdog] memory of %s is unknown (%s): nothing trips there"
                logger.log(level, text, device, probe.why)
            read.set()
            self._pipeline.read_memory(device, self._shared.lay_over(device, reading), sources)

    def _lose(self, device: str, sources: Mapping[str, bool]) -> None:
        with self._passing_on:
            with self._lock:
                if device in self._owned:
                    return
                self._newest.pop(device, None)
            self._pipeline.read_memory(device, self._shared.lay_over(device, UNKNOWN), sources)
