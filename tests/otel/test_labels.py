"""Which shards get a label, so that the SDK never folds them into its overflow series."""

from __future__ import annotations

import logging
import subprocess

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.gauges import ExportedMetrics, ShardView, Snapshot
from helix_crawl_otel.otel.instruments import MAX_LABEL, Instruments, ShardLabels, label
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import REMEDIES, ActionKind, Outcome, ShardStatus, Verdict
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.otel.fresh import run_fresh
from tests.programs import require_program
from tests.watch.rig import Clock, Rig, collected, make_provider, reading


def test_a_thousand_shards_have_a_label_and_the_next_has_none(caplog: pytest.LogCaptureFixture) -> None:
    """One log line says so, once, with the prefix and the shard that it began with."""
    labels = ShardLabels()
    with caplog.at_level(logging.WARNING, "helix_crawl_otel"):
        for n in range(1000):
            assert labels.of("genes", f"s{n}", device="cpu") == {"shard": f"s{n}", "device": "cpu"}
        assert caplog.records == []
        for n in range(1000, 1100):
            assert labels.of("genes", f"s{n}", device="cpu") == {"device": "cpu"}
        assert labels.of("genes", "s999", device="cpu") == {"shard": "s999", "device": "cpu"}
        assert labels.of("other", "s5000") == {}
    (line,) = caplog.messages
    assert line.startswith("[crawl-watchdog] more than 1000 shards")
    assert "'s1000'" in line
    assert "without the label 'shard'" in line


def test_an_instrument_never_gets_more_label_sets_than_the_sdk_takes() -> None:
    """A thousand shards on two devices, or with several outcomes each, are more than 2,000 sets."""
    labels = ShardLabels()
    with_label = sum(
        "shard" in labels.of("actions", f"s{n}", action=str(action)) for n in range(1000) for action in range(4)
    )
    assert with_label == 1900
    assert labels.of("actions", "s0", action="0") == {"shard": "s0", "action": "0"}  # a known set keeps its label
    assert labels.of("genes", "s999", device="cpu") == {"shard": "s999", "device": "cpu"}  # each instrument by itself


def test_no_overflow_series_when_every_one_of_1200_shards_crawls() -> None:
    """All the ladder on every shard, on two devices: still no overflow, and no count is lost."""
    provider, reader = make_provider()
    hub = Instruments(provider.get_meter("test"))
    shown = Snapshot()
    exported = ExportedMetrics(
        hub,
        lambda: shown,
        settings=Settings(),
        batch_deadline=lambda shard: None,
        batch_age=lambda shard: 0.0,
        queue_length=lambda: 0,
    )
    exported.open()
    status = ShardStatus(Verdict.WARMING_UP, None, None, None, 0, 0, False, None)
    for n in range(1200):
        shard = f"s{n}"
        for device in ("cuda:0", "cpu"):
            exported.begin_shard(shard, device)
            exported.count_shard("helix_dense_genes", 64, shard, device=device)
            exported.crawl(shard, device)
        for kind in ActionKind:
            exported.action(shard, kind, Outcome.APPLIED)
            exported.action(shard, kind, Outcome.FAILED)
        shown = Snapshot({shard: ShardView("cuda:0", status, 7), f"{shard}b": ShardView("cpu", status, 1)})
        exported.has_changed = True
        if n % 100 == 0:
            reader.get_metrics_data()
    seen = collected(reader)
    assert not any("overflow" in label for series in seen.values() for key in series for label in key)
    assert sum(seen["helix_dense_genes"].values()) == 1200 * 2 * 64
    assert sum(seen["helix_dense_crawl_detected"].values()) == 1200 * 2
    assert sum(seen["helix_dense_ladder_actions"].values()) == 1200 * 8


def test_shards_without_a_label_share_a_series_that_makes_sense(caplog: pytest.LogCaptureFixture) -> None:
    """What adds up is added, of alarms the highest is shown, and an unknown value hides no known one."""
    provider, reader = make_provider()
    hub = Instruments(provider.get_meter("test"))
    hub.labels = ShardLabels(most_shards=0)

    def view(pending: int | None, rung: int, ema: float | None) -> ShardView:
        known = ShardStatus(Verdict.HEALTHY, ema, None, None, 0, rung, rung > 0, None)
        return ShardView("cpu", known, pending)

    shown = Snapshot(
        {"a": view(5, 3, 16.0), "b": view(None, 1, None), "c": view(2, 0, None)}, waiting={"d": 100, "e": 20}
    )
    exported = ExportedMetrics(
        hub,
        lambda: shown,
        settings=Settings(),
        batch_deadline=lambda shard: None,
        batch_age={"a": 7.0, "b": 3.0}.get,
        queue_length=lambda: 0,
    )
    exported.open()
    seen = collected(reader)
    assert seen["helix_dense_genes_pending"] == {(): 127}
    assert seen["helix_dense_ladder_rung"] == {("device=cpu",): 3}
    assert seen["helix_dense_crawl_active"] == {("device=cpu",): 1}
    assert seen["helix_dense_batch_inflight"] == {("device=cpu",): 7}
    assert seen["helix_dense_throughput"] == {("device=cpu",): 16}
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_beyond_the_first_hundreds_remedies_begin_at_zero_with_the_crawl() -> None:
    """Three series for each of 1,000 shards would be too many; one that crawls has them before its first remedy."""
    with Rig() as rig:
        for n in range(300):
            rig.watch.shard(f"s{n}").__enter__()
        with rig.watch.shard("late", on_demote=lambda: None) as shard:
            late = {
                key: value for key, value in rig.series("helix_dense_ladder_actions").items() if "shard=late" in key
            }
            assert late == {}
            rig.healthy(shard)
            rig.fraction = 0.99
            for _ in range(5):
                rig.batch(shard, 80.0)
            for action in ("EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"):
                key = (f"action={action}", "outcome=applied", "shard=late")
                assert rig.series("helix_dense_ladder_actions")[key] == 0


