"""Decides where workers encode: what `--device auto` takes and why, one worker a card, the CPU's threads shared out.

Runs in the supervisor: NVML is asked, torch is not imported.

Source: DESIGN.md, sections 3.2, 7 and 8; INCIDENTS.md: on cards of 12 GB and less, prefer the CPU for offline work.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.formats import GIB, gib
from helix_crawl_otel.policy.batch_limits import BATCH_TOKENS, LARGE_BATCH_TOKENS
from helix_crawl_otel.probes.cards import CardInfo, Description, describe
from helix_crawl_otel.probes.cgroup import quota_cores
from helix_crawl_otel.supervise.process import worker_command

__all__ = [
    "DevicePlan",
    "NoDevice",
    "batch_tokens",
    "choose_devices",
    "cores",
    "count_torch_devices",
    "torch_build",
    "worker_cards",
]

COUNT_SECONDS = 120.0
"""What a process that only imports torch and counts its devices gets, of the world's."""

NO_CUDA = (
    "a card is there, but the installed torch is built without CUDA (as PyPI's torch for Windows is): install the "
    "build for your CUDA, see pytorch.org, to use the card"
)
TORCH_ALONE = "their memory is what torch itself holds, and what other programs hold on them is not seen"

LARGE_BYTES = 15.5 * GIB
"""Of a card that is sold as one of 16 GB: a part of it is the driver's."""

_VERSION = re.compile(
    r"^(?P<name>cuda|hip)\b[^=\n]*=\s*(?:None|(?P<quote>['\"])(?P<version>.*)(?P=quote))\s*$", re.MULTILINE
)
"""A line of torch's `version.py`, such as `cuda: Optional[str] = '12.8'`."""


class NoDevice(Refusal):
    """The device that was asked for is not there. The message says what is."""


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
    found: Description,
    core_count: int,
    build: str | None,
    *,
    needs_no_card: bool = False,
    count_torch: Callable[[], int] = lambda: 0,
) -> DevicePlan:
    """Choose.

    Args:
        asked: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: At once; `None` for one a card, or one on the CPU.
        cpu_below_gib: `auto` takes the CPU on a card of this size or smaller.
        found: What NVML says of the cards.
        core_count: Of the CPU.
        build: See `torch_build`.
        needs_no_card: The encoder can use none.
        count_torch: How many devices torch sees. Asked where a card was asked for by name and NVML is missing: in a
            container without it, on a Jetson, on a card of AMD's.

    Raises:
        NoDevice: A card was asked for that is not there, or not usable. The message says why.
    """
    is_for_cpu_alone = bool(found.usable) and build == "" and not needs_no_card
    no_cuda = [NO_CUDA] if is_for_cpu_alone else []
    if asked == "cpu":
        return _on_cpu("the CPU was asked for", workers, core_count, no_cuda)
    troubles = _troubles(asked, found)
    if needs_no_card:
        warnings = troubles if asked == "auto" else []
        return _on_cpu("this encoder uses no card", workers, core_count, warnings)
    if asked == "auto":
        return _auto(workers, cpu_below_gib, found, core_count, build, [*troubles, *no_cuda])
    devices, seen = _seen(found)
    if not found.cards and (found.why is None or found.is_missing) and build != "":
        devices = [f"cuda:{n}" for n in range(count_torch())]
        seen += f", torch sees {', '.join(devices) or 'none'}"
        troubles = [f"{seen}: {TORCH_ALONE}"] if devices and asked in ("cuda", *devices) else []
    if not devices or asked not in ("cuda", *devices):
        refusal = "; ".join(troubles) or seen
        raise NoDevice(f"--device is {asked!r}, but {refusal}; accepted: auto, cpu, or a card that is there")
    if is_for_cpu_alone:
        raise NoDevice(f"--device is {asked!r}, but {NO_CUDA}; accepted until then: auto or cpu")
    wanted = devices[: workers or None] if asked == "cuda" else [asked]
    return _on_cards(wanted, workers, core_count, f"{asked} was asked for", troubles)


