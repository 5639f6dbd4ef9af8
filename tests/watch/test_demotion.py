"""A pool of threads is kept out of encode while `on_demote` rebuilds the encoder, without a deadlock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from helix_crawl_otel.policy.model import Action, ActionKind
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.shard import ShardWatch
from tests.watch.rig import GENES, Rig, wait_until

SECONDS = 30.0
"""Each wait of a test is over long before that."""


class Pool:
    """A shard whose demotion is asked for, and a second thread that encodes.

    Args:
        on_demote: The driver's.
    """

    def __init__(self, on_demote: Callable[[], object]) -> None:
        self.rig = Rig()
        self.shard = self.rig.watch.shard("a", on_demote=on_demote)
        self.shard.__enter__()
        self.encoded: list[str] = []
        self.threads: list[threading.Thread] = []

    def ask(self) -> None:
        """DEMOTE_CPU waits for the boundary."""
        action = Action(99, ActionKind.DEMOTE_CPU, "a", "cuda:0", "finish on the CPU")
        self.rig.watch.actions.put(action)

    def encode(self, hold: threading.Event | None = None) -> threading.Thread:
        """One batch in a thread of its own, which lasts until `hold` is set."""
        entered = threading.Event()

        def work() -> None:
            with self.shard.batch(GENES):
                entered.set()
                self.encoded.append(self.shard.device)
                if hold is not None:
                    hold.wait(SECONDS)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.threads.append(thread)
        if hold is not None:
            assert entered.wait(SECONDS)
        return thread

    def close(self) -> None:
        """All threads have ended."""
        for thread in self.threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        self.shard.close()
        self.rig.watch.close()


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are over at once."""
    monkeypatch.setattr("helix_crawl_otel.watch.shard.BATCHES_SECONDS", 0.05)
    monkeypatch.setattr("helix_crawl_otel.watch.shard.DEMOTION_SECONDS", 0.05)


def kinds(actions: list[Action]) -> list[str]:
    """Of what a boundary has applied."""
    return [action.kind.value for action in actions]


def test_a_batch_waits_until_the_encoder_is_rebuilt() -> None:
    """It is encoded on the CPU, by the encoder that `on_demote` has made."""

    def on_demote() -> None:
        thread = pool.encode()
        thread.join(0.05)
        assert thread.is_alive()
        assert pool.encoded == []

    pool = Pool(on_demote)
    pool.ask()
    assert kinds(pool.shard.boundary()) == ["DEMOTE_CPU"]
    pool.close()
    assert pool.encoded == ["cpu"]


def test_on_demote_waits_for_the_batches_of_others() -> None:
    """The encoder is not taken from under them."""
    order: list[str] = []
    pool = Pool(lambda: order.append("demoted"))
    hold = threading.Event()
    pool.encode(hold)
    pool.ask()
    boundary = threading.Thread(target=pool.shard.boundary, daemon=True)
    boundary.start()
    boundary.join(0.05)
    assert order == []
    assert pool.encode().is_alive()  # a new one waits as well
    hold.set()
    boundary.join(SECONDS)
    assert order == ["demoted"]
    pool.close()
    assert pool.encoded == ["cuda:0", "cpu"]


def test_a_demotion_that_raises_lets_them_in_again(caplog: pytest.LogCaptureFixture) -> None:
    """The job goes on as it is."""

    def on_demote() -> None:
        pool.encode()
        raise OSError("no such model")

    pool = Pool(on_demote)
    pool.ask()
    assert pool.shard.boundary() == []
    pool.close()
    assert pool.encoded == ["cuda:0"]
    assert "OSError: no such model; the job goes on as it is" in caplog.text


def test_an_interrupt_in_it_lets_them_in_again() -> None:
    """Whatever ends it."""

    def on_demote() -> None:
        pool.encode()
        raise KeyboardInterrupt

    pool = Pool(on_demote)
    pool.ask()
    with pytest.raises(KeyboardInterrupt):
        pool.shard.boundary()
    pool.close()
    assert pool.encoded == ["cuda:0"]


