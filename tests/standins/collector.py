"""A collector's two ports on loopback, by the package of the protocol itself: it keeps decoded what it is sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.programs import require_module

require_module("opentelemetry.exporter.otlp.proto.http", "helix-crawl-otel[otlp]")
require_module("grpc", "helix-crawl-otel[otlp]")

import grpc  # noqa: E402 - where it is installed
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2  # noqa: E402 - where it is installed
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2  # noqa: E402 - where it is installed
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2  # noqa: E402 - where it is installed

__all__ = ["Collector", "Point", "attributes_of"]

REQUESTS: dict[str, Any] = {
    "metrics": metrics_service_pb2.ExportMetricsServiceRequest,
    "logs": logs_service_pb2.ExportLogsServiceRequest,
    "traces": trace_service_pb2.ExportTraceServiceRequest,
}
RESPONSES: dict[str, Any] = {
    "metrics": metrics_service_pb2.ExportMetricsServiceResponse,
    "logs": logs_service_pb2.ExportLogsServiceResponse,
    "traces": trace_service_pb2.ExportTraceServiceResponse,
}
SERVICES = {
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
}


@dataclass(frozen=True)
class Point:
    """One value of one series, as it came.

    Args:
        name: Of the metric.
        unit: The same.
        kind: `gauge`, `sum` or `histogram`.
        attributes: Of the series.
        value: Of a histogram its count.
        is_delta: Temporality of a sum or a histogram.
        is_monotonic: Of a sum.
        resource: Who sent it.
    """

    name: str
    unit: str
    kind: str
    attributes: dict[str, Any]
    value: float
    is_delta: bool
    is_monotonic: bool
    resource: dict[str, Any]


class Collector:
    """Both ports. Use it in a `with` block.

    Args:
        is_stuck: It takes a request and never answers.

    Attributes:
        requests: Signal, headers (or gRPC's metadata), and the message, in the order of their coming.

    Threads: the test's.
    """

    def __init__(self, *, is_stuck: bool = False) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self._go_on = threading.Event()
        if not is_stuck:
            self._go_on.set()
        handler = type("Handler", (_Handler,), {"collector": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._serving = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._grpc = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        for signal, service in SERVICES.items():
            method = grpc.unary_unary_rpc_method_handler(
                self._method(signal),
                request_deserializer=REQUESTS[signal].FromString,
                response_serializer=RESPONSES[signal].SerializeToString,
            )
            self._grpc.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {"Export": method})])
        self._grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")

    def endpoint(self, protocol: str) -> str:
        """Of `http/protobuf` or `grpc`."""
        port = self._grpc_port if protocol == "grpc" else self._http.server_address[1]
        return f"http://127.0.0.1:{port}"

    def environ(self, protocol: str = "http/protobuf", **more: str) -> dict[str, str]:
        """What points an exporter here."""
        named = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint(protocol), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        return {**named, "no_proxy": "*", "NO_PROXY": "*", **more}

    def __enter__(self) -> Collector:
        self._serving.start()
        self._grpc.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._go_on.set()
        self._http.shutdown()
        self._http.server_close()
        self._grpc.stop(None).wait(50)
        self._serving.join(50)

    def points(self, name: str | None = None) -> list[Point]:
        """What came of one metric, or of all, in order."""
        return [
            point
            for signal, _, message in self.requests
            if signal == "metrics"
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if name in (None, metric.name)
            for point in _points(metric, attributes_of(resource.resource))
        ]

    def spans(self) -> list[Any]:
        """What came."""
        return [
            span
            for signal, _, message in self.requests
            if signal == "traces"
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def records(self) -> list[Any]:
        """Log records that came."""
        return [
            record
            for signal, _, message in self.requests
            if signal == "logs"
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def _take(self, signal: str, headers: dict[str, str], message: Any) -> None:
        self.requests.append((signal, headers, message))
        self._go_on.wait()

    def _method(self, signal: str) -> Any:
        def export(request: Any, context: Any) -> Any:
            self._take(signal, {key: str(value) for key, value in context.invocation_metadata()}, request)
            return RESPONSES[signal]()

        return export


class _Handler(BaseHTTPRequestHandler):
    collector: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        signal = self.path.removeprefix("/v1/")
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.collector._take(signal, headers, REQUESTS[signal].FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def attributes_of(thing: Any) -> dict[str, Any]:
    """Attributes of a resource, a span or a record, as plain values."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in thing.attributes
    }


def _points(metric: Any, resource: dict[str, Any]) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    for point in data.data_points:
        value = point.count if kind == "histogram" else getattr(point, point.WhichOneof("value"))
        is_delta = kind != "gauge" and data.aggregation_temporality == 1
        is_monotonic = kind == "sum" and data.is_monotonic
        yield Point(metric.name, metric.unit, kind, attributes_of(point), value, is_delta, is_monotonic, resource)