def batch_tokens(device: str, found: Description) -> int:
    """Tokens of a batch, with padding, that fit a device.

    Args:
        device: `cpu` or `cuda:N`.
        found: What NVML says of the cards.
    """
    sizes = [card.memory.limit_bytes or 0 for card in found.visible if card.device == device]
    return LARGE_BATCH_TOKENS if sizes and sizes[0] >= LARGE_BYTES else BATCH_TOKENS


def _troubles(asked: str, found: Description) -> list[str]:
    """What keeps cards from being used that seem to be there, or their memory from being read."""
    if found.trouble is not None and not found.is_missing:
        return [f"no card can be used: {found.trouble}"]
    if found.trouble is not None and asked == "auto":
        return [f"no card can be used: {found.trouble}; --device cuda takes a card as torch sees it"]
    return [
        f"of the memory of {card.device} only what torch itself holds is known: {card.trouble}"
        if card.is_usable
        else f"{card.device} is left out: {card.trouble}"
        for card in found.visible
        if card.trouble is not None and asked in ("auto", "cuda", card.device)
    ]


def _seen(found: Description) -> tuple[list[str], str]:
    """What NVML lets a worker use, and the same in words."""
    devices = [str(card.device) for card in found.usable]
    if devices:
        return devices, f"NVML sees {', '.join(devices)}"
    return devices, found.hidden or f"NVML sees no card{f' ({found.why})' if found.why else ''}"


def _auto(
    workers: int | None,
    cpu_below_gib: float,
    found: Description,
    core_count: int,
    build: str | None,
    warnings: list[str],
) -> DevicePlan:
    cards = found.usable
    if not cards:
        nothing = "no card can be used" if warnings else found.hidden or "no NVIDIA card is seen"
        hint = f"; --device cuda takes what torch sees ({build})" if (build or "").startswith("HIP") else ""
        return _on_cpu(nothing + hint, workers, core_count, warnings)
    big = [card for card in cards if card.memory.limit_bytes is None or card.memory.limit_bytes > cpu_below_gib * GIB]
    sizes = " and ".join(map(_size, big or cards))
    if not big:
        why = (
            f"{sizes}, and up to {cpu_below_gib:g} GiB the CPU is the safer place for long runs; "
            "--device cuda takes the card, --cpu-below-gib moves the limit"
        )
        return _on_cpu(why, workers, core_count, warnings)
    if NO_CUDA in warnings:
        return _on_cpu("the installed torch cannot use the card", workers, core_count, warnings)
    return _on_cards([str(card.device) for card in big], workers, core_count, sizes, warnings)


def _size(card: CardInfo) -> str:
    limit = card.memory.limit_bytes
    return f"{card.device} is there, its memory is not known" if limit is None else f"{card.device} has {gib(limit)}"


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


def worker_cards(environ: Mapping[str, str]) -> Description:
    """The cards that a worker with this environment can use, as far as NVML tells. Never raises."""
    # Workers are started with the bus's order, so that NVML's numbers are CUDA's.
    return describe({**environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})


def count_torch_devices(environ: Mapping[str, str]) -> int:
    """How many CUDA or HIP devices torch sees: a process that is started for it says so. 0 where it does not."""
    command, variables = worker_command("helix_crawl_otel.probes.torch_cuda", environ)
    variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    try:
        done = subprocess.run(
            command, env=variables, stdin=subprocess.DEVNULL, capture_output=True, timeout=COUNT_SECONDS, check=True
        )
        return int(done.stdout.split()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0


def cores() -> int:
    """Cores that this process may use, by affinity and by the quota of its container; at least 1."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_cores()
    return found if quota is None else max(1, min(found, math.ceil(quota)))


def torch_build() -> str | None:
    """What the installed torch is built for. Its file is read as text: nothing is imported.

    Returns:
        Such as `CUDA 12.8` or `HIP 6.2`; empty for a build for the CPU alone; `None` without torch, or when its file
        does not say.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    versions = {line["name"]: line["version"] for line in _VERSION.finditer(text)}
    if "cuda" not in versions:
        return None
    return next((f"{name.upper()} {versions[name]}" for name in ("cuda", "hip") if versions.get(name)), "")
