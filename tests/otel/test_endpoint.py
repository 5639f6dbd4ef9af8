"""The Prometheus endpoint: on loopback, with a registry of its own, and only where there is no provider yet."""

from __future__ import annotations

import socket

import pytest

from helix_crawl_otel.otel.endpoint import serve_metrics
from tests.otel.fresh import run_fresh


@pytest.mark.parametrize("port", [-1, 65536, "9464", 9464.0, True, None])
def test_a_port_that_is_none_is_refused(port: object) -> None:
    """Before anything is set up."""
    with pytest.raises(ValueError, match=r"port is .*; accepted: an integer from 0 to 65535"):
        serve_metrics(port=port)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("host", ["", "  ", None, 127])
def test_an_empty_host_is_refused(host: object) -> None:
    """To the socket it means every interface."""
    with pytest.raises(ValueError, match=r"host is .*; accepted: a host name or address"):
        serve_metrics(host=host, port=0)  # type: ignore[arg-type]  # wrong on purpose


def test_it_listens_on_loopback_only_and_shows_only_ours() -> None:
    """`start_http_server` binds every interface by default, and the default registry is the app's."""
    out = run_fresh(
        """
        import urllib.request
        from prometheus_client import Counter, REGISTRY, generate_latest
        from helix_crawl_otel import CrawlWatch, MemoryReading, serve_metrics
        Counter("of_the_app", "In the default registry.").inc()
        endpoint = serve_metrics(port=0)
        print(endpoint.host, endpoint.url == f"http://127.0.0.1:{endpoint.port}/metrics", endpoint.port > 0)
        with CrawlWatch(memory=lambda: MemoryReading(1, 2), tick_seconds=None) as watch, watch.shard("a") as shard:
            shard.record(64, 4.0)
            text = urllib.request.urlopen(endpoint.url, timeout=30).read().decode()
        print('helix_dense_genes_total{device="cuda:0",shard="a"} 64.0' in text, "of_the_app" in text)
        print("helix_dense" in generate_latest(REGISTRY).decode())
        endpoint.close()
        endpoint.close()
        try:
            urllib.request.urlopen(endpoint.url, timeout=30)
        except OSError:
            print("closed")
        """
    )
    assert out == "127.0.0.1 True True\nTrue False\nFalse\nclosed\n"


@pytest.mark.parametrize("kind", ["sdk", "noop", "somebody's"])
def test_with_a_global_provider_it_is_not_needed(kind: str) -> None:
    """The provider's own readers export ours; a second endpoint would be empty, and must not be left listening."""
    out = run_fresh(
        """
        import sys, threading
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from helix_crawl_otel import serve_metrics
        class Theirs(metrics.MeterProvider):
            def get_meter(self, name, version=None, schema_url=None, attributes=None):
                return metrics.NoOpMeterProvider().get_meter(name)
        kinds = {"sdk": MeterProvider, "noop": metrics.NoOpMeterProvider, "somebody's": Theirs}
        metrics.set_meter_provider(kinds[sys.argv[1]]())
        try:
            serve_metrics(port=0)
        except RuntimeError as error:
            print(error)
        print([thread.name for thread in threading.enumerate()])
        """,
        kind,
        warnings="default",  # the API warns of the second provider by a log record, Python of nothing
    )
    first, second = out.splitlines()
    assert first.startswith("a global meter provider is set already (")
    assert "not needed" in first
    assert second == "['MainThread']"


def test_a_port_in_use_says_so_and_leaves_nothing_behind() -> None:
    """The message says what to do; a second try on a free port works."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        out = run_fresh(
            """
            import sys
            from helix_crawl_otel import serve_metrics
            try:
                serve_metrics(port=int(sys.argv[1]))
            except OSError as error:
                print(error.strerror)
            with serve_metrics(port=0) as endpoint:
                print(endpoint.port != int(sys.argv[1]))
            """,
            str(taken.getsockname()[1]),
        )
    port = out.split()[1]
    assert out == f"port {port} on 127.0.0.1 is in use; free it, or choose another (0 takes any that is free)\nTrue\n"


def test_a_host_that_is_not_ours_says_so() -> None:
    """An address of somebody else's cannot be bound."""
    out = run_fresh(
        """
        from helix_crawl_otel import serve_metrics
        try:
            serve_metrics("192.0.2.1", 0)
        except OSError as error:
            print(error.strerror)
        """
    )
    assert out.startswith("cannot listen on 192.0.2.1, port 0: ")


def test_ipv6_loopback() -> None:
    """The address is bracketed in the URL."""
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    out = run_fresh(
        """
        import urllib.request
        from helix_crawl_otel import serve_metrics
        with serve_metrics("::1", 0) as endpoint:
            print(endpoint.url == f"http://[::1]:{endpoint.port}/metrics")
            print(urllib.request.urlopen(endpoint.url, timeout=30).status)
        """
    )
    assert out == "True\n200\n"


def test_nobody_is_kept_waiting_at_the_end_of_the_process() -> None:
    """Closing is optional: threads are daemons."""
    assert run_fresh(
        """
        from helix_crawl_otel import CrawlWatch, MemoryReading, serve_metrics
        serve_metrics(port=0)
        shard = CrawlWatch(memory=lambda: MemoryReading(1, 2)).shard("a").__enter__()
        with shard.batch(64): pass
        print("end")
        """
    ) == ("end\n")
