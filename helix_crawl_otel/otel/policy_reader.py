"""The way of what is measured to the policy: instruments on a private meter provider, a reader that collects them, and
the policy itself behind the engine's lock. What is no measurement, a batch that begins or raises among it, is told to
the policy itself.

Private, because the policy would share views, callbacks and locks with the app: a `View("*", Drop)` of the app would
blind it, a slow callback stall it. With `OTEL_SDK_DISABLED=true` the same facts reach the policy without instruments:
the watchdog does not depend on telemetry being on.

Source: DESIGN.md, section 6. `_receive_metrics` is the documented hook of `MetricReader`, the only one that is handed
aggregated measurements in process.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from opentelemetry.metrics import CallbackOptions, NoOpMeter, Observation
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader, MetricsData
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from helix_crawl_otel.config import environment
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import Decision, MemoryReading
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.state import durable_mark

__all__ = ["Collected", "CrawlPolicyReader", "LockedPolicy", "Measurements", "is_known"]

P = ParamSpec("P")
T = TypeVar("T")

BATCH_DURATION = "helix_dense_policy_batch_duration"
MEMORY_BYTES = {
    f"helix_dense_policy_memory_{name}": f"{name}_bytes"
    for name in ("used", "limit", "shared", "other_shared", "reserved", "cap")
}
"""Instruments, and which field of a reading each of them measures."""
MEMORY_READ_AT = "helix_dense_policy_memory_read_at"

_SUM_ONLY = View(
    instrument_type=Histogram, aggregation=ExplicitBucketHistogramAggregation(boundaries=(), record_min_max=False)
)


# -- measurements ------------------------------------------------------------------------------------------------------


class Measurements:
    """The instruments that the policy reads.

    A batch that ends is one record of one histogram, an atom: measured, across several instruments 6 of 7,882
    collections were torn.

    Args:
        receive: Called with each collection.
        clock: Seconds.
        on_error: Called with anything that goes wrong.

    Threads: any; `_collecting` keeps the collections in order.
    """

    def __init__(
        self, receive: Callable[[Collected], None], clock: Callable[[], float], on_error: Callable[[Exception], None]
    ) -> None:
        self._receive = receive
        self._clock = clock
        self._on_error = on_error
        self._collecting = threading.RLock()
        self._has_received = False  # guarded by _collecting
        self._instruments = take_instruments()
        self._instruments.reader.user = weakref.WeakMethod(self._take)
        self._give_back = weakref.finalize(self, self._instruments.give_back)
        self._give_back.atexit = False
        self.disabled = self._instruments.disabled

    def close(self) -> None:
        """Give the instruments back, for the next watch. What is told from now on goes to the policy without them."""
        with self._collecting:
            self.disabled = True
            self._give_back()

    def finish(self, batch: RunningBatch, seconds: float) -> None:
        """A batch has ended, in `seconds`, more than 0. The policy has judged it when this returns."""
        info, started = batch
        with self._collecting:  # the instruments are somebody else's once they were given back
            if self.disabled:
                self._deliver(lambda collected: collected.finished.append((started + seconds, info, seconds)))
                return
            self._instruments.duration.record(seconds, batch_attributes(batch))
            self.collect()

    def read_memory(self, t: float, device: str, reading: MemoryReading) -> None:
        """A reading of a device's memory, known or not, at `t`."""
        with self._collecting:
            if self.disabled:
                self._deliver(lambda collected: collected.memory.append((t, device, reading)))
                return
            self._instruments.readings = {device: (t, reading)}
            self.collect()

    def collect(self) -> None:
        """Bring everything new to the policy, and let it look at the clock."""
        with self._collecting:
            if self.disabled:
                self._deliver(lambda collected: None)
                return
            self._has_received = False
            try:
                self._instruments.reader.collect()
            finally:
                self._instruments.readings = {}
            if not self._has_received:
                # Nothing new was measured, so the SDK hands nothing over. Time has passed for the batches in flight.
                self._deliver(lambda collected: None)

    def _take(self, metrics_data: MetricsData) -> None:
        self._has_received = True
        self._deliver(partial(read_collection, metrics_data))

    def _deliver(self, fill: Callable[[Collected], None]) -> None:
        """Hand a collection over. An exception that left it would reach the thread of the batch, and lose the delta."""
        with self._collecting:
            collected = Collected(None)
            try:
                collected.now = self._clock()
            except Exception as error:  # noqa: BLE001 - the clock is the caller's; the rest must not be lost by it
                self._on_error(error)
            try:
                fill(collected)
                self._receive(collected)
            except Exception as error:  # noqa: BLE001 - nothing may reach the job from here; it is counted and logged
                self._on_error(error)


