"""Makes one reading of several probes of the same device.

NVML sees every process, but not what a process holds beyond the card. The framework sees just that, of its own
process. Neither is ever an upper bound of the other, so the fuller one is the reading.

Blocking: as the probes do, one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.probe import UNKNOWN, Probe, sentence

__all__ = ["CombinedProbe"]


class CombinedProbe:
    """Asks every probe at each call and answers with the fuller reading.

    The limit is that of the first probe that knows one, so the order of the probes is an order of trust: NVML before
    the framework. One exception: where the framework holds more than it believes the device has, the smaller of the
    two limits counts, since that alone is near-proof of a spill (INCIDENTS.md, RTX 3070) and must not read as less
    than full.

    A probe that raises is unknown at that call, and the others go on. Shared memory is what the first probe says that
    knows of any.

    Args:
        probes: At least one, of one device, each with a source of its own.

    Raises:
        ValueError: There is no probe, or two devices, or one source twice.

    Threads: one thread at a time. `sources` and `why` may be read from any: each is replaced, never changed.
    """

    source = "combined"

    def __init__(self, probes: Sequence[Probe]) -> None:
        devices = sorted({probe.device for probe in probes})
        names = [probe.source for probe in probes]
        if len(devices) != 1:
            raise ValueError(f"CombinedProbe.probes are of devices {devices!r}; accepted: probes of one device")
        if len(set(names)) != len(names):
            raise ValueError(f"CombinedProbe.probes have sources {names!r}; accepted: each source once")
        self.device = devices[0]
        self.why: str | None = None
        self._probes = tuple(probes)
        self._up = dict.fromkeys(names, False)

    def __call__(self) -> MemoryReading:
        """Ask every probe now. Never raises."""
        readings: list[MemoryReading] = []
        up: dict[str, bool] = {}
        reasons: list[str] = []
        for probe in self._probes:
            reading, why = _ask(probe)
            readings.append(reading)
            up[probe.source] = reading.used_bytes is not None
            if why is not None:
                reasons.append(why if why.lower().startswith(probe.source) else f"{probe.source}: {why}")
        self._up = up
        self.why = "; ".join(reasons) or None
        reading = _fullest(readings)
        told = [(one.shared_bytes, one.other_shared_bytes) for one in readings]
        own, other = next((both for both in told if both != (None, None)), (None, None))
        return replace(reading, shared_bytes=own, other_shared_bytes=other)

    def sources(self) -> dict[str, bool]:
        """For each source whether its last reading was known; all false before the first. A copy."""
        return dict(self._up)


def _ask(probe: Probe) -> tuple[MemoryReading, str | None]:
    try:
        reading = probe()
        why = probe.why
    except Exception as error:  # noqa: BLE001 - a probe never raises: one that does must not take the others down
        return UNKNOWN, f"the probe raised {sentence(error)}"
    if not isinstance(reading, MemoryReading):
        return UNKNOWN, f"the probe answered {reading!r}, which is no MemoryReading"
    if reading.fraction is None and why is None:
        why = "the reading is not known"
    return reading, why


def _fullest(readings: Sequence[MemoryReading]) -> MemoryReading:
    limit = next((reading.limit_bytes for reading in readings if reading.limit_bytes is not None), None)
    known = [reading for reading in readings if reading.used_bytes is not None]
    candidates = [MemoryReading(reading.used_bytes, limit) for reading in known]
    candidates += [reading for reading in known if (reading.fraction or 0.0) > 1.0]
    if not candidates:
        return MemoryReading(None, limit)
    return max(candidates, key=lambda reading: reading.fraction or 0.0)
