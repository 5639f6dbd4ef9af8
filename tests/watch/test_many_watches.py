"""Watches that are opened and closed one after the other leave nothing behind, and nothing of one reaches the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from helix_crawl_otel.policy.model import Verdict
from tests.otel.fresh import run_fresh
from tests.watch.rig import FULL, TICK, Rig, pipeline_of


def grown(count: int, setup: str = "", environ: dict[str, str] | None = None, folder: Path = Path()) -> tuple[int, ...]:
    """Objects, threads and descriptors by which a process has grown over so many watches, after the first few."""
    out = run_fresh(
        f"""
        import gc, os, pathlib, sys, threading
        from helix_crawl_otel import CrawlWatch, MemoryReading
        from helix_crawl_otel.otel import instruments

        folder, more = pathlib.Path(sys.argv[1]), {{"memory": lambda: MemoryReading(1, 2), "tick_seconds": None}}
        closes = True
        {setup}

        def watched(count):
            for n in range(count):
                watch = CrawlWatch(**more)
                with watch.shard("a") as shard:
                    with shard.batch(64):
                        pass
                    shard.boundary()
                if closes:
                    watch.close()
                elif n % 10 == 9:
                    watch = shard = None
                    gc.collect()
            watch = shard = None
            for hub in instruments._global_hub:
                hub.record_stages()  # as a collection does: what a watch that nobody closed has told is not lost
            gc.collect()
            descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
            return len(gc.get_objects()), threading.active_count(), descriptors

        before = watched(20)
        after = watched({count})
        print(*(a - b for a, b in zip(after, before)))
        """,
        str(folder),
        environ=environ,
        seconds=170,
    )
    return tuple(map(int, out.split()))


@pytest.mark.parametrize(
    "setup",
    [
        "",
        "more['tick_seconds'] = 5.0",
        "more.update(state=folder / 'state.json', timeline=os.devnull)",
        "closes = False",
    ],
    ids=["plain", "threads", "files", "never closed"],
)
def test_a_hundred_watches_leave_nothing(setup: str, tmp_path: Path) -> None:
    """It was ten objects each, for ever: what the SDK keeps of every meter provider in case the process forks."""
    objects, threads, descriptors = grown(100, setup, folder=tmp_path)
    assert objects < 50
    assert (threads, descriptors) == (0, 0)


def test_nor_do_they_without_the_sdk() -> None:
    """Switched off it makes a meter provider all the same."""
    assert grown(100, environ={"OTEL_SDK_DISABLED": "true"})[0] < 50


@pytest.mark.slow
def test_ten_thousand_watches_leave_nothing() -> None:
    """As many as a process of a year may open."""
    assert grown(10_000)[0] < 50


def test_two_watches_at_a_time_do_not_share_what_they_measure() -> None:
    """Each has instruments of its own, whatever was closed before."""
    for _ in range(3):
        with Rig() as one, Rig() as other, one.watch.shard("a") as a, other.watch.shard("a") as b:
            one.healthy(a)
            assert (a.status().baseline, b.status().baseline) == (16.0, None)
            other.healthy(b).crawl(b, 5)
            assert (a.status().rung, b.status().rung) == (0, 1)


def test_what_a_closed_watch_is_told_does_not_reach_the_next() -> None:
    """A thread that is late with its batch: its own watch still takes it, and judges it as before."""
    with Rig() as late:
        shard = late.watch.shard("a").__enter__()
        late.healthy(shard)
        late.fraction = FULL
        running = shard.batch(64, 4000.0)
        running.__enter__()
        late.wait(10.0)  # in flight, and seen to be
        late.watch.close()
        with Rig() as rig, rig.watch.shard("b") as other:
            assert (
                pipeline_of(rig.watch)._measurements._instruments is pipeline_of(late.watch)._measurements._instruments
            )
            rig.batch(other)
            for _ in range(80):
                late.clock.now += TICK
                pipeline_of(late.watch).tick()
            running.__exit__(None, None, None)
            rig.healthy(other, 20)
            assert rig.total("helix_dense_genes") == 21 * 64
            assert pipeline_of(rig.watch).status("a").baseline is None
            assert other.status().verdict is Verdict.HEALTHY
    assert late.total("helix_dense_genes", "shard=a") == 10 * 64
    assert shard.status().rung == 1
