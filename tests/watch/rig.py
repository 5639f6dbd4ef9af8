"""A driver on a virtual clock: a real `CrawlWatch` on a real meter provider, and what its metrics say.

The usual batch has 64 genes and 4,000 of work and takes 4 s when healthy (16 genes/s). The tick is 5 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from opentelemetry.metrics import MeterProvider as AnyProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.policy.model import Action, MemoryReading
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.shard import ShardWatch

GENES = 64
WORK = 4000.0
HEALTHY = 4.0
CRAWL = 80.0
"""Seconds of a batch: it fills a window alone, and where somebody can end its worker that is done at once."""

SLOW = 28.0
"""Seconds of a batch that is below the limit, and over before its worker would be ended for it."""

TICK = 5.0
LOW, FULL = 0.5, 0.99
CARD_BYTES = 12_000_000_000

Series = dict[tuple[str, ...], float]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def reading(fraction: float | None, shared: int | None = None, other: int | None = None) -> MemoryReading:
    """A reading of the test's card, with bytes of shared memory; `None` is unknown."""
    return MemoryReading(None if fraction is None else round(fraction * CARD_BYTES), CARD_BYTES, shared, other)


def wait_until(holds: Callable[[], object], seconds: float = 50.0) -> None:
    """Wait for what another thread does, with a deadline."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.002)


def pipeline_of(watch: CrawlWatch) -> Pipeline:
    """What judges behind a watch that no supervisor has started."""
    pipeline = watch._backend.pipeline
    assert isinstance(pipeline, Pipeline)
    return pipeline


def make_provider(**more: Any) -> tuple[MeterProvider, InMemoryMetricReader]:
    """A provider of an app, and the reader that sees what it exports."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], Resource.get_empty(), shutdown_on_exit=False, **more)
    return provider, reader


def collected(reader: InMemoryMetricReader) -> dict[str, Series]:
    """Everything a reader sees: by name, then by label values in the order of the label names."""
    data = reader.get_metrics_data()
    found: dict[str, Series] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                series = found.setdefault(metric.name, {})
                for point in metric.data.data_points:
                    labels = tuple(f"{key}={value!s}" for key, value in sorted((point.attributes or {}).items()))
                    series[labels] = point.count if hasattr(point, "count") else point.value
    return found


class Rig:
    """One watch, its clock and its card.

    Args:
        fraction: How full the card is; `None` for a probe that knows nothing.
        provider: The app's; `None` makes one whose metrics `series` reads.
        more: For `CrawlWatch`.
    """

    def __init__(self, fraction: float | None = LOW, *, provider: AnyProvider | None = None, **more: Any) -> None:
        self.clock = Clock()
        self.fraction = fraction
        self.shared: int | None = None  # bytes of shared memory that the probe tells of the worker, and of others
        self.other_shared: int | None = None
        self.reader: InMemoryMetricReader | None = None
        if provider is None:
            provider, self.reader = make_provider()
        given: dict[str, Any] = {"memory": self._read, "clock": self.clock, "tick_seconds": None}
        self.watch = CrawlWatch(meter_provider=provider, **{**given, **more})
        self.applied: list[Action] = []

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *raised: object) -> None:
        self.watch.close()

    def _read(self) -> MemoryReading:
        return reading(self.fraction, self.shared, self.other_shared)

    def wait(self, seconds: float) -> Rig:
        """Let time pass, a tick at a time."""
        until = self.clock.now + seconds
        while self.clock.now + TICK <= until:
            self.clock.now += TICK
            self.watch.tick()
        self.clock.now = until
        return self

    def batch(self, shard: ShardWatch, seconds: float = HEALTHY, *, genes: float = GENES, work: Any = WORK) -> Rig:
        """One batch, with the ticks that fall into it; no boundary."""
        self.watch.tick()
        with shard.batch(genes, work):
            self.wait(seconds)
        return self

    def batches(self, shard: ShardWatch, count: int, seconds: float = HEALTHY) -> Rig:
        """Batches, each with its boundary."""
        for _ in range(count):
            self.batch(shard, seconds)
            self.applied += shard.boundary()
        return self

    def healthy(self, shard: ShardWatch, count: int = 9) -> Rig:
        """The warm-up and a whole baseline, on a card with room."""
        self.fraction = LOW
        return self.batches(shard, count)

    def crawl(self, shard: ShardWatch, count: int = 1) -> Rig:
        """Batches at a twentieth of the healthy rate, on a card that is full."""
        self.fraction = FULL
        return self.batches(shard, count, CRAWL)

    def crawl_until(self, shard: ShardWatch, kind: str, most: int = 40) -> Action:
        """Crawl until the driver holds an action of this kind; it is taken from the queue, not applied."""
        self.fraction = FULL
        for _ in range(most):
            self.batch(shard, CRAWL)
            for action in self.watch.actions.drain(shard.name):
                if action.kind.value == kind:
                    return action
                self.watch.actions.acknowledge(action)
        raise AssertionError(f"no {kind} in {most} crawling batches: {shard.status()}")

    def fail(self, error: BaseException) -> None:
        """The driver raises."""
        raise error

    def series(self, name: str) -> Series:
        """The series of an instrument now, by label values."""
        assert self.reader is not None
        return collected(self.reader).get(name, {})

    def total(self, name: str, *labels: str) -> float:
        """Sum of an instrument's series that have all these labels, such as `shard=a`."""
        return sum(value for key, value in self.series(name).items() if set(labels) <= set(key))

    def outcomes(self) -> dict[str, float]:
        """How the ladder's actions ended, without those that never did: `{"RECYCLE/applied": 1}`."""
        found: dict[str, float] = {}
        for key, value in self.series("helix_dense_ladder_actions").items():
            labels = dict(label.split("=", 1) for label in key)
            if value:
                word = f"{labels['action']}/{labels['outcome']}"
                found[word] = found.get(word, 0) + value
        return found
