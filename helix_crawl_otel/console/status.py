"""Says what runs in a folder and where it stands, or how it ended: by what the run tells of itself (`run_record`), by
who holds its lock, and by whether that process is still there. Nothing is locked, written or waited for.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helix_crawl_otel.console.progress import Activity, Progress, ShardProgress
from helix_crawl_otel.console.run_record import FILE, RunningShard, RunRecord, Standing, left_off, read_record
from helix_crawl_otel.console.text import activity_text, percent, places, shard_text
from helix_crawl_otel.dates import local_time, moment_of
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, NEVER, PAUSED, Refusal
from helix_crawl_otel.formats import duration, genes, rate, shard_name
from helix_crawl_otel.paths import STATE_FOLDER, TIMELINE, job_folder
from helix_crawl_otel.probes.processes import booted_at, process_mark
from helix_crawl_otel.supervise.lock import HOLDER, LockHolder, read_holder

__all__ = ["NoRun", "RunStatus", "judge", "status_of"]

FRESH_SECONDS = 60.0
"""A run that has told something of itself within them lives, on whatever machine; it does so every two seconds."""

MOST_ACTIONS = 5
MOST_FAILED = 10

_ENDS = {DONE: "done", FAILED: "failed", PAUSED: "paused", NEVER: "never", INTERRUPTED: "interrupted"}


class NoRun(Refusal):
    """There is nothing that a run has left. The message names the folder."""


@dataclass(frozen=True)
class RunStatus:
    """What is known of a folder.

    Args:
        state: `running`; how it ended: `done`, `failed`, `paused`, `never` (it can never start like this) or
            `interrupted` (a second Ctrl-C); `killed`: its process is gone without an end; `silent`: of another machine,
            and not heard of for long.
        why: One sentence, where the state does not say it all; else empty.
        folder: Of the job.
        holder: Of the lock; `None` where nobody holds one.
        record: What the run tells of itself; `None` where it has told nothing yet.
        quiet_seconds: Since when it has told nothing; `None` without a record.
    """

    state: str
    why: str
    folder: Path
    holder: LockHolder | None
    record: RunRecord | None
    quiet_seconds: float | None

    @property
    def exit_code(self) -> int:
        """0 while it runs and when it is done; 1 when something failed, or nobody knows how it ended; 75 when the same
        command goes on; 78 when it can never start like this.
        """
        codes = {"running": DONE, "done": DONE, "paused": PAUSED, "interrupted": PAUSED, "never": NEVER}
        return codes.get(self.state, FAILED)

    @property
    def command(self) -> str:
        """As it was typed."""
        return self.record.command if self.record is not None else self.holder.command if self.holder else ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "state": self.state,
            "why": self.why,
            "exit_code": self.exit_code,
            "folder": str(self.folder),
            "command": self.command,
            "holder": None if self.holder is None else asdict(self.holder),
            "quiet_seconds": None if self.quiet_seconds is None else round(self.quiet_seconds, 3),
            "run": None if self.record is None else asdict(self.record),
        }

    def lines(self, now: float) -> list[str]:
        """For people.

        Args:
            now: The date and time, as `time.time` has them.
        """
        head = f"{_HEADS[self.state]}: {self.command}" if self.command else _HEADS[self.state]
        lines = [head, *(f"  {title:<13} {text}" for title, text in self._rows(now))]
        if self.record is not None and self.record.end is not None:
            result, rows = self.record.end.lines[:1], self.record.end.lines[1:]
            lines += [f"  {'result':<13} {first}" for first in result]
            lines += [row for row in rows if not row.startswith("  shards ")]
        return lines

    def _rows(self, now: float) -> Iterator[tuple[str, str]]:
        if self.why:
            yield "why", self.why
        record, holder = self.record, self.holder
        if record is None:
            if holder is not None:
                yield "process", f"{holder.pid} on {holder.host}, since {holder.since}"
            if self.state == "killed":
                yield "next", f"{self.command}   # what is done is kept"
            return
        yield "folder", record.folder
        yield "process", f"{record.pid} on {record.host}"
        yield "since", _moment(record.started, now)
        if record.end is not None:
            yield "ended", _moment(record.end.time, now)
        elif self.state != "running" or (self.quiet_seconds or 0.0) > FRESH_SECONDS:
            yield "last word", _moment(record.as_of, now)
        yield "model", f"{record.model} on {places(record.devices)}"
        yield from _standing(record, self.quiet_seconds or 0.0, is_running=self.state == "running")
        if self.state == "running" and record.metrics:
            yield "metrics", record.metrics
        if self.state == "killed":
            yield "next", f"{record.command}   # it goes on where it was"


_HEADS = {
    "running": "running",
    "done": "done",
    "failed": "ended, but not all is well",
    "paused": "paused",
    "interrupted": "interrupted",
    "never": "could not start",
    "killed": "gone without an end",
    "silent": "not heard of",
}


def _moment(text: str, now: float) -> str:
    """Such as `2026-11-28T21:10:11+01:00 (12 min 05 s ago)`."""
    moment = moment_of(text)
    return text if moment is None else f"{local_time(moment)} ({duration(max(0.0, now - moment))} ago)"


def _standing(record: RunRecord, quiet_seconds: float, *, is_running: bool) -> Iterator[tuple[str, str]]:
    stands = record.standing if is_running else left_off(record.standing)
    if stands.shards:
        planned, *states = stands.shards.items()
        parts = [f"{number:,} {state.replace('_', ' ')}" for state, number in states if number]
        yield "shards", f"{', '.join(parts) or 'none begun'}, of {planned[1]:,}"
    yield "genes", _genes(record)
    if is_running:
        most = "at most " if stands.is_at_most else ""
        speed = [f"{most}{rate(stands.rate)}"] if stands.rate is not None else []
        if stands.to_go_seconds is not None:
            least = "" if stands.is_all_known and not stands.is_at_most else "at least "
            speed.append(f"{least}{duration(stands.to_go_seconds)} to go")
        if speed:
            yield "speed", ", ".join(speed)
        shown = _shown(stands, quiet_seconds)
        for one in stands.running:
            share = "" if one.share is None else f"{percent(one.share)}, "
            yield "now", f"{shard_name(one.shard)}: {share}{shard_text(0.0, shown.running[one.shard], shown)}"
        busy = {one.slot for one in shown.running.values()}
        for slot, activity in shown.activities.items():
            if slot not in busy:
                yield "now", f"{slot}: {activity_text(0.0, activity)}"
    for name, reason in list(stands.failed.items())[:MOST_FAILED] if record.end is None else []:
        yield "failed", f"shard {shard_name(name)}: {reason}"
    if stands.crashes:
        yield "crashes", f"{stands.crashes:,} of workers"
    if stands.quarantined and record.end is None:
        yield "quarantined", genes(stands.quarantined)
    for act in stands.actions[-MOST_ACTIONS:]:
        moment = moment_of(act.time)
        when = act.time if moment is None else local_time(moment)
        yield "ladder", f"{when} {act.action} {act.outcome.replace('_', ' ')}, shard {shard_name(act.shard)}"


def _genes(record: RunRecord) -> str:
    stands = record.standing
    least = "" if stands.is_all_known else "at least "
    if not stands.shards and record.expected is None:
        return f"{stands.encoded:,} encoded"
    if record.expected is not None:
        return f"{stands.vectors:,} of {record.expected:,} encoded"
    if not (stands.is_all_known or stands.vectors or stands.left):
        return "not counted yet"
    text = f"{stands.vectors:,} of {least}{genes(stands.vectors + stands.left)} have a vector"
    return text if stands.vectors == stands.encoded else f"{text}, {stands.encoded:,} of this run"


def _shown(stands: Standing, quiet_seconds: float) -> Progress:
    """What a display draws of: seconds are counted back from 0."""
    progress = Progress()
    for one in stands.running:
        progress.running[one.shard] = _shard(one, quiet_seconds)
    for activity in stands.activities:
        progress.activities[activity.slot] = Activity(activity.text, -activity.seconds - quiet_seconds)
    return progress


def _shard(one: RunningShard, quiet_seconds: float) -> ShardProgress:
    return ShardProgress(
        slot=one.slot,
        device=one.device,
        total=one.total,
        done=one.done,
        rate=one.rate,
        baseline=one.baseline,
        memory_fraction=one.memory_fraction,
        rung=one.rung,
        is_crawling=one.is_crawling,
        batch_since=-one.batch_seconds - quiet_seconds if one.batch_seconds else None,
        batch_genes=one.batch_genes,
    )


def status_of(folder: Path) -> RunStatus:
    """What is known of the run of a folder, now.

    Args:
        folder: That of a build or a backfill, or the one that keeps a state.

    Raises:
        NoRun: No run has left anything there.
    """
    state = _state_folder(folder)
    holder = read_holder(state)
    if holder is not None and holder.home and Path(holder.home) != state:
        home = Path(holder.home)  # a backfill of several folders: the first keeps what it tells
        with suppress(OSError):  # a name that is none
            state = home if home.is_dir() else state
    record, now = read_record(state), time.time()
    quiet = None
    if record is not None:
        told = moment_of(record.as_of)
        # The clocks of two machines may differ, and that of a file server from both: what is fresh by one of them is.
        ages = [abs(now - moment) for moment in (told, _changed(state / FILE)) if moment is not None]
        quiet = min(ages, default=None)
    here = platform.node()
    return judge(job_folder(state), holder, record, quiet, here, process_mark, booted_at())


def judge(
    folder: Path,
    holder: LockHolder | None,
    record: RunRecord | None,
    quiet_seconds: float | None,
    host: str,
    mark_of: Callable[[int], str | None],
    booted: float | None,
) -> RunStatus:
    """What is known of a run, by what was found. Pure.

    Args:
        folder: Of the job.
        holder: Of its lock, `None` for nobody.
        record: What the last run has told, `None` for nothing.
        quiet_seconds: For how long it has told nothing.
        host: This machine.
        mark_of: What tells a process from a later one with its id; `None` where it is not there, empty where unknown.
        booted: When this machine was started, as `time.time` has it; `None` where that is not known.
    """

    def found(state: str, why: str = "") -> RunStatus:
        return RunStatus(state, why, folder, holder, record, quiet_seconds)

    if record is not None and holder is not None and (holder.pid, holder.process) != (record.pid, record.process):
        record, quiet_seconds = None, None  # of the run before
    if record is not None and record.end is not None:
        return found(_ENDS.get(record.end.exit_code, "failed"))
    who: RunRecord | LockHolder | None = record or holder
    if who is None:
        left = f"`helix-crawl report {folder}` tells what its timeline knows"
        return found("silent", f"no run has told anything of itself here that this version can read; {left}")
    if who.host != host:
        if quiet_seconds is not None and quiet_seconds <= FRESH_SECONDS:
            return found("running")
        since = "it has told nothing" if quiet_seconds is None else f"nothing was heard for {duration(quiet_seconds)}"
        return found("silent", f"it is on {who.host}: {since}, and only there it can be seen whether it runs")
    mark = mark_of(who.pid)
    if mark is None or (mark and who.process and mark != who.process):
        why = f"process {who.pid} is gone"
        told = record.as_of if record is not None else holder.since if holder is not None else ""
        last = moment_of(told)
        if booted is not None and last is not None and booted > last:
            why += f": the machine was started anew at {local_time(booted)}"
        elif mark is not None:
            why += ": its number is another program's by now"
        return found("killed", f"{why}; what it had committed is kept")
    if record is None:
        return found("running", "it has told nothing more yet")
    if quiet_seconds is not None and quiet_seconds > FRESH_SECONDS:
        return found("running", "its process is there and says nothing: is it stopped, or its folder full?")
    return found("running")


def _state_folder(folder: Path) -> Path:
    folder = folder.absolute()
    for place in (folder / STATE_FOLDER, folder):
        if any((place / name).is_file() for name in (HOLDER, FILE, TIMELINE)):
            return place
    what = "no folder" if not folder.is_dir() else "a folder in which no run has left anything"
    raise NoRun(f"{folder} is {what}; accepted: the folder of a build or a backfill, or the one of `run --state`")


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
