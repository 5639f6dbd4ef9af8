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
from array import array
from collections.abc import Iterator

import psutil

from helix_crawl_otel import CrawlWatch, MemoryReading
from tests.benchmarks.metrics import endpoint

PARTS = 10
KEYS = ("median_cpu_seconds", "rss_bytes", "traced_bytes")


def main() -> None:
    """Run, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("batches", "shards"))
    parser.add_argument("count", type=int)
    parser.add_argument(
        "--traced", action="store_true", help="with tracemalloc, which makes the loop several times slower"
    )
    args = parser.parse_args()
    with endpoint("Prometheus, scraped") as exported:
        watch = CrawlWatch(
            meter_provider=exported.provider, memory=lambda: MemoryReading(5_000_000_000, 12_000_000_000)
        )
        with watch:
            run = _batches(watch, args.count) if args.what == "batches" else _shards(watch, args.count)
            if args.traced:
                tracemalloc.start()
            figures = array("d", bytes(8 * len(KEYS) * PARTS))  # made before, so that it is no growth
            for part, seconds in enumerate(run):
                figures[len(KEYS) * part : len(KEYS) * (part + 1)] = array("d", _figures(seconds, args.traced))
    parts = [dict(zip(KEYS, figures[at : at + len(KEYS)], strict=True)) for at in range(0, len(figures), len(KEYS))]
    print(json.dumps({"parts": parts, "scrapes": exported.scrapes}))


def _batches(watch: CrawlWatch, count: int) -> Iterator[list[float]]:
    """One shard, ever more batches. Yields the CPU seconds of each batch of a part."""
    with watch.shard("a") as shard:
        for _ in range(PARTS):
            seconds = []
            for _ in range(count // PARTS):
                began = time.thread_time()
                with shard.batch(genes=64, work=81_234):
                    pass
                shard.boundary()
                seconds.append(time.thread_time() - began)
            yield seconds


def _shards(watch: CrawlWatch, count: int) -> Iterator[list[float]]:
    """Ever more shards of two batches, one after the other. Yields the CPU seconds of each shard of a part."""
    for part in range(PARTS):
        seconds = []
        for number in range(count // PARTS):
            began = time.thread_time()
            with watch.shard(f"shard-{part}-{number}") as shard:
                for _ in range(2):
                    with shard.batch(genes=64, work=81_234):
                        pass
                    shard.boundary()
            seconds.append(time.thread_time() - began)
        yield seconds


def _figures(seconds: list[float], traced: bool) -> tuple[float, ...]:
    """What `KEYS` names."""
    median = statistics.median(seconds)
    seconds.clear()
    gc.collect()
    return median, psutil.Process().memory_info().rss, tracemalloc.get_traced_memory()[0] if traced else 0


if __name__ == "__main__":
    main()
