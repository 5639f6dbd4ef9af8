"""Reads a card's dedicated memory through NVML: device-wide, so it sees every process, and from any process.

This is the probe of the supervisor: it needs no CUDA context, and nothing here creates one. Under WDDM it is
device-wide as well; only per-process figures are not available there (INCIDENTS.md, "Other facts").

The binding is nvidia-ml-py, imported late; its several kinds of failure become one.

Blocking: every function here may block for as long as the driver does, for seconds at a first start, for ever on a
wedged driver. ctypes releases the GIL for the length of each call, so the job's threads run on; `within` waits no
longer than it is told. A read took 42 us.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from helix_crawl_otel.config import environment
from helix_crawl_otel.policy.model import CardReading, MemoryReading
from helix_crawl_otel.probes.cuda_order import CardId, place
from helix_crawl_otel.probes.device import parse_cuda
from helix_crawl_otel.probes.probe import Backoff, Probe, ProbeFailure, sentence

__all__ = [
    "CUT_UP",
    "FUNCTION_NOT_FOUND",
    "LOST",
    "MISSING",
    "NOT_AVAILABLE",
    "NOT_LOADED",
    "NO_LIBRARY",
    "UNIFIED",
    "NvmlProbe",
    "answer_of",
    "call",
    "find_card",
    "is_cut_up",
    "list_cards",
    "read_card",
    "read_memory",
    "start",
    "text_of",
    "way_out",
    "within",
]

_UNINITIALIZED = 1
_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
NOT_LOADED = 9
_TIMEOUT = 10
NO_LIBRARY = 12
FUNCTION_NOT_FOUND = 13
_VERSION_MISMATCH = 25
_NO_VERSION_2 = (_NOT_SUPPORTED, FUNCTION_NOT_FOUND, _VERSION_MISMATCH)

LOST = (15, 16)
"""The card has fallen off the bus, or needs a reset: nothing can use it."""
MISSING = (None, _NOT_SUPPORTED, NO_LIBRARY, FUNCTION_NOT_FOUND)
"""Of `nvmlInit`: NVML itself is not there or of no use, which says nothing of the cards; any other error is of the
driver. `None`: the binding is not installed, or the library is not there although a card is."""

_SIGNS = (Path("/dev/nvidiactl"), Path("/dev/nvmap"), Path("/usr/lib/wsl/lib/libnvidia-ml.so.1"))
"""What a card leaves on Linux: the driver's file, also in a container without NVML; a Jetson's; Windows' driver in WSL,
whose folder may have dropped out of the loader's."""

_INSTALL = "install what is missing; in a container, have its runtime pass the driver's libraries through"
_WAYS_OUT = {
    None: _INSTALL,
    _NO_PERMISSION: "this account or this container may not open the driver's device files: give it the right",
    6: "correct its name in CUDA_VISIBLE_DEVICES (`nvidia-smi -L` lists them)",
    NOT_LOADED: "load the driver, or install it anew for this kernel",
    NO_LIBRARY: _INSTALL,
    15: "restart the machine; a card that is lost again has trouble with its power, its slot or its heat",
    16: "restart the machine",
    17: "under WSL, update Windows' driver and run `wsl --update`",
    18: "the driver was updated while the one before it is still loaded: restart the machine",
}

_MEMORY_V2 = 0x02000028
"""Version 2 and the 40 bytes of the structure: without it the call answers 25."""
NOT_AVAILABLE = 2**64 - 1
"""NVML's "not available" in a field of 64 bits, seen under WDDM."""

UNIFIED = "unified memory, spill not applicable"
CUT_UP = (
    "the card is cut up (MIG): name one of its instances by its UUID in CUDA_VISIBLE_DEVICES to use it, or leave the "
    "card out there, for CUDA may show no other one beside an instance"
)
"""Source: NVIDIA's Multi-Instance GPU user guide, "CUDA Device Enumeration"."""


# -- calls ------------------------------------------------------------------------------------------------------------


_Answer = TypeVar("_Answer")


