"""Windows: whose graphics memory lies in system memory, read every tick in a thread of its own.

The worker's or somebody else's, and who holds most.

Of its own, because the performance counters are another library than the one that tells of dedicated memory: what hangs
or fails in one must not keep the other from being read. What is read here is laid over the readings of the other.

Source: DESIGN.md, section 4, rule 6; INCIDENTS.md: shared memory rising is a part of the signature of a spill.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from helix_crawl_otel.formats import gib
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.memory import STALE_SECONDS
from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading
from helix_crawl_otel.probes.gpu_counters import GpuCounters, GpuUsage
from helix_crawl_otel.probes.probe import sentence
from helix_crawl_otel.probes.processes import Process, named, process_tree, processes
from helix_crawl_otel.timing import Ticker

__all__ = ["COUNTERS", "Holder", "SharedSampler", "SharedUse", "shared_use"]

MOST_HOLDERS = 5

COUNTERS: Callable[[], GpuCounters] | None = GpuCounters if sys.platform == "win32" else None
"""What makes the counters of this system; `None` where there are none, which is everywhere but under Windows."""


# -- whose it is ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds graphics memory.

    Args:
        pid: The process.
        name: Of its program, such as `game.exe`; `None` when it is not known.
        dedicated_bytes: In the adapters' own memory.
        shared_bytes: In system memory.
    """

    pid: int
    name: str | None
    dedicated_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class SharedUse:
    """Graphics memory that lies in system memory.

    Args:
        worker_bytes: Of the worker and all it has started, on every adapter.
        other_bytes: Of everybody else, on the adapters that the worker uses; on all while it uses none.
        holders: Who else holds memory of either kind on those adapters: most first, at most 5.
    """

    worker_bytes: int
    other_bytes: int
    holders: tuple[Holder, ...]


def shared_use(usage: GpuUsage, workers: Collection[int], name_of: Callable[[int], str | None]) -> SharedUse:
    """Divide a reading into the worker's share and the others'.

    An adapter counts as used by the worker when a process of it has memory there: a process that only looked at an
    adapter is listed with 0 bytes, and what lies on a second card does not press on the first.

    Args:
        usage: The reading.
        workers: Process ids of the worker and all it has started.
        name_of: The name of a process; asked for the holders only.
    """
    used = {
        process.adapter
        for process in usage.processes
        if process.pid in workers and process.dedicated_bytes + process.shared_bytes > 0
    }
    worker_bytes = sum(process.shared_bytes for process in usage.processes if process.pid in workers)
    others: dict[int, tuple[int, int]] = {}
    for process in usage.processes:
        if process.pid not in workers and (not used or process.adapter in used):
            dedicated, shared = others.get(process.pid, (0, 0))
            others[process.pid] = (dedicated + process.dedicated_bytes, shared + process.shared_bytes)
    most = sorted((-sum(held), pid) for pid, held in others.items() if sum(held) > 0)[:MOST_HOLDERS]
    return SharedUse(
        worker_bytes,
        sum(shared for _, shared in others.values()),
        tuple(Holder(pid, name_of(pid), *others[pid]) for _, pid in most),
    )


# -- reading it -------------------------------------------------------------------------------------------------------


