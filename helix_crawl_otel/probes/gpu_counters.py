r"""Windows: graphics memory in use, per process and per adapter, from the performance counters.

Under WDDM this is the one place that shows a spill directly: what the driver keeps in system memory is counted as
`Shared Usage`, also per process, where NVML has no figures (INCIDENTS.md, "Other facts").

Not to be relied on further than that:
- nobody has tried this on a real card yet: it has run under Wine, against a stand-in of `pdh.dll`;
- per process it is what has been committed, not what is resident at the moment, which Windows counts apart as `Local
  Usage` and `Non Local Usage` (winsiderss/systeminformer, pull request 2971); Task Manager may show other figures
  (issue 2389 there);
- after a sleep of the machine some processes' figures keep growing (issue 2073 there);
- the counters may lag behind by some seconds.

Source: the names of the instances are those of Windows 10 and 11, such as
`pid_1234_luid_0x00000000_0x0000D1C5_phys_0`; Microsoft does not document them. DirectX Developer Blog, "GPUs in the
task manager", 2017, on what is dedicated and what is shared.
"""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.probes.pdh import PdhFailure, Query, load
from helix_crawl_otel.probes.probe import sentence

__all__ = ["AdapterUsage", "GpuCounters", "GpuUsage", "ProcessUsage"]

PROCESS_DEDICATED = r"\GPU Process Memory(*)\Dedicated Usage"
PROCESS_SHARED = r"\GPU Process Memory(*)\Shared Usage"
ADAPTER_DEDICATED = r"\GPU Adapter Memory(*)\Dedicated Usage"
ADAPTER_SHARED = r"\GPU Adapter Memory(*)\Shared Usage"
PATHS = (PROCESS_DEDICATED, PROCESS_SHARED, ADAPTER_DEDICATED, ADAPTER_SHARED)

RENEWED_AFTER = 12
"""Readings by one query. One a minute at one reading each 5 s: new instances and a driver that was started anew are
seen then at the latest, should PDH not show them by itself."""
_LONGEST_PAUSE = 64

