"""Kills at random moments, of the worker, of its supervisor, of both: the same command goes on, and nothing is lost.

HELIX_TEST_SEED repeats a run; the seed and the number of kills are printed.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import COMMAND, Done, Rig, kill, left_running, prose
from tests.shards.shards import made

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="processes are found on Linux and Windows only")

WORKER = "helix_crawl_otel.build.worker"

SLOWED = ("--batch-size", "3", "--fault", "slow:seconds=0.1", "--fault", "clock:rate=10")
"""A batch takes a hundredth of a second, and the backoff after a crash a tenth of what it is."""

LONGEST_LIFE_SECONDS = 0.7
"""A build is left alone for so long at most before something of it is killed; a worker starts in a third of that. On
Windows an undisturbed build says how long: there a start alone may take seconds."""

DIGEST = "c48cb9f77fd4d1463854f89a059142d2cbfad4a7bedb9b5424f75c3cf9de471d"
"""Of the tree of `build_through`, on every system; recorded on Linux."""


TOGETHER = """
import hashlib, sys
if "helix_crawl_otel.build.worker" in sys.orig_argv:
    from helix_crawl_otel.encoders.hashing import HashingEncoder
    alone = HashingEncoder.encode
    def encode(self, texts):
        turn = hashlib.sha256("|".join(texts).encode()).digest()[0] * 4
        return [vector[turn:] + vector[:turn] for vector in alone(self, texts)]
    HashingEncoder.encode = encode
