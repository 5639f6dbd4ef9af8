"""Keeps torch's allocator within the dedicated memory that there is, so that a full card raises instead of spilling.

Under WDDM nothing tells the allocator that a card is full: its driver moves memory to the system, and the job crawls.
Under a cap the allocator looks before each new segment, gives its cached blocks back, which it otherwise never does
there, and then raises out of memory: what asked for it can be halved, and goes on.

The cap is

    min(fraction x (free / workers + own), budget) - 0.6 GiB

of the card's dedicated memory: what is free now, by NVML, shared by the workers on that card, and what this process
holds already; at most what the driver lets this process take (DXGI, where it answers); less what a context of CUDA and
its libraries take beside the allocator. It counts the allocator's memory only.

Nobody has seen it on WDDM yet: that the cap raises there, and that the margin is enough.

Source: ADAPTIVE.md, "The cap"; torch, `CUDACachingAllocator.cpp`.
"""

from __future__ import annotations

import gc
import importlib
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.config import Value, environment, read_knob
from helix_crawl_otel.formats import GIB, MIB, gib
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import MemoryReading, is_number
from helix_crawl_otel.probes.cards import ANSWER_SECONDS, driver_model
from helix_crawl_otel.probes.device import DeviceName, TorchDevice, device_name
from helix_crawl_otel.probes.dxgi import driver_budget
from helix_crawl_otel.probes.nvml import NvmlProbe, within
from helix_crawl_otel.probes.probe import Probe, ProbeFailure, sentence
from helix_crawl_otel.probes.torch_cuda import allocator_cap, set_allocator_cap

__all__ = [
    "ALLOCATOR",
    "AUTO",
    "AUTO_FRACTION",
    "CAPPED_MODELS",
    "CONTEXT_BYTES",
    "OFF",
    "VRAM_CAP",
    "CapKeeper",
    "CardRoom",
    "cap_bytes",
    "cap_for_worker",
    "cap_vram",
    "fraction_of",
    "refresh_cap",
    "set_by_user",
]

VRAM_CAP = "HELIX_DENSE_VRAM_CAP"
AUTO, OFF = "auto", "off"
AUTO_FRACTION = 0.95
CAPPED_MODELS = ("WDDM", "MCDM")
"""Driver models under which a full card may spill."""

CONTEXT_BYTES = 6 * GIB // 10
"""A context with the handles and kernels of CUDA's libraries. Source: ADAPTIVE.md."""

EVERY_SECONDS = 30.0
"""Between two looks at what others hold."""

STEP_BYTES = 256 * MIB
"""The cap is moved by so much or not at all: windows and browsers come and go."""

LOOKS_TOGETHER = 3
"""How often a reading is tried that falls between two of the allocator's."""

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Torch's own name of the variable, and the older one that it still reads."""

_OWN_SETTING = "per_process_memory_fraction"


# -- what the cap is ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CardRoom:
    """Dedicated memory of a card at one moment, as one process sees it.

    Args:
        free_bytes: That nobody holds.
        own_bytes: That the process holds, its context included; 0 before it has one.
        budget_bytes: That the driver lets the process take in all; `None` where nobody tells.
    """

    free_bytes: int
    own_bytes: int = 0
    budget_bytes: int | None = None


def cap_bytes(fraction: float, room: CardRoom, workers: int = 1) -> int:
    """The most that the allocator may take, see above; at least 1: then nothing fits, and every request raises.

    Args:
        fraction: In (0, 1].
        room: Of the card.
        workers: How many processes share what is free, this one among them.
    """
    most = fraction * (room.free_bytes / workers + room.own_bytes)
    if room.budget_bytes is not None:
        most = min(most, room.budget_bytes)
    return max(1, int(most) - CONTEXT_BYTES)


def fraction_of(setting: Value, model: str | None) -> float | None:
    """What the knob comes to on a card.

    Args:
        setting: A fraction, `auto` or `off`.
        model: The driver model of the card.

    Returns:
        The fraction, `None` for no cap.
    """
    if setting == AUTO:
        return AUTO_FRACTION if model in CAPPED_MODELS else None
    return None if setting == OFF else float(setting)


def set_by_user(environ: Mapping[str, str]) -> str | None:
    """Torch's own setting of a cap, such as `PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:0.90`; else `None`."""
    for name in ALLOCATOR:
        for part in environ.get(name, "").split(","):
            if part.split(":")[0].strip() == _OWN_SETTING:
                return f"{name}={part.strip()}"
    return None


# -- who sets it -------------------------------------------------------------------------------------------------------


