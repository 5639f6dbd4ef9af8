"""Meter providers for the benchmarks: without a reader, with a Prometheus endpoint, with one that is being scraped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector

__all__ = ["CONDITIONS", "SCRAPE_SECONDS", "Endpoint", "endpoint"]

CONDITIONS = ("no reader", "Prometheus", "Prometheus, scraped")
SCRAPE_SECONDS = 1.0
"""Sixty times as often as a Prometheus that has not been told otherwise."""

# Another process, as Prometheus is: its work must not compete for this one's GIL.
_SCRAPER = """
import sys, threading, urllib.request
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
scrapes = 0
while True:
    urllib.request.urlopen(sys.argv[1], timeout=100).read()
    scrapes += 1
    if scrapes == 1:
        print("scraping", flush=True)
    if stop.wait(float(sys.argv[2])):
        break
print(scrapes)
"""


@dataclass(eq=False)
class Endpoint(Collector):
    """A meter provider under one of `CONDITIONS`; `scrapes` is known after the end, `looks` grows meanwhile."""

    condition: str
    provider: MeterProvider
    scrapes: int = 0
    looks: int = 0

    def collect(self) -> Iterator[Metric]:
        """What the registry calls for each scrape; there is nothing to show."""
        self.looks += 1
        yield from ()


@contextmanager
def endpoint(condition: str) -> Iterator[Endpoint]:
    """Set up a provider, and take everything down again."""
    assert condition in CONDITIONS
    with ExitStack() as stack:
        registry = CollectorRegistry()
        readers = [] if condition == "no reader" else [PrometheusMetricReader(registry=registry)]
        provider = MeterProvider(metric_readers=readers, shutdown_on_exit=False)
        stack.callback(provider.shutdown)
        found = Endpoint(condition, provider)
        if condition == "Prometheus, scraped":
            registry.register(found)
            server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
            stack.callback(thread.join, 60)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            stack.enter_context(_scraped(f"http://127.0.0.1:{server.server_port}/metrics", found))
        yield found


@contextmanager
def _scraped(url: str, found: Endpoint) -> Iterator[None]:
    command = [sys.executable, "-c", _SCRAPER, url, str(SCRAPE_SECONDS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as scraper:
        assert scraper.stdout is not None
        assert scraper.stdout.readline() == "scraping\n"
        try:
            yield
        finally:
            rest, _ = scraper.communicate(timeout=120)
            found.scrapes = int(rest)
