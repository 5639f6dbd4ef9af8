"""Windows: one query of performance counters through `pdh.dll`, and one kind of failure for all its calls.

Counters are added by their English names, which work whatever the system's language; a counter with `*` for its
instance answers for all instances that were there at the last collection.

Blocking: collecting asks the providers of the counters, which may take a while. ctypes releases the GIL for the
length of each call.

By the documentation; it has run under Wine only, against a stand-in.

Source: Microsoft, "pdh.h header" (PdhAddEnglishCounterW, PdhCollectQueryData, PdhGetFormattedCounterArrayW) and
"PDH Error Codes". That instances which come later are answered too is not written there: agents rely on it
(DataDog/integrations-core, pull request 13243), and GpuCounters renews its query for the case that it is not so.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from typing import Any

from helix_crawl_otel.probes.probe import sentence

__all__ = ["NO_DATA", "NO_INSTANCE", "PdhFailure", "Query", "load"]

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


class PdhFailure(Exception):
    """A call that did not work.

    Args:
        code: The status, as in pdhmsg.h; `None` when it never came to a call.
        text: One sentence.
    """

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code


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


def load(library: str | None = None) -> Any:
    """Load the library and declare the functions that are used.

    Args:
        library: Path of a library that takes the place of System32's `pdh.dll`; a seam for tests.

    Raises:
        PdhFailure: It cannot be loaded, lacks a function, or this is not Windows.
    """
    if sys.platform != "win32":
        raise PdhFailure(None, "performance counters are of Windows only")
    name = library or "pdh.dll"
    try:
        loaded = ctypes.WinDLL(name) if library else ctypes.WinDLL(name, winmode=_SYSTEM32_ONLY)
    except FileNotFoundError as error:  # its text speaks of ctypes' arguments
        raise PdhFailure(None, f"{name} cannot be loaded: it is not there, or something that it needs") from error
    except OSError as error:
        raise PdhFailure(None, f"{name} cannot be loaded ({sentence(error)})") from error
    for function, arguments in _FUNCTIONS.items():
        try:
            found = getattr(loaded, function)
        except AttributeError:
            raise PdhFailure(None, f"{name} has no {function}") from None
        found.argtypes = arguments
        found.restype = ctypes.c_uint32  # signed in the headers; the codes are written unsigned
    return loaded


class Query:
    """One open query with its counters.

    Args:
        library: What `load` returned.
        paths: English paths of the counters, such as `\\GPU Process Memory(*)\\Shared Usage`.

    Raises:
        PdhFailure: The query cannot be opened, or a counter cannot be added; nothing is left open.

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
            PdhFailure: It did not work.
        """
        self._check("PdhCollectQueryData", self._library.PdhCollectQueryData(self._handle))

    def values(self, path: str) -> list[tuple[str, int | None]]:
        """Instances of one counter at the last collection, with their values.

        Returns:
            Name and value of each; the value is `None` where the system says that it is not valid. A name may come
            more than once: PDH tells instances of one name apart by their order only. Empty without instances.

        Raises:
            PdhFailure: It did not work.
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
            raise PdhFailure(status, f"{function}{f' of {path}' if path else ''} answered {said}")


def _named(item: _Item) -> tuple[str, int | None]:
    value = int(item.FmtValue.largeValue)
    valid = item.FmtValue.CStatus in _VALID and value >= 0
    return item.szName or "", value if valid else None
