"""A program that has imported the fleet's storage, and makes a process of each line that it is given: a shard's holder.

A process takes milliseconds so, instead of half a second; a hundred of them can be killed in a test. It is alone and
without threads when it forks. Each holder tells what it has done in a file of its own, a line each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from helix_crawl_otel.fleet.folder_storage import FolderStorage
from helix_crawl_otel.fleet.places import open_storage
from helix_crawl_otel.fleet.stage import Stage, StagedShard
from helix_crawl_otel.fleet.storage import Storage, Superseded
from tests.fleet.genes import add_gene

LEAST_SECONDS = 0.001
GIVEN_UP_SECONDS = 60.0


class Telling:
    """Writes lines to a file; whoever reads it sees whole ones."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, line: object) -> None:
        os.write(self._file, f"{line}\n".encode())


class Freezing(FolderStorage):
    """Stops its own process in the middle of a put: after the step of that name, the `turn`th time it is done."""

    def __init__(self, folder: Path, step: str, turn: int, tell: Telling) -> None:
        super().__init__(folder)
        self._tell, self._turn = tell, turn
        done = getattr(self, step)

        def freeze(*given: Any) -> Any:
            result = done(*given)
            self._turn -= 1
            if self._turn == 0:
                tell("frozen")
                os.kill(os.getpid(), signal.SIGSTOP)
            return result

        setattr(self, step, freeze)


def hold(storage: Storage, job: dict[str, Any], tell: Telling) -> None:
    """Take a shard, then add genes and put them, one after the other, until somebody ends it or takes it over."""
    with Stage(Path(job["stage"])) as stage:
        shard = StagedShard.take(storage, job["name"], stage, create=True)
        tell("holds")
        for number in range(10_000):
            add_gene(shard, f"{job['who']}-{number}")
            shard.checkpoint()
            tell(f"{job['who']}-{number}")


def race(storage: Storage, job: dict[str, Any], tell: Telling) -> None:
    """Look at the version, wait until all have, and put: one of all may."""
    entry = storage.look(job["name"])
    tell("ready")
    start = Path(job["start"])
    until = time.monotonic() + GIVEN_UP_SECONDS
    while not start.exists() and time.monotonic() < until:
        time.sleep(LEAST_SECONDS)
    content = job["who"].encode() * 100
    version = storage.put(job["name"], content, expected=None if entry is None else entry.version, holder=job["who"])
    tell(f"put {version}")


def freeze(storage: Storage, job: dict[str, Any], tell: Telling) -> None:
    """Put, and stop in the middle of it."""
    entry = storage.look(job["name"])
    if isinstance(storage, FolderStorage):
        storage = Freezing(storage.folder, job["step"], job["turn"], tell)
    else:
        bucket: Any = storage
        once = bucket._put_once

        def stopped(*given: Any) -> Any:
            tell("frozen")
            os.kill(os.getpid(), signal.SIGSTOP)
            return once(*given)

        bucket._put_once = stopped
    storage.put(job["name"], b"of the frozen one", expected=entry.version if entry else None, holder="frozen")
    tell("put")


JOBS = {"hold": hold, "race": race, "freeze": freeze}


def work(job: dict[str, Any]) -> None:
    """What a holder does; how it ended is its last line."""
    tell = Telling(Path(job["out"]))
    try:
        JOBS[job["job"]](open_storage(job["place"]), job, tell)
        tell("done")
    except Superseded:
        tell("superseded")
    except BaseException as error:  # noqa: BLE001 - the test reads it
        tell(f"{type(error).__name__}: {error}")


def main() -> None:
    """A job a line; an empty line asks for the next one that has ended."""
    for line in sys.stdin:
        if line.strip():
            child = os.fork()
            if child == 0:
                work(json.loads(line))
                os._exit(0)
            print(child, flush=True)
        else:
            print(os.wait()[0], flush=True)


if __name__ == "__main__":
    main()
