"""Where the shards of a fleet live: what a folder that every node reaches and a bucket have in common.

A shard is one file, partial or whole, as on one machine, and SQLite never opens it there. Who works on it has a copy,
and puts that back whole, on the condition that what is there is still what the copy was made of: a version is compared
and the file swapped, in one step that cannot be half done. So whoever was replaced and wakes up writes nothing,
whatever any clock says.

Source: DESIGN.md, section 8; Delta Lake, SlateDB and Litestream guard what they keep in buckets in the same way.
"""

from __future__ import annotations

import abc
import hashlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.exit_codes import FAILED, PAUSED, USAGE, Refusal
from helix_crawl_otel.paths import STATE_FOLDER

__all__ = [
    "PIECE_BYTES",
    "Entry",
    "Storage",
    "StorageBusy",
    "StorageError",
    "StorageRefused",
    "Superseded",
    "digest_of",
    "pieces",
    "probe_name",
    "superseded_sentence",
]

PROBE = f"{STATE_FOLDER}/probe-"
MARK = f"{STATE_FOLDER}/place"

PIECE_BYTES = 1024**2
"""Of a file that are in memory at once."""


class StorageError(Refusal):
    """A file cannot be read there, or put. The message is one sentence; what was there is there still."""

    exit_code = FAILED


class StorageRefused(StorageError):
    """It will not do, today or tomorrow: no such bucket, no right to write, a name that nobody knows."""

    exit_code = USAGE


class StorageBusy(StorageError):
    """It did not answer for so long that it was given up. The same command goes on."""

    exit_code = PAUSED


class Superseded(StorageError):
    """Somebody else has put the file since: nothing was written, and the copy that was to be put is out of date."""


@dataclass(frozen=True)
class Entry:
    """One file there.

    Args:
        version: Changes whenever the file is put. It is compared, and means nothing else.
        size: Bytes.
        mtime_ns: When it was written, in nanoseconds since 1970, as the place says.
    """

    version: str
    size: int
    mtime_ns: int


class Storage(abc.ABC):
    """A folder or the part of a bucket below a prefix. Names in it are texts with `/` between their parts.

    Attributes:
        address: As it was typed, for people; it holds no secret.
        folder: The folder, `None` for a bucket.

    Threads: any; each call stands alone.
    """

    address: str
    folder: Path | None = None

    def where(self, name: str) -> str:
        """A file there, for people."""
        return self.address if name.startswith(PROBE) else f"{self.address.rstrip('/')}/{name}"

    @abc.abstractmethod
    def check(self) -> None:
        """Find out whether files can be put here under a condition. What it needs for that is removed again.

        Raises:
            StorageRefused: They cannot; the message says why.
            StorageBusy: It does not answer.
        """

    def mark(self) -> str:
        """Leave a word here, which every node that sees the same place finds. Raises as `write` does."""
        word = uuid.uuid4().hex
        self.write(MARK, word.encode())
        return word

    def require_mark(self, word: str) -> None:
        """Make sure that this is the place where a word was left: a node in which a disk is not mounted has an empty
        folder of the same name.

        Raises:
            StorageRefused: It is another one.
        """
        found = self.read(MARK)
        if found is None or found[0].decode("utf-8", "replace") != word:
            raise StorageRefused(
                f"{self.address} is another place on this machine than where the command was typed (what that has "
                "written there is not here); accepted: a folder that is mounted on every node, or a bucket"
            )

    @abc.abstractmethod
    def list(self) -> dict[str, Entry]:
        """The files right in it, by name. Those in its folders are not looked at."""

    @abc.abstractmethod
    def walk(self, below: str = "") -> Iterator[tuple[str, Entry]]:
        """All files below a folder of it, whatever their depth, in no order, with their names from the top."""

    @abc.abstractmethod
    def look(self, name: str) -> Entry | None:
        """One file, `None` where it is not there."""

    @abc.abstractmethod
    def get(self, name: str, to: Path, *, before: Callable[[int], object] = lambda size: None) -> str | None:
        """Copy a file from there, with what SQLite has left beside it.

        Args:
            name: Of the file.
            to: Where the copy goes. Nothing is there.
            before: Called with its size before it is copied. What it raises is passed on.

        Returns:
            The version that the copy is of, `None` where there is no such file.
        """

    @abc.abstractmethod
    def put(self, name: str, source: Path | bytes, *, expected: str | None, holder: str) -> str:
        """Put a file in the place of the version that is expected there, whole or not at all.

        Args:
            name: Of the file.
            source: What it is to hold. A file is read in pieces, and is not changed meanwhile.
            expected: The version that may be replaced, `None` where nothing may be there.
            holder: Who puts it, in a word that nobody else uses: by it a put whose answer was lost is known again.

        Returns:
            Its version.

        Raises:
            Superseded: Another version is there.
            StorageError: It cannot be put.
        """

    @abc.abstractmethod
    def verify(self, name: str, version: str, digest: str) -> None:
        """Read a file back.

        Args:
            name: Of the file.
            version: That was put.
            digest: What `digest_of` says of what was put.

        Raises:
            Superseded: Another version is there.
            StorageError: It is not what was put.
        """

    @abc.abstractmethod
    def read(self, name: str) -> tuple[bytes, str] | None:
        """A small file whole, with its version; `None` where it is not there."""

    @abc.abstractmethod
    def write(self, name: str, content: Path | bytes) -> None:
        """Replace a file, whole or not at all, whatever is there. Where two do so, the last one wins."""

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""


def pieces(source: Path | bytes) -> Iterator[bytes]:
    """What a file holds, a piece at a time."""
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def digest_of(source: Path | bytes) -> str:
    """The sha256 of what a file holds, in hexadecimal digits."""
    digest = hashlib.sha256()
    for piece in pieces(source):
        digest.update(piece)
    return digest.hexdigest()


def probe_name() -> str:
    """A name that nothing has, for what is put to find out whether it can be; in messages it is the place itself."""
    return f"{PROBE}{uuid.uuid4().hex}"


def superseded_sentence(place: str) -> str:
    """What is said where another version is there."""
    return f"{place} has been put by another holder since; nothing was written"
