"""Makes the instruments of the table once for each meter provider, however many watches a process has; decides which
shards get a label of their own on them; frees their locks in a forked child.

A gauge is asked of every live watch, a counter's totals are kept here, and the times of stages wait here to be recorded
until somebody collects. The SDK returns the instrument that is there when a name is created a second time, and drops
the new callbacks. So each instrument has one callback.

Source: DESIGN.md, section 3.5: asynchronous instruments never forget a label set, and the SDK folds everything past
2,000 of them into one overflow series.
"""

from __future__ import annotations

import gc
import hashlib
import operator
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import MethodType
from typing import Any, Protocol

from opentelemetry import metrics
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from helix_crawl_otel.formats import printable
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.instruments import (
    BATCH_DURATION_BOUNDS,
    INSTRUMENTS,
    MAX_LABELLED_SHARDS,
    Instrument,
    Kind,
)

__all__ = [
    "SCOPE",
    "GaugeSource",
    "Instruments",
    "Rows",
    "ShardLabels",
    "begun_stages",
    "instruments_of",
    "label",
    "stage_labels",
]

SCOPE = "helix_crawl_otel"
"""Of all instruments."""

MAX_LABEL_SETS = 1900
"""Label sets with a shard that one instrument gets. Two or more a shard are common (two devices, several outcomes), and
what is left of the SDK's 2,000 is for those without a shard."""

MAX_LABEL = 512
"""Characters of a label. Of a longer one the beginning is left, and a digest, so that two of them stay two."""

MOST_WAITING = 1000
"""Times of stages that wait for a collection. Where nobody collects they are recorded when there are so many."""

Rows = Iterable[tuple[float | None, dict[str, str]]]
"""Values and attributes of a gauge; `None` is unknown."""


class GaugeSource(Protocol):
    """Something that knows the values of the gauges."""

    def rows(self, gauge: str) -> Rows:
        """Values of one gauge, by its OpenTelemetry name. Reads only, waits for nothing."""


@lru_cache(maxsize=2048)
def label(text: str) -> str:
    """A text as a label. Names of files, and what a driver says, may hold anything: bytes that are no text would break
    every scrape, control characters the terminal of whoever looks at one.
    """
    shown = printable(text)
    if len(shown) <= MAX_LABEL:
        return shown
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{shown[: MAX_LABEL - 20]}...{digest[:16]}"


@lru_cache(maxsize=2048)
def stage_labels(device: str, stage: str) -> dict[str, str]:
    """The attributes of a stage's time: one dictionary for all batches, which nobody changes."""
    return {"device": label(device), "stage": stage}


def _labelled(attributes: Mapping[str, str]) -> dict[str, str]:
    return {key: label(value) for key, value in attributes.items()}


class ShardLabels:
    """The first 1,000 shards keep their label; later ones are reported together, without it.

    One a meter provider, since it is the provider's instruments that remember label sets, whichever watch they are of.

    Threads: any.
    """

    def __init__(self, most_shards: int = MAX_LABELLED_SHARDS, most_sets: int = MAX_LABEL_SETS) -> None:
        self._most_shards = most_shards
        self._most_sets = most_sets
        self._lock = threading.Lock()
        self._shards: set[str] = set()  # guarded by _lock
        self._sets: dict[str, set[tuple[str, ...]]] = {}  # by instrument; changed under _lock, looked up by any thread
        self._told = False  # guarded by _lock

    def count(self) -> int:
        """How many shards have a label."""
        return len(self._shards)

    def of(self, instrument: str, shard: str, **others: str) -> dict[str, str]:
        """The attributes of a measurement of this shard on an instrument."""
        values = shard, *others.values()
        if values in self._sets.get(instrument, ()) or self._admit(instrument, values):
            return {"shard": shard, **others}
        return others

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held is held by nobody now."""
        self._lock = threading.Lock()

    def _admit(self, instrument: str, values: tuple[str, ...]) -> bool:
        """Whether a set that is new, the shard first, gets the shard's label."""
        shard = values[0]
        with self._lock:
            sets = self._sets.setdefault(instrument, set())
            known = shard in self._shards or len(self._shards) < self._most_shards
            if known and (values in sets or len(sets) < self._most_sets):
                self._shards.add(shard)
                sets.add(values)
                return True
            told, self._told = self._told, True
        if not told:
            watchdog.warning(
                "more than %d shards in this run: metrics of shard %r and of later ones are exported "
                "without the label 'shard'; detection is not affected",
                self._most_shards if not known else len(self._shards) - 1,
                shard,
            )
        return False


