"""Eight threads tell of batches, with ticks, scrapes and status calls beside them: nothing is lost, nothing locks."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.timeline import TimelineReader, writer
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.otel.fresh import run_fresh
from tests.watch.rig import collected, make_provider, pipeline_of

THREADS = 8
EACH = 150


@pytest.fixture(autouse=True)
def many_switches() -> Iterator[None]:
    """Threads change places 50 times as often as usual, so that a race has its chance."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def writes_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is given up where another thread's write seems to hang; on a busy machine it may take a second."""
    monkeypatch.setattr(writer, "LOCK_SECONDS", 100.0)


def run_all(workers: list[Callable[[], None]], beside: list[Callable[[], object]]) -> list[BaseException]:
    """Run the workers to their end, all at once, and the others over and over until then. Returns what was raised."""
    raised: list[BaseException] = []
    done = threading.Event()
    gate = threading.Barrier(len(workers))

    def work(step: Callable[[], None]) -> None:
        try:
            gate.wait(60)
            step()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which asserts on it
            raised.append(error)

    def repeat(step: Callable[[], object]) -> None:
        try:
            while not done.is_set():
                step()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread, which asserts on it
            raised.append(error)

    others = [threading.Thread(target=repeat, args=(step,), daemon=True) for step in beside]
    threads = [threading.Thread(target=work, args=(step,), daemon=True) for step in workers]
    for thread in others + threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    done.set()
    for thread in others:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads + others), "a thread hangs"
    return raised


@pytest.mark.parametrize("shards", [1, THREADS])
def test_nothing_is_lost(shards: int, tmp_path: Path) -> None:
    """Genes are exact, every batch is judged once, no error of ours is counted, nobody waits for ever."""
    provider, reader = make_provider()
    timeline = tmp_path / "timeline.jsonl"
    memory = MemoryReading(1, 2)
    watch = CrawlWatch(meter_provider=provider, memory=lambda: memory, tick_seconds=0.002, timeline=timeline)
    handles = [watch.shard(f"s{n}").__enter__() for n in range(shards)]

    def tell(number: int) -> None:
        shard = handles[number % shards]
        for n in range(EACH):
            if n % 10 == 3:
                with pytest.raises(KeyError), shard.batch(7):
                    raise KeyError
            if n % 3:
                with shard.batch(3, 100):
                    pass
            else:
                shard.record(3, 0.001, 100)
            shard.boundary()

    raised = run_all(
        [lambda number=n: tell(number) for n in range(THREADS)],  # type: ignore[misc]  # a default binds the loop's value
        [watch.tick, reader.get_metrics_data, lambda: [handle.status() for handle in handles]],
    )
    assert raised == []
    watch.tick()
    policy = policy_of(watch)
    total = THREADS * EACH
    assert policy.state.inflight == {}
    assert policy.state.workers["cuda:0"].batches == total
    for handle in handles:
        handle.__exit__(None, None, None)
    seen = collected(reader)
    watch.close()
    assert sum(seen["helix_dense_genes"].values()) == 3 * total
    assert seen["helix_dense_batch_duration"]["device=cuda:0", "stage=encode"] == total
    assert set(seen["helix_dense_internal_errors"].values()) == {0}
    assert set(seen["helix_dense_samples_ignored"].values()) == {0}
    batches = [event for event in TimelineReader(timeline) if type(event).__name__ == "BatchEvent"]
    assert len(batches) == total


def policy_of(watch: CrawlWatch) -> Policy:
    """The policy itself, when all threads are done."""
    return pipeline_of(watch)._feed.ask(lambda policy: policy)


def test_shards_opened_and_closed_by_eight_threads() -> None:
    """Each thread its own shards, one after the other, while others scrape and tick."""
    provider, reader = make_provider()
    watch = CrawlWatch(meter_provider=provider, memory=lambda: MemoryReading(1, 2), tick_seconds=None)

    def tell(number: int) -> None:
        for n in range(25):
            with watch.shard(f"s{number}-{n}", device=f"cuda:{number % 2}") as shard:
                for _ in range(3):
                    with shard.batch(5):
                        pass
                    shard.boundary()

    raised = run_all(
        [lambda number=n: tell(number) for n in range(THREADS)],  # type: ignore[misc]  # a default binds the loop's value
        [watch.tick, reader.get_metrics_data],
    )
    assert raised == []
    seen = collected(reader)
    watch.close()
    assert sum(seen["helix_dense_genes"].values()) == THREADS * 25 * 15
    assert seen["helix_dense_shards"]["state=done",] == THREADS * 25
    assert seen["helix_dense_shards"]["state=running",] == 0
    assert set(seen["helix_dense_internal_errors"].values()) == {0}
    assert seen["helix_dense_worker_starts"]["device=cuda:0", "reason=first"] == 1


def test_a_crawl_under_eight_threads_is_detected_once_a_shard() -> None:
    """Every thread its shard, all crawling at once: eight DETECTs, eight releases, whoever carries them out."""
    out = run_fresh(
        """
        import threading
        from tests.watch.rig import Clock, collected, make_provider, reading, FULL, LOW
        from helix_crawl_otel import CrawlWatch
        provider, reader = make_provider()
        clock, card = Clock(), [LOW]
        watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(card[0]), clock=clock, tick_seconds=None)
        shards = [watch.shard(f"s{n}").__enter__() for n in range(8)]
        def all_at_once(seconds):
            watch.tick()
            clock.now += seconds
            threads = [threading.Thread(target=shard.record, args=(64, seconds, 4000)) for shard in shards]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        for _ in range(10): all_at_once(4.0)
        card[0] = FULL
        for _ in range(16): all_at_once(80.0)
        seen = collected(reader)
        print(sorted(seen["helix_dense_crawl_detected"].values()))
        kinds = [(action.shard, action.kind.value) for action in watch.actions.drain()]
        expected = [(f"s{n}", kind) for n in range(8) for kind in ("DETECT", "EMPTY_CACHE")]
        print(sorted(kinds) == sorted(expected), len(kinds))
        """
    )
    assert out == "[1, 1, 1, 1, 1, 1, 1, 1]\nTrue 16\n"
