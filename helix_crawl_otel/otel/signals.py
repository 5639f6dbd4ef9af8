"""Batches and actions as spans, actions as log records, where somebody has asked for them.

Both are made where the timeline is written: who has not asked has a plain `TimelineWriter`, and nothing is looked at a
batch. Each span is a trace of its own, so that a sampler (`OTEL_TRACES_SAMPLER`) can take some, and no trace grows with
the job.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, SeverityNumber, get_logger_provider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider

from helix_crawl_otel._version import __version__
from helix_crawl_otel.logs import logger
from helix_crawl_otel.otel.instruments import label
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome
from helix_crawl_otel.timeline import TimelineWriter

__all__ = ["BATCH", "EVENT", "TracedTimeline", "global_timeline"]

Provider = TypeVar("Provider")

SCOPE = "helix_crawl_otel"
BATCH, EVENT = "helix_dense.batch", "helix_dense.action"
"""Names of the spans; the second one of the log records too."""


class TracedTimeline(TimelineWriter):
    """Writes the timeline, and tells of the same batches and actions by OpenTelemetry.

    Args:
        path: See `TimelineWriter`.
        clock: The same.
        tracers: `None` for no spans.
        loggers: `None` for no log records.
        named: Further arguments of `TimelineWriter`.

    Threads: any. What goes wrong in a provider is logged once and never reaches the job.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Callable[[], float],
        tracers: TracerProvider | None,
        loggers: LoggerProvider | None,
        **named: Any,
    ) -> None:
        super().__init__(path, clock, **named)
        self._tracer = tracers.get_tracer(SCOPE, __version__) if tracers is not None else None
        self._records = loggers.get_logger(SCOPE, __version__) if loggers is not None else None
        self._telling = threading.Lock()
        self._issued: dict[tuple[str, str], float] = {}  # guarded by _telling
        self._has_failed = False
        self.hooks = (self.issued,)

    def batch(
        self,
        t: float,
        shard: str,
        device: str,
        genes: float,
        seconds: float,
        work: float | None = None,
        worker: str | None = None,
        **named: Any,
    ) -> None:
        """See `TimelineWriter`."""
        super().batch(t, shard, device, genes, seconds, work, worker, **named)
        if self._tracer is None:
            return
        facts = {"shard": shard, "device": device, "genes": genes, "seconds": seconds, "work": work, "worker": worker}
        facts["tokens"] = named.get("tokens")
        self._safely(lambda: self._tell_batch(t, seconds, facts, is_finished=named.get("event", "batch") == "batch"))

    def issued(self, action: Action) -> None:
        """A hook of the pipeline's: an action is issued now."""
        with self._telling:
            self._issued[action.shard, action.kind.value] = self._clock()

    def action(
        self, t: float, shard: str, kind: str, outcome: str, evidence: Mapping[str, Any] | None = None, **more: object
    ) -> None:
        """See `TimelineWriter`."""
        super().action(t, shard, kind, outcome, evidence, **more)
        with self._telling:
            began = self._issued.pop((shard, kind), t)
        facts = {"shard": shard, "action": kind, "rung": ActionKind(kind).rung, "outcome": outcome}
        told = {**facts, **{f"evidence.{name}": value for name, value in (evidence or {}).items()}}
        self._safely(lambda: self._tell_action(began, t, told))

    def _tell_batch(self, t: float, seconds: float, facts: dict[str, Any], *, is_finished: bool) -> None:
        span = self._span(BATCH, t - seconds, facts)
        if not is_finished:
            span.set_status(Status(StatusCode.ERROR, "its worker ended in it"))
        span.end(self._moment(t))

    def _tell_action(self, began: float, t: float, facts: dict[str, Any]) -> None:
        has_failed = facts["outcome"] == Outcome.FAILED.value
        context = None
        if self._tracer is not None:
            span = self._span(EVENT, began, facts)
            if has_failed:
                span.set_status(Status(StatusCode.ERROR))
            span.end(self._moment(t))
            context = trace.set_span_in_context(span)
        if self._records is not None:
            self._records.emit(
                timestamp=self._moment(t),
                observed_timestamp=time.time_ns(),
                context=context,
                severity_number=SeverityNumber.ERROR if has_failed else SeverityNumber.WARN,
                severity_text="ERROR" if has_failed else "WARN",
                body=f"{facts['action']} {facts['outcome'].replace('_', ' ')}: shard {label(facts['shard'])}",
                attributes=_attributes(facts),
                event_name=EVENT,
            )

    def _span(self, name: str, began: float, facts: dict[str, Any]) -> Span:
        assert self._tracer is not None
        root = trace.set_span_in_context(trace.INVALID_SPAN)
        return self._tracer.start_span(name, root, attributes=_attributes(facts), start_time=self._moment(began))

    def _moment(self, t: float) -> int:
        """A time of the run's clock as nanoseconds since 1970."""
        return time.time_ns() - round((self._clock() - t) * 1e9)

    def _safely(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - the provider may be anybody's, and the job must go on
            if not self._has_failed:
                logger.warning("a span or a log record cannot be made, the run goes on: %r", error)
            self._has_failed = True


def global_timeline(
    path: str | os.PathLike[str] | None,
    clock: Callable[[], float],
    tells_spans: bool,
    tells_records: bool,
    **named: Any,
) -> TracedTimeline:
    """One that tells the global providers of this process, whoever sets them, before or after.

    Args:
        path: `None` for no file.
        clock: See `TimelineWriter`.
        tells_spans: Batches and actions as spans.
        tells_records: Actions as log records.
        named: Further arguments of `TimelineWriter`.

    Raises:
        OSError: The file cannot be opened.
    """
    tracers = _provider(trace.get_tracer_provider) if tells_spans else None
    loggers = _provider(get_logger_provider) if tells_records else None
    return TracedTimeline(os.devnull if path is None else path, clock, tracers, loggers, **named)


def _provider(get: Callable[[], Provider]) -> Provider | None:
    try:
        return get()
    except Exception as error:  # noqa: BLE001 - one that a variable names may not be there, and the job must go on
        logger.warning("spans or log records are not made, the job goes on: %r", error)
        return None


def _attributes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What is known, as attributes: no text in them breaks an exporter."""
    return {
        name: label(value) if isinstance(value, str) else value for name, value in facts.items() if value is not None
    }
