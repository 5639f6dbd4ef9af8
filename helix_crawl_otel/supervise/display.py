"""How a run is shown: live bars on a terminal, plain lines in a log, JSON lines for scripts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.numbers import duration, genes, rate
from helix_crawl_otel.supervise.progress import Progress

__all__ = ["Announcer", "Display", "JsonDisplay", "PlainDisplay", "choose_display", "sentence_of"]

PROGRESS_SECONDS = 30.0


class Display(Protocol):
    """Shows a run. The announcer serialises the calls."""

    def show(self, event: events.Event, progress: Progress) -> None:
        """Something has happened."""

    def refresh(self, now: float, progress: Progress) -> None:
        """Time has passed."""

    def end(self, summary: Mapping[str, Any], text: str) -> None:
        """The run is over."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Announcer:
    """Takes events from any thread and has them shown, one at a time. A closed terminal ends the show, not the run.

    Args:
        display: What shows them.

    Threads: any.
    """

    def __init__(self, display: Display) -> None:
        self.progress = Progress()
        self._display = display
        self._lock = threading.Lock()
        self._is_blind = False

    def emit(self, event: events.Event) -> None:
        """Something has happened."""
        with self._lock:
            self.progress.take(event)
            self._try(lambda: self._display.show(event, self.progress))

    def refresh(self, now: float) -> None:
        """Time has passed."""
        with self._lock:
            self._try(lambda: self._display.refresh(now, self.progress))

    def end(self, summary: Mapping[str, Any], text: str) -> None:
        """The run is over."""
        with self._lock:
            self._try(lambda: self._display.end(summary, text))

    def close(self) -> None:
        """The run has ended by an error: leave the terminal as it was."""
        with self._lock:
            self._try(self._display.close)

    def _try(self, step: Callable[[], None]) -> None:
        if self._is_blind:
            return
        try:
            step()
        except (OSError, ValueError):  # the reader of a pipe has gone, or the terminal
            self._is_blind = True


class JsonDisplay:
    """One object a line.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._since: float | None = None

    def show(self, event: events.Event, progress: Progress) -> None:
        """See `Display`."""
        self._since = event.t if self._since is None else self._since
        self._write(event.to_json(self._since))

    def refresh(self, now: float, progress: Progress) -> None:
        """Nothing happens by time alone."""

    def end(self, summary: Mapping[str, Any], text: str) -> None:
        """See `Display`."""
        self._write({"event": "summary", **summary})

    def close(self) -> None:
        """Nothing to put back."""

    def _write(self, content: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(content) + "\n")
        self._stream.flush()


class PlainDisplay:
    """A line for each event that matters, and one of progress every half minute.

    Args:
        stream: Where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._since: float | None = None
        self._told_at: float | None = None

    def show(self, event: events.Event, progress: Progress) -> None:
        """See `Display`."""
        self._since = event.t if self._since is None else self._since
        text = sentence_of(event)
        if text is not None:
            self._write(event.t, text)

    def refresh(self, now: float, progress: Progress) -> None:
        """See `Display`."""
        if self._told_at is None:
            self._told_at = now
        if progress.running and now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            self._write(now, progress_line(now, progress))

    def end(self, summary: Mapping[str, Any], text: str) -> None:
        """See `Display`."""
        self._stream.write(f"\n{text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing to put back."""

    def _write(self, t: float, text: str) -> None:
        since = t - (self._since if self._since is not None else t)
        self._stream.write(f"[{duration(since):>11}] {text}\n")
        self._stream.flush()


def progress_line(now: float, progress: Progress) -> str:
    """How far the run is, in one line."""
    done = sum(shard.done for shard in progress.running.values())
    total = sum(shard.total for shard in progress.running.values())
    percent = 100 * done / total if total else 100.0
    parts = [f"shard {progress.ended + 1} of {progress.shards}", f"{percent:.0f} % of {genes(total)}"]
    parts.append(rate(progress.rate(now)))
    to_go = progress.to_go(now)
    if to_go is not None:
        parts.append(f"{'' if progress.is_all_known else 'at least '}{duration(to_go)} to go")
    return ", ".join(parts)


def sentence_of(event: events.Event) -> str | None:
    """An event for people; `None` when it is not worth a line."""
    say = _SENTENCES.get(type(event))
    return None if say is None else say(event)


def _started(event: events.RunStarted) -> str:
    done = f", {event.complete} complete already" if event.complete else ""
    return f"{event.command}: {event.shards} shards{done}; {event.model} on {', '.join(event.devices)} ({event.why})"


def _gate(event: events.Gate) -> str | None:
    return None if event.state == "waiting" else f"memory of {event.device}: {event.state}; the next worker starts"


def _crash(event: events.Crash) -> str:
    if event.retry_in_seconds is None:
        return f"worker {event.slot} crashed again ({event.why}); given up"
    left = f"{event.restarts_left} restarts left" if event.restarts_left else "the last restart"
    return f"worker {event.slot} crashed: {event.why}; started again in {event.retry_in_seconds:.0f} s ({left})"


def _ingested(event: events.Ingested) -> str | None:
    if not (event.added or event.removed or event.skipped):
        return None
    skipped = f", {event.skipped} skipped (no text)" if event.skipped else ""
    return f"shard {event.shard}: {event.sources} sources, {genes(event.added)} new{skipped}"


def _action(event: events.Action) -> str:
    crawl = "a crawl is detected" if event.action == "DETECT" else f"{event.action} {event.outcome.replace('_', ' ')}"
    return f"shard {event.shard}: {crawl}"


def _ended(event: events.ShardEnded) -> str:
    reason = f": {event.reason}" if event.reason else ""
    return f"shard {event.shard} {event.state}, {genes(event.encoded)} encoded{reason}"


_INTERRUPTS = ("finishing the batches in flight; interrupt again to end at once", "ending at once")

_SENTENCES: dict[type, Any] = {
    events.RunStarted: _started,
    events.MetricsAt: lambda event: f"metrics: {event.url}",
    events.Note: lambda event: event.text,
    events.WorkerStarted: lambda event: f"worker {event.slot} on {event.device}: process {event.pid} ({event.reason})",
    events.ModelLoaded: lambda event: f"{event.model} loaded on {event.device} in {duration(event.seconds)}",
    events.Ingested: _ingested,
    events.ShardStarted: lambda event: f"shard {event.shard}: {genes(event.pending)} to encode on {event.device}",
    events.Action: _action,
    events.Gate: _gate,
    events.Crash: _crash,
    events.Quarantined: lambda event: f"shard {event.shard}: gene {event.gene} is quarantined: {event.reason}",
    events.SourceTrouble: lambda event: f"shard {event.shard}: {event.source}: {event.reason}",
    events.ShardEnded: _ended,
    events.Interrupted: lambda event: _INTERRUPTS[min(event.times, 2) - 1],
}


def choose_display(as_json: bool, is_plain: bool, environ: Mapping[str, str]) -> Display:
    """The display for this process's own streams: JSON to standard output, all else to standard error's side of a log.

    Args:
        as_json: JSON lines were asked for.
        is_plain: Plain lines were asked for.
        environ: `TERM=dumb` is no terminal for bars.
    """
    if as_json:
        return JsonDisplay(sys.stdout)
    if is_plain or not sys.stdout.isatty() or environ.get("TERM") == "dumb":
        return PlainDisplay(sys.stdout)
    from helix_crawl_otel.supervise.display_live import LiveDisplay

    return LiveDisplay()
