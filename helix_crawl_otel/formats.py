"""How things are shown to people: durations, byte sizes, counts, rates, names, and a command as somebody would type it;
and whether anybody still reads.
"""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from textwrap import wrap
from unicodedata import category

__all__ = [
    "GIB",
    "MIB",
    "clock",
    "count",
    "duration",
    "fitted",
    "genes",
    "gib",
    "gib_number",
    "html_text",
    "is_gone_reader",
    "mib",
    "nearest",
    "number",
    "printable",
    "printable_lines",
    "rate",
    "shard_name",
    "shown_command",
    "size",
    "span",
    "table_lines",
    "whole_seconds",
    "without_secrets",
]

MIB, GIB = 1024**2, 1024**3
"""Bytes."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400

MOST_LETTERS = 10_000
"""Of a line. A command with its paths may be long, and is there to be copied."""

_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]+://)([^\s/?#@\"']*@)?((?:\[[^\s\]]*\]|[^\s/?#@:\"'\[]*)(?::[0-9]+)?)([^\s\"']*)"
)
_SECRET = re.compile(
    r".*(pass(word|wd|phrase)?|secret|token|credentials?|(api|access|private|auth)[-_]?key)", re.IGNORECASE
)
_HEADER = re.compile(r"\b(authorization:|bearer |basic ).*", re.IGNORECASE)

_PLAIN = re.compile(r"[\w.:/\\+=~-]+")
# PowerShell takes the typographic quotation marks for the plain ones.
_READ_BY_POWERSHELL = re.compile('["$`\u201c\u201d\u201e]')
_LAST_BACKSLASHES = re.compile(r"\\+\Z")
_SINGLE_QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")


def duration(seconds: float) -> str:
    """Such as `0.4 s`, `47 s`, `12 min 05 s`, `2 h 05 min`, `3 d 04 h`."""
    if round(seconds, 1) < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR:02d} h"


def whole_seconds(seconds: float) -> str:
    """Whole ones whatever they add up to, such as `3720 s`: evidence is compared with limits that are in seconds."""
    return f"{seconds:.0f} s"


def span(seconds: float | None, *, precisely: bool = False) -> str:
    """In one unit, for a column: such as `12 s`, `35.0 min`, `8.8 h`, `2.6 d`, `30 d`.

    Args:
        seconds: How long; `-` while unknown.
        precisely: With a digit after the point wherever there is none without.
    """
    if seconds is None:
        return "-"
    units = ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min"))
    length, unit = next(((length, unit) for length, unit in units if seconds >= 2 * length), (1, "s"))
    is_whole = not precisely and (unit == "s" or seconds >= 10 * _DAY)
    return f"{seconds / length:.{0 if is_whole else 1}f} {unit}"


def clock(seconds: float) -> str:
    """A moment of a run, such as `0:04:10`."""
    whole = round(max(0.0, seconds))
    return f"{whole // _HOUR}:{whole % _HOUR // _MINUTE:02d}:{whole % _MINUTE:02d}"


def number(genes_per_second: float) -> str:
    """A rate's number, such as `15.3`; slow ones keep their digits, such as `0.023`, and only none at all is `0`."""
    if genes_per_second <= 0:
        return "0"
    if genes_per_second >= 0.9995:
        return f"{genes_per_second:,.1f}"
    return f"{genes_per_second:.2g}"


def rate(genes_per_second: float | None, baseline: float | None = None) -> str:
    """Such as `15.3 genes/s`, or `2.3 of 15.3 genes/s` beside a baseline; `-` while unknown."""
    if genes_per_second is None:
        return "-"
    of = f" of {number(baseline)}" if baseline else ""
    return f"{number(genes_per_second)}{of} genes/s"


