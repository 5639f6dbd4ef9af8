"""`helix-crawl query DIR TEXT`: the nearest genes, to see that a build is good.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import argparse
import locale
import os.path
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from helix_crawl_otel.commands.common import Commands, add_command, heard, say, say_json, say_over
from helix_crawl_otel.config import ConfigError, knob
from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.formats import fitted, printable
from helix_crawl_otel.interrupts import LeftEarly
from helix_crawl_otel.paths import typed_folder
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.search.index import Index, Match
from helix_crawl_otel.search.place import SourceState
from helix_crawl_otel.shards.schema import plain_id

__all__ = ["register", "show"]

LINES_SHOWN = 4

COLUMNS, FEWEST_COLUMNS = 100, 20
"""Where nobody says how wide the terminal is; and what a line gets however narrow it is."""

PROMPT = "query> "

_GONE = {SourceState.GONE: " (deleted since)", SourceState.CHANGED: " (changed since)"}

_DESCRIPTION = """\
Encodes a text with the encoder that the shards were built with, and prints the genes whose vectors are nearest to
it, each with its file and line. A file that was deleted or changed since is marked."""

_EPILOG = """\
examples:
  helix-crawl query ~/notes.shards how do I rotate the backup key
  helix-crawl query ~/notes.shards --interactive              the model is loaded once; Ctrl-D ends (Windows: Ctrl-Z)
  helix-crawl query ~/notes.shards -i --json < questions.txt  a JSON line for each line"""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(commands, "query", _command, "the genes nearest to a text", _DESCRIPTION, _EPILOG)
    parser.add_argument("path", metavar="DIR", help="a folder of shards, or one shard (.db)")
    parser.add_argument("text", metavar="TEXT", nargs="*", default=[], help="what to look for, in one word or several")
    parser.add_argument("-k", "--count", default="5", metavar="N", help="how many genes (default 5)")
    parser.add_argument(
        "--model",
        type=os.path.expanduser,
        metavar="MODEL",
        help="as for build; needed for a model that is a folder, and where shards are of several models",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="DEVICE", help="where the text is encoded: auto, cpu, cuda:N (default cpu)"
    )
    parser.add_argument(
        "--dtype",
        metavar="DTYPE",
        help="what the text is computed in: auto, float32, float16, bfloat16 (default auto: full precision, with which "
        "vectors of a half agree; for vectors that do not, what they were made in)",
    )
    parser.add_argument(
        "-i", "--interactive", action="store_true", help="keep the model, and ask for one text after the other"
    )
    parser.add_argument("--json", action="store_true", help="a list of objects on standard output")
    _let_words_stand_apart(parser)


def _let_words_stand_apart(parser: argparse.ArgumentParser) -> None:
    """Have options between the words of a text: `argparse` takes positional words of one place alone."""
    plain = parser.parse_known_args

    def parse(args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:
        vars(parser)["parse_known_args"] = plain  # which that of the next line calls
        try:
            return parser.parse_known_intermixed_args(args, namespace)
        finally:
            vars(parser)["parse_known_args"] = parse

    vars(parser)["parse_known_args"] = parse


def _command(args: argparse.Namespace) -> int:
    text = " ".join(args.text)
    if not text.strip() and (args.text or not args.interactive):
        more = "" if args.text else ", or --interactive"
        raise ConfigError(f"the text is {'empty' if args.text else 'missing'}; accepted: at least one word{more}")
    if not re.fullmatch("[0-9]{1,4}", args.count) or not int(args.count):
        raise ConfigError(f"--count is {args.count!r}; accepted: an integer from 1 to 9999")
    try:
        device = "auto" if args.device == "auto" else str(parse_device(args.device))
    except ValueError:
        raise ConfigError(f"--device is {args.device!r}; accepted: auto, cpu, cuda or cuda:N") from None
    dtype = "auto" if args.dtype is None else str(knob("HELIX_DENSE_DTYPE").parse("--dtype", args.dtype))
    chosen = {"model": args.model, "device": device, "dtype": None if dtype == "auto" else dtype}
    try:
        index = heard(lambda: Index(typed_folder(args.path, "DIR"), **chosen, telling=_tell))
    finally:
        say_over("")
    for note in index.notes:
        say(f"helix-crawl: {note}", to_stderr=True)
    if text:
        _answer(index, text, args)
    if args.interactive:
        for line in _typed_lines():
            if line.strip() or args.json:
                _converse(index, line, args)
    return 0


def _tell(text: str) -> None:
    say_over(f"{text} ..." if text else "")


def _converse(index: Index, text: str, args: argparse.Namespace) -> None:
    """Answer, and go on whatever is wrong with this one text."""
    try:
        _answer(index, text, args)
    except LeftEarly:
        raise
    except (Refusal, ValueError) as error:
        say_over("")
        if args.json:
            say_json({"error": str(error)})
        else:
            say(f"helix-crawl: error: {error}", to_stderr=True)
    sys.stdout.flush()


def _answer(index: Index, text: str, args: argparse.Namespace) -> None:
    found, limit = heard(lambda: (index.query(text, int(args.count)), index.over(text)))
    if limit is not None:
        what = f"the text is longer than the {limit} tokens that the model reads; the rest is not looked at"
        say(f"helix-crawl: {what}", to_stderr=True)
    if args.json:
        say_json([_row(match) for match in found])
    else:
        show(found)


def _row(match: Match) -> dict[str, object]:
    return {
        "gene_id": plain_id(match.gene_id),
        "source_id": match.source_id,
        "score": match.score,
        "content": match.content,
        "line": match.line,
        "state": match.state.value,
    }


def _typed_lines() -> Iterator[str]:
    """What is typed, or piped, a line at a time, without its end."""
    if sys.stdin is None:
        return
    if not sys.stdin.isatty():
        for given in getattr(sys.stdin, "buffer", sys.stdin):  # a notebook's has none
            yield (given if isinstance(given, str) else _decoded(given)).rstrip("\r\n")
        return
    with suppress(AttributeError):  # not a file: a test's
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a text file of a process has it
    with suppress(ImportError):  # not on Windows
        import readline  # noqa: F401 - `input` then has a history
    while True:
        try:
            yield input(PROMPT) if sys.stdout.isatty() else _asked_on_stderr()
        except EOFError:
            say("", to_stderr=True)
            return


def _decoded(line: bytes) -> str:
    """UTF-8, as a file of questions is; else as the system has it, which on Windows is an older encoding."""
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return line.decode(locale.getpreferredencoding(do_setlocale=False), "replace")


def _asked_on_stderr() -> str:
    sys.stderr.write(PROMPT)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def show(found: Sequence[Match]) -> None:
    """Print genes for people: score, source with line, and the first lines of each, cut at the terminal's width."""
    width = max(FEWEST_COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns)
    for rank, match in enumerate(found, 1):
        source = match.source_id or f"gene {match.gene_id}"  # the app's own genes name no source
        head = f"{rank}. {match.score:.3f}  "
        tail = (f":{match.line}" if match.line is not None else "") + _GONE.get(match.state, "")
        say(head + fitted(printable(source), width - len(head) - len(tail), keeps_end=True) + tail)
        for line in [line for line in match.content.splitlines() if line.strip()][:LINES_SHOWN]:
            say(f"      {fitted(printable(line.expandtabs(4)), width - 6)}")
