"""An example of the docs as a driver whose encoder takes its time.

python -m tests.run.driver PACE EXAMPLE LOG ARGUMENT...

PACE is `card`: a modelled card, full and slow from a process's eighth batch on, whatever it releases; or `steady`; or
`killed:WORD`: the first process kills itself before a statement that begins with this word, in a later batch.

While a file `hold` lies beside the log, a process stays in the batch whose number is in it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from helix_crawl_otel import CrawlWatch, MemoryReading

GIB = 1024**3
FAST_BATCHES = 8
HEALTHY_SECONDS, SLOW_SECONDS = 0.02, 0.24
"""Of the world; the run's clock is twenty-five times as fast."""
STEADY_SECONDS = 0.02


def load(name: str) -> ModuleType:
    """One of `docs/examples`."""
    found = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / f"docs/examples/{name}.py")
    assert found is not None
    assert found.loader is not None
    example = importlib.util.module_from_spec(found)
    found.loader.exec_module(example)
    return example


class Card:
    """What a process's batches have made of the card it is on."""

    def __init__(self) -> None:
        self._batches = 0

    def memory(self) -> MemoryReading:
        """Full after some batches."""
        return MemoryReading(int((11.9 if self._batches > FAST_BATCHES else 6.0) * GIB), 12 * GIB)

    def take_time(self, device: str) -> None:
        """One batch."""
        self._batches += 1
        time.sleep(SLOW_SECONDS if self._batches > FAST_BATCHES and device != "cpu" else HEALTHY_SECONDS)


def slow_down(example: ModuleType, take_time: Any) -> None:
    """Have its encoder take time for each batch."""
    if hasattr(example, "encode"):
        encode = example.encode

        def slowed(texts: list[str], device: str) -> list[bytes]:
            take_time(device)
            vectors: list[bytes] = encode(texts, device)
            return vectors

        vars(example)["encode"] = slowed
        return
    of_class = example.Encoder.encode

    def slowed_method(encoder: Any, texts: list[str]) -> Any:
        take_time(encoder.device)
        return of_class(encoder, texts)

    example.Encoder.encode = slowed_method


def stay(example: ModuleType, hold: Path) -> None:
    """Have the process stay in a batch for as long as the file is there."""
    number = int(hold.read_text()) if hold.exists() else 0
    batches = 0

    def wait(device: str) -> None:
        nonlocal batches
        batches += 1
        while batches == number and hold.exists():
            time.sleep(0.005)

    slow_down(example, wait)


def kill_before(example: ModuleType, word: str) -> None:
    """Have the process killed before a statement, once three transactions are committed."""
    commits = 0

    def look(statement: str) -> None:
        nonlocal commits
        if commits >= 3 and statement.startswith(word):
            os.kill(os.getpid(), signal.SIGKILL)
        commits += statement == "COMMIT"

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        store: sqlite3.Connection = sqlite3.connect(*arguments, **options)
        store.set_trace_callback(look)
        return store

    vars(example)["sqlite3"] = SimpleNamespace(connect=connect)


def main(pace: str, name: str, log: str, *arguments: str) -> None:
    """Run the example, and leave a line a process."""
    example, card = load(name), Card()
    if pace == "card":
        slow_down(example, card.take_time)
        if os.environ.get("BGEM3_DEVICE") != "cpu":
            vars(example)["CrawlWatch"] = lambda: CrawlWatch(memory=card.memory)
    elif pace == "steady":
        slow_down(example, lambda device: time.sleep(STEADY_SECONDS))
    elif not Path(log).exists():
        kill_before(example, pace.removeprefix("killed:"))
    stay(example, Path(log).with_name("hold"))
    seen = {"pid": os.getpid(), **{name: os.environ.get(name) for name in ("BGEM3_DEVICE", "CUDA_VISIBLE_DEVICES")}}
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(json.dumps(seen) + "\n")
    if name == "minimal":
        example.main(*arguments)
    else:
        sys.argv = [f"{name}.py", *arguments]
        example.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
