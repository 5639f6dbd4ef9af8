"""A Prometheus endpoint for a job that has no meter provider of its own: on loopback, with a registry of its own.

The server is the standard library's with the handler of `prometheus_client`, and a bound on what a client can take from
the job: connections, and the time to send a request or to read an answer. `start_http_server` has none of them: 1,024
idle connections were the end of a run's descriptors, and of the run. waitress and cheroot time clients out, but leave
newcomers waiting meanwhile, and spin where no descriptor is left to accept with.

OpenTelemetry and Prometheus are imported late: `doctor` only asks whether the port is to be had.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from socketserver import BaseRequestHandler, TCPServer, ThreadingMixIn
from threading import Event, Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from helix_crawl_otel.config import environment
from helix_crawl_otel.logs import watchdog

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from prometheus_client import CollectorRegistry

__all__ = ["MetricsEndpoint", "check_port", "serve_metrics"]

MOST_CONNECTIONS = 32
"""Open at a time. A further one ends the oldest: whoever holds connections idle keeps no scrape out."""

PATIENCE_SECONDS = 10.0
"""For each part of a request to come, and for an answer to be read; as long as Prometheus waits by default."""

LACK_SECONDS = 1.0
"""Until a connection is taken up again that no descriptor was left for: it goes on waiting, and the loop would spin."""


class MetricsEndpoint:
    """A running endpoint.

    Args:
        provider: Whose metrics it shows.
        server: Listening; its thread is started here.

    Threads: any.
    """

    def __init__(self, provider: MeterProvider, server: _Server) -> None:
        self.provider = provider
        self.host = str(server.server_address[0])
        self.port = int(server.server_address[1])
        self._pid = os.getpid()
        self._server = server
        self.mark_end = server.scrapes.end
        self.unseen = server.scrapes.unseen
        self._thread = Thread(target=server.serve_forever, name="helix-crawl-metrics", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where to scrape."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop listening. The provider stays: instruments recorded on are still counted. A second call does nothing."""
        if os.getpid() != self._pid:  # a forked child has the sockets, but no thread that could answer a shutdown
            self._server.socket.close()
            return
        self._server.stop()
        self._thread.join(timeout=5)

    def __enter__(self) -> MetricsEndpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve_metrics(host: str = "127.0.0.1", port: int = 9464) -> MetricsEndpoint:
    """Set up a global meter provider and serve its metrics to Prometheus.

    Args:
        host: Name or address to listen on, not empty. Loopback by default: metrics name shards and devices, and the
            endpoint asks nobody who they are.
        port: TCP port, 0 to 65535; 0 takes a free one, see `MetricsEndpoint.port`.

    Returns:
        The endpoint; closing it is optional, its thread is a daemon.

    Raises:
        ValueError: The port is out of range, or the host is no name.
        RuntimeError: A global meter provider is set already: its readers export our instruments, nothing is needed.
        OSError: The address cannot be bound; the message says which and what to do.

    Threads: one call a process.
    """
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError(f"port is {port!r}; accepted: an integer from 0 to 65535")
    if not isinstance(host, str) or not host.strip():
        raise ValueError(f"host is {host!r}; accepted: a host name or address, such as 127.0.0.1")
    return open_endpoint(host, port, list)


def open_endpoint(host: str, port: int, readers: Callable[[], Sequence[MetricReader]]) -> MetricsEndpoint:
    """See `serve_metrics`.

    Args:
        host: The same.
        port: The same.
        readers: Makes further ones of the provider; not called where the address cannot be bound.
    """
    from prometheus_client import CollectorRegistry

    from helix_crawl_otel.otel.exporters import present_provider

    present = present_provider("meter", environment())
    if present is not None:
        raise _not_needed(present)
    registry = CollectorRegistry()
    reader = _reader(registry)
    try:
        server = _Server(host, port, _handler(registry, host))
    except OSError as error:
        reader.shutdown()
        raise _explained(error, host, port) from error
    try:
        provider = set_meter_provider([reader, *readers()])
    except RuntimeError:
        server.server_close()
        raise
    return MetricsEndpoint(provider, server)


