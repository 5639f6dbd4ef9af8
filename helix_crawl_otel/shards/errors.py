"""What can be wrong with a shard's file, each as one sentence for people."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from helix_crawl_otel.exit_codes import FAILED, USAGE, Refusal
from helix_crawl_otel.file_locks import lacks_locks, no_locks
from helix_crawl_otel.formats import printable, shown_command
from helix_crawl_otel.lacks import is_full_disk

__all__ = [
    "CannotSetAside",
    "DamagedRow",
    "DamagedShard",
    "DiskTrouble",
    "EmptyFile",
    "EncoderRefused",
    "LeaseLost",
    "NoLocks",
    "NoShards",
    "NotAShard",
    "ShardCorrupt",
    "ShardLocked",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "cannot_write",
    "error_code",
    "shown_identity",
    "store_errors",
]

ERROR, PERM, BUSY, LOCKED, READONLY, IOERR, CORRUPT = 1, 3, 5, 6, 8, 10, 11
FULL, CANTOPEN, PROTOCOL, CONSTRAINT, NOTADB = 13, 14, 15, 19, 26
CORRUPT_VTAB = CORRUPT | 1 << 8
"""Result codes of SQLite; `sqlite3` names them from Python 3.11 on. The lower eight bits are the kind, the rest says
more. Source: sqlite.org/rescode.html."""

# Write, fsync, truncate, and the size and mapping of the -shm file. A full disk or a quota may be behind these, and
# behind one of which nothing more is known.
_OF_LOCKS = frozenset({PROTOCOL, *(IOERR | more << 8 for more in (8, 9, 14, 15, 18, 20))})
"""UNLOCK, RDLOCK, CHECKRESERVEDLOCK, LOCK, and the -shm file that cannot be opened or locked: the locks of a log."""

_MAY_BE_FULL = frozenset(IOERR | more << 8 for more in (0, 3, 4, 6, 19, 21))


class StoreError(Refusal):
    """A shard's file cannot be worked on. The message is one sentence."""

    exit_code = FAILED


class LeaseLost(StoreError):
    """Another worker has taken this shard over: nothing may be written any more."""


class ShardCorrupt(StoreError):
    """SQLite says that the file is damaged. Whether it is, `damage.judge` finds out."""


class CannotSetAside(StoreError):
    """A damaged file is where it was: it cannot be renamed."""


class NoLocks(StoreError):
    """The file system knows no locks, or not those that SQLite needs."""


class ShardLocked(StoreError):
    """Another program holds the file locked."""


class StoreFull(StoreError):
    """The disk is full."""


class DiskTrouble(StoreError):
    """The disk, or what it is reached by, reports an error of its own."""


class StoreReadOnly(StoreError):
    """The file or its folder cannot be written."""


class DamagedShard(StoreError):
    """A row of our own in the file is not what we write there. The rest of the file is sound."""


class DamagedRow(Exception):
    """Raised where our rows are read, and made `DamagedShard` by `store_errors`, which knows the file.

    Args:
        what: The row, what is wrong with it, and what is accepted.
        mended_by: SQL that takes it away; empty where only another copy of the file helps.
    """

    def __init__(self, what: str, mended_by: str = "") -> None:
        super().__init__(what)
        self.mended_by = mended_by


class NotAShard(StoreError):
    """The file is no shard: it has no table of genes, or `build` is to write into it and has not made it."""


class EmptyFile(NotAShard):
    """The file is a database without anything in it, as a process leaves that is killed while it makes a shard."""


class NoShards(StoreError):
    """What a command was given is not there, or holds no shard: wrong usage."""

    exit_code = USAGE


class EncoderRefused(StoreError):
    """The shard's vectors were made by another encoder."""

    @classmethod
    def of(cls, path: Path, stored: Mapping[str, object], asked: str) -> EncoderRefused:
        """The shard names another encoder than the one that was asked for."""
        return cls(
            f"{path} was encoded by {shown_identity(stored)}, not by {asked}; use that model, another output folder, "
            "or --reencode to encode everything again"
        )


def shown_identity(identity: Mapping[str, object]) -> str:
    """An encoder's identity for people."""
    revision = str(identity.get("revision", ""))[:12]
    prompt = f", prompt {identity['prompt']!r}" if "prompt" in identity else ""
    dtype = f", {identity['dtype']}" if "dtype" in identity else ""
    cap = f", the first {identity['max_chars']:,} letters of a text" if "max_chars" in identity else ""
    return f"{identity.get('model')} ({revision}, {identity.get('dim')} dimensions{prompt}{dtype}{cap})"


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into the errors above.

    Args:
        path: The shard's file, for the message.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, path) from error
    except DamagedRow as error:
        raise _damaged(error, path) from error
    except OSError as error:
        if is_full_disk(error):
            raise StoreFull(_full(path)) from error
        raise StoreReadOnly(f"{path} cannot be used: {error.strerror or error}") from error


