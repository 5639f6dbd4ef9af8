"""The command `helix-crawl report`: one page, or a picture, of what a timeline tells.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
from collections.abc import Iterable, Mapping
from pathlib import Path

from helix_crawl_otel.charts import ChartError, check_matplotlib
from helix_crawl_otel.commands.common import (
    Commands,
    add_command,
    add_timeline,
    heard,
    say,
    timeline_path,
    timeline_reader,
)
from helix_crawl_otel.config import KNOBS, ConfigError, add_options, config_from_options, option_values
from helix_crawl_otel.exit_codes import DONE
from helix_crawl_otel.paths import looked_at, same_place, typed_path
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.order import Axis, in_runs
from helix_crawl_otel.replay.text import skipped_lines
from helix_crawl_otel.report.effect import choose
from helix_crawl_otel.report.page import page, picture
from helix_crawl_otel.report.savings import savings
from helix_crawl_otel.report.story import RunReport
from helix_crawl_otel.report.tell import tell
from helix_crawl_otel.report.words import headline
from helix_crawl_otel.timeline import RunEvent, TimelineError, TimelineReader

__all__ = ["recorded_settings", "register", "run"]

_DESCRIPTION = """\
Make one page of a recorded timeline: what happened in words, speed, baseline, limit, memory and actions of each shard
over time, what each action changed, and the time that a crawl took. The page is one file and loads nothing. It shows
what really happened; of a job whose timeline has no actions it shows what the policy would have asked for."""

_EPILOG = """\
examples:
  helix-crawl report ~/shards -o report.html                    of the build that wrote these shards
  helix-crawl report timeline.jsonl.gz --png report.png         a picture for a mail
  ssh rig cat timeline.jsonl | helix-crawl report - -o report.html

The knobs are those that the run recorded, unless an option says otherwise.

exit codes: 0 done; 1 a file cannot be written; 2 wrong option, no timeline, no matplotlib; 130 interrupted."""

GARBAGE_AFTER = 100_000
"""Objects after which the interpreter looks for garbage in circles, in place of 700: of millions of lines nothing is
left that needs that, and the looks took a thirtieth of the time."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "report",
        run,
        "one page of a recorded timeline: speed, memory and every action over time",
        _DESCRIPTION,
        _EPILOG,
    )
    add_timeline(parser)
    parser.add_argument("-o", "--out", metavar="FILE.html", help="write the page there")
    parser.add_argument("--png", metavar="FILE.png", help="write a picture there, for a mail")
    add_options(parser)


def run(args: argparse.Namespace) -> int:
    """Carry the command out. Returns its exit code.

    Raises:
        ConfigError: A knob has a value that is not accepted, or there is no place for the report, or no matplotlib.
        TimelineError: There is no timeline to read.
        OSError: A file cannot be written.
    """
    out = None if args.out is None else typed_path(args.out, "-o")
    png = None if args.png is None else typed_path(args.png, "--png")
    options = option_values(args)
    config = config_from_options(options)
    gc.set_threshold(GARBAGE_AFTER)
    timeline, reader, runs = heard(lambda: _read(args, out, png))
    story = tell(runs, recorded_settings((run for run, _ in runs), config, options))
    if all(tale.is_empty for tale in story.tales):
        raise TimelineError(f"{reader.name} has no batch, so there is nothing to report")
    notes = skipped_lines(reader)
    if out is not None:
        name = "standard input" if timeline is None else str(timeline.absolute())
        text = page(story, choose(story), name, notes, savings(runs, story))
        out.write_text(text, encoding="utf-8", newline="\n")
    if png is not None:
        png.write_bytes(picture(story))
    _say(story, [path for path in (out, png) if path is not None], notes)
    return DONE


def _read(
    args: argparse.Namespace, out: Path | None, png: Path | None
) -> tuple[Path | None, TimelineReader, list[tuple[RunEvent | None, Axis]]]:
    timeline = timeline_path(args)
    _check(timeline, out, png)
    reader = timeline_reader(timeline)
    return timeline, reader, list(in_runs(reader))


def _say(story: RunReport, paths: Iterable[Path], notes: Iterable[str]) -> None:
    say(headline(story), *(f"report: {path}" for path in paths))
    say(*notes, to_stderr=True)


def _check(timeline: Path | None, out: Path | None, png: Path | None) -> None:
    """Refuse, before anything is read, what cannot be written."""
    if out is None and png is None:
        raise ConfigError("where to? accepted: -o FILE.html, --png FILE.png, or both")
    for option, path in (("-o", out), ("--png", png)):
        if path is None:
            continue
        looked_at.place = str(path)
        if timeline is not None and path.exists() and same_place(path.absolute(), timeline.absolute()):
            raise ConfigError(f"{option} is {str(path)!r}, which is the timeline itself")
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"{option} is {str(path)!r}; accepted: a file in a folder that exists")
        if path.is_dir():
            raise ConfigError(f"{option} is {str(path)!r}, which is a folder; accepted: a file")
    if out is not None and out.suffix.lower() == ".png":
        raise ConfigError(f"-o is {str(out)!r}; accepted: a page; a picture is made by --png")
    looked_at.place = ""  # what comes now is no look, and may take long on a busy machine
    try:
        check_matplotlib("report")
    except ChartError as error:
        raise ConfigError(str(error)) from error


def recorded_settings(runs: Iterable[RunEvent | None], config: Settings, options: Mapping[str, str]) -> Settings:
    """The knobs of the first run that recorded any; an option wins, and a value that is not accepted does not count.

    Args:
        runs: Of the timeline; `None` is one without a `run` line.
        config: Options, environment and defaults.
        options: Text by variable, as given on the command line.
    """
    run = next((run for run in runs if run is not None and run.config), None)
    if run is None:
        return config
    given = {row.field for row in KNOBS if row.variable in options}
    settings = config
    for field in dataclasses.fields(Settings):
        if field.name in run.config and field.name not in given:
            try:
                settings = dataclasses.replace(settings, **{field.name: run.config[field.name]})
            except ValueError:
                continue
    return settings
