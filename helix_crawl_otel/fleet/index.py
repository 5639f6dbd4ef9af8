"""What is known of the shards in a storage without a look into them: one small file, `.helix-crawl/fleet.json`.

Its driver writes it, from what the nodes told of the shards as they put them. An entry is true where the version that
it tells of is the one that is there; of another one a copy is looked at.

Source: DESIGN.md, section 8, "Salvage".
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from helix_crawl_otel.build.plan import BuildPlan
from helix_crawl_otel.build.shard_files import ShardFiles
from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.fleet.host import look_of_shard
from helix_crawl_otel.fleet.storage import Storage
from helix_crawl_otel.paths import STATE_FOLDER
from helix_crawl_otel.shards.build_record import BuildRecord, recovered
from helix_crawl_otel.shards.errors import NotAShard, ShardCorrupt, StoreError
from helix_crawl_otel.shards.inspect import Held, Salvage

__all__ = ["IndexedFiles", "renamed", "salvage_of"]

FILE = f"{STATE_FOLDER}/fleet.json"

FORMAT = 1

SUFFIX = ".db"


class IndexedFiles(ShardFiles):
    """The shards of a storage, as a plan looks at them: by their names there, whatever folder is before those.

    Args:
        storage: Where they live.

    Attributes:
        roots: The folders that stand here for trees in buckets, by the addresses of these. The record and the shards
            tell of the addresses.

    Raises:
        StorageError: It does not answer.

    Threads: one at a time.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self.versions = {name: entry.version for name, entry in storage.list().items() if name.endswith(SUFFIX)}
        self.roots: dict[str, str] = {}
        self._looks: dict[str, dict[str, Any]] = {}
        self._written = ""
        found = storage.read(FILE)
        for name, look in _read(found[0] if found else b"").items():
            if self.versions.get(name) == look.get("version"):
                self._looks[name] = look

    # -- what is known ------------------------------------------------------------------------------------------------

    def look(self, name: str) -> Mapping[str, Any]:
        """What `look_of_shard` tells of a shard, from what is known or from a copy.

        Raises:
            StoreError: It cannot be read.
            StorageError: It cannot be copied.
        """
        if name not in self._looks:
            with tempfile.TemporaryDirectory(prefix="helix-crawl-") as folder:
                copy = Path(folder) / name
                version = self._storage.get(name, copy)
                try:
                    self._looks[name] = {**look_of_shard(copy), "version": version}
                except StoreError as error:
                    raise type(error)(str(error).replace(str(copy), self._storage.where(name))) from error
        return self._looks[name]

    def known(self, name: str) -> Mapping[str, Any]:
        """The same of one that is known already; empty where it is not."""
        return self._looks.get(name, {})

    def is_shard(self, name: str) -> bool:
        """Whether a file holds genes. One that cannot be read is told of by who plans it."""
        try:
            self.look(name)
        except NotAShard:
            return False
        except StoreError:
            pass
        return True

    def put(self, name: str, version: str, look: Mapping[str, Any]) -> None:
        """A node has put a shard and told of it."""
        self.versions[name] = version
        self._looks[name] = {**look, "version": version}

    def save(self) -> None:
        """Write what is known, if that is not what is there.

        Raises:
            StorageError: It cannot be written.
        """
        text = json.dumps({"format": FORMAT, "shards": self._looks}, separators=(",", ":"), sort_keys=True)
        if text != self._written:
            self._storage.write(FILE, text.encode())
            self._written = text

    # -- as a plan asks -----------------------------------------------------------------------------------------------

    def is_there(self, path: Path) -> bool:
        """See `ShardFiles`."""
        return path.name in self.versions

    def salvage(self, path: Path, lock_seconds: float, *, is_built: bool = False, deep: bool = False) -> Salvage:
        """See `ShardFiles`. A damaged one is told as one of which nothing is known: who takes it puts it right."""
        try:
            found = salvage_of(self.look(path.name))
            return replace(found, tree=self.roots.get(found.tree or "", found.tree))
        except ShardCorrupt:
            return Salvage(False, 0, None, None, 0, pending=None)

    def held(self, path: Path) -> Held | None:
        """See `ShardFiles`."""
        now = self.known(path.name).get("held")
        return None if now is None else Held(**now)

    def stored_identity(self, path: Path, lock_seconds: float) -> dict[str, object] | None:
        """See `ShardFiles`."""
        return self.salvage(path, lock_seconds).identity if self.is_there(path) else None

    def lease_of_sources(self, path: Path, lock_seconds: float) -> int | None:
        """See `ShardFiles`."""
        return self.salvage(path, lock_seconds).epoch if self.is_there(path) else None

    def record(self, folder: Path) -> BuildRecord | None:
        """See `ShardFiles`."""
        return renamed(super().record(folder), self.roots)

    def told_by_address(self, make_plan: Callable[[], BuildPlan], out: Path, problems: Sequence[str]) -> BuildPlan:
        """A plan that tells of places by their addresses; the folders that its shards are cut from stay as they are.

        Args:
            make_plan: Makes it of the folders that stand for them, and raises as it likes.
            out: The one that stands for the storage.
            problems: What of the trees is left out.
        """
        names = {root: address for address, root in self.roots.items()}
        if self._storage.folder is None:
            names[str(out)] = self._storage.address

        def told(text: str) -> str:
            for folder, address in names.items():
                text = text.replace(folder, address)
            return text

        try:
            planned = make_plan()
        except Refusal as error:
            raise type(error)(told(str(error))) from error
        planned.record = renamed(planned.record, names)
        planned.notes = [*problems, *map(told, planned.notes)]
        planned.failures = {name: told(reason) for name, reason in planned.failures.items()}
        if planned.look is not None:
            planned.look = replace(planned.look, sources=tuple(map(told, planned.look.sources)))
        return planned

    def recovered(self, folder: Path, lock_seconds: float) -> BuildRecord | None:
        """See `ShardFiles`: the record is gone, and all shards are copied to be asked."""
        if not self.versions:
            return None
        with tempfile.TemporaryDirectory(prefix="helix-crawl-") as copies:
            for name in self.versions:
                self._storage.get(name, Path(copies) / name)
            return renamed(recovered(Path(copies), lock_seconds), self.roots)


def renamed(record: BuildRecord | None, names: Mapping[str, str]) -> BuildRecord | None:
    """A record in which some of the trees are called otherwise."""
    if record is None:
        return None
    return replace(record, sources={label: names.get(path, path) for label, path in record.sources.items()})


def salvage_of(look: Mapping[str, Any]) -> Salvage:
    """What a look says in place of `inspect.salvage`."""
    return msgspec.convert(look["salvage"], Salvage)


def _read(content: bytes) -> dict[str, dict[str, Any]]:
    """What the file says; nothing where it is damaged or of another version, for it only saves looks."""
    try:
        found = json.loads(content or b"{}")
        if found.get("format") != FORMAT:
            return {}
        shards: dict[str, dict[str, Any]] = found["shards"]
        for look in shards.values():
            salvage_of(look)
            if look["held"] is not None:
                Held(**look["held"])
        return shards
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError):
        return {}