def set_meter_provider(readers: Sequence[MetricReader]) -> MeterProvider:
    """Make the global meter provider, with these readers.

    Raises:
        RuntimeError: There is one already.
    """
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider

    from helix_crawl_otel.otel.resource import run_resource

    # Not shut down at the end of the process: a scrape that is being answered then would see every counter gone.
    provider = MeterProvider(metric_readers=readers, resource=run_resource(), shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    present = metrics.get_meter_provider()
    if present is not provider:  # the API keeps the first
        provider.shutdown()
        raise _not_needed(present)
    return provider


def _reader(registry: CollectorRegistry) -> MetricReader:
    """Of the metrics for this registry, under the names that they have when they come by way of OTLP: there a gauge of
    unit `1` ends in `_ratio`, of which Python's exporter for Prometheus knows nothing.

    And with the stages of a batch that have begun and not ended yet, as a count of 0, which the SDK has no word for.
    """
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        Gauge,
        Histogram,
        HistogramDataPoint,
        Metric,
        MetricsData,
        ScopeMetrics,
    )

    from helix_crawl_otel.otel.instruments import SCOPE, begun_stages
    from helix_crawl_otel.policy.instruments import BATCH_DURATION, BATCH_DURATION_BOUNDS

    def named(metric: Metric) -> Metric:
        if metric.unit != "1" or not isinstance(metric.data, Gauge):
            return metric
        return replace(metric, name=f"{metric.name.removesuffix('_ratio')}_ratio")

    def with_begun(metrics: Sequence[Metric]) -> Sequence[Metric]:
        there = next((metric for metric in metrics if metric.name == BATCH_DURATION.name), None)
        points = list(there.data.data_points) if there is not None and isinstance(there.data, Histogram) else []
        ended = [dict(point.attributes or {}) for point in points]
        now = time.time_ns()
        empty = [0] * (len(BATCH_DURATION_BOUNDS) + 1)
        zeros = [
            HistogramDataPoint(labels, now, now, 0, 0.0, empty, BATCH_DURATION_BOUNDS, 0.0, 0.0)
            for labels in begun_stages()
            if labels not in ended
        ]
        if not zeros:
            return metrics
        data = Histogram([*points, *zeros], AggregationTemporality.CUMULATIVE)
        whole = Metric(BATCH_DURATION.name, BATCH_DURATION.description, BATCH_DURATION.unit, data)
        return [*(metric for metric in metrics if metric is not there), whole]

    def shown(scope: ScopeMetrics) -> ScopeMetrics:
        metrics = with_begun(scope.metrics) if scope.scope.name == SCOPE else scope.metrics
        return replace(scope, metrics=[named(metric) for metric in metrics])

    class Reader(PrometheusMetricReader):
        def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
            found = [
                replace(each, scope_metrics=[shown(scope) for scope in each.scope_metrics])
                for each in metrics_data.resource_metrics
            ]
            super()._receive_metrics(MetricsData(found), timeout_millis, **kwargs)

    return Reader(registry=registry, scope_info_enabled=False)


def _not_needed(present: object) -> RuntimeError:
    return RuntimeError(
        f"a global meter provider is set already ({type(present).__name__}); its readers export the instruments "
        "of helix_crawl_otel, so serve_metrics() is not needed"
    )


def _explained(error: OSError, host: str, port: int) -> OSError:
    if error.errno == errno.EADDRINUSE:
        text = f"port {port} on {host} is in use; free it, or choose another (0 takes any that is free)"
    elif sys.platform == "win32" and error.errno == errno.EACCES:  # somebody's alone, or in a range that is kept back
        text = f"port {port} on {host} is in use or reserved; choose another (0 takes any that is free)"
    else:
        text = f"cannot listen on {host}, port {port}: {error.strerror or error}"
    return OSError(error.errno, text)


def check_port(host: str, port: int) -> None:
    """See whether a port is to be had, by listening there for a moment.

    Raises:
        OSError: It cannot be done: in use, reserved, no such host.
    """
    _Server(host, port, BaseRequestHandler).server_close()


