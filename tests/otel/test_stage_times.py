"""The times of stages wait for a collection, and none is lost or told twice on the way."""

from __future__ import annotations

import os

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from helix_crawl_otel.otel.instruments import MOST_WAITING, Instruments
from tests.otel.fresh import run_fresh
from tests.watch.rig import Rig, collected, make_provider

ENCODE = "device=cuda:0", "stage=encode"


def span_of(number: int) -> trace.Span:
    """A sampled span of somebody's job."""
    return NonRecordingSpan(SpanContext(1, number, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)))


def examples(reader: InMemoryMetricReader) -> dict[float, int | None]:
    """The exemplars of the stages: their seconds, with the spans."""
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
    [points] = [metric.data.data_points for metric in metrics if metric.name == "helix_dense_batch_duration"]
    return {each.value: each.span_id for point in points for each in point.exemplars}


@pytest.mark.parametrize("beside", [0, 1], ids=["alone", "beside another reader"])
def test_each_collection_shows_all_that_was_told_before_it(beside: int) -> None:
    """Every reader of a provider, whichever of them makes the SDK look first."""
    provider, reader = make_provider()
    others = [InMemoryMetricReader() for _ in range(beside)]
    for other in others:
        provider.add_metric_reader(other)
    with Rig(provider=provider) as rig, rig.watch.shard("a") as shard:
        for count in (1, 2, 3):
            shard.record(64, 4.0)
            for each in (*others, reader):
                assert collected(each)["helix_dense_batch_duration"] == {ENCODE: count}


def test_where_nobody_collects_they_do_not_become_more_and_more() -> None:
    """A job without a reader, for weeks."""
    provider, reader = make_provider()
    hub = Instruments(provider.get_meter("a job's"))
    most = 0
    for _ in range(3 * MOST_WAITING + 1):
        hub.time_stage("cuda:0", "encode", 4.0)
        most = max(most, len(hub._waiting))
    assert most < MOST_WAITING
    assert len(hub._waiting) == 1
    assert collected(reader)["helix_dense_batch_duration"] == {ENCODE: 3 * MOST_WAITING + 1}


def test_a_stage_is_an_example_of_the_span_it_was_in() -> None:
    """Not of that in which it is recorded, a later batch's or that of whoever scrapes."""
    provider, reader = make_provider()
    hub = Instruments(provider.get_meter("a job's"))
    with trace.use_span(span_of(7)):
        hub.time_stage("cuda:0", "encode", 4.0)
    hub.time_stage("cuda:0", "encode", 40.0)
    with trace.use_span(span_of(8)):
        assert examples(reader) == {4.0: 7}
        assert trace.get_current_span().get_span_context().span_id == 8


@pytest.mark.parametrize("how", ["sys.exit(1)", "raise KeyError", "pass", "signal.raise_signal(signal.SIGTERM)"])
def test_the_end_of_a_process_records_what_waits(how: str) -> None:
    """Nobody has closed the watch: the provider of the job exports once more, and sees the last batch."""
    out = run_fresh(
        f"""
        import atexit, os, signal, sys
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader, MetricExporter, MetricExportResult
        from helix_crawl_otel import CrawlWatch, MemoryReading

        class Shown(MetricExporter):
            def export(self, data, timeout_millis=10_000, **kwargs):
                for metric in (m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics):
                    if metric.name == "helix_dense_batch_duration":
                        print([point.count for point in metric.data.data_points], flush=True)
                return MetricExportResult.SUCCESS

            def force_flush(self, timeout_millis=10_000):
                return True

            def shutdown(self, timeout_millis=30_000, **kwargs):
                pass

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        atexit.register(os._exit, 0)  # the first is the last: the code is not what is looked at
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(Shown(), 3_600_000)]))
        watch = CrawlWatch(memory=lambda: MemoryReading(1, 2), tick_seconds=None)
        shard = watch.shard("a").__enter__()
        for _ in range(3):
            shard.record(64, 4.0)
        sys.stderr = open(os.devnull, "w")
        {how}
        """
    )
    assert out == "[3]\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_leaves_to_its_parent_what_waited() -> None:
    """Both would export it."""
    out = run_fresh(
        """
        import os
        from tests.watch.rig import Rig, collected, make_provider
        provider, reader = make_provider()
        rig = Rig(provider=provider)
        shard = rig.watch.shard("a").__enter__()
        for _ in range(3):
            shard.record(64, 4.0)
        pid = os.fork()
        shard.record(64, 4.0)
        if pid:
            os.waitpid(pid, 0)  # or their lines stand in each other
        print(collected(reader)["helix_dense_batch_duration"], flush=True)
        if pid == 0:
            os._exit(0)
        """,
        warnings="ignore:This process:DeprecationWarning",
    )
    series = "{('device=cuda:0', 'stage=encode'): %d}"
    assert sorted(out.splitlines()) == [series % 1, series % 4]
