"""Which errors are worth another try: what the system lacks now, others may give back.

Source: DESIGN.md, section 3.3: 78 is for what can never start, and nobody tries that again.
"""

from __future__ import annotations

import errno

__all__ = ["is_full_disk", "is_passing", "lack_sentence", "passing_cause"]

_PERMANENT = {
    errno.E2BIG,
    errno.EACCES,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOEXEC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}
"""The same program, in the same place, by the same user: it fails tomorrow as it does today."""

_PASSING_ON_WINDOWS = {32, 33, 164, 1450, 1455, 1816}
"""A file that somebody has open; no more threads, resources, commit charge or quota. Their `errno` tells nothing."""

_LACKS = {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}


def is_full_disk(error: OSError) -> bool:
    """Whether there is no space left on a disk, or none for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_passing(error: BaseException) -> bool:
    """Whether what keeps something from being started may be over in a while: a lack of descriptors, processes, threads
    or memory, a file in use, a full disk."""
    if isinstance(error, OSError):
        return getattr(error, "winerror", None) in _PASSING_ON_WINDOWS or error.errno not in _PERMANENT
    if isinstance(error, ImportError):  # what the system's loader says of a library for which there is no memory
        return any(words in str(error).lower() for words in ("failed to map", "cannot allocate", "paging file"))
    # What `threading` makes of EAGAIN.
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "start new thread" in str(error))


def passing_cause(error: Exception) -> Exception | None:
    """The lack of descriptors, processes, threads or memory that an error has come of, `None` for none.

    Args:
        error: One that was raised, perhaps while another one was handled.
    """
    found: BaseException | None = error
    while isinstance(found, Exception):
        if is_passing(found) and (not isinstance(found, OSError) or found.errno in _LACKS):
            return found
        found = found.__cause__ or found.__context__
    return None


def lack_sentence(error: BaseException) -> str:
    """What the system has refused, in words, and which limit may have done so."""
    if isinstance(error, OSError):
        what = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        limit = _LIMITS.get(error.errno or 0)
    else:
        what = str(error) or "out of memory"
        limit = _LIMITS[errno.EAGAIN if isinstance(error, RuntimeError) else errno.ENOMEM]
    return what + (f" ({limit})" if limit else "")


_LIMITS = {
    errno.EMFILE: "this process has as many files open as it may: `ulimit -n`",
    errno.ENFILE: "the system has as many files open as it can",
    errno.EAGAIN: "there are as many processes or threads as there may be, or no memory for one more: `ulimit -u`, "
    "`ulimit -v`, or the container's limit",
    errno.ENOMEM: "there is no memory for it: `ulimit -v`, or the container's limit",
}
