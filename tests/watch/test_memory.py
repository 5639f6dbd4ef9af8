"""A probe that hangs, raises or answers rubbish: memory is unknown, and everything else goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from helix_crawl_otel.policy.model import MemoryReading, Verdict
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.watch.rig import CRAWL, FULL, Clock, Rig, collected, make_provider, pipeline_of, reading, wait_until


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """What a probe hangs on; the end of the test lets it go."""
    go_on = threading.Event()
    yield go_on
    go_on.set()


def test_a_probe_that_hangs_for_ever_stops_nothing(stuck: threading.Event) -> None:
    """Batches and ticks go on; after a minute memory is unknown, on the board as well; close returns."""
    provider, reader = make_provider()
    clock = Clock()
    answered, hangs, came_back = threading.Event(), threading.Event(), threading.Event()

    def probe() -> MemoryReading:
        if answered.is_set():
            hangs.set()
            stuck.wait(150)
            came_back.set()
        answered.set()
        return reading(FULL)

    watch = CrawlWatch(meter_provider=provider, memory=probe, clock=clock, tick_seconds=0.01)
    up = ("device=cuda:0", "source=custom")
    with watch.shard("a") as shard:
        wait_until(lambda: shard.status().memory_fraction == FULL)
        assert hangs.wait(50)
        for _ in range(12):
            with shard.batch(64, 4000):
                clock.now += 4.0
        assert shard.status().memory_fraction == FULL  # 48 s old
        clock.now += 10.0
        wait_until(lambda: collected(reader)["helix_dense_vram_probe_up"] == {up: 1})
        clock.now += 60.0
        wait_until(lambda: collected(reader)["helix_dense_vram_probe_up"] == {up: 0})
        seen = collected(reader)
        assert "helix_dense_vram_used" not in seen
        assert "helix_dense_vram_limit" not in seen
        assert shard.status().memory_fraction is None
        for _ in range(10):
            with shard.batch(64, 4000):
                clock.now += CRAWL
            assert shard.boundary() == []
        assert shard.status().verdict is Verdict.UNKNOWN
        with shard.batch(64, 4000):
            clock.now += 2000.0
            wait_until(lambda: collected(reader)["helix_dense_batch_inflight"]["device=cuda:0", "shard=a"] == 2000)
    watch.close()
    assert not came_back.is_set(), "none of this has waited for the probe"


def test_a_batch_in_flight_is_judged_while_the_probe_hangs(
    stuck: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing new is measured then, so the SDK hands nothing over: the clock has to be looked at all the same."""
    provider, _ = make_provider()
    clock = Clock()

    def probe() -> MemoryReading:
        stuck.wait(150)
        return reading(FULL)

    watch = CrawlWatch(meter_provider=provider, memory=probe, clock=clock, tick_seconds=0.01)
    with watch.shard("a") as shard:
        for _ in range(10):
            with shard.batch(64, 4000):
                clock.now += 4.0
        with shard.batch(64, 4000):
            wait_until(lambda: pipeline_of(watch)._feed.ask(lambda policy: policy.state.inflight))
            clock.now += 10_000.0
            wait_until(lambda: "a hang, not a crawl" in caplog.text)
    watch.close()


def test_a_probe_that_comes_back_is_believed_again(stuck: threading.Event) -> None:
    """The driver was reset, the next reading counts."""
    provider, reader = make_provider()
    clock = Clock()

    hangs = threading.Event()

    def probe() -> MemoryReading:
        hangs.set()
        stuck.wait(150)
        return reading(0.7)

    watch = CrawlWatch(meter_provider=provider, memory=probe, clock=clock, tick_seconds=0.01)
    up = ("device=cuda:0", "source=custom")
    with watch.shard("a") as shard:
        assert hangs.wait(50)
        clock.now += 100.0
        wait_until(lambda: collected(reader).get("helix_dense_vram_probe_up") == {up: 0})
        stuck.set()
        wait_until(lambda: collected(reader)["helix_dense_vram_probe_up"] == {up: 1})
        wait_until(lambda: shard.status().memory_fraction == 0.7)  # the board knows it a moment earlier
    watch.close()


def _raises() -> MemoryReading:
    raise OSError("NVML: GPU is lost")


