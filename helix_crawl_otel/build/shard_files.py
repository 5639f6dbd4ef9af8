"""How a plan looks at shards: each is opened where it lies, unless somebody else knows what is in it."""

from __future__ import annotations

from pathlib import Path

from helix_crawl_otel.shards import build_record, inspect
from helix_crawl_otel.shards.build_record import BuildRecord
from helix_crawl_otel.shards.inspect import Held, Salvage

__all__ = ["ShardFiles"]


class ShardFiles:
    """Files on a disk of this machine. Another kind tells of files that are not to be opened where they are.

    Threads: any.
    """

    def is_there(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def salvage(self, path: Path, lock_seconds: float, *, is_built: bool = False, deep: bool = False) -> Salvage:
        """See `inspect.salvage`."""
        return inspect.salvage(path, lock_seconds, is_built=is_built, deep=deep)

    def held(self, path: Path) -> Held | None:
        """See `inspect.held`."""
        return inspect.held(path)

    def stored_identity(self, path: Path, lock_seconds: float) -> dict[str, object] | None:
        """See `inspect.stored_identity`."""
        return inspect.stored_identity(path, lock_seconds)

    def lease_of_sources(self, path: Path, lock_seconds: float) -> int | None:
        """See `inspect.lease_of_sources`."""
        return inspect.lease_of_sources(path, lock_seconds)

    def record(self, folder: Path) -> BuildRecord | None:
        """See `build_record.read_record`."""
        return build_record.read_record(folder)

    def recovered(self, folder: Path, lock_seconds: float) -> BuildRecord | None:
        """See `build_record.recovered`."""
        return build_record.recovered(folder, lock_seconds)
