"""Real runs whose telemetry goes to a collector: by providers of ours, by those that a process has before, by none."""

from __future__ import annotations

import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.policy.instruments import INSTRUMENTS, Kind
from tests.build.rig import COMMAND, Done, Rig, run_here
from tests.programs import require_installed
from tests.standins.collector import Collector, attributes_of

require_installed("opentelemetry.distro", "opentelemetry-distro")

INSTRUMENT = [
    *(sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()"),
    sys.executable,
]
"""What the program `opentelemetry-instrument` does, with the Python of the tests."""

OF_A_REAL_CARD = ("hw.", "helix_dense_device_info")

CRAWL = (
    *("--batch-size", "8", "--window", "4", "--fault", "clock:rate=100"),
    *("--fault", "card:limit_gib=12,warmup_seconds=0,leak_gib=2,batch_seconds=1"),
)


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One that answers."""
    with Collector() as found:
        yield found


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A small tree, whose builds serve on a port of their own."""
    rig = Rig(tmp_path, options=("--model", "hashing", "--device", "cpu"))
    return rig.write({f"a/{n}.txt": f"Text number {n}." for n in range(3)})


def run(rig: Rig, command: list[str], **environ: str) -> Done:
    """Run a command with these variables."""
    with rig.started(command, **environ) as process:
        return rig.ended(process)


def instrumented(rig: Rig, *more: str, **environ: str) -> Done:
    """A build under `opentelemetry-instrument`."""
    return run(rig, [*INSTRUMENT, *rig.build_command(*more)[1:]], **environ)


def test_under_opentelemetry_instrument_its_providers_are_used(rig: Rig, collector: Collector) -> None:
    """All three signals arrive, each once; one line says whose provider it is; the workers have no exporters."""
    rig.write({f"a/{n:03}.txt": f"Text number {n}." for n in range(400)})
    variables = {"OTEL_SERVICE_NAME": "night", "OTEL_RESOURCE_ATTRIBUTES": "team=search"}
    variables["OTEL_METRIC_EXPORT_INTERVAL"] = "200"
    done = instrumented(rig, *CRAWL, **collector.environ(**variables))
    assert done.code == 0, done.errors
    assert "Traceback" not in done.errors
    notes = [event["text"] for event in done.of("note") if event["level"] == "info"]
    assert len(notes) == 1
    assert notes[0].startswith("the provider that is set already is used (MeterProvider")
    assert done.of("metrics_at") == []
    points = collector.points()
    assert {point.resource["service.name"] for point in points} == {"night"}
    assert {point.resource["team"] for point in points} == {"search"}
    assert len({point.resource["service.instance.id"] for point in points}) == 1, "no worker has sent anything"
    missing = {row.name for row in INSTRUMENTS} - {point.name for point in points}
    assert {name for name in missing if not name.startswith(OF_A_REAL_CARD)} == set()
    batches = [span for span in collector.spans() if span.name == "helix_dense.batch"]
    actions = [span for span in collector.spans() if span.name == "helix_dense.action"]
    assert len(batches) >= 50
    told = [(attributes_of(record), record) for record in collector.records() if record.event_name]
    ended = [(event["action"], event["outcome"]) for event in done.of("action")]
    assert ("DETECT", "applied") in ended
    assert [(facts["action"], facts["outcome"]) for facts, _ in told] == ended
    assert [(attributes_of(span)["action"], attributes_of(span)["outcome"]) for span in actions] == ended
    spans = {span.span_id for span in actions}
    for facts, record in told:
        assert record.event_name == "helix_dense.action"
        assert record.span_id in spans, "a record leads to the span of its action"
        assert facts["shard"] == "a"
        assert facts["rung"] == ["DETECT", "EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"].index(facts["action"])
        assert facts["evidence.baseline"] > 0


def test_ours_are_made_as_the_variables_say(rig: Rig, collector: Collector) -> None:
    """By gRPC and for a scrape at once; the headers are sent and not shown; deltas add up; nobody asked for spans."""
    done = run(
        rig,
        rig.build_command("--metrics-port", "0"),
        **collector.environ(
            "grpc",
            OTEL_METRICS_EXPORTER="otlp,prometheus",
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20c2VjcmV0,x-token Bearer c2VjcmV0",
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
            OTEL_METRIC_EXPORT_INTERVAL="100",
            OTEL_SERVICE_NAME="night",
        ),
    )
    assert done.code == 0, done.errors
    [at] = done.of("metrics_at")
    assert at["url"].startswith("http://127.0.0.1:")
    [note] = [event["text"] for event in done.of("note") if event["level"] == "info"]
    assert note.startswith("metrics: by otlp (grpc) to 127.0.0.1:")
    assert "c2VjcmV0" not in done.errors + repr(done.events)
    assert {headers["authorization"] for _, headers, _ in collector.requests} == {"Basic c2VjcmV0"}
    assert len(collector.requests) > 1
    states = {point.attributes["state"]: point.value for point in collector.points("helix_dense_run_state")}
    assert states == {"running": 0, "paused": 0, "done": 1, "failed": 0}, "the last that is sent carries the end"
    genes = collector.points("helix_dense_genes")
    assert all(point.is_delta and point.is_monotonic for point in genes)
    assert sum(point.value for point in genes) == 3, "deltas of what is observed add up to the total"
    assert not any(point.is_delta for point in collector.points("helix_dense_shards"))
    kinds = {point.name: (point.kind, point.is_monotonic) for point in collector.points()}
    wanted = {
        Kind.COUNTER: ("sum", True),
        Kind.UP_DOWN_COUNTER: ("sum", False),
        Kind.GAUGE: ("gauge", False),
        Kind.HISTOGRAM: ("histogram", False),
    }
    rows = {row.name: row for row in INSTRUMENTS if row.name in kinds}
    assert {name: kinds[name] for name in rows} == {name: wanted[row.kind] for name, row in rows.items()}
    assert len(rows) > 10
    [resource] = {tuple(sorted(point.resource.items())) for point in collector.points()}
    assert dict(resource)["service.name"] == "night"
    assert {"service.version", "service.instance.id", "host.name"} <= set(dict(resource))
    assert (collector.spans(), collector.records()) == ([], [])


def test_the_resource_reaches_the_endpoint(rig: Rig) -> None:
    """As `target_info`: who, which start, where."""
    variables = {"OTEL_SERVICE_NAME": "night", "OTEL_RESOURCE_ATTRIBUTES": "team=search,service.instance.id=one"}
    slow = rig.build_command("--metrics-port", "0", "--fault", "slow:seconds=60")
    with rig.started(slow, **variables) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if b'"metrics_at"' in line)
        url = line.decode().split('"url": "')[1].split('"')[0]
        text = urllib.request.urlopen(url, timeout=30).read().decode()
        process.kill()
    [info] = [line for line in text.splitlines() if line.startswith("target_info{")]
    for label in (
        'service_name="night"',
        'team="search"',
        'service_instance_id="one"',
        "service_version=",
        "host_name=",
    ):
        assert label in info


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_SDK_DISABLED": "true", "OTEL_METRICS_EXPORTER": "otlp"}, "OTEL_SDK_DISABLED is true"),
        (
            {"OTEL_PYTHON_METER_PROVIDER": "sdk_meter_provider"},
            "the provider that is set already is used (MeterProvider)",
        ),
    ],
)
def test_without_an_exporter(rig: Rig, variables: dict[str, str], said: str) -> None:
    """Nothing is served, and one line says why."""
    done = run(rig, rig.build_command(), **variables)
    assert (done.code, done.errors) == (0, "")
    assert done.of("metrics_at") == []
    assert [event["text"].startswith(said) for event in done.of("note")] == [True]


