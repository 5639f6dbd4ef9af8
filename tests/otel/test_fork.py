"""A forked child watches on its own: no lock of the parent's is waited for, no file of the parent's is written."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from helix_crawl_otel.otel.instruments import _free
from tests.otel.fresh import run_fresh

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")

# Python warns, from 3.12 on, that a fork beside threads may deadlock: that it does not is what is tested here.
IGNORE = "ignore:This process:DeprecationWarning"

HAMMERED = """
    import os, sys, threading, time
    from tests.watch.rig import make_provider, collected
    from helix_crawl_otel import CrawlWatch, MemoryReading
    sys.setswitchinterval(1e-4)
    provider, reader = make_provider()
    watch = CrawlWatch(meter_provider=provider, memory=lambda: MemoryReading(1, 2), tick_seconds=0.005)
    stop = threading.Event()

    def batches(name):
        with watch.shard(name) as shard:
            while not stop.is_set():
                shard.record(64, 4.0, 100)
                shard.boundary()

    def scrape():
        while not stop.is_set():
            reader.get_metrics_data()

    hammers = [threading.Thread(target=batches, args=(f"s{n}",), daemon=True) for n in range(6)]
    hammers.append(threading.Thread(target=scrape, daemon=True))
    mine = watch.shard("mine").__enter__()
    for hammer in hammers:
        hammer.start()

    def child(shard):
        for _ in range(5):
            with shard.batch(64):
                pass
            shard.boundary()
        with watch.shard("born in the child") as own:
            own.record(64, 4.0)
            watch.tick()
            own.status()
        with CrawlWatch(meter_provider=provider, tick_seconds=None, memory=lambda: MemoryReading(1, 2)) as another:
            with another.shard("another") as own:
                own.record(64, 4.0)
        watch.close()

    def ended(pid, seconds=30.0):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.002)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        return "hung"
"""


def test_children_of_a_busy_parent_never_hang() -> None:
    """Six threads count and one scrapes: at the fork some of them hold the SDK's locks, and ours."""
    out = run_fresh(
        HAMMERED
        + """
    codes = []
    for n in range(25):
        mine.record(64, 4.0, 100)
        pid = os.fork()
        if pid == 0:
            try:
                child(mine)
            except BaseException:
                os._exit(1)
            os._exit(0)
        codes.append(ended(pid))
    stop.set()
    for hammer in hammers:
        hammer.join(30)
    before = mine.status()
    mine.record(64, 4.0, 100)
    genes = collected(reader)["helix_dense_genes"]["device=cuda:0", "shard=mine"]
    print(set(codes), genes, [hammer.name for hammer in hammers if hammer.is_alive()])
    watch.close()
    """,
        seconds=120,
        warnings=IGNORE,
    )
    assert out == f"{{0}} {26 * 64} []\n"


def test_children_of_multiprocessing_watch_as_well() -> None:
    """The 'fork' context: a pool of data loaders, with the watch of the parent in their hands."""
    out = run_fresh(
        HAMMERED
        + """
    import multiprocessing
    context = multiprocessing.get_context("fork")
    codes = []
    for n in range(6):
        process = context.Process(target=child, args=(mine,))
        process.start()
        process.join(30)
        codes.append(process.exitcode)
        if process.exitcode is None:
            process.kill()
    stop.set()
    for hammer in hammers:
        hammer.join(30)
    watch.close()
    print(codes)
    """,
        seconds=120,
        warnings=IGNORE,
    )
    assert out == "[0, 0, 0, 0, 0, 0]\n"


def test_the_child_leaves_the_files_of_the_parent_alone() -> None:
    """Two processes that write one ladder state would undo each other; two time axes in one timeline mean nothing."""
    out = run_fresh(
        """
        import os, pathlib, tempfile
        from tests.watch.rig import Rig
        folder = pathlib.Path(tempfile.mkdtemp())
        state, timeline = folder / "state.json", folder / "timeline.jsonl"
        rig = Rig(state=state, timeline=timeline)
        with rig.watch.shard("a") as shard:
            rig.healthy(shard, 5)
            before = state.read_bytes(), timeline.read_bytes()
            pid = os.fork()
            if pid == 0:
                rig.healthy(shard, 20)
                rig.crawl(shard, 5)
                assert shard.status().rung == 1
                with rig.watch.shard("b") as other:
                    rig.healthy(other, 20)
                rig.watch.close()
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(code, before == (state.read_bytes(), timeline.read_bytes()), sorted(p.name for p in folder.iterdir()))
            rig.healthy(shard, 10)
            print(before[0] == state.read_bytes(), timeline.read_bytes().startswith(before[1]), shard.status().rung)
        rig.watch.close()
        """,
        warnings=IGNORE,
    )
    assert out == "0 True ['state.json', 'timeline.jsonl']\nFalse True 0\n"


