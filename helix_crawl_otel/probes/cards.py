"""Says which cards there are, what ails them and who holds their memory: slower than a reading, asked once.

For `doctor`, for choosing a device, and for who has run out of memory. The crawl is decided without it: a reading is
that of the whole card, under every driver model.

Source: NVML's reference, nvmlProcessInfo_t: under WDDM the memory of a process is never available, because Windows
manages it and not the driver. The number then in its place, 2^64-1, is how a process comes to hold "17179869184.00 GiB"
in other programs (microsoft/WSL issue 11050).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PureWindowsPath
from typing import Any

from helix_crawl_otel.formats import mib
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cuda_order import VISIBLE, place, shown_variable, visible
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.nvml import (
    CUT_UP,
    FUNCTION_NOT_FOUND,
    LOST,
    MISSING,
    NO_LIBRARY,
    NOT_AVAILABLE,
    UNIFIED,
    answer_of,
    call,
    find_card,
    is_cut_up,
    list_cards,
    read_memory,
    text_of,
    way_out,
    within,
)
from helix_crawl_otel.probes.probe import UNKNOWN, ProbeFailure
from helix_crawl_otel.probes.processes import named

__all__ = [
    "CardInfo",
    "CardProcess",
    "CardProcesses",
    "Description",
    "describe",
    "device_processes",
    "driver_model",
    "listed",
    "listed_names",
]

_MODELS = {0: "WDDM", 1: "TCC", 2: "MCDM"}
"""NVML_DRIVER_WDDM, _WDM (which every tool shows as TCC) and _MCDM."""

_MODEL_CALLS = ("nvmlDeviceGetDriverModel_v2", "nvmlDeviceGetDriverModel_v1", "nvmlDeviceGetDriverModel")
"""Version 2 knows MCDM. A binding without versions has the last one only."""

_COMPUTE, _GRAPHICS = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"
_LONGEST_NAME = 40

MOST_LISTED = 5
"""Under Windows everything that draws is on the list: 30 of them tell nobody more."""


# -- which cards ------------------------------------------------------------------------------------------------------


ANSWER_SECONDS = 30.0
"""What the driver gets to describe the cards, of the world's: at a first start of many of them it takes its time."""


@dataclass(frozen=True, slots=True)
class CardInfo:
    """One card, or an instance of one that is cut up (MIG) and named by its UUID.

    Args:
        index: NVML's index, `None` of an instance.
        device: What a process with the given environment calls it; `None` when hidden from it or not certain.
        name: Marketing name, `None` when unreadable.
        uuid: `GPU-...` or `MIG-...`, `None` when unreadable.
        memory: Used now, and physical; unknown when unreadable or unified.
        model: `WDDM`, `TCC` or `MCDM`; `None` outside Windows (NVML answers "not supported") and when it cannot be
            read. It decides how loudly to warn: WDDM moves memory to the system without a word, TCC does not; MCDM is
            a subset of WDDM for cards that only compute, and what it does is not documented.
        why: One sentence: why its memory is not known, or nothing can use it; `None` when all is well.
        code: NVML's number for that, `None` without one.
        is_usable: Something can be encoded on it.
    """

    index: int | None
    device: str | None
    name: str | None = None
    uuid: str | None = None
    memory: MemoryReading = UNKNOWN
    model: str | None = None
    why: str | None = None
    code: int | None = None
    is_usable: bool = True

    @property
    def trouble(self) -> str | None:
        """What ails it and what to do, one sentence; `None` for one that is well, or whose memory is the system's."""
        if self.why is None or UNIFIED in self.why:
            return None
        return self.why if self.why == CUT_UP else f"{self.why}: {way_out(self.code)}"


