"""How a run is shown: live bars on a terminal, plain lines in a log, JSON lines for scripts."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TextIO

from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.console.text import progress_lines, sentence_of
from helix_crawl_otel.formats import duration
from helix_crawl_otel.supervise import events

__all__ = ["Announcer", "Display", "JsonDisplay", "NoDisplay", "PlainDisplay", "choose_display"]

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


class NoDisplay:
    """Shows nothing: the process has no standard output."""

    def show(self, event: events.Event, progress: Progress) -> None:
        """See `Display`."""

    def refresh(self, now: float, progress: Progress) -> None:
        """See `Display`."""

    def end(self, summary: Mapping[str, Any], text: str) -> None:
        """See `Display`."""

    def close(self) -> None:
        """See `Display`."""


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
        if (progress.running or progress.activities) and now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            for line in progress_lines(now, progress):
                self._write(now, line)

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


def choose_display(as_json: bool, is_plain: bool, environ: Mapping[str, str]) -> Display:
    """The display for this process's standard output, which may have been closed.

    Args:
        as_json: JSON lines were asked for.
        is_plain: Plain lines were asked for.
        environ: `TERM=dumb` is no terminal for bars.
    """
    stream: TextIO | None = sys.stdout
    if stream is None:
        return NoDisplay()
    if as_json:
        return JsonDisplay(stream)
    if is_plain or not stream.isatty() or environ.get("TERM") == "dumb":
        return PlainDisplay(stream)
    from rich.console import Console

    from helix_crawl_otel.console.live import LiveDisplay

    console = Console(highlight=False)
    if console.legacy_windows:  # it would move the cursor by calls of the system, past an outlet's queue
        return PlainDisplay(stream)
    return LiveDisplay(console)
