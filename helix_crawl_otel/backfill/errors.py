"""What can be wrong with a shard's file, each as one sentence for people."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "CannotSetAside",
    "EncoderRefused",
    "LeaseLost",
    "NoShards",
    "NotAShard",
    "ShardCorrupt",
    "ShardLocked",
    "StoreError",
    "StoreFull",
    "StoreReadOnly",
    "shown_identity",
    "store_errors",
]


class StoreError(Exception):
    """A shard's file cannot be worked on. The message is one sentence."""


class LeaseLost(StoreError):
    """Another worker has taken this shard over: nothing may be written any more."""


class ShardCorrupt(StoreError):
    """The file is damaged."""


class CannotSetAside(StoreError):
    """A damaged file is where it was: it cannot be renamed."""


class ShardLocked(StoreError):
    """Another program holds the file locked."""


class StoreFull(StoreError):
    """The disk is full."""


class StoreReadOnly(StoreError):
    """The file or its folder cannot be written."""


class NotAShard(StoreError):
    """The file is no shard: it has no table of genes."""


class NoShards(StoreError):
    """What a command was given is not there, or holds no shard: wrong usage."""


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
    return f"{identity.get('model')} ({revision}, {identity.get('dim')} dimensions)"


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
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreFull(_full(path)) from error
        raise StoreReadOnly(f"{path} cannot be used: {error.strerror or error}") from error


def _full(path: Path) -> str:
    return f"the disk is full: {path} cannot grow; free some space and start the same command again, nothing is lost"


def _translated(error: sqlite3.Error, path: Path) -> StoreError:
    text = str(error)
    # What a constraint says names columns of the app's, which may be called anything: `full`, `locked`.
    lowered = "" if isinstance(error, sqlite3.IntegrityError) else text.lower()
    if "full" in lowered:
        return StoreFull(_full(path))
    if "locked" in lowered or "busy" in lowered:
        return ShardLocked(f"{path} is locked by another program; close what has it open and start again")
    if "readonly" in lowered or "read-only" in lowered or "unable to open" in lowered:
        return StoreReadOnly(f"{path} cannot be written ({text}); check the rights, and who has it open")
    if "malformed" in lowered or "not a database" in lowered or "corrupt" in lowered or "encrypted" in lowered:
        return ShardCorrupt(f"{path} is damaged ({text})")
    if "disk i/o" in lowered:
        return StoreFull(f"{path} cannot be written (disk I/O error); check the disk and its free space")
    return StoreError(f"{path}: {text}")
