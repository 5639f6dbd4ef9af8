"""What the commands share: how one adds itself to the command line, how it prints, and the timeline that some are
given, a file, a job's folder, or standard input.

Source: DESIGN.md, sections 3.3 and 3.6.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from helix_crawl_otel.formats import fitted, printable, shown_command, without_secrets
from helix_crawl_otel.interrupts import hearing
from helix_crawl_otel.paths import STATE_FOLDER, TIMELINE, looked_at, typed_path

if TYPE_CHECKING:
    from helix_crawl_otel.console.progress import Progress
    from helix_crawl_otel.supervise.session import Session
    from helix_crawl_otel.timeline import TimelineReader

__all__ = [
    "Commands",
    "add_command",
    "add_timeline",
    "heard",
    "look_back",
    "say",
    "say_json",
    "say_over",
    "timeline_path",
    "timeline_reader",
    "typed_command",
    "typed_options",
]

Value = TypeVar("Value")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `ArgumentParser.add_subparsers` returns."""

STANDARD_INPUT = "-"

NODES = "nodes"
"""Folder of the state in which a fleet keeps a timeline for each slot of its nodes, and for each time it began."""

PLACES = (Path(STATE_FOLDER) / TIMELINE, Path(TIMELINE))
"""In a folder: of the shards that `build` made, and of the state that `run` kept."""


def typed_command() -> str:
    """The command of this process, for who types it again or asks who is at work: without its secrets."""
    return shown_command(["helix-crawl", *without_secrets(sys.argv[1:])])


def typed_options(args: argparse.Namespace, but: Collection[str]) -> tuple[str, ...]:
    """The options of the command of this process as they were typed, without its secrets and what it is called with.

    Args:
        args: As they were parsed: an option whose value is a truth takes no word.
        but: Options that are left out, with their values.
    """
    flags = {f"--{name.replace('_', '-')}" for name, value in vars(args).items() if isinstance(value, bool)}
    typed = iter(sys.argv[2:] if sys.argv[1:2] == [args.command] else ())
    found = []
    for word in typed:
        if word == "--":
            break
        if not word.startswith("--"):
            continue
        name, equals, _ = word.partition("=")
        words = [word] if equals or name in flags else [word, *islice(typed, 1)]
        if name not in but:
            found += words
    return tuple(without_secrets(found))


def look_back(session: Session, progress: Progress) -> dict[str, Any]:
    """What would have saved time in a run, see `Summary.would_have_saved`."""
    from helix_crawl_otel.report.savings import savings_of_run  # late: once, at the end of a run

    path, has_crawled = Path(session.timeline.path), bool(progress.actions.get("DETECT"))
    found = savings_of_run(path, session.timeline_start, session.config, has_crawled=has_crawled)
    return {saving.name: saving.to_json() for saving in found}


def heard(step: Callable[[], Value]) -> Value:
    """Do what a command that changes nothing has to wait for, a file or a driver, and hear its interrupts meanwhile.

    Raises:
        LeftEarly: One came first.
    """
    return hearing(step, only_reads=True)


# -- what a command prints: nothing else in this package does -------------------------------------------------------


def say(*lines: str, to_stderr: bool = False) -> None:
    """Print lines for people, each by way of `formats.printable`."""
    stream = sys.stderr if to_stderr else sys.stdout
    if stream is not None:  # it was closed, and `print` would take another one
        print("".join(f"{printable(line)}\n" for line in lines), end="", file=stream)


