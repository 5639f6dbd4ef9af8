"""Ingests files as the app does: genes from an iterator over files, sparse terms a batch, an upsert gene by gene.

    helix-crawl run -- python file_drain.py notes.db ~/notes

Killed at any moment it goes on where it was: a gene that is there with its terms is not encoded again, and a pause in
the middle of a file loses nothing of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from helix_crawl_otel import CrawlWatch

BATCH = 32
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS genes (gene_id TEXT PRIMARY KEY, content TEXT, source_id TEXT, sparse TEXT);
"""
Gene = tuple[str, str, str]


class Encoder:
    """Weights of words: a stand-in that runs anywhere.

    YOUR MODEL GOES HERE, and it goes on the device that is asked for:

        self.model = SparseEncoder("naver/splade-v3", device=device)
        found = self.model.encode_document(texts, batch_size=len(texts))
        return [json.dumps(dict(self.model.decode(row))) for row in found]
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def encode(self, texts: list[str]) -> list[str]:
        """The weights of each text, as JSON."""
        return [json.dumps(Counter(text.lower().split()), sort_keys=True) for text in texts]


def genes_of(folder: Path) -> Iterator[Gene]:
    """Id, content and source of each paragraph, file by file: an iterator, so that no tree is held in memory."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".md", ".txt") and path.is_file():
            source = path.relative_to(folder).as_posix()
            for text in filter(str.strip, path.read_text(encoding="utf-8", errors="replace").split("\n\n")):
                yield hashlib.sha256(f"{source}\n{text}".encode()).hexdigest()[:16], text, source


def drain(store: sqlite3.Connection, watch: CrawlWatch, name: str, folder: Path, device: str) -> None:
    """Encode what is not there yet."""
    encoder = Encoder(device)
    known = {row[0] for row in store.execute("SELECT gene_id FROM genes WHERE sparse IS NOT NULL")}
    waiting = (gene for gene in genes_of(folder) if gene[0] not in known)
    with watch.shard(name, device=device) as shard:
        while genes := list(islice(waiting, BATCH)):  # outside of `batch`: reading files is no encoding
            texts = [content for _, content, _ in genes]
            with shard.batch(genes=len(texts), work=len(texts) * max(map(len, texts))):
                sparse = encoder.encode(texts)
            for gene, terms in zip(genes, sparse, strict=True):
                with store:  # each upsert is a transaction, as in the app: what a kill leaves out is encoded again
                    store.execute("INSERT OR REPLACE INTO genes VALUES (?, ?, ?, ?)", (*gene, terms))
            shard.boundary()  # after the last commit: whatever it ends, these genes are there


def main() -> None:
    """Take the device that the supervisor names: after a demotion it is `cpu`."""
    parser = argparse.ArgumentParser(description="Ingests the files of a folder.")
    parser.add_argument("path", type=Path, help="the SQLite file that holds the genes")
    parser.add_argument("folder", type=Path, help="the files, .md and .txt")
    args = parser.parse_args()
    device = os.environ.get("BGEM3_DEVICE") or "auto"
    store = sqlite3.connect(args.path, timeout=30)
    store.executescript(SCHEMA)
    with CrawlWatch() as watch:
        drain(store, watch, args.path.stem, args.folder, "cuda:0" if device == "auto" else device)
    store.close()


if __name__ == "__main__":
    main()
