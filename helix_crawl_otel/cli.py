"""The command `helix-crawl`: finds the subcommand, turns what can go wrong into a message and an exit code.

Its imports are late: the first thing that `main` does is to take the current folder out of the path, see
`import_path.py`.

Source: DESIGN.md, section 3.3.
"""

import io
import os
import sys

from helix_crawl_otel._version import __version__
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, PAUSED, Refusal
from helix_crawl_otel.import_path import leave_current_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import NoReturn

__all__ = ["main"]

_DESCRIPTION = """\
Keeps dense-embedding jobs on small GPUs from crawling. A full card under Windows does not raise out-of-memory: it goes
on at a fifth to a thousandth of its speed. helix-crawl recognises that by its signature and climbs a ladder of
remedies until the job is fast again.

A gene is a passage of text and its vector; a shard is one SQLite file of genes."""

_EPILOG = """\
examples:
  helix-crawl demo                             build a few of Python's own files with a real model, then look at them
  helix-crawl build ~/notes --out ~/shards     encode a folder of your own; end it whenever you like, start it again
  helix-crawl status ~/shards                  what runs there, where it stands, or how it ended
  helix-crawl verify ~/shards                  is every gene there?
  helix-crawl query ~/shards "backup key"      the genes nearest to a text
  helix-crawl run -- python my_job.py          supervise a job of your own that uses CrawlWatch
  helix-crawl simulate                         the ladder against no ladder, on a modelled card
  helix-crawl replay timeline.jsonl            what the policy would have done on a recorded timeline
  helix-crawl report timeline.jsonl -o r.html  one page of what happened
  helix-crawl COMMAND --help                   options and examples of a command

exit codes:
  0    done
  1    finished, with something failed
  2    wrong usage or configuration; the message names the option or variable, the value and what is accepted
  75   paused: the same command goes on
  78   it can never start: no such model, an unreadable source
  130  interrupted

environment:
The knobs of the rule are HELIX_BFM_CRAWL_FACTOR, _WINDOW, _ACTION, _VRAM, _EMA_ALPHA, _WARMUP, _INFLIGHT and
_SHARED; an option of the same name wins. `helix-crawl replay --help` lists them with their defaults."""