def within(seconds: float, ask: Callable[[], _Answer]) -> _Answer:
    """What `ask` returns, if it does in time; a driver that hangs keeps the thread that it is called in, and no other.

    Args:
        seconds: At most, of the world's.
        ask: What is asked for.

    Raises:
        ProbeFailure: What `ask` raised, or that there is no answer yet.
    """
    answers: list[_Answer] = []
    failures: list[ProbeFailure] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error if isinstance(error, ProbeFailure) else ProbeFailure(f"NVML: {sentence(error)}"))

    asking = threading.Thread(target=run, name="helix-crawl-nvml", daemon=True)
    try:
        asking.start()
    except RuntimeError as error:  # the system has no thread to give
        raise ProbeFailure(f"NVML: {error}", _TIMEOUT) from None
    asking.join(seconds)
    if answers:
        return answers[0]
    raise failures[0] if failures else ProbeFailure(f"NVML: no answer within {seconds:g} s", _TIMEOUT)


def way_out(code: int | None) -> str:
    """What to do about an error."""
    return _WAYS_OUT.get(code, "restart the machine; if that does not help, install the driver anew")


def call(name: str, *args: object) -> Any:
    """Call one function of `pynvml`.

    Returns:
        What it returns.

    Raises:
        ProbeFailure: For every way not to work: the package or the library is missing, the driver answers an error,
            the binding does not know the function or raises its `NVMLLibraryMismatchError`, which is no `NVMLError`.
    """
    try:
        module = importlib.import_module("pynvml")
    except ImportError:
        raise ProbeFailure("the package nvidia-ml-py is not installed") from None
    try:
        return getattr(module, name)(*args)
    except Exception as error:
        if isinstance(error, getattr(module, "NVMLError", ())):
            code = int(getattr(error, "value", 999))
            raise ProbeFailure(f"NVML: {_words(error)} (error {code} from {name})", code) from error
        mismatch = getattr(module, "NVMLLibraryMismatchError", AttributeError)
        if isinstance(error, (AttributeError, TypeError, mismatch)):  # TypeError: a binding older than version 2
            raise ProbeFailure(f"NVML: this driver or binding has no {name}", FUNCTION_NOT_FOUND) from error
        raise ProbeFailure(f"NVML: {name} raised {sentence(error)}") from error


def answer_of(name: str, *args: object) -> Any:
    """As `call`; `None` where it does not work."""
    try:
        return call(name, *args)
    except ProbeFailure:
        return None


def text_of(name: str, *args: object) -> str | None:
    """As `answer_of`, of a function that answers a text: older bindings give bytes."""
    answer = answer_of(name, *args)
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else None if answer is None else str(answer)


def _words(error: Exception) -> str:
    """The error's words; asking for them is a call into the library and may fail as well."""
    try:
        return str(error).rstrip(".")
    except Exception:  # noqa: BLE001 - the words of an error are not worth another one
        return "no text"


# -- cards ------------------------------------------------------------------------------------------------------------


def list_cards() -> list[CardId]:
    """Initialise NVML and list the cards that this process may open, a lost one with what can still be said of it.

    NVML counts the others as well, CUDA does not: on a cluster a job gets some of a machine's cards.

    Raises:
        ProbeFailure: NVML itself cannot be used, or none of its cards may be opened.
    """
    start()
    cards = []
    forbidden = None
    for index in range(int(call("nvmlDeviceGetCount"))):
        try:
            handle = call("nvmlDeviceGetHandleByIndex", index)
        except ProbeFailure as failure:
            if failure.code == _NO_PERMISSION:
                forbidden = failure
            else:
                cards.append(CardId(index, None, None))
        else:
            cards.append(CardId(index, text_of("nvmlDeviceGetUUID", handle), text_of("nvmlDeviceGetName", handle)))
    if forbidden is not None and not cards:
        raise forbidden
    return cards


def start() -> None:
    """Initialise NVML.

    Raises:
        ProbeFailure: It cannot be used. That it is not there although a card seems to be is no `NO_LIBRARY`.
    """
    try:
        call("nvmlInit")
    except ProbeFailure as failure:
        sign = _sign() if failure.code == NO_LIBRARY else ""
        if not sign:
            raise
        raise ProbeFailure(f"{failure}, although {sign}") from failure


def _sign() -> str:
    """What says that there is a card, where the binding found no library; empty without any."""
    for library in _libraries():
        try:
            ctypes.CDLL(library)
        except OSError as error:  # the binding says "not found" as well of one that cannot be loaded
            if Path(library).is_absolute() or "no such file" not in str(error).lower():
                return f"it is there: {error}"
    return next((f"{path} is there" for path in _SIGNS if path.exists()), "")


