"""What a run tells of itself while it lasts, in a small file beside its lock: who it is, where it stands, how it ended.

It is replaced whole every few seconds, by a thread of its own, so that a folder of a dead network share holds up nobody
who decides. Whoever reads it needs no lock and no other file: not the timeline, which may be of any length, nor shards
that somebody writes. `helix-crawl status` does.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock

from helix_crawl_otel._version import __version__
from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.dates import utc_time
from helix_crawl_otel.logs import logger
from helix_crawl_otel.policy.codec import OPTIONAL, decode, encode
from helix_crawl_otel.probes.processes import process_mark
from helix_crawl_otel.statefile import StateFile
from helix_crawl_otel.timing import Ticker

__all__ = [
    "FILE",
    "RunEnd",
    "RunRecord",
    "RunRecorder",
    "RunningShard",
    "SlotActivity",
    "Standing",
    "left_off",
    "read_record",
    "record_of",
    "standing",
]

FILE = "status.json"

VERSION = 1

WRITE_SECONDS = 2.0
"""Between two writes, the world's. Who reads takes a run that has been silent for many times that for a dead one."""

MOST_BYTES = 1 << 20
MOST_DIGITS = 18
MOST_SHARDS = 50
MOST_FAILED = 20


@dataclass(frozen=True)
class RunningShard:
    """See `progress.ShardProgress`. `is_at_most` says that the rate is what its batch in flight can still come to;
    `share` is how much is done, 0 to 1, by work where that is known.
    """

    shard: str
    slot: str
    device: str
    total: int | None
    done: int
    rate: float | None
    is_at_most: bool
    baseline: float | None
    memory_fraction: float | None
    rung: int
    is_crawling: bool
    batch_genes: int
    batch_seconds: float
    share: float | None = field(default=None, metadata={OPTIONAL: True})


@dataclass(frozen=True)
class SlotActivity:
    """What a slot does that encodes nothing, for so many seconds."""

    slot: str
    text: str
    seconds: float


