"""Live bars on a terminal: one for each shard that is encoded, one line for the run, with rate, baseline, memory and
rung; and what a worker does that encodes nothing.
"""

from __future__ import annotations

import logging
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from helix_crawl_otel.console.output import LogHandler, OutputThread, Piece
from helix_crawl_otel.console.progress import Progress, ShardProgress
from helix_crawl_otel.console.screen import Display
from helix_crawl_otel.console.text import (
    MOST_SHARDS,
    Summary,
    activity_text,
    lines_of,
    percent,
    progress_text,
    shard_text,
)
from helix_crawl_otel.dates import local_clock
from helix_crawl_otel.formats import genes, printable, shard_name
from helix_crawl_otel.supervise import events

__all__ = ["LiveDisplay"]

REFRESH_SECONDS = 0.25

CRAWL_STYLE = "bold red"


class LiveDisplay(Display):
    """See `Display`. Log lines of the package appear above the bars.

    Args:
        console: Draws them, in the thread of the output from now on.
        output: Where. While it is behind there are no new bars: they would be old when they are seen.
    """

    def __init__(self, console: Console, output: OutputThread) -> None:
        super().__init__()
        self._output = output
        output.draw = _Bars(console).draw
        self._drawn_at: float | None = None
        self._logger = logging.getLogger("helix_crawl_otel")
        self._handler = LogHandler(output)
        self._logger.addHandler(self._handler)
        self._propagated, self._logger.propagate = self._logger.propagate, False

    def end(self, summary: Summary) -> None:
        """See `Display`."""
        self._leave("", *summary.lines())

    def close(self) -> None:
        """See `Display`."""
        self._leave()

    def _leave(self, *lines: str) -> None:
        self._output.say(*lines, is_last=True)
        self._logger.removeHandler(self._handler)
        self._logger.propagate = self._propagated

    def _show(self, event: events.Event) -> None:
        lines = lines_of(event)
        if not lines:
            self._refresh(event.t)
            return
        is_behind = self._output.is_behind
        for line in lines:
            self._output.say(f"{local_clock(self._now())} {line}")
        if not is_behind:
            self._draw(event.t)

    def _refresh(self, now: float) -> None:
        is_due = self._drawn_at is None or now - self._drawn_at >= REFRESH_SECONDS
        if is_due and not self._output.is_behind:
            self._draw(now)

    def _draw(self, now: float) -> None:
        self._drawn_at = now
        self._output.say(bars=_rows(now, self.progress))


class _Bars:
    """A screen with bars at its bottom. Nobody but the output's thread touches it: `rich` is not made for several."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._is_over = False

    def draw(self, piece: Piece, stream: TextIO) -> None:
        """Draw a piece. Log lines and the summary are shown whole, so that they can be copied and grepped."""
        self._console.file = stream
        if piece.is_last:
            self._live.stop()
            self._is_over = True
        elif not self._is_over:
            self._live.start()
        if piece.text:
            style = "" if not piece.level else CRAWL_STYLE if piece.level >= logging.ERROR else "yellow"
            text = Text(piece.text.removesuffix("\n"), style=style)
            self._console.print(text, soft_wrap=bool(piece.level) or piece.is_last)
        if piece.bars is not None:
            self._live.update(piece.bars, refresh=True)


def _rows(now: float, progress: Progress) -> RenderableType:
    rows: list[RenderableType] = []
    for name, shard in list(progress.running.items())[:MOST_SHARDS]:
        style = CRAWL_STYLE if shard.is_crawling else ""
        rows += [_bar(name, shard), Padding(_text(shard_text(now, shard, progress), style=style), (0, 0, 0, 2))]
    busy = {shard.slot for shard in progress.running.values()}
    for slot, activity in list(progress.activities.items())[:MOST_SHARDS]:
        if slot not in busy:
            rows.append(_text(f"{slot}: {activity_text(now, activity)}", no_wrap=True, overflow="ellipsis"))
    if progress.share is not None and progress.shards > 1:
        rows.append(_share("all shards", progress.share, progress.encoded))
    rows.append(_text(progress_text(now, progress), no_wrap=True, overflow="ellipsis"))
    return Group(*rows)


def _text(text: str, **how: Any) -> Text:
    """What is drawn beside the bars: like `OutputThread.say`, which does not see into them."""
    return Text(printable(text), **how)


def _bar(name: str, shard: ShardProgress) -> Table:
    """Name, bar and share; what is known of the shard stands below, for that may be long."""
    return _share(shard_name(name), shard.share, shard.done)


def _share(name: str, share: float | None, done: int) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=2)
    table.add_column(justify="right", no_wrap=True, min_width=5)
    if share is None:
        table.add_row(_text(name), Text(genes(done)), Text(""))
    else:
        table.add_row(_text(name), ProgressBar(total=1.0, completed=share), Text(percent(share)))
    return table
