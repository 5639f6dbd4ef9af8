"""What a memory probe is: a callable that answers with one reading and says why when it cannot.

A probe never raises into its caller. A value that cannot be read is unknown, never 0 and never the last good one,
so that it can never trip anything (STYLE.md, "Data and health are separate facts").

Who calls: one sampler thread, at each tick. Probes keep a little state between calls (a device handle, a count of
failures) and hold no lock, so a probe belongs to one thread. Any probe may block in the driver or the kernel; the
module of each says for how long and whether other Python threads run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from helix_crawl_otel.policy.model import MemoryReading

__all__ = ["UNKNOWN", "CallableProbe", "Probe", "UnknownProbe", "sentence"]

UNKNOWN = MemoryReading(None, None)


class Probe(Protocol):
    """One source of readings for one device.

    Threads: one thread at a time.
    """

    @property
    def source(self) -> str:
        """Where readings come from, a short word: the label `source` of `helix_dense_vram_probe_up`."""

    @property
    def device(self) -> str:
        """The device that is read, such as `cuda:0`."""

    @property
    def why(self) -> str | None:
        """One sentence: why the last reading, or a part of it, is unknown; `None` when nothing was missing."""

    def __call__(self) -> MemoryReading:
        """Read now. Never raises."""


class UnknownProbe:
    """A probe for a device that nothing here can read: always unknown, always for the same reason.

    Args:
        device: Name of the device.
        source: Word for the label `source`.
        why: One sentence for people.

    Threads: any.
    """

    def __init__(self, device: str, source: str, why: str) -> None:
        self.device = device
        self.source = source
        self.why: str | None = why

    def __call__(self) -> MemoryReading:
        """Nothing is read: always unknown."""
        return UNKNOWN


class CallableProbe:
    """Makes a probe of somebody's plain `() -> MemoryReading`, so that it can neither raise nor answer nonsense.

    Args:
        read: The callable. An exception or another type than `MemoryReading` counts as unknown.
        device: Device it reads.
        source: Word for the label `source`.

    Raises:
        ValueError: `read` is not callable.

    Threads: one at a time, as `read` allows.
    """

    def __init__(self, read: Callable[[], MemoryReading], device: str, source: str = "custom") -> None:
        if not callable(read):
            raise ValueError(f"CallableProbe.read is {read!r}; accepted: a callable that returns a MemoryReading")
        self.device = device
        self.source = source
        self.why: str | None = None
        self._read: Callable[[], object] = read

    def __call__(self) -> MemoryReading:
        """Call it, and turn whatever it does into a reading."""
        try:
            reading = self._read()
        except Exception as error:  # noqa: BLE001 - a probe never raises: somebody's code may
            self.why = f"the probe raised {sentence(error)}"
            return UNKNOWN
        if not isinstance(reading, MemoryReading):
            self.why = f"the probe answered {reading!r}, which is no MemoryReading"
            return UNKNOWN
        self.why = None if reading.fraction is not None else "the probe knows no value"
        return reading


def sentence(error: BaseException) -> str:
    """An exception in one line: its type, and its first line of text where it has one."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
