"""Counts the functions of the package that one real `run` goes through from the end of a batch to the next worker.

Run by hand: `python -m tests.run.way`. It starts `helix-crawl run` on a driver of its own, whose card falls into a
crawl, both under a profiler, and prints how many functions and files were touched between `finish_batch` of the batch
that brought the RECYCLE and the moment the next worker's process is there: the driver's, the supervisor's, and both.
`--list` names them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import FrameType

import helix_crawl_otel

HOME = Path(helix_crawl_otel.__file__).parent

RATE = 100
"""How much faster the run's clock is: a batch of 4 s takes 40 ms. A tick comes each 50 ms: few fall into the way."""

HEALTHY, SLOW = 4.0, 24.0
"""Seconds of a batch. A slow one ends before its worker would be ended for what it keeps from its boundary."""

BEGIN, STARTED = "finish_batch", "worker_started"
"""The way begins anew with each batch that ends, and is there once a worker has been started after one."""


NO_FUNCTIONS = ("<genexpr>", "<listcomp>", "<setcomp>", "<dictcomp>", "<module>")

ASIDE = ("helix-crawl-ticker", "helix-crawl-memory", "helix-crawl-shared-memory")
"""Threads that go their own way meanwhile, reading memory and the clock; a `QueueListener` draws."""


SHOWN = ("console/", "formats.py", "dates.py", "logs.py", "otel/logline.py")
"""What a terminal and the log show of it on the way is no part of it."""

Function = tuple[str, str, int]
"""File, name, line."""


class Way:
    """What was called since the last batch ended: (file, function, line), of the threads that a batch goes through.

    Args:
        path: Where it is written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._called: set[Function] = set()
        self._began = False
        threading.setprofile(self._called_one)
        sys.setprofile(self._called_one)

    def _called_one(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(HOME)) or code.co_name in NO_FUNCTIONS:
            return
        name = threading.current_thread().name
        if name.startswith(ASIDE) or name.endswith("(_monitor)"):
            return
        if code.co_name == BEGIN and code.co_filename.endswith(("engine.py", "remote.py")):
            self._called, self._began = set(), True
        function = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
        self._called.add((Path(code.co_filename).relative_to(HOME).as_posix(), function, code.co_firstlineno))
        if code.co_name == STARTED and self._began:
            self.write()

    def write(self) -> None:
        """Write what was called; once."""
        if self._began:
            self._began = False
            self._path.write_text(json.dumps(sorted(self._called)), "utf-8")


def driver(folder: Path) -> None:
    """Encodes, from the 12th batch on slowly and on a full card. The second process has nothing to do."""
    if (folder / "driver.json").exists():
        return
    way = Way(folder / "driver.json")
    from helix_crawl_otel import CrawlWatch, MemoryReading

    full = False
    try:
        with CrawlWatch(memory=lambda: MemoryReading(99 if full else 50, 100)) as watch, watch.shard("a") as shard:
            for number in range(200):
                full = number > 12
                with shard.batch(genes=64, work=4000.0):
                    time.sleep((SLOW if full else HEALTHY) / RATE)
                shard.boundary()
    finally:
        way.write()


def supervisor(folder: Path) -> int:
    """`helix-crawl run` of the driver, in this process."""
    Way(folder / "supervisor.json")
    from helix_crawl_otel.cli import main

    job = [sys.executable, "-m", "tests.run.way", "driver", str(folder)]
    return main(["run", "--state", str(folder / "state"), "--no-metrics", "--clock-rate", str(RATE), "--", *job])


def measured() -> dict[str, set[Function]]:
    """Run it. Returns what each side has called, and `both`; without what is shown."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "tests.run.way", "supervisor", name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"the run has failed: {done.stderr}")
        found: dict[str, set[Function]] = {}
        for side in ("driver", "supervisor"):
            called = json.loads((Path(name) / f"{side}.json").read_text("utf-8"))
            found[side] = {(file, function, line) for file, function, line in called if not file.startswith(SHOWN)}
    return {**found, "both": found["driver"] | found["supervisor"]}


def files(called: set[Function]) -> int:
    """How many they are in."""
    return len({file for file, _, _ in called})


def main(*, listed: bool) -> None:
    """Print the counts, and the functions where they are asked for."""
    found = measured()
    for side, called in found.items():
        print(f"{side}: {len(called)} functions in {files(called)} files")
    for one in sorted(found["both"]) if listed else ():
        sides = " ".join(side for side in ("driver", "supervisor") if one in found[side])
        print(f"{one[0]}:{one[2]} {one[1]} ({sides})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["driver"]:
        driver(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["supervisor"]:
        sys.exit(supervisor(Path(sys.argv[2])))
    else:
        main(listed="--list" in sys.argv)