class SharedSampler:
    """Knows shared memory by device, while it is fresh.

    Args:
        open_counters: Makes what is read, in the sampling thread; `None` reads nothing.
        clock: Seconds.
        tick_seconds: On that clock; a reading counts for two of them.
        on_error: Called with what went wrong.
        is_judged: The knob is on: that nothing is known is a warning then.
        table: Lists the processes of this machine; a seam for tests.

    Threads: `sample` runs in the sampler's thread, or, when it was never started, in the owner's; the rest from any.
    `_lock` guards the workers, what was found and the thread, and is not held while anything is read.
    """

    def __init__(
        self,
        open_counters: Callable[[], GpuCounters] | None,
        clock: Callable[[], float],
        tick_seconds: float,
        on_error: Callable[[Exception], None],
        *,
        is_judged: bool = False,
        table: Callable[[], Iterable[Process]] = processes,
    ) -> None:
        self._open = open_counters
        self._clock = clock
        self._fresh_seconds = 2 * tick_seconds
        self._on_error = on_error
        self._level = logging.WARNING if is_judged else logging.INFO
        self._table = table
        self._lock = threading.Lock()
        self._workers: dict[str, tuple[str, int]] = {}  # device and process, by worker
        self._changes = 0  # of the workers: what was read across one is nobody's
        self._found: dict[str, tuple[float, SharedUse]] = {}  # since when, by device
        self._counters: GpuCounters | None = None  # the sampling thread's
        self._asked_at: float | None = None  # set and cleared by the sampling thread
        self._ticker: Ticker | None = None
        self._is_told = False  # that nothing is known; single operations only

    def watch(self, device: str, seconds: float | None) -> None:
        """Read from now on, if there is anything to read for this device.

        Args:
            device: Its name.
            seconds: Between two readings, the world's; `None` starts no thread: the owner calls `sample`.
        """
        if not _is_card(device):
            return
        if self._open is None:
            if self._level == logging.WARNING:
                self._tell("it is read under Windows only, so that HELIX_BFM_CRAWL_SHARED changes nothing here")
            return
        with self._lock:
            if self._ticker is None and seconds is not None:
                ticker = Ticker("helix-crawl-shared-memory", self.sample, seconds, self._on_error)
                self._ticker = ticker.start()

    def stop(self) -> None:
        """End the thread, if the counters let it, and give them back."""
        with self._lock:
            ticker, self._ticker = self._ticker, None
        if ticker is None or ticker.stop():
            counters, self._counters = self._counters, None
            if counters is not None:
                counters.close()

    # -- whose --------------------------------------------------------------------------------------------------------

    def start_worker(self, worker: str, device: str, pid: int) -> None:
        """A process encodes on a device from now on, with all that it starts; on another than a card it holds nothing
        that is of interest."""
        self._change(worker, (device, pid) if _is_card(device) else None)

    def forget_worker(self, worker: str) -> None:
        """It is gone, and what it held with it."""
        self._change(worker, None)

    def _change(self, worker: str, to: tuple[str, int] | None) -> None:
        with self._lock:
            before = self._workers.pop(worker, None)
            if to is not None:
                self._workers[worker] = to
            for device, _ in filter(None, (before, to)):
                self._found.pop(device, None)
            self._changes += 1

    # -- reading ------------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Read once, if there is a worker to read for. Never raises."""
        with self._lock:
            workers, changes = dict(self._workers), self._changes
        if self._open is None or not workers:
            return
        found: dict[str, tuple[float, SharedUse]] = {}
        try:
            self._asked_at = self._clock()
            if self._counters is None:
                self._counters = self._open()
            usage = self._counters.read()
            if usage is None:
                self._tell(self._counters.why or "no reason is known")
            else:
                found = self._divide(usage, workers)
        except Exception as error:  # noqa: BLE001 - counted and logged; the other readings and the run go on
            self._on_error(error)
            self._tell(sentence(error))
        finally:
            self._asked_at = None
            with self._lock:
                if self._changes == changes:
                    self._found = found

    def _divide(self, usage: GpuUsage, workers: dict[str, tuple[str, int]]) -> dict[str, tuple[float, SharedUse]]:
        table = tuple(self._table())
        names = {process.pid: process.name for process in table}
        t = self._clock()
        found: dict[str, tuple[float, SharedUse]] = {}
        for device in {device for device, _ in workers.values()}:
            family = {pid for at, root in workers.values() if at == device for pid in process_tree(root, table)}
            if any(held.pid in family and held.dedicated_bytes + held.shared_bytes for held in usage.processes):
                found[device] = (t, shared_use(usage, family, names.get))
        return found

    def check(self) -> None:
        """Report counters that have not answered for 60 s."""
        asked_at = self._asked_at
        if asked_at is not None and self._clock() - asked_at > STALE_SECONDS:
            self._asked_at = None  # once
            self._on_error(TimeoutError("the performance counters have not answered for 60 s"))

    # -- what is known ------------------------------------------------------------------------------------------------

    def lay_over(self, device: str, reading: MemoryReading) -> MemoryReading:
        """A reading of the device's memory with what is known of shared memory. What it knows itself stays."""
        found = self._newest(device)
        if found is None or reading.shared_bytes is not None:
            return reading
        return replace(reading, shared_bytes=found.worker_bytes, other_shared_bytes=found.other_bytes)

    def tell_holders(self, action: Action) -> None:
        """Log who else holds memory of the device of a crawl, as far as it is known. A hook, which vetoes nothing."""
        if action.kind is ActionKind.DETECT and self._newest(action.device) is not None:
            others = self.holders(action.device) or "nobody"
            text = "beside the worker, memory of %s is held by %s"
            watchdog.warning(text, action.device, others)

    def holders(self, device: str) -> str:
        """Who else holds memory of a device, such as `game.exe (pid 7) 6.10 GiB`; empty where that is not known."""
        found = self._newest(device)
        return "" if found is None else ", ".join(map(_shown, found.holders))

    def _newest(self, device: str) -> SharedUse | None:
        with self._lock:
            found = self._found.get(device)
        return found[1] if found is not None and self._clock() - found[0] <= self._fresh_seconds else None

    def _tell(self, why: str) -> None:
        if not self._is_told:
            self._is_told = True
            watchdog.log(self._level, "shared GPU memory is unknown: %s", why)


def _is_card(device: str) -> bool:
    return device.startswith("cuda")


def _shown(holder: Holder) -> str:
    shared = f" and {gib(holder.shared_bytes, 2)} shared" if holder.shared_bytes else ""
    return f"{named(holder.name, holder.pid)} {gib(holder.dedicated_bytes, 2)}{shared}"
