"""Plays a recorded job through the product's own pipeline in virtual time and keeps what a Prometheus would scrape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import ActionKind, MemoryReading, Outcome
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.order import Axis, in_order
from helix_crawl_otel.timeline import BatchEvent, Event, MemoryEvent, WorkerEvent, read_timeline

__all__ = ["SCRAPE_SECONDS", "WHO", "scraped"]

SCRAPE_SECONDS = 30
TICK_SECONDS = 5.0
WHO = {"job": "helix-crawl", "instance": "rig:9464"}


class _Scrapes:
    """A registry of its own, read every 30 seconds of virtual time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.provider = MeterProvider(
            metric_readers=[PrometheusMetricReader(registry=self.registry, scope_info_enabled=False)]
        )
        self.count = 0
        self.series: dict[str, list[str]] = {}

    def take(self) -> None:
        """One scrape; a series that is not there is a gap."""
        seen = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name.startswith("helix_dense_"):
                    labels = ", ".join(f'{key}="{value}"' for key, value in {**WHO, **sample.labels}.items())
                    seen[f"{sample.name}{{{labels}}}"] = f"{sample.value:.9g}"
        for name in {*self.series, *seen}:
            self.series.setdefault(name, ["_"] * self.count).append(seen.get(name, "_"))
        self.count += 1


def scraped(path: Path, *, action: str, device: str | None = None, tail_seconds: float = 300.0) -> list[dict[str, Any]]:
    """The input series of a promtool test.

    Args:
        path: A timeline.
        action: `off` for the job as it was, `ladder` for what the policy counts on it; an action is applied at the next
            boundary and does not change the recording.
        device: Put in place of the recorded one; its memory is unknown then.
        tail_seconds: For how long the job is still there after the last event.
    """
    scrapes = _Scrapes()
    clock = [0.0]
    meter = scrapes.provider.get_meter("helix_crawl_otel")
    pipeline = Pipeline(
        Settings(action=action), Instruments(meter, scrapes.provider), lambda: clock[0], can_end_worker=False
    )
    due = {"tick": TICK_SECONDS, "scrape": 0.0}

    def advance(t: float) -> None:
        while min(due.values()) <= t:
            what = min(due, key=lambda name: due[name])
            clock[0] = due[what]
            if what == "tick":
                pipeline.tick()
                due[what] += TICK_SECONDS
            else:
                scrapes.take()
                due[what] += SCRAPE_SECONDS
        clock[0] = t

    wanted = (BatchEvent, MemoryEvent, WorkerEvent)
    events: list[Event] = [event for event in read_timeline(path) if isinstance(event, wanted)]
    running: dict[int, RunningBatch] = {}
    opened: dict[str, str] = {}
    for t, number, event, begins in in_order(Axis(events)):
        advance(t)
        if isinstance(event, MemoryEvent):
            if device is None:
                reading = MemoryReading(event.used_bytes, event.limit_bytes)
                pipeline.read_memory(event.device, reading, {"nvml": True})
        elif isinstance(event, WorkerEvent):
            pipeline.start_worker("one", device or event.device, event.reason or "first", pid=1)
        elif isinstance(event, BatchEvent) and begins:
            at = device or event.device
            if opened.get(event.shard) != at:
                for shard in opened.keys() - {event.shard}:
                    pipeline.close_shard(shard, "done")
                opened = {event.shard: at}
                pipeline.open_shard(event.shard, "one", at, list(ActionKind))
            running[number] = pipeline.start_batch(
                BatchInfo(str(number), event.shard, "one", at, event.genes, event.work)
            )
        elif isinstance(event, BatchEvent):
            batch = running.pop(number, None)
            if batch is not None:
                pipeline.finish_batch(batch, event.seconds)
            for waiting in pipeline.actions.drain():
                pipeline.actions.acknowledge(waiting, Outcome.APPLIED)
    advance(clock[0] + tail_seconds)
    pipeline.close()
    return [{"series": name, "values": " ".join(values)} for name, values in sorted(scrapes.series.items())]
