"""The smallest job worth supervising: passages in a SQLite file, a vector for each, and it goes on where it was.

    helix-crawl run -- python minimal.py passages.db

The encoder is a stand-in: put your own in its place, on the device that it is told.
"""

import argparse
import hashlib
import os
import sqlite3

from helix_crawl_otel import CrawlWatch

DEVICE = os.environ.get("BGEM3_DEVICE") or "auto"  # helix-crawl says `cpu` here once a shard is demoted
if DEVICE == "auto":
    DEVICE = "cuda:0"  # your own choice
BATCH = 16


def encode(texts: list[str], device: str) -> list[bytes]:
    """Your encoder, on that device."""
    return [hashlib.sha256(text.encode()).digest() for text in texts]


def main(path: str) -> None:
    """Encode what lacks a vector, batch by batch."""
    store = sqlite3.connect(path)
    shards = [row[0] for row in store.execute("SELECT DISTINCT shard FROM passages ORDER BY shard")]
    query = "SELECT id, text FROM passages WHERE shard = ? AND vector IS NULL ORDER BY id LIMIT ?"
    with CrawlWatch() as watch:
        for name in shards:
            if not store.execute(query, (name, 1)).fetchall():
                continue
            with watch.shard(name, device=DEVICE) as shard:
                while rows := store.execute(query, (name, BATCH)).fetchall():
                    texts = [text for _, text in rows]
                    with shard.batch(genes=len(texts), work=len(texts) * max(map(len, texts))):
                        vectors = encode(texts, DEVICE)
                    pairs = [(vector, row[0]) for vector, row in zip(vectors, rows, strict=True)]
                    with store:
                        store.executemany("UPDATE passages SET vector = ? WHERE id = ?", pairs)
                    shard.boundary()  # every earlier batch is committed: here the process may be replaced
    store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Gives a vector to each passage that lacks one.")
    parser.add_argument("path", help="a SQLite file with a table `passages`: shard, id, text, vector")
    main(parser.parse_args().path)
