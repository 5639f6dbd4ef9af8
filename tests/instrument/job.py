"""A job without a line of ours, on a modelled card: full and slow from a process's thirteenth pass on.

python -m tests.instrument.job LIBRARY FILE CALLS PASSES

It encodes so many calls of so many passes, and adds a line to FILE once the results of a call are there: its number,
its results, and how many passes of the process were slow so far. Started again it goes on behind the last line. The
card is laid over the model before anything is encoded; what follows is a job as anybody would write it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from helix_crawl_otel import CrawlWatch, MemoryReading
from tests.instrument import models

GIB = 1024**3
FAST_PASSES = 12
HEALTHY_SECONDS, SLOW_SECONDS = 0.02, 0.8
"""Of the world; the run's clock is twenty-five times as fast."""


def lay_card_over(model: Any, device: str = "cuda:0") -> list[int]:
    """Have its passes take as long as on a card, while it is there; and have that card's memory read.

    Returns:
        The slow passes so far, by number.
    """
    from helix_crawl_otel.instrument.instrumentor import HelixCrawlInstrumentor

    passes, is_full = 0, False
    slow: list[int] = []

    def take_time(module: Any, *given: Any) -> None:
        nonlocal passes, is_full
        passes += 1
        is_full = passes > FAST_PASSES and next(module.parameters()).dtype == half  # full: it was moved away
        slow.extend([passes] * is_full)
        time.sleep(SLOW_SECONDS if is_full else HEALTHY_SECONDS)

    def memory() -> MemoryReading:
        return MemoryReading(int((11.9 if is_full else 6.0) * GIB), 12 * GIB)

    half = next(model.half().parameters()).dtype
    model.register_forward_pre_hook(take_time)
    instrumentor = HelixCrawlInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:  # else the job is to be seen without us
        instrumentor.uninstrument()
        instrumentor.instrument(watch=CrawlWatch(memory=memory), device_of=lambda module: device)
    return slow


def main(library: str, file: str, calls: int, passes: int) -> None:
    """The job."""
    done, texts = Path(file), models.texts(passes * 2)
    first = len(done.read_text().splitlines()) if done.exists() else 0
    model, encode = models.encoder(library)
    slow = lay_card_over(model)
    for number in range(first, calls):
        results = encode(texts)
        with done.open("a", encoding="utf-8") as lines:
            lines.write(f"{number} {len(results)} {len(slow)}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
