"""Makes the instruments of the table once for each meter provider, however many watches a process has.

The SDK returns the instrument that is there when a name is created a second time, and drops the new callbacks. So each
gauge has one callback, which asks every live watch.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Protocol

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, MeterProvider, Observation

from helix_crawl_otel.core.instruments import BATCH_DURATION_BOUNDS, INSTRUMENTS, Instrument, Kind

__all__ = ["GaugeSource", "InstrumentHub", "Rows", "hub_of"]

Rows = Iterable[tuple[float | None, dict[str, str]]]
"""Values and attributes of a gauge; `None` is unknown."""


class GaugeSource(Protocol):
    """Something that knows the values of the gauges."""

    def rows(self, gauge: str) -> Rows:
        """Values of one gauge, by its OpenTelemetry name. Reads only, waits for nothing."""


class InstrumentHub:
    """Counters and histograms to record on; gauges that ask their sources.

    Args:
        meter: Of one provider.

    Threads: any.
    """

    def __init__(self, meter: Meter) -> None:
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
        """In a forked child: the parent's watches are not this process's."""
        self._lock = threading.Lock()
        self._sources = weakref.WeakSet()

    def _create_gauge(self, meter: Meter, row: Instrument) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                sources = list(self._sources)
            # An unknown value is an absent series: the exporter would drop a NaN, and a 0 would be a lie.
            return [
                Observation(value, attributes)
                for source in sources
                for value, attributes in source.rows(row.name)
                if value is not None
            ]

        meter.create_observable_gauge(row.name, [observe], row.unit, row.description)


_hubs: weakref.WeakKeyDictionary[MeterProvider, InstrumentHub] = weakref.WeakKeyDictionary()
_global_hub: list[InstrumentHub] = []
_making = threading.Lock()


def hub_of(provider: MeterProvider | None, version: str) -> InstrumentHub:
    """The hub of a provider, made when it is first asked for.

    Args:
        provider: The app's; `None` for the global one, whether it is set already, later, or never: the API's proxies
            see to that.
        version: Of this package, for the instrumentation scope.
    """
    with _making:
        if provider is None or provider is metrics.get_meter_provider():
            if not _global_hub:
                _global_hub.append(InstrumentHub(metrics.get_meter("helix_crawl_otel", version)))
            return _global_hub[0]
        if provider not in _hubs:
            _hubs[provider] = InstrumentHub(provider.get_meter("helix_crawl_otel", version))
        return _hubs[provider]


def after_fork() -> None:
    """In a forked child: every hub forgets the parent's watches, and no lock is left held."""
    global _making  # noqa: PLW0603 - a lock held at the moment of the fork would stay held for ever
    _making = threading.Lock()
    for hub in [*_global_hub, *_hubs.values()]:
        hub.after_fork()
