"""Judges a file that SQLite calls damaged: is it, whose is it, may it be set aside? And sets it aside.

SQLite says so of whole files too: of a full-text index that is out of step with its rows, of a table that a newer
version has made. So its `integrity_check` has the last word. And only a file that `build` has made, and can make again,
is ever set aside: what belongs to an application stays where that looks for it.

Source: DESIGN.md, section 8; sqlite.org/pragma.html#pragma_integrity_check.
"""

from __future__ import annotations

import enum
import errno
import os
import random
import re
import shlex
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.formats import printable
from helix_crawl_otel.shards import schema
from helix_crawl_otel.shards.errors import CORRUPT, NOTADB, CannotSetAside, ShardCorrupt, error_code
from helix_crawl_otel.shards.schema import LOCK_SECONDS, TREE_NOTE

__all__ = ["Condition", "Judgement", "condition", "is_held", "is_ours", "judge", "set_aside"]

ASKED_AGAIN_SECONDS = (0.01, 0.05, 0.2)
"""At most so long after each other a lock is asked for again: another one that only asks has it for a moment, too."""

LOOK_SECONDS = 5.0
"""For an application's file: while that is checked, the application may not be able to write to it."""

PAGE_BYTES = 4096
"""Of a file that SQLite makes today; ours begin with their whole schema."""

FIRST_PAGES = 16
"""Of a new shard: the roots of all our tables and their indexes."""

_CREATED = re.compile(
    rb"CREATE\s+(?:UNIQUE\s+|VIRTUAL\s+)?(?:TABLE|INDEX|TRIGGER|VIEW)\s+[\"'`\[]?([A-Za-z0-9_]+)", re.I
)

_PAGES = "*** in database "
"""So begins what `integrity_check` finds wrong with the pages of a file."""


