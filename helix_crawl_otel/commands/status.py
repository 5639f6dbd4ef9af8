"""`helix-crawl status`: what runs in a folder and where it stands, or how it ended."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helix_crawl_otel.commands.common import Commands, add_command, heard, say, say_json
from helix_crawl_otel.config import ConfigError
from helix_crawl_otel.formats import printable
from helix_crawl_otel.paths import looked_at, typed_path

if TYPE_CHECKING:
    from helix_crawl_otel.console.status import RunStatus

__all__ = ["register"]

WATCH_SECONDS = 2.0
LEAST_COLUMNS = 20
HANGING, HANGING_IF_NARROW = " " * 16, " " * 4
NARROW_COLUMNS = 60

_DESCRIPTION = """\
What runs in a folder, since when, where it stands and what was done; or how it ended. It reads what the run tells of
itself every two seconds: nothing is locked, no shard is opened, and the run may be on another machine that shares the
folder."""

_EPILOG = """\
examples:
  helix-crawl status ~/shards                  of a build or a backfill
  helix-crawl status ~/jobs/notes              of `run --state ~/jobs/notes`
  helix-crawl status                           of this folder
  helix-crawl status ~/shards --watch          again every two seconds, until it ends

exit codes: 0 it runs, or it is done; 1 it ended with something failed, or is gone without an end, or was not heard of
for long; 2 no run has left anything there; 75 it is paused, and the same command goes on; 78 it can never start like
this. `--json` has the state by its name."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "status",
        _command,
        "what runs in a folder and where it stands, or how it ended",
        _DESCRIPTION,
        _EPILOG,
    )
    parser.add_argument("folder", nargs="?", default=".", metavar="DIR", help="the folder of a job (default this one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--watch", action="store_true", help="again every two seconds, until the run has ended")


def _command(args: argparse.Namespace) -> int:
    folder = typed_path(args.folder, "DIR")
    return _watch(folder, as_json=args.json) if args.watch else _show(_found(folder), as_json=args.json)


def _found(folder: Path) -> RunStatus:
    """What is known of the run, of a folder that may be on a network mount that is dead."""
    from helix_crawl_otel.console.status import status_of

    def look() -> RunStatus:
        looked_at.place = str(folder)
        if folder.is_file():
            raise ConfigError(f"DIR is {str(folder)!r}, which is a file; accepted: the folder of a job")
        return status_of(folder)

    return heard(look)


def _show(found: RunStatus, *, as_json: bool) -> int:
    if as_json:
        say_json(found.to_json())
    else:
        say(*_fitted(found.lines(time.time())))
    return found.exit_code


def _watch(folder: Path, *, as_json: bool) -> int:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    if as_json or not sys.stdout.isatty():
        while (found := _found(folder)).state == "running":
            _show(found, as_json=as_json)
            time.sleep(WATCH_SECONDS)
        return _show(found, as_json=as_json)
    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            found = _found(folder)
            lines = map(printable, _fitted(found.lines(time.time())))
            live.update(Text("\n".join(lines)), refresh=True)
            if found.state != "running":
                return found.exit_code
            time.sleep(WATCH_SECONDS)


def _fitted(lines: list[str]) -> list[str]:
    """On a terminal no line is wider than it, and what goes on stands below what it belongs to."""
    if not sys.stdout.isatty():
        return lines
    width = max(LEAST_COLUMNS, shutil.get_terminal_size().columns) - 1
    rest = HANGING if width >= NARROW_COLUMNS else HANGING_IF_NARROW

    def wrapped(line: str) -> list[str]:
        indent = rest if line.startswith("  ") else "  "
        return textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False) or [""]

    return [part for line in lines for part in wrapped(line)]
