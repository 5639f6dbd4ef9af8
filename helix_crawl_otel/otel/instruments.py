"""Makes the instruments of the table once for each meter provider, however many watches a process has.

The SDK returns the instrument that is there when a name is created a second time, and drops the new callbacks. So each
gauge has one callback, which asks every live watch.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, MeterProvider, Observation

from helix_crawl_otel.otel.forked import free_locks
from helix_crawl_otel.otel.labels import ShardLabels
from helix_crawl_otel.policy.instruments import BATCH_DURATION_BOUNDS, INSTRUMENTS, Instrument, Kind

__all__ = ["GaugeSource", "Instruments", "Rows", "instruments_of"]

Rows = Iterable[tuple[float | None, dict[str, str]]]
"""Values and attributes of a gauge; `None` is unknown."""


class GaugeSource(Protocol):
    """Something that knows the values of the gauges."""

    def rows(self, gauge: str) -> Rows:
        """Values of one gauge, by its OpenTelemetry name. Reads only, waits for nothing."""


class Instruments:
    """Counters and histograms to record on; gauges that ask their sources.

    Args:
        meter: Of one provider.
        provider: The provider, `None` for the global one.

    Threads: any.
    """

    def __init__(self, meter: Meter, provider: MeterProvider | None = None) -> None:
        self.labels = ShardLabels()
        self._is_of_global = _compared_to_global(provider)
        self.counters: dict[str, Counter] = {}
        self.histograms: dict[str, Histogram] = {}
        self._lock = threading.Lock()
        self._sources: weakref.WeakSet[GaugeSource] = weakref.WeakSet()  # guarded by _lock
        for row in INSTRUMENTS:
            if row.kind is Kind.COUNTER:
                self.counters[row.name] = meter.create_counter(row.name, row.unit, row.description)
            elif row.kind is Kind.HISTOGRAM:
                self.histograms[row.name] = meter.create_histogram(
                    row.name, row.unit, row.description, explicit_bucket_boundaries_advisory=BATCH_DURATION_BOUNDS
                )
            else:
                self._create_gauge(meter, row)

    def add(self, source: GaugeSource) -> None:
        """Ask this source from now on, until it is removed or garbage."""
        with self._lock:
            self._sources.add(source)

    def remove(self, source: GaugeSource) -> None:
        """Ask it no longer."""
        with self._lock:
            self._sources.discard(source)

    def after_fork(self) -> None:
        """In a forked child: the parent's watches are not this process's, and no lock is left held."""
        self._lock = threading.Lock()
        self._sources = weakref.WeakSet()
        self.labels.after_fork()
        free_locks([*self.counters.values(), *self.histograms.values()])

    def sources(self) -> list[GaugeSource]:
        """Who is asked now."""
        with self._lock:
            found = list(self._sources)
        if self._is_of_global() and _global_hub:
            # It became the global one after this hub was made: the SDK dropped the global hub's callbacks on it.
            found += _global_hub[0].sources()
        return found

    def _create_gauge(self, meter: Meter, row: Instrument) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            # An unknown value is an absent series: the exporter would drop a NaN, and a 0 would be a lie.
            known = [
                (value, attributes)
                for source in self.sources()
                for value, attributes in source.rows(row.name)
                if value is not None
            ]
            return _merged(known, _TOGETHER.get(row.name))

        meter.create_observable_gauge(row.name, [observe], row.unit, row.description)


# Where two watches, or two shards without a label, share a series. Of any other gauge the last value is shown.
_TOGETHER: dict[str, Callable[[float, float], float]] = {
    "helix_dense_action_queue_length": operator.add,
    "helix_dense_batch_inflight": max,
    "helix_dense_crawl_active": max,
    "helix_dense_crawl_streak": max,
    "helix_dense_genes_pending": operator.add,
    "helix_dense_ladder_rung": max,
    "helix_dense_shards": operator.add,
    "helix_dense_worker_up": max,
}


def _merged(
    known: list[tuple[float, dict[str, str]]], together: Callable[[float, float], float] | None
) -> list[Observation]:
    values: dict[tuple[tuple[str, str], ...], float] = {}
    for value, attributes in known:
        key = tuple(attributes.items())
        values[key] = together(values[key], value) if together and key in values else value
    return [Observation(value, dict(key)) for key, value in values.items()]


_hubs: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()
_global_hub: list[Instruments] = []
_making = threading.Lock()


def instruments_of(provider: MeterProvider | None, version: str) -> Instruments:
    """The hub of a provider, made when it is first asked for.

    Args:
        provider: The app's; `None` for the global one, whether it is set already, later, or never: the API's proxies
            see to that.
        version: Of this package, for the instrumentation scope.
    """
    with _making:
        if provider is None or provider is metrics.get_meter_provider():
            if not _global_hub:
                _global_hub.append(Instruments(metrics.get_meter("helix_crawl_otel", version)))
            return _global_hub[0]
        meter = provider.get_meter("helix_crawl_otel", version)
        try:
            if provider not in _hubs:
                _hubs[provider] = Instruments(meter, provider)
            return _hubs[provider]
        except TypeError:  # somebody's own class, which cannot be hashed or referenced weakly: a hub for this one watch
            return Instruments(meter)


def _compared_to_global(provider: MeterProvider | None) -> Callable[[], bool]:
    if provider is None:
        return lambda: False  # it is the global one's own
    weak = weakref.ref(provider)
    return lambda: weak() is metrics.get_meter_provider()


def after_fork() -> None:
    """In a forked child: every hub forgets the parent's watches, and no lock is left held."""
    global _making  # noqa: PLW0603 - a lock held at the moment of the fork would stay held for ever
    _making = threading.Lock()
    for hub in [*_global_hub, *_hubs.values()]:
        hub.after_fork()
