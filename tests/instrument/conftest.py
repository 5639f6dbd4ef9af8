"""A watched process: real libraries, a watch on a virtual clock, a card that its passes fill."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel import CrawlConfig, CrawlWatch
from helix_crawl_otel.policy.model import MemoryReading
from tests.build.conftest import rig
from tests.watch.rig import CARD_BYTES, TICK, Clock

__all__ = ["StepClock", "Watched", "is_moved", "rig", "watched"]

NEEDED = ("wrapt", "opentelemetry.instrumentation", "sentence_transformers")
if not all(map(importlib.util.find_spec, NEEDED)):  # not imported: that takes eight seconds of the processor
    pytest.skip("the extras `instrument` and `minilm` are not installed", allow_module_level=True)


class StepClock(Clock):
    """A clock on which no two readings are the same."""

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class Watched:
    """The instrumentor at work, and what was seen of it.

    Args:
        folder: For the timeline.
        more: For `CrawlWatch`.
    """

    def __init__(self, folder: Path, **more: Any) -> None:
        from helix_crawl_otel.instrument.instrumentor import HelixCrawlInstrumentor

        self.clock = StepClock()
        self.fraction = 0.5
        self.device = "cuda:0"
        self.path = folder / "timeline.jsonl"
        given = {"config": CrawlConfig(window=2), "clock": self.clock, "tick_seconds": None, "timeline": self.path}
        self.watch = CrawlWatch(memory=self._memory, **{**given, **more})
        self.instrumentor = HelixCrawlInstrumentor()
        self.instrumentor.instrument(watch=self.watch, device_of=lambda module: self.device)

    def _memory(self) -> MemoryReading:
        return MemoryReading(round(self.fraction * CARD_BYTES), CARD_BYTES)

    def close(self) -> None:
        """Give back what was watched."""
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.uninstrument()
        self.watch.close()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Of the timeline."""
        self.watch.close()
        found = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [line for line in found if line["event"] == event]

    def batches(self) -> list[tuple[str, int, int]]:
        """Shard, genes and work of each."""
        return [(line["shard"], line["genes"], line["work"]) for line in self.lines("batch")]

    def slow_down(self, model: Any, healthy: float, slow: float, after: int) -> list[int]:
        """Have each pass take time, and the card be full from one on, for as long as the model is on it.

        Returns:
            A list of the passes so far.
        """
        passes: list[int] = []

        def take_time(module: Any, args: Any) -> None:
            passes.append(1)
            is_slow = len(passes) > after and not is_moved(module)
            self.fraction = 0.99 if is_slow else 0.5
            left = slow if is_slow else healthy
            while left > 0:
                self.clock.now += min(left, TICK)
                left -= TICK
                self.watch.tick()

        model[0].register_forward_pre_hook(take_time)
        return passes


def is_moved(module: Any) -> bool:
    """A model of half precision that is in full: it was moved to the CPU."""
    import torch

    return bool(next(module.parameters()).dtype == torch.float32)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Everything is watched in this process."""
    rig = Watched(tmp_path)
    yield rig
    rig.close()
