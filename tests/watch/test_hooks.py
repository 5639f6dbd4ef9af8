"""`on_action`: somebody is asked before an action is queued, and may say no."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from helix_crawl_otel.policy.model import Action
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.otel.fresh import run_fresh
from tests.watch.rig import FULL, LOW, Clock, Rig, collected, make_provider, reading, wait_until


def test_the_hook_sees_each_action_before_it_is_queued() -> None:
    """With the evidence that led to it, in order."""
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
        asked: list[tuple[str, int]] = []

        @rig.watch.on_action
        def ask(action: Action) -> None:
            asked.append((action.kind.value, len(rig.watch.actions)))
            assert action.shard == "a"
            assert action.device == "cuda:0"
            assert action.evidence["baseline"] == 16.0
            assert action.evidence["limit"] == 3.2
            assert action.evidence["memory_fraction"] == 0.99
            with pytest.raises(TypeError):
                action.evidence["limit"] = 1.0  # type: ignore[index]  # a write to what is frozen

        assert callable(ask)  # usable as a decorator
        rig.healthy(shard).crawl(shard, 10)
        assert asked == [("DETECT", 0), ("EMPTY_CACHE", 1), ("DEMOTE_CPU", 0)]


def test_a_veto_is_counted_logged_and_uses_the_rung_up(caplog: pytest.LogCaptureFixture) -> None:
    """The next trip takes the next rung; what was vetoed is never queued."""
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: None) as shard:
        rig.watch.on_action(lambda action: action.kind.value != "EMPTY_CACHE")
        rig.healthy(shard).crawl(shard, 10)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "DEMOTE_CPU"]
        assert rig.outcomes() == {
            "DETECT/applied": 1,
            "EMPTY_CACHE/vetoed": 1,
            "RECYCLE/passed_over": 1,
            "DEMOTE_CPU/applied": 1,
        }
    (line,) = [line for line in caplog.messages if "vetoed" in line]
    assert line.startswith("[crawl-watchdog] a: EMPTY_CACHE vetoed by the hook: release the cache: ")
    assert "; vetoed by the hook action=EMPTY_CACHE shard=a " in line


@pytest.mark.parametrize("answer", [None, True, 0, "", [], "no"])
def test_only_false_itself_is_a_veto(answer: object) -> None:
    """A hook that returns nothing, or something empty, has not said no."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.watch.on_action(lambda action: answer)
        rig.healthy(shard).crawl(shard, 5)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]


def test_a_vetoed_detect_is_still_a_crawl() -> None:
    """The counter counts crawls, not what was done about them; the episode is open."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.watch.on_action(lambda action: False)
        rig.healthy(shard).crawl(shard, 5)
        assert shard.status().episode_open
        assert rig.total("helix_dense_crawl_detected") == 1
        assert rig.outcomes() == {"DETECT/vetoed": 1, "EMPTY_CACHE/vetoed": 1}
        assert rig.applied == []


def test_all_hooks_are_asked_and_one_veto_is_enough() -> None:
    """A hook that was added to log is not left out because another one said no."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        asked: list[str] = []
        rig.watch.on_action(lambda action: False)
        rig.watch.on_action(lambda action: asked.append(action.kind.value))
        rig.healthy(shard).crawl(shard, 5)
        assert asked == ["DETECT", "EMPTY_CACHE"]
        assert rig.applied == []


def test_a_hook_that_raises_is_counted_and_vetoes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is the user's code: it must not stop the ladder, nor reach the driver."""
    with Rig() as rig, rig.watch.shard("a") as shard:

        @rig.watch.on_action
        def broken(action: Action) -> None:
            raise LookupError("in the hook")

        rig.healthy(shard).crawl(shard, 5)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
        assert rig.total("helix_dense_internal_errors", "where=hook") == 2
    assert "internal error in hook, the job goes on: LookupError('in the hook')" in caplog.text


def test_a_hook_may_use_the_watch() -> None:
    """Status, another batch, the queue, another tick: no lock of ours is held while it runs."""
    with Rig() as rig, rig.watch.shard("a") as shard, rig.watch.shard("b") as other:
        seen: list[bool] = []

        @rig.watch.on_action
        def curious(action: Action) -> bool:
            seen.append(shard.status().episode_open)
            rig.watch.tick()
            with other.batch(1, 10):
                rig.clock.now += 0.5
            assert rig.watch.actions.drain("nobody") == []
            rig.watch.actions.acknowledge(action, "vetoed")
            return True

        rig.healthy(shard).crawl(shard, 5)
        assert seen == [True, True]


