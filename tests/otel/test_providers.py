"""Where the instruments go: no global provider, one set before or after, an explicit one, two watches, hostile ones."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterable
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics.view import DropAggregation, View

from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.otel.fresh import run_fresh
from tests.watch.rig import Clock, Rig, collected, make_provider

SHARE = """
    from opentelemetry import metrics
    from tests.watch.rig import Rig, collected, make_provider, Clock, reading
    from helix_crawl_otel import CrawlWatch
    provider, reader = make_provider()

    def watch_of(meter_provider=None):
        rig = Rig()
        rig.watch.close()
        rig.watch = CrawlWatch(
            meter_provider=meter_provider, memory=lambda: reading(rig.fraction), clock=rig.clock, tick_seconds=None
        )
        return rig

    def crawl(rig, name):
        with rig.watch.shard(name) as shard:
            rig.healthy(shard).crawl(shard, 5)
            return shard.status().rung, collected(reader)
"""


def test_without_any_provider_it_detects_and_says_nothing() -> None:
    """The watchdog does not depend on somebody exporting metrics."""
    out = run_fresh(
        SHARE
        + """
    rung, seen = crawl(watch_of(), "a")
    print(rung, seen)
    """
    )
    assert out == "1 {}\n"


def test_a_global_provider_set_before_exports_ours() -> None:
    """The usual app: it sets its provider up first."""
    out = run_fresh(
        SHARE
        + """
    metrics.set_meter_provider(provider)
    rung, seen = crawl(watch_of(), "a")
    print(rung, seen["helix_dense_crawl_detected"], seen["helix_dense_ladder_rung"])
    """
    )
    series = "('device=cuda:0', 'shard=a')"
    assert out == f"1 {{{series}: 1}} {{{series}: 1}}\n"


def test_a_global_provider_set_after_the_watch_exports_ours() -> None:
    """A library that is imported early must not lose its metrics for that, nor what was counted before."""
    out = run_fresh(
        SHARE
        + """
    rig = watch_of()
    with rig.watch.shard("a") as shard:
        rig.healthy(shard)
        metrics.set_meter_provider(provider)
        rig.crawl(shard, 5)
        seen = collected(reader)
    print(seen["helix_dense_crawl_detected"], seen["helix_dense_ladder_rung"], seen["helix_dense_genes"])
    """
    )
    series = "('device=cuda:0', 'shard=a')"
    assert out == f"{{{series}: 1}} {{{series}: 1}} {{{series}: 896}}\n"


def test_an_explicit_provider_is_used_and_the_global_one_left_alone() -> None:
    """`meter_provider=` is for apps that set no global provider."""
    out = run_fresh(
        SHARE
        + """
    other, other_reader = make_provider()
    metrics.set_meter_provider(other)
    rung, seen = crawl(watch_of(provider), "a")
    print(rung, "helix_dense_genes" in seen, collected(other_reader))
    """
    )
    assert out == "1 True {}\n"


@pytest.mark.parametrize("order", ["explicit first", "global first", "set between"])
def test_a_provider_given_by_hand_and_set_as_the_global_one_shows_both_watches(order: str) -> None:
    """The SDK drops the callbacks of an instrument that is made twice: no watch may lose its gauges by that."""
    out = run_fresh(
        SHARE
        + """
    import sys
    order = sys.argv[1]
    if order == "explicit first":
        rigs = {"explicit": watch_of(provider), "global": watch_of()}
        metrics.set_meter_provider(provider)
    elif order == "set between":
        rigs = {"explicit": watch_of(provider)}
        metrics.set_meter_provider(provider)
        rigs["global"] = watch_of()
    else:
        rigs = {"global": watch_of()}
        metrics.set_meter_provider(provider)
        rigs["explicit"] = watch_of(provider)
    shards = {name: rig.watch.shard(name) for name, rig in rigs.items()}
    for name, shard in shards.items():
        shard.__enter__()
        rigs[name].healthy(shard, 11)
    seen = collected(reader)
    print(sorted(seen["helix_dense_genes"].values()))
    print(sorted(label for key in seen["helix_dense_baseline"] for label in key if "shard" in label))
    print(seen["helix_dense_shards"]["state=running",])
    """,
        order,
    )
    assert out == "[704, 704]\n['shard=explicit', 'shard=global']\n2\n"


def test_two_watches_in_one_process_are_both_shown() -> None:
    """Counters add up; gauges of shards stand side by side; gauges of the process are of both."""
    provider, reader = make_provider()
    with (
        Rig(provider=provider) as one,
        Rig(provider=provider) as two,
        one.watch.shard("a") as a,
        two.watch.shard("b", device="cuda:1") as b,
        two.watch.shard("c") as c,
    ):
        one.healthy(a, 10)
        two.healthy(b, 11)
        two.healthy(c, 1)
        one.fraction = two.fraction = 0.99
        for _ in range(5):
            one.batch(a, 80.0)
            two.batch(b, 80.0)
        assert (len(one.watch.actions), len(two.watch.actions)) == (2, 2)
        seen = collected(reader)
    assert set(seen["helix_dense_baseline"]) == {("device=cuda:0", "shard=a"), ("device=cuda:1", "shard=b")}
    assert set(seen["helix_dense_ladder_rung"]) == {
        ("device=cuda:0", "shard=a"),
        ("device=cuda:1", "shard=b"),
        ("device=cuda:0", "shard=c"),
    }
    assert seen["helix_dense_shards"]["state=running",] == 3
    assert set(seen["helix_dense_vram_used"]) == {("device=cuda:0",), ("device=cuda:1",)}
    assert seen["helix_dense_action_queue_length"][()] == 4


def test_closing_one_watch_leaves_the_other_alone() -> None:
    """They share instruments, not their lives."""
    provider, reader = make_provider()
    with Rig(provider=provider) as one:
        with Rig(provider=provider) as two, two.watch.shard("b") as b:
            two.healthy(b, 10)
        with one.watch.shard("a") as a:
            one.healthy(a, 10)
            seen = collected(reader)
    assert set(seen["helix_dense_baseline"]) == {("device=cuda:0", "shard=a")}
    assert seen["helix_dense_genes"]["device=cuda:0", "shard=b"] == 640


def test_a_provider_whose_views_drop_everything_blinds_nothing() -> None:
    """The policy reads instruments of its own, on a private provider."""
    provider, reader = make_provider(views=[View(instrument_name="*", aggregation=DropAggregation())])
    with Rig(provider=provider) as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard).crawl(shard, 5)
        assert shard.status().rung == 1
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
    assert collected(reader) == {}


def test_a_provider_whose_instruments_raise_blinds_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody's own provider may fail at every call: no exception into the driver, and the ladder is climbed."""

    class Broken:
        def __getattr__(self, name: str) -> object:
            return self

        def __call__(self, *given: object, **named: object) -> object:
            return self

        def add(self, *given: object) -> None:
            raise RuntimeError("no room")

        record = add

    broken: Any = Broken()
    with Rig(provider=broken) as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard).crawl(shard, 5)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
    assert len([line for line in caplog.messages if "failed to count" in line]) == 1


