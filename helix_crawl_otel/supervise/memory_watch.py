"""Reads the memory of every device in use, in the supervisor, and takes in what the workers see of it themselves.

NVML and the control group are read here: a worker that is wedged cannot keep that from happening. What a framework has
reserved is known inside its process only, so the worker tells it; what it told longer ago than two ticks is unknown.

Source: DESIGN.md, sections 4 (rule 6), 5 and 7. The supervisor never makes a CUDA context.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial

from helix_crawl_otel.core.model import MemoryReading
from helix_crawl_otel.memory.cgroup import CgroupProbe
from helix_crawl_otel.memory.combined import CombinedProbe
from helix_crawl_otel.memory.device import parse_device
from helix_crawl_otel.memory.nvml import NvmlProbe
from helix_crawl_otel.memory.probe import UNKNOWN, Probe, UnknownProbe
from helix_crawl_otel.memory.sampler import MemorySampler
from helix_crawl_otel.otel.pipeline import Pipeline

__all__ = ["MemoryWatch", "ReportedProbe"]

logger = logging.getLogger("helix_crawl_otel")

FRESH_TICKS = 2
OWN = "custom"
"""Source of a reading that stands for the device in place of ours: the driver's own probe, or a modelled card."""


class ReportedProbe:
    """Answers with what the workers of a device told last.

    Args:
        device: Its name.
        fresh_seconds: For how long a reading counts.
        clock: Seconds.

    Threads: `tell` from any, the rest from the sampler's.
    """

    source = "torch"

    def __init__(self, device: str, fresh_seconds: float, clock: Callable[[], float]) -> None:
        self.device = device
        self.why: str | None = None
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._told: tuple[float, MemoryReading] | None = None  # replaced whole

    def tell(self, reading: MemoryReading) -> None:
        """Take a reading made in a worker just now."""
        self._told = (self._clock(), reading)

    def __call__(self) -> MemoryReading:
        """The newest reading, while it counts."""
        told = self._told
        if told is None or self._clock() - told[0] > self._fresh_seconds:
            self.why = "no worker has told what its framework holds"
            return UNKNOWN
        self.why = None
        return told[1]


class MemoryWatch:
    """The samplers of a run.

    Args:
        pipeline: Where readings go.
        clock: Seconds.
        tick_seconds: On that clock.
        clock_rate: Seconds of that clock a second of the world's.
        environ: Of the workers, for the numbering of cards.
        on_error: Called with what went wrong in a sampler.

    Threads: any; `_lock` guards the samplers and readings.
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
    ) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._clock_rate = clock_rate
        self._environ = environ
        self._on_error = on_error
        self._lock = threading.Lock()
        self._samplers: dict[str, MemorySampler] = {}
        self._reported: dict[str, ReportedProbe] = {}
        self._newest: dict[str, MemoryReading] = {}
        self._owned: set[str] = set()  # devices whose memory the workers' own probe stands for
        self._told: set[str] = set()  # devices whose memory was said to be unknown

    def watch(self, device: str, *, is_modelled: bool = False) -> None:
        """Read this device from now on, if it is not read yet; a modelled one is told of by its workers alone."""
        with self._lock:
            if is_modelled:
                self._owned.add(device)
            if device in self._samplers or device in self._owned:
                return
            probe = CombinedProbe(self._probes(device))
            deliver = partial(self._deliver, probe)
            sampler = MemorySampler(device, probe, deliver, self._lose, self._clock, self._on_error)
            self._samplers[device] = sampler
        sampler.start(self._tick_seconds / self._clock_rate)

    def report(self, device: str, reading: MemoryReading, source: str, up: bool) -> None:
        """Take what a worker has read."""
        if source == OWN:
            with self._lock:
                self._owned.add(device)
                self._newest[device] = reading
            self._pipeline.read_memory(device, reading, {source: up})
            return
        with self._lock:
            probe = self._reported.get(device)
        if probe is not None:
            probe.tell(reading)

    def forget_worker(self, device: str) -> None:
        """A device's worker is gone, and what it told of itself with it."""
        with self._lock:
            if device in self._owned:
                self._newest.pop(device, None)

    def used(self, device: str) -> int | None:
        """Bytes in use at the newest reading, `None` when unknown."""
        with self._lock:
            reading = self._newest.get(device)
        return reading.used_bytes if reading else None

    def reading(self, device: str) -> MemoryReading:
        """The newest reading."""
        with self._lock:
            return self._newest.get(device, UNKNOWN)

    def check(self) -> None:
        """Report as lost what has hung for too long. Called at each tick."""
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

    # -- inside -------------------------------------------------------------------------------------------------------

    def _probes(self, device: str) -> list[Probe]:
        name = parse_device(device)
        if name.kind == "cpu":
            return [CgroupProbe()]
        if name.kind != "cuda":
            return [UnknownProbe(device, name.kind, f"no memory probe for {name.kind} devices")]
        self._reported[device] = ReportedProbe(device, FRESH_TICKS * self._tick_seconds, self._clock)
        return [NvmlProbe(device, self._environ), self._reported[device]]

    def _deliver(self, probe: CombinedProbe, device: str, reading: MemoryReading, sources: Mapping[str, bool]) -> None:
        with self._lock:
            if device in self._owned:
                return
            self._newest[device] = reading
            is_news = reading.fraction is None and device not in self._told
            if is_news:
                self._told.add(device)
        if is_news:
            level = logging.INFO if device == "cpu" else logging.WARNING
            logger.log(level, "[crawl-watchdog] memory of %s is unknown (%s): nothing trips there", device, probe.why)
        self._pipeline.read_memory(device, reading, sources)

    def _lose(self, device: str, sources: Mapping[str, bool]) -> None:
        with self._lock:
            self._newest.pop(device, None)
        self._pipeline.read_memory(device, UNKNOWN, sources)
