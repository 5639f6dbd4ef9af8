"""Takes the PowerShell blocks of the documentation apart, which are simple, to compare them with their twins.

It knows what the blocks use: a variable that gets a value, programs with their arguments, cmdlets, pipelines,
`do { } while`, quotes, the backtick. Anything else is refused, so that a block which nobody has read is not taken for
one that says the same. Whether PowerShell takes a block is for PowerShell to say: `test_powershell_itself.py`.

Source: Microsoft, "about_Parsing", "about_Quoting_Rules".
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

__all__ = ["Unreadable", "commands", "programs"]

_TOKEN = re.compile(
    r"""(?P<skipped>`\r?\n|[ \t]+|\#[^\n]*)
      | (?P<mark>[\n;|])
      | (?P<word>(?:'[^']*'|"[^"]*"|\([^()\n]*\)[.\w]*|(?!`\r?\n)[^\s;|{}'"()])+)""",
    re.VERBOSE,
)
_LOOP = re.compile(r"^do \{$|^\} while \(\$LASTEXITCODE -eq \d+\)$", re.MULTILINE)
_WRONG = re.compile(r"&&|\|\||(?<!`)\\$|\$\(|^do \{$(?![^{}]*^\} while )", re.MULTILINE)
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)"|`(.)""")


class Unreadable(Exception):
    """A block holds what this reader does not know, or what means something else in PowerShell 5.1."""


def commands(block: str) -> Iterator[list[str]]:
    """The words of each command of a block, as they stand there.

    Raises:
        Unreadable: See there.
    """
    if found := _WRONG.search(block):
        raise Unreadable(f"{found[0]!r} in {block}")
    text = _LOOP.sub("", block) + "\n"
    words: list[str] = []
    at, is_piped = 0, False
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise Unreadable(f"after {text[:at]!r}: {text[at : at + 20]!r}")
        at = token.end()
        if token["word"]:
            words.append(token["word"])
        elif token["mark"]:
            if words:
                yield words
            elif is_piped or token["mark"] == "|":
                raise Unreadable(f"a pipeline that lacks a command: {block}")
            words, is_piped = [], token["mark"] == "|"


def programs(block: str) -> Iterator[tuple[str, ...]]:
    """The words of each program with arguments in a block, as the program gets them; `$HOME` is `~` in them."""
    for found in commands(block):
        words = found[2:] if found[1:2] == ["="] else found  # a variable gets what comes behind
        if words and not re.match(r"[A-Z][a-z]+-[A-Z]|[$\[]|exit$", words[0]):
            yield tuple(map(_plain, words))


def _plain(word: str) -> str:
    """A word without its quotes, with `~` for the user's folder; paths have this system's slashes."""
    parts, at = [], 0
    for found in _QUOTED.finditer(word):
        single, double, escaped = found.groups()
        quoted = single if single is not None else escaped or _home(double)
        parts += [_slashes(_home(word[at : found.start()])), quoted]
        at = found.end()
    return "".join([*parts, _slashes(_home(word[at:]))])


def _home(text: str) -> str:
    return re.sub(r"\$HOME\b", "~", text)


def _slashes(text: str) -> str:
    return text if os.sep == "\\" else text.replace("\\", "/")