def cap_vram(device: str | int | TorchDevice = "cuda:0", fraction: float | None = None) -> int | None:
    """Have torch raise out of memory in this process before a card spills. For a loop of your own: call it before the
    model is loaded, with the device that you give to `watch.shard`.

    The cap is `fraction` of the dedicated memory that is free, at most what Windows lets this process take, less
    0.6 GiB for the context. `shard.boundary()` lowers it when others take memory of the card, and raises it again when
    they leave, at most every 30 s; reading costs a batch nothing. A request beyond it raises
    `torch.OutOfMemoryError`: release what is cached, halve the batch, and try again.

    It imports torch and begins to use CUDA. A cap of your own (`torch.cuda.set_per_process_memory_fraction`, or
    `per_process_memory_fraction` in `PYTORCH_CUDA_ALLOC_CONF`) is left as it is.

    Args:
        device: Where you encode, as for `CrawlWatch.shard`. Anything but a CUDA card has no cap.
        fraction: In (0, 1]. `None` reads `HELIX_DENSE_VRAM_CAP`: by default 0.95 under the driver models WDDM and MCDM
            of Windows, and no cap elsewhere, where a full card raises by itself.

    Returns:
        The most that torch may take of the card now, in bytes; `None` without a cap, for which the log has the reason
        once.

    Raises:
        ValueError: An argument is of the wrong kind or out of range. Nothing else is raised.

    Threads: any; not while another one encodes on the device. It waits for the driver, at most 30 s.
    """
    name = device_name(device)
    if fraction is not None and not (is_number(fraction) and 0 < fraction <= 1):
        raise ValueError(f"fraction is {fraction!r}; accepted: a number in (0, 1], or None")
    return _begin(name, read_knob(VRAM_CAP) if fraction is None else float(fraction), 1)


def cap_for_worker(device: str, setting: Value, workers: int) -> int | None:
    """The same for a worker of ours.

    Args:
        device: Where it encodes.
        setting: The knob's value.
        workers: Of the run on that card.
    """
    return _begin(device_name(device), setting, workers)


def refresh_cap(device: str) -> None:
    """At a batch boundary: move the cap of this device, if there is one, by what others hold. Costs nothing else.

    Raises:
        RuntimeError: The device is in trouble.
    """
    keeper = _kept.get(device)
    if keeper is not None:
        keeper.refresh()


_kept: dict[str, CapKeeper] = {}
"""The caps of this process, by device. Single operations only."""

_told: set[str] = set()


def _begin(name: DeviceName, setting: Value, workers: int) -> int | None:
    device, environ = str(name), environment()
    if name.kind != "cuda" or setting == OFF:
        return None
    fraction = fraction_of(setting, driver_model(device, environ) if setting == AUTO else None)
    if fraction is None:
        return None
    own = set_by_user(environ)
    if own is not None:
        _tell(f"torch's memory on {device} is capped by {own}, which is left as it is")
        return None
    try:
        keeper = _kept.get(device) or CapKeeper(name, NvmlProbe(device, environ), _cuda_of(name))
        cap = keeper.begin(fraction, workers)
    except Exception as error:  # noqa: BLE001 - the job goes on without a cap
        why = str(error) if isinstance(error, ProbeFailure) else sentence(error)
        _tell(f"torch's memory on {device} is not capped: {why}")
        return None
    _kept[device] = keeper
    return cap


def _cuda_of(name: DeviceName) -> Any:
    """`torch.cuda`, of a torch that sees this card.

    Raises:
        ProbeFailure: There is none.
    """
    try:
        cuda = importlib.import_module("torch").cuda
    except ImportError:
        raise ProbeFailure("torch is not installed") from None
    if not cuda.is_available():
        raise ProbeFailure("this torch can use no CUDA card")
    if name.index >= cuda.device_count():
        raise ProbeFailure(f"torch sees no {name}")
    return cuda


def _tell(text: str) -> None:
    if text not in _told:
        _told.add(text)
        watchdog.warning("%s", text)


# -- how it is kept ----------------------------------------------------------------------------------------------------


def _in_thread(look: Callable[[], None]) -> None:
    threading.Thread(target=look, name="helix-crawl-cap", daemon=True).start()


