"""Makes long timelines, for measuring how fast they are replayed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TextIO

__all__ = ["write_long_timeline"]

LIMIT_BYTES = 12_000_000_000
BATCHES_A_SHARD = 2_000
CRAWL_AT, CRAWL_BATCHES = 1_000, 40


def write_long_timeline(path: Path, lines: int) -> int:
    """Write a job of shards of 2,000 batches; each fourth shard crawls for 40 of them.

    Args:
        path: The file.
        lines: How many; readings and batches by turns, as a watch that ticks every 5 s records batches of 4 s.

    Returns:
        The number of batches.
    """
    draw = random.Random(1)
    t, batches, number = 0.0, 0, 2
    with path.open("w", encoding="utf-8") as out:
        _write(out, {"event": "run", "version": 1, "t": 0.0, "config": {}, "encoder": "made", "host": "made"})
        _write(out, {"event": "worker", "t": 0.0, "device": "cuda:0", "pid": 1, "reason": "first"})
        while number < lines:
            shard, at = divmod(batches, BATCHES_A_SHARD)
            crawling = shard % 4 == 1 and CRAWL_AT <= at < CRAWL_AT + CRAWL_BATCHES
            if number % 2 == 0:
                used = 11_850_000_000 if crawling else 6_000_000_000 + draw.randrange(1_000_000_000)
                _write(
                    out,
                    {"event": "memory", "t": round(t, 6), "device": "cuda:0"}
                    | {"used_bytes": used, "limit_bytes": LIMIT_BYTES},
                )
            else:
                work = 64 * draw.randint(200, 2_000)
                seconds = work / 20_000 * draw.uniform(0.9, 1.1) * (20 if crawling else 1)
                t += seconds
                batches += 1
                _write(
                    out,
                    {"event": "batch", "t": round(t, 6), "shard": f"shard-{shard}", "device": "cuda:0", "genes": 64}
                    | {"work": work, "seconds": round(seconds, 6)},
                )
            number += 1
    return batches


def _write(out: TextIO, event: dict[str, object]) -> None:
    out.write(json.dumps(event, separators=(",", ":")) + "\n")
