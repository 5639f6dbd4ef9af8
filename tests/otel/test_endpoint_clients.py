"""What the clients of the metrics endpoint can do to a job: nothing. In process, with a registry of the test's own."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, Metric
from prometheus_client.registry import Collector

from helix_crawl_otel.otel import endpoint
from helix_crawl_otel.otel.exporters import read_exporters
from helix_crawl_otel.supervise.session import open_metrics
from tests.otel.fresh import run_fresh

ASK = b"GET /metrics HTTP/1.1\r\nHost: localhost:9464\r\n\r\n"
DEADLINE = 50.0


class Served:
    """A server on a free port.

    Args:
        registry: What it shows.
        host: What it is told to listen on.
        patience: Seconds; short, because a test waits for them.
    """

    def __init__(self, registry: CollectorRegistry, host: str = "127.0.0.1", patience: float = DEADLINE) -> None:
        handler = endpoint._handler(registry, host)
        handler.timeout = patience
        self.server = endpoint._Server(host, 0, handler)
        self.port = int(self.server.server_address[1])
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *raised: object) -> None:
        self.server.stop()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def connect(self) -> socket.socket:
        """A client."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def ask(self, request: bytes = ASK) -> bytes:
        """Everything that is answered; nothing where the server hangs up."""
        with self.connect() as client:
            client.sendall(request)
            return read(client)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.server._open)


def read(client: socket.socket) -> bytes:
    """All that comes, until the server hangs up."""
    found = b""
    try:
        while part := client.recv(65536):
            found += part
    except ConnectionError:  # it closes with something unread in its hands
        pass
    return found


def registry(labels: int = 1) -> CollectorRegistry:
    """A gauge with so many series."""
    made = CollectorRegistry()
    gauge = Gauge("of_the_test", "A gauge.", ["n"], registry=made)
    for n in range(labels):
        gauge.labels(str(n)).set(n)
    return made


class Stuck(Collector):
    """A callback of the app that does not come back until it is let go."""

    def __init__(self) -> None:
        self.go, self.asked = threading.Event(), threading.Event()

    def collect(self) -> Iterable[Metric]:
        """Wait."""
        self.asked.set()
        self.go.wait(DEADLINE)
        return []


class Failing(Collector):
    """A callback of the app that fails when a scrape asks it."""

    def collect(self) -> Iterable[Metric]:
        """Fail."""
        raise LookupError("of the app")


@pytest.fixture
def served() -> Iterator[Served]:
    """The usual one."""
    with Served(registry()) as made:
        yield made


def test_idle_connections_keep_no_scrape_out(served: Served) -> None:
    """A few stay, the oldest go; so there is always one to scrape with, and never more descriptors or threads."""
    before = threading.active_count()
    with ExitStack() as held:
        clients = [held.enter_context(served.connect()) for _ in range(100)]
        assert b"of_the_test" in served.ask()
        assert served.connections <= 2 * endpoint.MOST_CONNECTIONS
        assert threading.active_count() <= before + 2 * endpoint.MOST_CONNECTIONS
        assert read(clients[0]) == b""  # hung up


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: loc", ASK[:-2], b"GET /metrics\r\n"])
def test_a_request_that_does_not_go_on_has_an_end(sent: bytes) -> None:
    """Nothing, half a line, half a header, all but the end; HTTP/0.9, which has no more to say."""
    with Served(registry(), patience=0.05) as served:
        assert served.ask(sent) == b""
        assert b"of_the_test" in served.ask()


def test_a_client_that_drips_makes_room_for_others(served: Served) -> None:
    """A byte now and then is never too late; the connection is the oldest some time."""
    with served.connect() as dripping, ExitStack() as held:
        dripping.sendall(ASK[:9])
        for _ in range(endpoint.MOST_CONNECTIONS + 1):
            held.enter_context(served.connect())
        assert read(dripping) == b""