def _libraries() -> list[str]:
    """Where the binding looks; on Windows those of its two places that hold something."""
    if sys.platform != "win32":
        return ["libnvidia-ml.so.1"]
    found = environment()
    places = (
        Path(found.get("WINDIR", "C:/Windows"), "System32/nvml.dll"),
        Path(found.get("ProgramFiles", "C:/Program Files"), "NVIDIA Corporation/NVSMI/nvml.dll"),
    )
    return [str(place) for place in places if place.is_file()]


def find_card(ordinal: int, environ: Mapping[str, str], pinned: str | None = None) -> tuple[Any, str | None]:
    """Initialise NVML and find one card.

    Args:
        ordinal: N of `cuda:N`.
        environ: The environment of the process that encodes.
        pinned: UUID of the card found earlier. When a card falls off the bus the indices of the others may move, and
            a process keeps the card it began with: so that one is looked for, not a new one of its number.

    Returns:
        The handle, and the card's UUID where it has one.

    Raises:
        ProbeFailure: It cannot be found, or not with certainty.
    """
    cards = list_cards()
    if pinned is not None and not pinned.startswith("MIG-"):
        index = next((card.index for card in cards if card.uuid == pinned), None)
        if index is None:
            raise ProbeFailure(f"the card {pinned} is gone")
        return call("nvmlDeviceGetHandleByIndex", index), pinned
    found = place(ordinal, cards, environ)
    if isinstance(found, str):
        return call("nvmlDeviceGetHandleByUUID", found), found
    handle = call("nvmlDeviceGetHandleByIndex", found)
    if is_cut_up(handle):
        raise ProbeFailure(CUT_UP)
    return handle, next(card.uuid for card in cards if card.index == found)


def is_cut_up(handle: object) -> bool:
    """Whether a card is in MIG mode: what memory is in use on all of it says nothing of one instance."""
    mode = answer_of("nvmlDeviceGetMigMode", handle)  # the present one, and the one after the next reset
    return mode is not None and mode[0] == 1


# -- memory -----------------------------------------------------------------------------------------------------------


def read_memory(handle: object, version_2: bool = True) -> tuple[MemoryReading, bool]:
    """Memory of one card, by version 2 of the call where it works, else by version 1, which every driver has.

    Used is everything that is not free, the driver's own share included. Both versions give the same number this way.
    Their `used` does not: version 1 contains the reserved bytes, and of version 2 the documents say both (R525: "used
    also includes reserved"; drivers answer without it), so a fallback would move the reading. Nor is the total reduced
    by the reserved bytes: full is 1.0 either way, and the limit stays the size printed on the card, which the
    operators' figures and the knob refer to.

    Args:
        handle: The card.
        version_2: False when version 2 is known not to work.

    Returns:
        The memory, and whether version 2 is worth asking again.

    Raises:
        ProbeFailure: Neither answers, or the answer cannot be used. Error 3 from both is how devices with unified
            memory (GB10, Jetson) answer.
    """
    if version_2:
        try:
            return _checked(call("nvmlDeviceGetMemoryInfo", handle, _MEMORY_V2)), True
        except ProbeFailure as failure:
            if failure.code not in _NO_VERSION_2:
                raise
    try:
        return _checked(call("nvmlDeviceGetMemoryInfo", handle)), False
    except ProbeFailure as failure:
        if failure.code == _NOT_SUPPORTED:
            raise ProbeFailure(f"{UNIFIED} ({failure})", _NOT_SUPPORTED) from failure
        raise


def _checked(info: Any) -> MemoryReading:
    total, free, used = int(info.total), int(info.free), int(info.used)
    if NOT_AVAILABLE in (total, free, used, getattr(info, "reserved", None)):  # version 1 has no reserved
        raise ProbeFailure("NVML: the value is not available (the driver answered 2^64-1)")
    if total == 0 or free > total or used > total:
        raise ProbeFailure(f"NVML: an impossible answer: {used} used and {free} free of {total} bytes")
    return MemoryReading(total - free, total)


