"""Live bars on a terminal: one for each shard that is encoded, one for the run, with rate, baseline, memory and
rung.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.logging import RichHandler
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.display import progress_line, sentence_of
from helix_crawl_otel.supervise.numbers import duration
from helix_crawl_otel.supervise.progress import Progress, ShardProgress

__all__ = ["LiveDisplay"]

REFRESH_SECONDS = 0.25
MOST_SHARDS = 8
"""Bars that are drawn; workers beyond are in the total."""


class LiveDisplay:
    """See `Display`. Log lines of the package appear above the bars.

    Args:
        console: `None` for the terminal.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._since: float | None = None
        self._drawn_at: float | None = None
        self._logger = logging.getLogger("helix_crawl_otel")
        self._handler = RichHandler(console=self._console, show_path=False, show_level=False, markup=False)
        self._logger.addHandler(self._handler)
        self._propagated, self._logger.propagate = self._logger.propagate, False

    def show(self, event: events.Event, progress: Progress) -> None:
        """See `Display`."""
        self._since = event.t if self._since is None else self._since
        text = sentence_of(event)
        if text is not None:
            self._console.print(Text(f"[{duration(event.t - self._since):>11}] {text}"))
        self._draw(event.t, progress)

    def refresh(self, now: float, progress: Progress) -> None:
        """See `Display`."""
        if self._drawn_at is None or now - self._drawn_at >= REFRESH_SECONDS:
            self._draw(now, progress)

    def end(self, summary: Mapping[str, Any], text: str) -> None:
        """See `Display`."""
        self.close()
        self._console.print(Text(f"\n{text}"))

    def close(self) -> None:
        """See `Display`."""
        self._live.stop()
        self._logger.removeHandler(self._handler)
        self._logger.propagate = self._propagated

    def _draw(self, now: float, progress: Progress) -> None:
        self._drawn_at = now
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=3)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(ratio=4, no_wrap=True, overflow="ellipsis")
        for name, shard in list(progress.running.items())[:MOST_SHARDS]:
            percent = 100 * shard.done // shard.total if shard.total else 100
            bar = ProgressBar(total=max(1, shard.total), completed=shard.done)
            table.add_row(Text(name), bar, Text(f"{percent} %"), Text(_state(shard)))
        line = Text(
            progress_line(now, progress) if progress.running else f"{progress.ended} of {progress.shards} shards"
        )
        self._live.update(Group(table, line), refresh=True)


def _state(shard: ShardProgress) -> str:
    """Such as `cuda:0 3.1 of 15.3 genes/s, memory 99 %, rung 1, CRAWLING`."""
    newest = shard.newest
    if newest is None:
        return shard.device
    parts = [shard.device if newest.rate is None else f"{shard.device} {newest.rate:.1f}"]
    if newest.rate is not None:
        parts[0] += f" of {newest.baseline:.1f} genes/s" if newest.baseline else " genes/s"
    if newest.memory_fraction is not None:
        parts.append(f"memory {100 * newest.memory_fraction:.0f} %")
    if newest.rung:
        parts.append(f"rung {newest.rung}")
    if newest.is_crawling:
        parts.append("CRAWLING")
    return ", ".join(parts)
