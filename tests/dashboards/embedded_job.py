"""A job that watches itself, with something the matter with it.

python -m tests.dashboards.embedded_job TROUBLE PORT RATE MINUTES

Its clock runs RATE times as fast as the world's; it ends by itself after so many of its minutes. TROUBLE is

blind   nobody can say how much memory the card has in use
full    the memory is full, and the speed is as always
stuck   the fifth batch does not end
waits   after the fifth batch the job waits for something, for three quarters of its time
deaf    it crawls from the ninth batch on, and never asks what the ladder wants
"""

from __future__ import annotations

import sys
import time

from helix_crawl_otel import CrawlWatch, MemoryReading, serve_metrics

GIB = 1024**3
BATCH_SECONDS, CRAWLING_SECONDS = 10.0, 120.0
HEALTHY = MemoryReading(6 * GIB, 12 * GIB)
FULL = MemoryReading(int(11.9 * GIB), 12 * GIB)
UNKNOWN = MemoryReading(None, None)


def main(trouble: str, port: str, rate: str, minutes: str) -> None:
    """Encode nothing, slowly."""
    speed, began, batches = float(rate), time.monotonic(), 0

    def clock() -> float:
        return (time.monotonic() - began) * speed

    def memory() -> MemoryReading:
        is_full = trouble == "full" or (trouble == "deaf" and batches >= 8)
        return UNKNOWN if trouble == "blind" else FULL if is_full else HEALTHY

    def take(seconds: float) -> None:
        time.sleep(seconds / speed)

    end = 60 * float(minutes)
    with (
        serve_metrics(port=int(port)),
        CrawlWatch(clock=clock, memory=memory, tick_seconds=5.0 / speed) as watch,
        watch.shard("notes", device="cuda:0") as shard,
    ):
        while clock() < end:
            with shard.batch(genes=64):
                batches += 1
                take(end if trouble == "stuck" and batches == 5 else BATCH_SECONDS)
                if trouble == "deaf" and batches > 8:
                    take(CRAWLING_SECONDS)
            if trouble != "deaf":
                shard.boundary()
            if trouble == "waits" and batches == 5:
                take(0.75 * end)


if __name__ == "__main__":
    main(*sys.argv[1:])
