"""The drivers of the recipes that are of the app's shape, in real processes: killed, they lose no gene."""

from __future__ import annotations

import json
import sqlite3
import sys
import textwrap
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from tests.build.rig import COMMAND, SECONDS, Rig, kill, wait_for
from tests.commands.app import vectors_of
from tests.ports import free_port
from tests.run.driver import load
from tests.run.test_examples import command
from tests.shards.shards import rows

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="builders kill themselves by a signal")

EXAMPLES = Path(__file__).parents[2] / "docs/examples"

KILLS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {examples!r})
import builder_pool

class Killed(builder_pool.Encoder):
    def encode(self, texts):
        self.batches = getattr(self, "batches", 0) + 1
        for token in Path({tokens!r}).iterdir() if self.batches == 3 else ():
            try:
                token.unlink()
            except FileNotFoundError:
                continue  # another builder has taken it
            if token.name.startswith("kill"):
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(75)  # as a recycle ends it
        return super().encode(texts)

builder_pool.Encoder = Killed

if __name__ == "__main__":
    builder_pool.main()
"""
"""A builder ends in its third batch, for as long as there are tokens that say so."""


def builders_ended(rig: Rig, ends: int) -> None:
    """Build three shards, with so many builders killed and as many recycled."""
    tokens = rig.folder / "tokens"
    tokens.mkdir()
    for number in range(ends):
        (tokens / f"kill-{number}").touch()
        (tokens / f"recycle-{number}").touch()
    script = rig.folder / "pool.py"
    script.write_text(textwrap.dedent(KILLS).format(examples=str(EXAMPLES), tokens=str(tokens)), encoding="utf-8")
    genes = {f"g{n:05}": f"passage {n} of a shard, number {n % 7}" for n in range(64 * (3 + 2 * ends))}
    paths = [rig.folder / f"{name}.db" for name in ("a", "b", "c")]
    for path in paths:
        with closing(sqlite3.connect(path)) as store, store:
            store.execute("CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT)")
            store.executemany("INSERT INTO genes VALUES (?, ?)", genes.items())
    run = [*COMMAND, "run", "--no-metrics", "--json", "--", sys.executable, str(script), *map(str, paths)]
    done = rig.run(run, SECONDS * max(1, ends // 3))
    assert done.code == 0, done.errors
    assert list(tokens.iterdir()) == []
    right = dict(zip(genes, load("vector_backfill").Encoder("cpu").encode(list(genes.values())), strict=True))
    for path in paths:
        assert vectors_of(path) == right


def test_a_pool_of_three_builders_is_killed_and_recycled(rig: Rig) -> None:
    """Each is started again by its parent, under one `run`; every gene has its vector."""
    builders_ended(rig, 2)


@pytest.mark.slow
def test_a_pool_of_three_builders_is_killed_and_recycled_20_times(rig: Rig) -> None:
    """Killed 20 times, and recycled 20 times."""
    builders_ended(rig, 20)


def test_the_drain_of_files_is_killed_between_two_upserts(rig: Rig) -> None:
    """What lacks is encoded again, and no gene is there twice or without its terms."""
    rig.write({f"{name}.md": "\n\n".join(f"paragraph {n} of {name}" for n in range(90)) for name in ("one", "two")})
    path = rig.folder / "files.db"
    done = rig.run(command(rig, "killed:INSERT", "file_drain", str(path), str(rig.source)))
    assert done.code == 0, done.errors
    assert [event["code"] for event in done.of("worker_ended")] == [-9, 0]
    found = rows(path, "SELECT gene_id, content, source_id, sparse FROM genes ORDER BY gene_id")
    example = load("file_drain")
    genes = sorted(example.genes_of(rig.source))
    assert [row[:3] for row in found] == genes
    assert [row[3] for row in found] == example.Encoder("cpu").encode([text for _, text, _ in genes])


def asked(port: int, shard: str, texts: list[str]) -> Any:
    """Ask the daemon, for as long as nobody listens, as a driver does."""
    body = json.dumps({"shard": shard, "texts": texts}).encode()
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            with urlopen(Request(f"http://127.0.0.1:{port}/encode", body), timeout=SECONDS) as answer:
                return json.load(answer)["vectors"]
        except (URLError, ConnectionError):
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.05)


def test_the_daemon_is_killed_and_answers_again(rig: Rig) -> None:
    """The card is its own: `run` starts it again, and whoever asks tries again. It hears a pause while nobody asks."""
    port = free_port()
    run = [*COMMAND, "run", "--no-metrics", "--json", "--", sys.executable, str(EXAMPLES / "encoder_daemon.py")]
    with rig.started([*run, "--port", str(port)]) as process:
        pid = int(wait_for(process, "worker_started")["pid"])
        first = asked(port, "a", ["one text", "another"])
        kill(pid)
        assert asked(port, "a", ["one text", "another"]) == first
        assert len(asked(port, "b", ["a third"])) == 1
        process.send_signal(2)
        done = rig.ended(process)
    assert done.code == 75, done.errors
    assert [event["code"] for event in done.of("worker_ended")] == [-9, 75]
