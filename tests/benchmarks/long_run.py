"""Runs a watched loop for a long time in a process of its own, and prints what came of it, as one JSON object.

    python -m tests.benchmarks.long_run {batches|shards} COUNT [--traced] [--turns N]

The loop runs in ten equal parts; memory is taken at the end of each, after a collection of garbage. At the end the old
watch and a fresh one are timed by turns: the times of different minutes say more of a shared machine than of the watch.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil

from helix_crawl_otel import CrawlWatch, MemoryReading
from tests.benchmarks.metrics import endpoint

PARTS = 10
KEYS = ("rss_bytes", "traced_bytes")
WARMUP, BLOCK = 300, 50

Step = Callable[[], None]


def main() -> None:
    """Run, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("batches", "shards"))
    parser.add_argument("count", type=int)
    parser.add_argument("--traced", action="store_true", help="with tracemalloc, several times slower; no times then")
    parser.add_argument("--turns", type=int, default=20, help="of the old watch and a fresh one, each of a block")
    args = parser.parse_args()
    loop = batches if args.what == "batches" else shards
    with loop() as step:
        if args.traced:
            tracemalloc.start()
        figures = array("d", bytes(8 * len(KEYS) * PARTS))  # made before, so that it is no growth
        for part in range(PARTS):
            for _ in range(args.count // PARTS):
                step()
            gc.collect()
            traced_bytes = tracemalloc.get_traced_memory()[0] if args.traced else 0
            figures[2 * part : 2 * part + 2] = array("d", (psutil.Process().memory_info().rss, traced_bytes))
        printed: dict[str, object] = {
            "parts": [dict(zip(KEYS, figures[at : at + 2], strict=True)) for at in range(0, len(figures), 2)]
        }
        if not args.traced:
            with loop() as fresh:
                printed["aged_seconds"], printed["fresh_seconds"] = by_turns(step, fresh, args.turns)
    print(json.dumps(printed))


@contextmanager
def batches() -> Iterator[Step]:
    """A step is a batch of one shard."""
    with watching() as watch, watch.shard("a") as shard:

        def step() -> None:
            with shard.batch(genes=64, work=81_234):
                pass
            shard.boundary()

        yield step


@contextmanager
def shards() -> Iterator[Step]:
    """A step is a shard of two batches."""
    numbers = itertools.count()
    with watching() as watch:

        def step() -> None:
            with watch.shard(f"shard-{next(numbers)}") as shard:
                for _ in range(2):
                    with shard.batch(genes=64, work=81_234):
                        pass
                    shard.boundary()

        yield step


@contextmanager
def watching() -> Iterator[CrawlWatch]:
    """A watch whose endpoint is being scraped."""
    with ExitStack() as stack:
        exported = stack.enter_context(endpoint("Prometheus, scraped"))
        yield stack.enter_context(
            CrawlWatch(meter_provider=exported.provider, memory=lambda: MemoryReading(5_000_000_000, 12_000_000_000))
        )


def by_turns(aged: Step, fresh: Step, turns: int) -> tuple[float, float]:
    """Median CPU seconds of a step of each."""
    for _ in range(WARMUP):
        fresh()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(turns):
        for seconds, step in zip(taken, (aged, fresh), strict=True):
            for _ in range(BLOCK):
                began = time.thread_time()
                step()
                seconds.append(time.thread_time() - began)
    return statistics.median(taken[0]), statistics.median(taken[1])


if __name__ == "__main__":
    main()
