"""Drains an ingest queue: passages come in, and each batch gets a dense and a sparse encoding, committed together.

    helix-crawl run -- python ingest_drain.py ingest.db

Whoever ingests inserts into the table `queue`, also while this runs. A passage leaves it in the transaction that writes
its encodings: killed at any moment, the drain goes on where it was. `--follow` waits for more when the queue is empty.
"""

from __future__ import annotations

import argparse
import array
import json
import math
import os
import sqlite3
import time
import zlib
from collections import Counter
from pathlib import Path

from helix_crawl_otel import CrawlWatch

BATCH = 32
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS queue (id INTEGER PRIMARY KEY AUTOINCREMENT, gene_id TEXT NOT NULL, content TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS genes (gene_id TEXT PRIMARY KEY, content TEXT, dense BLOB, sparse TEXT);
"""


class Encoder:
    """Both encodings of a batch, from hashed words: a stand-in that runs anywhere.

    YOUR MODEL GOES HERE. FlagEmbedding ignores `device=`: unless `devices` is given it takes every card it finds.

        self.model = BGEM3FlagModel("BAAI/bge-m3", devices=[device], use_fp16=device != "cpu")
        found = self.model.encode(texts, batch_size=len(texts), return_dense=True, return_sparse=True)
        dense = [vector.astype("<f4").tobytes() for vector in found["dense_vecs"]]
        sparse = [json.dumps({k: float(v) for k, v in weights.items()}) for weights in found["lexical_weights"]]
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def encode(self, texts: list[str]) -> tuple[list[bytes], list[str]]:
        """For each text a normalised vector, as little-endian float32, and a weight for each word, as JSON."""
        dense = [_vector(text) for text in texts]
        sparse = [json.dumps(Counter(text.lower().split()), sort_keys=True) for text in texts]
        return dense, sparse


def _vector(text: str) -> bytes:
    numbers = [1.0] + [0.0] * 63
    for word in text.lower().split():
        numbers[zlib.crc32(word.encode()) % 64] += 1.0
    length = math.hypot(*numbers)
    return array.array("f", [number / length for number in numbers]).tobytes()


def drain(store: sqlite3.Connection, watch: CrawlWatch, name: str, device: str, follow: bool) -> None:
    """Encode what is in the queue, oldest first, until it is empty."""
    encoder = Encoder(device)
    with watch.shard(name, device=device) as shard:
        while True:
            rows = store.execute("SELECT id, gene_id, content FROM queue ORDER BY id LIMIT ?", (BATCH,)).fetchall()
            if not rows and not follow:
                break
            if rows:
                texts = [content for _, _, content in rows]
                # Both encodings use the card: they are one batch. Work is what padding makes of it.
                with shard.batch(genes=len(texts), work=len(texts) * max(1, min(max(map(len, texts)), 2000))):
                    dense, sparse = encoder.encode(texts)
                genes = [(row[1], row[2], *both) for row, *both in zip(rows, dense, sparse, strict=True)]
                with store:  # one transaction: no passage is in neither table, or in both
                    store.executemany("INSERT OR REPLACE INTO genes VALUES (?, ?, ?, ?)", genes)
                    store.executemany("DELETE FROM queue WHERE id = ?", [(row[0],) for row in rows])
            else:
                time.sleep(1.0)  # outside of `batch`: an empty queue is no crawl
            shard.boundary()  # also while nothing comes in: this is where a pause is heard


def main() -> None:
    """Take the device that the supervisor names: after a demotion it is `cpu`."""
    parser = argparse.ArgumentParser(description="Drains an ingest queue.")
    parser.add_argument("path", type=Path, help="the SQLite file that holds the queue and the genes")
    parser.add_argument("--follow", action="store_true", help="wait for more when the queue is empty")
    args = parser.parse_args()
    device = os.environ.get("BGEM3_DEVICE") or "auto"
    store = sqlite3.connect(args.path, timeout=30)
    store.executescript(SCHEMA)
    with CrawlWatch() as watch:
        drain(store, watch, args.path.stem, "cuda:0" if device == "auto" else device, args.follow)
    store.close()


if __name__ == "__main__":
    main()
