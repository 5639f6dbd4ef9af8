"""Says which cards there are and who holds their memory: slower than a reading, asked once.

For `doctor`, for choosing a device, and for who has run out of memory. The crawl is decided without it: a reading is
that of the whole card, under every driver model.

Source: NVML's reference, nvmlProcessInfo_t: under WDDM the memory of a process is never available, because Windows
manages it and not the driver. The number then in its place, 2^64-1, is how a process comes to hold "17179869184.00 GiB"
in other programs (microsoft/WSL issue 11050).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from helix_crawl_otel.probes.cuda_order import CardId, place
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.nvml import (
    FUNCTION_NOT_FOUND,
    NOT_AVAILABLE,
    answer_of,
    call,
    find_card,
    list_cards,
    read_memory,
    text_of,
)
from helix_crawl_otel.probes.probe import ProbeFailure

__all__ = [
    "CardInfo",
    "CardProcess",
    "CardProcesses",
    "Description",
    "card_processes",
    "describe",
    "device_processes",
    "listed",
    "listed_names",
]

_MODELS = {0: "WDDM", 1: "TCC", 2: "MCDM"}
"""NVML_DRIVER_WDDM, _WDM (which every tool shows as TCC) and _MCDM."""

_MODEL_CALLS = ("nvmlDeviceGetDriverModel_v2", "nvmlDeviceGetDriverModel_v1", "nvmlDeviceGetDriverModel")
"""Version 2 knows MCDM. A binding without versions has the last one only."""

_COMPUTE, _GRAPHICS = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"
_LONGEST_NAME = 40

MIB = 1024**2
MOST_LISTED = 5
"""Under Windows everything that draws is on the list: 30 of them tell nobody more."""


# -- which cards ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CardInfo:
    """One card.

    Args:
        index: NVML's index.
        device: What a process with the given environment calls it; `None` when hidden from it or not certain.
        name: Marketing name, `None` when unreadable.
        uuid: `GPU-...`, `None` when unreadable.
        total_bytes: Physical memory, `None` when unreadable or unified.
        model: `WDDM`, `TCC` or `MCDM`; `None` outside Windows (NVML answers "not supported") and when it cannot be
            read. It decides how loudly to warn: WDDM moves memory to the system without a word, TCC does not; MCDM is
            a subset of WDDM for cards that only compute, and what it does is not documented.
    """

    index: int
    device: str | None
    name: str | None
    uuid: str | None
    total_bytes: int | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Description:
    """What NVML says of this machine.

    Args:
        cards: Every card, in NVML's order; empty when there is none or NVML cannot be used.
        driver: Version of the driver, `None` when unknown.
        why: One sentence: why NVML cannot be used; `None` when it can.
    """

    cards: tuple[CardInfo, ...]
    driver: str | None
    why: str | None


def describe(environ: Mapping[str, str]) -> Description:
    """List the cards of this machine and what a process with `environ` calls them. Never raises.

    Args:
        environ: The environment of the process that encodes.

    Threads: any. May block as NVML does.
    """
    try:
        cards = list_cards()
    except ProbeFailure as failure:
        return Description((), None, str(failure))
    names = {place(ordinal, cards, environ).index: f"cuda:{ordinal}" for ordinal in reversed(range(len(cards)))}
    found = tuple(_info(card, names.get(card.index)) for card in cards)
    return Description(found, text_of("nvmlSystemGetDriverVersion"), None)


def _info(card: CardId, device: str | None) -> CardInfo:
    handle = answer_of("nvmlDeviceGetHandleByIndex", card.index)
    total, model = (None, None) if handle is None else (_total(handle), _model(handle))
    return CardInfo(card.index, device, card.name, card.uuid, total, model)


def _total(handle: object) -> int | None:
    try:
        return read_memory(handle)[0].total
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


def card_processes(index: int) -> CardProcesses:
    """Ask for the processes on one card. Never raises.

    Args:
        index: NVML's index of the card.

    Threads: any. May block as NVML does.
    """

    def handle() -> object:
        call("nvmlInit")
        return call("nvmlDeviceGetHandleByIndex", index)

    return _processes(handle)


def device_processes(device: str, environ: Mapping[str, str]) -> CardProcesses:
    """As `card_processes`, of what a process with `environ` calls `device`, such as `cuda:0`."""
    return _processes(lambda: find_card(parse_device(device).index, environ)[0])


def listed(processes: Sequence[CardProcess]) -> str:
    """The first few of them, with what each holds where that is known."""
    return _few([f"{_named(process)} {_shown_size(process)}" for process in processes])


def listed_names(processes: Sequence[CardProcess]) -> str:
    """The first few of them."""
    return _few([_named(process) for process in processes])


def _few(words: Sequence[str]) -> str:
    more = len(words) - MOST_LISTED
    return ", ".join(words[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _named(process: CardProcess) -> str:
    return f"{process.name or 'a process'} (pid {process.pid})"


def _shown_size(process: CardProcess) -> str:
    return "unknown" if process.used_bytes is None else f"{process.used_bytes / MIB:.0f} MiB"


def _processes(find: Callable[[], object]) -> CardProcesses:
    try:
        handle = find()
        most = _total(handle)
        compute = _sizes(_list(_COMPUTE, handle), most)
    except ProbeFailure as failure:
        return CardProcesses((), str(failure))
    try:
        graphics = _sizes(_list(_GRAPHICS, handle), most)
    except ProbeFailure:  # a card that cannot draw has no such list
        graphics = {}
    found = [
        CardProcess(pid, _name(pid), _larger(compute.get(pid), graphics.get(pid)), pid in compute)
        for pid in {**compute, **graphics}
    ]
    return CardProcesses(tuple(sorted(found, key=_rank)))


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
    for pid, used in _usable(listed, most):
        before = sizes.get(pid, 0)
        sizes[pid] = None if before is None or used is None else before + used
    return sizes


def _usable(listed: list[Any], most: int | None) -> Iterator[tuple[int, int | None]]:
    for one in listed:
        pid, used = getattr(one, "pid", None), getattr(one, "usedGpuMemory", None)
        if not isinstance(pid, int):
            continue
        is_size = isinstance(used, int) and used != NOT_AVAILABLE and (most is None or used <= most)
        yield pid, used if is_size else None


def _larger(one: int | None, other: int | None) -> int | None:
    """A process that computes and draws is in both lists, each time with all that it holds."""
    return max((size for size in (one, other) if size is not None), default=None)


def _rank(process: CardProcess) -> tuple[bool, int, bool, int]:
    size = process.used_bytes
    return size is None, -(size or 0), not process.computes, process.pid


def _name(pid: int) -> str | None:
    text = text_of("nvmlSystemGetProcessName", pid)
    file = PureWindowsPath((text or "").split(" -")[0].strip()).name  # both slashes divide there
    return "".join(letter if letter.isprintable() else "?" for letter in file)[:_LONGEST_NAME] or None
