"""Whether another program has a shard open, as far as SQLite's locks on the file tell.

Source: sqlite.org/lockingv3.html and walformat.html: the bytes that are locked. A program that has the file in WAL mode
holds one of them as long as it is open; one that uses a rollback journal only while it reads or writes.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

__all__ = ["is_held"]

_LOCKS = (("", 0x40000000, 512), ("-shm", 120, 9))
"""Suffix of the file, first byte and number of bytes."""


def is_held(path: Path) -> bool:
    """Ask the system; nothing is opened by SQLite, for the file may be damaged.

    Not to be asked while this process has the file open itself: the locks of this process are no obstacle, and are gone
    afterwards.

    Args:
        path: Of the file itself, no link to it.

    Returns:
        False also where nobody can tell. On Windows always: there a file that is open cannot be renamed anyway.
    """
    return any(_is_locked(path.with_name(path.name + suffix), first, count) for suffix, first, count in _LOCKS)


def _is_locked(path: Path, first: int, count: int) -> bool:
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    finally:
        os.close(descriptor)
    return False
