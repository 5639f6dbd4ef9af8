"""A Prometheus endpoint for a job that has no meter provider of its own: on loopback, with a registry of its own.

OpenTelemetry and Prometheus are imported late: `doctor` only asks whether the port is to be had.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from opentelemetry.sdk.metrics import MeterProvider

__all__ = ["MetricsEndpoint", "check_port", "serve_metrics"]


class MetricsEndpoint:
    """A running endpoint.

    Args:
        provider: Whose metrics it shows.
        server: The HTTP server, listening.
        thread: The server's.

    Threads: any.
    """

    def __init__(self, provider: MeterProvider, server: WSGIServer, thread: Thread) -> None:
        self.provider = provider
        self.host = str(server.server_address[0])
        self.port = int(server.server_port)
        self._pid = os.getpid()
        self._server = server
        self._thread = thread

    @property
    def url(self) -> str:
        """Where to scrape."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/metrics"

    def close(self) -> None:
        """Stop listening. The provider stays: instruments recorded on are still counted. A second call does nothing."""
        if os.getpid() == self._pid:  # a forked child has the socket, but no thread that could answer a shutdown
            self._shut_down()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _shut_down(self) -> None:
        """As `shutdown` does, without its half second: the server looks for it at each connection, so it gets one."""
        stopping = Thread(target=self._server.shutdown, daemon=True)
        stopping.start()
        with contextlib.suppress(OSError):  # it then waits for its next look, as it does by itself
            socket.create_connection((self.host, self.port), timeout=1).close()
        stopping.join()

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
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.metrics import NoOpMeterProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from prometheus_client import CollectorRegistry, start_http_server

    present = metrics.get_meter_provider()
    if isinstance(present, MeterProvider | NoOpMeterProvider):
        raise _not_needed(present)
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
    try:
        if sys.platform == "win32" and port:
            check_port(host, port)  # the server's own socket would be let in beside another's there
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        reader.shutdown()
        raise _explained(error, host, port) from error
    resource = Resource.create({SERVICE_NAME: "helix-crawl-otel"})
    # Not shut down at the end of the process: a scrape that is being answered then would see every counter gone.
    provider = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    endpoint = MetricsEndpoint(provider, server, thread)
    metrics.set_meter_provider(provider)
    present = metrics.get_meter_provider()
    if present is not provider:  # somebody else's class of provider: the API keeps the first
        endpoint.close()
        provider.shutdown()
        raise _not_needed(present)
    return endpoint


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
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as trial:
        if sys.platform == "win32":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # as a server does: an address that was left a moment ago is free
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        trial.listen()