class PrivateInstruments:
    """A meter provider that nobody else has, its reader, and what is measured on it.

    Used by one `Measurements` after the other: the SDK keeps a closure of each meter provider for ever, for the case of
    a fork, and so a watch that was opened and closed left 1 KB behind.

    Threads: its user's, which guards it; while it is free it is nobody's.
    """

    def __init__(self, free: list[PrivateInstruments]) -> None:
        self.readings: dict[str, tuple[float, MemoryReading]] = {}
        self._free = free
        self._pid = os.getpid()
        self.reader = CrawlPolicyReader()
        provider = MeterProvider(
            metric_readers=[self.reader],
            resource=Resource.get_empty(),
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
            views=[_SUM_ONLY],
        )
        meter = provider.get_meter("helix_crawl_otel.policy")
        self.disabled = isinstance(meter, NoOpMeter)
        self.duration = meter.create_histogram(BATCH_DURATION, "s")
        meter.create_observable_gauge(MEMORY_READ_AT, [self._observe_read_at], "s")
        for name, each in MEMORY_BYTES.items():
            meter.create_observable_gauge(name, [partial(self._observe_bytes, each)], "By")

    def give_back(self) -> None:
        """It is free again; not in a forked child, where a thread of the parent may have held its locks."""
        self.reader.user = None
        if os.getpid() == self._pid:
            self._free.append(self)

    # The callbacks run inside a collection: all see the same readings, each once.

    def _observe_read_at(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(t, {"device": device}) for device, (t, reading) in self.readings.items() if is_known(reading)
        ]

    def _observe_bytes(self, of_reading: str, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, {"device": device})
            for device, (_t, reading) in self.readings.items()
            if (value := getattr(reading, of_reading)) is not None
        ]


_free: dict[str, list[PrivateInstruments]] = {}
"""By what the environment says of the SDK, which every meter provider asks for itself."""


def take_instruments() -> PrivateInstruments:
    """Instruments that nobody uses, made if need be; nothing of an earlier user is left in them."""
    free = _free.setdefault(environment().get(OTEL_SDK_DISABLED, ""), [])
    try:
        found = free.pop()
    except IndexError:
        return PrivateInstruments(free)
    if found._pid != os.getpid():  # made before a fork
        return PrivateInstruments(free)
    found.reader.collect()
    return found


def is_known(reading: MemoryReading) -> bool:
    """Whether the policy can learn anything from a reading."""
    facts = reading.fraction, reading.cap_fraction, reading.shared_bytes, reading.other_shared_bytes
    return any(fact is not None for fact in facts)


# -- the reader --------------------------------------------------------------------------------------------------------


def batch_attributes(batch: RunningBatch) -> dict[str, str | float]:
    """A batch as the attributes of a measurement: with its id among them, every data point is one batch, whole."""
    info, started = batch
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

    Attributes:
        user: Gives what is called with a collection, and must not raise; `None` for nobody.

    Threads: the owner serialises `collect`.
    """

    def __init__(self) -> None:
        super().__init__(preferred_temporality={Histogram: AggregationTemporality.DELTA})
        self.user: Callable[[], Callable[[MetricsData], None] | None] | None = None

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        receive = self.user() if self.user is not None else None
        if receive is not None:
            receive(metrics_data)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing to do: the reader holds no resource."""


