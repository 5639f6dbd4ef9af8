"""Decides where workers encode: what `--device auto` takes and why, one worker a card, the CPU's threads shared out.

Runs in the supervisor: NVML is asked, torch is not imported.

Source: DESIGN.md, sections 3.2, 7 and 8; INCIDENTS.md: on cards of 12 GB and less, prefer the CPU for offline work.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.probes.cgroup import quota_cores
from helix_crawl_otel.probes.nvml import find_card, list_cards, read_memory
from helix_crawl_otel.probes.probe import ProbeFailure

__all__ = ["Card", "DevicePlan", "NoDevice", "choose_devices", "cores", "torch_cuda_build", "visible_cards"]

GIB = 1024**3
MOST_CARDS = 64

NO_CUDA = (
    "a card is there, but the installed torch is built without CUDA (as PyPI's torch for Windows is): install the "
    "build for your CUDA, see pytorch.org, to use the card"
)


class NoDevice(Refusal):
    """The device that was asked for is not there. The message says what is."""


@dataclass(frozen=True)
class Card:
    """A card that a worker could use.

    Args:
        device: `cuda:N`.
        limit_bytes: Its dedicated memory, `None` when unknown.
    """

    device: str
    limit_bytes: int | None


@dataclass(frozen=True)
class DevicePlan:
    """Where workers encode.

    Args:
        slots: Name and device of each worker's place.
        why: One sentence.
        threads: Of each worker while it is on the CPU: also of one that a demotion sends there.
        warnings: What should be said as well.
    """

    slots: tuple[tuple[str, str], ...]
    why: str
    threads: int
    warnings: tuple[str, ...] = ()


def choose_devices(
    asked: str,
    workers: int | None,
    cpu_below_gib: float,
    cards: Sequence[Card],
    core_count: int,
    cuda_build: str | None,
    *,
    needs_no_card: bool = False,
) -> DevicePlan:
    """Choose.

    Args:
        asked: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: At once; `None` for one a card, or one on the CPU.
        cpu_below_gib: `auto` takes the CPU on a card of this size or smaller.
        cards: What NVML sees.
        core_count: Of the CPU.
        cuda_build: CUDA version of the installed torch, empty for a build without, `None` when that is not known.
        needs_no_card: The encoder can use none.

    Raises:
        NoDevice: A card was asked for that is not there.
    """
    warnings = [NO_CUDA] if cards and cuda_build == "" and not needs_no_card else []
    if needs_no_card or asked == "cpu":
        why = "this encoder uses no card" if needs_no_card else "the CPU was asked for"
        return _on_cpu(why, workers, core_count, warnings)
    if asked == "auto":
        return _auto(workers, cpu_below_gib, cards, core_count, warnings)
    devices = [card.device for card in cards]
    if not devices or asked not in ("cuda", *devices):
        seen = f"NVML sees {', '.join(devices)}" if devices else "NVML sees no card"
        raise NoDevice(f"--device is {asked!r}, but {seen}; accepted: auto, cpu, or a card that is there")
    if warnings:
        raise NoDevice(f"--device is {asked!r}, but {NO_CUDA}; accepted until then: auto or cpu")
    wanted = devices[: workers or None] if asked == "cuda" else [asked]
    return _on_cards(wanted, workers, core_count, f"{asked} was asked for", warnings)


def _auto(
    workers: int | None, cpu_below_gib: float, cards: Sequence[Card], core_count: int, warnings: list[str]
) -> DevicePlan:
    if not cards:
        return _on_cpu("no NVIDIA card is seen", workers, core_count, warnings)
    big = [card for card in cards if card.limit_bytes is None or card.limit_bytes > cpu_below_gib * GIB]
    if not big:
        sizes = " and ".join(f"{card.device} has {(card.limit_bytes or 0) / GIB:.1f} GiB" for card in cards)
        why = (
            f"{sizes}, and up to {cpu_below_gib:g} GiB the CPU is the safer place for long runs; "
            "--device cuda takes the card, --cpu-below-gib moves the limit"
        )
        return _on_cpu(why, workers, core_count, warnings)
    if warnings:
        return _on_cpu("the installed torch cannot use the card", workers, core_count, warnings)
    why = " and ".join(_size(card) for card in big)
    return _on_cards([card.device for card in big], workers, core_count, why, warnings)


def _size(card: Card) -> str:
    if card.limit_bytes is None:
        return f"{card.device} is there, its memory is not known"
    return f"{card.device} has {card.limit_bytes / GIB:.1f} GiB"


def _on_cpu(why: str, workers: int | None, core_count: int, warnings: list[str]) -> DevicePlan:
    count = workers or 1
    slots = tuple((_slot("cpu", n, count), "cpu") for n in range(count))
    return DevicePlan(slots, why, max(1, core_count // count), tuple(warnings))


def _on_cards(devices: list[str], workers: int | None, core_count: int, why: str, warnings: list[str]) -> DevicePlan:
    count = workers or len(devices)
    used = [devices[n % len(devices)] for n in range(count)]
    if count > len(devices):
        warnings = [
            *warnings,
            f"{count} workers share {' and '.join(devices)}: each loads a model of its own, and a card that is full "
            "crawls; one worker a card is the safe number",
        ]
    slots = tuple((_slot(device, used[:n].count(device), used.count(device)), device) for n, device in enumerate(used))
    return DevicePlan(slots, why, max(1, core_count // count), tuple(warnings))


def _slot(device: str, number: int, count: int) -> str:
    return device if count == 1 else f"{device}#{number + 1}"


def visible_cards(environ: Mapping[str, str]) -> list[Card]:
    """The cards that a process with this environment can use, as far as NVML tells. Never raises; may block as NVML
    does.

    One that answers nothing now (it is lost) is left out, one whose memory alone is not known (unified memory) is not.
    """
    # Workers are started with the bus's order, so that NVML's numbers are CUDA's.
    environ = {**environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    try:
        list_cards()
    except ProbeFailure:
        return []
    cards = []
    for ordinal in range(MOST_CARDS):
        try:
            handle, _ = find_card(ordinal, environ)
        except ProbeFailure as failure:
            if failure.code is None:  # there is none of this number
                break
            continue
        try:
            limit: int | None = read_memory(handle)[0].total
        except ProbeFailure:
            limit = None
        cards.append(Card(f"cuda:{ordinal}", limit))
    return cards


def cores() -> int:
    """Cores that this process may use, by affinity and by the quota of its container; at least 1."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return found if quota is None else max(1, min(found, math.ceil(quota)))


def torch_cuda_build() -> str | None:
    """CUDA version that the installed torch is built with. Its file is read as text: nothing is imported.

    Returns:
        Empty for a build without CUDA, `None` without torch, or when its file does not say.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        return _cuda_of(Path(found.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):
        return None


def _cuda_of(source: str) -> str | None:
    """What a `torch/version.py` assigns to `cuda`: a text, or None."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and any(isinstance(at, ast.Name) and at.id == "cuda" for at in targets):
            return str(value.value or "")
    return None