def error_code(error: sqlite3.Error) -> int:
    """SQLite's result code for an error, with what it says more where Python tells; 0 when nobody knows it.

    Python 3.10 does not tell. There the class of the error says which codes it can be, and of those the one counts
    whose sentence this is, letter by letter: what a trigger raises is of another class, and what names a table of the
    app's is another sentence. So are the errors of `sqlite3` itself, which have no code in any version.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int):
        return code
    text = str(error)
    if type(error) is sqlite3.DatabaseError:
        return CORRUPT if text.startswith("malformed database schema (") else _DATABASE_ERRORS.get(text, 0)
    if type(error) is sqlite3.OperationalError:
        return LOCKED if text.startswith("database table is locked: ") else _OPERATIONAL_ERRORS.get(text, 0)
    return CONSTRAINT if type(error) is sqlite3.IntegrityError else 0


# As sqlite3_errstr() has them, of every version so far.
_DATABASE_ERRORS = {
    "database disk image is malformed": CORRUPT,
    "file is not a database": NOTADB,
    "file is encrypted or is not a database": NOTADB,
}
_OPERATIONAL_ERRORS = {
    "access permission denied": PERM,
    "database is locked": BUSY,
    "database table is locked": LOCKED,
    "attempt to write a readonly database": READONLY,
    "disk I/O error": IOERR,
    "database or disk is full": FULL,
    "unable to open database file": CANTOPEN,
    "locking protocol": PROTOCOL,
}


def cannot_write(error: sqlite3.Error) -> bool:
    """Whether it is for want of the right to write or to make a file that SQLite cannot go on."""
    return error_code(error) & 0xFF in (PERM, READONLY, CANTOPEN)


def _damaged(error: DamagedRow, path: Path) -> DamagedShard:
    way_out = f"take that row away: {shown_command(['sqlite3', str(path), error.mended_by])}" if error.mended_by else ""
    others = "put a copy from before in its place, or move it away and let `build` make it again from its sources"
    return DamagedShard(
        f"{path} cannot be used: {error}; the file was left as it is. To mend it {way_out or others}"
        + (f"; or {others}" if way_out else "")
    )


def _full(path: Path) -> str:
    return f"the disk is full: {path} cannot grow; free some space and start the same command again, nothing is lost"


def _translated(error: sqlite3.Error, path: Path) -> StoreError:
    """By the code alone: the words may be those of the app's triggers, tables and columns."""
    code, said = error_code(error), printable(str(error))
    kind = code & 0xFF
    if code in _OF_LOCKS or (kind in (BUSY, LOCKED) and (said := lacks_locks(path.parent) or "")):
        return NoLocks(no_locks(path, f"{said}, code {code} of SQLite"))
    if kind == FULL:
        return StoreFull(_full(path))
    if kind in (BUSY, LOCKED):
        return ShardLocked(f"{path} is locked by another program; close what has it open and start again")
    if cannot_write(error):
        return StoreReadOnly(f"{path} cannot be written ({said}); check the rights, and who has it open")
    if code in _MAY_BE_FULL:
        return StoreFull(f"{path} cannot be written ({said}); check the disk and its free space")
    if kind == IOERR:
        return DiskTrouble(f"{path} cannot be read or written ({said}, code {code} of SQLite); check the disk")
    if kind in (CORRUPT, NOTADB) and code != CORRUPT_VTAB:
        # An encrypted file looks like no database either.
        return ShardCorrupt(f"{path} is damaged ({said})" + (", or encrypted" if kind == NOTADB else ""))
    return StoreError(f'{path} cannot be worked on: SQLite says "{said}"; the file was not changed by it{_hint(code)}')


def _hint(code: int) -> str:
    if code == CORRUPT_VTAB:
        return (
            ". A full-text index or another virtual table in it is out of step with its rows; make that index anew "
            "(FTS5: INSERT INTO its_name(its_name) VALUES ('rebuild')) and start again"
        )
    if code & 0xFF in (ERROR, CONSTRAINT):
        return ". Look at the triggers, constraints and indexes that the application has put on its table `genes`"
    return ""
