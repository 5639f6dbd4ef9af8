"""Cuts a timeline into runs, and takes a visitor through the events of one in the order in which a policy has to see
them: by time, memory first.

A timeline says of a batch when it ended, or its worker did, and how long it took. A policy that lives with the job sees
it begin, so its beginning is made here.

Source: DESIGN.md, section 3.6.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import groupby, pairwise, starmap
from operator import gt
from typing import Any, NamedTuple, Protocol

from helix_crawl_otel import timeline
from helix_crawl_otel.timeline import Event
from helix_crawl_otel.timeline.columns import Columns

__all__ = ["Axis", "Moment", "Span", "TimelineVisitor", "in_order", "in_runs", "travel"]

OVERLAP_SECONDS = 0.01
"""A timeline is rounded: a batch that seems to begin so little before the end of its worker's previous batch began
when that one ended."""

NOISE_SECONDS = 1e-5
"""A batch that seems to begin so little after another event began with it. A reading made as the batch began must not
seem to be from before it."""

_SORTED = 1 << 16
"""Values sorted at once: a list of numbers takes ten times their room in an array."""

Moment = tuple[float, int, Event, bool]
"""When, the event's number, the event, and whether this is the beginning of a batch rather than the event itself."""


class Axis:
    """The events of one time axis, in the order of the lines.

    There may be millions, nearly all of them batches and readings: those lie in columns, some 60 bytes each.

    Args:
        events: To begin with, without `run` lines.

    Threads: one.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.times = array("d")
        self.kinds = array("B")  # places in `_KINDS`
        self.places = array("I")  # among those of its kind
        self._many = [0] * len(_KINDS)
        self._rows: tuple[Any, ...] = (
            Columns(timeline.MemoryEvent),
            Columns(timeline.BatchEvent),
            Columns(timeline.UnfinishedEvent),
            [],
            [],
        )
        for event in events:
            self.append(event)

    def append(self, event: Event) -> None:
        """Put an event at the end."""
        kind = _NUMBER[type(event)]
        self.times.append(event.t)
        self.kinds.append(kind)
        self.places.append(self._many[kind])
        self._many[kind] += 1
        self._rows[kind].append(event)

    @property
    def has_actions(self) -> bool:
        """Whether the job's own policy asked for anything."""
        return bool(self._rows[_NUMBER[timeline.ActionEvent]])

    def tries(self) -> dict[int, Columns[Any]]:
        """Batches that ended, and those that did not, by what they are in `kinds`."""
        return {kind: self._rows[kind] for kind in (1, 2)}

    def __getitem__(self, number: int) -> Event:
        event: Event = self._rows[self.kinds[number]][self.places[number]]
        return event

    def __len__(self) -> int:
        return len(self.times)


_KINDS = (
    timeline.MemoryEvent,
    timeline.BatchEvent,
    timeline.UnfinishedEvent,
    timeline.WorkerEvent,
    timeline.ActionEvent,
)
"""The kinds of events on a time axis: readings, tries, the rest."""

_NUMBER = {kind: number for number, kind in enumerate(_KINDS)}


def in_runs(events: Iterable[Event]) -> Iterator[tuple[timeline.RunEvent | None, Axis]]:
    """The runs of a timeline, in the order of its lines: what each recorded of itself, and the events of its time axis.

    Args:
        events: In the order of the lines.

    Yields:
        `None` in place of the `run` line for what comes before the first one.
    """
    run: timeline.RunEvent | None = None
    axis = Axis()
    for event in events:
        if type(event) is not timeline.RunEvent:
            axis.append(event)
            continue
        if run is not None or len(axis):
            yield run, axis
        run, axis = event, Axis()
    if run is not None or len(axis):
        yield run, axis


class Span(NamedTuple):
    """What a time axis covers, in seconds: from its first moment, or from 0 where that comes later, to its last."""

    length: float = 0.0
    last: float = 0.0


class TimelineVisitor(Protocol):
    """Goes through time axes. A batch has the number that `begin`, `end` and `lose` agree on."""

    def begin_run(self, run: timeline.RunEvent) -> None:
        """A run begins, and a time axis of its own with it."""

    def reach(self, t: float) -> None:
        """Something comes at this time."""

    def begin(self, t: float, number: int, batch: timeline.TriedBatch) -> None:
        """A batch begins."""

    def end(self, t: float, number: int, batch: timeline.BatchEvent) -> None:
        """A batch has ended; one that took no time has not begun."""

    def lose(self, t: float, number: int, batch: timeline.UnfinishedEvent) -> None:
        """A batch's worker has ended in it."""

    def read(self, t: float, number: int, event: timeline.MemoryEvent) -> None:
        """A device's memory was read."""

    def start(self, t: float, number: int, event: timeline.WorkerEvent) -> None:
        """A worker was started."""

    def act(self, t: float, number: int, event: timeline.ActionEvent) -> None:
        """The job's own policy asked for something."""

    def finish(self, span: Span) -> None:
        """The time axis has ended."""


