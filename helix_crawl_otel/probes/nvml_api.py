"""A thin layer over nvidia-ml-py: late import, and one kind of failure instead of three.

Blocking: every function here may block for as long as the driver does, for seconds at a first start, for ever on a
wedged driver. ctypes releases the GIL for the length of each call, so the job's threads run on. None of the
functions creates a CUDA context.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.probes.probe import sentence

__all__ = [
    "FUNCTION_NOT_FOUND",
    "NOT_AVAILABLE",
    "NOT_SUPPORTED",
    "UNINITIALIZED",
    "VERSION_MISMATCH",
    "NvmlFailure",
    "NvmlMemory",
    "call",
    "memory_v1",
    "memory_v2",
]

UNINITIALIZED = 1
NOT_SUPPORTED = 3
FUNCTION_NOT_FOUND = 13
VERSION_MISMATCH = 25

_MEMORY_V2 = 0x02000028
"""Version 2 and the 40 bytes of the structure: without it the call answers 25."""
NOT_AVAILABLE = 2**64 - 1
"""NVML's "not available" in a field of 64 bits, seen under WDDM."""


class NvmlFailure(Exception):
    """A call that did not work.

    Args:
        code: NVML's error number; `None` when it never came to a call (package missing).
        text: One sentence.
    """

    def __init__(self, code: int | None, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class NvmlMemory:
    """Memory of a card: bytes, each 0 or more.

    Args:
        total: Physical memory.
        free: What can still be allocated.
        reserved: Set aside by driver and firmware; `None` where only version 1 answers.
    """

    total: int
    free: int
    reserved: int | None

    @property
    def used(self) -> int:
        """Everything that is not free, the driver's own share included.

        Both versions give the same number this way. `used` does not: version 1 contains the reserved bytes, and of
        version 2 the documents say both (R525: "used also includes reserved"; drivers answer without it), so a
        fallback would move the reading. Nor is the total reduced by the reserved bytes: full is 1.0 either way, and
        the limit stays the size printed on the card, which the operators' figures and the knob refer to.
        """
        return self.total - self.free


def call(name: str, *args: object) -> Any:
    """Call one function of `pynvml`.

    Returns:
        What it returns.

    Raises:
        NvmlFailure: For every way not to work: the package or the library is missing, the driver answers an error,
            the binding does not know the function or raises its `NVMLLibraryMismatchError`, which is no `NVMLError`.
    """
    try:
        module = importlib.import_module("pynvml")
    except ImportError:
        raise NvmlFailure(None, "the package nvidia-ml-py is not installed") from None
    try:
        return getattr(module, name)(*args)
    except Exception as error:
        if isinstance(error, getattr(module, "NVMLError", ())):
            code = int(getattr(error, "value", 999))
            raise NvmlFailure(code, f"NVML: {_text(error)} (error {code} from {name})") from error
        mismatch = getattr(module, "NVMLLibraryMismatchError", AttributeError)
        if isinstance(error, (AttributeError, TypeError, mismatch)):  # TypeError: a binding older than version 2
            raise NvmlFailure(FUNCTION_NOT_FOUND, f"NVML: this driver or binding has no {name}") from error
        raise NvmlFailure(None, f"NVML: {name} raised {sentence(error)}") from error


def memory_v2(handle: object) -> NvmlMemory:
    """Memory by `nvmlDeviceGetMemoryInfo_v2`.

    Raises:
        NvmlFailure: The call did not work, or its answer cannot be used.
    """
    return _checked(call("nvmlDeviceGetMemoryInfo", handle, _MEMORY_V2), has_reserved=True)


def memory_v1(handle: object) -> NvmlMemory:
    """Memory by the call that every driver has.

    Raises:
        NvmlFailure: The call did not work, or its answer cannot be used.
    """
    return _checked(call("nvmlDeviceGetMemoryInfo", handle), has_reserved=False)


def _checked(info: Any, *, has_reserved: bool) -> NvmlMemory:
    total, free, used = int(info.total), int(info.free), int(info.used)
    reserved = int(info.reserved) if has_reserved else None
    if NOT_AVAILABLE in (total, free, used, reserved):
        raise NvmlFailure(None, "NVML: the value is not available (the driver answered 2^64-1)")
    if total == 0 or free > total or used > total:
        raise NvmlFailure(None, f"NVML: an impossible answer: {used} used and {free} free of {total} bytes")
    return NvmlMemory(total, free, reserved)


def _text(error: Exception) -> str:
    """The error's words; asking for them is a call into the library and may fail as well."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the words of an error are not worth another one
        return "no text"
