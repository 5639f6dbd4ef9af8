"""From a collection to the policy: what the reader makes of data points, and what survives an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest

from helix_crawl_otel.otel.policy_reader import LockedPolicy, Measurements
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from tests.otel.fresh import run_fresh
from tests.watch.rig import Clock

Reading = tuple[float, str, MemoryReading]
Finished = tuple[float, BatchInfo, float]


@dataclass
class Collected:
    """What one collection brought."""

    now: float
    memory: list[Reading] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)


class Sink:
    """Keeps collections and errors."""

    def __init__(self) -> None:
        self.clock = Clock(100.0)
        self.collected: list[Collected] = []
        self.errors: list[Exception] = []
        self.measurements = Measurements(self.receive, self.errors.append)

    def receive(self, now: float, memory: Iterable[Reading], finished: Iterable[Finished]) -> None:
        """As `LockedPolicy.apply`."""
        self.collected.append(Collected(now, list(memory), list(finished)))

    def last(self) -> Collected:
        """What the newest collection brought."""
        return self.collected[-1]


def info(number: int, work: float | None = 4000.0) -> BatchInfo:
    """A batch."""
    return BatchInfo(f"b{number}", "a", "w", "cuda:0", 64, work)


@pytest.mark.parametrize("work", [None, 4000.0, 7])
def test_a_batch_goes_through_the_instruments_whole(work: float | None) -> None:
    """Everything said of the batch comes out as it went in."""
    sink = Sink()
    batch = info(1, work)
    sink.measurements.finish((batch, 96.0), 4.0)
    assert sink.last() == Collected(100.0, finished=[(100.0, batch, 4.0)])
    sink.measurements.collect(sink.clock.now)
    assert sink.last() == Collected(100.0)  # delta: nothing is brought twice
    assert sink.errors == []


def test_a_collection_that_brings_nothing_still_looks_at_the_clock() -> None:
    """The SDK hands an empty collection to nobody. A tick is for the batches in flight, whatever else was measured."""
    sink = Sink()
    sink.clock.now = 123.0
    sink.measurements.collect(sink.clock.now)
    assert sink.collected == [Collected(123.0)]


@pytest.mark.parametrize(
    ("used", "limit", "known"), [(5, 10, True), (None, 10, False), (5, None, False), (None, None, False), (0, 1, True)]
)
def test_a_reading_is_handed_over_once_and_only_when_it_is_known(
    used: int | None, limit: int | None, known: bool
) -> None:
    """An unknown reading is no observation of a gauge; the time is that of the reading, not of the collection."""
    sink = Sink()
    sink.measurements.read_memory(93.0, "cuda:1", MemoryReading(used, limit))
    assert sink.last().memory == ([(93.0, "cuda:1", MemoryReading(used, limit))] if known else [])
    sink.measurements.collect(sink.clock.now)
    assert sink.last().memory == []


def test_what_an_allocator_may_take_reaches_the_policy() -> None:
    """Also where the card itself cannot be read."""
    sink = Sink()
    reading = MemoryReading(None, None, reserved_bytes=9, cap_bytes=10)
    sink.measurements.read_memory(93.0, "cuda:1", reading)
    assert sink.last().memory == [(93.0, "cuda:1", reading)]


def test_what_receiving_raises_stays_in_the_reader() -> None:
    """It would reach the thread of the batch."""
    errors: list[Exception] = []

    def receive(now: float, memory: Iterable[Reading], finished: Iterable[Finished]) -> None:
        raise KeyError("policy")

    measurements = Measurements(receive, errors.append)
    measurements.finish((info(1), 96.0), 4.0)
    assert [type(error) for error in errors] == [KeyError]


def test_without_the_sdk_the_same_facts_arrive() -> None:
    """`OTEL_SDK_DISABLED=true` is read when a provider is made, so the whole of it runs in a fresh process."""
    out = run_fresh(
        """
        from helix_crawl_otel.policy.model import MemoryReading
        from tests.otel.test_collections import Collected, Sink, info
        sink = Sink()
        assert sink.measurements.disabled
        sink.measurements.finish((info(1), 96.0), 4.0)
        assert sink.last() == Collected(100.0, finished=[(100.0, info(1), 4.0)])
        sink.measurements.read_memory(93.0, "cuda:0", MemoryReading(1, 2))
        assert sink.last() == Collected(93.0, memory=[(93.0, "cuda:0", MemoryReading(1, 2))])
        sink.measurements.collect(sink.clock.now)
        assert sink.last() == Collected(100.0)
        print("held")
        """,
        environ={"OTEL_SDK_DISABLED": "true"},
    )
    assert out == "held\n"


# -- the feed ---------------------------------------------------------------------------------------------------------


def test_the_feed_takes_memory_first_then_ends() -> None:
    """A reading of the same collection counts for the batch that ends in it."""
    feed = LockedPolicy(Policy(Settings()))
    feed.tell(lambda policy: policy.start_batch(6.0, info(1)))
    feed.apply(10.0, memory=[(9.0, "cuda:0", MemoryReading(9, 10))], finished=[(10.0, info(1), 4.0)])
    status = feed.ask(lambda policy: policy.status("a", 10.0))
    assert status.memory_fraction == 0.9
    assert feed.ask(lambda policy: len(policy.state.inflight)) == 0
    assert feed.ask(lambda policy: policy.state.workers["w"].batches) == 1


def test_an_ignored_sample_is_told_once() -> None:
    """Its reason waits until it is fetched."""
    feed = LockedPolicy(Policy(Settings()))
    feed.apply(10.0, finished=[(10.0, info(1), 4.0), (10.0, info(2, None), 4.0)])  # the unit changed
    assert feed.ignored.popleft() == "work"
    assert not feed.ignored


def test_what_must_survive_is_marked_when_it_changes() -> None:
    """The state file is written then, and only then."""
    feed = LockedPolicy(Policy(Settings(warmup=0)))
    assert not feed.durable_changed()
    feed.apply(10.0, finished=[(10.0, info(1), 4.0)])
    assert feed.durable_changed()
    assert not feed.durable_changed()
