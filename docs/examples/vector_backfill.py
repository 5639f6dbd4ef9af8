"""Gives a vector to each row of a `genes` table that lacks one. Every file is a shard of its own.

    helix-crawl run -- python vector_backfill.py shards/*.db
    helix-crawl run -- python vector_backfill.py (Get-Item shards/*.db).FullName      in PowerShell

What lacks a vector is what is left to do: killed at any moment, the backfill goes on where it was, and a file that is
complete loads no model. On the ladder's last rung the encoder is rebuilt on the CPU in place, for that file only.
"""

from __future__ import annotations

import argparse
import array
import math
import os
import sqlite3
import zlib
from contextlib import closing
from functools import partial
from pathlib import Path

from helix_crawl_otel import CrawlWatch

BATCH = 64
LACKING = "embedding_dense_v2 IS NULL AND content <> ''"  # what is empty cannot be encoded


class Encoder:
    """A dense vector for each text, from hashed words: a stand-in that runs anywhere.

    YOUR MODEL GOES HERE. With sentence-transformers, whose own batches are of 32 unless told otherwise:

        self.model = SentenceTransformer("BAAI/bge-m3", device=device)
        found = self.model.encode(texts, batch_size=len(texts), normalize_embeddings=True)
        return [vector.astype("<f4").tobytes() for vector in found]

    FlagEmbedding ignores `device=`, and needs `devices=[device]`.
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def encode(self, texts: list[str]) -> list[bytes]:
        """A normalised vector for each text, as little-endian float32."""
        return [_vector(text) for text in texts]


def _vector(text: str) -> bytes:
    numbers = [1.0] + [0.0] * 63
    for word in text.lower().split():
        numbers[zlib.crc32(word.encode()) % 64] += 1.0
    length = math.hypot(*numbers)
    return array.array("f", [number / length for number in numbers]).tobytes()


class Backfill:
    """Keeps the encoder from file to file: loading a model takes longer than a small file."""

    def __init__(self, watch: CrawlWatch, device: str) -> None:
        self._watch = watch
        self._device = device
        self._encoder: Encoder | None = None

    def encoder_on(self, device: str) -> Encoder:
        """The encoder, built when there is none on this device."""
        if self._encoder is None or self._encoder.device != device:
            self._encoder = Encoder(device)  # the one before is freed once this one is there
        return self._encoder

    def run(self, path: Path) -> None:
        """One file."""
        with closing(sqlite3.connect(path, timeout=30)) as store:
            if "embedding_dense_v2" not in [row[1] for row in store.execute("PRAGMA table_info(genes)")]:
                store.execute("ALTER TABLE genes ADD COLUMN embedding_dense_v2 BLOB")
            query = f"SELECT rowid, content FROM genes WHERE {LACKING} ORDER BY rowid LIMIT ?"
            if not store.execute(query, (1,)).fetchall():
                return
            to_cpu = partial(self.encoder_on, "cpu")
            with self._watch.shard(path.stem, device=self._device, on_demote=to_cpu) as shard:
                while rows := store.execute(query, (BATCH,)).fetchall():
                    texts = [content for _, content in rows]
                    encoder = self.encoder_on(shard.device)  # `cpu` once this file is demoted; the next one is not
                    with shard.batch(genes=len(texts), work=len(texts) * min(max(map(len, texts)), 2000)):
                        vectors = encoder.encode(texts)
                    pairs = [(vector, row[0]) for vector, row in zip(vectors, rows, strict=True)]
                    with store:
                        store.executemany("UPDATE genes SET embedding_dense_v2 = ? WHERE rowid = ?", pairs)
                    shard.boundary()


def main() -> None:
    """The supervisor's word on the device is the last: after a demotion it is `cpu`, whatever the command line says."""
    parser = argparse.ArgumentParser(description="Gives a vector to each gene that lacks one.")
    parser.add_argument("paths", type=Path, nargs="+", metavar="FILE", help="SQLite files with a `genes` table")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N; BGEM3_DEVICE wins over it")
    args = parser.parse_args()
    device = os.environ.get("BGEM3_DEVICE") or "auto"
    device = args.device if device == "auto" else device
    with CrawlWatch() as watch:
        backfill = Backfill(watch, "cuda:0" if device == "auto" else device)
        for path in args.paths:
            backfill.run(path)


if __name__ == "__main__":
    main()
