"""OTLP: the app's exporter, configured by the standard `OTEL_*` variables, carries our instruments."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.instruments import INSTRUMENTS
from tests.otel.fresh import run_fresh
from tests.otel.test_instruments_exported import ABSENT_EMBEDDED, ABSENT_WITHOUT_NVML
from tests.standins.collector import Collector


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_the_standard_variables_carry_our_instruments(temporality: str) -> None:
    """Endpoint, headers, compression, temporality and resource all come from the environment; nothing is ours."""
    with Collector() as collector:
        out = run_fresh(
            """
            from opentelemetry import metrics
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
            from opentelemetry.sdk.metrics import MeterProvider
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
            from tests.watch.rig import Rig, reading
            from helix_crawl_otel import CrawlWatch
            provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
            metrics.set_meter_provider(provider)
            rig = Rig()
            rig.watch = CrawlWatch(memory=lambda: rig._read(), clock=rig.clock, tick_seconds=None)
            with rig.watch.shard("a") as shard:
                rig.healthy(shard)
                provider.force_flush(60_000)
                rig.shared, rig.other_shared = 10**9, 10**8
                rig.crawl(shard, 5)
                provider.force_flush(60_000)
            rig.watch.close()
            provider.shutdown()
            print("sent")
            """,
            environ={
                **collector.environ(),
                "OTEL_EXPORTER_OTLP_HEADERS": "x-job=night",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
                "OTEL_METRIC_EXPORT_INTERVAL": "600000",
                "OTEL_METRIC_EXPORT_TIMEOUT": "60000",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
                "OTEL_RESOURCE_ATTRIBUTES": "service.name=ingest",
            },
        )
    assert out == "sent\n"
    assert {signal for signal, _, _ in collector.requests} == {"metrics"}
    assert {headers["x-job"] for _, headers, _ in collector.requests} == {"night"}
    assert {headers["content-type"] for _, headers, _ in collector.requests} == {"application/x-protobuf"}
    points = collector.points()
    assert {point.resource["service.name"] for point in points} == {"ingest"}
    ours = {point.name: point.unit for point in points if point.name.startswith(("helix_dense_", "hw."))}
    absent = ABSENT_EMBEDDED | ABSENT_WITHOUT_NVML
    assert ours == {row.name: row.unit for row in INSTRUMENTS if row.name not in absent}
    genes = [point.value for point in collector.points("helix_dense_genes")]
    nine, five = 9 * 64, 5 * 64
    assert genes[:2] == ([nine, nine + five] if temporality == "cumulative" else [nine, five])


def test_a_collector_that_is_away_stops_nothing() -> None:
    """The exporter retries in its own thread."""
    out = run_fresh(
        """
        import logging
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from tests.watch.rig import Rig
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], shutdown_on_exit=False)
        rig = Rig(provider=provider)
        with rig.watch.shard("a") as shard:
            rig.healthy(shard).crawl(shard, 5)
            print([action.kind.value for action in rig.applied])
        rig.watch.close()
        """,
        environ={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
            "OTEL_METRIC_EXPORT_INTERVAL": "50",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "600",  # whoever waited for it would not come to the end
            "no_proxy": "*",
        },
    )
    assert out == "['DETECT', 'EMPTY_CACHE']\n"
