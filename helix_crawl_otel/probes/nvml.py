"""Reads a card's dedicated memory through NVML: device-wide, so it sees every process, and from any process.

This is the probe of the supervisor: it needs no CUDA context and creates none. Under WDDM it is device-wide as well;
only per-process figures are not available there (INCIDENTS.md, "Other facts").

Blocking: see nvml_api. A read took 42 us; the GIL is free during each call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.nvml_api import (
    FUNCTION_NOT_FOUND,
    NOT_SUPPORTED,
    UNINITIALIZED,
    VERSION_MISMATCH,
    NvmlFailure,
    NvmlMemory,
    memory_v1,
    memory_v2,
)
from helix_crawl_otel.probes.nvml_cards import find_card
from helix_crawl_otel.probes.probe import UNKNOWN, sentence

__all__ = ["UNIFIED", "NvmlProbe", "read_memory"]

UNIFIED = "unified memory, spill not applicable"
_NO_VERSION_2 = (NOT_SUPPORTED, FUNCTION_NOT_FOUND, VERSION_MISMATCH)
_LONGEST_PAUSE = 64


class NvmlProbe:
    """Used and total memory of one card.

    After a failure the handle is dropped and everything is looked up again: at the very next call, then with 1, 2, 4
    ... up to 64 calls left out in between (over 5 minutes at one call each 5 s), since a start of NVML on a broken
    driver may cost seconds. One exception: NVML that somebody shut down is started again within the same call.

    Args:
        device: `cuda` or `cuda:N`.
        environ: The environment of the process that encodes: `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` say which
            card is meant. It is read when the card is looked up, not at each call.

    Raises:
        ValueError: `device` is no CUDA device.

    Threads: one thread at a time.
    """

    source = "nvml"

    def __init__(self, device: str, environ: Mapping[str, str]) -> None:
        name = parse_device(device)
        if name.kind != "cuda":
            raise ValueError(f"NvmlProbe.device is {device!r}; accepted: cuda or cuda:N")
        self.device = str(name)
        self.why: str | None = None
        self._ordinal = name.index
        self._environ = environ
        self._handle: Any = None
        self._uuid: str | None = None
        self._version_2 = True
        self._failures = 0
        self._pause = 0

    def __call__(self) -> MemoryReading:
        """Read the card now, unless a back-off says to leave this call out. Never raises."""
        if self._pause > 0:
            self._pause -= 1
            return UNKNOWN
        try:
            memory = self._read()
        except Exception as error:  # noqa: BLE001 - a probe never raises: the reading is unknown
            self._handle = None
            self._pause = min(2 ** (self._failures - 1), _LONGEST_PAUSE) if self._failures else 0
            self._failures = min(self._failures + 1, 32)
            self.why = str(error) if isinstance(error, NvmlFailure) else f"NVML: {sentence(error)}"
            return UNKNOWN
        self._failures = 0
        self.why = None
        return MemoryReading(memory.used, memory.total)

    def _read(self) -> NvmlMemory:
        fresh = self._handle is None
        try:
            return self._ask()
        except NvmlFailure as failure:
            if fresh or failure.code != UNINITIALIZED:
                raise
        self._handle = None  # somebody called nvmlShutdown: start again, once
        return self._ask()

    def _ask(self) -> NvmlMemory:
        if self._handle is None:
            self._handle, self._uuid = find_card(self._ordinal, self._environ, self._uuid)
        memory, self._version_2 = read_memory(self._handle, self._version_2)
        return memory


def read_memory(handle: object, version_2: bool = True) -> tuple[NvmlMemory, bool]:
    """Memory of one card, by version 2 of the call where it works, else by version 1.

    Args:
        handle: The card.
        version_2: False when version 2 is known not to work.

    Returns:
        The memory, and whether version 2 is worth asking again.

    Raises:
        NvmlFailure: Neither answers. Error 3 from both is how devices with unified memory (GB10, Jetson) answer.
    """
    if version_2:
        try:
            return memory_v2(handle), True
        except NvmlFailure as failure:
            if failure.code not in _NO_VERSION_2:
                raise
    try:
        return memory_v1(handle), False
    except NvmlFailure as failure:
        if failure.code == NOT_SUPPORTED:
            raise NvmlFailure(NOT_SUPPORTED, f"{UNIFIED} ({failure})") from failure
        raise