def test_a_client_that_does_not_read_its_answer_has_an_end() -> None:
    """Some megabytes do not fit into the buffers between: the thread of the answer would wait for ever."""
    large = registry()
    Gauge("large", "x" * 20_000_000, registry=large)
    with Served(large, patience=0.2) as served, socket.socket() as deaf:
        deaf.settimeout(DEADLINE)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", served.port))
        deaf.sendall(ASK)
        until = time.monotonic() + DEADLINE
        while served.connections == 0 and time.monotonic() < until:
            time.sleep(0.005)
        while served.connections and time.monotonic() < until:
            time.sleep(0.005)
        assert served.connections == 0
        assert len(read(deaf)) < 20_000_000


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (ASK, 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 10_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET http://[x/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text;version=x.y\r\n\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: \xff\r\n\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
        (b"HEAD /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\nxx", 501),
        (b"PUT / HTTP/1.1\r\n\r\n", 501),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\n\r\n", 501),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n", 400),
        (b"\x00" * 100 + b"\r\n", 400),
        (b"GET /?" + b"name[]=x&" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    ],
)
def test_strange_requests(served: Served, request_: bytes, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    """Each is answered or hung up on; the next scrape works, and nothing is written on the terminal."""
    got = served.ask(request_)
    said = f" {code} ".encode() in got[:20] or f"Error code: {code}".encode() in got  # no status line for HTTP/0.9
    assert said or (got == b"" and code >= 400)  # reset before it was read
    assert b"of_the_test" in served.ask()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("host", "wanted", "code"),
    [
        *[("127.0.0.1", wanted, 200) for wanted in ("localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:9464")],
        *[("127.0.0.1", wanted, 200) for wanted in ("127.8.8.8", "[::1]", "[::1]:9464")],
        *[("127.0.0.1", wanted, 403) for wanted in ("evil.example", "evil.example:9464", "localhost.evil.example")],
        *[
            ("127.0.0.1", wanted, 403)
            for wanted in ("", "10.0.0.8", "127.0.0.1.evil.example", "[::1", "localhost@evil")
        ],
        *[("127.0.0.1", wanted, 403) for wanted in ("\xff\xfe", "x" * 5000, "0.0.0.0")],
        *[("localhost", wanted, 200) for wanted in ("localhost:9464", "127.0.0.1")],
        ("localhost", "evil.example", 403),
        *[("0.0.0.0", wanted, 200) for wanted in ("host.docker.internal:9464", "10.0.0.8", "rig")],
    ],
)
def test_a_page_that_has_its_name_lead_to_loopback_reads_nothing(host: str, wanted: str, code: int) -> None:
    """DNS rebinding: the header has the name that the browser asked for. Who listens everywhere may be asked by any."""
    with Served(registry(), host) as served:
        got = served.ask(b"GET / HTTP/1.1\r\nHost: " + wanted.encode("latin-1") + b"\r\n\r\n")
    assert got.split()[1] == str(code).encode()
    assert (b"of_the_test" in got) == (code == 200)
    if code == 403:
        assert b"accepted: localhost, a loopback address, " + host.encode() in got


