r"""Windows: graphics memory in use, per process and per adapter, from the performance counters (`pdh.dll`).

Under WDDM this is the one place that shows a spill directly: what the driver keeps in system memory is counted as
`Shared Usage`, also per process, where NVML has no figures (INCIDENTS.md, "Other facts").

Not to be relied on further than that:
- nobody has tried this on a real card yet: it is by the documentation and has run under Wine, against a stand-in of
  `pdh.dll`;
- per process it is what has been committed, not what is resident at the moment, which Windows counts apart as `Local
  Usage` and `Non Local Usage` (winsiderss/systeminformer, pull request 2971); Task Manager may show other figures
  (issue 2389 there);
- after a sleep of the machine some processes' figures keep growing (issue 2073 there);
- the counters may lag behind by some seconds.

Counters are added by their English names, which work whatever the system's language; a counter with `*` for its
instance answers for all instances that were there at the last collection.

Blocking: collecting asks the providers of the counters, which may take a while. ctypes releases the GIL for the
length of each call.

Source: Microsoft, "pdh.h header" (PdhAddEnglishCounterW, PdhCollectQueryData, PdhGetFormattedCounterArrayW) and
"PDH Error Codes". That instances which come later are answered too is not written there: agents rely on it
(DataDog/integrations-core, pull request 13243), and GpuCounters renews its query for the case that it is not so.
The names of the instances are those of Windows 10 and 11, such as `pid_1234_luid_0x00000000_0x0000D1C5_phys_0`;
Microsoft does not document them. DirectX Developer Blog, "GPUs in the task manager", 2017, on what is dedicated and
what is shared.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.probes.probe import Backoff, ProbeFailure, sentence

__all__ = ["AdapterUsage", "GpuCounters", "GpuUsage", "ProcessUsage"]

NO_INSTANCE = 0x800007D1
MORE_DATA = 0x800007D2
NO_DATA = 0x800007D5
NO_OBJECT = 0xC0000BB8
NO_COUNTER = 0xC0000BB9
INVALID_ARGUMENT = 0xC0000BBD

_VALID = (0, 1)
"""Status of a value that can be used: valid, and valid and new."""
_LARGE_UNSCALED = 0x400 | 0x1000
"""64-bit integers, without the scale that the counter's maker proposes for charts."""
_MOST_TRIES = 5
_SYSTEM32_ONLY = 0x800

_OLD = "the counters of graphics memory came with version 1709 of Windows 10 and need a driver for WDDM 2.0 or later"
_DAMAGED = "the performance counters of this Windows are damaged or disabled; `lodctr /R` rebuilds them"
_RIGHTS = "the account may have to be in the group Performance Monitor Users"
_WORDS = {
    0x800007D0: "the machine is not found",
    NO_INSTANCE: "no such instance",
    NO_DATA: f"no data; {_RIGHTS}",
    NO_OBJECT: f"no such object; {_OLD}",
    NO_COUNTER: f"no such counter; {_OLD}",
    0xC0000BBA: "the data are not valid",
    0xC0000BBB: "out of memory",
    0xC0000BBC: "the handle is not valid",
    INVALID_ARGUMENT: "an argument is not valid",
    0xC0000BC6: "the data are not valid",
    0xC0000BC8: f"the names cannot be read; {_DAMAGED}",
    0xC0000BD4: f"the name is not found; {_DAMAGED}",
    0xC0000BDB: f"access denied; {_RIGHTS}",
    0xC0000BDF: f"there are no counters; {_DAMAGED}",
    0xC0000BFE: "the counters did not answer in time",
}


class _Value(ctypes.Structure):
    _fields_ = (("CStatus", ctypes.c_uint32), ("largeValue", ctypes.c_int64))


class _Item(ctypes.Structure):
    _fields_ = (("szName", ctypes.c_wchar_p), ("FmtValue", _Value))


_UINT32_P = ctypes.POINTER(ctypes.c_uint32)
_HANDLE_P = ctypes.POINTER(ctypes.c_void_p)
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "PdhOpenQueryW": (ctypes.c_wchar_p, ctypes.c_size_t, _HANDLE_P),
    "PdhAddEnglishCounterW": (ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_size_t, _HANDLE_P),
    "PdhCollectQueryData": (ctypes.c_void_p,),
    "PdhGetFormattedCounterArrayW": (ctypes.c_void_p, ctypes.c_uint32, _UINT32_P, _UINT32_P, ctypes.c_void_p),
    "PdhCloseQuery": (ctypes.c_void_p,),
}


