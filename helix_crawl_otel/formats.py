"""What is shown: a command as somebody would type it, and whether anybody still reads.

On Windows a command is typed in PowerShell, or in the old command prompt where both read the same.
"""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Iterable

__all__ = ["is_gone_reader", "shown_command"]

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
