"""What the standard variables ask for, and the end of an exporter whose collector does not answer. Whole runs with a
collector are in tests/build/test_routes.py.
"""

from __future__ import annotations

import argparse
import logging
import threading
from collections.abc import Iterator
from importlib import metadata

import pytest

from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.console.options import add_common_options, read_common_options
from helix_crawl_otel.otel import exporters
from helix_crawl_otel.otel.exporters import Exporting, read_exporters, scrubbed
from helix_crawl_otel.otel.resource import instance_id, run_resource

METRICS, PROTOCOL, ENDPOINT = "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_ENDPOINT"
PAIR = "Authorization Basic c2VjcmV0"
NOTHING = {"meter": None, "tracer": None, "logger": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, ("prometheus",)),
        ("", ("prometheus",)),
        (" , ", ("prometheus",)),
        ("none", ()),
        ("None", ()),
        ("otlp", ("otlp",)),
        ("otlp, prometheus", ("otlp", "prometheus")),
        ("console,otlp,console", ("console", "otlp")),
        ("otlp_proto_http", ("otlp_proto_http",)),
    ],
)
def test_exporters_of_metrics(text: str | None, expected: tuple[str, ...]) -> None:
    """Without a word it is the endpoint; `none` is nobody; an entry point can be named as the SDK's own distro does."""
    found = read_exporters({} if text is None else {METRICS: text})
    assert found.metrics == expected
    assert (found.logs, found.traces) == ((), ())


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({METRICS: "gremlin"}, [METRICS, "'gremlin'", "otlp, prometheus, console", "none"]),
        ({METRICS: "otlp,none"}, [METRICS, "'otlp,none'", "none alone"]),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ["OTEL_TRACES_EXPORTER", "'zipkin'", "otlp, console"]),
        ({"OTEL_LOGS_EXPORTER": "prometheus"}, ["OTEL_LOGS_EXPORTER", "'prometheus'", "otlp, console"]),
        ({METRICS: "otlp", PROTOCOL: "http/json"}, [PROTOCOL, "'http/json'", "grpc, http/protobuf"]),
    ],
)
def test_what_is_not_accepted_is_one_sentence(variables: dict[str, str], named: list[str]) -> None:
    """The variable, what it holds, what it may hold."""
    with pytest.raises(ConfigError) as raised:
        read_exporters(variables)
    assert [word for word in named if word not in str(raised.value)] == []
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", ["0", "-1", "often", "inf", "nan", "0.001", "1e300"])
def test_an_interval_is_a_number_of_milliseconds(value: str) -> None:
    """The SDK takes its default in place of a word, and fails at others with words of its own, or in its thread."""
    variables = {METRICS: "prometheus,console", "OTEL_METRIC_EXPORT_INTERVAL": value}
    with pytest.raises(ConfigError, match=f"OTEL_METRIC_EXPORT_INTERVAL is '{value}'; accepted: milliseconds"):
        read_exporters(variables)
    read_exporters({**variables, METRICS: "prometheus"})


@pytest.mark.parametrize(
    ("protocol", "endpoint"),
    [
        *(
            ("http/protobuf", text)
            for text in ("word-secret", "localhost:4318", "ftp://h:1", "http://h:port", "http://")
        ),
        *(("http/protobuf", text) for text in ("http://h:0", "http://h:99999", "http://a secret", "http://[::1")),
        *(("grpc", text) for text in ("a secret", "[::1", "http://[::1")),
    ],
)
def test_an_endpoint_that_is_no_address(protocol: str, endpoint: str) -> None:
    """One sentence before anything begins, and not what was given: it may be the token that was meant for a header."""
    with pytest.raises(ConfigError) as raised:
        read_exporters({METRICS: "otlp", PROTOCOL: protocol, ENDPOINT: endpoint})
    port = exporters.PORTS[protocol]
    assert str(raised.value) == (
        f"{ENDPOINT} is no address for {protocol}; accepted: a URL with its scheme, such as http://localhost:{port}"
    )