class _Scrapes:
    """Who has scraped, and who of them has seen how it ended.

    Threads: any.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._has_seen: dict[str, bool] = {}  # by address; guarded by _lock
        self._has_ended = False

    def begin(self) -> bool:
        """A scrape begins. Returns whether it will show the end."""
        return self._has_ended

    def answered(self, address: str, shows_end: bool) -> None:
        """A scrape that began so was answered."""
        with self._lock:
            self._has_seen[address] = shows_end or self._has_seen.get(address, False)

    def end(self) -> None:
        """What is shown from now on is the end."""
        self._has_ended = True

    def unseen(self) -> list[str]:
        """Addresses that have scraped, and not since the end."""
        with self._lock:
            return sorted(address for address, has_seen in self._has_seen.items() if not has_seen)


class _Server(ThreadingMixIn, TCPServer):
    """Listens, and answers each connection in a thread of its own.

    Args:
        host: Name or address.
        port: 0 takes a free one.
        handler: Of the connections.

    Raises:
        OSError: It cannot be listened there.

    Threads: `serve_forever` in one, `stop` in another.
    """

    daemon_threads = True  # nobody is waited for at the end of the process
    request_queue_size = 128
    allow_reuse_address = sys.platform != "win32"  # an address that was left a moment ago is free

    def __init__(self, host: str, port: int, handler: type[BaseRequestHandler]) -> None:
        self.address_family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self._lock = Lock()
        self._open: dict[socket.socket, bool] = {}  # guarded by _lock; oldest first; whether it has been hung up
        self._stopping = Event()
        self.scrapes = _Scrapes()
        super().__init__(address, handler)  # type: ignore[arg-type]  # an IPv6 address has four parts

    def server_bind(self) -> None:
        """As any server does. Windows would let it in beside another one, and hand it some of the connections."""
        if sys.platform == "win32":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        super().server_bind()

    def stop(self) -> None:
        """Stop listening and hang up. A second call does nothing."""
        self._stopping.set()
        stopping = Thread(target=self.shutdown, daemon=True)
        stopping.start()
        with contextlib.suppress(OSError):  # a connection wakes the loop; else it wakes by itself, twice a second
            socket.create_connection(self.server_address[:2], timeout=1).close()  # type: ignore[arg-type]  # as above
        stopping.join()
        self.server_close()
        with self._lock:
            for connection in self._open:
                _hang_up(connection)

    # -- what `serve_forever` calls -----------------------------------------------------------------------------------

    def get_request(self) -> Any:
        """The next connection."""
        try:
            return super().get_request()
        except OSError:
            self._stopping.wait(LACK_SECONDS)
            raise  # the loop goes on

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Make room for a connection. The thread of one that was hung up ends at once, unless a scrape hangs in it."""
        with self._lock:
            self._open[request] = False
            idle = [connection for connection, is_ended in self._open.items() if not is_ended]
            if len(idle) > MOST_CONNECTIONS:
                self._open[idle[0]] = True
                _hang_up(idle[0])
            return len(self._open) <= 2 * MOST_CONNECTIONS

    def shutdown_request(self, request: Any) -> None:
        """A connection is over."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client went away, or no thread could be started: nothing that anybody has to see."""
        watchdog.debug("a connection to the metrics endpoint has failed", exc_info=True)


def _hang_up(connection: socket.socket) -> None:
    """Its thread sees the end of it, and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _handler(registry: CollectorRegistry, host: str) -> type[BaseHTTPRequestHandler]:
    """What answers a connection of a server that was given this host."""
    from prometheus_client import MetricsHandler
    from prometheus_client.exposition import choose_encoder

    told: set[type[Exception]] = set()

    class Handler(MetricsHandler):
        timeout = PATIENCE_SECONDS

        def do_GET(self) -> None:
            """The metrics, on any path."""
            if not self._is_fair():
                return
            scrapes = cast("_Server", self.server).scrapes
            shows_end = scrapes.begin()
            try:
                super().do_GET()
                scrapes.answered(str(self.client_address[0]), shows_end)
            except (ConnectionError, TimeoutError):
                raise  # the client's
            except Exception as error:  # noqa: BLE001 - of a collector: told once of each kind, and the job goes on
                level = logging.DEBUG if type(error) in told else logging.WARNING
                told.add(type(error))
                watchdog.log(level, "a scrape of the metrics has failed, the job goes on: %r", error)
                self.send_error(500, explain=type(error).__name__)

        def do_HEAD(self) -> None:
            """Is anybody there? Nothing is collected for that."""
            if self._is_fair():
                self.send_response(200)
                self.end_headers()

        def _is_fair(self) -> bool:
            """Whether a request can be answered; one that cannot be is told so."""
            wanted = self.headers.get("Host")
            address = str(cast("tuple[Any, ...]", self.server.server_address)[0])
            if not _is_meant(wanted, host, address):
                text = f"Host is {ascii(wanted)[:80]}; accepted: localhost, a loopback address, {host}"
                self.send_error(403, explain=text)
                return False
            try:  # what `prometheus_client` will make of it: else a client's nonsense is told as a collector's failure
                urlsplit(self.path)
                choose_encoder(self.headers.get("Accept") or "")
            except Exception as error:  # noqa: BLE001 - whatever it is, the client has sent it
                self.send_error(400, explain=f"the address or Accept cannot be read: {type(error).__name__}")
                return False
            return True

    Handler.registry = registry
    return Handler


def _is_meant(wanted: str | None, host: str, address: str) -> bool:
    """Whether a request's `Host` names this server: a web page must not read it by a name of its own for 127.0.0.1.

    Args:
        wanted: The header, `None` in a request of HTTP/1.0; a browser sends it always.
        host: What the server was told to listen on.
        address: What it listens on. Of one that listens everywhere nobody knows the names.
    """
    if wanted is None or ipaddress.ip_address(address).is_unspecified:
        return True
    try:
        name = (urlsplit(f"//{wanted}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in ("localhost", host.strip("[]").rstrip(".").lower(), address):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
