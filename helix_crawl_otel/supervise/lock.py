"""The lock on an output folder: one run at a time, and the second is told who has it.

The lock is the operating system's, so that of a dead process is free at once. A file beside it says who holds it.

Source: DESIGN.md, section 3.7.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from helix_crawl_otel.dates import local_time
from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.file_locks import NO_LOCKS, lacks_locks, no_locks
from helix_crawl_otel.paths import is_no_file
from helix_crawl_otel.probes.processes import process_mark

__all__ = [
    "HOLDER",
    "FolderLock",
    "FolderLocked",
    "LockHolder",
    "held_sentence",
    "holder_of",
    "holder_text",
    "read_holder",
]

HOLDER = "lock.json"


class FolderLocked(Refusal):
    """Another run holds the folder. The message says which, and since when."""


@dataclass(frozen=True)
class LockHolder:
    """Who holds, or held, the lock of the folder; what an earlier version did not write is empty.

    Args:
        command: As it was typed, without its secrets.
        pid: Its process.
        process: What tells that process from a later one with its id.
        host: Its machine.
        since: Date and time, as it was written.
        home: Where the run keeps its state, when that is another folder.
    """

    command: str
    pid: int
    process: str
    host: str
    since: str
    home: str


def read_holder(folder: Path) -> LockHolder | None:
    """Who holds, or held, the lock of a folder; `None` where nothing says so.

    Args:
        folder: Where the lock is kept.
    """
    path = folder / HOLDER
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        return holder_of(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # nobody holds it, or it is just being written


def holder_of(text: str) -> LockHolder | None:
    """What `holder_text` gave; `None` for anything else."""
    try:
        content = json.loads(text)
        given: Mapping[str, Any] = content if isinstance(content, dict) else {}
        pid = given.get("pid")
        words = {name: given.get(name, "") for name in ("command", "process", "host", "since", "home")}
        if type(pid) is int and all(isinstance(word, str) for word in words.values()):
            return LockHolder(pid=pid, **words)
    except (ValueError, RecursionError):
        pass
    return None


def holder_text(command: str, home: Path | None = None) -> str:
    """This process as a holder, a line of JSON; the arguments as those of `FolderLock`."""
    content = {
        "pid": os.getpid(),
        "host": platform.node(),
        "command": command,
        "since": local_time(time.time()),
        "process": process_mark(os.getpid()) or "",
        "home": "" if home is None else str(home),
    }
    return json.dumps(content) + "\n"


def held_sentence(place: str, holder: LockHolder | None) -> str:
    """What is said to the one who comes second."""
    who = "another process"  # it is just writing who it is, or could not
    if holder is not None and holder.command:
        who = f"`{holder.command}` (process {holder.pid} on {holder.host}, since {holder.since})"
    return f"{place} is in use by {who}; wait for it, or end it: what it has done is kept"


class FolderLock:
    """The lock of one folder, held while the `with` block lasts.

    Args:
        folder: Where the lock is kept, `.helix-crawl` of an output; made if need be.
        command: What holds it, for the other one's message.
        home: The folder that keeps what the run tells of itself, where that is another one.

    Raises:
        FolderLocked: At `__enter__`: somebody else holds it.
        OSError: The folder cannot be written, or its file system knows no locks.
    """

    def __init__(self, folder: Path, command: str, home: Path | None = None) -> None:
        self._folder = folder
        self._command = command
        self._home = home
        self._holder = folder / HOLDER
        self._lock = FileLock(folder / "lock")

    def __enter__(self) -> FolderLock:
        self._refuse_what_blocks()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            # SQLite takes locks of the other kind, and would wait for those as if somebody held them.
            if (why := lacks_locks(self._folder)) is not None:
                self._lock.release()
                raise OSError(errno.ENOLCK, why)
        except Timeout:
            raise FolderLocked(held_sentence(str(self._folder.parent), read_holder(self._folder))) from None
        except NotImplementedError as error:
            raise OSError(errno.ENOLCK, no_locks(self._folder, str(error))) from None
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in NO_LOCKS:
                raise OSError(error.errno, no_locks(self._folder, why)) from None
            accepted = "a folder in which files can be made, or a place where one can be"
            raise OSError(error.errno, f"{self._folder} cannot be written: {why}; accepted: {accepted}") from None
        try:
            self._holder.write_text(holder_text(self._command, self._home), encoding="utf-8")
        except BaseException as error:
            self._lock.release()
            if isinstance(error, OSError):  # a full disk is told when the file is closed, without its name
                raise OSError(error.errno, error.strerror, str(self._holder)) from None
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # on Windows somebody may be reading it just now; it says nothing by itself
            self._holder.unlink()
        self._lock.release()

    def _refuse_what_blocks(self) -> None:
        """A pipe in the place of the lock, the state or a log would be waited for, by each who opens it, for ever."""
        for path in self._folder.glob("*"):
            if is_no_file(path) and not path.is_dir():
                why = "is a pipe, a socket or a device; accepted: a file, or nothing there"
                raise OSError(errno.EINVAL, f"{path} {why}")
