"""A driver of one process that does as it is told, for what the examples do not do.

python -m tests.run.plain WAY [ARGUMENT...]
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from helix_crawl_otel import CrawlWatch, MemoryReading

GIB = 1024**3
HEALTHY_SECONDS, SLOW_SECONDS = 0.005, 0.06
"""Of the world; the run's clock is a hundred times as fast."""


def full() -> MemoryReading:
    """A card that is full."""
    return MemoryReading(int(11.9 * GIB), 12 * GIB)


def say(**content: object) -> None:
    """Tell the test, on standard error: standard output is the supervisor's."""
    print("said " + json.dumps(content), file=sys.stderr, flush=True)


def watched(out: str) -> None:
    """Encode for ever, a line a batch, and call `boundary` after each."""
    with CrawlWatch() as watch, watch.shard("only", device="cpu") as shard:
        for number in range(10_000):
            with shard.batch(genes=1):
                time.sleep(0.02)
            _write(out, number)
            shard.boundary()


def deaf(out: str) -> None:
    """Encode for ever and never look at a boundary."""
    with CrawlWatch() as watch, watch.shard("only", device="cpu") as shard:
        for number in range(10_000):
            with shard.batch(genes=1):
                time.sleep(0.02)
            _write(out, number)


def unwatched(out: str) -> None:
    """Use no watch at all."""
    for number in range(10_000):
        time.sleep(0.02)
        _write(out, number)


def until(out: str) -> None:
    """Wait until somebody else writes."""
    while not Path(out).exists():
        time.sleep(0.02)


def stubborn(out: str) -> None:
    """Use no watch, and take no notice of Ctrl-C."""
    while True:
        try:
            unwatched(out)
        except KeyboardInterrupt:
            say(ignored=True)


def _write(out: str, number: int) -> None:
    with Path(out).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {number}\n")


def recorded(last: str) -> None:
    """Time its own batches, on a card that is full; those from the 20th on are slow."""
    with CrawlWatch(memory=full) as watch, watch.shard("own", device="cuda:0") as shard:
        applied = []
        for number in range(int(last)):
            shard.record(genes=16, seconds=_sleep(number), work=1600.0)
            applied += [action.kind.value for action in shard.boundary()]
        status = shard.status()
        say(applied=applied, baseline=status.baseline, ema=status.ema, verdict=status.verdict.value, rung=status.rung)


def embedded() -> None:
    """Say that nothing restarts it: no rung that ends the process can be taken."""
    with CrawlWatch(memory=full) as watch, watch.shard("stays", device="cuda:0", exit_to_recycle=False) as shard:
        for number in range(60):
            shard.record(genes=16, seconds=_sleep(number))
            shard.boundary()


def _sleep(number: int) -> float:
    """Take the time of a batch. Returns its seconds on the run's clock."""
    seconds = HEALTHY_SECONDS if number < 20 else SLOW_SECONDS
    time.sleep(seconds)
    return seconds * 100


def threaded() -> None:
    """Eight threads record at the same time."""
    with CrawlWatch() as watch, watch.shard("all", device="cpu") as shard:

        def record() -> None:
            for _ in range(250):
                shard.record(genes=2, seconds=0.01)
                with shard.batch(genes=1):
                    pass

        threads = [threading.Thread(target=record) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        shard.boundary()


def forked() -> None:
    """Fork in the middle: the child uses the shard as well."""
    with CrawlWatch() as watch, watch.shard("one", device="cpu") as shard:
        shard.record(genes=5, seconds=0.01)
        child = os.fork()
        shard.record(genes=100 if child == 0 else 7, seconds=0.01)
        status = shard.status()
        applied = shard.boundary()
        if child == 0:
            say(verdict=status.verdict.value, applied=applied)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with shard.batch(genes=3):
            time.sleep(0.001)
        shard.boundary()


def raising(out: str) -> None:
    """An exception in a batch is the driver's; it catches one and goes on, and dies of the next, each time."""
    with CrawlWatch() as watch, watch.shard("one", device="cpu") as shard:
        if not Path(out).exists():
            with shard.batch(genes=4):
                time.sleep(0.001)
            try:
                with shard.batch(genes=100):
                    raise RuntimeError("the first")
            except RuntimeError as error:
                say(caught=str(error))
            with shard.batch(genes=6):
                time.sleep(0.001)
            _write(out, 10)
            shard.boundary()
        with shard.batch(genes=100):
            raise RuntimeError("the second")


WAYS: dict[str, Callable[..., None]] = {
    way.__name__: way
    for way in (watched, deaf, unwatched, until, stubborn, recorded, embedded, threaded, forked, raising)
}

if __name__ == "__main__":
    WAYS[sys.argv[1]](*sys.argv[2:])