# -- what else a card says of itself ----------------------------------------------------------------------------------

_TEMPERATURE_OF_GPU = 0
_CLOCKS = {"sm": 1, "memory": 2}
_HERTZ_PER_MHZ = 1e6
_THROTTLE_CALLS = ("nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetCurrentClocksEventReasons")
"""One function under its older and its newer name: drivers have the first, bindings at least one."""
_THROTTLES = {"thermal": 0x20 | 0x40, "power": 0x04 | 0x80, "hardware": 0x08}
"""Bits of the answer: software and hardware thermal slowdown; software power cap and the power brake; hardware
slowdown. The last is said together with the thermal one or the brake, where the driver can tell them apart."""


def read_card(handle: object, uuid: str | None) -> CardReading:
    """Utilisation, temperature, power, clocks and what throttles it. Never raises: what a card, an instance of MIG or
    an older driver does not answer is unknown, and each call's failure is its own.
    """
    rates = answer_of("nvmlDeviceGetUtilizationRates", handle)
    milliwatts = _number(answer_of("nvmlDeviceGetPowerUsage", handle))
    clocks = {name: _number(answer_of("nvmlDeviceGetClockInfo", handle, kind)) for name, kind in _CLOCKS.items()}
    reasons = next((bits for name in _THROTTLE_CALLS if (bits := _number(answer_of(name, handle))) is not None), None)
    percent = _number(getattr(rates, "gpu", None))
    return CardReading(
        uuid or "",
        text_of("nvmlDeviceGetName", handle) or "",
        utilization=None if percent is None or percent > _MOST_PERCENT else percent / 100,
        temperature=_number(answer_of("nvmlDeviceGetTemperature", handle, _TEMPERATURE_OF_GPU)),
        power=None if milliwatts is None else milliwatts / 1000,
        clocks={name: mhz * _HERTZ_PER_MHZ for name, mhz in clocks.items() if mhz is not None},
        throttled={} if reasons is None else {name: bool(reasons & bits) for name, bits in _THROTTLES.items()},
    )


_MOST_PERCENT = 100
_NOT_AVAILABLE_32 = 2**32 - 1


def _number(answer: object) -> int | None:
    """A whole number that the driver has answered; `None` for its ways to say that there is none."""
    if not isinstance(answer, int) or answer < 0 or answer in (_NOT_AVAILABLE_32, NOT_AVAILABLE):
        return None
    return answer


class NvmlProbe(Probe):
    """Used and total memory of one card.

    After a failure the handle is dropped and everything is looked up again, with calls left out in between (see
    `Backoff`), since a start of NVML on a broken driver may cost seconds. One exception: NVML that somebody shut down
    is started again within the same call.

    Args:
        device: `cuda` or `cuda:N`.
        environ: The environment of the process that encodes: `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` say which
            card is meant. It is read when the card is looked up, not at each call.

    Raises:
        ValueError: `device` is no CUDA device.

    Threads: one thread at a time.
    """

    source = "nvml"
    blames = "NVML:"

    def __init__(self, device: str, environ: Mapping[str, str]) -> None:
        name = parse_cuda(device)
        super().__init__(str(name))
        self._ordinal = name.index
        self._environ = environ
        self._handle: Any = None
        self._uuid: str | None = None
        self._version_2 = True
        self._backoff = Backoff()

    def _read(self) -> MemoryReading:
        if self._backoff.leaves_out():
            raise ProbeFailure(self.why or "")
        try:
            reading = self._ask()
        except Exception:
            self._handle = None
            self._backoff.fail()
            raise
        self._backoff.succeed()
        return reading

    def read_card(self) -> CardReading:
        """What else the card says of itself, right after its memory was read; nothing where that did not work."""
        return CardReading() if self._handle is None else read_card(self._handle, self._uuid)

    def _ask(self) -> MemoryReading:
        if self._handle is not None:
            try:
                return self._memory()
            except ProbeFailure as failure:
                if failure.code != _UNINITIALIZED:  # somebody called nvmlShutdown: start again, once
                    raise
        self._handle, self._uuid = find_card(self._ordinal, self._environ, self._uuid)
        return self._memory()

    def _memory(self) -> MemoryReading:
        reading, self._version_2 = read_memory(self._handle, self._version_2)
        return reading