def travel(runs: Iterable[tuple[timeline.RunEvent | None, Axis]], visitor: TimelineVisitor) -> None:
    """Take a visitor through all events of a timeline; see `in_runs` and `in_order`."""
    told = (visitor.read, visitor.end, visitor.lose, visitor.start, visitor.act)
    ways: dict[type, Callable[[float, int, Any], None]] = dict(zip(_KINDS, told, strict=True))
    for run, axis in runs:
        if run is not None:
            visitor.begin_run(run)
        first, last = None, 0.0
        for t, number, event, begins in in_order(axis):
            first, last = (t if first is None else first), t
            visitor.reach(t)
            if begins:
                visitor.begin(t, number, event)  # type: ignore[arg-type]  # only batches do
            else:
                ways[type(event)](t, number, event)
        del axis  # before the next run is read
        visitor.finish(Span() if first is None else Span(last - min(first, 0.0), last))


def in_order(axis: Axis) -> Iterator[Moment]:
    """The moments of a run. At one time: memory, then the lines in their own order, then the batches that begin.

    Args:
        axis: All of it. A place in that order is the event's number.

    Yields:
        The beginning of every batch before its end, unless both are one moment: then there is no beginning.
    """
    order = _by_time(axis)
    times = axis.times if type(order) is range else array("d", map(axis.times.__getitem__, order))
    numbers, begins = _beginnings(axis, order, times)
    next_begins = _ascending(begins)
    running: dict[int, Event | None] = {}  # built once
    waiting = 0
    for number, place in enumerate(order):
        t = times[number]
        while waiting < len(begins) and begins[next_begins[waiting]] < t:
            at = next_begins[waiting]
            waiting += 1
            begun = numbers[at]
            if begun >= number:
                running[begun] = event = axis[order[begun]]
                yield begins[at], begun, event, True
        yield t, number, running.pop(number, None) or axis[place], False


def _by_time(axis: Axis) -> Sequence[int]:
    by_time = _ascending(axis.times)
    if type(by_time) is range:  # as a job writes them; but for a reading behind its batch, perhaps
        lines = zip(pairwise(axis.times), pairwise(axis.kinds), strict=True)
        if not any(t == next_t and kind > 0 == next_kind for (t, next_t), (kind, next_kind) in lines):
            return by_time
    order = array("I")
    for _, together in groupby(by_time, key=axis.times.__getitem__):
        order.extend(sorted(together, key=lambda place: axis.kinds[place] > 0))  # stable: memory first
    return order


def _beginnings(axis: Axis, order: Sequence[int], times: array[float]) -> tuple[array[int], array[float]]:
    """Number and beginning of every batch."""
    numbers, begins = array("I"), array("d")
    columns = {
        kind: (rows.column("seconds"), rows.column("worker"), rows.words("worker"))
        for kind, rows in axis.tries().items()
    }
    kinds, places = axis.kinds, axis.places
    ends: dict[str, float] = {}
    for number, place in enumerate(order):
        if kinds[place] not in columns:
            continue
        seconds, workers, names = columns[kinds[place]]
        row, t = places[place], times[number]
        worker = names[workers[row]]
        begin, previous = t - seconds[row], ends.get(worker)
        if previous is not None and 0 < previous - begin <= OVERLAP_SECONDS and previous < t:
            begin = previous
        at = bisect_right(times, begin)
        if at and begin - times[at - 1] <= NOISE_SECONDS:
            begin = times[at - 1]
        ends[worker] = t
        numbers.append(number)
        begins.append(begin)
    return numbers, begins


def _ascending(values: array[float]) -> Sequence[int]:
    """The places of values from the least to the greatest, equal ones in their own order."""
    if not any(starmap(gt, pairwise(values))):
        return range(len(values))
    parts = (range(at, min(at + _SORTED, len(values))) for at in range(0, len(values), _SORTED))
    in_parts = [array("I", sorted(part, key=values.__getitem__)) for part in parts]
    return array("I", merge(*in_parts, key=values.__getitem__))