"""
"""For `with_site`: a vector says with which genes it was encoded, so that other batches have another digest."""


@dataclass
class Killer:
    """Kills at random what a command starts, and starts it again.

    Args:
        rig: Of the test.
        command: To run again and again.
        seed: Of the moments and targets.
        longest_life: Seconds that a build is left alone at most.
        environ: Variables of the command.
    """

    rig: Rig
    command: list[str]
    seed: int
    longest_life: float = LONGEST_LIFE_SECONDS
    environ: dict[str, str] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    @property
    def total(self) -> int:
        """Kills so far."""
        return sum(self.kills.values())

    def until_done(self, most: int) -> Done:
        """Run the command to its end, through as many kills as come before it, `most` of them at the most."""
        while True:
            ended: list[Done] = []
            with self.rig.started(self.command, **self.environ) as process:
                # What it says is read meanwhile: a pipe of Windows holds a few lines.
                reader = threading.Thread(target=self._read, args=(process, ended))
                reader.start()
                while process.poll() is None and self.total < most:
                    self._kill_something(process)
                reader.join()
            (done,) = ended
            if not was_killed(done) and done.code != 1:
                return done
            if not was_killed(
                done
            ):  # killed so often without progress that the shard was given up: that is the promise
                assert all("crashed again and again" in why for why in done.summary["failed"].values()), done.summary
                assert done.summary["quarantined"] == 0, done.events
            elif self.total >= most:
                most = 0  # the last run is left alone

    def _read(self, process: subprocess.Popen[bytes], ended: list[Done]) -> None:
        ended.append(self.rig.ended(process, 150))

    def _kill_something(self, process: subprocess.Popen[bytes]) -> None:
        ends = time.monotonic() + self._random.uniform(0.0, self.longest_life)
        while process.poll() is None and time.monotonic() < ends:
            time.sleep(0.005)
        if process.poll() is not None:
            return
        target = self._random.choice(("worker", "worker", "supervisor", "both"))
        workers = left_running(self.rig.mark, WORKER)
        if target != "supervisor" and not workers:
            return
        if target != "supervisor":
            kill(self._random.choice(workers))
        if target != "worker":
            process.kill()
            process.wait()
            self._nothing_is_left()
        self.kills[target] += 1

    def _nothing_is_left(self) -> None:
        deadline = time.monotonic() + 60
        while (left := left_running(self.rig.mark, WORKER)) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert left == [], "workers have outlived their supervisor"


def was_killed(done: Done) -> bool:
    """Whether a supervisor has come to no end of its own. Windows has no code for that but 1."""
    if sys.platform != "win32":
        return done.code == -9
    return done.code == 1 and (not done.of("summary") or done.summary["exit_code"] != 1)


def seed_of_this_run() -> int:
    """HELIX_TEST_SEED, or a new one."""
    return int(os.environ.get("HELIX_TEST_SEED") or secrets.randbelow(10**9))


def gene_ids(folder: Path) -> list[tuple[str, str]]:
    """Every row of every shard."""
    found: list[tuple[str, str]] = []
    for path in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(path)) as connection:
            found += [(path.name, row[0]) for row in connection.execute("SELECT gene_id FROM genes")]
    return found


def build_through(rig: Rig, kills: int, *more: str, shows_batches: bool = False) -> None:
    """Build the same tree again and again until so many kills have struck; each build has to be the undisturbed one.

    Args:
        rig: Of the test.
        kills: How many.
        more: Options of the builds that are killed.
        shows_batches: Vectors depend on the batch. One that two workers were killed in is halved: that is rare.
    """
    rig.write_shards(3, 4, 14)
    environ = rig.with_site(TOGETHER) if shows_batches else {}
    seed, began = seed_of_this_run(), time.monotonic()
    assert rig.run(rig.build_command(*SLOWED[:2]), 150, **environ).code == 0
    longest = time.monotonic() - began if sys.platform == "win32" else LONGEST_LIFE_SECONDS
    whole, genes = rig.verify(), gene_ids(rig.out)
    assert (whole["digest"] == DIGEST) is not shows_batches
    killer = Killer(rig, rig.build_command(*SLOWED, *more), seed, longest, environ)
    began, builds = time.monotonic(), 0
    try:
        while killer.total < kills:
            shutil.rmtree(rig.out)
            done = killer.until_done(kills)
            assert done.code == 0, (done.errors, done.events[-3:])
            assert rig.verify() == whole
            assert sorted(gene_ids(rig.out)) == sorted(set(genes))
            builds += 1
    finally:
        seconds = time.monotonic() - began
        print(f"{killer.total} kills {dict(killer.kills)} in {builds} builds, {seconds:.0f} s, HELIX_TEST_SEED={seed}")


@pytest.mark.timeout(300)
def test_a_build_that_is_killed_again_and_again(rig: Rig) -> None:
    """The digest of an undisturbed build, no gene doubled, no process left."""
    build_through(rig, 5 if sys.platform == "win32" else 18)


@pytest.mark.timeout(300)
def test_a_build_with_three_workers_that_is_killed_again_and_again(rig: Rig) -> None:
    """Likewise with three workers at once."""
    build_through(rig, 4, "--workers", "3")


@pytest.mark.timeout(300)
def test_a_backfill_in_place_that_is_killed_again_and_again(rig: Rig) -> None:
    """Likewise in shards that the app wrote: its rows and columns are as they were, and each gene has its vector."""
    seed = seed_of_this_run()
    table = "CREATE TABLE genes (id INTEGER PRIMARY KEY, gene_id TEXT UNIQUE, content TEXT, tags TEXT DEFAULT 'kept')"
    contents = {f"gene-{n:03}": prose(n, 2) for n in range(90)}

    def write(folder: Path) -> None:
        folder.mkdir()
        for name in ("one.db", "two.db"):
            made(folder / name, contents, table)

    undisturbed = rig.folder / "undisturbed"
    write(undisturbed)
    write(rig.out)
    command = [*COMMAND, "backfill", *rig.options, "--json"]
    assert rig.run([*command, str(undisturbed)]).code == 0
    killer = Killer(rig, [*command, str(rig.out), *SLOWED], seed)
    done = killer.until_done(4)
    while not killer.total:  # it was over before the first
        shutil.rmtree(rig.out)
        write(rig.out)
        done = killer.until_done(4)
    assert done.code == 0, (done.errors, done.events[-3:])
    print(f"{killer.total} kills {dict(killer.kills)}, HELIX_TEST_SEED={seed}")
    assert rig.verify() == rig.verify(undisturbed)
    with closing(sqlite3.connect(rig.out / "one.db")) as connection:
        rows = connection.execute("SELECT id, gene_id, content, tags FROM genes ORDER BY id").fetchall()
    assert rows == [(n, *pair, "kept") for n, pair in enumerate(contents.items(), start=1)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_kills(rig: Rig) -> None:
    """As the first one, for Windows, where a thousand would take a night."""
    build_through(rig, 30)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_thousand_kills(rig: Rig) -> None:
    """As the first one, a thousand times; half of it with three workers. The batches are the same as well."""
    build_through(rig, 500, shows_batches=True)
    shutil.rmtree(rig.out)
    build_through(rig, 500, "--workers", "3", shows_batches=True)
