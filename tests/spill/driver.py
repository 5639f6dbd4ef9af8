"""A driver whose encode probes a memory-mapped table that grows with each batch; it lives in a memory group.

python -m tests.spill.driver GROUP TABLE PASSAGES HOW

HOW is `spill` (the table outgrows the group), `cache` (the group is full of plain page cache, the table is small) or
`quota` (a tenth of the time is the process's own, the rest is slept, as under a quota of the processor).

Source: INCIDENTS.md, "A physical spill that needs no GPU".
"""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import sqlite3
import sys
import time
from pathlib import Path

from helix_crawl_otel import CrawlWatch

MIB = 1024**2
BATCH = 16
GROWTH = 4 * MIB
"""Of the table, a batch."""

PROBES = 400
SLICE_SECONDS = 0.02


class Table:
    """The mapped file. A process that has just started has touched nothing of it.

    Args:
        path: Of the file, larger than the group.
        grows: Whether a batch touches more than the one before.
    """

    def __init__(self, path: Path, *, grows: bool) -> None:
        self._file = file = path.open("rb", buffering=0)
        self._map = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._map.madvise(mmap.MADV_RANDOM)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._grows = grows
        self._length = GROWTH
        self._random = random.Random(1)

    def encode(self, texts: list[str]) -> list[bytes]:
        """Read what is new, probe at random places of all that was read, and compute."""
        if self._grows:
            old, self._length = self._length, min(len(self._map), self._length + GROWTH)
            # From end to end, which is quick; probed one by one the pages would make a healthy batch slow as well.
            os.pread(self._file.fileno(), self._length - old, old)
        for _ in range(PROBES * len(texts)):
            self._map[self._random.randrange(self._length)]
        return [hashlib.sha256(text.encode() * 50).digest() for text in texts]


def burn(share: float, seconds: float) -> None:
    """Let such a share of the time be the process's own: what took so many seconds is followed by a sleep."""
    time.sleep(max(SLICE_SECONDS, seconds) * (1 - share) / share)


def main(group: str, table: str, passages: str, how: str) -> None:
    """Join the group and encode."""
    device = os.environ.get("BGEM3_DEVICE") or "cuda:0"
    if device != "cpu":
        (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    mapped = Table(Path(table), grows=how == "spill" and device != "cpu")
    store = sqlite3.connect(passages)
    query = "SELECT id, text FROM passages WHERE shard = ? AND vector IS NULL ORDER BY id LIMIT ?"
    shards = [row[0] for row in store.execute("SELECT DISTINCT shard FROM passages ORDER BY shard")]
    batches = 0
    with CrawlWatch() as watch:
        for name in shards:
            if not store.execute(query, (name, 1)).fetchall():
                continue
            with watch.shard(name, device=device) as shard:
                while rows := store.execute(query, (name, BATCH)).fetchall():
                    batches += 1
                    if how == "cache" and batches % 20 == 10:
                        read_all(Path(table))
                    with shard.batch(genes=len(rows)):
                        began = time.monotonic()
                        vectors = mapped.encode([text for _, text in rows])
                        if how == "quota" and batches > 20:
                            burn(0.1, time.monotonic() - began)
                    with store:
                        pairs = [(vector, row[0]) for vector, row in zip(vectors, rows, strict=True)]
                        store.executemany("UPDATE passages SET vector = ? WHERE id = ?", pairs)
                    shard.boundary()
    store.close()


def read_all(path: Path) -> None:
    """Fill the group with plain page cache."""
    with path.open("rb") as file:
        while file.read(MIB):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
