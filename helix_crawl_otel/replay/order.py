"""Cuts a timeline into runs, and takes a visitor through the events of one in the order in which a policy has to see
them: by time, memory first.

A timeline says of a batch when it ended, or its worker did, and how long it took. A policy that lives with the job sees
it begin, so its beginning is made here.

Source: DESIGN.md, section 3.6.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from heapq import merge
from itertools import chain, count, groupby, pairwise, starmap
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

_AHEAD = 4096
"""Batches that are read before they begin, at most: they are unpacked in the order in which they end."""

_TOGETHER = 4096
"""Events that are put into columns at once."""

_NEAR = 16
"""Events before the end of a batch among which its beginning is looked for first: there may be millions before."""

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
        self._rows: tuple[Any, ...] = (
            Columns(timeline.MemoryEvent),
            Columns(timeline.BatchEvent),
            Columns(timeline.UnfinishedEvent),
            [],
            [],
        )
        self.extend(list(events))

    def extend(self, events: Sequence[Event]) -> None:
        """Put events at the end. One by one takes twice the time."""
        kinds = bytes(map(_NUMBER.__getitem__, map(type, events)))
        self.times.extend([event.t for event in events])
        self.kinds.frombytes(kinds)
        for number in set(kinds):
            self._rows[number].extend([event for event, kind in zip(events, kinds, strict=True) if kind == number])

    @cached_property
    def places(self) -> array[int]:
        """Of each event, its place among those of its kind. Asked for once all are there."""
        among = [count() for _ in _KINDS]
        return array("I", (next(among[kind]) for kind in self.kinds))

    @property
    def has_actions(self) -> bool:
        """Whether the job's own policy asked for anything."""
        return bool(self._rows[_NUMBER[timeline.ActionEvent]])

    def tries(self) -> dict[int, Columns[Any]]:
        """Batches that ended, and those that did not, by what they are in `kinds`."""
        return {kind: self._rows[kind] for kind in TRIED}

    def in_line_order(self) -> list[Callable[[], Event]]:
        """Of each kind, by what it is in `kinds`, what gives its next event: for who goes through the lines."""
        return [iter(rows).__next__ for rows in self._rows]

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

TRIED = (1, 2)
"""Places in `_KINDS` of batches."""

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
    fresh: list[Event] = []
    for event in events:
        if type(event) is not timeline.RunEvent:
            fresh.append(event)
            if len(fresh) == _TOGETHER:
                axis.extend(fresh)
                fresh.clear()
            continue
        axis.extend(fresh)
        fresh.clear()
        if run is not None or len(axis):
            yield run, axis
        run, axis = event, Axis()
    axis.extend(fresh)
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
        moments = in_order(axis)
        first = next(moments, None)
        t = 0.0
        for t, number, event, begins in () if first is None else chain([first], moments):
            visitor.reach(t)
            if begins:
                visitor.begin(t, number, event)  # type: ignore[arg-type]  # only batches do
            else:
                ways[type(event)](t, number, event)
        del axis  # before the next run is read
        visitor.finish(Span() if first is None else Span(t - min(first[0], 0.0), t))


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
    ways = axis.in_line_order() if type(order) is range else None
    tries = _tries(axis, order, numbers, ways)
    ahead: dict[int, Event] = {}  # those of the tries that were read and have not ended, by their place among all
    kinds = axis.kinds
    read = ended = 0
    by_begin = iter(_ascending(begins))
    at = next(by_begin, None)
    next_begin = math.inf if at is None else begins[at]
    for number, (place, t) in enumerate(zip(order, times, strict=True)):
        while next_begin < t and at is not None:
            if at >= ended:
                if at - read < _AHEAD:
                    while read <= at:
                        ahead[read] = next(tries)
                        read += 1
                elif at not in ahead:
                    ahead[at] = axis[order[numbers[at]]]
                yield next_begin, numbers[at], ahead[at], True
            at = next(by_begin, None)
            next_begin = math.inf if at is None else begins[at]
        kind = kinds[place]
        if kind in TRIED:
            while read <= ended:
                ahead[read] = next(tries)
                read += 1
            event = ahead.pop(ended)
            ended += 1
        else:
            event = axis[place] if ways is None else ways[kind]()
        yield t, number, event, False


def _tries(
    axis: Axis, order: Sequence[int], numbers: Iterable[int], ways: Sequence[Callable[[], Event]] | None
) -> Iterator[Event]:
    """The batches, in the order in which they, or their workers, ended."""
    if ways is None:
        return (axis[order[number]] for number in numbers)
    kinds = axis.kinds
    return (ways[kinds[number]]() for number in numbers)


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
    kinds = axis.kinds
    rows = {kind: count() for kind in columns}
    places = axis.places if type(order) is not range else None
    ends: dict[str, float] = {}
    for number, (place, t) in enumerate(zip(order, times, strict=True)):
        kind = kinds[place]
        if kind not in columns:
            continue
        seconds, workers, names = columns[kind]
        row = next(rows[kind]) if places is None else places[place]
        worker = names[workers[row]]
        begin, previous = t - seconds[row], ends.get(worker)
        if previous is not None and 0 < previous - begin <= OVERLAP_SECONDS and previous < t:
            begin = previous
        near = number - _NEAR if number > _NEAR and times[number - _NEAR] <= begin else 0
        at = bisect_right(times, begin, near, number + 1)
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