@dataclass(frozen=True)
class EndedAction:
    """What became of an action of the ladder."""

    time: str
    shard: str
    action: str
    outcome: str


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Args:
        shards: How many there are in each state; empty where nobody knows.
        encoded: Genes of this run.
        vectors: Genes that have a vector, those of earlier runs included, as far as they have been counted.
        left: Genes that lack one, those of failed shards included, as far as they have been counted or estimated.
        is_all_known: Whether that is all of them.
        rate: Genes/s, `None` while unknown.
        is_at_most: A batch takes longer than its share: the rate is the most that it can be.
        to_go_seconds: What is left at this rate, `None` while unknown.
        running: Shards that a worker is on, the first `MOST_SHARDS`.
        activities: What slots do that encode nothing.
        actions: The last ones that ended, in order.
        action_counts: How many were applied, by name.
        crashes: Of workers.
        quarantined: Genes, in this run.
        failed: Shards that failed, with the reason, the first `MOST_FAILED`.
        share: How much of the run is done, 0 to 1, by work where that is known, else by genes; `None` where neither is.
    """

    shards: dict[str, int]
    encoded: int
    vectors: int
    left: int
    is_all_known: bool
    rate: float | None
    is_at_most: bool
    to_go_seconds: float | None
    running: list[RunningShard]
    activities: list[SlotActivity]
    actions: list[EndedAction]
    action_counts: dict[str, int]
    crashes: int
    quarantined: int
    failed: dict[str, str]
    share: float | None = field(default=None, metadata={OPTIONAL: True})


@dataclass(frozen=True)
class RunEnd:
    """How a run ended; `lines` are its summary for people."""

    time: str
    exit_code: int
    reason: str
    next_step: str
    lines: list[str]


@dataclass(frozen=True)
class RunRecord:
    """All of it. Dates are in UTC. `process` tells the process from a later one that is given its id."""

    version: int
    package: str
    command: str
    folder: str
    model: str
    devices: list[str]
    host: str
    pid: int
    process: str
    started: str
    as_of: str
    metrics: str
    standing: Standing
    end: RunEnd | None = None
    expected: int | None = None


def standing(progress: Progress, now: float) -> Standing:
    """Where a run stands.

    Args:
        progress: What it has come to.
        now: Seconds of the run's clock.
    """
    running = [
        RunningShard(
            shard=name,
            slot=one.slot,
            device=one.device,
            total=one.total,
            done=one.done,
            rate=_rounded(one.rate if (most := one.rate_of_batch(now)) is None else most),
            is_at_most=most is not None,
            baseline=_rounded(one.baseline),
            memory_fraction=_rounded(one.memory_fraction),
            rung=one.rung,
            is_crawling=one.is_crawling,
            batch_genes=one.batch_genes,
            batch_seconds=round(one.batch_age(now), 3),
            share=_rounded(one.share),
        )
        for name, one in list(progress.running.items())[:MOST_SHARDS]
    ]
    return Standing(
        shards=progress.counts(),
        encoded=progress.encoded,
        vectors=progress.vectors + progress.encoded,
        left=progress.left + progress.given_up,
        is_all_known=progress.is_all_known,
        rate=_rounded(progress.rate(now)),
        is_at_most=progress.is_late(now),
        to_go_seconds=_rounded(progress.to_go(now)),
        running=running,
        activities=[
            SlotActivity(slot, one.text, round(max(0.0, now - one.since), 3))
            for slot, one in list(progress.activities.items())[:MOST_SHARDS]
        ],
        actions=[
            EndedAction(utc_time(one.moment), one.shard, one.action, one.outcome) for one in progress.newest_actions
        ],
        action_counts=dict(progress.actions),
        crashes=progress.crashes,
        quarantined=progress.quarantined,
        failed=dict(list(progress.failed.items())[:MOST_FAILED]),
        share=_rounded(progress.share),
    )


def left_off(stands: Standing) -> Standing:
    """Of a run that is over: nothing runs any more."""
    shards = dict(stands.shards)
    if "running" in shards:
        shards["paused"], shards["running"] = shards.get("paused", 0) + shards["running"], 0
    return replace(stands, shards=shards, running=[], activities=[], rate=None, is_at_most=False, to_go_seconds=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def record_of(progress: Progress, now: float, started: float, moment: float, end: RunEnd | None) -> RunRecord | None:
    """What a run of this process tells of itself; `None` before it has begun.

    Args:
        progress: What it has come to.
        now: Seconds of the run's clock.
        started: Its date and time, as `time.time` has them.
        moment: That of now.
        end: How it ended, `None` while it runs.
    """
    run = progress.run
    if run is None:
        return None
    stands = standing(progress, now)
    return RunRecord(
        version=VERSION,
        package=__version__,
        command=run.command,
        folder=run.output,
        model=run.model,
        devices=list(run.devices),
        host=platform.node(),
        pid=os.getpid(),
        process=process_mark(os.getpid()) or "",
        started=utc_time(started),
        as_of=utc_time(moment),
        metrics=progress.metrics,
        standing=stands if end is None else left_off(stands),
        end=end,
        expected=run.expected,
    )


def read_record(folder: Path) -> RunRecord | None:
    """What the last run of a folder has told of itself; `None` where there is nothing of the kind, or of another
    version.

    Args:
        folder: The one that keeps the state.
    """
    path = folder / FILE
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        text = path.read_text(encoding="utf-8")
        found = decode(RunRecord, json.loads(text, parse_int=_counted))
    except (OSError, ValueError, RecursionError):
        return None
    return found if found.version == VERSION else None


def _counted(digits: str) -> int:
    """No count has more of them, and one that has is no number that can be reckoned with."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


@dataclass
class RunRecorder:
    """Writes it, at once and then every `WRITE_SECONDS` until `close`.

    Args:
        folder: The one that keeps the state.
        record: What there is to tell, given how it ended; `None` for nothing yet. Called from any thread.

    Threads: any.
    """

    folder: Path
    record: Callable[[RunEnd | None], RunRecord | None]
    _lock: Lock = field(default_factory=Lock)
    _has_failed: bool = False

    def __post_init__(self) -> None:
        self._file = StateFile(self.folder / FILE)
        self._ticker = Ticker("helix-crawl-status", self.write, WRITE_SECONDS, self._fail)

    def start(self) -> None:
        """The run has begun."""
        self._ticker.start()

    def write(self, end: RunEnd | None = None) -> None:
        """Write it now."""
        with self._lock:
            record = self.record(end)
            if record is not None:
                self._file.save(json.dumps(encode(record), allow_nan=False) + "\n")

    def close(self, summary: Summary) -> None:
        """The run has ended so."""
        self._ticker.stop()
        lines = summary.lines()
        try:
            end = RunEnd(utc_time(time.time()), summary.exit_code, summary.reason, summary.next_step, lines)
            self.write(end)
        except (OSError, ValueError) as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Nobody is told where it stands: the run goes on, and says so once."""
        if not self._has_failed:
            self._has_failed = True
            logger.warning("%s cannot be written, so that `status` knows nothing new: %s", self.folder / FILE, error)
