"""The example driver on a modelled card: full and slow from a process's eighth batch on, whatever it releases.

python -m tests.run.driver PASSAGES LOG
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import helix_crawl_otel
from helix_crawl_otel import CrawlWatch, MemoryReading

GIB = 1024**3
FAST_BATCHES = 8
HEALTHY_SECONDS, SLOW_SECONDS = 0.005, 0.06
"""Of the world; the run's clock is a hundred times as fast."""


def main(path: str, log: str) -> None:
    """Run the example with its encoder slowed, and leave a line a process."""
    found = importlib.util.spec_from_file_location("minimal", Path(__file__).parents[2] / "docs/examples/minimal.py")
    assert found is not None
    assert found.loader is not None
    example = importlib.util.module_from_spec(found)
    batches = 0

    def memory() -> MemoryReading:
        return MemoryReading(int((11.9 if batches > FAST_BATCHES else 6.0) * GIB), 12 * GIB)

    def watch() -> CrawlWatch:
        return CrawlWatch(memory=memory if not is_on_cpu else None)

    is_on_cpu = os.environ.get("BGEM3_DEVICE") == "cpu"
    found.loader.exec_module(example)
    encode = example.encode

    def slowed(texts: list[str], device: str) -> list[bytes]:
        nonlocal batches
        batches += 1
        time.sleep(SLOW_SECONDS if batches > FAST_BATCHES and not is_on_cpu else HEALTHY_SECONDS)
        vectors: list[bytes] = encode(texts, device)
        return vectors

    vars(example).update(encode=slowed, CrawlWatch=watch)
    seen = {"pid": os.getpid(), **{name: os.environ.get(name) for name in ("BGEM3_DEVICE", "CUDA_VISIBLE_DEVICES")}}
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(json.dumps(seen) + "\n")
    example.main(path)


if __name__ == "__main__":
    assert helix_crawl_otel.__version__
    main(sys.argv[1], sys.argv[2])
