"""Finds the shards of folders that are no longer in the tree. Their genes stay until `--prune`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.inspect import reading, stored_meta

__all__ = ["TREE_NOTE", "gone_shards"]

TREE_NOTE = "tree"
"""Note of an ingest: the tree and the name of the shard. The shards of another tree are none of this one's."""


def gone_shards(root: Path, output: Path, files: Collection[str]) -> list[tuple[str, Path]]:
    """Shards that were cut from this tree, hold sources, and have no folder in it any more.

    Args:
        root: The tree.
        output: Folder of the shards' files.
        files: Of the shards that the tree has, without a folder.

    Returns:
        Name and file of each, in order.
    """
    found = []
    for path in sorted(output.glob("*.db")):
        if path.name in files or not path.is_file():
            continue
        try:
            with reading(path) as (connection, table):
                tree = stored_meta(connection, table, TREE_NOTE)
                has_sources = (
                    table.has_own
                    and connection.execute("SELECT 1 FROM helix_crawl_sources LIMIT 1").fetchone() is not None
                )
        except StoreError:
            continue  # what cannot be read is not known to be ours
        if has_sources and isinstance(tree, list) and len(tree) == 2 and Path(str(tree[0])) == root:
            found.append((str(tree[1]), path))
    return found
