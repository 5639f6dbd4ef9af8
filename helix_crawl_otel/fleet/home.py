"""Where a fleet's driver keeps what it tells of its run, and the one driver that a place has at a time.

A folder is its own home, under the lock that every build takes. Of a bucket the driver has a copy of what lies in its
`.helix-crawl`, which is put back as it changes; and its lock is a record in the bucket, put under a condition and again
every while. How old that is says the store's own clock. The lock keeps two drivers out of each other's way, and nothing
more: that no shard is written by two is held by each put itself.
"""

from __future__ import annotations

import contextlib
import json
import platform
import threading
import uuid
from pathlib import Path
from types import TracebackType

from helix_crawl_otel.fleet.storage import Storage, StorageBusy, StorageError, Superseded, probe_name
from helix_crawl_otel.logs import logger
from helix_crawl_otel.paths import STATE_FOLDER
from helix_crawl_otel.probes.processes import process_mark
from helix_crawl_otel.supervise.lock import FolderLock, FolderLocked, LockHolder, held_sentence, holder_of, holder_text

__all__ = ["RunHome"]

RECORD = f"{STATE_FOLDER}/driver.json"
"""Of a bucket: who drives there."""

BEAT_SECONDS = 20.0
"""How often a driver puts its record again."""

STALE_SECONDS = 90.0
"""A record that is older is of a driver that is gone."""

_NEVER_BACK = ("driver.json", "place", "probe-")
"""Beginnings of names that are the bucket's alone."""


class RunHome:
    """The home of one run. Use it in a `with` block.

    Args:
        storage: Where the shards live.
        folder: That folder; of a bucket, one for a copy of what lies in its `.helix-crawl`.
        command: What drives, for the message to a second one.
        beat_seconds: See `BEAT_SECONDS`; `None` starts no thread, and the owner calls `beat`.

    Raises:
        FolderLocked: At `__enter__`: another driver is at work there.
        StorageError: At `__enter__`: a bucket does not answer, or the place will not do; see `Storage.check`.
        OSError: At `__enter__`: a folder cannot be written, or its file system knows no locks.
    """

    def __init__(
        self, storage: Storage, folder: Path, command: str, *, beat_seconds: float | None = BEAT_SECONDS
    ) -> None:
        self._storage = storage
        self._command = command
        self._beat_seconds = beat_seconds
        self._word = uuid.uuid4().hex
        self._version = ""
        self._kept: dict[str, tuple[int, int]] = {}
        self._ends = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock: FolderLock | None = None
        self.is_lost = False
        self._folder = folder

    def __enter__(self) -> RunHome:
        if self._storage.folder is not None:
            self._lock = FolderLock(self._folder / STATE_FOLDER, self._command)
            self._lock.__enter__()
            try:
                self._storage.check()
            except BaseException:
                self._lock.__exit__(None, None, None)
                raise
            return self
        self._storage.check()
        self._take()
        try:
            self._fetch()
        except BaseException:
            self._leave()
            raise
        if self._beat_seconds is not None:
            self._thread = threading.Thread(target=self._beat_on, args=(self._beat_seconds,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.__exit__(kind, error, trace)
            return
        try:
            self.keep()
        except StorageError as failure:
            logger.warning("%s; what this run tells of itself is not there, its shards are", failure)
        self._leave()

    def keep(self) -> None:
        """Put what has changed of what the run tells of itself, unless it is there as it is.

        Raises:
            Superseded: Another driver has taken the place over.
            StorageError: It cannot be put.
        """
        if self._storage.folder is not None:
            return
        if self.is_lost:
            raise Superseded(f"{self._storage.address} has been taken over by another driver")
        for path in sorted((self._folder / STATE_FOLDER).glob("*")):
            if not path.is_file() or path.name.startswith(_NEVER_BACK) or path.suffix == ".tmp":
                continue
            about = path.stat()
            mark = about.st_size, about.st_mtime_ns
            if self._kept.get(path.name) != mark:
                self._storage.write(f"{STATE_FOLDER}/{path.name}", path)
                self._kept[path.name] = mark

    def _fetch(self) -> None:
        state = self._folder / STATE_FOLDER
        state.mkdir(parents=True, exist_ok=True)
        for name, _ in self._storage.walk(STATE_FOLDER):
            own = name.removeprefix(f"{STATE_FOLDER}/")
            if "/" not in own and not own.startswith(_NEVER_BACK):
                self._storage.get(name, state / own)
                about = (state / own).stat()
                self._kept[own] = about.st_size, about.st_mtime_ns

    def _leave(self) -> None:
        self._ends.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(StorageError):
            if not self.is_lost:
                self._storage.remove(RECORD)

    # -- the record of a bucket ---------------------------------------------------------------------------------------

    def _take(self) -> None:
        found = self._storage.read(RECORD)
        holder = None if found is None else holder_of(found[0].decode("utf-8", "replace"))
        if found is not None and not self._is_gone(holder):
            raise FolderLocked(held_sentence(self._storage.address, holder))
        try:
            self._version = self._put(None if found is None else found[1])
        except Superseded:
            raise FolderLocked(held_sentence(self._storage.address, None)) from None

    def _put(self, expected: str | None) -> str:
        content = {**json.loads(holder_text(self._command)), "word": self._word}
        return self._storage.put(RECORD, json.dumps(content).encode(), expected=expected, holder=self._word)

    def _is_gone(self, holder: LockHolder | None) -> bool:
        if holder is not None and holder.host == platform.node() and process_mark(holder.pid) != holder.process:
            return True
        probe = probe_name()
        self._storage.write(probe, b"now")
        now, record = self._storage.look(probe), self._storage.look(RECORD)
        self._storage.remove(probe)
        return now is None or record is None or now.mtime_ns - record.mtime_ns > STALE_SECONDS * 1e9

    def _beat_on(self, seconds: float) -> None:
        while not self._ends.wait(seconds) and not self.is_lost:
            self.beat()

    def beat(self) -> None:
        """Put the record again, so that everybody sees that this driver is there."""
        try:
            self._version = self._put(self._version)
        except Superseded:
            self.is_lost = True
        except StorageBusy:
            pass  # the next one may get through; the shards' own puts tell of it
        except StorageError as error:
            logger.warning("%s", error)
