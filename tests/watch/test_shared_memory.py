"""An embedded watch reads the shared memory of its own process, where there are counters."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helix_crawl_otel import timing
from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.local import LocalBackend
from tests.probes.counters import MIB, FakeCounters, usage
from tests.watch.rig import CRAWL, HEALTHY, Rig, make_provider, reading, wait_until

HEALTHY_MIB, SPILLED_MIB = 150, 3000


@pytest.fixture(autouse=True)
def busy_threads_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has not ended in time is left behind with what it reads; on a busy machine it may take its time."""
    monkeypatch.setattr(timing, "STOP_SECONDS", 60.0)


class Spilling(Rig):
    """A watch with the package's own probe, which knows nothing of a card here, and counters of a test."""

    def __init__(
        self,
        config: CrawlConfig,
        memory: Callable[[], MemoryReading] | None = None,
        *,
        tick_seconds: float | None = None,
        timeline: Path | None = None,
    ) -> None:
        provider, _ = make_provider()
        super().__init__(provider=provider)
        self.watch.close()
        self.counters = FakeCounters()
        self.hold(HEALTHY_MIB)
        self.watch = CrawlWatch(config, meter_provider=provider, clock=self.clock, tick_seconds=None)
        self.watch._backend = LocalBackend(
            config,
            meter_provider=provider,
            memory=memory,
            clock=self.clock,
            tick_seconds=tick_seconds,
            state=None,
            timeline=timeline,
            encoder="",
            counters=lambda: self.counters,
        )

    def __enter__(self) -> Spilling:
        return self

    def hold(self, shared: int) -> None:
        """This process holds so many MiB of shared memory, and somebody else a little."""
        self.counters.answer = usage((os.getpid(), 4000, shared), (99, 2000, 7))


def test_a_spill_of_the_own_process_is_detected_and_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the knob on, without any other reading of the card."""
    path = tmp_path / "timeline.jsonl"
    with Spilling(CrawlConfig(shared=True), timeline=path) as rig, rig.watch.shard("a") as shard:
        rig.batches(shard, 12, HEALTHY)
        rig.hold(SPILLED_MIB)
        rig.batches(shard, 10, CRAWL)
        assert shard.status().rung > 0
    lines = [record.getMessage() for record in caplog.records]
    detected = next(at for at, line in enumerate(lines) if "issued action=DETECT" in line)
    assert "memory=unknown shared=2.93GiB shared_rise=2.78GiB others_shared=0.01GiB" in lines[detected]
    assert "shared memory up by 2.78 GiB since the worker's first batches" in lines[detected]
    beside = "[crawl-watchdog] beside the worker, memory of cuda:0 is held by"
    named = [line for line in lines if line.startswith(beside)]
    assert len(named) == 1
    assert "(pid 99) 1.95 GiB and 0.01 GiB shared" in named[0]
    assert f'"shared_bytes":{SPILLED_MIB * MIB},"other_shared_bytes":{7 * MIB}' in path.read_text(encoding="utf-8")
    assert rig.counters.closed == 1


def test_with_the_knob_off_the_same_job_is_left_alone() -> None:
    """The readings are there for whoever looks."""
    with Spilling(CrawlConfig()) as rig, rig.watch.shard("a") as shard:
        rig.batches(shard, 12, HEALTHY)
        rig.hold(SPILLED_MIB)
        rig.batches(shard, 20, CRAWL)
        assert shard.status().rung == 0


def test_counters_that_fail_reach_no_job(caplog: pytest.LogCaptureFixture) -> None:
    """Not even where the owner of the job calls the ticks."""
    with Spilling(CrawlConfig(shared=True)) as rig, rig.watch.shard("a") as shard:
        rig.counters.answer = OSError("access violation")
        rig.batches(shard, 12, HEALTHY)
        rig.batches(shard, 10, CRAWL)
        assert shard.status().rung == 0
    assert sum("internal error in probe" in record.getMessage() for record in caplog.records) == 1


def test_a_thread_of_its_own_reads_where_there_are_threads() -> None:
    """And ends with the watch."""
    with Spilling(CrawlConfig(), tick_seconds=0.01) as rig, rig.watch.shard("a"):
        wait_until(lambda: rig.counters.reads > 3)
    assert rig.counters.closed == 1


def test_beside_somebodys_own_probe_nothing_is_read() -> None:
    """It stands for the device; it may tell shared memory itself."""
    with Spilling(CrawlConfig(), lambda: reading(0.5)) as rig, rig.watch.shard("a") as shard:
        rig.batches(shard, 3, HEALTHY)
    assert rig.counters.reads == 0


def test_on_the_cpu_nothing_is_read() -> None:
    """It has nothing to spill."""
    with Spilling(CrawlConfig()) as rig, rig.watch.shard("a", device="cpu") as shard:
        rig.batches(shard, 3, HEALTHY)
    assert rig.counters.reads == 0
