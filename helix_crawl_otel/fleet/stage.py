"""A node's own copies of the shards that it works on, and the way of one there and back.

SQLite never runs over a network file system, nor in a bucket: a shard is copied to this node's disk, worked on there by
the same worker as on one machine, and put back whole. The lease is in the file: who has put a copy with a higher epoch
in the place of the version that it was made of holds the shard; whoever held it before can put nothing more.

Source: DESIGN.md, section 8.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import json
import shutil
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from helix_crawl_otel.file_locks import lacks_locks
from helix_crawl_otel.fleet.storage import (
    Storage,
    StorageError,
    StorageRefused,
    Superseded,
    digest_of,
    superseded_sentence,
)
from helix_crawl_otel.formats import size as shown_size
from helix_crawl_otel.shards import schema
from helix_crawl_otel.shards.damage import judge, set_aside
from helix_crawl_otel.shards.errors import EmptyFile, ShardCorrupt, StoreError, store_errors
from helix_crawl_otel.shards.inspect import reading
from helix_crawl_otel.shards.notes import read_notes
from helix_crawl_otel.shards.schema import TREE_NOTE
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["Stage", "StagedShard"]

HOLDER_NOTE = "holder"
"""Note in a shard: the word of whoever has put it last, so that no two copies are alike."""

ROOM = 3
"""Times a shard's size that has to be free: the copy, what grows in it, and a consistent copy of that to be put."""

LEAST_ROOM_BYTES = 64 * 1024**2

YOUNG_SECONDS = 60.0

CHECKPOINT = "checkpoint.part"


