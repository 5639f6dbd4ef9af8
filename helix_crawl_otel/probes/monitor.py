"""Reads a probe every tick in a thread of its own, so that a driver call that hangs stops nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from helix_crawl_otel.policy.memory import STALE_SECONDS
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cgroup import CgroupProbe
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.nvml import NvmlProbe
from helix_crawl_otel.probes.probe import CombinedProbe, UnknownProbe
from helix_crawl_otel.probes.torch_cuda import TorchProbe
from helix_crawl_otel.timing import Ticker

__all__ = ["MemorySampler", "default_probe"]


class SampledProbe(Protocol):
    """A probe that never raises and knows its sources."""

    def __call__(self) -> MemoryReading:
        """Read now."""

    def sources(self) -> dict[str, bool]:
        """For each source whether its last reading was known."""


class MemorySampler:
    """Delivers the readings of one device.

    Args:
        device: Its name.
        probe: What is read.
        deliver: Called with device, reading and sources after each reading.
        lose: Called with device and sources, all down, once a reading has been awaited for 60 s: the gauges must not
            show the last good value for ever.
        clock: Seconds.
        on_error: Called with what `deliver` raised.

    Threads: `sample` runs in the sampler's thread, or, when it was never started, in the owner's. `check` from any.
    """

    def __init__(
        self,
        device: str,
        probe: SampledProbe,
        deliver: Callable[[str, MemoryReading, Mapping[str, bool]], None],
        lose: Callable[[str, Mapping[str, bool]], None],
        clock: Callable[[], float],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.device = device
        self._probe = probe
        self._deliver = deliver
        self._lose = lose
        self._clock = clock
        self._on_error = on_error
        self._asked_at: float | None = None  # set and cleared by the sampling thread
        self._ticker: Ticker | None = None

    def start(self, seconds: float) -> None:
        """Sample now and every so many seconds, in a thread."""
        self._ticker = Ticker(f"helix-crawl-memory-{self.device}", self.sample, seconds, self._on_error).start()

    def stop(self) -> None:
        """End the thread, if its probe lets it."""
        if self._ticker is not None:
            self._ticker.stop()

    def sample(self) -> None:
        """Read once and deliver."""
        self._asked_at = self._clock()
        reading = self._probe()
        self._asked_at = None
        self._deliver(self.device, reading, self._probe.sources())

    def check(self) -> None:
        """Report the memory as lost when the probe has not answered for 60 s."""
        asked_at = self._asked_at
        if asked_at is not None and self._clock() - asked_at > STALE_SECONDS:
            self._lose(self.device, dict.fromkeys(self._probe.sources(), False))


def default_probe(device: str, environ: Mapping[str, str]) -> CombinedProbe:
    """The probes for one device.

    Args:
        device: `cpu`, `cuda` (which means `cuda:0`), `cuda:N`, or another kind of torch's, such as `mps`.
        environ: The environment of the process that encodes.

    Returns:
        NVML and torch for `cuda`; the control group for `cpu`; for any other kind a probe that is always unknown and
        says so. Its `device` is the full name.

    Raises:
        ValueError: `device` is no device name.
    """
    name = parse_device(device)
    if name.kind == "cuda":
        return CombinedProbe([NvmlProbe(str(name), environ), TorchProbe(str(name))])
    if name.kind == "cpu":
        return CombinedProbe([CgroupProbe()])
    return CombinedProbe([UnknownProbe(str(name), name.kind, f"no memory probe for {name.kind} devices")])