def terminal_columns() -> int | None:
    """Of the terminal that reads what is printed; `None` where it goes into a file or to a program."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


def say_json(content: object, indent: int | None = None, default: Callable[[Any], object] | None = None) -> None:
    """Print one JSON text for programs: plain ASCII, with all that is in it."""
    print(json.dumps(content, indent=indent, default=default))


def say_over(text: str) -> None:
    """Show what goes on, in one line that is written over, where somebody watches standard error; empty at its end."""
    if sys.stderr is not None and sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1  # a line that goes on below could not be written over
        shown = fitted(printable(text), width)
        blanks = " " * (min(70, width) - len(shown))  # over what was longer
        print(f"\r{shown}{blanks}{'' if text else chr(13)}", end="", file=sys.stderr, flush=True)


# -- the command line, and the timeline -----------------------------------------------------------------------------


class HelpFormatter(argparse.HelpFormatter):
    """Fits descriptions and epilogs into the terminal, and leaves their lists and examples whole.

    Lines that follow one another make a paragraph. An indented line stands alone: what comes after a gap in it is its
    explanation, and is wrapped in its column, or below where there is no room beside it. What has no gap is never cut:
    a command is there to be copied. A line that is indented as far as an explanation goes on with it.
    """

    BESIDE = 24
    """Columns that an explanation needs at least to stand beside what it explains."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for line in re.sub(r"\n {8,}", " ", text).split("\n"):  # what goes on with an explanation
            if lines and line and line[0] != " " and lines[-1] and lines[-1][0] != " " and lines[-1][-1] != ":":
                lines[-1] += f" {line}"
            else:
                lines.append(line)
        wrapped = [each for line in lines for each in self._wrapped(line, width - len(indent))]
        return "\n".join(indent + each if each else "" for each in wrapped)

    def _wrapped(self, line: str, width: int) -> list[str]:
        """One line, in as many as it needs."""
        if not line.startswith(" "):
            return textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) or [""]
        gap = re.search(r"\S {2,}(?=\S)", line)
        if gap is None or len(line) <= width:
            return [line]
        left, column = line[: gap.start() + 1], gap.end()
        if column + self.BESIDE <= width:
            begin = line[:column]
        else:
            begin, column = " " * 6, 6
        below = textwrap.wrap(
            line[gap.end() :],
            width,
            initial_indent=begin,
            subsequent_indent=" " * column,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return below if begin.strip() else [left, *below]


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    description: str,
    epilog: str | None = None,
    *,
    usage: str | None = None,
) -> argparse.ArgumentParser:
    """Add one command.

    Args:
        commands: Of the command line.
        name: As it is typed.
        run: Takes the parsed arguments, and returns the exit code; they carry it as `func`.
        help: One line for the list of commands.
        description: What `--help` begins with, see `HelpFormatter`.
        epilog: What it ends with, likewise.
        usage: Only where it cannot be made from the arguments.

    Returns:
        Its parser. It takes no abbreviated options: a script that uses one would break with the next option.
    """
    parser = commands.add_parser(
        name,
        help=help,
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(func=run)
    return parser


def add_timeline(parser: argparse.ArgumentParser) -> None:
    """Add the argument."""
    parser.add_argument(
        "timeline", metavar="TIMELINE", help="a file, plain or gzip; the folder of a job; or - for standard input"
    )


def timeline_path(args: argparse.Namespace) -> Path | None:
    """The file, which need not be there, or the folder of a fleet's nodes; `None` for standard input.

    Raises:
        ConfigError: It is the name of a device.
        TimelineError: It is a folder that holds none.
    """
    if args.timeline == STANDARD_INPUT:
        return None
    path = typed_path(args.timeline, "TIMELINE")
    looked_at.place = str(path)
    if not path.is_dir():
        return path
    nodes = path / STATE_FOLDER / NODES
    if _timelines_of(nodes):
        return nodes
    for place in PLACES:
        if (path / place).is_file():
            return path / place
    from helix_crawl_otel.timeline import TimelineError  # late, as below: most commands read none

    raise TimelineError(
        f"{path} is a folder without a timeline; accepted: a file of JSON lines, or the folder of a job"
    )


def timeline_reader(path: Path | None) -> TimelineReader:
    """A reader of what `timeline_path` found. It opens the file when it is iterated."""
    from helix_crawl_otel.timeline import JoinedFiles, read_timeline

    if path is not None and path.is_dir():
        own = path.parent / TIMELINE  # of one machine, before the fleet came
        paths = [*([own] if own.is_file() else []), *_timelines_of(path)]
        return read_timeline(io.BufferedReader(JoinedFiles(paths, str(path))))
    return read_timeline(sys.stdin.buffer if path is None else path)


def _timelines_of(nodes: Path) -> list[Path]:
    """Of the slots of a fleet, by when they began."""
    return sorted(nodes.glob("*/*/timeline-*.jsonl"), key=lambda path: (path.name, path))
