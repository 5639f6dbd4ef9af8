"""Windows: what the system lets a process take of a card's dedicated memory, by DXGI (`dxgi.dll`).

Under WDDM a process may take its budget of the dedicated memory, which is below the size of the card and shrinks while
others use it; what is taken beyond goes to the memory of the system. The card is found by its LUID, which CUDA tells
(`nvcuda.dll`): `cuInit` makes no context, and takes no memory of the card.

Nobody has tried this on a real card yet: it is by the documentation, and has run under Wine, whose DXGI answers. Cards
under MCDM and TCC are no adapters of DXGI: they have no budget, and it is said so.

Source: Microsoft, "IDXGIAdapter3::QueryVideoMemoryInfo", "IDXGIFactory4::EnumAdapterByLuid" and `dxgi1_4.idl`, whose
order of methods is the order of the tables below; NVIDIA, CUDA Driver API, `cuDeviceGetLuid`.

Blocking: the calls ask the driver, and ctypes releases the GIL for the length of each.
"""

from __future__ import annotations

import ctypes
import sys
import uuid
from collections.abc import Callable
from typing import Any

from helix_crawl_otel.probes.probe import ProbeFailure, sentence

__all__ = ["driver_budget"]


class _Luid(ctypes.Structure):
    _fields_ = (("LowPart", ctypes.c_uint32), ("HighPart", ctypes.c_int32))


class _MemoryInfo(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("Budget", "CurrentUsage", "AvailableForReservation", "CurrentReservation")
    )


_FACTORY_4 = uuid.UUID("1bc6ea02-ef36-464f-bf0c-21ca39e5168a").bytes_le
_ADAPTER_3 = uuid.UUID("645967a4-1392-4310-a798-8053ce3e93fd").bytes_le
_RELEASE, _ENUM_ADAPTER_BY_LUID, _QUERY_VIDEO_MEMORY_INFO = 2, 26, 14
"""Places of the methods in the tables of IUnknown, IDXGIFactory4 and IDXGIAdapter3."""

_TAKES: dict[int, tuple[Any, ...]] = {
    _RELEASE: (),
    _ENUM_ADAPTER_BY_LUID: (_Luid, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)),
    _QUERY_VIDEO_MEMORY_INFO: (ctypes.c_uint, ctypes.c_int, ctypes.POINTER(_MemoryInfo)),
}
"""What they take behind the object."""

_FIRST_NODE, _LOCAL = 0, 0
_SYSTEM32_ONLY = 0x800


def _system_library(name: str) -> Any:
    if sys.platform != "win32":
        raise OSError(f"{name} is of Windows only")
    return ctypes.WinDLL(name, winmode=_SYSTEM32_ONLY)


def driver_budget(ordinal: int, load: Callable[[str], Any] = _system_library) -> int:
    """What Windows lets this process take of a card's dedicated memory now, in bytes, all that it has taken included.

    Args:
        ordinal: N of `cuda:N`, as this process numbers its cards.
        load: Loads a library of the system's; a seam for tests.

    Raises:
        ProbeFailure: It is not known: this is no Windows, the card is no adapter of DXGI, or something is too old.

    Threads: any.
    """
    if sys.platform != "win32":
        raise ProbeFailure("a driver's budget is told under Windows only")
    try:
        return _budget(load("dxgi.dll"), _luid(load("nvcuda.dll"), ordinal))
    except (OSError, AttributeError) as error:  # a library is not there, or lacks a function
        raise ProbeFailure(f"DXGI: {sentence(error)}") from error


def _luid(cuda: Any, ordinal: int) -> _Luid:
    """Which adapter of Windows a card of CUDA's is."""
    device, nodes, luid = ctypes.c_int(), ctypes.c_uint(), _Luid()
    for name, arguments in (
        ("cuInit", (ctypes.c_uint(0),)),
        ("cuDeviceGet", (ctypes.byref(device), ctypes.c_int(ordinal))),
        ("cuDeviceGetLuid", (ctypes.byref(luid), ctypes.byref(nodes), device)),
    ):
        code = getattr(cuda, name)(*arguments)
        if code != 0:
            raise ProbeFailure(f"DXGI: {name} of CUDA's driver answered {code}")
    return luid


def _budget(dxgi: Any, luid: _Luid) -> int:
    factory, adapter, info = ctypes.c_void_p(), ctypes.c_void_p(), _MemoryInfo()
    _check("CreateDXGIFactory1", dxgi.CreateDXGIFactory1(_FACTORY_4, ctypes.byref(factory)))
    try:
        found = _call(factory, _ENUM_ADAPTER_BY_LUID, luid, _ADAPTER_3, ctypes.byref(adapter))
        _check("EnumAdapterByLuid", found)
        try:
            queried = _call(adapter, _QUERY_VIDEO_MEMORY_INFO, _FIRST_NODE, _LOCAL, ctypes.byref(info))
            _check("QueryVideoMemoryInfo", queried)
        finally:
            _call(adapter, _RELEASE)
    finally:
        _call(factory, _RELEASE)
    if info.Budget == 0:
        raise ProbeFailure("DXGI: the adapter has no budget of its own memory")
    return int(info.Budget)


def _call(this: ctypes.c_void_p, place: int, *arguments: Any) -> int:
    """Call a method of a COM object, by its place in the object's table."""
    if sys.platform != "win32":
        raise OSError("COM is of Windows only")
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p))).contents
    method = ctypes.WINFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, *_TAKES[place])(table[place] or 0)
    return int(method(this, *arguments))


def _check(name: str, result: int) -> None:
    if result < 0:
        raise ProbeFailure(f"DXGI: {name} answered 0x{result & 0xFFFFFFFF:08X}")