def read_collection(metrics_data: MetricsData, collected: Collected) -> None:
    """Add what a collection says, in the policy's terms.

    Points without a batch are left out: the SDK's overflow series.
    """
    points: dict[str, list[tuple[Mapping[str, Any], float]]] = {
        metric.name: [(point.attributes or {}, _value(point)) for point in metric.data.data_points]
        for resource in metrics_data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    collected.memory = _readings(points)
    for attributes, seconds in points.get(BATCH_DURATION, ()):
        if "batch" not in attributes:
            continue
        collected.finished.append((float(attributes["started"]) + seconds, _info(attributes), seconds))


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


def _readings(points: Mapping[str, list[tuple[Mapping[str, Any], float]]]) -> list[tuple[float, str, MemoryReading]]:
    read_at = {str(attributes["device"]): t for attributes, t in points.get(MEMORY_READ_AT, ())}
    known: dict[str, dict[str, int]] = {device: {} for device in read_at}
    for name, each in MEMORY_BYTES.items():
        for attributes, value in points.get(name, ()):
            known.get(str(attributes["device"]), {})[each] = int(value)
    return [
        (t, device, MemoryReading(**{"used_bytes": None, "limit_bytes": None, **known[device]}))
        for device, t in read_at.items()
    ]


# -- the policy --------------------------------------------------------------------------------------------------------


@dataclass
class Collected:
    """What one collection brought, in the order in which the policy takes it.

    Args:
        now: Seconds, when the collection was made; `None` when the clock could not tell.
        memory: (t, device, reading), each a new one.
        finished: (t, batch, seconds), batches that ended.
    """

    now: float | None
    memory: list[tuple[float, str, MemoryReading]] = field(default_factory=list)
    finished: list[tuple[float, BatchInfo, float]] = field(default_factory=list)


class LockedPolicy:
    """The engine's lock, and the only way to the policy.

    Args:
        policy: Owned from now on.

    Attributes:
        decisions: What was decided and has not been carried out, oldest first.

    Threads: any. The lock is held for pure computation only: no instrument, callback, hook or file is touched inside.
    """

    def __init__(self, policy: Policy) -> None:
        self._lock = threading.Lock()
        self._policy = policy  # guarded by _lock
        self.decisions: deque[Decision] = deque()  # appended under _lock, popped by who carries them out
        self._ignored: deque[str] = deque()  # appended under _lock, popped anywhere
        self._mark = durable_mark(policy.state)  # guarded by _lock

    def apply(self, collected: Collected) -> None:
        """Take a collection: memory first, then ends; then what fell due meanwhile."""
        with self._lock:
            for t, device, reading in collected.memory:
                self._policy.read_memory(t, device, reading)
            for t, info, seconds in collected.finished:
                decisions, problem = self._policy.finish_batch(t, info, seconds)
                self.decisions.extend(decisions)
                if problem is not None:
                    self._ignored.append(problem)
            if collected.now is not None:
                self.decisions.extend(self._policy.advance(collected.now))

    def tell(
        self, change: Callable[Concatenate[Policy, P], list[Decision] | None], *given: P.args, **named: P.kwargs
    ) -> None:
        """Change the policy's state by one of its own calls, and keep what it decides."""
        with self._lock:
            self.decisions.extend(change(self._policy, *given, **named) or [])

    def ask(self, question: Callable[Concatenate[Policy, P], T], *given: P.args, **named: P.kwargs) -> T:
        """Read from the policy. What is returned must not be a part of its state."""
        with self._lock:
            return question(self._policy, *given, **named)

    def next_ignored(self) -> str | None:
        """Take the reason of an ignored sample, `None` when there is none."""
        try:
            return self._ignored.popleft()
        except IndexError:  # another thread may have taken the last one
            return None

    def durable_changed(self) -> bool:
        """Whether what must survive this process has changed since the last time this was asked."""
        with self._lock:
            mark = durable_mark(self._policy.state)
            changed, self._mark = mark != self._mark, mark
        return changed
