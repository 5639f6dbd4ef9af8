"""Events and progress as sentences for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from helix_crawl_otel.console.progress import Activity, Progress, ShardProgress
from helix_crawl_otel.numbers import count, duration, genes, gib, printable, rate, shard_name
from helix_crawl_otel.supervise import events

__all__ = ["activity_text", "progress_lines", "progress_text", "sentence_of", "shard_text"]

LONG_BATCH_SECONDS = 10.0
"""A batch that has been running for so long is worth a word."""

MOST_SHARDS = 8
"""Shards that are shown; those beyond are in the total."""

_INTERRUPTS = ("finishing the batches in flight; interrupt again to end at once", "ending at once")


def sentence_of(event: events.Event) -> str | None:
    """An event for people; `None` when it is not worth a line. Actions have theirs in the log, `[crawl-watchdog]`."""
    say = _SENTENCES.get(type(event))
    text = None if say is None else say(event)
    return None if text is None else printable(text)


def _started(event: events.RunStarted) -> str:
    done = f", {event.complete:,} complete already" if event.complete else ""
    shards = f"{count(event.shards, 'shard')}{done}; " if event.shards else ""
    return f"{event.command}: {shards}{event.model} on {_places(event.devices)} ({event.why})"


def _places(devices: Sequence[str]) -> str:
    """Such as `cpu`, `2 x cpu` or `cuda:0, cuda:1`."""
    return ", ".join(name if times == 1 else f"{times} x {name}" for name, times in Counter(devices).items())


def _worker(event: events.WorkerStarted) -> str:
    place = "" if event.slot.partition("#")[0] == event.device else f" on {event.device}"
    why = "" if event.reason == "first" else f" ({event.reason})"
    return f"worker {event.slot} starts{place}, process {event.pid}{why}"


def _gate(event: events.Gate) -> str | None:
    if event.state == "waiting":
        return None
    used = "" if event.used_bytes is None else f", {gib(event.used_bytes)} in use"
    return f"memory of {event.device}: {event.state}{used}; the next worker starts"


def _crash(event: events.Crash) -> str:
    if event.retry_in_seconds is None:
        return f"worker {event.slot} crashed again ({event.why}); given up"
    left = f"{count(event.restarts_left, 'restart')} left" if event.restarts_left else "the last restart"
    return f"worker {event.slot} crashed: {event.why}; started again in {event.retry_in_seconds:.0f} s ({left})"


def _ingested(event: events.Ingested) -> str | None:
    if not (event.added or event.removed or event.skipped):
        return None
    changes = [f"{count(event.sources, 'source')}", f"{genes(event.added)} new"]
    if event.removed:
        changes.append(f"{genes(event.removed)} removed")
    if event.skipped:
        changes.append(f"{count(event.skipped, 'source')} skipped (no text)")
    return f"shard {shard_name(event.shard)}: {', '.join(changes)}"


def _begun(event: events.ShardStarted) -> str:
    what = "" if event.pending is None else f": {genes(event.pending)} to encode"
    return f"shard {shard_name(event.shard)}{what} on {event.device}"


def _ended(event: events.ShardEnded) -> str:
    reason = f": {event.reason}" if event.reason else ""
    return f"shard {shard_name(event.shard)} {event.state}, {genes(event.encoded)} encoded{reason}"


_SENTENCES: dict[type, Any] = {
    events.RunStarted: _started,
    events.MetricsAt: lambda event: f"metrics: {event.url}",
    events.Note: lambda event: event.text,
    events.WorkerStarted: _worker,
    events.ModelLoading: lambda event: f"loading {event.model} on {event.device}",
    events.ModelLoaded: lambda event: f"{event.model} loaded on {event.device} in {duration(event.seconds)}",
    events.Ingested: _ingested,
    events.ShardStarted: _begun,
    events.Gate: _gate,
    events.Crash: _crash,
    events.Quarantined: lambda event: (
        f"shard {shard_name(event.shard)}: gene {event.gene} is quarantined: {event.reason}"
    ),
    events.SourceTrouble: lambda event: f"shard {shard_name(event.shard)}: {event.source}: {event.reason}",
    events.ShardEnded: _ended,
    events.Interrupted: lambda event: _INTERRUPTS[min(event.times, 2) - 1],
}


def progress_text(now: float, progress: Progress) -> str:
    """How far the whole run is, such as `2 of 6 shards, 128 of at least 604 genes, 10.5 genes/s, 58 s to go`."""
    least = "" if progress.is_all_known else "at least "
    parts = [f"{progress.ended:,} of {count(progress.shards, 'shard')}"] if progress.shards else []
    is_blind = any(shard.total is None for shard in progress.running.values())
    if is_blind or not progress.shards or (least and not progress.left):
        parts.append(genes(progress.encoded))
    else:
        parts.append(f"{progress.encoded:,} of {least}{genes(progress.encoded + progress.left)}")
    if (speed := progress.rate(now)) is not None:
        parts.append(rate(speed))
    if (to_go := progress.to_go(now)) is not None:
        parts.append(f"{least}{duration(to_go)} to go")
    return ", ".join(parts)


def progress_lines(now: float, progress: Progress) -> list[str]:
    """The whole run in one line, then one for each shard that is encoded and each slot that does something else."""
    lines = [progress_text(now, progress)]
    for name, shard in list(progress.running.items())[:MOST_SHARDS]:
        percent = "" if not shard.total else f"{100 * shard.done // shard.total} %, "
        lines.append(printable(f"  {shard_name(name)}: {percent}{shard_text(now, shard, progress)}"))
    busy = {shard.slot for shard in progress.running.values()}
    for slot, activity in progress.activities.items():
        if slot not in busy:
            lines.append(printable(f"  {slot}: {activity_text(now, activity)}"))
    return lines


def shard_text(now: float, shard: ShardProgress, progress: Progress) -> str:
    """Such as `CRAWLING, cuda:0 3.1 of 15.3 genes/s, memory 99 %, rung 1, batch of 64 running for 3 min 10 s`.

    What matters most stands first: a narrow terminal shows that.
    """
    activity = progress.activities.get(shard.slot)
    parts = ["CRAWLING"] if shard.is_crawling else []
    if activity is not None:
        parts.append(activity_text(now, activity))
    parts.append(shard.device if shard.rate is None else f"{shard.device} {rate(shard.rate, shard.baseline)}")
    age = 0.0 if shard.batch_since is None else now - shard.batch_since
    if age >= LONG_BATCH_SECONDS:
        parts.append(f"batch of {shard.batch_genes} running for {duration(age)}")
    if shard.memory_fraction is not None:
        parts.append(f"memory {100 * shard.memory_fraction:.0f} %")
    if shard.rung:
        parts.append(f"rung {shard.rung}")
    return ", ".join(parts)


def activity_text(now: float, activity: Activity) -> str:
    """Such as `loading minilm, for 12 s`."""
    return f"{activity.text}, for {duration(max(0.0, now - activity.since))}"
