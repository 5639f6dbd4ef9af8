"""Live bars on a terminal: one for each shard that is encoded, one line for the run, with rate, baseline, memory and
rung; and what a worker does that encodes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from helix_crawl_otel.console.output import QueuedOutput
from helix_crawl_otel.console.progress import Progress, ShardProgress
from helix_crawl_otel.console.text import MOST_SHARDS, activity_text, progress_text, sentence_of, shard_text
from helix_crawl_otel.formats import duration, genes, printable, shard_name
from helix_crawl_otel.supervise import events

__all__ = ["LiveDisplay"]

REFRESH_SECONDS = 0.25

CRAWL_STYLE = "bold red"


class LiveDisplay:
    """See `Display`. Log lines of the package appear above the bars.

    Args:
        console: Where they are drawn. While it is behind no bars are: they would be old when they are seen.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._since: float | None = None
        self._drawn_at: float | None = None
        self._logger = logging.getLogger("helix_crawl_otel")
        self._handler = _AboveTheBars(self._console)
        self._logger.addHandler(self._handler)
        self._propagated, self._logger.propagate = self._logger.propagate, False

    def show(self, event: events.Event, progress: Progress) -> None:
        """See `Display`."""
        self._since = event.t if self._since is None else self._since
        text = sentence_of(event)
        if text is not None:
            is_behind = self._is_behind()
            self._console.print(Text(f"[{duration(event.t - self._since):>11}] {text}"))
            if not is_behind:
                self._draw(event.t, progress)
        else:
            self.refresh(event.t, progress)

    def refresh(self, now: float, progress: Progress) -> None:
        """See `Display`."""
        is_due = self._drawn_at is None or now - self._drawn_at >= REFRESH_SECONDS
        if is_due and not self._is_behind():
            self._draw(now, progress)

    def end(self, summary: Mapping[str, Any], text: str) -> None:
        """See `Display`."""
        self.close()
        self._console.print(Text(f"\n{text}"), soft_wrap=True)

    def close(self) -> None:
        """See `Display`."""
        try:
            self._live.stop()
        finally:
            self._logger.removeHandler(self._handler)
            self._logger.propagate = self._propagated

    def _is_behind(self) -> bool:
        return isinstance(self._console.file, QueuedOutput) and self._console.file.is_behind

    def _draw(self, now: float, progress: Progress) -> None:
        self._drawn_at = now
        rows: list[RenderableType] = []
        for name, shard in list(progress.running.items())[:MOST_SHARDS]:
            style = CRAWL_STYLE if shard.is_crawling else ""
            state = Text(printable(shard_text(now, shard, progress)), style=style)
            rows += [_bar(name, shard), Padding(state, (0, 0, 0, 2))]
        busy = {shard.slot for shard in progress.running.values()}
        for slot, activity in list(progress.activities.items())[:MOST_SHARDS]:
            if slot not in busy:
                rows.append(_line(printable(f"{slot}: {activity_text(now, activity)}")))
        rows.append(_line(progress_text(now, progress)))
        self._live.update(Group(*rows), refresh=True)


class _AboveTheBars(logging.Handler):
    """Prints log lines through the console that draws the bars, whole, so that they can be copied and grepped."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            style = CRAWL_STYLE if record.levelno >= logging.ERROR else "yellow"
            self._console.print(Text(printable(self.format(record)), style=style), soft_wrap=True)
        except Exception:  # noqa: BLE001 - as every handler of the standard library does
            self.handleError(record)


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _bar(name: str, shard: ShardProgress) -> Table:
    """Name, bar and share; what is known of the shard stands below, for that may be long."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=2)
    table.add_column(justify="right", no_wrap=True, min_width=5)
    if shard.total is None:
        table.add_row(Text(printable(shard_name(name))), Text(genes(shard.done)), Text(""))
    else:
        percent = 100 * shard.done // shard.total if shard.total else 100
        bar = ProgressBar(total=max(1, shard.total), completed=shard.done)
        table.add_row(Text(printable(shard_name(name))), bar, Text(f"{percent} %"))
    return table