def test_a_scrape_that_fails_is_told_once(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    """A callback of the app raises: the answer says so, Prometheus counts it as down, the log has one line."""
    failing = registry()
    failing.register(Failing())
    with Served(failing) as served, caplog.at_level(logging.INFO):
        assert [served.ask().split()[1] for _ in range(3)] == [b"500"] * 3
    (line,) = caplog.messages
    assert line == "[crawl-watchdog] a scrape of the metrics has failed, the job goes on: LookupError('of the app')"
    assert capfd.readouterr() == ("", "")


def test_a_scrape_that_hangs_takes_no_more_than_its_share() -> None:
    """A callback that does not come back holds its thread and its connection; there is an end to those as well."""
    hanging, stuck = registry(), Stuck()
    hanging.register(stuck)
    with Served(hanging) as served, ExitStack() as held:
        held.callback(stuck.go.set)
        for _ in range(3 * endpoint.MOST_CONNECTIONS):
            held.enter_context(served.connect()).sendall(ASK)
        until = time.monotonic() + DEADLINE
        while served.connections < 2 * endpoint.MOST_CONNECTIONS and time.monotonic() < until:
            time.sleep(0.005)
        assert served.ask() == b""  # hung up at once, not kept waiting
        assert served.connections == 2 * endpoint.MOST_CONNECTIONS


def test_the_end_waits_for_no_client() -> None:
    """They are hung up on."""
    with Served(registry()) as served:
        idle = served.connect()
        while not served.connections:
            time.sleep(0.001)
    with idle:
        assert read(idle) == b""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_closes_leaves_the_parent_its_connections() -> None:
    """It has a copy of every socket; to shut one down would end the parent's."""
    out = run_fresh(
        """
        import os, socket, warnings
        from helix_crawl_otel import serve_metrics
        warnings.simplefilter("ignore")  # of fork beside threads
        endpoint = serve_metrics(port=0)
        client = socket.create_connection((endpoint.host, endpoint.port), timeout=30)
        while not endpoint._server._open:
            pass
        child = os.fork()
        if child == 0:
            endpoint.close()
            os._exit(0)
        os.waitpid(child, 0)
        client.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        print(client.recv(15).decode())
        """
    )
    assert out == "HTTP/1.0 200 OK\n"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs limits that a process can set, and /proc")
def test_without_a_descriptor_left_it_waits_and_goes_on() -> None:
    """`accept` fails again and again: the loop must neither end nor spin. Then there are some again."""
    out = run_fresh(
        """
        import os, resource, socket, time
        from helix_crawl_otel import serve_metrics
        with serve_metrics(port=0) as endpoint:
            client = socket.socket()
            used = len(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, used + 50))
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            client.settimeout(30)
            client.connect((endpoint.host, endpoint.port))
            client.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
            began, spent = time.monotonic(), time.process_time()
            time.sleep(0.7)
            print((time.process_time() - spent) / (time.monotonic() - began) < 0.5)
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, used + 50))
            print(client.recv(15).decode())
        """
    )
    assert out == "True\nHTTP/1.0 200 OK\n"


@pytest.mark.parametrize("number", [24, 23, 12])  # EMFILE, ENFILE, ENOMEM
def test_a_run_goes_on_without_an_endpoint_that_it_cannot_have(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A passing lack is no reason not to encode; that nothing is served is said once."""
    told: list[str] = []

    def lacking(*_: object) -> None:
        raise OSError(number, "a lack")

    monkeypatch.setattr("helix_crawl_otel.otel.endpoint.open_endpoint", lacking)
    found = open_metrics(
        "127.0.0.1", 9464, insists=True, note=lambda level, text: told.append(text), exporters=read_exporters({})
    )
    if found.exporting is not None:
        found.exporting.close()  # it hears what OpenTelemetry logs
    assert (found.provider, found.endpoint) == (None, None)
    assert told == ["a lack; the run goes on and serves no metrics"]


def test_who_has_scraped_is_told_from_who_has_seen_the_end(served: Served) -> None:
    """Only what was answered counts, and of the end only a scrape that began after it."""
    scrapes = served.server.scrapes
    served.ask(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    served.ask(b"GET /metrics HTTP/1.1\r\nHost: example.com\r\n\r\n")
    scrapes.end()
    assert scrapes.unseen() == []
    served.ask()
    assert scrapes.unseen() == [], "who comes for the first time after the end has seen it"


def test_a_scrape_that_began_before_the_end_has_not_shown_it() -> None:
    """Its answer may have been made before."""
    made, stuck = CollectorRegistry(), Stuck()
    made.register(stuck)
    with Served(made) as served, served.connect() as early:
        early.sendall(ASK)
        assert stuck.asked.wait(DEADLINE)
        served.server.scrapes.end()
        stuck.go.set()
        read(early)
        assert served.server.scrapes.unseen() == ["127.0.0.1"]
        served.ask()
        assert served.server.scrapes.unseen() == []
