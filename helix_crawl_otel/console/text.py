"""Events, progress and the end of a run as sentences for people."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helix_crawl_otel.console.progress import LONG_BATCH_SECONDS, Activity, Progress, ShardProgress
from helix_crawl_otel.formats import (
    count,
    duration,
    genes,
    gib,
    rate,
    shard_name,
    shown_command,
    size,
    whole_seconds,
)
from helix_crawl_otel.policy.model import UNKNOWN_DEVICE
from helix_crawl_otel.shards.inspect import Unread
from helix_crawl_otel.supervise import events

__all__ = [
    "Summary",
    "activity_text",
    "lines_of",
    "look_lines",
    "percent",
    "places",
    "progress_lines",
    "progress_text",
    "shard_text",
]

MOST_SHARDS = 8
"""Shards that are shown; those beyond are in the total."""

LEAST_TOLD_SECONDS = 1.0
MOST_FAILED = 10

_INTERRUPTS = ("finishing the batches in flight; interrupt again to end at once", "ending at once")


MOST_REASONS = 6
LEAST_SHARE = 0.01

_OF_COURSE = ("hidden", "caches", "what Windows", "the folder of the shards")
"""Reasons for which every build leaves things out: they come last."""


def lines_of(event: events.Event) -> list[str]:
    """An event for people: a line, of a look several, none when it is not worth one. Actions have theirs in the log,
    `[crawl-watchdog]`.
    """
    if isinstance(event, events.TreeLooked):
        return look_lines(event)
    say = _SENTENCES.get(type(event))
    text = None if say is None else say(event)
    return [] if text is None else [text]


def _started(event: events.RunStarted) -> str:
    done = f", {event.complete:,} complete already" if event.complete else ""
    shards = f"{count(event.shards, 'shard')}{done}; " if event.shards else ""
    return f"{event.command}: {shards}{event.model} on {places(event.devices)} ({event.why})"


def places(devices: Sequence[str]) -> str:
    """Such as `cpu`, `2 x cpu` or `cuda:0, cuda:1`."""
    if list(devices) == [UNKNOWN_DEVICE]:
        return "an unknown device"
    return ", ".join(name if times == 1 else f"{times} x {name}" for name, times in Counter(devices).items())


def look_lines(event: events.TreeLooked) -> list[str]:
    """What a look at the whole tree came to: one line, and one for each thing to be known before it is built."""
    about = f"about {count(event.passages, 'passage')}"
    trees = ", ".join(event.sources)
    lines = [f"{trees}: {count(event.files, 'file')} in {count(event.shards, 'shard')}, {size(event.bytes)}, {about}"]
    lines += [f"  {title:<11} {text}" for title, text in _look_rows(event)]
    return lines


def _look_rows(event: events.TreeLooked) -> Iterator[tuple[str, str]]:
    reasons = sorted(event.left_out, key=lambda row: str(row["why"]).startswith(_OF_COURSE))
    yield from _left_out(reasons[:MOST_REASONS])
    if len(reasons) > MOST_REASONS:
        yield "", f"and for {count(len(reasons) - MOST_REASONS, 'other reason')}"
    if event.unreadable:
        yield "unreadable", count(event.unreadable, "file or folder", "files and folders")
    if event.no_text:
        yield "no text", f"{count(event.no_text, 'file')}, {size(event.no_text_bytes)}: pictures, archives and the like"
    for number, row in enumerate(event.largest):
        if number and row["share"] < LEAST_SHARE:
            break
        share = f"{100 * row['share']:.0f} %" if row["share"] >= LEAST_SHARE else "< 1 %"
        yield "" if number else "largest", f"{size(row['bytes']):>8} {share:>5}  {row['source']}"
    if event.complete or event.pending < event.passages:
        left = f"about {count(event.pending, 'passage')}" if event.pending else "nothing"
        yield "to do", f"{left}; {event.complete:,} of {count(event.shards, 'shard')} complete"
    if event.pending:
        yield "time", _look_time(event)
    if event.pending and event.dominating is not None:
        first = event.largest[0]
        yield "note", f"{first['source']} alone makes about {100 * first['share']:.0f} % of all passages"
        yield "", f"{shown_command(['--exclude', event.dominating])} leaves it out, or --max-file-size"
    for pattern in event.unused:
        yield "note", f"--exclude {pattern} leaves nothing out; patterns count from the root of SRC, with /"


def _left_out(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(rows):
        kinds = [("folder", row["folders"]), ("file", row["files"])]
        what = " and ".join(count(times, kind) for kind, times in kinds if times)
        yield "" if number else "left out", f"{what}: {row['why']}"


def _look_time(event: events.TreeLooked) -> str:
    if event.seconds is None:
        return "shown with the first batches: no run here says how fast this model is on this machine"
    return f"about {_rough(event.seconds)} at {rate(event.rate)}, as the last run here on {event.rate_device}"


def _rough(seconds: float) -> str:
    return duration(max(1.0, seconds))


def _worker(event: events.WorkerStarted) -> str:
    is_told = event.device == UNKNOWN_DEVICE or event.slot.partition("#")[0] == event.device
    place = "" if is_told else f" on {event.device}"
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
    wait = whole_seconds(event.retry_in_seconds)
    return f"worker {event.slot} crashed: {event.why}; started again in {wait} ({left})"


def _ingested(event: events.Ingested) -> str | None:
    if not (event.added or event.removed or event.skipped):
        return None
    changes = [f"{count(event.sources, 'source')}", f"{genes(event.added)} new"]
    if event.removed:
        changes.append(f"{genes(event.removed)} removed")
    if event.skipped:
        changes.append(f"{event.skipped:,} skipped")
    return f"shard {shard_name(event.shard)}: {', '.join(changes)}"


def _begun(event: events.ShardStarted) -> str | None:
    if event.pending == 0:
        return None
    what = "" if event.pending is None else f": {genes(event.pending)} to encode"
    return f"shard {shard_name(event.shard)}{what} on {event.device}"


def _ended(event: events.ShardEnded) -> str:
    reason = f": {event.reason}" if event.reason else ""
    return f"shard {shard_name(event.shard)} {event.state}, {genes(event.encoded)} encoded{reason}"


def _text_of(row: Mapping[str, str]) -> str:
    """Which text a gene is, as somebody would look for it: its file, and how it begins."""
    return f" ({row['source']}: “{row['begins']}”)" if row.get("begins") else ""


_SENTENCES: dict[type, Callable[[Any], str | None]] = {
    events.RunStarted: _started,
    events.MetricsAt: lambda event: f"metrics: {event.url}",
    events.Note: lambda event: event.text,
    events.WorkerStarted: _worker,
    events.ModelLoading: lambda event: f"loading {event.model} on {event.device}",
    events.ModelLoaded: lambda event: (
        f"{event.model} loaded on {event.device} in {duration(event.seconds)}{event.why and f'; {event.why}'}"
    ),
    events.Ingested: _ingested,
    events.ShardStarted: _begun,
    events.Gate: _gate,
    events.Crash: _crash,
    events.Quarantined: lambda event: (
        f"shard {shard_name(event.shard)}: gene {event.gene}{_text_of(vars(event))} is quarantined: {event.reason}"
    ),
    events.SourceTrouble: lambda event: f"shard {shard_name(event.shard)}: {event.source}: {event.reason}",
    events.ShardEnded: _ended,
    events.Interrupted: lambda event: _INTERRUPTS[min(event.times, 2) - 1],
}


def percent(share: float) -> str:
    """Whole ones, such as `29 %`; 100 only of all of it."""
    return f"{int(100 * min(max(share, 0.0), 1.0) + 1e-9)} %"


def progress_text(now: float, progress: Progress) -> str:
    """How far the whole run is: `2 of 6 shards, 128 of about 604 genes (21 %), 10.5 genes/s, about 58 s to go`."""
    least = "at least " if not progress.is_all_known else "about " if progress.estimated else ""
    parts = [f"{progress.ended:,} of {count(progress.shards, 'shard')}"] if progress.shards else []
    of_what = " of the work" if progress.knows_work else ""
    is_blind = any(shard.total is None for shard in progress.running.values())
    if progress.run is not None and progress.run.expected is not None:
        done = progress.vectors + progress.encoded
        parts.append(f"{done:,} of {genes(progress.run.expected)} ({percent(progress.share or 0.0)})")
    elif is_blind or not progress.shards or (least and not progress.left):
        parts.append(genes(progress.encoded))
    else:
        share = "" if progress.share is None else f" ({percent(progress.share)}{of_what})"
        parts.append(f"{progress.encoded:,} of {least}{genes(progress.encoded + progress.left)}{share}")
    if (speed := progress.rate(now)) is not None:
        parts.append(f"at most {rate(speed)}" if progress.is_late(now) else rate(speed))
    least = "at least " if progress.is_late(now) else least
    if (to_go := progress.to_go(now)) is not None:
        parts.append(f"{least}{_rough(to_go)} to go")
    return ", ".join(parts)


def progress_lines(now: float, progress: Progress) -> list[str]:
    """The whole run in one line, then one for each shard that is encoded and each slot that does something else."""
    lines = [progress_text(now, progress)]
    for name, shard in list(progress.running.items())[:MOST_SHARDS]:
        share = "" if shard.share is None else f"{percent(shard.share)}, "
        lines.append(f"  {shard_name(name)}: {share}{shard_text(now, shard, progress)}")
    busy = {shard.slot for shard in progress.running.values()}
    for slot, activity in progress.activities.items():
        if slot not in busy:
            lines.append(f"  {slot}: {activity_text(now, activity)}")
    return lines


def shard_text(now: float, shard: ShardProgress, progress: Progress) -> str:
    """Such as `CRAWLING, cuda:0 3.1 of 15.3 genes/s, memory 99 %, rung 1, batch of 64 running for 3 min 10 s`.

    What matters most stands first: a narrow terminal shows that.
    """
    activity = progress.activities.get(shard.slot)
    parts = ["CRAWLING"] if shard.is_crawling else []
    if activity is not None:
        parts.append(activity_text(now, activity))
    most = shard.rate_of_batch(now)
    speed = f"at most {rate(most, shard.baseline)}" if most is not None else rate(shard.rate, shard.baseline)
    parts.append(shard.device if shard.rate is None else f"{shard.device} {speed}")
    age = shard.batch_age(now)
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


@dataclass(frozen=True)
class Summary:
    """The end of a run.

    Args:
        exit_code: See DESIGN.md, section 3.3.
        seconds: From the start.
        encoded: Genes.
        skipped: Genes in shards that were complete before.
        quarantined: Genes left out, in all shards of the run.
        quarantines: The first of them that this run put there: `shard`, `gene`, `source`, `begins`, `reason`.
        shards: How many there are in each state: `paused` ones have been begun, those `not begun` have no file yet.
        failed: Shards that failed, with the reason.
        source_problems: Sources that could not be read.
        unreadable: The first of them: `shard`, `source`, `reason`.
        actions: Actions applied, by name.
        starts: Workers started, by reason.
        crashes: Of workers.
        lost_seconds: What crawling batches took beyond their share, and what was thrown away of them.
        gate_seconds: How long the memory of cards was waited for between workers.
        would_have_saved: What `adaptive`, the `cap` and `batch_tokens` would have saved where they were off, by replay:
            `seconds` (`null`: unknown), `is_at_most`, and `text`, one sentence; without a crawl batches by tokens
            alone, where that is known. Empty where the run is too long for that: `report` says it.
        next_step: What to type next, empty when nothing is left to do.
        reason: Why it ended early, empty when it did not.
        logs: Files in which the workers wrote what they did, where something went wrong.
        unread: What the encoder has not read of the genes in these shards: how many are longer, their characters, how
            many of those are in no vector, and their `share`.
        can_cut: Their sources are there, to be cut anew.
        left_out: Files and folders left out by the user's wish: `why`, `files`, `folders`.
        skipped_sources: Sources that were skipped, in all shards of the run, by what they are.
        skipped_first: The first of each kind: `shard`, `source`, `what`, `reason`.
        skipped_list: The file that names all of them, empty where there is none.
        read_as: Sources that were not read as they stand, by what they were read as.
    """

    exit_code: int
    seconds: float
    encoded: int
    skipped: int = 0
    quarantined: int = 0
    quarantines: Sequence[Mapping[str, str]] = ()
    shards: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    source_problems: int = 0
    unreadable: Sequence[Mapping[str, str]] = ()
    actions: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)
    crashes: int = 0
    lost_seconds: float = 0.0
    gate_seconds: float = 0.0
    would_have_saved: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    next_step: str = ""
    reason: str = ""
    logs: Sequence[str] = ()
    unread: Unread = field(default_factory=Unread)
    can_cut: bool = False
    left_out: Sequence[Mapping[str, Any]] = ()
    skipped_sources: Mapping[str, int] = field(default_factory=dict)
    skipped_first: Sequence[Mapping[str, str]] = ()
    skipped_list: str = ""
    read_as: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            **dataclasses.asdict(self),
            "unread": self.unread.to_json(),
            "seconds": round(self.seconds, 3),
            "lost_seconds": round(self.lost_seconds, 3),
            "gate_seconds": round(self.gate_seconds, 3),
        }

    def lines(self) -> list[str]:
        """For people."""
        state = "failed" if self._is_failed_job else _STATES.get(self.exit_code, "ended")
        head = f"{state} after {duration(self.seconds)}: {genes(self.encoded)} encoded"
        if self.skipped:
            head += f", {genes(self.skipped)} skipped (their shards were complete before)"
        return [head, *(f"  {title:<13} {text}" for title, text in self._rows())]

    @property
    def _is_failed_job(self) -> bool:
        """Of `run`, which knows nothing of shards that are done."""
        return self.exit_code == 1 and not self.shards

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("why", self.reason)] if self.reason else []
        shards = ", ".join(f"{number:,} {state}" for state, number in self.shards.items() if number)
        rows += [("shards", shards)] if shards else []
        rows += self._trouble()
        rows += _left_out(self.left_out)
        actions = ", ".join(f"{name} {number}" for name, number in self.actions.items())
        rows += [("ladder", actions)] if actions else []
        restarts = ", ".join(f"{number} for {why}" for why, number in self.starts.items() if why != "first")
        rows += [("restarts", restarts)] if restarts else []
        if self.lost_seconds >= LEAST_TOLD_SECONDS:
            rows.append(("lost", f"{duration(self.lost_seconds)} to the crawl"))
        if self.gate_seconds >= LEAST_TOLD_SECONDS:
            rows.append(("waited", f"{duration(self.gate_seconds)} for the memory of cards to come back"))
        rows += [("would save", str(saving["text"])) for saving in self.would_have_saved.values()]
        if self.logs:
            rows.append(("worker logs", ", ".join(self.logs)))
        if self.exit_code:
            meaning = "the job failed" if self._is_failed_job else _MEANINGS.get(self.exit_code, "it failed")
            rows.append(("exit code", f"{self.exit_code}: {meaning}"))
        rows += [("next", self.next_step)] if self.next_step else []
        return rows

    def _trouble(self) -> list[tuple[str, str]]:
        rows = []
        for name, reason in list(self.failed.items())[:MOST_FAILED]:
            rows.append(("failed", f"shard {shard_name(name)}: {reason}"))
        if len(self.failed) > MOST_FAILED:
            rows.append(("", f"and {len(self.failed) - MOST_FAILED:,} more"))
        if self.quarantined:
            rows.append(("quarantined", f"{genes(self.quarantined)}; --retry-quarantined tries again"))
            rows += [
                ("", f"{row['gene']} in {shard_name(row['shard'])}{_text_of(row)}: {row['reason']}")
                for row in self.quarantines
            ]
        if self.unread.genes:
            rows.append(("not read", f"{self.unread}" + ("; --reencode cuts them anew" if self.can_cut else "")))
        if self.source_problems:
            rows.append(("unreadable", count(self.source_problems, "source")))
            rows += [("", f"{row['source']} in {shard_name(row['shard'])}: {row['reason']}") for row in self.unreadable]
            hidden = self.source_problems - len(self.unreadable)
            rows += [("", f"and {hidden:,} more")] if self.unreadable and hidden > 0 else []
        if self.skipped_sources:
            rows.append(("skipped", ", ".join(count(number, kind) for kind, number in self.skipped_sources.items())))
            rows += [("", f"{row['source']}: {row['reason']}") for row in self.skipped_first]
            hidden = sum(self.skipped_sources.values()) - len(self.skipped_first)
            more = f"all are named in {self.skipped_list}" if self.skipped_list else f"and {hidden:,} more"
            rows += [("", more)] if hidden > 0 else []
        if self.read_as:
            rows.append(("read as", ", ".join(f"{kind} {number:,}" for kind, number in self.read_as.items())))
        return rows


_STATES = {0: "done", 1: "finished, but not all is well,", 75: "paused", 78: "could not start", 130: "interrupted"}

_MEANINGS = {
    1: "shards, genes or sources failed; the rest is done",
    75: "paused, nothing is lost",
    78: "it can never start like this",
    130: "a second interrupt; only batches in flight are lost",
}
