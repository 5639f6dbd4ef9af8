"""Whether files can be locked where they are: on some network mounts (NFS, SMB) and in some sandboxes they cannot.

SQLite says of that "database is locked" or "locking protocol", as if another program were at work, or "disk I/O error".
So the system itself is asked, with a file of our own.
"""

from __future__ import annotations

import errno
import sys
import tempfile
from pathlib import Path

__all__ = ["NO_LOCKS", "lacks_locks", "no_locks"]

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, getattr(errno, "ENOTSUP", errno.EOPNOTSUPP)})
"""What a file system says that knows no locks."""


def no_locks(place: Path, why: str) -> str:
    """The sentence about a place where files cannot be locked, with the way out.

    Args:
        place: A file or a folder there.
        why: What the system says.
    """
    return (
        f"{place} cannot be locked ({why}): the file system knows no locks, as a network mount (NFS, SMB) may not, "
        "and without them two programs would damage a shard; keep the shards on a local disk: `build` with a local "
        "--out, or a copy of the folder there"
    )


def lacks_locks(folder: Path) -> str | None:
    """What the system says to a lock on a file of ours in a folder; `None` where it gives it, or nobody can tell."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return (error.strerror or str(error)) if error.errno in NO_LOCKS else None
    return None
