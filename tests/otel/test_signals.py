"""Batches and actions as spans and log records, beside the timeline. Whole runs: tests/build/test_routes.py."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.otel.signals import TracedTimeline
from helix_crawl_otel.policy.model import Action, ActionKind
from helix_crawl_otel.supervise.session import Metrics, RunOptions, Session
from helix_crawl_otel.timeline import TimelineWriter, read_timeline
from tests.watch.rig import make_provider

NOW = 1000.0
"""What the run's clock says."""


class Told:
    """A timeline, and what was told beside it.

    Args:
        folder: Of the test.
        spans: Somebody asks for them.
        records: The same.
    """

    def __init__(self, folder: Path, *, spans: bool = True, records: bool = True) -> None:
        self.now = NOW
        self._spans, self._records = InMemorySpanExporter(), InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # is so
        tracers, loggers = TracerProvider(), LoggerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self._records))
        self.path = folder / "timeline.jsonl"
        self.timeline = TracedTimeline(
            self.path, lambda: self.now, tracers if spans else None, loggers if records else None
        )

    @property
    def spans(self) -> list[Any]:
        """What has ended."""
        return list(self._spans.get_finished_spans())

    @property
    def records(self) -> list[Any]:
        """What was emitted."""
        return [each.log_record for each in self._records.get_finished_logs()]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """Both are asked for."""
    return Told(tmp_path)


def ago(nanoseconds: int | None) -> float:
    """Seconds until now."""
    assert nanoseconds is not None
    return time.time() - nanoseconds / 1e9


def test_a_batch_is_a_span_from_its_start_to_its_end(told: Told) -> None:
    """On the world's clock, whatever the run's counts from; what is unknown is no attribute; a trace of its own."""
    for shard in ("a", "b"):
        told.timeline.batch(NOW - 100, shard, "cuda:0", genes=64, seconds=30.0, work=800, worker=None)
    first, second = told.spans
    assert first.name == "helix_dense.batch"
    assert ago(first.start_time) == pytest.approx(130, abs=60)
    assert (first.end_time - first.start_time) / 1e9 == pytest.approx(30.0, abs=1)
    assert first.attributes == {"shard": "a", "device": "cuda:0", "genes": 64, "seconds": 30.0, "work": 800}
    assert (first.parent, second.parent) == (None, None)
    assert first.context.trace_id != second.context.trace_id
    assert told.records == []


def test_a_batch_whose_worker_ended_in_it_is_an_error(told: Told) -> None:
    """It is the one that somebody looks for."""
    told.timeline.unfinished(NOW, "a", "cuda:0", 64, 2800.0, 800, "w")
    [span] = told.spans
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["work"] == 800


@pytest.mark.parametrize(("outcome", "level"), [("applied", "WARN"), ("overdue", "WARN"), ("failed", "ERROR")])
def test_an_action_is_a_span_and_a_record(told: Told, outcome: str, level: str) -> None:
    """From its issue to its end, with rung and evidence; the record leads to the span."""
    action = Action(7, ActionKind.RECYCLE, "a", "cuda:0", "", {})
    told.timeline.issued(action)
    told.now += 40
    told.timeline.action(told.now, "a", "RECYCLE", outcome, {"baseline": 15.3, "ema": None, "streak": 8})
    [span], [record] = told.spans, told.records
    facts = {"shard": "a", "action": "RECYCLE", "rung": 2, "outcome": outcome}
    facts |= {"evidence.baseline": 15.3, "evidence.streak": 8}
    assert dict(span.attributes) == dict(record.attributes) == facts
    assert (span.name, record.event_name) == ("helix_dense.action", "helix_dense.action")
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(40, abs=1)
    assert record.span_id == span.context.span_id
    assert (record.severity_text, record.body) == (level, f"RECYCLE {outcome}: shard a")
    assert span.status.is_ok is (outcome != "failed")


def test_an_action_that_was_never_issued_takes_no_time(told: Told) -> None:
    """A rung that is passed over; nor does it take the time of the one before."""
    told.timeline.action(NOW, "a", "RECYCLE", "passed_over", {})
    [span] = told.spans
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(0, abs=1)


@pytest.mark.parametrize(("spans", "records"), [(True, False), (False, True)])
def test_one_without_the_other(tmp_path: Path, spans: bool, records: bool) -> None:
    """Each has a variable of its own."""
    told = Told(tmp_path, spans=spans, records=records)
    told.timeline.batch(NOW, "a", "cpu", 1, 1.0)
    told.timeline.action(NOW, "a", "DETECT", "applied", {})
    assert (len(told.spans), len(told.records)) == (2 * spans, 1 * records)


def test_the_timeline_is_written_all_the_same(told: Told) -> None:
    """Line for line what a plain one has."""
    plain = TimelineWriter(told.path.with_name("plain.jsonl"), lambda: NOW)
    for timeline in (plain, told.timeline):
        timeline.batch(NOW, "a", "cpu", 64, 4.2, 800.0, "w", work_pending=5.0, shards_follow=True)
        timeline.unfinished(NOW, "a", "cpu", 64, 4.2)
        timeline.action(NOW, "a", "DETECT", "applied", {"ema": 2.3})
    assert list(read_timeline(told.path)) == list(read_timeline(Path(plain.path)))


def test_names_that_are_no_text_break_nothing(told: Told) -> None:
    """Names of files may hold anything, and an exporter encodes what it is given."""
    told.timeline.batch(NOW, "caf\udce9\x1b[2J", "cpu", 1, 1.0)
    told.timeline.action(NOW, "caf\udce9\x1b[2J", "DETECT", "applied", {})
    for facts in [*(span.attributes for span in told.spans), *(record.attributes for record in told.records)]:
        facts["shard"].encode()
        assert facts["shard"].isprintable()


def test_a_provider_that_raises_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be anybody's; the line in the timeline comes first."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return lambda *given, **named: self if name.startswith("get_") else self._fail()

        def _fail(self) -> None:
            raise RuntimeError("no room")

    broken: Any = Broken()
    timeline = TracedTimeline(tmp_path / "timeline.jsonl", lambda: NOW, broken, broken)
    for _ in range(3):
        timeline.batch(NOW, "a", "cpu", 1, 1.0)
        timeline.action(NOW, "a", "DETECT", "applied", {})
    assert len(list(read_timeline(tmp_path / "timeline.jsonl"))) == 6
    assert len([line for line in caplog.messages if "the run goes on" in line]) == 1


@pytest.mark.parametrize("asked", [False, True])
def test_who_asks_for_nothing_pays_nothing(tmp_path: Path, asked: bool) -> None:
    """Off, there is one look at the start, and the timeline is a plain one: not one line of this is run a batch."""
    options = RunOptions(CrawlConfig(), tmp_path, "", [], {}, keeps_logs=False)
    metrics = Metrics(make_provider()[0], loggers=LoggerProvider() if asked else None)
    with Session(options, metrics, lambda event: None, lambda: None) as session:
        assert type(session.timeline) is (TracedTimeline if asked else TimelineWriter)
        hooks = [hook for hook in session.pipeline.hooks if getattr(hook, "__self__", None) is session.timeline]
        assert len(hooks) == asked