def main(argv: "Sequence[str] | None" = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; `None` means those of this process, which is then ours alone, so
            that its path may be changed.

    Returns:
        The exit code; that of help is 0, also where nothing was typed. Wrong usage raises `SystemExit` with code 2, as
        `argparse` does.
    """
    if argv is None:
        leave_current_folder()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a console that cannot show a letter shows ? instead
            stream.reconfigure(errors="replace")
    typed = sys.argv[1:] if argv is None else argv
    try:
        parser = _parser(typed)
        if not typed:
            parser.print_help()
            return DONE
        args = parser.parse_args(typed)
        if args.command in _READ_KNOBS:
            _tell_doubtful_variables()
        code: int = args.func(args)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Refusal as error:
        return _say(str(error), error.exit_code)
    except OSError as error:
        from helix_crawl_otel.formats import is_gone_reader
        from helix_crawl_otel.lacks import is_full_disk, passing_cause

        _silence_stdout()
        if is_gone_reader(error):
            return DONE
        if passing_cause(error) is not None:
            return _lacking(error, is_run=bool(typed) and typed[0] in _RUNS)
        told = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
        return _say(
            f"{told}; free some space and start the same command again" if is_full_disk(error) else told, FAILED
        )
    except (MemoryError, RuntimeError, ImportError) as error:
        return _lacking(error, is_run=bool(typed) and typed[0] in _RUNS)
    except KeyboardInterrupt:
        _silence_stdout()
        return INTERRUPTED


_COMMANDS = (
    *("demo", "build", "backfill", "run", "status", "verify", "query"),
    *("replay", "simulate", "report", "doctor", "dashboards"),
)
"""Modules in `commands`, in the order of the help. Each has `register`, which sets `func`: it takes the parsed
arguments and returns the exit code."""


_RUNS = ("demo", "build", "backfill", "run")
"""Those that go on where they were."""

_READ_KNOBS = (*_RUNS, "replay", "simulate", "report", "doctor")
"""Those that variables can change."""


def _parser(typed: "Sequence[str]" = ()) -> "argparse.ArgumentParser":
    """The command line. Of the commands only the one that begins it is there, or all of them where none does."""
    import argparse
    from importlib import import_module

    from helix_crawl_otel.formats import printable

    class Parser(argparse.ArgumentParser):
        """Of the commands as well. What was typed is part of its errors, and what may have been meant."""

        def error(self, message: str) -> "NoReturn":
            super().error(printable(_with_hint(message, typed)))

    parser = Parser(
        prog="helix-crawl",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"helix-crawl {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    first = typed[0] if typed else ""
    if first and first not in (*_COMMANDS, "-h", "--help", "--version"):
        parser.error(_no_command(first))
    names = () if first == "--version" else (first,) if first in _COMMANDS else _COMMANDS
    if names:
        from helix_crawl_otel.commands.common import HelpFormatter

        parser.formatter_class = HelpFormatter
    for name in names:
        import_module(f"helix_crawl_otel.commands.{name}").register(subparsers)
    return parser


def _no_command(first: str) -> str:
    """What is said of a first word that is none."""
    from helix_crawl_otel.formats import nearest

    if first.startswith("-"):
        return f"{first} stands before a command; accepted: helix-crawl COMMAND, and its options behind it"
    return f"no command {first!r}{nearest(first, _COMMANDS) or ';'} `helix-crawl --help` lists them"


def _with_hint(message: str, typed: "Sequence[str]") -> str:
    """What argparse says of wrong usage, with the option that may have been meant, or whose option it is."""
    from helix_crawl_otel.formats import nearest

    says, _, words = message.partition("unrecognized arguments: ")
    unknown = next((word.partition("=")[0] for word in words.split() if word.startswith("-")), None)
    if says or unknown is None or not typed or typed[0] not in _COMMANDS:
        return message
    known = _options_by_command()
    if near := nearest(unknown, known[typed[0]]):
        return message + near
    homes = [command for command, options in known.items() if unknown in options]
    if homes:
        return f"{message}; {unknown} is an option of {', '.join(homes)}"
    return f"{message}; `helix-crawl {typed[0]} --help` lists the options"


def _options_by_command() -> dict[str, list[str]]:
    import argparse

    found = {}
    for action in _parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, parser in action.choices.items():
                found[name] = [option for each in parser._actions for option in each.option_strings]
    return found


def _say(message: str, code: int) -> int:
    from helix_crawl_otel.commands.common import say

    say(f"helix-crawl: error: {message}", to_stderr=True)
    return code


def _tell_doubtful_variables() -> None:
    from helix_crawl_otel.commands.common import say
    from helix_crawl_otel.config import doubtful_variables

    for sentence in doubtful_variables():
        say(f"helix-crawl: warning: {sentence}", to_stderr=True)


def _lacking(error: Exception, *, is_run: bool) -> int:
    """The system has no memory, thread or descriptor to give. Others may give some back, so a run is only paused."""
    code = PAUSED if is_run else FAILED
    try:
        from helix_crawl_otel.lacks import is_passing, lack_sentence

        if not is_passing(error):
            raise error
        _say(f"{lack_sentence(error)}{'; the same command goes on where it was' if is_run else ''}", code)
    except MemoryError:
        os.write(2, b"helix-crawl: error: out of memory (`ulimit -v`, or the container's limit)\n")
    return code


def _silence_stdout() -> None:
    """Nothing more can be written: keep the interpreter's last flush from raising."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (AttributeError, OSError, ValueError):  # stdout is no file: nothing to flush
        pass
