"""How fast vectors are committed, and how fast files are taken in: neither is to be what a build waits for."""

from __future__ import annotations

import statistics
import struct
import time
from pathlib import Path

import pytest

from helix_crawl_otel.corpus.cut import ChunkRule
from helix_crawl_otel.corpus.ingest import ingest
from helix_crawl_otel.corpus.tree import plan_named
from helix_crawl_otel.shards.store import ShardStore
from tests.benchmarks.figures import Benchmark, Figures
from tests.build.rig import prose, write_tree
from tests.shards.shards import made

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

DIM = 1024
IDENTITY = {"model": "made", "revision": "1", "dim": DIM, "normalised": True}
BATCH = 64
ROUNDS = 5


def test_commits_are_quick(benchmark: Benchmark, figures: Figures, tmp_path: Path) -> None:
    """Vectors of BGE-M3's 1,024 numbers, in transactions of 64."""
    genes = 640 if benchmark.disabled else 12_800
    rates: list[float] = []
    vectors = [struct.pack(f"<{DIM}f", *(float(place == number) for place in range(DIM))) for number in range(BATCH)]

    def run_round() -> None:
        path = made(tmp_path / f"{len(rates)}.db", (f"g{n:06}" for n in range(genes)))
        with ShardStore.open(path, epoch=1, create=False) as store:
            store.claim(IDENTITY)
            pending = store.pending(None, genes)
            began = time.perf_counter()
            for start in range(0, genes, BATCH):
                store.commit(list(zip(pending[start : start + BATCH], vectors, strict=True)))
            rates.append(genes / (time.perf_counter() - began))
            assert store.pending_count() == 0

    benchmark.group = "store"
    benchmark.pedantic(run_round, rounds=ROUNDS)
    figures.add(
        "Commits of 64 vectors of 4 KiB",
        {
            "genes": f"{genes:,}",
            "genes/s (median)": f"{statistics.median(rates):,.0f}",
            "of the rounds": f"{min(rates):,.0f} to {max(rates):,.0f}",
        },
    )


@pytest.mark.parametrize("what", ["small files", "one large file"])
def test_files_are_taken_in_quickly(benchmark: Benchmark, figures: Figures, tmp_path: Path, what: str) -> None:
    """Read, cut into genes and stored: many small files, and one large one."""
    files, paragraphs = (50, 6) if benchmark.disabled else (2000, 6)
    if what == "one large file":
        files, paragraphs = 1, 600 if benchmark.disabled else 60_000
    write_tree(tmp_path / "source", {f"a/{n:05}.txt": prose(n, paragraphs) for n in range(files)})
    size = sum(path.stat().st_size for path in (tmp_path / "source").rglob("*.txt"))
    seconds: list[float] = []

    def run_round() -> None:
        plan = plan_named(tmp_path / "source", None, "a")
        with ShardStore.open(tmp_path / f"{len(seconds)}.db", epoch=1, create=True) as store:
            began = time.perf_counter()
            done = ingest(
                store, plan, ChunkRule(), prune=False, progress=lambda sources, genes: None, should_stop=lambda: False
            )
            seconds.append(time.perf_counter() - began)
            assert done.sources == files

    benchmark.group = "ingest"
    benchmark.pedantic(run_round, rounds=ROUNDS)
    median = statistics.median(seconds)
    figures.add(
        "Files taken in: read, cut and stored",
        {
            "what": f"{what}: {files:,}, {size / 1e6:.1f} MB",
            "files/s": f"{files / median:,.0f}" if files > 1 else "",
            "MB/s": f"{size / 1e6 / median:.1f}",
            "seconds of the rounds": f"{min(seconds):.2f} to {max(seconds):.2f}",
        },
    )
