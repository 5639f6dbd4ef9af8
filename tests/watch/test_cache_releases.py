"""When a worker of ours gives its cache back: every so many batches, or by need where its memory can be read."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import pytest

from helix_crawl_otel.encoders.hashing import HashingEncoder
from helix_crawl_otel.faults.card import CardFault
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.watch import release
from helix_crawl_otel.watch.release import CacheReleases, cached_bytes

FULL = MemoryReading(95, 100)
LOW = MemoryReading(50, 100)
UNKNOWN = MemoryReading(None, None)
CAPPED = MemoryReading(50, 100, reserved_bytes=45, cap_bytes=48)


def made(every: int | None, *readings: MemoryReading, cached: int | None = 1, seconds: float = 1.0) -> CacheReleases:
    """One whose readings follow each other; the last one stays. Its clock goes on by so much at each look."""
    left, times = list(readings), iter(range(10**9))
    return CacheReleases(
        every, lambda: left.pop(0) if len(left) > 1 else left[0], lambda: cached, lambda: seconds * next(times)
    )


def due_at(releases: CacheReleases, batches: int, streak: int = 0) -> list[int]:
    """The batches of so many after which the cache was released, in half a second each."""
    found = []
    for n in range(1, batches + 1):
        if releases.is_due(lambda: streak):
            found.append(n)
            releases.released(0.5)
    return found


@pytest.mark.parametrize(("every", "expected"), [(0, []), (3, [3, 6, 9]), (64, [])])
@pytest.mark.parametrize("memory", [FULL, LOW, UNKNOWN])
def test_whoever_sets_the_knob_gets_just_that(every: int, expected: list[int], memory: MemoryReading) -> None:
    """However full the memory is, and with a streak as well."""
    assert due_at(made(every, memory), 10) == expected
    assert due_at(made(every, memory), 10, streak=3) == expected


def test_by_default_it_is_released_by_need() -> None:
    """When it is full, not by the count."""
    assert due_at(made(None, LOW), 600) == []
    assert due_at(made(None, LOW, LOW, FULL, LOW), 600) == [3]
    assert due_at(made(None, LOW, CAPPED, LOW), 600) == [2]
    assert due_at(made(None, FULL), 600, streak=1) == []
    assert due_at(made(None, FULL, cached=0), 600) == []


@pytest.mark.parametrize(("every", "spills"), [(None, False), (0, True)])
def test_by_need_a_card_does_not_spill(every: int | None, spills: bool) -> None:
    """Each batch leaves a GiB on the modelled card, on which a worker may have 11: never released it crawls, by need no
    batch takes longer than another."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    values = {"fragment_gib": 1.0, "batch_seconds": 10.0, "warmup_seconds": 0.0, "release_seconds": 0.5}
    card = CardFault(HashingEncoder(), values, lambda: now, sleep)
    releases = CacheReleases(every, card.memory, lambda: None, lambda: now)
    seconds = []
    for n in range(60):
        began = now
        card.encode([f"passage {n}"])
        seconds.append(now - began)
        if releases.is_due(lambda: 0):
            began = now
            card.release()
            releases.released(now - began)
    assert bool(card.memory().shared_bytes) == spills
    assert (max(seconds) > 5 * seconds[0]) == spills


def test_a_cache_that_stays_full_costs_ever_less() -> None:
    """Half a second each, in batches of a second: after 50 s, 100 s and so on, up to 1600 s."""
    found = due_at(made(None, FULL), 5000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert found[0] == 1
    assert gaps == sorted(gaps)
    assert 1595 <= gaps[-1] <= 1605


def test_where_the_memory_cannot_be_read_every_256_batches_stay() -> None:
    """As before there were readings."""
    assert due_at(made(None, UNKNOWN), 600) == [256, 512]


def test_what_the_ladder_releases_counts_without_a_cost() -> None:
    """What the next batch takes back is no rise, and nothing is due right behind it."""
    releases = made(None, LOW, FULL, LOW)
    releases.released(0.5)
    assert due_at(releases, 1) == []
    releases.released(None)
    assert due_at(releases, 1) == []
    assert releases._need.largest_rise == 0.0
    assert releases._need.costs == [0.5]


def test_a_driver_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker goes on, every 256 batches."""
    monkeypatch.setattr(release, "ANSWER_SECONDS", 0.01)
    stuck, asked = threading.Event(), []

    def read() -> MemoryReading:
        asked.append(1)
        stuck.wait(30.0)
        return FULL

    releases = CacheReleases(None, read, lambda: 1)
    assert due_at(releases, 300) == [256]
    assert asked == [1]
    stuck.set()


@pytest.mark.parametrize(("device", "expected"), [("cuda:1", 30), ("cuda", 7), ("cpu", None)])
def test_cached_is_what_is_reserved_and_not_allocated(device: str, expected: int | None) -> None:
    """Of the card that is asked for."""
    cuda = SimpleNamespace(
        is_initialized=lambda: True, memory_reserved=[10, 100].__getitem__, memory_allocated=[3, 70].__getitem__
    )
    assert cached_bytes(device, {"torch": SimpleNamespace(cuda=cuda)}) == expected
    assert cached_bytes(device, {}) is None
    unused = SimpleNamespace(is_initialized=lambda: False)
    assert cached_bytes(device, {"torch": SimpleNamespace(cuda=unused)}) is None