@pytest.mark.parametrize("variable", ["OTEL_PYTHON_METER_PROVIDER", "OTEL_METRICS_EXPORTER"])
def test_a_bad_word_ends_it_before_anything_begins(rig: Rig, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2, one sentence, no shard."""
    monkeypatch.setenv(variable, "gremlin")
    code, out, errors = run_here(*rig.build_command()[len(COMMAND) :])
    assert code == 2, out
    assert errors.startswith(f"helix-crawl: error: {variable} is 'gremlin'")
    assert errors.count("\n") == 1
    assert not (rig.out / "a.db").exists()


def test_a_driver_under_run_needs_no_exporter_and_counts_nothing_twice(tmp_path: Path, collector: Collector) -> None:
    """The supervisor exports; a driver that has a provider of its own, exporting to the same place, adds nothing."""
    rig = Rig(tmp_path)
    driver = tmp_path / "driver.py"
    driver.write_text(
        "from opentelemetry import metrics\n"
        "from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader\n"
        "from helix_crawl_otel import CrawlWatch\n"
        "provider = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])\n"
        "metrics.set_meter_provider(provider)\n"
        "provider.get_meter('own').create_counter('own').add(1)\n"
        "with CrawlWatch() as watch, watch.shard('a', device='cpu') as shard:\n"
        "    for _ in range(5):\n"
        "        with shard.batch(genes=8):\n"
        "            pass\n"
        "        shard.boundary()\n"
    )
    command = [*COMMAND, "run", "--no-metrics", "--json", "--", sys.executable, str(driver)]
    done = run(rig, command, **collector.environ(OTEL_METRICS_EXPORTER="otlp", OTEL_SERVICE_NAME="night"))
    assert done.code == 0, done.errors
    assert {point.value for point in collector.points("own")} == {1}
    genes = collector.points("helix_dense_genes")
    assert len({point.resource["service.instance.id"] for point in genes}) == 1
    assert genes[-1].value == 40


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_collector_that_never_answers_delays_the_end_by_its_bound(rig: Rig, protocol: str, is_ours: bool) -> None:
    """5 s and what a start and an end of Python take; the SDK alone would wait for each exporter's own time-out."""
    variables = {f"OTEL_{signal}_EXPORTER": "otlp" for signal in ("METRICS", "TRACES", "LOGS")}
    with Collector(is_stuck=True) as stuck:
        environ = stuck.environ(
            protocol, OTEL_METRIC_EXPORT_INTERVAL="500", OTEL_EXPORTER_OTLP_TIMEOUT="300", **variables
        )
        began = time.monotonic()
        done = run(rig, rig.build_command(), **environ) if is_ours else instrumented(rig, **environ)
        took = time.monotonic() - began
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == 3
    assert took < 40, "far below the time-outs of 300 s, and the 30 s for each provider"
