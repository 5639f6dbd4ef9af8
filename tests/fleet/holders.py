"""Holders of a shard as processes that a test starts, freezes and kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holder", "Holders", "holders_at"]

GIVEN_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Holder:
    """A process.

    Args:
        pid: Of it.
        out: The file that it tells in.
    """

    pid: int
    out: Path

    def lines(self) -> list[str]:
        """What it has told, whole lines only."""
        if not self.out.exists():
            return []
        return self.out.read_text().rpartition("\n")[0].splitlines()

    def until(self, is_told: Callable[[list[str]], bool]) -> list[str]:
        """Wait until it has told that."""
        end = time.monotonic() + GIVEN_UP_SECONDS
        while not is_told(lines := self.lines()):
            assert time.monotonic() < end, lines
            time.sleep(0.001)
        return lines

    def signal(self, number: int) -> None:
        """Kill, freeze or wake it."""
        os.kill(self.pid, number)


class Holders:
    """Starts them.

    Args:
        zygote: The program that does.
        place: Where shards live.
        folder: For what they tell, and their stages.
    """

    def __init__(self, zygote: subprocess.Popen[str], place: str, folder: Path) -> None:
        self._zygote, self._place, self._folder = zygote, place, folder
        self._alive: dict[int, Holder] = {}
        self._number = 0

    def start(self, job: str, name: str, **given: object) -> Holder:
        """One more."""
        self._number += 1
        out = self._folder / f"told-{self._number}"
        common = {"job": job, "name": name, "out": str(out), "place": self._place, "who": f"w{self._number}"}
        holder = Holder(int(self._ask(json.dumps({**common, "stage": str(self._folder / "stage"), **given}))), out)
        self._alive[holder.pid] = holder
        return holder

    def race(self, name: str, start: Path) -> list[list[str]]:
        """Eight put one file at once. Returns what each has said.

        Args:
            name: Of the file.
            start: Is made when all are ready, and is what they wait for.
        """
        racing = [self.start("race", name, start=str(start)) for _ in range(8)]
        for holder in racing:
            holder.until(lambda lines: "ready" in lines)
        start.touch()
        return [self.ended().lines() for _ in racing]

    def ended(self) -> Holder:
        """The next one that has ended, which is waited for."""
        return self._alive.pop(int(self._ask("")))

    def kill_all(self) -> None:
        """End those that are left."""
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)

    def _ask(self, line: str) -> str:
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        self._zygote.stdin.write(f"{line}\n")
        self._zygote.stdin.flush()
        return self._zygote.stdout.readline()


@contextlib.contextmanager
def holders_at(place: str, folder: Path, environ: Mapping[str, str] | None = None) -> Iterator[Holders]:
    """Holders of shards that live there."""
    command = [sys.executable, "-m", "tests.fleet.zygote"]
    root = Path(__file__).parents[2]
    pipe, full = subprocess.PIPE, {**os.environ, **(environ or {})}
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=root, env=full) as zygote:
        holders = Holders(zygote, place, folder)
        try:
            yield holders
        finally:
            holders.kill_all()
            zygote.kill()
