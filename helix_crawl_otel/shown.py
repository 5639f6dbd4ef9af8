"""A command as somebody would type it, for the line that says what to do next.

On Windows that is PowerShell, and the old command prompt where both read the same.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable

__all__ = ["shown_command"]

_PLAIN = re.compile(r"[\w.:/\\+=~-]+")
# PowerShell takes the typographic quotation marks for the plain ones.
_READ_BY_POWERSHELL = re.compile('["$`\u201c\u201d\u201e]')
_LAST_BACKSLASHES = re.compile(r"\\+\Z")
_SINGLE_QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")


def shown_command(words: Iterable[str], platform: str = sys.platform) -> str:
    """Words of a command, quoted where they have to be.

    Args:
        words: Program and arguments.
        platform: As `sys.platform` has it.
    """
    if platform != "win32":
        return shlex.join(words)
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if _PLAIN.fullmatch(word):
        return word
    if _READ_BY_POWERSHELL.search(word):
        return "'" + _SINGLE_QUOTES.sub(r"\g<0>\g<0>", word) + "'"
    # Backslashes before the closing mark would make it one of the text's.
    return f'"{word}{"".join(_LAST_BACKSLASHES.findall(word))}"'
