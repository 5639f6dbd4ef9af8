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
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, Concatenate, ParamSpec, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeter, Observation
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Exemplar, ExemplarReservoir, MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.util.types import Attributes

from helix_crawl_otel.config import environment
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import Decision, MemoryReading
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.state import durable_mark

__all__ = ["CrawlPolicyReader", "LockedPolicy", "Measurements", "is_known"]

P = ParamSpec("P")
T = TypeVar("T")

Receive = Callable[[float, Iterable[tuple[float, str, MemoryReading]], Iterable[tuple[float, BatchInfo, float]]], None]


# -- measurements ------------------------------------------------------------------------------------------------------


class Measurements:
    """The instruments that the policy reads.

    A batch that ends is one observation of one gauge, an atom: measured, across several instruments 6 of 7,882
    collections were torn. It has no attributes: one batch ends in a collection, and what is known of it has been told.

    Args:
        receive: Called with each collection, see `LockedPolicy.apply`.
        on_error: Called with anything that goes wrong.

    Threads: any; `_collecting` keeps the collections in order.
    """

    def __init__(self, receive: Receive, on_error: Callable[[Exception], None]) -> None:
        self._receive = receive
        self._on_error = on_error
        self._collecting = threading.RLock()
        self._instruments = take_instruments()
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
            measured = [seconds] if self.disabled else self._instruments.measure_batch(seconds)
            self._deliver(started + seconds, finished=[(started + value, info, value) for value in measured])

    def read_memory(self, t: float, device: str, reading: MemoryReading) -> None:
        """A reading of a device's memory, known or not, at `t`."""
        with self._collecting:
            measured = [(t, reading)] if self.disabled else self._instruments.measure_memory(t, reading)
            self._deliver(t, memory=[(read_at, device, read) for read_at, read in measured])

    def collect(self, now: float) -> None:
        """Let the policy look at the clock: nothing was measured, and time has passed for the batches in flight."""
        with self._collecting:
            self._deliver(now)

    def _deliver(
        self,
        now: float,
        *,
        memory: Iterable[tuple[float, str, MemoryReading]] = (),
        finished: Iterable[tuple[float, BatchInfo, float]] = (),
    ) -> None:
        """Hand a collection over; what is raised there must not reach the thread of the batch."""
        try:
            self._receive(now, memory, finished)
        except Exception as error:  # noqa: BLE001 - nothing may reach the job from here; it is counted and logged
            self._on_error(error)


class PrivateInstruments:
    """The gauges that the policy reads, one for batches that end and one for readings of memory. Each is on a meter
    provider of its own that nobody else has, since a collection asks all instruments of one.

    Gauges, because of those the SDK keeps no more than the newest value: of a counter or a histogram with delta
    temporality it makes the aggregation anew for each collection, which takes longer than all the rest of it.

    Used by one `Measurements` after the other: the SDK keeps a closure of each meter provider for ever, for the case of
    a fork, and so a watch that was opened and closed left 1 KB behind.

    Threads: its user's, which guards it; while it is free it is nobody's.
    """

    def __init__(self, free: list[PrivateInstruments]) -> None:
        self._observed: list[Observation] = []
        self._batches, self._readings = CrawlPolicyReader(), CrawlPolicyReader()
        meter = _private_meter(self._batches)
        self.disabled = isinstance(meter, NoOpMeter)
        self._batch_duration = meter.create_gauge("helix_dense_policy_batch_duration", "s")
        _private_meter(self._readings).create_observable_gauge("helix_dense_policy_memory", [self._observe])
        self._free = free
        self._pid = os.getpid()

    def measure_batch(self, seconds: float) -> list[float]:
        """A batch has ended. Returns the values that the reader has got of it."""
        self._batch_duration.set(seconds)
        return [point.value for point in self._batches.fetch()]

    def measure_memory(self, t: float, reading: MemoryReading) -> list[tuple[float, MemoryReading]]:
        """A reading was made at `t`. Returns what the reader has got of it, nothing of one that is unknown."""
        if not is_known(reading):
            return []
        facts = {READ_AT: t, **{each: getattr(reading, each) for each in FIELDS_OF_A_READING}}
        self._observed = [Observation(value, {"fact": each}) for each, value in facts.items() if value is not None]
        try:
            found = {point.attributes["fact"]: point.value for point in self._readings.fetch()}
        finally:
            self._observed = []
        return [(float(found.pop(READ_AT)), MemoryReading(**{each: found.get(each) for each in FIELDS_OF_A_READING}))]

    def give_back(self) -> None:
        """It is free again; not in a forked child, where a thread of the parent may have held its locks."""
        if os.getpid() == self._pid:
            self._free.append(self)

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        return self._observed


