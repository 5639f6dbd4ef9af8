"""What a search reads of a shard: its genes one by one, and what was known of their sources when they were ingested."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.shards.genes import content_hash, gene_id
from helix_crawl_otel.shards.inspect import reading
from helix_crawl_otel.shards.notes import read_notes
from helix_crawl_otel.shards.schema import BLANK, TREE_NOTE, given, readable

__all__ = ["StoredGene", "count_without_vector", "stored_gene"]

MOST_OCCURRENCES = 64
"""Of a passage that is repeated in its source: so many are told apart."""


@dataclass(frozen=True)
class StoredGene:
    """A gene as it is in its shard.

    Args:
        gene_id: Its id; the app's may be a number.
        source_id: Of its source, `None` where the app has named none.
        content: The passage.
        tree: The tree that the shard was cut from, `None` for one that `build` has not made.
        shard: Name of the shard in that tree.
        size: Of its source when it was ingested, in bytes; `None` where nobody knows.
        mtime_ns: Likewise, its time in nanoseconds.
    """

    gene_id: object
    source_id: str | None
    content: str
    tree: Path | None = None
    shard: str = ""
    size: int | None = None
    mtime_ns: int | None = None

    @property
    def occurrence(self) -> int:
        """How often its passage comes in its source before it."""
        digest = content_hash(self.content)
        ids = (gene_id(self.source_id or "", digest, number) for number in range(MOST_OCCURRENCES))
        return next((number for number, one in enumerate(ids) if one == self.gene_id), 0)


def stored_gene(path: Path, gene: object) -> StoredGene | None:
    """Read a gene of a shard; `None` for one that is gone. Raises as `reading` does."""
    with reading(path) as (connection, table):
        row = connection.execute(
            f"SELECT source_id, content FROM genes WHERE gene_id = {given(gene)}", (gene,)
        ).fetchone()
        if row is None:
            return None
        source_id, content = row[0], "" if row[1] is None else str(readable(row[1]))
        tree = read_notes(connection, table).get(TREE_NOTE)
        if source_id is None or tree is None:
            return StoredGene(gene, None if source_id is None else str(source_id), content)
        sql = "SELECT size, mtime_ns FROM helix_crawl_sources WHERE source_id = ?"
        size, mtime_ns = connection.execute(sql, (source_id,)).fetchone() or (None, None)
    return StoredGene(gene, str(source_id), content, Path(tree[0]), tree[1], size, mtime_ns)


def count_without_vector(path: Path) -> int:
    """Genes of a shard that have no vector yet and can have one. Raises as `reading` does.

    What stands there is not looked at, as `salvage` does: of a million vectors that takes seconds.
    """
    with reading(path) as (connection, table):
        lacks = f"typeof({table.vector}) <> 'blob' AND NOT {BLANK} AND NOT {table.quarantined}"
        return int(connection.execute(f"SELECT count(*) FROM genes WHERE {lacks}").fetchone()[0])