class Instruments:
    """Counters and a histogram to record on; gauges that ask their sources.

    The totals of the counters are kept here, beyond the watches that counted, and observed when somebody collects: to
    add to a counter of the SDK takes ten times as long as to a number. There is no histogram that can be observed: what
    a collection finds waiting is recorded at its beginning, before the SDK looks at what was recorded.

    Args:
        meter: Of one provider.
        provider: The provider, `None` for the global one.

    Threads: any.
    """

    def __init__(self, meter: Meter, provider: MeterProvider | None = None) -> None:
        self.labels = ShardLabels()
        self._is_of_global = _compared_to_global(provider)
        self._waiting: deque[tuple[float, dict[str, str], Context]] = deque()  # single operations only
        self._failures: set[str] = set()  # kinds of what the app's provider raised; single operations only
        self._lock = threading.Lock()
        self._sources: weakref.WeakSet[GaugeSource] = weakref.WeakSet()  # guarded by _lock
        self._totals: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}  # guarded by _lock
        self._is_collected = False
        self._begun: dict[tuple[tuple[str, str], ...], None] = {}  # guarded by _lock
        self.run: GaugeSource | None = None
        """The run of this process, where no supervisor tells of one: beyond its watches, it says how they ended."""
        for row in INSTRUMENTS:
            if row.kind is Kind.COUNTER:
                self._create_counter(meter, row)
            elif row.kind is Kind.HISTOGRAM:
                self._batch_duration: Histogram = meter.create_histogram(
                    row.name, row.unit, row.description, explicit_bucket_boundaries_advisory=BATCH_DURATION_BOUNDS
                )
            else:
                self._create_gauge(meter, row)  # or an up-down counter: what is so now, asked for all the same

    def count(self, counter: str, amount: float, attributes: Mapping[str, str]) -> None:
        """Add to a counter."""
        key = tuple(attributes.items())
        with self._lock:
            totals = self._totals[counter]
            totals[key] = totals.get(key, 0) + amount

    def time_stage(self, device: str, stage: str, seconds: float | None) -> None:
        """A stage of a batch has ended: `read`, `encode` or `commit`; `None` seconds are unknown, 0 are none."""
        if seconds is None or seconds <= 0:
            return
        self._waiting.append((seconds, stage_labels(device, stage), get_current()))  # its span may be an example of it
        if len(self._waiting) >= MOST_WAITING:
            self.record_stages()

    def record_stages(self) -> None:
        """Record what waits. What the app's provider raises is told once of each kind, and goes no further."""
        for hub in (self, *self._of_global()):
            hub._record_waiting()

    def begin_stage(self, attributes: Mapping[str, str]) -> None:
        """Our endpoint shows these attributes of the histogram with a count of 0 until something is recorded."""
        with self._lock:
            self._begun.setdefault(tuple(attributes.items()))

    def begun_stages(self) -> list[dict[str, str]]:
        """What `begin_stage` was told."""
        with self._lock:
            return [dict(key) for key in self._begun]

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
        self._sources, self.run = weakref.WeakSet(), None
        self._waiting = deque()  # the parent records them
        if not self._is_collected:  # the parent's, and no reader that the child has inherited has ever seen it
            self._totals, self._begun = {counter: {} for counter in self._totals}, {}
        self.labels.after_fork()
        _free_locks([self._batch_duration])

    def sources(self) -> list[GaugeSource]:
        """Who is asked now."""
        with self._lock:
            found = list(self._sources)
        return found + [source for hub in self._of_global() for source in hub.sources()]

    def totals(self, counter: str) -> list[tuple[float, dict[str, str]]]:
        """What has been counted so far."""
        self._is_collected = True
        with self._lock:
            found = [(total, dict(key)) for key, total in self._totals[counter].items()]
        return found + [total for hub in self._of_global() for total in hub.totals(counter)]

    def _of_global(self) -> list[Instruments]:
        """The global hub, whose callbacks the SDK has dropped: this hub's provider became the global one later."""
        return _global_hub if self._is_of_global() else []

    def _record_waiting(self) -> None:
        if not self._waiting:
            return
        token = attach(Context())  # the span of whoever records has nothing to do with these stages
        try:
            while self._waiting:
                seconds, attributes, context = self._waiting.popleft()
                try:
                    self._batch_duration.record(seconds, attributes, context)
                except Exception as error:  # noqa: BLE001 - the app's provider; detection goes on
                    self._tell_once(error)
        except IndexError:  # another thread has taken the last one
            pass
        finally:
            detach(token)

    def _tell_once(self, error: Exception) -> None:
        kind = type(error).__name__
        if kind not in self._failures:
            self._failures.add(kind)
            watchdog.warning("the meter provider failed to count, detection goes on: %r", error)

    def _create_counter(self, meter: Meter, row: Instrument) -> None:
        self._totals[row.name] = {}

        def observe(_: CallbackOptions) -> Iterable[Observation]:
            self.record_stages()  # the callbacks come first in a collection
            known = [(total, _labelled(attributes)) for total, attributes in self.totals(row.name)]
            return _merged(known, operator.add)

        meter.create_observable_counter(row.name, [observe], row.unit, row.description)

    def _create_gauge(self, meter: Meter, row: Instrument) -> None:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            # An unknown value is an absent series: the exporter would drop a NaN, and a 0 would be a lie.
            known = [
                (value, _labelled(attributes))
                for source in self.sources()
                for value, attributes in source.rows(row.name)
                if value is not None
            ]
            return _merged(known, _TOGETHER.get(row.name))

        up_down = row.kind is Kind.UP_DOWN_COUNTER
        create = meter.create_observable_up_down_counter if up_down else meter.create_observable_gauge
        create(row.name, [observe], row.unit, row.description)


