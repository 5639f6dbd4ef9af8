"""Shows what a replay found to a person: a header, a table with reasons, a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from helix_crawl_otel.formats import printable, span
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.engine import ReplayResult
from helix_crawl_otel.timeline import TimelineReader

__all__ = ["replay_lines", "skipped_lines"]

SKIPPED_SHOWN = 10

_SHOWN = {
    DecisionKind.PASSED_OVER: "passed over",
    DecisionKind.OVERDUE: "overdue",
    DecisionKind.RECOVERED: "recovered",
    DecisionKind.HANG: "hang",
}
"""Decisions shown beside the actions. That an action was applied or superseded says nothing new."""

_NOT_SEEN = (
    "The job itself detected a crawl. Either its knobs were others, or the crawl lay in a batch that left no line: "
    "it raised, the whole job was killed in it, or an older version recorded it."
)

_NOTHING_CHANGES = "What follows an action is what the job did: nothing that is asked for here changes the timeline."


def replay_lines(result: ReplayResult, reader: TimelineReader) -> list[str]:
    """The whole output."""
    parts = [*_header(result, reader), "", *_table(result), _sentence(result)]
    notes = skipped_lines(reader)
    if len(result.issued()) > result.actions[ActionKind.DETECT.value]:
        notes.insert(0, _NOTHING_CHANGES)
    if result.recorded.get(ActionKind.DETECT.value) and not result.actions[ActionKind.DETECT.value]:
        notes.insert(0, _NOT_SEEN)
    if result.ignored_samples:
        notes.append(f"{_many(result.ignored_samples, 'batch', 'batches')} could not be judged and did not count")
    return parts + notes


def skipped_lines(reader: TimelineReader) -> list[str]:
    """Which lines could not be used and why; none when all could."""
    lines = [f"line {number} skipped: {reason}" for number, reason in reader.skipped[:SKIPPED_SHOWN]]
    if reader.skipped_lines > SKIPPED_SHOWN:
        lines.append(f"and {reader.skipped_lines - SKIPPED_SHOWN} more; {reader.skipped_lines} lines skipped in all")
    if reader.torn_line is not None:
        lines.append(f"line {reader.torn_line}, the last, is cut short, as a killed job leaves it; not used")
    return lines


def _header(result: ReplayResult, reader: TimelineReader) -> Iterator[str]:
    yield f"timeline  {reader.name}"
    unfinished = f" and {result.unfinished_batches} that did not end" if result.unfinished_batches else ""
    yield (
        f"          {_many(result.batches, 'batch', 'batches')}{unfinished}, {_many(len(result.shards), 'shard')}, "
        f"{_many(max(len(result.runs), 1), 'run')}, {span(result.seconds, precisely=True)}"
    )
    for source in dict.fromkeys(run.source for run in result.runs if run.source):
        yield f"          reconstructed, not recorded: {source}"
    yield f"knobs     {_knobs(result.settings)}"
    for difference in dict.fromkeys(_differences(result)):
        yield f"          {difference}"
    if result.recorded:
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(result.recorded.items()))
        yield f"recorded  actions of the job itself: {counts}"


def _knobs(settings: Settings) -> str:
    return ", ".join(f"{field.name} {_value(getattr(settings, field.name))}" for field in dataclasses.fields(settings))


def _differences(result: ReplayResult) -> Iterator[str]:
    for run in result.runs:
        for field in dataclasses.fields(result.settings):
            recorded = run.config.get(field.name)
            if recorded is not None and recorded != getattr(result.settings, field.name):
                yield f"the job ran with {field.name} {_value(recorded)}"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)[:40]


def _table(result: ReplayResult) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("t (s)", "shard", "device", "what", "rung", "why")]
    run = 0
    for at, decision in result.decisions:
        what = (
            decision.kind.value if decision.what is DecisionKind.ISSUE and decision.kind else _SHOWN.get(decision.what)
        )
        if what is None:
            continue
        if at != run:
            rows.append(("", f"run {at + 1}", "", "", "", ""))
            run = at
        rows.append(_row(decision, what))
    if len(rows) == 1:
        return
    widths = [min(max(map(len, column)), 40) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            row[0].rjust(widths[0]),
            *(cell.ljust(width) for cell, width in zip(row[1:5], widths[1:5], strict=True)),
        ]
        yield "  ".join([*cells, row[5]]).rstrip()
    yield ""


def _row(decision: Decision, what: str) -> tuple[str, ...]:
    kind = f" ({decision.kind.value})" if decision.kind and decision.what is not DecisionKind.ISSUE else ""
    return (
        f"{decision.t:.1f}",
        printable(decision.shard),
        printable(decision.device),
        what + kind,
        str(decision.rung),
        decision.reason,
    )


def _sentence(result: ReplayResult) -> str:
    if not (result.batches or result.unfinished_batches):
        return "No batch is recorded, so there is nothing to judge."
    crawls = result.actions[ActionKind.DETECT.value]
    hangs = result.count(DecisionKind.HANG)
    tail = f"; {_many(hangs, 'hang')}" if hangs else ""
    if not crawls:
        return f"No crawl: the policy would have left {_all(len(result.shards))} alone{tail}."
    shards = {decision.shard for decision in result.issued()}
    remedies = [
        f"{count} {kind}" for kind, count in result.actions.items() if count and kind != ActionKind.DETECT.value
    ]
    return (
        f"{_many(crawls, 'crawl')} in {len(shards)} of {_many(len(result.shards), 'shard')}; "
        f"actions: {', '.join(remedies) or 'none'}{tail}."
    )


def _all(shards: int) -> str:
    return "the shard" if shards == 1 else f"all {shards} shards"


def _many(count: int, one: str, many: str | None = None) -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"