@pytest.mark.parametrize(("protocol", "name"), [("grpc", "grpc"), ("http/protobuf", "http/protobuf")])
def test_an_exporter_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, protocol: str, name: str) -> None:
    """What to type; nobody has to know which package it is."""
    monkeypatch.setattr(
        exporters, "entry_points", lambda **kind: [] if "otlp" in kind["name"] else metadata.entry_points(**kind)
    )
    with pytest.raises(ConfigError) as raised:
        read_exporters({METRICS: "prometheus,otlp", PROTOCOL: protocol})
    assert str(raised.value) == (
        f"{METRICS} asks for otlp ({name}), and its exporter is not installed: pip install 'helix-crawl-otel[otlp]'"
    )


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "metrics: by otlp (http/protobuf) to localhost:4318, every 1 min 00 s"),
        ({PROTOCOL: "grpc"}, "metrics: by otlp (grpc) to localhost:4317, every 1 min 00 s"),
        ({ENDPOINT: "http://host:4317/"}, "metrics: by otlp (grpc) to host:4317, every 1 min 00 s"),
        ({ENDPOINT: "host:4317", PROTOCOL: "grpc"}, "metrics: by otlp (grpc) to host:4317, every 1 min 00 s"),
        (
            {ENDPOINT: "http://a", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://me:word@b/v1?key=word"},
            "metrics: by otlp (http/protobuf) to b, every 1 min 00 s",
        ),
        ({ENDPOINT: "unix:///a/b", PROTOCOL: "grpc"}, "metrics: by otlp (grpc) to unix:///a/b, every 1 min 00 s"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "5000"}, "metrics: by otlp (http/protobuf) to localhost:4318, every 5.0 s"),
    ],
)
def test_the_line_says_where_metrics_go(variables: dict[str, str], expected: str) -> None:
    """The specification's default where nobody says a protocol, gRPC at its own port; no user, path or query."""
    assert read_exporters({METRICS: "otlp", **variables}).sentences(NOTHING) == [expected]


def test_a_provider_that_is_there_is_said_in_one_line() -> None:
    """Whoever set it has seen to where it exports."""
    found = read_exporters({METRICS: "otlp"}).sentences({"meter": object(), "tracer": object(), "logger": None})
    assert found == [
        "the provider that is set already is used (object, object): it exports the metrics, and no endpoint is served"
    ]


def test_disabled_is_nothing_at_all() -> None:
    """Whatever else is asked for, in whatever words."""
    found = read_exporters({"OTEL_SDK_DISABLED": " True ", METRICS: "gremlin", "OTEL_TRACES_EXPORTER": "otlp"})
    assert (found.metrics, found.traces) == ((), ())
    assert found.sentences(NOTHING) == [
        "OTEL_SDK_DISABLED is true: nothing is served or sent; the job is watched all the same"
    ]


def test_secrets_of_headers_are_not_shown() -> None:
    """As they stand in the variable, as they are sent, and where the SDK complains of the whole pair."""
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20c2VjcmV0,x-scope=plain-word,x-key Bearer b3BlbiBzZXNhbWU",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "not a pair",
    }
    said = scrubbed(
        "Basic c2VjcmV0 | Basic%20c2VjcmV0 | plain-word | not a pair | x-key b3BlbiBzZXNhbWU | at http://me:word@host/p?k=v",
        environ,
    )
    for secret in ("c2VjcmV0", "plain-word", "not a pair", "b3Bl", "word@", "k=v"):
        assert secret not in said
    assert "host" in said


@pytest.fixture
def exporting() -> Iterator[Exporting]:
    """Of nothing yet, with a secret. What it has to say is heard no longer afterwards, whatever is still at work."""
    found = Exporting(read_exporters({"OTEL_EXPORTER_OTLP_HEADERS": PAIR}), [])
    yield found
    found._log.close()


