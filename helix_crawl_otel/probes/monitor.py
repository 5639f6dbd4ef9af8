"""Reads the memory of every device in use, each in a thread of its own, so that a driver that hangs stops nothing else.

Embedded in a job it reads what the job's own process sees. In the supervisor NVML and the control group are read: a
worker that is wedged cannot keep that from happening. What a framework has reserved is known inside its process only,
so the worker tells it; what it told longer ago than two ticks is unknown. Under Windows shared memory is read beside
it, of each worker's process and all that it has started.

Source: DESIGN.md, sections 4 (rule 6), 5 and 7. The supervisor never makes a CUDA context.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from helix_crawl_otel.formats import gib
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.memory import STALE_SECONDS
from helix_crawl_otel.policy.model import UNKNOWN_DEVICE, Action, CardReading, MemoryReading
from helix_crawl_otel.probes.cards import device_processes, listed
from helix_crawl_otel.probes.cgroup import CgroupProbe
from helix_crawl_otel.probes.cuda_order import card_variables, same_card, shown_count
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.gpu_counters import GpuCounters
from helix_crawl_otel.probes.nvml import NvmlProbe, list_cards, within
from helix_crawl_otel.probes.probe import UNKNOWN, CombinedProbe, Probe, ProbeFailure
from helix_crawl_otel.probes.processes import Process, processes
from helix_crawl_otel.probes.shared import COUNTERS, SharedSampler
from helix_crawl_otel.probes.torch_cuda import TorchProbe
from helix_crawl_otel.timing import Ticker

__all__ = ["FIRST_SECONDS", "Deliver", "MemoryMonitor", "ReportedProbe", "default_probe"]

Deliver = Callable[[str, MemoryReading, Mapping[str, bool]], None]
"""Takes a device, its reading, and for each source whether it answered."""

FRESH_TICKS = 2

FIRST_SECONDS = 2.0
"""What a supervisor waits for the first reading of a card, of the world's: with it the gate knows what was in use
before the worker. A driver that hangs keeps no worker from starting."""

HOLDERS_SECONDS = 2.0
"""What a list of a card's processes is waited for, of the world's."""

OWN = "custom"
"""Source of a reading that stands for the device in place of ours: the driver's own probe, or a modelled card."""


def default_probe(
    device: str,
    environ: Mapping[str, str],
    *,
    card: Callable[[str, Mapping[str, str]], Probe] = NvmlProbe,
    framework: Callable[[str], Probe] = TorchProbe,
) -> CombinedProbe:
    """The probes for one device when the caller names none.

    Args:
        device: `cpu`, `cuda` (which means `cuda:0`), `cuda:N`, or another kind of torch's, such as `mps`.
        environ: The environment of the process that encodes.
        card: Makes what reads the whole card.
        framework: Makes what knows what the framework holds there.

    Returns:
        Card and framework for `cuda`; the control group for `cpu`; for any other kind a probe that is always unknown
        and says so. Its `device` is the full name.

    Raises:
        ValueError: `device` is no device name.
    """
    name = parse_device(device)
    if name.kind == "cuda":
        return CombinedProbe([card(str(name), environ), framework(str(name))])
    if name.kind == "cpu":
        return CombinedProbe([CgroupProbe()])
    return CombinedProbe([_NoProbe(str(name))])


class _NoProbe(Probe):
    """Of a kind of device that nothing here can read."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.source = parse_device(device).kind

    def _read(self) -> MemoryReading:
        raise ProbeFailure(f"no memory probe for {self.source} devices")


class ReportedProbe(Probe):
    """Answers with what the workers of a device told last: of several the fullest counts, and the one nearest to its
    cap.

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
        fullest = max(fresh, key=lambda reading: reading.fraction or 0.0)
        capped = max(fresh, key=lambda reading: reading.cap_fraction or 0.0)
        return replace(fullest, reserved_bytes=capped.reserved_bytes, cap_bytes=capped.cap_bytes)


@dataclass(slots=True)
class _Device:
    """A device in use.

    Args:
        probe: Of the sampling thread; `None` where workers alone tell of it.
        ticker: That thread; `None` without one.
        reported: What the workers' frameworks hold, a part of the probe; `None` where they tell nothing.
        owner: The worker whose own probe stands for the device, empty before its first reading; `None` without one.
        newest: The last reading that counts; `None` when unknown.
        is_read: Set once a first reading is there.
        asked_at: Since when an answer is awaited; set and cleared by the sampling thread.
        told: What was said of it in the log, once each.
    """

    probe: CombinedProbe | None = None
    ticker: Ticker | None = None
    reported: ReportedProbe | None = None
    owner: str | None = None
    newest: MemoryReading | None = None
    is_read: threading.Event = field(default_factory=threading.Event)
    asked_at: float | None = None
    told: set[str] = field(default_factory=set)


