"""What happens, as measurements on a private meter provider, and the collections that feed the policy.

Private, because the policy would share views, callbacks and locks with the app: a `View("*", Drop)` of the app would
blind it, a slow callback stall it. With `OTEL_SDK_DISABLED=true` the same facts reach the policy without instruments:
the watchdog does not depend on telemetry being on.

Source: DESIGN.md, section 6.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

from opentelemetry.metrics import CallbackOptions, NoOpMeter, Observation
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

from helix_crawl_otel.otel import collection as names
from helix_crawl_otel.otel.collection import CrawlPolicyReader, batch_attributes
from helix_crawl_otel.otel.locked_policy import Collected
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import MemoryReading

__all__ = ["Measurements", "is_known"]

_SUM_ONLY = View(
    instrument_type=Histogram,
    aggregation=ExplicitBucketHistogramAggregation(boundaries=(), record_min_max=False),
)


class Measurements:
    """The instruments that the policy reads.

    A batch that ends is one record of one histogram, an atom: measured, across several instruments 6 of 7,882
    collections were torn. A batch that begins or fails is one record of an up-down counter.

    Args:
        receive: Called with each collection.
        clock: Seconds.
        on_error: Called with anything that goes wrong.

    Threads: any; `_collecting` keeps the collections in order, so that no end overtakes its start.
    """

    def __init__(
        self, receive: Callable[[Collected], None], clock: Callable[[], float], on_error: Callable[[Exception], None]
    ) -> None:
        self._receive = receive
        self._clock = clock
        self._on_error = on_error
        self._collecting = threading.RLock()
        self._readings: dict[str, tuple[float, MemoryReading]] = {}  # guarded by _collecting; seen by the callbacks
        # Begun since the last collection; any thread, single operations only. Most batches end before they are seen in
        # flight, and cost one measurement instead of three.
        self._begun: dict[str, tuple[BatchInfo, float]] = {}
        self._has_received = False  # guarded by _collecting
        self._reader = CrawlPolicyReader(self._take, clock, on_error)
        self._provider = MeterProvider(
            metric_readers=[self._reader],
            resource=Resource.get_empty(),
            exemplar_filter=AlwaysOffExemplarFilter(),
            shutdown_on_exit=False,
            views=[_SUM_ONLY],
        )
        meter = self._provider.get_meter("helix_crawl_otel.policy")
        self.disabled = isinstance(meter, NoOpMeter)
        self._inflight = meter.create_up_down_counter(names.BATCHES_INFLIGHT, "{batch}")
        # Measured first, collected first: a batch that ends in between is then seen to start before it is seen to end.
        self._inflight.add(0)
        self._duration = meter.create_histogram(names.BATCH_DURATION, "s")
        meter.create_observable_gauge(names.MEMORY_READ_AT, [self._observe_read_at], "s")
        for name, field in names.MEMORY_BYTES.items():
            meter.create_observable_gauge(name, [partial(self._observe_bytes, field)], "By")

    def start(self, info: BatchInfo, started: float) -> None:
        """A batch begins. Seen by the policy at the next collection, should it still run then."""
        if self.disabled:
            self._feed(lambda collected: collected.started.append((started, info)))
            return
        self._begun[info.id] = (info, started)

    def finish(self, info: BatchInfo, started: float, seconds: float) -> None:
        """A batch has ended; `seconds` is more than 0. The policy has judged it when this returns."""
        if self.disabled:
            self._feed(lambda collected: collected.finished.append((started + seconds, info, seconds)))
            return
        attributes = batch_attributes(info, started)
        was_seen = self._begun.pop(info.id, None) is None
        self._duration.record(seconds, attributes)
        if was_seen:
            self._inflight.add(-1, attributes)
        self.collect()

    def abandon(self, info: BatchInfo, started: float) -> None:
        """A batch has raised. Collected at once: thousands in a row must not pass the SDK's cardinality limit."""
        if self.disabled:
            self._feed(lambda collected: collected.abandoned.append(info.id))
            return
        if self._begun.pop(info.id, None) is None:
            self._inflight.add(-1, batch_attributes(info, started))
            self.collect()

    def read_memory(self, t: float, device: str, reading: MemoryReading) -> None:
        """A reading of a device's memory, known or not, at `t`."""
        if self.disabled:
            self._feed(lambda collected: collected.memory.append((t, device, reading)))
            return
        with self._collecting:
            self._readings = {device: (t, reading)}
            self.collect()

    def collect(self) -> None:
        """Bring everything new to the policy, and let it look at the clock."""
        if self.disabled:
            self._feed(lambda collected: None)
            return
        with self._collecting:
            for batch_id in list(self._begun):
                begun = self._begun.pop(batch_id, None)
                if begun is not None:
                    self._inflight.add(1, batch_attributes(*begun))
            self._has_received = False
            try:
                self._reader.collect()
            finally:
                self._readings = {}
            if not self._has_received:
                # Nothing new was measured, so the SDK hands nothing over. Time has passed for the batches in flight.
                self._feed(lambda collected: None)

    def _take(self, collected: Collected) -> None:
        self._has_received = True
        self._receive(collected)

    def _feed(self, put: Callable[[Collected], None]) -> None:
        with self._collecting:
            collected = Collected(None)
            try:
                collected.now = self._clock()
            except Exception as error:  # noqa: BLE001 - the clock is the caller's; the rest must not be lost by it
                self._on_error(error)
            put(collected)
            try:
                self._receive(collected)
            except Exception as error:  # noqa: BLE001 - as in the reader: nothing may reach the job from here
                self._on_error(error)

    # The callbacks run inside a collection, which `_collecting` guards: all see the same readings, each once.

    def _observe_read_at(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(t, {"device": device}) for device, (t, reading) in self._readings.items() if is_known(reading)
        ]

    def _observe_bytes(self, field: str, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(value, {"device": device})
            for device, (_t, reading) in self._readings.items()
            if (value := getattr(reading, field)) is not None
        ]


def is_known(reading: MemoryReading) -> bool:
    """Whether the policy can learn anything from a reading."""
    return reading.fraction is not None or not (reading.shared_bytes is reading.other_shared_bytes is None)
