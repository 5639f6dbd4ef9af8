"""OTLP: the app's exporter, configured by the standard `OTEL_*` variables, carries our instruments."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helix_crawl_otel.policy.instruments import INSTRUMENTS
from tests.otel.fresh import run_fresh
from tests.otel.test_instruments_exported import ABSENT_EMBEDDED, ABSENT_WITHOUT_NVML
from tests.programs import require_module

require_module("opentelemetry.exporter.otlp.proto.http", "helix-crawl-otel[otlp]")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (  # noqa: E402 - where it is installed
    ExportMetricsServiceRequest,
)


class Receiver(ThreadingHTTPServer):
    """A collector's HTTP port on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], ExportMetricsServiceRequest]] = []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    """Takes a post as a collector does."""

    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.server.requests.append((self.path, headers, ExportMetricsServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that listens."""
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(50)


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
def test_the_standard_variables_carry_our_instruments(temporality: str, receiver: Receiver) -> None:
    """Endpoint, headers, compression, temporality and resource all come from the environment; nothing is ours."""
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
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.server_address[1]}",
            "OTEL_EXPORTER_OTLP_HEADERS": "x-job=night",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
            "OTEL_METRIC_EXPORT_INTERVAL": "600000",
            "OTEL_METRIC_EXPORT_TIMEOUT": "60000",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=ingest",
            "no_proxy": "*",
        },
    )
    assert out == "sent\n"
    assert {path for path, _, _ in receiver.requests} == {"/v1/metrics"}
    assert {headers["x-job"] for _, headers, _ in receiver.requests} == {"night"}
    assert {headers["content-type"] for _, headers, _ in receiver.requests} == {"application/x-protobuf"}
    units: dict[str, str] = {}
    genes: list[float] = []
    for _, _, request in receiver.requests:
        for resource in request.resource_metrics:
            names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
            assert names["service.name"] == "ingest"
            for scope in resource.scope_metrics:
                assert scope.scope.name in ("helix_crawl_otel", "opentelemetry-sdk") or "otel" in scope.scope.name
                for metric in scope.metrics:
                    units[metric.name] = metric.unit
                    if metric.name == "helix_dense_genes":
                        genes += [point.as_double or point.as_int for point in metric.sum.data_points]
    ours = {name: unit for name, unit in units.items() if name.startswith(("helix_dense_", "hw."))}
    absent = ABSENT_EMBEDDED | ABSENT_WITHOUT_NVML
    assert ours == {row.name: row.unit for row in INSTRUMENTS if row.name not in absent}
    nine, five = 9 * 64, 5 * 64
    if temporality == "cumulative":
        assert genes[:2] == [nine, nine + five]
    else:
        assert genes[:2] == [nine, five]


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
