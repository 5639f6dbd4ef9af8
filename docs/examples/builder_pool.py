"""Three builders at once, each a process with a shard of its own; one that ends is started again.

    helix-crawl run -- python builder_pool.py shards/one.db shards/two.db shards/three.db

A `multiprocessing.Pool` waits for ever for the task of a process that was killed, and a `ProcessPoolExecutor` breaks.
Here the parent watches its builders itself: exit code 75 or 79 is a recycle of the ladder, anything else but 0 a crash.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sqlite3
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from vector_backfill import BATCH, LACKING, Encoder

from helix_crawl_otel import CrawlWatch

BUILDERS, TRIES = 3, 3
RECYCLE, TO_THE_CPU = 75, 79


def build(path: str, device: str) -> None:
    """One builder, in a process of its own: gives a vector to each gene of a shard that lacks one."""
    encoder = Encoder(device)
    store = sqlite3.connect(path, timeout=30)
    if "embedding_dense_v2" not in [row[1] for row in store.execute("PRAGMA table_info(genes)")]:
        store.execute("ALTER TABLE genes ADD COLUMN embedding_dense_v2 BLOB")
    query = f"SELECT rowid, content FROM genes WHERE {LACKING} ORDER BY rowid LIMIT ?"
    # `exit_to_recycle`: the parent starts another one, so this process may end.
    with CrawlWatch() as watch, watch.shard(path, device=device, exit_to_recycle=True) as shard:
        while rows := store.execute(query, (BATCH,)).fetchall():
            texts = [content for _, content in rows]
            with shard.batch(genes=len(texts), work=len(texts) * min(max(map(len, texts)), 2000)):
                vectors = encoder.encode(texts)
            with store:
                pairs = [(vector, rowid) for vector, (rowid, _) in zip(vectors, rows, strict=True)]
                store.executemany("UPDATE genes SET embedding_dense_v2 = ? WHERE rowid = ?", pairs)
            shard.boundary()  # after the commit: raises PauseRequested, which ends this builder with 75 or 79
    store.close()


def lacking(path: str) -> int:
    """Genes that have no vector yet."""
    store = sqlite3.connect(path, timeout=30)
    try:
        return int(store.execute(f"SELECT count(*) FROM genes WHERE {LACKING}").fetchone()[0])
    except sqlite3.OperationalError:  # no builder has added the column yet
        return int(store.execute("SELECT count(*) FROM genes").fetchone()[0])
    finally:
        store.close()


def run(paths: Sequence[str], device: str) -> int:
    """Keep three builders at work until each shard is done, or has crashed three times without a new vector."""
    spawn = multiprocessing.get_context("spawn")  # no forked CUDA context
    waiting = [(path, device, 0) for path in paths]
    builders: dict[BaseProcess, tuple[str, str, int, int]] = {}
    failed = 0
    while waiting or builders:
        while waiting and len(builders) < BUILDERS:
            path, place, tries = waiting.pop(0)
            builder = spawn.Process(target=build, args=(path, place))
            builder.start()
            builders[builder] = path, place, tries, lacking(path)
        wait([builder.sentinel for builder in builders])
        for builder in [one for one in builders if not one.is_alive()]:
            path, place, tries, before = builders.pop(builder)
            builder.join()
            tries = 0 if lacking(path) < before else tries + 1
            if builder.exitcode in (RECYCLE, TO_THE_CPU):
                waiting.insert(0, (path, "cpu" if builder.exitcode == TO_THE_CPU else place, tries))
            elif builder.exitcode != 0 and tries < TRIES:
                waiting.append((path, place, tries))
            elif builder.exitcode != 0:
                failed += 1
    return 1 if failed else 0


def main() -> None:
    """Take the device that the supervisor names."""
    parser = argparse.ArgumentParser(description="Gives a vector to each gene that lacks one, three files at once.")
    parser.add_argument("paths", nargs="+", metavar="FILE", help="SQLite files with a `genes` table")
    device = os.environ.get("BGEM3_DEVICE") or "auto"
    sys.exit(run(parser.parse_args().paths, "cuda:0" if device == "auto" else device))


if __name__ == "__main__":
    main()