class MemoryMonitor:
    """Delivers the readings of all devices in use.

    Args:
        deliver: Where they go. A reading that is lost is delivered as unknown, with all its sources down.
        clock: Seconds.
        tick_seconds: Between two readings, on that clock.
        clock_rate: Seconds of that clock a second of the world's.
        on_error: Called with what went wrong in a thread that reads.
        environ: Of the workers, for the numbering of cards.
        has_threads: False where the owner reads with `tick`.
        first_seconds: For how long the first reading of a card is waited for.
        hint: What an unknown memory means, for the log.
        judges_shared: The knob `shared` is on.
        deliver_card: Where goes what a card says of itself beside its memory, after each reading.
        probe_of: Makes what reads a device; `None` for NVML with what the workers tell, or the control group.
        card_probe: Makes what reads a card in place of NVML; a seam for tests.
        counters: Makes what reads shared memory, `None` for nothing; a seam for tests.
        table: Lists the processes of this machine; likewise.

    Threads: any; `_lock` guards the devices and readings. `_passing_on` is held from the question whose reading counts
    until it has been passed on: a reading of ours must not come after the worker's that stands in its place. With
    `probe_of` no worker tells anything and it is no lock: a hook of the job may hang in a delivery, or tick from it.
    """

    def __init__(
        self,
        deliver: Deliver,
        clock: Callable[[], float],
        *,
        tick_seconds: float,
        on_error: Callable[[Exception], None],
        clock_rate: float = 1.0,
        environ: Mapping[str, str] | None = None,
        has_threads: bool = True,
        first_seconds: float = 0.0,
        hint: str = "nothing trips there until it is known",
        judges_shared: bool = False,
        deliver_card: Callable[[str, CardReading], None] = lambda device, card: None,
        probe_of: Callable[[str], CombinedProbe] | None = None,
        card_probe: Callable[[str, Mapping[str, str]], Probe] = NvmlProbe,
        counters: Callable[[], GpuCounters] | None = COUNTERS,
        table: Callable[[], Iterable[Process]] = processes,
    ) -> None:
        self._pass_on = deliver
        self._deliver_card = deliver_card
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._between = tick_seconds / clock_rate if has_threads else None
        self._environ: Mapping[str, str] = {} if environ is None else environ
        self._on_error = on_error
        self._first_seconds = first_seconds
        self._hint = hint
        self._probe_of = probe_of
        self._card_probe = card_probe
        self._lock = threading.Lock()
        self._passing_on: AbstractContextManager[object] = threading.Lock() if probe_of is None else nullcontext()
        self._devices: dict[str, _Device] = {}
        self._hidden: dict[int, tuple[int, Mapping[str, str]]] = {}
        """Cards that `environ` does not show, by number: that of a process that sees it, and its variables."""
        self._counts_shared = counters is not None  # else nobody's share is ever known
        self._shared = SharedSampler(counters, clock, tick_seconds, on_error, is_judged=judges_shared, table=table)

    def watch(self, device: str, *, is_modelled: bool = False) -> None:
        """Read this device from now on, if it is not read yet; a modelled one is told of by its workers alone.

        A card's first reading is waited for, for a moment. Of one that is unknown there is nothing to read.
        """
        if device == UNKNOWN_DEVICE:
            return
        with self._lock:
            is_known = device in self._devices
            one = self._devices.setdefault(device, _Device())
            if is_modelled:
                one.owner = one.owner or ""
            if is_known or is_modelled:
                return
            probe = one.probe = self._probe_of(device) if self._probe_of else self._workers_probe(device, one)
            if self._between is not None:
                read = partial(self._read, device, one, probe)
                try:
                    one.ticker = Ticker(f"helix-crawl-memory-{device}", read, self._between, self._on_error).start()
                except RuntimeError:  # the system has no thread to give just now; another call tries again
                    del self._devices[device]
                    raise
        self._shared.watch(device, self._between)
        if device != "cpu" and one.ticker is not None:
            one.is_read.wait(self._first_seconds)

    def devices(self) -> list[str]:
        """What is read, in the order in which that began."""
        with self._lock:
            return [device for device, one in self._devices.items() if one.probe is not None]

    # -- workers ------------------------------------------------------------------------------------------------------

    def name_of(self, device: str, cards: Mapping[str, str]) -> str:
        """What a device is called here that a process with these variables calls so; see `card_variables`.

        A card that the environment of the workers does not show gets the next number behind those that it does.
        """
        if not device.startswith("cuda") or cards == card_variables(self._environ):
            return device
        name = parse_device(device)
        try:
            there = within(HOLDERS_SECONDS, list_cards)
        except ProbeFailure:
            there = []
        number = same_card(name.index, cards, self._environ, there)
        with self._lock:
            for known, (index, theirs) in self._hidden.items():
                if number is None and same_card(name.index, cards, theirs, there) == index:
                    number = known
            if number is None:
                number = shown_count(self._environ, there) + len(self._hidden)
                self._hidden[number] = name.index, dict(cards)
        return f"cuda:{number}"

    def report(self, worker: str, device: str, reading: MemoryReading, source: str, up: bool) -> None:
        """Take what a worker has read."""
        if source == OWN:
            with self._passing_on:
                with self._lock:
                    one = self._devices.setdefault(device, _Device())
                    one.owner, one.newest = worker, reading
                self._pass_on(device, reading, {source: up})
            return
        with self._lock:
            known = self._devices.get(device)
        if known is not None and known.reported is not None:
            known.reported.tell(worker, reading)

    def start_worker(self, worker: str, device: str, pid: int) -> None:
        """A process encodes on a device from now on."""
        if self._counts_shared:
            self._shared.start_worker(worker, device, pid)

    def forget_worker(self, worker: str) -> None:
        """A worker is gone, and what it told of its memory with it."""
        if self._counts_shared:
            self._shared.forget_worker(worker)
        with self._lock:
            for one in self._devices.values():
                if one.owner == worker:
                    one.newest = None
                if one.reported is not None:
                    one.reported.forget(worker)

    # -- what is known ------------------------------------------------------------------------------------------------

    def used(self, device: str) -> int | None:
        """Bytes in use at the newest reading, `None` when unknown."""
        with self._lock:
            one = self._devices.get(device)
        return one.newest.used_bytes if one and one.newest else None

    def describe(self, device: str) -> str:
        """Such as `11.2 GiB of 12.0 GiB in use, held by python.exe (pid 812) 6144 MiB`; empty where nothing is known.

        Comes back within two seconds, also where a driver hangs.
        """
        one, known = self._known(device), []
        reading = one.newest
        if reading is not None and reading.used_bytes is not None and reading.limit_bytes is not None:
            known.append(f"{gib(reading.used_bytes)} of {gib(reading.limit_bytes)} in use")
        holders = self._shared.holders(device)
        if not holders and one.owner is None and device.startswith("cuda"):
            holders = listed(device_processes(*self._seen(device), HOLDERS_SECONDS).processes)
        if holders:
            known.append(f"held by {holders}")
        return ", ".join(known)

    def tell_holders(self, action: Action) -> None:
        """Log who else holds memory of the device of a crawl, as far as it is known. A hook, which vetoes nothing."""
        self._shared.tell_holders(action)

    # -- reading ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Read where no thread does, and report as lost what has not answered for 60 s."""
        with self._lock:
            devices = dict(self._devices)
        if self._between is None:
            self._shared.sample()
        self._shared.check()
        for device, one in devices.items():
            if one.probe is None:
                continue
            if self._between is None:
                self._read(device, one, one.probe)
            asked_at = one.asked_at
            if asked_at is not None and self._clock() - asked_at > STALE_SECONDS:
                self._tell(device, one, "unknown", self._hint, f"no answer for {STALE_SECONDS:g} s")
                self._take(device, one, UNKNOWN, dict.fromkeys(one.probe.sources(), False))
                self._deliver_card(device, CardReading())

    def close(self) -> None:
        """End the threads, if what they read lets them."""
        with self._lock:
            tickers = [one.ticker for one in self._devices.values() if one.ticker is not None]
            self._devices = {}
        for ticker in tickers:
            ticker.stop()
        self._shared.stop()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _known(self, device: str) -> _Device:
        with self._lock:
            return self._devices.get(device, _Device())

    def _workers_probe(self, device: str, one: _Device) -> CombinedProbe:
        def framework(name: str) -> Probe:
            one.reported = ReportedProbe(name, FRESH_TICKS * self._tick_seconds, self._clock)
            return one.reported

        return default_probe(*self._seen(device), card=self._card_probe, framework=framework)

    def _seen(self, device: str) -> tuple[str, Mapping[str, str]]:
        """A device as a process with these variables calls it, which sees it."""
        hidden = self._hidden.get(parse_device(device).index) if device.startswith("cuda") else None
        return (device, self._environ) if hidden is None else (f"cuda:{hidden[0]}", hidden[1])

    def _read(self, device: str, one: _Device, probe: CombinedProbe) -> None:
        one.asked_at = self._clock()
        reading = probe()
        one.asked_at = None
        sources = probe.sources()
        if reading.fraction is None:
            self._tell(device, one, "unknown", self._hint, probe.why)
        elif sources.get(NvmlProbe.source) is False:
            hint = "what other programs hold there is not seen"
            self._tell(device, one, "what torch itself holds", hint, probe.why)
        self._take(device, one, reading, sources)
        if one.owner is None:
            one.asked_at = self._clock()
            card = probe.read_card()
            one.asked_at = None
            self._deliver_card(device, card)

    def _tell(self, device: str, one: _Device, what: str, hint: str, why: str | None) -> None:
        """Log that memory is not known, or not all of it."""
        if what not in one.told and one.owner is None:
            one.told.add(what)
            level = logging.INFO if device == "cpu" else logging.WARNING
            watchdog.log(level, "memory of %s is %s (%s): %s", device, what, why, hint)

    def _take(self, device: str, one: _Device, reading: MemoryReading, sources: Mapping[str, bool]) -> None:
        with self._passing_on:
            with self._lock:
                if one.owner is not None:
                    return
                one.newest = reading
            one.is_read.set()
            self._pass_on(device, self._shared.lay_over(device, reading), sources)
