"""Runs a watched loop for a long time in a process of its own, and prints what it came to hold, as one JSON object.

    python -m tests.benchmarks.long_run {batches|shards} COUNT [--traced]

The loop runs in ten equal parts; the figures are taken at the end of each, after a collection of garbage.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import tracemalloc
from collections.abc import Iterator

import psutil

from helix_crawl_otel import CrawlWatch, MemoryReading
from tests.benchmarks.metrics import endpoint

PARTS = 10


def main() -> None:
    """Run, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("batches", "shards"))
    parser.add_argument("count", type=int)
    parser.add_argument("--traced", action="store_true", help="with tracemalloc, which makes the loop several times slower")
    args = parser.parse_args()
    with endpoint("Prometheus, scraped") as exported:
        watch = CrawlWatch(
            meter_provider=exported.provider, memory=lambda: MemoryReading(5_000_000_000, 12_000_000_000)
        )
        with watch:
            run = _batches(watch, args.count) if args.what == "batches" else _shards(watch, args.count)
            if args.traced:
                tracemalloc.start()
            parts = [_part(seconds, args.traced) for seconds in run]
    print(json.dumps({"parts": parts, "scrapes": exported.scrapes}))


def _batches(watch: CrawlWatch, count: int) -> Iterator[list[float]]:
    """One shard, ever more batches. Yields the seconds of each batch of a part."""
    with watch.shard("a") as shard:
        for _ in range(PARTS):
            seconds = []
            for _ in range(count // PARTS):
                began = time.perf_counter()
                with shard.batch(genes=64, work=81_234):
                    pass
                shard.boundary()
                seconds.append(time.perf_counter() - began)
            yield seconds


def _shards(watch: CrawlWatch, count: int) -> Iterator[list[float]]:
    """Ever more shards of ten batches, one after the other. Yields the seconds of each shard of a part."""
    for part in range(PARTS):
        seconds = []
        for number in range(count // PARTS):
            began = time.perf_counter()
            with watch.shard(f"shard-{part}-{number}") as shard:
                for _ in range(10):
                    with shard.batch(genes=64, work=81_234):
                        pass
                    shard.boundary()
            seconds.append(time.perf_counter() - began)
        yield seconds


def _part(seconds: list[float], traced: bool) -> dict[str, float]:
    median = statistics.median(seconds)
    seconds.clear()
    gc.collect()
    return {
        "median_seconds": median,
        "rss_bytes": psutil.Process().memory_info().rss,
        "traced_bytes": tracemalloc.get_traced_memory()[0] if traced else 0,
    }


if __name__ == "__main__":
    main()
