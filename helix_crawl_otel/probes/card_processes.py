"""Says who holds a card's memory, for `doctor` and for who has run out of it: NVML's list, asked once.

The crawl is decided without it: a reading is that of the whole card, under every driver model.

Source: NVML's reference, nvmlProcessInfo_t: under WDDM the memory of a process is never available, because Windows
manages it and not the driver. The number then in its place, 2^64-1, is how a process comes to hold "17179869184.00 GiB"
in other programs (microsoft/WSL issue 11050).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import Any

from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.nvml import read_memory
from helix_crawl_otel.probes.nvml_api import FUNCTION_NOT_FOUND, NOT_AVAILABLE, NvmlFailure, call
from helix_crawl_otel.probes.nvml_cards import find_card

__all__ = ["CardProcess", "CardProcesses", "card_processes", "device_processes", "listed", "listed_names"]

_COMPUTE, _GRAPHICS = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"
_LONGEST_NAME = 40

MIB = 1024**2
MOST_LISTED = 5
"""Under Windows everything that draws is on the list: 30 of them tell nobody more."""


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
    return _processes(lambda: find_card(parse_device(device).index, environ, None)[0])


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
        most = _size(handle)
        compute = _sizes(_list(_COMPUTE, handle), most)
    except NvmlFailure as failure:
        return CardProcesses((), str(failure))
    try:
        graphics = _sizes(_list(_GRAPHICS, handle), most)
    except NvmlFailure:  # a card that cannot draw has no such list
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
        except NvmlFailure as failure:
            if failure.code != FUNCTION_NOT_FOUND:
                raise
    raise NvmlFailure(FUNCTION_NOT_FOUND, f"NVML: this driver or binding has no {name}")


def _sizes(listed: list[Any], most: int | None) -> dict[int, int | None]:
    """Bytes by pid. A process may be listed once for each part of a card that is cut up (MIG)."""
    sizes: dict[int, int | None] = {}
    for pid, used in _usable(listed, most):
        before = sizes.get(pid)
        sizes[pid] = used if pid not in sizes else None if before is None or used is None else before + used
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


def _size(handle: object) -> int | None:
    try:
        return read_memory(handle)[0].total
    except NvmlFailure:
        return None


def _name(pid: int) -> str | None:
    try:
        answer = call("nvmlSystemGetProcessName", pid)
    except NvmlFailure:
        return None
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else str(answer)
    file = PureWindowsPath(text.split(" -")[0].strip()).name  # both slashes divide there
    return "".join(letter if letter.isprintable() else "?" for letter in file)[:_LONGEST_NAME] or None