class _NoExemplars(ExemplarReservoir):
    """Takes none and has none: to ask the SDK's own for them takes a tenth of a collection."""

    def offer(self, value: float, time_unix_nano: int, attributes: Attributes, context: Context) -> None:
        """Nothing."""

    def collect(self, point_attributes: Attributes) -> list[Exemplar]:
        """None."""
        return []


def _private_meter(reader: CrawlPolicyReader) -> Meter:
    provider = MeterProvider(
        metric_readers=[reader],
        resource=Resource.get_empty(),
        exemplar_filter=AlwaysOffExemplarFilter(),
        views=[View(instrument_name="*", exemplar_reservoir_factory=lambda _: lambda **_: _NoExemplars())],
        shutdown_on_exit=False,
    )
    return provider.get_meter("helix_crawl_otel.policy")


class CrawlPolicyReader(MetricReader):
    """Keeps the data points of the newest collection.

    Threads: the owner serialises `fetch`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._points: list[Any] = []

    def fetch(self) -> list[Any]:
        """Collect, and give what came."""
        self._points = []
        self.collect()
        return self._points

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        self._points = [
            point
            for resource in metrics_data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            for point in metric.data.data_points
        ]

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing to do: the reader holds no resource."""


_free: dict[str, list[PrivateInstruments]] = {}
"""By what the environment says of the SDK, which every meter provider asks for itself."""


def take_instruments() -> PrivateInstruments:
    """Instruments that nobody uses, made if need be."""
    free = _free.setdefault(environment().get(OTEL_SDK_DISABLED, ""), [])
    try:
        found = free.pop()
    except IndexError:
        return PrivateInstruments(free)
    return found if found._pid == os.getpid() else PrivateInstruments(free)  # else it was made before a fork


def is_known(reading: MemoryReading) -> bool:
    """Whether the policy can learn anything from a reading."""
    facts = reading.fraction, reading.cap_fraction, reading.shared_bytes, reading.other_shared_bytes
    return any(fact is not None for fact in facts)


READ_AT = "read_at"
"""Beside the fields of a reading, what is measured of one: when it was made, in seconds."""
FIELDS_OF_A_READING = tuple(each.name for each in fields(MemoryReading))


# -- the policy --------------------------------------------------------------------------------------------------------


class LockedPolicy:
    """The engine's lock, and the only way to the policy.

    Args:
        policy: Owned from now on.

    Attributes:
        decisions: What was decided and has not been carried out, oldest first.
        ignored: The reasons of samples that were ignored and have not been counted.

    Threads: any. The lock is held for pure computation only: no instrument, callback, hook or file is touched inside.
    """

    def __init__(self, policy: Policy) -> None:
        self._lock = threading.Lock()
        self._policy = policy  # guarded by _lock
        self.decisions: deque[Decision] = deque()  # appended under _lock, popped by who carries them out
        self.ignored: deque[str] = deque()  # likewise
        self._mark = durable_mark(policy.state)  # guarded by _lock

    def apply(
        self,
        now: float,
        memory: Iterable[tuple[float, str, MemoryReading]] = (),
        finished: Iterable[tuple[float, BatchInfo, float]] = (),
    ) -> None:
        """Take what one collection brought: memory first, then ends; then what fell due meanwhile.

        Args:
            now: Seconds, when the collection was made.
            memory: (t, device, reading), each a new one.
            finished: (t, batch, seconds), batches that ended.
        """
        with self._lock:
            for t, device, reading in memory:
                self._policy.read_memory(t, device, reading)
            for t, info, seconds in finished:
                decisions, problem = self._policy.finish_batch(t, info, seconds)
                self.decisions.extend(decisions)
                if problem is not None:
                    self.ignored.append(problem)
            self.decisions.extend(self._policy.advance(now))

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

    def durable_changed(self) -> bool:
        """Whether what must survive this process has changed since the last time this was asked."""
        with self._lock:
            mark = durable_mark(self._policy.state)
            changed, self._mark = mark != self._mark, mark
        return changed