def test_an_invalid_header_is_told_without_what_it_holds(exporting: Exporting) -> None:
    """The SDK logs the pair as it stands, when an exporter is made; each kind of what it says is told once."""
    heard: list[str] = []
    listener = logging.Handler()  # not `caplog`, which listens beside a logger that does not propagate
    listener.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]  # of this one alone
    logging.getLogger().addHandler(listener)
    try:
        for _ in range(3):
            logging.getLogger("opentelemetry.util.re").warning("Header format invalid! %s", PAIR)
    finally:
        logging.getLogger().removeHandler(listener)
    assert [line for line in heard if "c2VjcmV0" in line] == []
    assert len([line for line in heard if "Header format invalid!" in line]) == 1


class _Stuck:
    """A reader whose collector never answers."""

    def __init__(self, go_on: threading.Event) -> None:
        self.go_on = go_on
        self.is_over = threading.Event()

    def shutdown(self, timeout_millis: float = 30_000) -> None:
        """See `MetricReader`."""
        self.go_on.wait(60)
        self.is_over.set()


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_the_end_waits_so_long_and_no_longer(
    exporting: Exporting, is_interrupted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all of them together, or until an interrupt: else it would be ended by the test's own deadline."""
    monkeypatch.setattr(exporters, "END_SECONDS", 1000.0 if is_interrupted else 0.05)
    looks = iter([False, False])
    go_on = threading.Event()
    stuck = [_Stuck(go_on), _Stuck(go_on)]
    exporting.own += stuck
    exporting.close(lambda: is_interrupted and next(looks, True))
    assert not any(one.is_over.is_set() for one in stuck)
    go_on.set()
    assert all(one.is_over.wait(60) for one in stuck), "they were asked, and go on by themselves"


@pytest.mark.parametrize("hurries", [False, True])
def test_what_raises_at_its_end_is_nobodys_trouble(exporting: Exporting, hurries: bool) -> None:
    """Nor is anybody asked where the operator wants the end at once."""
    asked = []

    class Broken:
        def shutdown(self) -> None:
            asked.append(1)
            raise RuntimeError("no room")

    exporting.own.append(Broken())
    exporting.close(lambda: hurries)
    assert asked == ([] if hurries else [1])


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"service.name": "helix-crawl-otel"}),
        ({"OTEL_SERVICE_NAME": "night"}, {"service.name": "night"}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,service.instance.id=b,host.name=c,team=d%20e"},
            {"service.name": "a", "service.instance.id": "b", "host.name": "c", "team": "d e"},
        ),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.version=9", "OTEL_SERVICE_NAME": "n"}, {"service.version": "9"}),
    ],
)
def test_the_operators_word_stands_above_ours(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: dict[str, str]
) -> None:
    """Of what nobody says there is a value all the same."""
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = dict(run_resource().attributes)
    assert {name: found[name] for name in expected} == expected
    assert all(found[name] for name in ("service.name", "service.version", "service.instance.id", "host.name"))
    assert instance_id() == found["service.instance.id"]


@pytest.mark.parametrize(
    ("variables", "typed", "serves"),
    [
        ({}, (), True),
        ({}, ("--no-metrics",), False),
        ({METRICS: "otlp"}, (), False),
        ({METRICS: "none"}, (), False),
        ({METRICS: "none", "OTEL_EXPORTER_PROMETHEUS_PORT": "0"}, (), False),
        ({METRICS: "otlp,prometheus"}, (), True),
        ({METRICS: "otlp,prometheus"}, ("--no-metrics",), False),
        ({METRICS: "otlp"}, ("--metrics-port", "0"), True),
        ({METRICS: "otlp", "OTEL_SDK_DISABLED": "true"}, ("--metrics-port", "0"), False),
    ],
)
def test_when_there_is_an_endpoint(
    variables: dict[str, str], typed: tuple[str, ...], serves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the variables say; an option that asks for one stands above them, `--no-metrics` too."""
    for name in (METRICS, "OTEL_SDK_DISABLED", "OTEL_EXPORTER_PROMETHEUS_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    parser = argparse.ArgumentParser()
    add_common_options(parser)
    assert read_common_options(parser.parse_args(typed)).serves_metrics is serves
