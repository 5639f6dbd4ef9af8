"""Decides where workers encode: what `--device auto` takes and why, one worker a card, the CPU's threads shared out.

Runs in the supervisor: NVML is asked, torch is not imported.

Source: DESIGN.md, sections 3.2, 7 and 8; INCIDENTS.md: on cards of 12 GB and less, prefer the CPU for offline work.
"""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.core.model import MemoryReading
from helix_crawl_otel.memory.nvml import NvmlProbe

__all__ = ["Card", "DevicePlan", "NoDevice", "choose_devices", "cores", "torch_cuda_build", "visible_cards"]

GIB = 1024**3
MOST_CARDS = 64


class NoDevice(Exception):
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
        threads: Of each worker on the CPU, `None` on cards.
        warnings: What should be said as well.
    """

    slots: tuple[tuple[str, str], ...]
    why: str
    threads: int | None
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
        cuda_build: CUDA version of the installed torch, empty for a build without, `None` when there is no torch.
        needs_no_card: The encoder can use none.

    Raises:
        NoDevice: A card was asked for that is not there.
    """
    warnings = []
    if cards and cuda_build == "":
        warnings.append(
            "a card is there, but the installed torch is built without CUDA (PyPI's torch for Windows is): install the "
            "build for your CUDA from pytorch.org to use the card"
        )
    if needs_no_card or asked == "cpu":
        why = "the hashing encoder needs no card" if needs_no_card else "the CPU was asked for"
        return _on_cpu(why, workers, core_count, warnings)
    if asked == "auto":
        big = [card for card in cards if card.limit_bytes is None or card.limit_bytes > cpu_below_gib * GIB]
        if not cards:
            return _on_cpu("no NVIDIA card is seen", workers, core_count, warnings)
        if not big:
            sizes = ", ".join(f"{(card.limit_bytes or 0) / GIB:.1f}" for card in cards)
            why = (
                f"the card has {sizes} GiB, and up to {cpu_below_gib:g} GiB the CPU is the safer place for long runs; "
                "--device cuda takes the card, --cpu-below-gib moves the limit"
            )
            return _on_cpu(why, workers, core_count, warnings)
        if not cuda_build:
            return _on_cpu("the installed torch cannot use a card", workers, core_count, warnings)
        return _on_cards([card.device for card in big], workers, f"{len(big)} card(s) with memory enough", warnings)
    devices = [card.device for card in cards]
    wanted = devices if asked == "cuda" else [asked]
    if not devices or asked not in ("cuda", *devices):
        seen = f"NVML sees {', '.join(devices)}" if devices else "NVML sees no card"
        raise NoDevice(f"--device is {asked!r}, but {seen}; accepted: auto, cpu, or a card that is there")
    return _on_cards(wanted[: workers or None], workers, f"{asked} was asked for", warnings)


def _on_cpu(why: str, workers: int | None, core_count: int, warnings: list[str]) -> DevicePlan:
    count = workers or 1
    slots = tuple((_slot("cpu", n, count), "cpu") for n in range(count))
    return DevicePlan(slots, why, max(1, core_count // count), tuple(warnings))


def _on_cards(devices: list[str], workers: int | None, why: str, warnings: list[str]) -> DevicePlan:
    count = workers or len(devices)
    used = [devices[n % len(devices)] for n in range(count)]
    if count > len(devices):
        warnings.append(f"{count} workers share {len(devices)} card(s): each holds its own model, see the runbook")
    slots = tuple((_slot(device, used[:n].count(device), used.count(device)), device) for n, device in enumerate(used))
    return DevicePlan(slots, why, None, tuple(warnings))


def _slot(device: str, number: int, count: int) -> str:
    return device if count == 1 else f"{device}#{number + 1}"


def visible_cards(environ: Mapping[str, str]) -> list[Card]:
    """The cards that a process with this environment can use, as far as NVML tells."""
    cards = []
    for n in range(MOST_CARDS):
        # Workers are started with the bus's order, so that NVML's numbers are CUDA's.
        probe = NvmlProbe(f"cuda:{n}", {**environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
        reading: MemoryReading = probe()
        if reading.limit_bytes is None:
            break
        cards.append(Card(f"cuda:{n}", reading.limit_bytes))
    return cards


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def torch_cuda_build() -> str | None:
    """CUDA version that the installed torch is built with, empty for none, `None` without torch. Imports nothing."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        tree = ast.parse(Path(found.origin).with_name("version.py").read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "cuda":
            return str(node.value.value or "") if isinstance(node.value, ast.Constant) else None
    return None