@dataclass(frozen=True, slots=True)
class Description:
    """What NVML says of this machine.

    Args:
        cards: Every card, in NVML's order, and then the instances; empty when there is none or NVML cannot be used.
        driver: Version of the driver, `None` when unknown.
        why: One sentence: why NVML cannot be used; `None` when it can.
        code: NVML's number for that, `None` without one.
        hidden: How the environment hides all of the cards, such as `CUDA_VISIBLE_DEVICES='-1' leaves no card`; `None`
            when it does not.
        is_misnamed: It does so by a name or a number that no card has.
    """

    cards: tuple[CardInfo, ...] = ()
    driver: str | None = None
    why: str | None = None
    code: int | None = None
    hidden: str | None = None
    is_misnamed: bool = False

    @property
    def visible(self) -> list[CardInfo]:
        """What the process sees, in the order of its ordinals."""
        seen = [(parse_device(card.device).index, card) for card in self.cards if card.device is not None]
        return [card for _, card in sorted(seen, key=lambda one: one[0])]

    @property
    def usable(self) -> list[CardInfo]:
        """Those of them on which something can be encoded."""
        return [card for card in self.visible if card.is_usable]

    @property
    def is_missing(self) -> bool:
        """NVML cannot be used, and that says nothing of the cards."""
        return self.why is not None and self.code in MISSING

    @property
    def trouble(self) -> str | None:
        """Why no card can be used and what to do, one sentence; `None` where all is well, or there is no driver."""
        if self.is_misnamed:
            return f"{self.hidden} of the {len(self.cards)} that NVML lists: correct it, or take the variable away"
        return None if self.why is None or self.code == NO_LIBRARY else f"{self.why}: {way_out(self.code)}"


def describe(environ: Mapping[str, str], seconds: float = ANSWER_SECONDS) -> Description:
    """List the cards of this machine and what a process with `environ` calls them. Never raises.

    Args:
        environ: The environment of the process that encodes.
        seconds: For how long the driver is waited for, of the world's.

    Threads: any.
    """
    try:
        return within(seconds, lambda: _describe(environ))
    except ProbeFailure as failure:
        return Description(why=str(failure), code=failure.code)


def _describe(environ: Mapping[str, str]) -> Description:
    cards = list_cards()
    seen = visible(cards, environ)
    names = {}
    for ordinal in range(len(seen)):
        with suppress(ProbeFailure):  # CUDA alone knows which of different cards that is
            names[place(ordinal, cards, environ)] = f"cuda:{ordinal}"
    found = [
        _info(CardInfo(card.index, names.get(card.index), card.name, card.uuid), "ByIndex", card.index)
        for card in cards
    ]
    found += [_info(CardInfo(None, name, None, at), "ByUUID", at) for at, name in names.items() if isinstance(at, str)]
    hidden = f"{shown_variable(environ)} no card" if cards and not seen else None
    is_misnamed = hidden is not None and environ[VISIBLE].strip() not in ("", "-1")
    driver = text_of("nvmlSystemGetDriverVersion")
    return Description(tuple(found), driver, hidden=hidden, is_misnamed=is_misnamed)


def _info(card: CardInfo, way: str, name: int | str) -> CardInfo:
    try:
        handle = call(f"nvmlDeviceGetHandle{way}", name)
    except ProbeFailure as failure:
        return replace(card, why=str(failure), code=failure.code, is_usable=False)
    card = replace(card, model=_model(handle))
    if card.index is not None and is_cut_up(handle):
        return replace(card, why=CUT_UP, is_usable=False)
    try:
        return replace(card, memory=read_memory(handle)[0])
    except ProbeFailure as failure:
        return replace(card, why=str(failure), code=failure.code, is_usable=failure.code not in LOST)


def driver_model(device: str, environ: Mapping[str, str], seconds: float = ANSWER_SECONDS) -> str | None:
    """`WDDM`, `TCC` or `MCDM`, see `CardInfo`; `None` outside Windows and when it cannot be read. Never raises.

    Args:
        device: What a process with `environ` calls the card, such as `cuda:0`.
        environ: The environment of the process that encodes.
        seconds: For how long the driver is waited for, of the world's.
    """
    ordinal = parse_device(device).index
    try:
        return within(seconds, lambda: _model(find_card(ordinal, environ)[0]))
    except ProbeFailure:
        return None


def _model(handle: object) -> str | None:
    answers = (answer_of(function, handle) for function in _MODEL_CALLS)
    present = next((answer[0] for answer in answers if answer is not None), None)  # before the one after a restart
    return None if present is None else _MODELS.get(int(present))


