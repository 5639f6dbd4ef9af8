"""What a memory probe is: a callable that answers with one reading and says why when it cannot.

A probe never raises into its caller. A value that cannot be read is unknown, never 0 and never the last good one,
so that it can never trip anything (STYLE.md, "Data and health are separate facts").

Who calls: one sampler thread, at each tick. Probes keep a little state between calls (a device handle, a count of
failures) and hold no lock, so a probe belongs to one thread. Any probe may block in the driver or the kernel; the
module of each says for how long and whether other Python threads run meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from helix_crawl_otel.policy.model import CardReading, MemoryReading

__all__ = ["UNKNOWN", "Backoff", "CallableProbe", "CombinedProbe", "Probe", "ProbeFailure", "sentence"]

UNKNOWN = MemoryReading(None, None)


class ProbeFailure(Exception):
    """Something cannot be read.

    Args:
        text: One sentence for people.
        code: Error number of the library that was asked; `None` when it never came to a call.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


class Probe(ABC):
    """One source of readings for one device.

    Args:
        device: The device that is read, such as `cuda:0`.

    Threads: one thread at a time.
    """

    source = ""
    """Where readings come from, a short word: the label `source` of `helix_dense_vram_probe_up`."""
    blames = "the probe raised"
    """What the reason begins with when `_read` raises something else than a `ProbeFailure`."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.why: str | None = None
        """One sentence: why the last reading, or a part of it, is unknown; `None` when nothing was missing."""

    def __call__(self) -> MemoryReading:
        """Read now. Never raises."""
        try:
            reading: object = self._read()
        except Exception as error:  # noqa: BLE001 - a probe never raises: the reading is unknown
            self.why = str(error) if isinstance(error, ProbeFailure) else f"{self.blames} {sentence(error)}"
            return UNKNOWN
        if not isinstance(reading, MemoryReading):
            self.why = f"the probe answered {reading!r}, which is no MemoryReading"
            return UNKNOWN
        self.why = None if reading.fraction is not None else "the probe knows no value"
        return reading

    def read_card(self) -> CardReading:
        """What the card says of itself beside its memory, where this source knows any of it."""
        return CardReading()

    @abstractmethod
    def _read(self) -> MemoryReading:
        """Read now.

        Raises:
            ProbeFailure: It cannot be read, and its text says why.
        """


class CallableProbe(Probe):
    """Makes a probe of somebody's plain `() -> MemoryReading`, so that it can neither raise nor answer nonsense.

    Args:
        read: The callable. An exception or another type than `MemoryReading` counts as unknown.
        device: Device it reads.
        source: Word for the label `source`.

    Threads: one at a time, as `read` allows.
    """

    def __init__(self, read: Callable[[], MemoryReading], device: str, source: str = "custom") -> None:
        super().__init__(device)
        self.source = source
        self._somebodys = read

    def _read(self) -> MemoryReading:
        return self._somebodys()


class CombinedProbe:
    """Asks every probe of one device at each call and answers with the fuller reading. Never raises.

    NVML sees every process, but not what a process holds beyond the card. The framework sees just that, of its own
    process. Neither is ever an upper bound of the other.

    The limit is that of the first probe that knows one, so the order of the probes is an order of trust: NVML before
    the framework. One exception: where the framework holds more than it believes the device has, the smaller of the
    two limits counts, since that alone is near-proof of a spill (INCIDENTS.md, RTX 3070) and must not read as less
    than full.

    Shared memory is what the first probe says that knows of any; so is what an allocator has reserved, with its cap.

    Blocking: as the probes do, one after the other.

    Args:
        probes: At least one, of one device, each with a source of its own.

    Threads: one thread at a time. `sources` and `why` may be read from any: each is replaced, never changed.
    """

    def __init__(self, probes: Sequence[Probe]) -> None:
        self.device = probes[0].device
        self.why: str | None = None
        """The reasons of all that are unknown, each with its source; `None` when nothing was missing."""
        self._probes = tuple(probes)
        self._up = {probe.source: False for probe in probes}

    def __call__(self) -> MemoryReading:
        """Ask every probe now."""
        readings = [probe() for probe in self._probes]
        self._up = {probe.source: one.used_bytes is not None for probe, one in zip(self._probes, readings, strict=True)}
        self.why = "; ".join(_reason(probe.source, probe.why) for probe in self._probes if probe.why) or None
        return replace(
            _fullest(readings),
            **_told(readings, "shared_bytes", "other_shared_bytes"),
            **_told(readings, "reserved_bytes", "cap_bytes"),
        )

    def read_card(self) -> CardReading:
        """What the first probe says that says anything of the card. Asked after the memory: it may take longer."""
        readings = [probe.read_card() for probe in self._probes]
        return next((reading for reading in readings if reading != CardReading()), CardReading())

    def sources(self) -> dict[str, bool]:
        """For each source whether its last reading was known; all false before the first. A copy."""
        return dict(self._up)


def _reason(source: str, why: str) -> str:
    return why if why.lower().startswith(source) else f"{source}: {why}"


def _told(readings: Sequence[MemoryReading], *names: str) -> dict[str, int | None]:
    """What the first reading says of these that says anything of them: facts of two probes need not fit each other."""
    said = [{name: getattr(reading, name) for name in names} for reading in readings]
    return next((facts for facts in said if any(fact is not None for fact in facts.values())), {})


def _fullest(readings: Sequence[MemoryReading]) -> MemoryReading:
    limit = next((reading.limit_bytes for reading in readings if reading.limit_bytes is not None), None)
    known = [reading for reading in readings if reading.used_bytes is not None]
    candidates = [MemoryReading(reading.used_bytes, limit) for reading in known]
    candidates += [reading for reading in known if (reading.fraction or 0.0) > 1.0]
    if not candidates:
        return MemoryReading(None, limit)
    return max(candidates, key=lambda reading: reading.fraction or 0.0)


class Backoff:
    """Says which calls are left out after failures: none after the first, then 1, 2, 4 ... up to 64 in a row.

    64 are over 5 minutes at one call each 5 s.

    Threads: one thread at a time.
    """

    _LONGEST_PAUSE = 64

    def __init__(self) -> None:
        self._failures = 0
        self._pause = 0

    def leaves_out(self) -> bool:
        """Whether this call is left out. Asked once at each."""
        if self._pause == 0:
            return False
        self._pause -= 1
        return True

    def fail(self) -> None:
        """A call was made and failed."""
        self._pause = min(2 ** (self._failures - 1), self._LONGEST_PAUSE) if self._failures else 0
        self._failures = min(self._failures + 1, 32)

    def succeed(self) -> None:
        """A call was made and worked."""
        self._failures = 0


def sentence(error: BaseException) -> str:
    """An exception in one line: its type, and its first line of text where it has one."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
