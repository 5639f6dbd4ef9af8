"""A tree of sources in a bucket: its outline for the plan, and the files of one shard for the node that works on it.

The plan, the worker and the ids of sources know folders only. So the tree becomes one: the driver makes an outline, all
names with their sizes and times and nothing in them, from which the same plan comes as from the files themselves. A
node makes that of one shard, and fetches the files that the shard takes. A source's id, size and time are what its
object's are, on each node and in each run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from helix_crawl_otel.corpus.filters import GITIGNORE, Filters
from helix_crawl_otel.corpus.tree import ROOT_SHARD, Source, UnreadableSource, entries_of, plan_named
from helix_crawl_otel.fleet.storage import Entry, Storage, StorageError
from helix_crawl_otel.lacks import is_full_disk
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.paths import on_disk

__all__ = ["SourceTree"]

AT_ONCE = 8
"""Files that are fetched at the same time: most are small, and each waits for an answer."""

TURNS = 5
"""How often a file that changes while it is fetched is fetched again."""


class SourceTree:
    """A tree in a storage, and the folder on this machine that stands for it.

    Args:
        storage: The tree.
        home: A folder of this process, for that folder.
        out: Where the shards are put, as it was typed: nothing below it is a source.

    Attributes:
        address: What the tree is called, on each node.
        root: The folder that stands for it. Its last name is the tree's.
    """

    def __init__(self, storage: Storage, home: Path, out: str = "") -> None:
        self.address = storage.address
        self.root = home / "sources" / (storage.address.rpartition("/")[2] or "tree")
        self._storage = storage
        self._without = out.removeprefix(f"{self.address}/") if out.startswith(f"{self.address}/") else None

    def outline(self) -> list[str]:
        """Make it for the whole tree.

        Returns:
            What of the tree can be no file, a sentence each.

        Raises:
            StorageError: The tree cannot be listed, or the folder cannot be written.
            UnreadableSource: There is nothing in it.
        """
        entries = self._wanted((name, entry) for name, entry in self._storage.walk() if "/" in name)
        entries |= self._wanted(self._storage.list().items())
        if not entries:
            raise UnreadableSource(f"{self.address} holds no file; accepted: a prefix of a bucket with files below it")
        problems = self._make(entries)
        self._fill((name for name in entries if _is_rule(name)), entries)
        return problems

    def fetch(self, assignment: Assignment) -> Assignment:
        """Make it for one shard, with the files that this takes.

        Args:
            assignment: Of the shard, whatever folder it names as its source.

        Returns:
            The same, with the folder here as its source.

        Raises:
            StorageError: A file cannot be fetched, or there is no room.
        """
        folder = assignment.shard.rpartition("/")[2]
        if folder == ROOT_SHARD:
            entries = self._wanted(self._storage.list().items())
        else:
            entries = self._wanted(self._storage.walk(folder))
            if (rule := self._storage.look(GITIGNORE)) is not None:
                entries[GITIGNORE] = rule
        on_disk(self.root).mkdir(parents=True, exist_ok=True)
        self._make(entries)
        self._fill((name for name in entries if _is_rule(name)), entries)
        filters = Filters(
            tuple(assignment.exclude), tuple(assignment.include), assignment.gitignore, assignment.max_file_bytes
        )
        try:
            plan = plan_named(self.root, None, assignment.shard, may_be_gone=True, filters=filters)
        except UnreadableSource:
            pass  # nothing of it is there any more, which its worker finds out as of any folder
        else:
            taken = (item.place for item in entries_of(plan) if isinstance(item, Source))
            self._fill((Path(place).relative_to(on_disk(self.root)).as_posix() for place in taken), entries)
        return replace(assignment, source=str(self.root))

    def _wanted(self, found: Iterable[tuple[str, Entry]]) -> dict[str, Entry]:
        """Without what lies where the shards are put, and without the empty objects that stand for folders."""
        entries, folders = {}, set()
        for name, entry in found:
            if self._without is None or not f"{name}/".startswith(f"{self._without}/"):
                entries[name] = entry
                while name := name.rpartition("/")[0]:
                    folders.add(name)
        return {name: entry for name, entry in entries.items() if entry.size or name not in folders}

    def _make(self, entries: dict[str, Entry]) -> list[str]:
        problems, made = [], ""
        for name, entry in entries.items():
            path = self._path(name)
            try:
                if path is None:
                    raise OSError("it has parts that are no names of a folder")
                parent = str(path.parent)
                if parent != made:  # files of one folder come one after the other
                    path.parent.mkdir(parents=True, exist_ok=True)
                    made = parent
                with path.open("wb") as file:
                    file.truncate(entry.size)
                os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
            except OSError as error:
                if is_full_disk(error):
                    raise self._no_room(error) from None
                problems.append(f"{self._storage.where(name)} can be no file: {error.strerror or error}")
        return problems

    def _fill(self, names: Iterable[str], entries: dict[str, Entry]) -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda name: self._fetch(name, entries[name]), list(names)):
                pass

    def _fetch(self, name: str, entry: Entry) -> None:
        path = self._path(name)
        if path is None or not path.is_file():
            return
        for _ in range(TURNS):
            try:
                version = self._storage.get(name, path)
                if version == entry.version:
                    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
                    return
            except OSError as error:
                raise self._no_room(error) from None
            now = self._storage.look(name)
            if now is None:
                path.unlink(missing_ok=True)
                return
            entry = now
        raise StorageError(f"{self._storage.where(name)} cannot be read: it is replaced again and again while it is")

    def _path(self, name: str) -> Path | None:
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            return None
        return on_disk(self.root.joinpath(*parts))

    def _no_room(self, error: OSError) -> StorageError:
        return StorageError(
            f"{self.root} has no room for the sources of {self.address} ({error.strerror or error}); free some space, "
            "or give another folder by --stage"
        )


def _is_rule(name: str) -> bool:
    return name.rpartition("/")[2] == GITIGNORE