class Stage:
    """The folder of a node for its copies: one below it for each process that has any. Use it in a `with` block.

    What a killed process has left there is removed by the next one. It held nothing but what can be made again: a shard
    goes on from its last checkpoint.

    Args:
        folder: `--stage`; `None` for the system's folder of temporary files.

    Raises:
        StorageRefused: At `__enter__`: it cannot be written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.home = (folder or Path(tempfile.gettempdir()) / f"helix-crawl-stage-{getpass.getuser()}").absolute()
        self.folder = self.home / uuid.uuid4().hex
        self._lock = FileLock(self.folder / "lock")

    def __enter__(self) -> Stage:
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)
            self._lock.acquire(timeout=0)
            if (why := lacks_locks(self.folder)) is not None:
                raise OSError(errno.ENOLCK, why)
            self._sweep()
        except (OSError, NotImplementedError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise StorageRefused(
                f"--stage is {self.home}, which cannot be written: {why}; accepted: a folder on a disk of this machine"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _sweep(self) -> None:
        for other in self.home.iterdir():
            with contextlib.suppress(Timeout, OSError):
                # A young one may just be about to lock its own.
                if other != self.folder and time.time() - (other / "lock").stat().st_mtime > YOUNG_SECONDS:
                    FileLock(other / "lock").acquire(timeout=0).lock.release()
                    shutil.rmtree(other, ignore_errors=True)

    def require_room(self, size: int, what: str) -> None:
        """Make sure that there is room for a copy.

        Raises:
            StorageError: There is not.
        """
        needed, free = max(ROOM * size, LEAST_ROOM_BYTES), shutil.disk_usage(self.folder).free
        if free < needed:
            raise StorageError(
                f"{self.home} has no room for {what}: {shown_size(free)} are free, {shown_size(needed)} are needed; "
                "free some space, or give another folder by --stage"
            )


@dataclass
class StagedShard:
    """A shard that this node holds. Made by `take`.

    Args:
        storage: Where it lives.
        name: Of its file there.
        path: The copy, which the local worker opens.
        epoch: The highest lease in it. What a worker is given has to be higher.
        version: That is there, as this holder has put it.
        holder: The word of this holder.
        was_there: It was not made by this holder.
        notes: What is to be said of it.

    Threads: one at a time.
    """

    storage: Storage
    name: str
    path: Path
    epoch: int
    version: str
    holder: str
    was_there: bool
    notes: list[str]
    digest: str = ""
    tree: str | None = None

    @classmethod
    def take(cls, storage: Storage, name: str, stage: Stage, *, create: bool, tree: str | None = None) -> StagedShard:
        """Copy a shard to this node and take its lease; the one who held it can put nothing more from then on.

        Args:
            storage: Where it lives.
            name: Of its file there.
            stage: Of this node.
            create: For `build`: it is made where it is not there; `False` takes none that is not.
            tree: What the shard is to say that it was cut from, where its sources are copied to this node as well.

        Raises:
            Superseded: Another one has put it meanwhile.
            StorageError: It cannot be copied or put; or there is no room.
            StoreError: It is no shard, is damaged, or belongs to somebody else.
        """
        place, holder = storage.where(name), uuid.uuid4().hex
        folder = stage.folder / holder
        path = folder / name
        folder.mkdir()
        try:
            version = storage.get(name, path, before=lambda size: stage.require_room(size, place))
            if version is None and not create:
                raise StorageError(f"{place} is not there any more")
            shard = cls(storage, name, path, 0, version or "", holder, version is not None, [], tree=tree)
            with shard._named_for_people():
                shard._raise_epoch(create=create)
            shard._put(version)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return shard

    @contextmanager
    def _named_for_people(self) -> Iterator[None]:
        """What is wrong with the copy is wrong with the shard; where the copy is says nothing to anybody."""
        try:
            yield
        except StoreError as error:
            raise type(error)(self._as_there(str(error))) from error

    def _as_there(self, text: str) -> str:
        return text.replace(str(self.path), self.storage.where(self.name))

    def _raise_epoch(self, *, create: bool) -> None:
        stored = 0
        if self.was_there:
            try:
                with reading(self.path) as (connection, table):
                    stored = read_notes(connection, table).get("epoch", 0)
            except EmptyFile:
                if not create:
                    raise
            except ShardCorrupt as error:
                self._set_aside(error, create=create)
        self.epoch = stored + 1
        with ShardStore.open(self.path, epoch=self.epoch, create=create) as store:
            store.keep(HOLDER_NOTE, self.holder)
            tree = store.meta(TREE_NOTE)
            if self.tree is not None and tree is not None and tree[0] != self.tree:
                raise StorageError(f"{self.storage.where(self.name)} was cut from {tree[0]}, not from {self.tree}")

    def _set_aside(self, error: ShardCorrupt, *, create: bool) -> None:
        """A damaged shard is kept under another name before another one takes its place."""
        judgement = judge(error, self.path, is_built=create)
        if not judgement.may_set_aside:
            raise StoreError(judgement.reason) from error
        kept = set_aside(self.path)
        number, name = 1, f"{self.name}.corrupt-1"
        while self.storage.look(name) is not None:
            number += 1
            name = f"{self.name}.corrupt-{number}"
        self.storage.put(name, kept, expected=None, holder=self.holder)
        self.notes.append(f"{self._as_there(judgement.reason)}; it is now {self.storage.where(name)} and is made again")

    def checkpoint(self) -> bool:
        """Put what is there by now, while the worker goes on.

        Returns:
            Whether anything has changed since the last time.

        Raises:
            Superseded: Another one holds the shard: drop it, and have its worker ended.
            StorageError: It cannot be put; the copy is as it was, and so is what was put last.
        """
        return self._put(self.version)

    def finish(self) -> str:
        """Put it for the last time, read it back, and remove the copy. No worker has it open any more.

        Returns:
            Its version.

        Raises:
            Superseded: Another one holds the shard.
            StorageError: It cannot be put, or is not what was put; the copy is still there.
        """
        self.checkpoint()
        self.storage.verify(self.name, self.version, self.digest)
        self.drop()
        return self.version

    def require_held(self) -> None:
        """Ask whether what this holder has put is still what is there. Raises as `checkpoint` does."""
        now = self.storage.look(self.name)
        if now is None or now.version != self.version:
            raise Superseded(superseded_sentence(self.storage.where(self.name)))

    def drop(self) -> None:
        """Remove the copy."""
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def _put(self, expected: str | None) -> bool:
        copy = self.path.parent / CHECKPOINT
        try:
            with self._named_for_people():
                _copy_whole(self.path, copy)
                if self.tree is not None:
                    _rename_tree(copy, self.tree)
            digest = digest_of(copy)
            if digest == self.digest:
                self.require_held()
                return False
            self.version = self.storage.put(self.name, copy, expected=expected, holder=self.holder)
            self.digest = digest
        except OSError as error:
            raise StorageError(f"{self.path.parent} cannot be written: {error.strerror or error}") from None
        finally:
            for path in (copy, *schema.beside(copy)):
                path.unlink(missing_ok=True)
        return True


def _copy_whole(path: Path, copy: Path) -> None:
    """A consistent copy of a shard that a worker may be writing to: whole transactions, as of one moment.

    Page by page, for `VACUUM INTO` may number the rows anew, and the plan of the batches knows them by their numbers.

    Raises:
        ShardCorrupt: It is damaged: a sound one is not replaced by it.
    """
    with store_errors(path), closing(schema.connect(path, 30.0)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        found = target.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise ShardCorrupt(f"{path} is damaged ({found and found[0]}); what was put of it before is there still")


def _rename_tree(path: Path, tree: str) -> None:
    """Have a copy say what it was really cut from, which is the same on every node."""
    with store_errors(path), closing(sqlite3.connect(path)) as connection, connection:
        row = connection.execute("SELECT value FROM helix_crawl_meta WHERE key = ?", (TREE_NOTE,)).fetchone()
        if row is not None:
            note = json.dumps([tree, json.loads(row[0])[1]])
            connection.execute("UPDATE helix_crawl_meta SET value = ? WHERE key = ?", (note, TREE_NOTE))