def test_the_thread_that_demotes_does_not_wait_for_itself() -> None:
    """`on_demote` may encode a batch to warm the new encoder up, and `boundary` may be called inside of a batch."""

    def on_demote() -> None:
        with pool.shard.batch(GENES):
            pool.encoded.append("warm")

    pool = Pool(on_demote)
    with pool.shard.batch(GENES):
        pool.ask()
        assert kinds(pool.shard.boundary()) == ["DEMOTE_CPU"]
    pool.close()
    assert pool.encoded == ["warm"]


def test_another_shard_goes_on() -> None:
    """It has an encoder of its own: what `on_demote` rebuilds is this shard's."""

    def on_demote() -> None:
        with pool.rig.watch.shard("b", device="cuda:1") as other:
            thread = threading.Thread(target=lambda: other.batch(GENES).__enter__(), daemon=True)
            thread.start()
            thread.join(SECONDS)
            assert not thread.is_alive()

    pool = Pool(on_demote)
    pool.ask()
    assert kinds(pool.shard.boundary()) == ["DEMOTE_CPU"]
    pool.close()


def test_a_callable_that_waits_for_the_pool_comes_back(short: None, caplog: pytest.LogCaptureFixture) -> None:
    """Each side waits for the other: the batch gives up first, and says so."""

    def on_demote() -> None:
        thread = pool.encode()
        thread.join(SECONDS)
        assert not thread.is_alive()

    pool = Pool(on_demote)
    pool.ask()
    assert kinds(pool.shard.boundary()) == ["DEMOTE_CPU"]
    pool.close()
    assert "on_demote has not come back within 0 s; a batch that waited for it begins" in caplog.text


def test_a_batch_that_does_not_end_is_not_waited_for_without_end(short: None, caplog: pytest.LogCaptureFixture) -> None:
    """It may crawl for an hour, or wait for a lock that the caller of `boundary` holds."""
    pool = Pool(lambda: None)
    hold = threading.Event()
    pool.encode(hold)
    pool.ask()
    assert kinds(pool.shard.boundary()) == ["DEMOTE_CPU"]
    hold.set()
    pool.close()
    assert "a batch of another thread has not ended within 0 s; on_demote is called all the same" in caplog.text


def test_an_event_loop_goes_on_while_another_thread_demotes() -> None:
    """Its batch awaits the demotion; its other tasks run, among them one that the demotion needs."""
    ready = threading.Event()
    encoded: list[str] = []

    async def job(watch: CrawlWatch, shard: ShardWatch, demotion: threading.Thread) -> None:
        demotion.start()
        await asyncio.to_thread(begun.wait, SECONDS)
        batch = asyncio.create_task(encode(shard))
        await asyncio.sleep(0.05)
        assert encoded == []
        ready.set()
        await asyncio.wait_for(batch, SECONDS)

    async def encode(shard: ShardWatch) -> None:
        async with shard.batch(GENES):
            encoded.append(shard.device)

    begun = threading.Event()

    def on_demote() -> None:
        begun.set()
        assert ready.wait(SECONDS)

    pool = Pool(on_demote)
    pool.ask()
    demotion = threading.Thread(target=pool.shard.boundary, daemon=True)
    asyncio.run(job(pool.rig.watch, pool.shard, demotion))
    demotion.join(SECONDS)
    pool.close()
    assert encoded == ["cpu"]


def test_an_awaitable_demotes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A lambda hides a coroutine function: its result would never be awaited."""

    async def rebuild() -> None:
        raise AssertionError("never awaited")

    pool = Pool(lambda: rebuild())  # noqa: PLW0108 - it hides what it calls
    pool.ask()
    assert pool.shard.boundary() == []
    assert pool.shard.device == "cuda:0"
    pool.close()
    assert "on_demote returned an awaitable, which nobody awaits" in caplog.text


def test_many_threads_through_many_demotions() -> None:
    """Nobody is ever in a batch while the encoder is rebuilt, and all come to their end."""
    rebuilding = threading.Event()
    seen: list[bool] = []

    def on_demote() -> None:
        rebuilding.set()
        seen.append(False)
        rebuilding.clear()

    pool = Pool(on_demote)

    def work() -> None:
        for _ in range(200):
            with pool.shard.batch(GENES):
                seen.append(rebuilding.is_set())

    pool.threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in pool.threads:
        thread.start()
    for _ in range(20):
        pool.ask()
        pool.shard.boundary()
    wait_until(lambda: len(seen) >= 820, SECONDS)
    pool.close()
    assert not any(seen)