# -- who holds their memory -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CardProcess:
    """A process on a card.

    Args:
        pid: Its number. In a container it may be the host's.
        name: Of its program's file, without folders and arguments: they are nobody's business in a bug report. `None`
            when it may not be asked for.
        used_bytes: Dedicated memory that it holds, `None` when not available.
        computes: It is one of those that compute, such as a worker; the others draw.
    """

    pid: int
    name: str | None
    used_bytes: int | None
    computes: bool


@dataclass(frozen=True, slots=True)
class CardProcesses:
    """Who is on a card.

    Args:
        processes: The largest first, those of unknown size last, and among them first those that compute.
        why: One sentence: why there is no list; `None` when there is one, be it empty.
    """

    processes: tuple[CardProcess, ...]
    why: str | None = None


def device_processes(device: str, environ: Mapping[str, str], seconds: float = ANSWER_SECONDS) -> CardProcesses:
    """Ask for the processes on one card. Never raises.

    Args:
        device: What a process with `environ` calls it, such as `cuda:0`.
        environ: The environment of the process that encodes.
        seconds: For how long the driver is waited for, of the world's.

    Threads: any.
    """
    ordinal = parse_device(device).index
    try:
        return CardProcesses(within(seconds, lambda: _processes(find_card(ordinal, environ)[0])))
    except ProbeFailure as failure:
        return CardProcesses((), str(failure))


def listed(processes: Sequence[CardProcess]) -> str:
    """The first few of them, with what each holds where that is known."""
    return _few([f"{named(one.name, one.pid)} {_size(one.used_bytes)}" for one in processes])


def listed_names(processes: Sequence[CardProcess]) -> str:
    """The first few of them."""
    return _few([named(process.name, process.pid) for process in processes])


def _few(words: Sequence[str]) -> str:
    more = len(words) - MOST_LISTED
    return ", ".join(words[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _size(used_bytes: int | None) -> str:
    return "unknown" if used_bytes is None else mib(used_bytes)


def _processes(handle: object) -> tuple[CardProcess, ...]:
    most = None
    with suppress(ProbeFailure):
        most = read_memory(handle)[0].limit_bytes
    compute, graphics = _sizes(_list(_COMPUTE, handle), most), {}
    with suppress(ProbeFailure):  # a card that cannot draw has no such list
        graphics = _sizes(_list(_GRAPHICS, handle), most)
    found = [
        CardProcess(pid, _name(pid), _larger(compute.get(pid), graphics.get(pid)), pid in compute)
        for pid in {**compute, **graphics}
    ]
    return tuple(sorted(found, key=_rank))


def _list(name: str, handle: object) -> list[Any]:
    """One of the two lists, by the newest version of the call that driver and binding know."""
    for version in ("_v3", "_v2"):
        try:
            return list(call(name + version, handle))
        except ProbeFailure as failure:
            if failure.code != FUNCTION_NOT_FOUND:
                raise
    raise ProbeFailure(f"NVML: this driver or binding has no {name}", FUNCTION_NOT_FOUND)


def _sizes(listed: list[Any], most: int | None) -> dict[int, int | None]:
    """Bytes by pid. A process may be listed once for each part of a card that is cut up (MIG)."""
    sizes: dict[int, int | None] = {}
    for one in listed:
        pid, used = getattr(one, "pid", None), getattr(one, "usedGpuMemory", None)
        if isinstance(pid, int):
            if not isinstance(used, int) or used == NOT_AVAILABLE or (most is not None and used > most):
                used = None
            before = sizes.get(pid, 0)
            sizes[pid] = None if before is None or used is None else before + used
    return sizes


def _larger(one: int | None, other: int | None) -> int | None:
    """A process that computes and draws is in both lists, each time with all that it holds."""
    return max((size for size in (one, other) if size is not None), default=None)


def _rank(process: CardProcess) -> tuple[bool, int, bool, int]:
    size = process.used_bytes
    return size is None, -(size or 0), not process.computes, process.pid


def _name(pid: int) -> str | None:
    text = text_of("nvmlSystemGetProcessName", pid)
    file = PureWindowsPath((text or "").split(" -")[0].strip()).name  # both slashes divide there
    return file[:_LONGEST_NAME] or None
