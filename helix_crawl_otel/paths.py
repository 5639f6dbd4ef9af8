r"""Paths as they are typed, and the form in which Windows takes every path.

Windows reads a plain path by rules of its own: `aux` and `con` are devices in every folder, a dot or a blank at the end
of a name is dropped, and what is longer than 260 characters is not there unless the user has set a registry key AND the
program says that it knows long paths. Behind `\\?\` none of that holds, so that is how this package reads a tree.

Source: Microsoft, "Naming Files, Paths, and Namespaces", "Maximum Path Length Limitation". Tried under Wine only, which
keeps those rules apart from the limit of 260.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from helix_crawl_otel.config import ConfigError

__all__ = [
    "STATE_FOLDER",
    "TIMELINE",
    "are_same",
    "is_no_file",
    "job_folder",
    "looked_at",
    "on_disk",
    "same_place",
    "typed_folder",
    "typed_path",
    "verbatim",
]

STATE_FOLDER = ".helix-crawl"
"""In the folder of a job: its timeline, its ladder, its lock."""
TIMELINE = "timeline.jsonl"
"""The file of the flight recorder in it."""

_VERBATIM, _DEVICE, _SHARE = "\\\\?\\", "\\\\.\\", "\\\\"

PLAIN_CHARACTERS = 259 - 132
"""Of a folder of shards: the longest name in it is 100 characters with `-12345678.db.corrupt-100-journal` behind."""


def job_folder(state: Path) -> Path:
    """The folder of a job for people, by the one that keeps its state: that of its shards, or what `run --state` named.

    Args:
        state: Absolute.
    """
    return state.parent if state.name == STATE_FOLDER else state


def typed_path(text: str, what: str) -> Path:
    """A path that a command was given.

    Args:
        text: As it was typed; `~` is the user's folder.
        what: The option or argument, for the message.

    Returns:
        On Windows it is absolute, for `C:notes` and `\\notes` mean a place that only this moment knows.

    Raises:
        ConfigError: It is the name of a device.
    """
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - where nobody knows the folder of `~` it stays what it is
    if sys.platform != "win32":
        return path
    full = os.path.abspath(path)  # noqa: PTH100 - `resolve` follows links, `absolute` leaves C:notes as it is
    if full.startswith(_DEVICE):
        raise ConfigError(
            f"{what} is {text!r}, which Windows takes for a device; accepted: another name, or the whole path "
            f"behind {_VERBATIM}"
        )
    return Path(full)


def typed_folder(text: str, what: str) -> Path:
    """The same for what holds shards: in the form that leaves room for the names in it.

    Args:
        text: See `typed_path`.
        what: See `typed_path`.

    Raises:
        ConfigError: It is the name of a device.
    """
    path = typed_path(text, what)
    looked_at.place = str(path)
    return on_disk(path) if len(str(path)) > PLAIN_CHARACTERS else path


def on_disk(path: Path) -> Path:
    """The path by which a file is opened, whatever its names and however long it is.

    Args:
        path: Absolute, without `..`.
    """
    return Path(verbatim(str(path))) if sys.platform == "win32" else path


def verbatim(text: str) -> str:
    r"""An absolute path of Windows behind `\\?\`, unless it is there or names a device."""
    if text.startswith((_VERBATIM, _DEVICE)):
        return text
    return f"{_VERBATIM}UNC\\{text.removeprefix(_SHARE)}" if text.startswith(_SHARE) else f"{_VERBATIM}{text}"


def is_no_file(path: Path) -> bool:
    """Whether something is there that is no file: a folder, or a pipe or a device, which whoever opens it waits for.

    By one look: what SQLite keeps beside a file, and a file that is about to be renamed, are gone before a second. What
    cannot be looked at is told of by whoever opens it.
    """
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths mean one file or folder, there or not.

    Args:
        one: Absolute.
        other: Absolute.
    """
    try:
        return are_same(one, one.stat(), other, other.stat())
    except OSError:
        return _real(one) == _real(other)
    except ValueError:  # a text that can be no path: a hand has changed a record or a note
        return False


def are_same(one: str | Path, of_one: os.stat_result, other: str | Path, of_other: os.stat_result) -> bool:
    """The same of what is there, by what `stat` says: by the paths where the file system does not number its files,
    as some network drives of Windows do not. There `samefile` takes all for one.
    """
    if of_one.st_ino or of_other.st_ino:
        return os.path.samestat(of_one, of_other)
    return _real(one) == _real(other)


def _real(path: str | Path) -> str:
    real = os.path.normcase(os.path.realpath(path))
    return verbatim(real) if sys.platform == "win32" else real


class LookedAt:
    """What of the file system is being asked for just now, for who waits for it: a dead network mount never answers.

    Threads: one sets it, any may read.
    """

    def __init__(self) -> None:
        self.place = ""
        self.answers = 0
        """How often something has come of it that takes long to look at."""


looked_at = LookedAt()
"""Of this process."""