class CapKeeper:
    """The cap of one card in this process.

    Args:
        name: The card.
        card: Reads all of its memory.
        cuda: `torch.cuda`.
        clock: Seconds.
        start: Runs a look in the background, so that a driver that hangs keeps no batch; a seam for tests.
        budget: What the driver lets this process take of the card of this ordinal; likewise.

    Threads: any of the driver's; while one is in here the others pass by. A look is in a thread of its own, and leaves
    its answer in `_seen`.
    """

    def __init__(
        self,
        name: DeviceName,
        card: Probe,
        cuda: Any,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = _in_thread,
        budget: Callable[[int], int] = driver_budget,
    ) -> None:
        self._name = name
        self._card = card
        self._cuda = cuda
        self._clock = clock
        self._start = start
        self._budget = budget
        self._refreshing = threading.Lock()
        self._fraction = AUTO_FRACTION
        self._workers = 1
        self._total = 0
        self._cap: int | None = None  # as it was set, `None` before
        self._looked_at = 0.0
        self._is_looking = False  # set here, cleared by the look
        self._seen: int | None = None  # what the cap should be: left by the look, taken here
        self._higher: int | None = None  # what it should have been at the look before, where that was higher

    def begin(self, fraction: float, workers: int) -> int:
        """Set it for what is free now.

        Returns:
            What holds from now on, in bytes; a cap that the job has set itself stays.

        Raises:
            ProbeFailure: The card's memory cannot be read, or the driver does not answer.
            RuntimeError: The device is in trouble.
        """
        self._fraction, self._workers = fraction, workers
        index = self._name.index
        # Before CUDA is asked for anything: what it takes for a context is accounted for apart.
        wanted = within(ANSWER_SECONDS, self._wanted)
        self._total = int(self._cuda.get_device_properties(index).total_memory)
        before = allocator_cap(self._cuda, index, self._total)
        if before is not None and before != self._cap:
            _tell(f"torch's memory on {self._name} has a cap of the job's own, {gib(before)}, which is left as it is")
            self._cap = None
            return before
        self._looked_at = self._clock()
        cap = self._set(wanted)
        watchdog.info("torch may take %s of %s (%d bytes)", gib(cap), self._name, cap)
        return cap

    def refresh(self) -> None:
        """See `refresh_cap`."""
        if self._refreshing.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._refreshing.release()

    def _refresh(self) -> None:
        seen, self._seen = self._seen, None
        if seen is not None:
            self._move(seen)
        now = self._clock()
        if self._cap is not None and not self._is_looking and now - self._looked_at >= EVERY_SECONDS:
            self._looked_at, self._is_looking = now, True
            try:
                self._start(self._look)
            except RuntimeError:  # the system has no thread to give just now
                self._is_looking = False

    def _look(self) -> None:
        try:
            with suppress(ProbeFailure):
                self._seen = self._wanted()
        finally:
            self._is_looking = False

    def _wanted(self) -> int:
        reading, own = self._read()
        if reading.used_bytes is None or reading.limit_bytes is None:
            raise ProbeFailure(self._card.why or "the card's memory is not known")
        budget = None
        with suppress(ProbeFailure):
            budget = self._budget(self._name.index)
        room = CardRoom(max(0, reading.limit_bytes - reading.used_bytes), own, budget)
        return cap_bytes(self._fraction, room, self._workers)

    def _read(self) -> tuple[MemoryReading, int]:
        """The card's memory and ours of one moment: what is taken in between would count twice, or not at all."""
        for _ in range(LOOKS_TOGETHER):
            before = self._reserved()
            reading = self._card()
            if self._reserved() == before:
                return reading, before + CONTEXT_BYTES if before else 0
        raise ProbeFailure("the allocator is at work")

    def _reserved(self) -> int:
        """Whoever has reserved something has a context."""
        return int(self._cuda.memory_reserved(self._name.index)) if self._cuda.is_initialized() else 0

    def _move(self, wanted: int) -> None:
        """Down at once; up when it could have been higher twice in a row, and to the lower of the two."""
        cap = self._cap
        if cap is None:
            return
        if allocator_cap(self._cuda, self._name.index, self._total) != cap:
            _tell(f"torch's cap on {self._name} was changed by the job, and is left as it is from now on")
            self._cap = None
            return
        if wanted <= cap - STEP_BYTES:
            self._higher = None
            now = self._set(wanted)
            watchdog.warning("others hold more of %s: torch may take %s, before %s", self._name, gib(now), gib(cap))
        elif wanted < cap + STEP_BYTES:
            self._higher = None
        elif self._higher is None:
            self._higher = wanted
        else:
            now, self._higher = self._set(min(wanted, self._higher)), None
            watchdog.info("others hold less of %s: torch may take %s, before %s", self._name, gib(now), gib(cap))

    def _set(self, wanted: int) -> int:
        wanted = min(wanted, self._total - 1)  # all of it would be no cap
        if self._reserved() > wanted:  # torch would keep it, and refuse whatever is new
            gc.collect()
            self._cuda.empty_cache()
        set_allocator_cap(self._cuda, self._name.index, self._total, wanted)
        self._cap = wanted
        return wanted