class Condition(enum.Enum):
    """What `integrity_check` says of a file."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Judgement:
    """What comes of a file that SQLite calls damaged.

    Args:
        reason: One sentence.
        may_set_aside: It is damaged, and `build` can make it again.
    """

    reason: str
    may_set_aside: bool


def judge(error: ShardCorrupt, path: Path, *, is_built: bool, lock_seconds: float = LOCK_SECONDS) -> Judgement:
    """Find out what is behind it. Nobody in this process may have the file open.

    Args:
        error: What SQLite said.
        path: The file.
        is_built: By `build`, from sources that are there. A file of its own is checked for as long as it takes.
        lock_seconds: How long to wait for another program that holds it.
    """
    is_own = is_built and is_ours(path, lock_seconds)
    found = condition(path, None if is_own else LOOK_SECONDS, lock_seconds)
    if found is Condition.WHOLE:
        said = printable(str(error.__cause__ or error))
        return Judgement(
            f'{path} is not damaged, PRAGMA integrity_check finds nothing wrong with it, yet SQLite says "{said}"; the '
            "file was not changed by it. Look for a full-text index or another virtual table that is out of step with "
            "its rows (FTS5: INSERT INTO its_name(its_name) VALUES ('rebuild'))",
            may_set_aside=False,
        )
    if found is Condition.DAMAGED and is_own:
        return Judgement(str(error), may_set_aside=True)
    unsure = " (PRAGMA integrity_check could not be finished)" if found is Condition.UNKNOWN else ""
    foreign = "" if is_own or not is_built else ", for nothing in it says that `build` has made it"
    return Judgement(
        f"{error}{unsure}; it has been left where it is{foreign}. See what PRAGMA integrity_check says, then put a "
        f"copy from before in its place, or save what can be read: sqlite3 {shlex.quote(path.name)} .recover",
        may_set_aside=False,
    )


def condition(path: Path, seconds: float | None, lock_seconds: float = LOCK_SECONDS) -> Condition:
    """Have SQLite check the file, its pages, tables and indexes.

    Args:
        path: The file.
        seconds: How long that may take, `None` for as long as it takes.
        lock_seconds: How long to wait for another program that holds it.
    """
    try:
        with closing(schema.connect(path, lock_seconds)) as connection, _at_most(connection, seconds):
            # A CHECK that a row does not meet is the application's affair.
            connection.execute("PRAGMA ignore_check_constraints = ON")
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(100)")]
            is_whole = found == ["ok"] or (_has_virtual(connection) and _are_tables_whole(connection, found))
            return Condition.WHOLE if is_whole else Condition.DAMAGED
    except sqlite3.Error as error:
        return Condition.DAMAGED if _is_damage(error) else Condition.UNKNOWN


def _is_damage(error: sqlite3.Error) -> bool:
    return error_code(error) & 0xFF in (CORRUPT, NOTADB)


@contextmanager
def _at_most(connection: sqlite3.Connection, seconds: float | None) -> Iterator[None]:
    """Interrupt what the connection does after so long."""
    if seconds is None:
        yield
        return
    is_over = threading.Event()

    def interrupt() -> None:
        wait = seconds
        while not is_over.wait(wait):
            connection.interrupt()  # without effect between two statements: so again and again
            wait = 0.01

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _has_virtual(connection: sqlite3.Connection) -> bool:
    sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND coalesce(rootpage, 0) = 0"
    return connection.execute(sql).fetchone() is not None


def _are_tables_whole(connection: sqlite3.Connection, found: list[str]) -> bool:
    """Whether all that was found are complaints of virtual tables: SQLite 3.44 and later has these checked as well."""
    if any(line.startswith(_PAGES) for line in found):
        return False
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0").fetchall()
    quoted = (str(name).replace("'", "''") for (name,) in names)
    return all(connection.execute(f"PRAGMA integrity_check('{name}')").fetchone() == ("ok",) for name in quoted)


def is_ours(path: Path, lock_seconds: float = LOCK_SECONDS) -> bool:
    """Whether there is nothing in a damaged file but what `build` has made, as far as it can be read.

    A file of which nothing can be read that says so is not known to be ours.

    Args:
        path: The file.
        lock_seconds: How long to wait for another program that holds it.
    """
    try:
        with closing(schema.connect(path, lock_seconds)) as connection:
            # Takes a schema that cannot be understood as the rows that it is, and a file that is cut short. Nothing is
            # written.
            connection.execute("PRAGMA writable_schema = ON")
            return schema.is_all_own(connection) and _says_that_it_was_built(connection)
    except sqlite3.Error as error:
        names = _names_in_first_page(path) if _is_damage(error) else set()
        return "helix_crawl_meta" in names and schema.is_own_name(names)


def _says_that_it_was_built(connection: sqlite3.Connection) -> bool:
    sql = "SELECT rootpage FROM sqlite_master WHERE name = 'helix_crawl_meta'"
    root = connection.execute(sql).fetchone()
    if root is None:
        return False
    try:
        keys = {str(row[0]) for row in connection.execute("SELECT key FROM helix_crawl_meta")}
    except sqlite3.Error as error:
        # `build` makes that table before the first gene is there; in somebody else's file it lies behind the genes.
        return _is_damage(error) and int(root[0]) <= FIRST_PAGES
    was_only_encoded = "encoder" in keys and TREE_NOTE not in keys  # by a version that left no note of it
    return schema.APP_NOTE not in keys and not was_only_encoded


def _names_in_first_page(path: Path) -> set[str]:
    """Names in what is left of a schema that SQLite cannot read: behind a header that was written over, say."""
    with path.open("rb") as file:
        return {name.decode().lower() for name in _CREATED.findall(file.read(PAGE_BYTES))}


# -- setting aside -----------------------------------------------------------------------------------------------------


def set_aside(path: Path) -> Path:
    """Put a corrupt file out of the way, with what SQLite keeps beside it, all or none. Nothing is deleted.

    Returns:
        Where it is now.

    Of a link, the file that it means is renamed: SQLite keeps the rest beside that, and the new one is made there.

    Raises:
        CannotSetAside: It cannot be renamed, or another program has it open and would go on in the renamed file.
    """
    path = path.resolve() if path.is_symlink() else path
    if is_held(path):
        raise _cannot_set_aside("another program has it open")
    suffixes = (*schema.BESIDE, "")
    number = 1
    while any(path.with_name(f"{path.name}.corrupt-{number}{suffix}").exists() for suffix in suffixes):
        number += 1
    kept = path.with_name(f"{path.name}.corrupt-{number}")
    moved: list[tuple[Path, Path]] = []
    try:
        # The file itself last: SQLite would read a log or a journal that is left without it into the file that is made
        # in its place.
        for suffix in suffixes:
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                moved.append((beside, beside.replace(kept.with_name(kept.name + suffix))))
    except OSError as error:
        for before, now in reversed(moved):
            with suppress(OSError):
                now.replace(before)
        raise _cannot_set_aside(error.strerror or str(error)) from error
    return kept


def _cannot_set_aside(why: str) -> CannotSetAside:
    return CannotSetAside(f"it cannot be set aside ({why}): close what has it open and start again")


_LOCKS = (("", 0x40000000, 512), ("-shm", 120, 9))
"""Suffix of the file, first byte and number of bytes. Source: sqlite.org/lockingv3.html and walformat.html."""


def is_held(path: Path) -> bool:
    """Whether another program has a shard open, as far as SQLite's locks on the file tell.

    The system is asked; nothing is opened by SQLite, for the file may be damaged. A program that has the file in WAL
    mode holds one of the locks as long as it is open; one that uses a rollback journal only while it reads or writes.

    Not to be asked while this process has the file open itself: the locks of this process are no obstacle, and are gone
    afterwards.

    Args:
        path: Of the file itself, no link to it.

    Returns:
        False also where nobody can tell. On Windows always: there a file that is open cannot be renamed anyway.
    """
    files = [(path.with_name(path.name + suffix), first, count) for suffix, first, count in _LOCKS]
    for seconds in ASKED_AGAIN_SECONDS:
        if not any(_is_locked(*file) for file in files):
            return False
        time.sleep(seconds * random.random())
    return any(_is_locked(*file) for file in files)


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
