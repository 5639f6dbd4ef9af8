"""Reads a probe every tick in a thread of its own, so that a driver call that hangs stops nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from helix_crawl_otel.policy.memory import STALE_SECONDS
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.timing import Ticker

__all__ = ["MemorySampler"]


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
