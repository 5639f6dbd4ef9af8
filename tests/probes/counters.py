"""Stands in for the performance counters on any system: says what a test says, hangs or fails when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Callable

from helix_crawl_otel.probes.gpu_counters import AdapterUsage, GpuCounters, GpuUsage, ProcessUsage
from helix_crawl_otel.probes.processes import Process

__all__ = ["CARD", "GIB", "MIB", "TABLE", "FakeCounters", "usage"]

MIB, GIB = 1024**2, 1024**3
CARD = "0x00000000_0x0000D1C5"

TABLE = (
    Process(4711, 1, "python.exe"),
    Process(4712, 4711, "python.exe"),
    Process(4800, 1, "python.exe"),
    Process(99, 1, "game.exe"),
)
"""A worker of two processes, another worker, and a game."""


def usage(*held: tuple[int, int, int]) -> GpuUsage:
    """A reading of one adapter: pid, MiB dedicated, MiB shared of each process."""
    processes = tuple(ProcessUsage(pid, CARD, dedicated * MIB, shared * MIB) for pid, dedicated, shared in held)
    sums = (sum(one.dedicated_bytes for one in processes), sum(one.shared_bytes for one in processes))
    return GpuUsage(processes, (AdapterUsage(CARD, *sums),))


class FakeCounters(GpuCounters):
    """Answers with `answer`; see `GpuCounters`.

    Attributes:
        answer: A reading, `None` with `why`, or an exception to raise.
        goes: While it is clear a reading hangs, for at most a minute; see `hang`.
        during: Called in the middle of each reading.
    """

    def __init__(self, answer: GpuUsage | Exception | None = None) -> None:
        super().__init__()
        self.answer = answer
        self.goes = threading.Event()
        self.goes.set()
        self._hangs = threading.Event()
        self.during: Callable[[], object] = lambda: None
        self.reads = 0
        self.closed = 0

    def read(self) -> GpuUsage | None:
        """Read now."""
        self.reads += 1
        self.during()
        if not self.goes.is_set():
            self._hangs.set()
            assert self.goes.wait(60)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def hang(self) -> None:
        """Let the readings hang until `goes` is set, and come back when one does. Those before it have ended."""
        self._hangs.clear()
        self.goes.clear()
        assert self._hangs.wait(50)

    def close(self) -> None:
        """Give everything back."""
        self.closed += 1
