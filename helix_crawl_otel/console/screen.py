"""How a run is shown: live bars on a terminal, plain lines in a log, JSON lines for scripts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.console.run_record import RunEnd, RunRecord, record_of, standing
from helix_crawl_otel.console.text import Summary, lines_of, progress_lines
from helix_crawl_otel.dates import local_clock, local_time, utc_time
from helix_crawl_otel.supervise import events

__all__ = ["Display", "JsonDisplay", "PlainDisplay"]

PROGRESS_SECONDS = 30.0


class Display:
    """Takes events from any thread and has them shown, in one order. It waits for nobody who reads them.

    Args:
        now: The date and time, as `time.time` has them; a seam for tests.

    Threads: any.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self.progress = Progress()  # the main thread reads it at the end
        self._lock = threading.Lock()  # guards it

    def emit(self, event: events.Event) -> None:
        """Something has happened."""
        with self._lock:
            self.progress.take(event, self._now())
            self._show(event)

    def refresh(self, now: float) -> None:
        """Time has passed."""
        with self._lock:
            self._refresh(now)

    def record(self, started: float, now: float, end: RunEnd | None) -> RunRecord | None:
        """What the run tells of itself; see `record_of`."""
        with self._lock:
            return record_of(self.progress, now, started, self._now(), end)

    def end(self, summary: Summary) -> None:
        """The run is over."""

    def close(self) -> None:
        """The run has ended, perhaps by an error: leave everything as it was."""

    def _show(self, event: events.Event) -> None:
        """Show an event."""

    def _refresh(self, now: float) -> None:
        """Show what has come by time alone."""


class JsonDisplay(Display):
    """One object a line; one of progress as soon as there is a time to go, and every half minute.

    Args:
        write: Takes whole lines.
        now: See `Display`.
    """

    def __init__(self, write: Callable[[str], object], now: Callable[[], float] = time.time) -> None:
        super().__init__(now)
        self._write = write
        self._since: float | None = None
        self._told_at: float | None = None
        self._has_told = False

    def end(self, summary: Summary) -> None:
        """See `Display`."""
        self._put({"event": "summary", **summary.to_json()})

    def _show(self, event: events.Event) -> None:
        self._since = event.t if self._since is None else self._since
        self._put(event.to_json(self._since))

    def _refresh(self, now: float) -> None:
        progress = self.progress
        seconds = progress.to_go(now)
        self._told_at = now if self._told_at is None else self._told_at
        is_first = seconds is not None and not self._has_told
        if not is_first and (now - self._told_at < PROGRESS_SECONDS or not (progress.running or progress.activities)):
            return
        self._told_at, self._has_told = now, True
        stands = standing(progress, now)
        self._put(
            {
                "event": "progress",
                "t": round(now - (self._since or now), 3),
                "shards": progress.shards,
                "ended": progress.ended,
                "encoded": progress.encoded,
                "left": progress.left,
                "is_estimate": bool(progress.estimated) or not progress.is_all_known,
                "share": stands.share,
                "rate": stands.rate,
                "to_go_seconds": None if seconds is None else round(seconds, 1),
                "running": [asdict(shard) for shard in stands.running],
            }
        )

    def _put(self, content: Mapping[str, Any]) -> None:
        self._write(json.dumps({**content, "time": utc_time(self._now())}) + "\n")


class PlainDisplay(Display):
    """A line for each event that matters, and one of progress every half minute.

    Args:
        say: Takes lines for people, see `OutputThread.say`.
        is_terminal: Where the day is known: the time alone stands before a line.
        now: See `Display`.
    """

    def __init__(
        self, say: Callable[..., object], *, is_terminal: bool = False, now: Callable[[], float] = time.time
    ) -> None:
        super().__init__(now)
        self._say = say
        self._stamp = local_clock if is_terminal else local_time
        self._told_at: float | None = None

    def end(self, summary: Summary) -> None:
        """See `Display`."""
        self._say("", *summary.lines())

    def _show(self, event: events.Event) -> None:
        for line in lines_of(event):
            self._put(line)

    def _refresh(self, now: float) -> None:
        if self._told_at is None:
            self._told_at = now
        if (self.progress.running or self.progress.activities) and now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            for line in progress_lines(now, self.progress):
                self._put(line)

    def _put(self, text: str) -> None:
        self._say(f"{self._stamp(self._now())} {text}")
