"""No growth: over 2,400 shards, 5,000 batches of one and, where it is asked for, 9,000 and a million."""

from __future__ import annotations

import gc
import logging
import sys
from array import array
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.shard import ShardWatch
from tests.watch.rig import Clock, collected, make_provider, reading

STEADY = 1.02
"""Calls of the last part over those of an early one. Calls, because how long they take is up to the neighbours."""

BLOCKS_A_SHARD = 1.0
"""Python objects that may be left of each closed shard, on average: the label sets are all there by then."""


PART = 1000
"""Batches of a part."""

SHARDS = 300
"""Shards of a part: the first six fill the 1,000 that have a label and the 256 closed ones that are kept."""


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """pytest keeps every log record of a test: that is its memory, not ours."""
    logger = logging.getLogger("helix_crawl_otel")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(before)


class Course:
    """Batches in equal parts, with the objects alive after each, and how many functions two of the parts called.

    Args:
        parts: How many.
        since: The part from which on nothing may grow any more.
    """

    def __init__(self, parts: int, since: int) -> None:
        self.parts = parts
        self.since = since
        self.calls = array("q", [0]) * parts  # no objects of its own among those that are counted
        self.blocks = array("q")

    def run(self, part: Callable[[int], None]) -> Course:
        """Run each part."""
        for number in range(self.parts):
            if number in (self.since, self.parts - 1):
                self._count(part, number)
            else:
                part(number)
            gc.collect()
            self.blocks.append(sys.getallocatedblocks())
        return self

    def _count(self, part: Callable[[int], None], number: int) -> None:
        calls = 0

        def called(frame: FrameType, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(called)
        try:
            part(number)
        finally:
            sys.setprofile(before)
        self.calls[number] = calls

    def slowdown(self) -> float:
        """Calls of the last part over those of the part `since`."""
        return self.calls[-1] / self.calls[self.since]

    def growth(self) -> float:
        """Objects that each part after `since` left behind, on average."""
        return (self.blocks[-1] - self.blocks[self.since]) / (self.parts - 1 - self.since)


def batches(watch: CrawlWatch, clock: Clock, shard: ShardWatch, count: int) -> None:
    """Healthy batches with their boundaries."""
    for _ in range(count):
        with shard.batch(64, 4000):
            clock.now += 4.0
        shard.boundary()


@pytest.mark.parametrize("parts", [8, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_shards_of_five_batches_leave_nothing_behind(parts: int) -> None:
    """Opened, encoded and closed, 2,400 of them or 9,000: neither memory nor work grows with what is done."""
    provider, reader = make_provider()
    clock = Clock()
    watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(0.5), clock=clock, tick_seconds=None)

    def part(number: int) -> None:
        for n in range(SHARDS):
            with watch.shard(f"{number}-{n}", device=f"cuda:{n % 2}") as shard:
                batches(watch, clock, shard, 3)
                for _ in range(2):
                    clock.now += 4.0
                    shard.record(64, 4.0, 4000)
        watch.tick()

    course = Course(parts, since=5).run(part)
    seen = collected(reader)
    watch.close()
    assert seen["helix_dense_shards"]["state=done",] == parts * SHARDS
    assert sum(seen["helix_dense_genes"].values()) == parts * SHARDS * 5 * 64
    assert course.growth() / SHARDS < BLOCKS_A_SHARD
    assert course.slowdown() < STEADY


def test_one_shard_for_hours_leaves_nothing_behind() -> None:
    """A crawl that comes and goes: neither memory nor work grows with the batches of a shard."""
    course = run_batches(5_000, since=2)
    assert course.slowdown() < STEADY
    assert course.growth() / PART < 0.1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_batches_leave_nothing_behind() -> None:
    """A week of them."""
    course = run_batches(1_000_000, since=100)
    assert course.slowdown() < STEADY
    assert course.growth() / PART < 0.01


def run_batches(count: int, since: int) -> Course:
    """Parts of a thousand batches, told in both ways, each with a crawl of 16 on a full card."""
    provider, reader = make_provider()
    clock, card = Clock(), [0.5]
    watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(card[0]), clock=clock, tick_seconds=None)
    with watch.shard("a") as shard:

        def part(_: int) -> None:
            batches(watch, clock, shard, 500)
            for _ in range(PART - 600):
                clock.now += 4.0
                shard.record(64, 4.0, 4000)
            card[0] = 0.99
            for _ in range(16):
                watch.tick()
                with shard.batch(64, 4000):
                    clock.now += 80.0
                shard.boundary()
            card[0] = 0.5
            watch.tick()
            batches(watch, clock, shard, 84)

        course = Course(count // PART, since).run(part)
    seen = collected(reader)
    watch.close()
    assert seen["helix_dense_genes"]["device=cuda:0", "shard=a"] == count * 64
    assert seen["helix_dense_crawl_detected"]["device=cuda:0", "shard=a"] == count // PART
    assert set(seen["helix_dense_internal_errors"].values()) == {0}
    return course


def test_a_driver_that_never_looks_at_its_actions_fills_no_queue() -> None:
    """It may neither poll nor pass a boundary: what waits for it is bounded."""
    provider, _ = make_provider()
    clock, card = Clock(), [0.5]
    watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(card[0]), clock=clock, tick_seconds=None)
    with watch.shard("a") as shard:
        for _ in range(12):
            for fraction, seconds, times in ((0.5, 4.0, 40), (0.99, 80.0, 16)):
                card[0] = fraction
                for _ in range(times):
                    watch.tick()
                    with shard.batch(64, 4000):
                        clock.now += seconds
        assert len(watch.actions) <= 4
    watch.close()
