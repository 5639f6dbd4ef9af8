"""Reads what torch's caching allocator holds on a card, from inside the process that encodes.

It sees one thing NVML cannot: reserved memory above what the card has, which is near-proof of a spill (INCIDENTS.md,
RTX 3070). It looks only where CUDA is in use already: it never imports torch and never starts CUDA.
`torch.cuda.mem_get_info` is not used: it creates a context, and its total may include the shared pool under WDDM.

Blocking: the figures are behind the allocator's lock, which is held while the allocator calls the driver, and torch
does not release the GIL while it waits for that lock. A driver call that hangs in an allocation may therefore hold up
this probe with the GIL held, as that allocation holds up the job itself.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cards import Description, describe
from helix_crawl_otel.probes.device import parse_cuda
from helix_crawl_otel.probes.probe import Probe, ProbeFailure

__all__ = ["TorchProbe", "allocator_cap", "main", "may_have_card", "set_allocator_cap"]

_AMD = Path("/dev/kfd")


class TorchProbe(Probe):
    """Bytes that torch has reserved on one card, against the card's size and against the allocator's cap.

    Used is the highest value since the previous reading where that can be known without touching the job's own
    statistics: they belong to the job, so the peak is never reset. The peak counter tells enough: when it differs from
    what it was at the previous reading, either a new peak was set since then, or the job reset it and what it shows
    was reached since then. When it is the same, the current value is taken.

    Args:
        device: `cuda` or `cuda:N`, as the process itself numbers its cards.
        modules: Modules that are loaded; `sys.modules` unless a test replaces it.

    Raises:
        ValueError: `device` is no CUDA device.

    Threads: one thread at a time.
    """

    source = "torch"
    blames = "torch:"

    def __init__(self, device: str, modules: Mapping[str, Any] | None = None) -> None:
        name = parse_cuda(device)
        super().__init__(str(name))
        self._index = name.index
        self._modules: Mapping[str, Any] = sys.modules if modules is None else modules
        self._peak: int | None = None
        self._limit: int | None = None

    def _read(self) -> MemoryReading:
        cuda = self._cuda_in_use()
        if self._limit is None:
            self._limit = int(cuda.get_device_properties(self._index).total_memory)
        stats = cuda.memory_stats(self._index)  # one snapshot under one lock: the figures fit each other
        used = int(stats["reserved_bytes.all.current"])
        peak = int(stats["reserved_bytes.all.peak"])
        if self._peak is not None and peak != self._peak:
            used = max(used, peak)
        self._peak = peak
        return MemoryReading(
            used, self._limit, reserved_bytes=used, cap_bytes=allocator_cap(cuda, self._index, self._limit)
        )

    def _cuda_in_use(self) -> Any:
        cuda = getattr(self._modules.get("torch"), "cuda", None)
        if cuda is None:
            raise ProbeFailure("torch is not loaded in this process")
        if not cuda.is_initialized():
            raise ProbeFailure("torch does not use CUDA in this process")
        return cuda


_set_here: dict[int, int] = {}
"""Caps that this process has set, by ordinal, for the versions of torch that cannot tell them: 2.6, that is."""


def allocator_cap(cuda: Any, index: int, total: int) -> int | None:
    """The most that torch's allocator may take of a card, in bytes, whoever has set that; `None` without a cap.

    Args:
        cuda: `torch.cuda`, in use.
        index: Of the card, as the process numbers them.
        total: The card's size, as torch has it.
    """
    ask = getattr(cuda, "get_per_process_memory_fraction", None)
    if ask is None:
        return _set_here.get(index)
    fraction = float(ask(index))
    return max(1, round(fraction * total)) if fraction < 1.0 else None


def set_allocator_cap(cuda: Any, index: int, total: int, cap: int) -> None:
    """Have torch's allocator ask for no more than `cap` bytes of a card, to the byte; see `allocator_cap`.

    From then on it looks at its cap before each new segment, gives its cached blocks back and tries again, and raises
    `torch.OutOfMemoryError`. What it holds already it keeps. Source: torch, `CUDACachingAllocator.cpp`, `alloc_block`
    and `setMemoryFraction`, which cuts fraction x total down to a whole number.

    Raises:
        RuntimeError: The device is in trouble.
    """
    fraction = cap / total
    if int(fraction * total) < cap:
        fraction = math.nextafter(fraction, 1.0)
    cuda.set_per_process_memory_fraction(fraction, index)
    _set_here[index] = cap


def may_have_card(
    environ: Mapping[str, str],
    modules: Mapping[str, Any] | None = None,
    seen: Callable[[Mapping[str, str]], Description] = describe,
) -> bool:
    """Whether a process can encode on a card: NVML sees one, or the system has one of AMD's, or torch says so.

    Args:
        environ: Of the process.
        modules: Modules that are loaded; `sys.modules` unless a test replaces it.
        seen: What NVML sees; a seam for tests.
    """
    if seen(environ).visible or _AMD.exists():
        return True
    cuda = getattr((sys.modules if modules is None else modules).get("torch"), "cuda", None)
    try:
        return cuda is not None and bool(cuda.is_available())
    except Exception:  # noqa: BLE001 - it is the job's torch
        return False


def main() -> int:
    """Print how many devices torch sees: of a process that is started to find out, and for nothing else."""
    sys.stdout.write(f"{importlib.import_module('torch').cuda.device_count()}\n")
    return 0
