"""What a driver tells of its batches: what counts, what is ignored, and that nothing of ours reaches the driver."""

from __future__ import annotations

import dataclasses
import logging
import threading
from pathlib import Path

import pytest

from helix_crawl_otel.policy.model import MemoryReading, ShardStatus, Verdict
from helix_crawl_otel.timeline import TimelineReader
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.otel.fresh import run_fresh
from tests.watch.rig import CRAWL, FULL, LOW, Clock, Rig, collected, make_provider, reading


class Odd(Exception):
    """The driver's own."""


@pytest.mark.parametrize("error", [Odd(), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_a_batch_raises_passes_through_and_is_not_counted(error: BaseException) -> None:
    """It is the driver's affair: not a gene, not a sample, not in flight, not a part of the warm-up."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        for _ in range(5):
            with pytest.raises(type(error)) as raised, shard.batch(64):
                rig.wait(100).fail(error)
            assert raised.value is error
        assert rig.total("helix_dense_genes") == 0
        assert rig.series("helix_dense_batch_duration") == {}
        assert rig.total("helix_dense_batch_inflight") == 0
        rig.healthy(shard, 9)
        assert shard.status().baseline == 16.0


def test_a_batch_that_raised_is_in_flight_no_longer() -> None:
    """Hours later it must not look like a hang, or a crawl."""
    with Rig(FULL) as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard)
        with pytest.raises(Odd), shard.batch(64, 4000):
            raise Odd
        rig.fraction = FULL
        rig.wait(4000)
        assert shard.status().streak == 0
        assert rig.outcomes() == {}


@pytest.mark.parametrize(
    ("genes", "work", "reason"),
    [
        (0, None, "genes"),
        (-1, None, "genes"),
        (float("nan"), None, "genes"),
        (float("inf"), None, "genes"),
        ("64", None, "genes"),
        (None, None, "genes"),
        (True, None, "genes"),
        (10**400, None, "genes"),
        ([64], None, "genes"),
        (64, 0, "work"),
        (64, -5.0, "work"),
        (64, float("nan"), "work"),
        (64, "4000", "work"),
        pytest.param(64, object(), "work", id="64-an object-work"),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", ["batch", "record"])
def test_numbers_that_cannot_be_judged_are_counted_and_ignored(
    genes: object, work: object, reason: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No exception, no gene, no observation; the first of a kind is named in the log."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard, 3)
        before = shard.status()
        for _ in range(3):
            if way == "batch":
                with shard.batch(genes, work):  # type: ignore[arg-type]  # wrong on purpose
                    rig.clock.now += 4.0
                    assert rig.total("helix_dense_batch_inflight") == 0
            else:
                shard.record(genes, 4.0, work)  # type: ignore[arg-type]  # wrong on purpose
        assert shard.status() == before
        assert rig.total("helix_dense_genes") == 3 * 64
        assert rig.series("helix_dense_samples_ignored")[f"reason={reason}",] == 3
        assert rig.total("helix_dense_samples_ignored") == 3
        assert rig.total("helix_dense_internal_errors") == 0
    (line,) = [line for line in caplog.messages if "not judged" in line]
    assert line.startswith(f"[crawl-watchdog] a batch of shard 'a' is not judged: {reason} is ")
    assert "accepted: a number > 0" in line


@pytest.mark.parametrize("seconds", [0, -4.0, float("nan"), float("inf"), "4", None, True])
def test_seconds_that_are_none_are_ignored(seconds: object) -> None:
    """A driver's clock may stand still or step back."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        shard.record(64, seconds)  # type: ignore[arg-type]  # wrong on purpose
        assert rig.series("helix_dense_samples_ignored")["reason=seconds",] == 1
        assert rig.total("helix_dense_internal_errors") == 0
        assert rig.total("helix_dense_genes") == 0


class Scalar:
    """What numpy and torch have: a number in a box."""

    def __init__(self, value: float) -> None:
        self.value = value

    def item(self) -> float:
        """The number."""
        return self.value


def test_scalars_of_numpy_and_torch_are_numbers() -> None:
    """`len(chunk) * lengths.max()` is one; ignored, it would leave the job unwatched."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        for _ in range(9):
            with shard.batch(Scalar(64), Scalar(4000)):  # type: ignore[arg-type]  # as drivers do
                rig.clock.now += 4.0
            shard.record(Scalar(64), Scalar(4.0), Scalar(4000.0))  # type: ignore[arg-type]  # as drivers do
        assert shard.status().baseline == 16.0
        assert rig.total("helix_dense_samples_ignored") == 0


def test_a_driver_that_times_itself_is_judged_the_same(tmp_path: Path) -> None:
    """`record` knows only ended batches; their ends decide."""
    timeline = tmp_path / "timeline.jsonl"
    with Rig(timeline=timeline) as rig, rig.watch.shard("a") as shard:
        for seconds, count in ((4.0, 9), (CRAWL, 12)):
            rig.fraction = LOW if seconds == 4.0 else FULL
            for _ in range(count):
                rig.watch.tick()
                rig.wait(seconds)
                shard.record(64, seconds, 4000)
                rig.applied += shard.boundary()
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
        assert rig.total("helix_dense_genes") == 21 * 64
    batches = [event for event in TimelineReader(timeline) if type(event).__name__ == "BatchEvent"]
    assert len(batches) == 21
    assert batches[0].t == 4.0  # the end


def test_without_work_it_is_judged_by_genes() -> None:
    """Good enough where all batches cost the same."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.fraction = LOW
        for _ in range(9):
            rig.batch(shard, work=None)
        rig.fraction = FULL
        for _ in range(5):
            rig.batch(shard, CRAWL, work=None)
        assert shard.status().verdict is Verdict.CRAWLING


def test_work_that_goes_missing_is_ignored_and_counted() -> None:
    """The first batch settles the unit of a shard; what cannot be compared is not."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard, 3)
        with shard.batch(64):
            rig.clock.now += 400.0
        assert rig.series("helix_dense_samples_ignored")["reason=work",] == 1
        assert rig.total("helix_dense_genes") == 4 * 64  # encoded they were


def test_batches_may_overlap() -> None:
    """Two threads, or a prefetching driver: each is one batch."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        first, second = shard.batch(64, 4000), shard.batch(32, 2000)
        with first:
            rig.clock.now += 2.0
            second.__enter__()
            rig.clock.now += 2.0
        rig.clock.now += 2.0
        second.__exit__(None, None, None)
        second.__exit__(None, None, None)  # told twice, counted once
        assert rig.total("helix_dense_genes") == 96


def test_a_status_is_frozen_and_knows_nothing_at_first() -> None:
    """Safe to keep: a snapshot."""
    with Rig() as rig:
        shard = rig.watch.shard("a")
        first = shard.status()
        assert first == ShardStatus(Verdict.WARMING_UP, None, None, None, 0, 0, False, None)
        with pytest.raises(dataclasses.FrozenInstanceError):
            first.rung = 3  # type: ignore[misc]  # a write to a frozen field
        with shard:
            rig.healthy(shard, 12)
            known = shard.status()
        assert known == ShardStatus(Verdict.HEALTHY, 16.0, 16.0, 1.0, 0, 0, False, LOW)


def test_the_status_of_a_crawl() -> None:
    """What a driver may show in its progress line."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard).crawl(shard, 5)
        status = shard.status()
    assert status.verdict is Verdict.CRAWLING
    assert status.episode_open
    assert status.rung == 1
    assert status.streak == 4  # the slices of the batch that tripped no longer count once the rung was asked for
    assert status.ratio is not None
    assert status.ratio < 0.2
    assert status.ema == pytest.approx(16 * status.ratio)
    assert status.memory_fraction == FULL


def test_a_shard_opened_again_goes_on_where_it_was() -> None:
    """Its rung and its baseline are its own; the state of the shards is counted once."""
    with Rig() as rig:
        with rig.watch.shard("a") as shard:
            rig.healthy(shard).crawl(shard, 5)
        shard = rig.watch.shard("a").__enter__()
        assert shard.status().rung == 1
        assert shard.status().baseline == 16.0
        shard.__exit__(Odd, Odd(), None)
        assert rig.series("helix_dense_shards")["state=failed",] == 1
        shard = rig.watch.shard("a").__enter__()
        assert rig.series("helix_dense_shards")["state=failed",] == 0
        shard.__exit__(SystemExit, SystemExit(), None)
        states = rig.series("helix_dense_shards")
        assert {key: value for key, value in states.items() if value} == {("state=paused",): 1}


def test_a_shard_used_without_its_with_block_is_watched() -> None:
    """A driver that forgets it loses the end of the shard, nothing else."""
    with Rig() as rig:
        shard = rig.watch.shard("a")
        rig.healthy(shard).crawl(shard, 5)
        assert shard.status().rung == 1


def test_a_batch_left_open_when_its_shard_closes_is_forgotten() -> None:
    """A generator that was abandoned must not look like an endless batch when the shard comes again."""
    with Rig() as rig:
        with rig.watch.shard("a") as shard:
            rig.healthy(shard)
            abandoned = shard.batch(64, 4000)
            abandoned.__enter__()
        with rig.watch.shard("a") as shard:
            rig.fraction = FULL
            rig.wait(4000)
            assert rig.total("helix_dense_batch_inflight") == 0
            assert shard.status().streak == 0
            assert rig.outcomes() == {}


def test_two_shards_on_two_devices_have_nothing_to_do_with_each_other() -> None:
    """One card crawls, the other does not."""
    provider, _ = make_provider()
    clock = Clock()
    watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(FULL), clock=clock, tick_seconds=None)
    with (
        watch.shard("a", device="cuda:0") as a,
        watch.shard("b", device="cuda") as b,
        watch.shard("c", device="cuda:1") as c,
    ):
        assert (a.device, b.device, c.device) == ("cuda:0", "cuda:0", "cuda:1")
        for n in range(40):
            watch.tick()
            clock.now += CRAWL
            a.record(64, 4.0 if n < 10 else CRAWL, 4000)
            c.record(64, 4.0, 4000)
        assert a.status().episode_open
        assert not c.status().episode_open
        assert c.boundary() == []
        assert [action.kind.value for action in a.boundary()][:1] == ["DETECT"]
    watch.close()


def test_an_endless_batch_is_seen_while_it_runs() -> None:
    """64 genes in 47 minutes are one batch: the release waits in the queue long before it ends."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard)
        rig.fraction = FULL
        rig.watch.tick()
        with shard.batch(64, 4000):
            rig.wait(300)
            assert [action.kind.value for action in rig.watch.actions.drain()] == ["DETECT", "EMPTY_CACHE"]


def test_a_closed_watch_starts_no_thread() -> None:
    """A batch that is in flight when its watch is closed ends as usual, and nothing breaks."""
    rig = Rig(tick_seconds=0.01)
    shard = rig.watch.shard("a").__enter__()
    rig.healthy(shard, 2)
    before = set(threading.enumerate())
    with shard.batch(64):
        rig.watch.close()
        rig.watch.close()
        rig.clock.now += 4
    shard.status()
    shard.__exit__(None, None, None)
    assert set(threading.enumerate()) <= before


def test_on_a_cpu_without_torch_it_works() -> None:
    """No card, no torch, no probe of the caller's: nothing to set, nothing imported, nothing trips."""
    out = run_fresh(
        """
        import sys
        class NoTorch:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "pynvml"):
                    raise AssertionError(f"{name} is imported")
        sys.meta_path.insert(0, NoTorch())
        from helix_crawl_otel import CrawlWatch
        with CrawlWatch() as watch, watch.shard("a", device="cpu", on_demote=lambda: None) as shard:
            for _ in range(20):
                with shard.batch(64, 4000):
                    pass
                assert shard.boundary() == []
            while shard.status().baseline is None:  # the clock may have stood still: a tick of Windows was late
                with shard.batch(64, 4000):
                    pass
            print(shard.status().rung, shard.status().baseline is not None)
        """
    )
    assert out == "0 True\n"


def test_the_card_that_is_not_there_is_unknown_and_never_trips() -> None:
    """`cuda:0` on a machine without NVML: probe_up is 0, and slow is only slow."""
    provider, reader = make_provider()
    clock = Clock()
    watch = CrawlWatch(meter_provider=provider, clock=clock, tick_seconds=None)
    with watch.shard("a") as shard:
        for seconds, count in ((4.0, 10), (CRAWL, 20)):
            for _ in range(count):
                watch.tick()
                with shard.batch(64, 4000):
                    clock.now += seconds
        seen = collected(reader)
        if any(seen["helix_dense_vram_probe_up"].values()):
            pytest.skip("this machine has a card")
        assert set(seen["helix_dense_vram_probe_up"]) == {
            ("device=cuda:0", "source=nvml"),
            ("device=cuda:0", "source=torch"),
        }
        assert "helix_dense_vram_used" not in seen
        assert shard.status().verdict is Verdict.UNKNOWN
        assert shard.status().rung == 0
    watch.close()


def test_internal_errors_are_logged_once_in_full(caplog: pytest.LogCaptureFixture) -> None:
    """One with its traceback at WARNING, the rest at DEBUG: a failing probe must not fill the disk."""
    with Rig() as rig:

        def broken() -> MemoryReading:
            raise ValueError("probe")

        watch = rig.watch
        for _ in range(3):
            watch._backend.guarded("policy", broken)
        assert rig.series("helix_dense_internal_errors")["where=policy",] == 3
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([record for record in warned if "internal error in policy" in record.getMessage()]) == 1
    assert warned[0].exc_info is not None
