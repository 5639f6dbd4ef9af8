"""Small folders of shards that can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from helix_crawl_otel.encoders.hashing import HASHING_IDENTITY, HashingEncoder
from helix_crawl_otel.shards.store import ShardStore

BACKUP = "To rotate the backup key, stop the service first.\n\nThen start it again."
LUNCH = "Lunch is served at noon.\nOn Fridays there is fish."


def make(path: Path, passages: Mapping[str, str], identity: Mapping[str, object] | None = HASHING_IDENTITY) -> Path:
    """A shard with a vector for every passage, by its source."""
    encoder = HashingEncoder()
    with ShardStore.open(path, epoch=1, create=True) as store:
        with store.writing() as connection:
            for number, (source, content) in enumerate(passages.items()):
                connection.execute(
                    "INSERT INTO genes (gene_id, content, source_id) VALUES (?, ?, ?)",
                    (f"{path.stem}-{number}", content, source),
                )
        if identity is not None:
            store.claim(identity)
        genes = store.pending(None, 1000)
        store.commit(list(zip(genes, encoder.encode([gene.content for gene in genes]), strict=True)))
    return path


def two_shards(folder: Path) -> Path:
    """A folder of two."""
    folder.mkdir()
    make(folder / "docs.db", {"docs/backup.md": BACKUP, "docs/other.md": "Something else entirely."})
    make(folder / "food.db", {"food/lunch.txt": LUNCH})
    return folder
