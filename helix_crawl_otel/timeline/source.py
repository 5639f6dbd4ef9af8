"""The timeline that a command was given: a file, a job's folder, or standard input.

Source: DESIGN.md, sections 3.3 and 3.6.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from helix_crawl_otel.paths import typed_path
from helix_crawl_otel.timeline import TimelineError, TimelineReader, read_timeline

__all__ = ["add_timeline", "timeline_path", "timeline_reader"]

STANDARD_INPUT = "-"

PLACES = (Path(".helix-crawl") / "timeline.jsonl", Path("timeline.jsonl"))
"""In a folder: of the shards that `build` made, and of the state that `run` kept."""


def add_timeline(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "timeline", metavar="TIMELINE", help="a file, plain or gzip; the folder of a job; or - for standard input"
    )


def timeline_path(args: argparse.Namespace) -> Path | None:
    """The file, which need not be there; `None` for standard input.

    Raises:
        ConfigError: It is the name of a device.
        TimelineError: It is a folder that holds none.
    """
    if args.timeline == STANDARD_INPUT:
        return None
    path = typed_path(args.timeline, "TIMELINE")
    if not path.is_dir():
        return path
    for place in PLACES:
        if (path / place).is_file():
            return path / place
    raise TimelineError(
        f"{path} is a folder without a timeline; accepted: a file of JSON lines, or the folder of a job"
    )


def timeline_reader(path: Path | None) -> TimelineReader:
    """A reader of what `timeline_path` found. It opens the file when it is iterated."""
    return read_timeline(sys.stdin.buffer if path is None else path)