def test_a_provider_without_weak_references_will_do() -> None:
    """The API asks for `get_meter`, for nothing else."""
    inner, reader = make_provider()

    class Slotted:
        __slots__ = ()

        def get_meter(self, *given: object, **named: object) -> object:
            return inner.get_meter("slotted")

    with Rig(provider=Slotted()) as rig, rig.watch.shard("a") as shard:  # type: ignore[arg-type]  # has what is needed
        rig.healthy(shard, 10)
        assert collected(reader)["helix_dense_genes"] == {("device=cuda:0", "shard=a"): 640}


def test_a_slow_callback_of_the_app_stalls_no_batch() -> None:
    """On the app's provider the policy's collections would wait for it: 0.9 s a batch, measured."""
    provider, reader = make_provider()
    in_callback, go_on, came_back = threading.Event(), threading.Event(), threading.Event()

    def slow(_: CallbackOptions) -> Iterable[Observation]:
        in_callback.set()
        go_on.wait(100)
        came_back.set()
        return [Observation(1)]

    with Rig(provider=provider) as rig, rig.watch.shard("a") as shard:
        provider.get_meter("app").create_observable_gauge("slow", [slow])
        scrape = threading.Thread(target=reader.get_metrics_data, daemon=True)
        scrape.start()
        assert in_callback.wait(50)
        try:
            rig.healthy(shard).crawl(shard, 5)
            assert shard.status().rung == 1
            assert not came_back.is_set(), "none of this has waited for the callback"
        finally:
            go_on.set()
            scrape.join(50)


def test_sdk_disabled_still_detects_and_acts() -> None:
    """Telemetry off must not mean crawling through the night."""
    out = run_fresh(
        SHARE
        + """
    metrics.set_meter_provider(provider)
    released = []
    rig = watch_of()
    with rig.watch.shard("a", on_demote=lambda: released.append("demoted")) as shard:
        rig.healthy(shard).crawl(shard, 12)
        try:
            with shard.batch(64):
                raise KeyError
        except KeyError:
            pass
        status = shard.status()
        print([action.kind.value for action in rig.applied], released, status.rung, collected(reader))
        rig.fraction = None
    with rig.watch.shard("endless") as shard:
        rig.healthy(shard)
        rig.fraction = 0.99
        with shard.batch(64, 4000):
            rig.wait(1000)
            print([action.kind.value for action in rig.watch.actions.drain()], shard.status().memory_fraction)
    """,
        environ={"OTEL_SDK_DISABLED": "true"},
    )
    assert out == ("['DETECT', 'EMPTY_CACHE', 'DEMOTE_CPU'] ['demoted'] 3 {}\n['DETECT', 'EMPTY_CACHE'] 0.99\n"), out


def test_the_hub_of_a_provider_that_is_gone_is_gone() -> None:
    """Tests of an app make providers by the hundred."""
    provider, _ = make_provider()
    with CrawlWatch(meter_provider=provider, clock=Clock(), tick_seconds=None) as watch, watch.shard("a"):
        pass
    weak = weakref.ref(provider)
    del provider, watch, _
    gc.collect()
    assert weak() is None


def test_a_watch_that_is_dropped_without_close_is_shown_no_longer() -> None:
    """Without a thread nothing holds it."""
    provider, reader = make_provider()
    rig = Rig(provider=provider)
    rig.watch.shard("a").__enter__()
    assert collected(reader)["helix_dense_shards"]["state=running",] == 1
    del rig
    gc.collect()
    assert "helix_dense_shards" not in collected(reader)
