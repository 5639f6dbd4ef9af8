"""Genes of a shard that a holder has on its stage, as a worker writes them: under the shard's lease."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from helix_crawl_otel.fleet.stage import StagedShard
from helix_crawl_otel.shards.schema import TREE_NOTE
from helix_crawl_otel.shards.store import ShardStore

__all__ = ["TREE", "add_gene", "genes_in"]

TREE = "/of/this/node"
"""What the worker says that the shard was cut from."""


def add_gene(shard: StagedShard, gene_id: str) -> None:
    """A worker comes, writes one gene, and goes."""
    shard.epoch += 1
    with ShardStore.open(shard.path, epoch=shard.epoch, create=True) as store, store.writing() as connection:
        store.set_meta(TREE_NOTE, [TREE, "x"])
        connection.execute("INSERT INTO genes (gene_id, content) VALUES (?, ?)", (gene_id, f"text of {gene_id}"))


def genes_in(path: Path) -> list[str]:
    """The ids in a file, in order. It is whole, or this raises."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row[0] for row in connection.execute("SELECT gene_id FROM genes ORDER BY rowid")]
