"""Reads the PowerShell blocks of the documentation, which are simple.

It knows what the blocks use: `$env:NAME = "value"`, a variable that gets what a pipeline gives, programs with their
arguments, a few cmdlets, `do { } while`, quotes, the backtick. Anything else is refused, so that a block which nobody
has read is not taken for one that works.

Source: Microsoft, "about_Parsing", "about_Quoting_Rules".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["VARIABLE", "Loop", "Statement", "Unreadable", "plain", "programs", "read"]

_TOKEN = re.compile(
    r"""(?P<skipped>`\r?\n|[ \t]+|\#[^\n]*)
      | (?P<mark>[\n;|{}])
      | (?P<word>(?:'[^']*'|"[^"]*"|\([^()\n]*\)[.\w]*|(?!`\r?\n)[^\s;|{}'"()])+)""",
    re.VERBOSE,
)
_WRONG = re.compile(r"&&|\|\||(?<!`)\\$", re.MULTILINE)
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)"|`(.)""")
VARIABLE = re.compile(r"\$(\w+)(?:\.(\w+))?")


class Unreadable(Exception):
    """A block holds what this reader does not know."""


@dataclass(frozen=True)
class Statement:
    """A line.

    Args:
        pipeline: Commands, each with its words as they stand there.
        into: The variable that gets what the last one gives, such as `$first` or `$env:NAME`; empty for none.
    """

    pipeline: tuple[tuple[str, ...], ...]
    into: str = ""


@dataclass(frozen=True)
class Loop:
    """`do { ... } while ($LASTEXITCODE -eq N)`: the statements, and N."""

    body: tuple[Statement, ...]
    code: int


def read(block: str) -> list[Statement | Loop]:
    """The statements of a block.

    Raises:
        Unreadable: See there.
    """
    if found := _WRONG.search(block):
        raise Unreadable(f"{found[0]!r} means something else in PowerShell 5.1: {block}")
    lines = iter(list(_lines(block)))
    statements: list[Statement | Loop] = []
    for words in lines:
        if words != ["do", "{"]:
            statements.append(_statement(words))
            continue
        body: list[Statement] = []
        last: list[str] = []
        for last in lines:
            if last[0] == "}":
                break
            body.append(_statement(last))
        end = re.fullmatch(r"\} while \(\$LASTEXITCODE -eq (\d+)\)", " ".join(last))
        if end is None:
            raise Unreadable(f"a loop that ends with {' '.join(last)!r}")
        statements.append(Loop(tuple(body), int(end[1])))
    return statements


def programs(block: str) -> Iterator[tuple[str, ...]]:
    """The words of each program with arguments in a block, as the program gets them; `$HOME` is `~` in them."""
    for statement in read(block):
        for one in statement.body if isinstance(statement, Loop) else (statement,):
            for words in one.pipeline:
                if not re.match(r"[A-Z][a-z]+-[A-Z]|[$\[]|exit$", words[0]):
                    yield tuple(plain(word, {"HOME": "~"}) for word in words)


def _lines(block: str) -> Iterator[list[str]]:
    """Words and marks of each line or part of one."""
    words: list[str] = []
    at = 0
    while at < len(block):
        found = _TOKEN.match(block, at)
        if found is None:
            raise Unreadable(f"after {block[:at]!r}: {block[at : at + 20]!r}")
        at = found.end()
        if found["word"]:
            words.append(found["word"])
        elif found["mark"] == "|":
            words.append("|")
        elif found["mark"]:
            if found["mark"] == "{":
                words.append("{")
            if words:
                yield words
            words = ["}"] if found["mark"] == "}" else []
    if words:
        yield words


def _statement(words: list[str]) -> Statement:
    into = ""
    if len(words) > 2 and words[1] == "=":
        into, words = words[0], words[2:]
    if unknown := [word for word in words if word in ("{", "}") or "$(" in word]:
        raise Unreadable(f"{unknown[0]} in {' '.join(words)}")
    pipeline: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            pipeline.append([])
        else:
            pipeline[-1].append(word)
    if not all(pipeline):
        raise Unreadable(f"a command without words: {words}")
    return Statement(tuple(tuple(command) for command in pipeline), into)


def plain(word: str, variables: Mapping[str, str]) -> str:
    """A word without its quotes, with the values of its variables; paths have this system's slashes.

    Args:
        word: As it stands there.
        variables: Values by name; a variable that is not among them stays as it is.
    """

    def value(found: re.Match[str]) -> str:
        return variables[found[1]] if found[1] in variables and found[2] is None else found[0]

    def unquoted(found: re.Match[str]) -> str:
        single, double, escaped = found.groups()
        if single is not None:
            return str(single)
        return str(escaped) if escaped else VARIABLE.sub(value, double)

    parts, at = [], 0
    for found in _QUOTED.finditer(word):
        parts += [_slashes(VARIABLE.sub(value, word[at : found.start()])), unquoted(found)]
        at = found.end()
    return "".join([*parts, _slashes(VARIABLE.sub(value, word[at:]))])


def _slashes(text: str) -> str:
    return text if os.sep == "\\" else text.replace("\\", "/")
