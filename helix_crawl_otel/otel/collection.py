"""The policy's own metric reader: turns collected data points into what the policy is fed with.

Source: DESIGN.md, section 6. `_receive_metrics` is the documented hook of `MetricReader`, the only one that is handed
aggregated measurements in process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from opentelemetry.sdk.metrics import Counter, Histogram, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, MetricsData

from helix_crawl_otel.otel.locked_policy import Collected
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import MemoryReading

__all__ = [
    "BATCHES_INFLIGHT",
    "BATCH_DURATION",
    "MEMORY_BYTES",
    "MEMORY_READ_AT",
    "CrawlPolicyReader",
    "batch_attributes",
]

BATCH_DURATION = "helix_dense_policy_batch_duration"
BATCHES_INFLIGHT = "helix_dense_policy_batches_inflight"
MEMORY_BYTES = {
    f"helix_dense_policy_memory_{name}": f"{name}_bytes" for name in ("used", "limit", "shared", "other_shared")
}
"""Instruments, and which field of a reading each of them measures."""
MEMORY_READ_AT = "helix_dense_policy_memory_read_at"


def batch_attributes(info: BatchInfo, started: float) -> dict[str, str | float]:
    """A batch as the attributes of a measurement: with its id among them, every data point is one batch, whole."""
    attributes: dict[str, str | float] = {
        "batch": info.id,
        "shard": info.shard,
        "worker": info.worker,
        "device": info.device,
        "genes": info.genes,
        "started": started,
    }
    if info.work is not None:
        attributes["work"] = info.work
    return attributes


class CrawlPolicyReader(MetricReader):
    """A reader with delta temporality: each collection brings what is new, and the SDK forgets it.

    Args:
        receive: Called with each collection.
        clock: Seconds; the policy's clock.
        on_error: Called with anything that goes wrong. An exception that left `_receive_metrics` would reach the
            thread of the batch, and the delta would be lost.

    Threads: the owner serialises `collect`.
    """

    def __init__(
        self, receive: Callable[[Collected], None], clock: Callable[[], float], on_error: Callable[[Exception], None]
    ) -> None:
        delta = AggregationTemporality.DELTA
        super().__init__(preferred_temporality={Counter: delta, UpDownCounter: delta, Histogram: delta})
        self._receive = receive
        self._clock = clock
        self._on_error = on_error

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        now: float | None = None
        try:
            now = self._clock()
        except Exception as error:  # noqa: BLE001 - the clock is the caller's; what was collected must not be lost by it
            self._on_error(error)
        try:
            self._receive(read_collection(metrics_data, now))
        except Exception as error:  # noqa: BLE001 - nothing may reach the job from here; it is counted and logged
            self._on_error(error)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing to do: the reader holds no resource."""


def read_collection(metrics_data: MetricsData, now: float | None) -> Collected:
    """What a collection says, in the policy's terms.

    Points without a batch are left out: the SDK's overflow series, and the 0 that creates the instrument.
    """
    points = {name: list(values) for name, values in _points_by_name(metrics_data)}
    collected = Collected(now)
    collected.memory = _readings(points)
    for attributes, change in points.get(BATCHES_INFLIGHT, ()):
        if "batch" not in attributes:
            continue
        if change > 0:
            collected.started.append((float(attributes["started"]), _info(attributes)))
        elif change < 0:
            collected.abandoned.append(str(attributes["batch"]))
    for attributes, seconds in points.get(BATCH_DURATION, ()):
        if "batch" not in attributes:
            continue
        collected.finished.append((float(attributes["started"]) + seconds, _info(attributes), seconds))
    return collected


def _points_by_name(metrics_data: MetricsData) -> Iterator[tuple[str, Iterator[tuple[Mapping[str, Any], float]]]]:
    for resource in metrics_data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                yield metric.name, ((point.attributes or {}, _value(point)) for point in metric.data.data_points)


def _value(point: Any) -> float:
    return float(point.sum if hasattr(point, "sum") else point.value)


def _info(attributes: Mapping[str, Any]) -> BatchInfo:
    return BatchInfo(
        id=str(attributes["batch"]),
        shard=str(attributes["shard"]),
        worker=str(attributes["worker"]),
        device=str(attributes["device"]),
        genes=attributes["genes"],
        work=attributes.get("work"),
    )


def _readings(
    points: Mapping[str, list[tuple[Mapping[str, Any], float]]],
) -> list[tuple[float, str, MemoryReading]]:
    read_at = {str(attributes["device"]): t for attributes, t in points.get(MEMORY_READ_AT, ())}
    known: dict[str, dict[str, int]] = {device: {} for device in read_at}
    for name, field in MEMORY_BYTES.items():
        for attributes, value in points.get(name, ()):
            known.get(str(attributes["device"]), {})[field] = int(value)
    return [
        (t, device, MemoryReading(**{"used_bytes": None, "limit_bytes": None, **known[device]}))
        for device, t in read_at.items()
    ]