@pytest.fixture
def hanging() -> Iterator[tuple[threading.Event, threading.Event]]:
    """What a hook waits for: the first is set when it hangs, the second lets it go."""
    hangs, go_on = threading.Event(), threading.Event()
    yield hangs, go_on
    go_on.set()


def test_a_hook_that_hangs_in_the_tickers_thread_stops_no_batch(
    hanging: tuple[threading.Event, threading.Event],
) -> None:
    """The driver's thread goes on; its batches are counted and judged, a scrape and a close work."""
    hangs, go_on = hanging
    provider, reader = make_provider()
    clock, card = Clock(), [LOW]
    watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(card[0]), clock=clock, tick_seconds=0.01)

    @watch.on_action
    def hang(action: Action) -> None:
        assert threading.current_thread() is not threading.main_thread()
        hangs.set()
        go_on.wait(100)

    with watch.shard("a") as shard:
        for _ in range(10):
            with shard.batch(64, 4000):
                clock.now += 4.0
        card[0] = FULL
        wait_until(lambda: shard.status().memory_fraction == FULL)
        with shard.batch(64, 4000):
            clock.now += 1000.0  # the batch is in flight, so it is the ticker that sees the crawl
            assert hangs.wait(50)
        for _ in range(20):
            with shard.batch(64, 4000):
                clock.now += 4.0
            assert shard.boundary() == []
        assert shard.status().streak == 0
        assert collected(reader)["helix_dense_genes"]["device=cuda:0", "shard=a"] == 31 * 64
    watch.close()
    assert not go_on.is_set()


def test_a_hook_that_hangs_in_the_drivers_thread_stops_no_tick(
    hanging: tuple[threading.Event, threading.Event],
) -> None:
    """It holds up its own driver, nobody else: other shards' batches, ticks and scrapes go on."""
    hangs, go_on = hanging
    with Rig() as rig, rig.watch.shard("a") as shard, rig.watch.shard("b") as other:

        @rig.watch.on_action
        def hang(action: Action) -> None:
            hangs.set()
            go_on.wait(100)

        rig.healthy(shard)
        thread = threading.Thread(target=rig.crawl, args=(shard, 5), daemon=True)
        thread.start()
        assert hangs.wait(50)
        before = rig.total("helix_dense_genes", "shard=b")
        rig.watch.tick()
        other.record(64, 4.0, 4000)
        assert rig.total("helix_dense_genes", "shard=b") == before + 64
        assert other.boundary() == []
        go_on.set()
        thread.join(50)
        assert not thread.is_alive()


def test_a_hook_that_exits_ends_neither_the_ticker_nor_the_job() -> None:
    """In which of their threads it runs is chance; what it raises is logged, and no veto."""
    out = run_fresh(
        """
        import sys, threading
        from tests.watch.rig import Clock, collected, make_provider, reading, wait_until
        from helix_crawl_otel import CrawlWatch
        provider, reader = make_provider()
        clock, card = Clock(), [0.5]
        watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(card[0]), clock=clock, tick_seconds=0.01)
        watch.on_action(lambda action: sys.exit(3))
        with watch.shard("a") as shard:
            for _ in range(10):
                with shard.batch(64, 4000):
                    clock.now += 4.0
            card[0] = 0.99
            wait_until(lambda: shard.status().memory_fraction == 0.99)
            with shard.batch(64, 4000):
                clock.now += 1000.0
                wait_until(lambda: collected(reader)["helix_dense_internal_errors"]["where=hook",] == 2)
            queued = []  # an action comes to the queue after its hooks have been asked
            wait_until(lambda: queued.extend(watch.actions.drain()) or len(queued) >= 2)
            assert [action.kind.value for action in queued][:2] == ["DETECT", "EMPTY_CACHE"]
            print(any(thread.name == "helix-crawl-ticker" for thread in threading.enumerate()))
        watch.close()
        """
    )
    assert out == "True\n"