_ADAPTER = r"luid_0x(?P<high>[0-9A-F]+)_0x(?P<low>[0-9A-F]+)_phys_\d+(?:#\d+)?"
_INSTANCE_OF_ADAPTER = re.compile(_ADAPTER, re.ASCII | re.IGNORECASE)
_INSTANCE_OF_PROCESS = re.compile(rf"pid_(?P<pid>\d+)_{_ADAPTER}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What one process has on one adapter.

    Args:
        pid: The process.
        adapter: The adapter's LUID as text, such as `0x00000000_0x0000D1C5`; it lasts until the machine or its driver
            is started anew.
        dedicated_bytes: In the adapter's own memory; 0 or more.
        shared_bytes: In system memory; 0 or more.
    """

    pid: int
    adapter: str
    dedicated_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class AdapterUsage:
    """What all processes have on one adapter; see ProcessUsage."""

    adapter: str
    dedicated_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class GpuUsage:
    """One reading.

    Args:
        processes: In the order of pid and adapter, each pair once. A process whose values are not valid is left out.
        adapters: In the order of their LUIDs, each once.
    """

    processes: tuple[ProcessUsage, ...]
    adapters: tuple[AdapterUsage, ...]


class GpuCounters:
    """Reads graphics memory per process and per adapter.

    After a failure the query is closed and everything is opened again: at the very next call, then with 1, 2, 4 ... up
    to 64 calls left out in between, because a Windows without these counters will not get them while it runs.

    Args:
        library: Path of a library that takes the place of System32's `pdh.dll`; a seam for tests.

    Threads: one thread at a time.
    """

    def __init__(self, library: str | None = None) -> None:
        self.why: str | None = None
        """One sentence: why the last reading is unknown; `None` when it is known."""
        self._name = library
        self._library: Any = None
        self._query: Query | None = None
        self._readings = 0
        self._failures = 0
        self._pause = 0

    def read(self) -> GpuUsage | None:
        """Read now, unless a back-off says to leave this call out. Never raises.

        Returns:
            The usage; `None` when it is unknown, and `why` says why.
        """
        if self._pause > 0:
            self._pause -= 1
            return None
        try:
            usage = self._read()
        except Exception as error:  # noqa: BLE001 - a reading never raises: it is unknown
            self._close_quietly()
            self._pause = min(2 ** (self._failures - 1), _LONGEST_PAUSE) if self._failures else 0
            self._failures = min(self._failures + 1, 32)
            self.why = str(error) if isinstance(error, PdhFailure) else f"performance counters: {sentence(error)}"
            return None
        self._failures = 0
        self.why = None
        return usage

    def close(self) -> None:
        """Give the query back; a later reading opens another one. Never raises."""
        self._close_quietly()

    def _read(self) -> GpuUsage:
        if self._query is not None and self._readings >= RENEWED_AFTER:
            self._close_quietly()
        if self._library is None:
            self._library = load(self._name)
        if self._query is None:
            self._query = Query(self._library, PATHS)
            self._readings = 0
        self._readings += 1
        self._query.collect()
        return usage_of(*(self._query.values(path) for path in PATHS))

    def _close_quietly(self) -> None:
        query, self._query = self._query, None
        if query is not None:
            with contextlib.suppress(OSError):  # what ctypes makes of a crash in the library: nothing is left to close
                query.close()


Values = list[tuple[str, "int | None"]]


def usage_of(
    process_dedicated: Values, process_shared: Values, adapter_dedicated: Values, adapter_shared: Values
) -> GpuUsage:
    """Make a reading of the four lists of instances and values.

    An adapter of several linked cards (`phys_0`, `phys_1`) and instances of one name are summed up. An instance whose
    name has an unknown shape, or that lacks a valid value in either list, is left out: half a value is unknown.

    Raises:
        PdhFailure: There is no adapter and no process in it, or nothing that can be used.
    """
    processes: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    adapters: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for found, dedicated, shared in _pairs(_INSTANCE_OF_PROCESS, process_dedicated, process_shared):
        _add(processes[int(found["pid"]), _luid(found)], dedicated, shared)
    for found, dedicated, shared in _pairs(_INSTANCE_OF_ADAPTER, adapter_dedicated, adapter_shared):
        _add(adapters[_luid(found)], dedicated, shared)
    if not processes and not adapters:
        raise PdhFailure(None, _why_nothing([*process_dedicated, *process_shared, *adapter_dedicated, *adapter_shared]))
    return GpuUsage(
        tuple(ProcessUsage(pid, adapter, *sums) for (pid, adapter), sums in sorted(processes.items())),
        tuple(AdapterUsage(adapter, *sums) for adapter, sums in sorted(adapters.items())),
    )


def _pairs(shape: re.Pattern[str], dedicated: Values, shared: Values) -> Iterable[tuple[re.Match[str], int, int]]:
    sums = [_by_name(dedicated), _by_name(shared)]
    for name, first in sums[0].items():
        second = sums[1].get(name)
        found = shape.fullmatch(name)
        if found is not None and first is not None and second is not None:
            yield found, first, second


def _by_name(values: Values) -> dict[str, int | None]:
    """The sum for each name; `None` when a part of it is not valid."""
    sums: dict[str, int | None] = {}
    for name, value in values:
        before = sums.get(name, 0)
        sums[name] = None if before is None or value is None else before + value
    return sums


def _luid(found: re.Match[str]) -> str:
    return f"0x{found['high'].upper()}_0x{found['low'].upper()}"


def _add(sums: list[int], dedicated: int, shared: int) -> None:
    sums[0] += dedicated
    sums[1] += shared


def _why_nothing(values: Values) -> str:
    if not values:
        return "the performance counters list no graphics adapter"
    known = [name for name, _ in values if _INSTANCE_OF_PROCESS.fullmatch(name) or _INSTANCE_OF_ADAPTER.fullmatch(name)]
    if not known:
        return f"the performance counters name their instances in a way that is not known: {values[0][0]!r}"
    return "the performance counters have no valid value of graphics memory"