def count(number: int, one: str, many: str = "") -> str:
    """Such as `1 shard`, `6 shards`, `1,234 sources`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def genes(number: int) -> str:
    """Such as `12,345 genes`."""
    return count(number, "gene")


def gib(number_of_bytes: float, digits: int = 1) -> str:
    """Such as `11.0 GiB`."""
    return f"{gib_number(number_of_bytes, digits)} GiB"


def gib_number(number_of_bytes: float, digits: int = 1, sign: str = "") -> str:
    """The number of it alone, such as `11.0`; with the sign `+` also before what is more than nothing."""
    return f"{number_of_bytes / GIB:{sign}.{digits}f}"


def mib(number_of_bytes: float) -> str:
    """Such as `512 MiB`."""
    return f"{number_of_bytes / MIB:.0f} MiB"


def size(number_of_bytes: float) -> str:
    """As disks and file managers have it, such as `812 bytes`, `20.4 kB`, `56.7 MB`, `3.1 GB`."""
    for unit, power in (("TB", 4), ("GB", 3), ("MB", 2), ("kB", 1)):
        if number_of_bytes >= 0.9995 * 1000**power:
            return f"{number_of_bytes / 1000**power:,.1f} {unit}"
    return count(round(number_of_bytes), "byte")


def nearest(given: str, accepted: Iterable[str]) -> str:
    """Such as `; did you mean build?`, where one of what is accepted is nearly what was given, and else nothing."""
    from difflib import get_close_matches  # late: only errors need it

    found = get_close_matches(given, list(accepted), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def shard_name(shard: str) -> str:
    """The name of a shard; that of the loose files says what it is."""
    return f"{shard} (loose files)" if shard == "." or shard.endswith("/.") else shard


def printable(text: str) -> str:
    """A line that moves no cursor, hides nothing and ends where it ends, whatever is in it.

    Whatever is shown of what comes from outside goes through here, at the output: names of files, of shards and of
    programs, and what a library or a database says may hold anything. What is no letter is written as in a Python
    text, such as `\\x1b`; a blank of any width is a blank. Of a line that nobody would read to its end only the
    beginning is left.
    """
    shown = text[:MOST_LETTERS]
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else " " if category(c) == "Zs" else ascii(c)[1:-1] for c in shown)
    return shown if len(text) <= MOST_LETTERS else f"{shown}... ({len(text):,} characters)"


def fitted(text: str, columns: int, *, keeps_end: bool = False) -> str:
    """A printable text in so many columns of a terminal, with … for what is cut off. A wide letter takes two.

    Args:
        text: One line.
        columns: Of the terminal; at least one is used.
        keeps_end: Cut off the beginning: of a path the end says more.
    """
    from rich.cells import cell_len  # where nothing is shown it is not loaded

    if cell_len(text) <= columns:
        return text
    kept, left = [], columns - 1
    for letter in reversed(text) if keeps_end else text:
        left -= cell_len(letter)
        if left < 0:
            break
        kept.append(letter)
    while cell_len("".join(kept)) >= columns > 1:
        kept.pop()  # a mark has made a letter before it a wide one, as of many emoji
    return "…" + "".join(reversed(kept)) if keeps_end else "".join(kept).rstrip() + "…"


def table_lines(
    headings: Sequence[str], blocks: Sequence[Sequence[Sequence[str]]], columns: int | None = None, *, names: int = 2
) -> list[str]:
    """A table as lines without a line end: first cells to the left, numbers to the right.

    Where it has more columns than there are, headings of several words take several lines and the name of a block has
    a line of its own; where that is not enough either, each row is a list of what its cells say.

    Args:
        headings: Of the cells.
        blocks: Rows that belong together, an empty line between each two; their first cell is the name of the block,
            shown once, where there are at least two cells to the left; then the headings are underlined, too.
        columns: Of the terminal, `None`: as many as it takes.
        names: How many cells stand to the left.

    Returns:
        The lines. Of a list they may still be longer than a terminal of fewer columns than a single word has.
    """
    whole = _aligned(headings, blocks, names, in_one=True)
    if columns is None or max(map(len, whole)) <= columns:
        return whole
    narrow = _aligned(headings, blocks, names, in_one=False)
    if max(map(len, narrow)) <= columns:
        return narrow
    lines = []
    for block in blocks:
        for row in block:
            said = zip(headings[names:], row[names:], strict=True)
            # A cell is not broken at its blanks.
            text = "; ".join(f"{heading}: {cell}" for heading, cell in said).replace(" ", "\xa0").replace(";\xa0", "; ")
            shown = wrap(text, max(1, columns - 2), break_long_words=False, break_on_hyphens=False)
            lines += [", ".join(row[:names]), *(f"  {line}".replace("\xa0", " ") for line in shown)]
        lines.append("")
    return lines[:-1]


def _aligned(
    headings: Sequence[str], blocks: Sequence[Sequence[Sequence[str]]], names: int, *, in_one: bool
) -> list[str]:
    """Of `table_lines`. In one: a heading is one line, and the name of a block stands in its first row."""
    skipped = 0 if in_one or names == 1 else 1
    stacks = [[heading] if in_one else heading.split() for heading in headings[skipped:]]
    height = max(map(len, stacks))
    heads = list(zip(*([""] * (height - len(stack)) + stack for stack in stacks), strict=True))
    rows = [[row[skipped:] for row in block] for block in blocks]
    widths = [max(map(len, column)) for column in zip(*heads, *(row for block in rows for row in block), strict=True)]
    left = names - skipped

    def aligned(cells: Sequence[str]) -> str:
        texts = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(texts).rstrip()

    ruler = ["  ".join("-" * width for width in widths)] if names > 1 else []
    lines = [*map(aligned, heads), *ruler]
    for number, (block, cells) in enumerate(zip(blocks, rows, strict=True)):
        lines += [""] * (number > 0) + [block[0][0]] * skipped
        once = names > 1 and not skipped
        lines += [aligned(["", *row[1:]] if at and once else row) for at, row in enumerate(cells)]
    return lines


def printable_lines(text: str) -> str:
    """The same of several lines that were put together here."""
    return "\n".join(map(printable, text.split("\n")))


def html_text(text: str) -> str:
    """The same for a page: what stands between two tags, or in an attribute."""
    return escape(printable_lines(text))


def shown_command(words: Iterable[str], platform: str = sys.platform) -> str:
    """Words of a command, quoted where they have to be.

    On Windows it is typed in PowerShell, or in the old command prompt where both read the same.

    Args:
        words: Program and arguments.
        platform: As `sys.platform` has it.
    """
    if platform != "win32":
        return shlex.join(words)
    return " ".join(map(_quoted, words))


def without_secrets(words: Iterable[str]) -> Iterator[str]:
    """Words of a command as others may see them: `...` stands for what may be a secret.

    Of a URL all that is not its host: the address of a chat's hook is one, and a bucket's is none. Of `--notify` the
    arguments of a command. The value of what is named like a secret, such as `--api-key`, `--token=` or `HF_TOKEN=`,
    and of an Authorization.
    """
    hides_next = ""
    for word in words:
        name, equals, value = word.partition("=")
        if hides_next:
            yield _notified(word) if hides_next == "--notify" else "..."
            hides_next = ""
        elif name == "--notify" or _SECRET.fullmatch(name):
            hides_next = "" if equals else name
            yield f"{name}={_notified(value) if name == '--notify' else '...'}" if equals else word
        else:
            yield _HEADER.sub(r"\1 ...", _URL.sub(_host_alone, word))


def _notified(target: str) -> str:
    """What is told of the end: a URL, or a program with its arguments."""
    first, _, others = target.partition(" ")
    return _URL.sub(_host_alone, first) + (" ..." if others else "")


_OF_BUCKETS = ("s3://", "gs://", "az://", "file://")


def _host_alone(url: re.Match[str]) -> str:
    scheme, user, host, rest = url.groups()
    if scheme.lower() in _OF_BUCKETS and not user and "?" not in rest:
        return url[0]  # the command is to be typed again, and a bucket's name opens nothing
    return url[0] if not user and rest in ("", "/") else f"{scheme}{host}/..."


def is_gone_reader(error: OSError, platform: str = sys.platform) -> bool:
    """Whether who reads the output has seen enough: `| head`. Windows calls the broken pipe an invalid argument."""
    is_nameless = platform == "win32" and error.errno == errno.EINVAL and error.filename is None
    return isinstance(error, BrokenPipeError) or is_nameless


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    if _READ_BY_POWERSHELL.search(word):
        return "'" + _SINGLE_QUOTES.sub(r"\g<0>\g<0>", word) + "'"
    # Backslashes before the closing mark would make it one of the text's.
    return f'"{word}{"".join(_LAST_BACKSLASHES.findall(word))}"'