def _exits() -> MemoryReading:
    raise SystemExit(5)


@pytest.mark.parametrize(
    "probe",
    [
        _raises,
        lambda: None,
        lambda: (5, 10),
        lambda: 0.99,
        lambda: "full",
        lambda: MemoryReading(None, None),
        lambda: MemoryReading(5, None),
        lambda: MemoryReading(None, 5),
        lambda: MemoryReading(-1, 10),  # raises ValueError
        lambda: MemoryReading(1, 0),  # raises ValueError
    ],
    ids=["raises", "none", "tuple", "number", "text", "unknown", "no limit", "no used", "negative", "no card"],
)
def test_a_probe_that_raises_or_answers_rubbish_is_unknown(probe: Callable[[], MemoryReading]) -> None:
    """And unknown never trips."""
    with Rig(memory=probe) as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard).crawl(shard, 20)
        assert shard.status().verdict is Verdict.UNKNOWN
        assert shard.status().memory_fraction is None
        assert rig.outcomes() == {}
        assert rig.series("helix_dense_vram_used") == {} or probe().used_bytes is not None
        assert rig.series("helix_dense_vram_probe_up")["device=cuda:0", "source=custom"] in (0, 1)
        assert rig.total("helix_dense_internal_errors") == 0


@pytest.mark.parametrize(("device", "level"), [("cuda:0", "WARNING"), ("cpu", "INFO")])
def test_an_unknown_memory_is_told_once_with_its_reason(
    device: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing trips there, and whoever set it up wants to know why; on the CPU that is usual."""
    with caplog.at_level(logging.INFO, "helix_crawl_otel"), Rig(memory=_raises) as rig:
        for name in ("a", "b"):
            with rig.watch.shard(name, device=device) as shard:
                rig.healthy(shard, 3)
    (record,) = [record for record in caplog.records if "is unknown" in record.getMessage()]
    assert record.levelname == level
    assert record.getMessage().startswith(f"[crawl-watchdog] memory of {device} is unknown (custom: the probe raised")
    assert "NVML: GPU is lost" in record.getMessage()


def test_a_probe_that_exits_does_not_end_the_sampler() -> None:
    """`SystemExit` from somebody's probe ends no thread of ours."""
    provider, reader = make_provider()
    watch = CrawlWatch(meter_provider=provider, memory=_exits, clock=Clock(), tick_seconds=0.01)
    with watch.shard("a"):
        wait_until(lambda: collected(reader)["helix_dense_internal_errors"]["where=probe",] >= 3)
    watch.close()


def test_one_sampler_a_device_and_none_for_the_cpu_that_a_shard_was_moved_to() -> None:
    """The caller's probe reads the card that the shard has just left."""
    asked: list[int] = []

    def probe() -> MemoryReading:
        asked.append(1)
        return reading(FULL)

    with Rig(memory=probe) as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
        rig.healthy(shard).crawl(shard, 10)
        assert shard.device == "cpu"
        asked.clear()
        rig.watch.tick()
        assert len(asked) == 1
        assert set(rig.series("helix_dense_vram_used")) == {("device=cuda:0",)}
        assert shard.status().memory_fraction is None


def test_threads_are_ours_by_name_and_gone_after_close() -> None:
    """One ticker, one sampler a device; none before the first shard, none after the end."""
    provider, _ = make_provider()

    before = set(threading.enumerate())  # probes of other tests may hang on for a while

    def ours() -> set[str]:
        return {thread.name for thread in set(threading.enumerate()) - before}

    watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(0.5), tick_seconds=60.0)
    assert ours() == set()
    with watch.shard("a"), watch.shard("b"), watch.shard("c", device="cuda:1"):
        started = {"helix-crawl-ticker", "helix-crawl-memory-cuda:0", "helix-crawl-memory-cuda:1"}
        assert ours() == started
        assert all(thread.daemon for thread in threading.enumerate() if thread.name in started)
    watch.close()
    wait_until(lambda: ours() == set())  # it waits for a thread that is busy, but not for ever


def test_without_a_tick_there_are_no_threads() -> None:
    """The owner calls `tick`."""
    before = set(threading.enumerate())  # those of other tests may end meanwhile
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard, 3)
        assert set(threading.enumerate()) <= before