# Where two watches, or two shards without a label, share a series. Of any other gauge the last value is shown.
_TOGETHER: dict[str, Callable[[float, float], float]] = {
    "helix_dense_action_queue_length": operator.add,
    "helix_dense_batch_inflight": max,
    "helix_dense_crawl_active": max,
    "helix_dense_crawl_streak": max,
    "helix_dense_genes_pending": operator.add,
    "helix_dense_genes_quarantined": operator.add,
    "helix_dense_ladder_rung": max,
    "helix_dense_shard_failed": max,
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
                _global_hub.append(Instruments(metrics.get_meter(SCOPE, version)))
            return _global_hub[0]
        meter = provider.get_meter(SCOPE, version)
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


def begun_stages() -> list[dict[str, str]]:
    """What has begun on the global provider's histogram. Makes no instrument, so that a reader may ask."""
    return [attributes for hub in _global_hub for attributes in hub.begun_stages()]


def after_fork() -> None:
    """In a forked child: every hub forgets the parent's watches, and no lock is left held."""
    global _making  # noqa: PLW0603 - a lock held at the moment of the fork would stay held for ever
    _making = threading.Lock()
    for hub in [*_global_hub, *_hubs.values()]:
        hub.after_fork()


HELD_SECONDS = 0.2
"""For longer no thread of a child that has just been forked holds a lock of the SDK's: it collects, at most."""

_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_CONTAINERS = (dict, list, tuple, set, frozenset, MethodType)


def _free_locks(instruments: Iterable[object]) -> None:
    """Make every lock free that these instruments can reach inside OpenTelemetry, of the app's meter provider.

    Only the thread that forked lives on in the child. A lock that another one held at the fork, to scrape or to count,
    is held for ever there: the child's first batch would wait for it. The SDK makes anew only some of its locks.
    Measured on opentelemetry-sdk 1.45.2: with six threads counting and one scraping, 7 of 40 children hung.

    Args:
        instruments: Of the parent's provider. What they reach is found by the references that the garbage collector
            follows, so that no private name of the SDK is needed.

    Threads: the only one, in the child.
    """
    seen: set[int] = set()
    waiting: list[Any] = list(instruments)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, _LOCKS):
            _free(thing)
        elif isinstance(thing, _CONTAINERS) or _is_of_opentelemetry(thing):
            waiting.extend(gc.get_referents(thing))


def _free(lock: Any) -> None:
    """An exporter's thread that was started anew at the fork may hold it for a moment, or wait for it already: to who
    waits for a lock that is made anew, nobody ever comes. One that was being taken is not marked as held yet."""
    if isinstance(lock, _LOCKS[0]):
        is_held = not lock.acquire(timeout=HELD_SECONDS if threading.active_count() > 1 else 0)
        if not is_held or lock.locked():
            lock.release()  # also for who held it in the parent, and is not here
            return
    lock._at_fork_reinit()  # what the standard library calls for its own, in logging and threading


def _is_of_opentelemetry(thing: object) -> bool:
    kind = type(thing)
    return not isinstance(thing, type) and kind.__module__.partition(".")[0] == "opentelemetry"
