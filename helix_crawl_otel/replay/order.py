"""Cuts a timeline into runs, and takes somebody through the events of one in the order in which a policy has to see
them: by time, memory first.

A timeline says of a batch when it ended, or its worker did, and how long it took. A policy that lives with the job sees
it begin, so its beginning is made here.

Source: DESIGN.md, section 3.6.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import NamedTuple, Protocol

from helix_crawl_otel.timeline import (
    ActionEvent,
    BatchEvent,
    Event,
    MemoryEvent,
    RunEvent,
    TriedBatch,
    UnfinishedEvent,
    WorkerEvent,
)

__all__ = ["Moment", "Span", "TimelineVisitor", "in_order", "in_runs", "travel"]

OVERLAP_SECONDS = 0.01
"""A timeline is rounded: a batch that seems to begin so little before the end of its worker's previous batch began
when that one ended."""

NOISE_SECONDS = 1e-5
"""A batch that seems to begin so little after another event began with it. A reading made as the batch began must not
seem to be from before it."""

Moment = tuple[float, int, Event, bool]
"""When, the event's number, the event, and whether this is the beginning of a batch rather than the event itself."""


def in_runs(events: Iterable[Event]) -> Iterator[tuple[RunEvent | None, list[Event]]]:
    """The runs of a timeline, in the order of its lines: what each recorded of itself, and the events of its time axis.

    Args:
        events: In the order of the lines. All events of one run are held in memory.

    Yields:
        `None` in place of the `run` line for what comes before the first one.
    """
    run: RunEvent | None = None
    axis: list[Event] = []
    for event in events:
        if type(event) is not RunEvent:
            axis.append(event)
            continue
        if run is not None or axis:
            yield run, axis
        run, axis = event, []
    if run is not None or axis:
        yield run, axis


class TimelineVisitor(Protocol):
    """Goes through one time axis. A batch has the number that `begin`, `end` and `lose` agree on."""

    def reach(self, t: float) -> None:
        """Something comes at this time."""

    def begin(self, t: float, number: int, batch: TriedBatch) -> None:
        """A batch begins."""

    def end(self, t: float, number: int, batch: BatchEvent) -> None:
        """A batch has ended; one that took no time has not begun."""

    def lose(self, t: float, number: int, batch: UnfinishedEvent) -> None:
        """A batch's worker has ended in it."""

    def read(self, t: float, event: MemoryEvent) -> None:
        """A device's memory was read."""

    def start(self, t: float, event: WorkerEvent) -> None:
        """A worker was started."""

    def act(self, t: float, event: ActionEvent) -> None:
        """The job's own policy asked for something."""


class Span(NamedTuple):
    """What a time axis covers, in seconds: from its first moment, or from 0 where that comes later, to its last."""

    length: float = 0.0
    last: float = 0.0


def travel(axis: list[Event], visitor: TimelineVisitor) -> Span:
    """Take a traveller through all events of one time axis; see `in_order`."""
    first: float | None = None
    last = 0.0
    for t, number, event, begins in in_order(axis):
        visitor.reach(t)
        first, last = (t if first is None else first), t
        if begins and isinstance(event, TriedBatch):
            visitor.begin(t, number, event)
        elif type(event) is BatchEvent:
            visitor.end(t, number, event)
        elif type(event) is UnfinishedEvent:
            visitor.lose(t, number, event)
        elif type(event) is MemoryEvent:
            visitor.read(t, event)
        elif type(event) is WorkerEvent:
            visitor.start(t, event)
        elif type(event) is ActionEvent:
            visitor.act(t, event)
    return Span() if first is None else Span(last - min(first, 0.0), last)


def in_order(events: list[Event]) -> Iterator[Moment]:
    """The moments of a run. At one time: memory, then the lines in their own order, then the batches that begin.

    Args:
        events: All of one time axis; the list is sorted in place. Its places are the events' numbers.

    Yields:
        The beginning of every batch before its end, unless both are one moment: then there is no beginning.
    """
    events.sort(key=lambda event: type(event) is not MemoryEvent)
    events.sort(key=itemgetter(0))  # stable
    numbers, begins = _beginnings(events)
    order = sorted(range(len(begins)), key=begins.__getitem__)
    waiting = 0
    for number, event in enumerate(events):
        t = event.t
        while waiting < len(order) and begins[order[waiting]] < t:
            at = order[waiting]
            waiting += 1
            if numbers[at] >= number:
                yield begins[at], numbers[at], events[numbers[at]], True
        yield t, number, event, False


def _beginnings(events: list[Event]) -> tuple[array[int], array[float]]:
    """Number and beginning of every batch."""
    numbers, begins = array("q"), array("d")
    times = array("d", map(itemgetter(0), events))
    ends: dict[str, float] = {}
    for number, event in enumerate(events):
        if not isinstance(event, TriedBatch):
            continue
        begin, previous = event.t - event.seconds, ends.get(event.worker)
        if previous is not None and 0 < previous - begin <= OVERLAP_SECONDS and previous < event.t:
            begin = previous
        at = bisect_right(times, begin)
        if at and begin - times[at - 1] <= NOISE_SECONDS:
            begin = times[at - 1]
        ends[event.worker] = event.t
        numbers.append(number)
        begins.append(begin)
    return numbers, begins