def test_the_child_has_threads_of_its_own_and_a_state_of_its_own() -> None:
    """Threads do not survive a fork: the child's batches are looked at by a ticker that it starts itself."""
    out = run_fresh(
        """
        import os, threading, time
        from tests.watch.rig import make_provider
        from helix_crawl_otel import CrawlWatch, MemoryReading
        provider, _ = make_provider()
        watch = CrawlWatch(meter_provider=provider, memory=lambda: MemoryReading(1, 2), tick_seconds=0.01)
        vetoes = []
        watch.on_action(vetoes.append)
        with watch.shard("a") as shard:
            for _ in range(12):
                shard.record(64, 4.0)
            parent = shard.status()
            pid = os.fork()
            if pid == 0:
                names = {thread.name for thread in threading.enumerate()}
                assert names == {"MainThread"}, names
                child = shard.status()
                assert (child.ema, child.baseline) == (None, None), child
                with shard.batch(64):
                    names = {thread.name for thread in threading.enumerate()}
                    assert names == {"MainThread", "helix-crawl-ticker", "helix-crawl-memory-cuda:0"}, names
                    until = time.monotonic() + 30
                    while shard.status().memory_fraction is None:
                        assert time.monotonic() < until
                        time.sleep(0.005)
                assert len(watch._backend.pipeline.hooks) == 1
                watch.close()
                while len(threading.enumerate()) > 1:  # it does not wait for ever for a thread that is busy
                    time.sleep(0.005)
                assert {thread.name for thread in threading.enumerate()} == {"MainThread"}
                os._exit(0)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(code, shard.status().baseline == parent.baseline, round(parent.baseline, 3))
        watch.close()
        """,
        warnings=IGNORE,
    )
    assert out == "0 True 16.0\n"


def test_a_fork_inside_a_batch() -> None:
    """The child's copy of the batch is not the child's to tell of: its end counts in the parent only."""
    out = run_fresh(
        """
        import os, pathlib, tempfile
        from tests.watch.rig import Rig
        state = pathlib.Path(tempfile.mkdtemp()) / "state.json"
        rig = Rig(state=state)
        with rig.watch.shard("a") as shard:
            rig.healthy(shard, 3)
            with shard.batch(64, 4000):
                rig.clock.now += 4
                before = state.read_bytes()
                pid = os.fork()
                if pid == 0:
                    shard.record(64, 4.0, 4000)
                else:
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if pid == 0:
                assert state.read_bytes() == before
                policy = rig.watch._backend.pipeline._feed.ask(lambda policy: policy)
                os._exit(policy.state.workers["cuda:0"].batches)
            print(code, rig.total("helix_dense_genes"), state.read_bytes() == before)
        rig.watch.close()
        """,
        warnings=IGNORE,
    )
    assert out == "1 256 False\n"


def test_a_shard_that_another_thread_is_opening_at_the_fork() -> None:
    """The lock that keeps it from being opened twice is held for ever in the child, unless it is made anew."""
    out = run_fresh(
        """
        import os, threading
        from tests.watch.rig import Rig
        rig = Rig()
        shard = rig.watch.shard("a")
        opening, forked = threading.Event(), threading.Event()
        def open_slowly():
            with shard._opening:
                opening.set()
                forked.wait(30)
        thread = threading.Thread(target=open_slowly)
        thread.start()
        opening.wait(30)
        pid = os.fork()
        if pid == 0:
            shard.record(64, 4.0)
            os._exit(0)
        forked.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        """,
        warnings=IGNORE,
    )
    assert out == "0\n"


def test_the_endpoint_of_the_parent_can_be_closed_in_the_child() -> None:
    """Its thread is not there: waiting for it would be for ever."""
    out = run_fresh(
        """
        import os, urllib.request
        from helix_crawl_otel import serve_metrics
        with serve_metrics(port=0) as endpoint:
            pid = os.fork()
            if pid == 0:
                endpoint.close()
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            print(urllib.request.urlopen(endpoint.url, timeout=10).status)
        """,
        warnings=IGNORE,
    )
    assert out == "0\n200\n"


def test_a_provider_set_in_the_child_shows_the_child() -> None:
    """A server that forks its workers sets providers up after the fork."""
    out = run_fresh(
        """
        import os
        from opentelemetry import metrics
        from tests.watch.rig import Rig, collected, make_provider, reading
        from helix_crawl_otel import CrawlWatch
        rig = Rig()
        rig.watch = CrawlWatch(memory=lambda: reading(0.5), clock=rig.clock, tick_seconds=None)
        with rig.watch.shard("a") as shard:
            rig.healthy(shard, 10)
            pid = os.fork()
            if pid == 0:
                provider, reader = make_provider()
                metrics.set_meter_provider(provider)
                rig.healthy(shard, 11)
                seen = collected(reader)
                assert seen["helix_dense_genes"] == {("device=cuda:0", "shard=a"): 704}, seen
                assert seen["helix_dense_throughput"] == {("device=cuda:0", "shard=a"): 16.0}, seen
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        rig.watch.close()
        """,
        warnings=IGNORE,
    )
    assert out == "0\n"


def test_a_lock_that_an_exporter_waits_for_in_the_child() -> None:
    """Its thread is started anew at the fork, before we are asked: it is not left waiting, nor loses what it holds."""
    for held_for, is_waited_for in ((0.0, True), (0.05, False)):
        lock, waits, got = threading.Lock(), threading.Event(), threading.Event()

        def exporter(lock: Any, seconds: float, waits: threading.Event, got: threading.Event) -> None:
            if not seconds:
                waits.set()
            with lock:
                waits.set()
                time.sleep(seconds)
            got.set()

        if is_waited_for:
            lock.acquire()  # by a thread of the parent's, which is not here
        thread = threading.Thread(target=exporter, args=(lock, held_for, waits, got))
        thread.start()
        waits.wait(60)
        _free(lock)
        assert got.wait(60)
        thread.join()
        assert not lock.locked()
