"""Shards in a folder that every node reaches: a network mount, or a disk of this machine.

A file system compares and swaps nothing in one step, and a lock is not enough: a machine that is frozen while it holds
one loses it to the server's clock, wakes up, and goes on. So the right to replace is a file that others can take away.
Whoever puts

1. writes a part of its own, complete and closed,
2. takes away the parts that all others have for the same file,
3. compares the version that is there with the one it expects,
4. renames its part over the file, which fails where the part is gone.

Of two that have both passed their comparison, one had its part there when the other took parts away: that one fails at
step 4, however long it slept before. It may be that both fail; then each looks again, and who is still right tries
again. The version is the file's time and size, and each put makes the time later than the one before it, whatever the
clocks of the nodes say, so that no version comes back.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from helix_crawl_otel.fleet.storage import (
    Entry,
    Storage,
    StorageError,
    StorageRefused,
    Superseded,
    digest_of,
    pieces,
    probe_name,
    superseded_sentence,
)
from helix_crawl_otel.lacks import is_full_disk
from helix_crawl_otel.paths import STATE_FOLDER, on_disk
from helix_crawl_otel.shards.damage import is_held
from helix_crawl_otel.shards.inspect import has_log
from helix_crawl_otel.shards.schema import BESIDE, beside

__all__ = ["FolderStorage"]

PARTS = f"{STATE_FOLDER}/parts"
"""Where parts are written, on the file system that the shards are on."""

LATER_NS = (1, 1_000, 1_000_000, 2_000_000_000)
"""How much later than the version before it a file is dated, as fine as the file system keeps it: FAT keeps 2 s."""

TURNS = 200
"""How often a put whose part was taken away begins anew."""

WAIT_SECONDS = 0.02
"""Waited before that, times the turn and a number of chance up to 1, at most a second."""


class FolderStorage(Storage):
    """A folder; it is made when something is put.

    Args:
        folder: Absolute.
        address: As it was typed.
        wait: Sleeps so many seconds; a seam for tests.
    """

    def __init__(self, folder: Path, address: str | None = None, wait: Callable[[float], object] = time.sleep) -> None:
        self.folder: Path = folder
        self.address = address or str(folder)
        self._wait = wait

    def check(self) -> None:
        """See `Storage`."""
        name = probe_name()
        self.put(name, b"probe", expected=None, holder=name)
        self.remove(name)

    def list(self) -> dict[str, Entry]:
        """See `Storage`."""
        found = {}
        try:
            with os.scandir(on_disk(self.folder)) as listing:
                for entry in listing:
                    if entry.is_file():
                        with contextlib.suppress(FileNotFoundError):
                            # By a look at the file: what a folder's listing says of it may be older.
                            found[entry.name] = _entry((self.folder / entry.name).stat())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._trouble("read", self.address, error) from None
        return found

    def walk(self, below: str = "") -> Iterator[tuple[str, Entry]]:
        """See `Storage`."""
        waiting = [below.strip("/")]
        while waiting:
            at = waiting.pop()
            try:
                entries = sorted(on_disk(self.folder / at).iterdir())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._trouble("read", self.where(at), error) from None
            for path in entries:
                name = f"{at}/{path.name}" if at else path.name
                if path.is_dir():
                    if not path.is_symlink():
                        waiting.append(name)
                elif (entry := self.look(name)) is not None:
                    yield name, entry

    def look(self, name: str) -> Entry | None:
        """See `Storage`."""
        try:
            # Opened: a network mount asks its server then, and answers a mere look from what it remembers.
            with self._path(name).open("rb") as file:
                about = os.fstat(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._trouble("read", self.where(name), error) from None
        return _entry(about)

    def get(self, name: str, to: Path, *, before: Callable[[int], object] = lambda size: None) -> str | None:
        """See `Storage`."""
        for _ in range(TURNS):
            found = self.look(name)
            if found is None:
                return None
            before(found.size)
            self._require_free(name)
            try:
                logs = self._logs(name, found.version)
                _copy(self._path(name), to)
                for suffix, log in logs.items():
                    _copy(log, to.with_name(to.name + suffix))
            except FileNotFoundError:
                pass  # it has just been replaced
            except OSError as error:
                if error.errno != errno.ESTALE:  # likewise, on a network mount
                    raise self._trouble("copied", self.where(name), error) from None
            now = self.look(name)
            if now == found:
                return found.version
            for path in (to, *beside(to)):
                path.unlink(missing_ok=True)
        raise StorageError(f"{self.where(name)} cannot be copied: it is replaced again and again while it is read")

    def _logs(self, name: str, version: str) -> dict[str, Path]:
        """What a killed program has left beside the file belongs into it, by its suffix."""
        path = self._path(name)
        if has_log(path):
            return {log.name[len(path.name) :]: log for log in beside(path)[:2] if log.is_file()}
        kept = {end: self._kept_log(name, version, end) for end in BESIDE[:2]}
        return {end: log for end, log in kept.items() if log.is_file()}

    def _kept_log(self, name: str, version: str | None, end: str) -> Path:
        return self._path(f"{PARTS}/{_short(name)}.{version or 'gone'}{end}")

    def _move_logs(self, name: str, version: str | None) -> None:
        """Away from the file that is about to be replaced: SQLite would read them into the next one. Their names say to
        which version they belong, should this one be killed right now."""
        path = self._path(name)
        for end, log in zip(BESIDE[:2], beside(path), strict=False):
            if log.is_file():
                log.replace(self._kept_log(name, version, end))

    def put(self, name: str, source: Path | bytes, *, expected: str | None, holder: str) -> str:
        """See `Storage`."""
        target, version, digest = self._path(name), "", ""
        for turn in range(TURNS):
            self._require(name, expected)
            self._require_free(name)
            part = self._path(f"{PARTS}/{_short(name)}.{uuid.uuid4().hex}.part")
            try:
                version, digest = self._write_part(part, source, expected)
                self._take_away_others(name, part)
                self._require(name, expected)
                self._move_logs(name, expected)
                part.replace(target)
            except FileNotFoundError:
                if not target.parent.is_dir():
                    target.parent.mkdir(parents=True, exist_ok=True)
            except Superseded:
                _unlink(part)
                raise
            except OSError as error:
                _unlink(part)
                raise self._trouble("written", self.where(name), error) from None
            else:
                _sync_folder(target.parent)
                self._forget_logs(name, expected)
                return version
            now = self.look(name)
            if now is not None and now.version == version and digest_of(target) == digest:
                return version  # a server was asked twice, and has answered the second time
            self._wait(min(1.0, WAIT_SECONDS * turn) * random.random())
        raise StorageError(f"{self.where(name)} cannot be written: others put it at the same time, again and again")

    def _write_part(self, part: Path, source: Path | bytes, expected: str | None) -> tuple[str, str]:
        """Returns the version that it will be, and its digest."""
        digest = hashlib.sha256()
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            for piece in pieces(source):
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
            _forget_cached(file.fileno())
        if digest_of(part) != digest.hexdigest():
            raise OSError(errno.EIO, f"what was read back of {part} is not what was written to it")
        about = part.stat()
        before = int(expected.partition("@")[2]) if expected else 0
        for later in LATER_NS:
            if about.st_mtime_ns > before:
                return _entry(about).version, digest.hexdigest()
            os.utime(part, ns=(before + later, before + later))
            about = part.stat()
        raise OSError(errno.EINVAL, "the file system does not keep the times of files")

    def _take_away_others(self, name: str, own: Path) -> None:
        begin = f"{_short(name)}."
        with os.scandir(own.parent) as listing:
            others = [entry.name for entry in listing if entry.name.startswith(begin) and entry.name.endswith(".part")]
        for other in others:
            if other != own.name:
                with contextlib.suppress(FileNotFoundError):
                    try:
                        (own.parent / other).unlink()
                    except PermissionError:
                        # Windows removes no file that is open: that one is being written, so that its owner will
                        # compare after us.
                        if os.name != "nt":
                            raise

    def _require(self, name: str, expected: str | None) -> None:
        now = self.look(name)
        if (None if now is None else now.version) != expected:
            raise Superseded(superseded_sentence(self.where(name)))

    def _require_free(self, name: str) -> None:
        """A program that has the shard open would go on in the file that is replaced, or in a log that is moved."""
        if is_held(self._path(name)):
            raise StorageError(
                f"{self.where(name)} is open in another program; close it there and start the same command again: what "
                "that has written is kept"
            )

    def _forget_logs(self, name: str, version: str | None) -> None:
        """What belonged into the version that has been replaced: it is in the new one."""
        if version is not None:
            for log in self._path(PARTS).glob(f"{_short(name)}.{version}-*"):
                _unlink(log)

    def verify(self, name: str, version: str, digest: str) -> None:
        """See `Storage`. It was read back before it was renamed: what is left to see is that it is still there."""
        self._require(name, version)

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `Storage`."""
        try:
            with self._path(name).open("rb") as file:
                return file.read(), _entry(os.fstat(file.fileno())).version
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._trouble("read", self.where(name), error) from None

    def write(self, name: str, content: Path | bytes) -> None:
        """See `Storage`."""
        target = self._path(name)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                for piece in pieces(content):
                    file.write(piece)
            part.replace(target)
        except OSError as error:
            _unlink(part)
            raise self._trouble("written", self.where(name), error) from None

    def remove(self, name: str) -> None:
        """See `Storage`."""
        try:
            self._path(name).unlink(missing_ok=True)
        except OSError as error:
            raise self._trouble("removed", self.where(name), error) from None

    def _path(self, name: str) -> Path:
        return on_disk(self.folder / name)

    def _trouble(self, what: str, place: str, error: OSError) -> StorageError:
        why = error.strerror or str(error)
        if is_full_disk(error):
            return StorageError(
                f"{place} cannot be {what}: the disk is full; free some space and start the same command again, "
                "nothing is lost"
            )
        if error.errno == errno.ENAMETOOLONG:
            return StorageRefused(f"{place} cannot be {what}: {why}; accepted: a folder's name of at most 200 bytes")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            return StorageRefused(
                f"{place} cannot be {what} from this machine: {why}; accepted: a folder in which every node may make "
                "files"
            )
        return StorageError(f"{place} cannot be {what}: {why}; what was there is there still")


def _entry(about: os.stat_result) -> Entry:
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "it is no file, but a folder, a pipe or a device")
    return Entry(f"{about.st_size}@{about.st_mtime_ns}", about.st_size, about.st_mtime_ns)


def _short(name: str) -> str:
    """A word for a name, which leaves room behind it however long the name is."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _copy(source: Path, to: Path) -> None:
    with to.open("wb") as out:
        for piece in pieces(source):
            out.write(piece)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _forget_cached(descriptor: int) -> None:
    """Let the system forget what it remembers of a file, so that it is read back from where it was written to."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):  # some file systems know nothing of it
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
