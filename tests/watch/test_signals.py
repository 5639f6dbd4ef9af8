"""Spans and log records of a job that watches itself: to its own global providers, where the variables ask for them."""

from __future__ import annotations

import pytest

from tests.otel.fresh import run_fresh

JOB = """
from opentelemetry import trace
from opentelemetry._logs import get_logger_provider, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.watch.rig import Rig

spans, records = InMemorySpanExporter(), InMemoryLogRecordExporter()
with Rig() as rig:
    trace.set_tracer_provider(TracerProvider())  # after the watch, as an app may
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(spans))
    set_logger_provider(LoggerProvider())
    get_logger_provider().add_log_record_processor(SimpleLogRecordProcessor(records))
    with rig.watch.shard("a", on_demote=lambda: None) as shard:
        rig.healthy(shard).crawl(shard, 10)
        assert shard.device == "cpu"
names = [span.name for span in spans.get_finished_spans()]
told = [record.log_record.attributes["action"] for record in records.get_finished_logs()]
print(names.count("helix_dense.batch"), names.count("helix_dense.action"), *told)
"""


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "0 0"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": ""}, "0 0"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "19 4"),
        ({"OTEL_LOGS_EXPORTER": "console"}, "0 0 DETECT EMPTY_CACHE RECYCLE DEMOTE_CPU"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_PYTHON_TRACER_PROVIDER": "of_nobody"}, "0 0"),
    ],
)
def test_the_jobs_own_providers_are_told_of_what_is_asked_for(variables: dict[str, str], said: str) -> None:
    """Whether they are set before or after the watch was made; a provider that is not there ends no job."""
    assert run_fresh(JOB, environ=variables).splitlines()[-1] == said