def _load(library: str | None = None) -> Any:
    """Load the library and declare the functions that are used.

    Args:
        library: Path of a library that takes the place of System32's `pdh.dll`; a seam for tests.

    Raises:
        ProbeFailure: It cannot be loaded, lacks a function, or this is not Windows.
    """
    if sys.platform != "win32":
        raise ProbeFailure("performance counters are of Windows only")
    name = library or "pdh.dll"
    try:
        loaded = ctypes.WinDLL(name) if library else ctypes.WinDLL(name, winmode=_SYSTEM32_ONLY)
    except FileNotFoundError as error:  # its text speaks of ctypes' arguments
        raise ProbeFailure(f"{name} cannot be loaded: it is not there, or something that it needs") from error
    except OSError as error:
        raise ProbeFailure(f"{name} cannot be loaded ({sentence(error)})") from error
    for function, arguments in _FUNCTIONS.items():
        try:
            found = getattr(loaded, function)
        except AttributeError:
            raise ProbeFailure(f"{name} has no {function}") from None
        found.argtypes = arguments
        found.restype = ctypes.c_uint32  # signed in the headers; the codes are written unsigned
    return loaded


class _Query:
    """One open query with its counters.

    Args:
        library: What `_load` returned.
        paths: English paths of the counters, such as `\\GPU Process Memory(*)\\Shared Usage`.

    Raises:
        ProbeFailure: The query cannot be opened, or a counter cannot be added; nothing is left open.

    Threads: one at a time.
    """

    def __init__(self, library: Any, paths: Sequence[str]) -> None:
        self._library = library
        self._handle: ctypes.c_void_p | None = None
        self._counters: dict[str, ctypes.c_void_p] = {}
        handle = ctypes.c_void_p()
        self._check("PdhOpenQueryW", library.PdhOpenQueryW(None, 0, ctypes.byref(handle)))
        self._handle = handle
        try:
            for path in paths:
                counter = ctypes.c_void_p()
                status = library.PdhAddEnglishCounterW(handle, path, 0, ctypes.byref(counter))
                self._check("PdhAddEnglishCounterW", status, path)
                self._counters[path] = counter
        except BaseException:
            self.close()
            raise

    def collect(self) -> None:
        """Take the present values of all counters.

        Raises:
            ProbeFailure: It did not work.
        """
        self._check("PdhCollectQueryData", self._library.PdhCollectQueryData(self._handle))

    def values(self, path: str) -> list[tuple[str, int | None]]:
        """Instances of one counter at the last collection, with their values.

        Returns:
            Name and value of each; the value is `None` where the system says that it is not valid. A name may come
            more than once: PDH tells instances of one name apart by their order only. Empty without instances.

        Raises:
            ProbeFailure: It did not work.
        """
        status = MORE_DATA
        for _ in range(_MOST_TRIES):
            # Asked with a size of 0 each time: the size that comes back for one that was too small means nothing.
            size, count = ctypes.c_uint32(0), ctypes.c_uint32(0)
            status = self._array(path, size, count, None)
            if status == NO_INSTANCE or (status == 0 and count.value == 0):
                return []
            if status != MORE_DATA:
                break
            items = (_Item * (size.value // ctypes.sizeof(_Item) + 1))()
            size.value = ctypes.sizeof(items)
            status = self._array(path, size, count, items)
            if status == 0:
                return [_named(item) for item in items[: count.value]]
            if status not in (MORE_DATA, INVALID_ARGUMENT):  # some releases say the latter for a buffer too small
                break
        self._check("PdhGetFormattedCounterArrayW", status or MORE_DATA, path)
        raise AssertionError("unreachable: the status is a failure")

    def close(self) -> None:
        """Give the query and its counters back. A second call does nothing."""
        handle, self._handle = self._handle, None
        self._counters = {}
        if handle:
            self._library.PdhCloseQuery(handle)

    def _array(self, path: str, size: ctypes.c_uint32, count: ctypes.c_uint32, items: Any) -> int:
        get = self._library.PdhGetFormattedCounterArrayW
        return int(get(self._counters[path], _LARGE_UNSCALED, ctypes.byref(size), ctypes.byref(count), items))

    def _check(self, function: str, status: int, path: str | None = None) -> None:
        if status:
            words = _WORDS.get(status)
            said = f"0x{status:08X}" + (f": {words}" if words else "")
            raise ProbeFailure(f"{function}{f' of {path}' if path else ''} answered {said}", status)


def _named(item: _Item) -> tuple[str, int | None]:
    value = int(item.FmtValue.largeValue)
    valid = item.FmtValue.CStatus in _VALID and value >= 0
    return item.szName or "", value if valid else None


PROCESS_DEDICATED = r"\GPU Process Memory(*)\Dedicated Usage"
PROCESS_SHARED = r"\GPU Process Memory(*)\Shared Usage"
ADAPTER_DEDICATED = r"\GPU Adapter Memory(*)\Dedicated Usage"
ADAPTER_SHARED = r"\GPU Adapter Memory(*)\Shared Usage"
PATHS = (PROCESS_DEDICATED, PROCESS_SHARED, ADAPTER_DEDICATED, ADAPTER_SHARED)

RENEWED_AFTER = 12
"""Readings by one query. One a minute at one reading each 5 s: new instances and a driver that was started anew are
seen then at the latest, should PDH not show them by itself."""

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

    After a failure the query is closed and everything is opened again, with calls left out in between (see `Backoff`),
    because a Windows without these counters will not get them while it runs.

    Args:
        library: Path of a library that takes the place of System32's `pdh.dll`; a seam for tests.

    Threads: one thread at a time.
    """

    def __init__(self, library: str | None = None) -> None:
        self.why: str | None = None
        """One sentence: why the last reading is unknown; `None` when it is known."""
        self._name = library
        self._library: Any = None
        self._query: _Query | None = None
        self._readings = 0
        self._backoff = Backoff()

    def read(self) -> GpuUsage | None:
        """Read now, unless a back-off says to leave this call out. Never raises.

        Returns:
            The usage; `None` when it is unknown, and `why` says why.
        """
        if self._backoff.leaves_out():
            return None
        try:
            usage = self._read()
        except Exception as error:  # noqa: BLE001 - a reading never raises: it is unknown
            self.close()
            self._backoff.fail()
            self.why = str(error) if isinstance(error, ProbeFailure) else f"performance counters: {sentence(error)}"
            return None
        self._backoff.succeed()
        self.why = None
        return usage

    def close(self) -> None:
        """Give the query back; a later reading opens another one. Never raises."""
        query, self._query = self._query, None
        if query is not None:
            with contextlib.suppress(OSError):  # what ctypes makes of a crash in the library: nothing is left to close
                query.close()

    def _read(self) -> GpuUsage:
        if self._query is not None and self._readings >= RENEWED_AFTER:
            self.close()
        if self._library is None:
            self._library = _load(self._name)
        if self._query is None:
            self._query = _Query(self._library, PATHS)
            self._readings = 0
        self._readings += 1
        self._query.collect()
        return usage_of(*(self._query.values(path) for path in PATHS))


Values = list[tuple[str, "int | None"]]


def usage_of(
    process_dedicated: Values, process_shared: Values, adapter_dedicated: Values, adapter_shared: Values
) -> GpuUsage:
    """Make a reading of the four lists of instances and values.

    An adapter of several linked cards (`phys_0`, `phys_1`) and instances of one name are summed up. An instance whose
    name has an unknown shape, or that lacks a valid value in either list, is left out: half a value is unknown.

    Raises:
        ProbeFailure: There is no adapter and no process in it, or nothing that can be used.
    """
    processes = _sums(_INSTANCE_OF_PROCESS, process_dedicated, process_shared)
    adapters = _sums(_INSTANCE_OF_ADAPTER, adapter_dedicated, adapter_shared)
    if not processes and not adapters:
        raise ProbeFailure(_why_nothing([*process_dedicated, *process_shared, *adapter_dedicated, *adapter_shared]))
    return GpuUsage(
        tuple(ProcessUsage(pid, adapter, *held) for (pid, adapter), held in sorted(processes.items())),
        tuple(AdapterUsage(adapter, *held) for (_, adapter), held in sorted(adapters.items())),
    )


def _sums(shape: re.Pattern[str], *lists: Values) -> dict[tuple[int, str], list[int]]:
    """Dedicated and shared bytes by process (0 where the shape names none) and adapter."""
    by_name: defaultdict[str, list[list[int | None]]] = defaultdict(lambda: [[] for _ in lists])
    for index, values in enumerate(lists):
        for name, value in values:
            by_name[name][index].append(value)
    sums: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0] * len(lists))
    for name, held in by_name.items():
        found = shape.fullmatch(name)
        if found is None or not all(held) or any(None in parts for parts in held):
            continue
        both = sums[int(found.groupdict().get("pid", 0)), f"0x{found['high'].upper()}_0x{found['low'].upper()}"]
        for index, parts in enumerate(held):
            both[index] += sum(part or 0 for part in parts)
    return sums


def _why_nothing(values: Values) -> str:
    if not values:
        return "the performance counters list no graphics adapter"
    known = [name for name, _ in values if _INSTANCE_OF_PROCESS.fullmatch(name) or _INSTANCE_OF_ADAPTER.fullmatch(name)]
    if not known:
        return f"the performance counters name their instances in a way that is not known: {values[0][0]!r}"
    return "the performance counters have no valid value of graphics memory"