def test_watches_one_after_the_other_share_the_thousand() -> None:
    """The SDK's instruments remember label sets for the life of the provider, so the count is the provider's."""
    provider, reader = make_provider()
    for run in range(3):
        with CrawlWatch(meter_provider=provider, tick_seconds=None, memory=lambda: None) as watch:  # type: ignore[arg-type, return-value]  # rubbish on purpose
            for n in range(400):
                with watch.shard(f"run{run}-{n}") as shard:
                    shard.record(1, 1.0)
    series = collected(reader)["helix_dense_genes"]
    labelled = [key for key in series if any(label.startswith("shard=") for label in key)]
    assert len(labelled) == 1000
    assert series["device=cuda:0",] == 200
    assert sum(series.values()) == 1200


def test_a_shard_without_a_label_is_detected_all_the_same() -> None:
    """The label is about metrics only."""
    with Rig() as rig:
        for n in range(1000):
            with rig.watch.shard(f"s{n}"):
                pass
        with rig.watch.shard("beyond") as shard:
            rig.healthy(shard).crawl(shard, 5)
            assert shard.status().episode_open
            assert rig.series("helix_dense_crawl_active") == {("device=cuda:0",): 1}
        assert rig.series("helix_dense_crawl_detected")["device=cuda:0",] == 1


NO_TEXT = [
    "cuda\udc80",
    "a\0b",
    "a\x1b[2Jb",
    "line\nline\r",
    "\u2028",
    "\u202e",
    "\x85",
    "x" * 100_000,
    "\udc80" * 9999,
    "",
]


@pytest.mark.parametrize("text", NO_TEXT)
@pytest.mark.parametrize("what", ["shard", "worker", "device", "reason", "source", "state"])
def test_whatever_a_driver_says_a_scrape_works(what: str, text: str) -> None:
    """Every text that can become a label, through the whole pipeline: a scrape is UTF-8 that steers no terminal."""
    registry = CollectorRegistry()
    provider = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    said = {"shard": "a", "worker": "w", "device": "cpu", "reason": "first", "source": "nvml"}
    said = {**said, "state": "done", what: text}
    pipeline = Pipeline(Settings(), Instruments(provider.get_meter("x")), Clock())
    pipeline.start_worker(said["worker"], said["device"], said["reason"], 1)
    pipeline.open_shard(said["shard"], said["worker"], said["device"], REMEDIES)
    pipeline.record_batch(BatchInfo("1", said["shard"], said["worker"], said["device"], 64), 4.0)
    pipeline.read_memory(said["device"], reading(0.5), {said["source"]: True})
    pipeline.set_shards(**{said["state"]: 2})
    shown = generate_latest(registry).decode("utf-8")
    assert all(line.isprintable() for line in shown.split("\n"))
    assert max(map(len, shown.split("\n"))) < 3 * MAX_LABEL
    assert "helix_dense_genes_total{" in shown


def test_two_long_names_stay_two() -> None:
    """Cut, with a digest of the rest; a name that is short enough is left as it is."""
    first, second = label("x" * 5000 + "1"), label("x" * 5000 + "2")
    assert first != second
    assert len(first) == len(second) < MAX_LABEL
    assert label("x" * MAX_LABEL) == "x" * MAX_LABEL
    assert label("x" * 5000 + "1") == first


def test_what_the_environment_says_of_the_job_breaks_no_scrape() -> None:
    """`target_info` has the attributes of the resource; a variable may hold bytes that are no text."""
    out = run_fresh(
        """
        import urllib.request
        from helix_crawl_otel import CrawlWatch, MemoryReading, serve_metrics
        with serve_metrics(port=0) as endpoint, CrawlWatch(memory=lambda: MemoryReading(1, 2), tick_seconds=None):
            print(urllib.request.urlopen(endpoint.url, timeout=30).read().decode())
        """,
        environ={"OTEL_RESOURCE_ATTRIBUTES": "team=caf\udce9,b=2", "OTEL_SERVICE_NAME": "\udc80 mine"},
    )
    assert 'team="caf\\\\udce9"' in out
    assert 'b="2"' in out


@pytest.mark.parametrize("name", ["caf\udce9", 'quo"te', "new\nline", "b\\ackslash", "Ünïcødé ☃", " "])
def test_any_file_name_can_be_a_shard(name: str) -> None:
    """Names come from a file system: bytes that are no text must not break the whole scrape."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    rig = Rig(provider=provider)
    with rig.watch.shard(name) as shard:
        rig.healthy(shard, 2)
        text = generate_latest(registry)
    rig.watch.close()
    assert b"helix_dense_genes_total{" in text
    done = subprocess.run(
        [require_program("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
