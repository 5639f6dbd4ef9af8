"""The drivers of the docs, in real processes: killed at any moment they go on, and not one passage is lost."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.build.rig import COMMAND, SECONDS, Done, Rig, kill
from tests.run.driver import load

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc, which is Linux's")

QUICK = ("--window", "4", "--clock-rate", "25")


def texts(first: int, count: int) -> dict[str, str]:
    """Passages by their gene."""
    return {f"g{n:05}": f"passage {n} about gene {n % 7} and shard {n % 3}" for n in range(first, first + count)}


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A database whose changes are kept."""
    with closing(sqlite3.connect(path, timeout=30)) as store, store:
        yield store


def ingest(path: Path, first: int, count: int) -> None:
    """Passages come in."""
    with opened(path) as store:
        store.executescript(load("ingest_drain").SCHEMA)
        store.executemany("INSERT INTO queue (gene_id, content) VALUES (?, ?)", texts(first, count).items())


def fill(path: Path, first: int, count: int) -> None:
    """A shard without vectors, as an app would have written it; one gene is empty."""
    with opened(path) as store:
        store.execute("CREATE TABLE genes (gene_id TEXT PRIMARY KEY, content TEXT, promoter TEXT)")
        rows = [*texts(first, count).items(), ("empty", "")]
        store.executemany("INSERT INTO genes VALUES (?, ?, 'of the app')", rows)


@dataclass(frozen=True)
class Example:
    """One of the drivers.

    Args:
        name: Of its file.
        write: Writes so many passages into its database.
        done: Asks how many are encoded.
        found: Asks for the gene, content and vector of each.
        batch: How many it takes at once.
    """

    name: str
    write: Callable[[Path, int, int], None]
    done: str
    found: str
    batch: int

    def encoded(self, path: Path) -> int:
        """How many passages are encoded and committed."""
        with opened(path) as store:
            try:
                return int(store.execute(self.done).fetchone()[0])
            except sqlite3.OperationalError:  # the driver has not added its column yet
                return 0

    def assert_whole(self, path: Path, first: int, count: int) -> None:
        """Each passage is there once, with the vector of its own content."""
        expected = texts(first, count)
        with opened(path) as store:
            rows = store.execute(self.found).fetchall()
        assert {row[0]: row[1] for row in rows} == expected
        assert len(rows) == count
        encoded = load(self.name).Encoder("cpu").encode([row[1] for row in rows])
        assert [row[2] for row in rows] == (encoded[0] if self.name == "ingest_drain" else encoded)


EXAMPLES = [
    Example(
        "ingest_drain",
        ingest,
        "SELECT count(*) FROM genes",
        "SELECT gene_id, content, dense FROM genes WHERE gene_id NOT IN (SELECT gene_id FROM queue)",
        32,
    ),
    Example(
        "vector_backfill",
        fill,
        "SELECT count(*) FROM genes WHERE embedding_dense_v2 IS NOT NULL",
        "SELECT gene_id, content, embedding_dense_v2 FROM genes WHERE content <> '' AND promoter = 'of the app'",
        64,
    ),
]
BOTH = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


def command(rig: Rig, pace: str, name: str, *arguments: str, options: tuple[str, ...] = QUICK) -> list[str]:
    """`helix-crawl run` of an example whose encoder takes its time."""
    driver = [sys.executable, "-m", "tests.run.driver", pace, name, str(rig.folder / "log"), *arguments]
    return [*COMMAND, "run", "--no-metrics", "--json", *options, "--", *driver]


def processes(rig: Rig) -> list[dict[str, object]]:
    """What each process of the driver has seen, oldest first."""
    return [json.loads(line) for line in (rig.folder / "log").read_text().splitlines()]


def until(is_so: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.005)


@contextmanager
def held(rig: Rig, batch: int) -> Iterator[None]:
    """Processes of the driver that are started meanwhile stay in this batch, until `release` at the latest."""
    (rig.folder / "hold").write_text(str(batch))
    try:
        yield
    finally:
        release(rig)


def release(rig: Rig) -> None:
    """Let them go on."""
    (rig.folder / "hold").unlink(missing_ok=True)


def remedies(done: Done) -> list[str]:
    """What the ladder did, beside telling of it."""
    applied = [event["action"] for event in done.of("action") if event["outcome"] == "applied"]
    return [kind for kind in applied if kind != "DETECT"]


@BOTH
def test_the_job_is_killed_in_the_middle(rig: Rig, example: Example) -> None:
    """It is started again, goes on with what is not committed, and nothing is lost or encoded wrongly."""
    path, count = rig.folder / "one.db", example.batch * 40
    example.write(path, 0, count)
    with held(rig, 6), rig.started(command(rig, "steady", example.name, str(path), options=())) as process:
        until(lambda: example.encoded(path) == example.batch * 5)
        kill(int(str(processes(rig)[0]["pid"])))
        release(rig)
        done = rig.ended(process)
    assert done.code == 0, done.errors
    assert [event["reason"] for event in done.of("worker_started")] == ["first", "crash"]
    example.assert_whole(path, 0, count)


@pytest.mark.parametrize(
    ("example", "word"),
    [
        *((EXAMPLES[0], word) for word in ("BEGIN", "INSERT", "DELETE", "COMMIT")),
        *((EXAMPLES[1], word) for word in ("BEGIN", "UPDATE", "COMMIT")),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_it_is_killed_before_a_statement(rig: Rig, example: Example, word: str) -> None:
    """A batch is committed whole or not at all, wherever in its transaction the process ends."""
    path, count = rig.folder / "one.db", example.batch * 8
    example.write(path, 0, count)
    done = rig.run(command(rig, f"killed:{word}", example.name, str(path)))
    assert done.code == 0, done.errors
    assert [event["code"] for event in done.of("worker_ended")] == [-9, 0]
    example.assert_whole(path, 0, count)


@BOTH
def test_the_supervisor_is_killed_in_the_middle(rig: Rig, example: Example) -> None:
    """The job ends with it. The same command goes on; what was committed is not encoded again."""
    path, count = rig.folder / "one.db", example.batch * 40
    example.write(path, 0, count)
    with held(rig, 6), rig.started(command(rig, "steady", example.name, str(path), options=())) as process:
        until(lambda: example.encoded(path) == example.batch * 5)
        process.kill()
        process.communicate(timeout=SECONDS)
        rig.until_gone()
    before = example.encoded(path)
    assert before == example.batch * 5
    done = rig.run(command(rig, "steady", example.name, str(path), options=()))
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == count - before
    example.assert_whole(path, 0, count)


def test_the_ladder_of_the_drain(rig: Rig) -> None:
    """Released, recycled, then on the CPU by an exit, while passages go on coming in."""
    path = rig.folder / "queue.db"
    ingest(path, 0, 32 * 50)
    with held(rig, 1), rig.started(command(rig, "card", "ingest_drain", str(path))) as process:
        until((rig.folder / "log").exists)
        ingest(path, 32 * 50, 100)
        release(rig)
        done = rig.ended(process)
    assert done.code == 0, done.errors
    assert remedies(done) == ["EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]
    assert [event["code"] for event in done.of("worker_ended")] == [75, 79, 0]
    assert [seen["BGEM3_DEVICE"] for seen in processes(rig)] == [None, None, "cpu"]
    EXAMPLES[0].assert_whole(path, 0, 32 * 50 + 100)
    with opened(path) as store:
        assert store.execute("SELECT count(*) FROM queue").fetchone() == (0,)
        rows = store.execute("SELECT content, sparse FROM genes").fetchall()
    assert [row[1] for row in rows] == load("ingest_drain").Encoder("cpu").encode([row[0] for row in rows])[1]


def test_a_drain_that_follows_hears_a_pause_while_nothing_comes_in(rig: Rig) -> None:
    """Ctrl-C ends it with 75 at an empty queue, without a crawl and without a crash."""
    path = rig.folder / "queue.db"
    ingest(path, 0, 40)
    with rig.started(command(rig, "steady", "ingest_drain", str(path), "--follow", options=())) as process:
        until(lambda: EXAMPLES[0].encoded(path) == 40)
        ingest(path, 40, 10)
        until(lambda: EXAMPLES[0].encoded(path) == 50)
        process.send_signal(2)
        done = rig.ended(process)
    assert done.code == 75, done.errors
    assert [event["code"] for event in done.of("worker_ended")] == [75]
    assert remedies(done) == []
    EXAMPLES[0].assert_whole(path, 0, 50)


def test_the_ladder_of_the_backfill(rig: Rig) -> None:
    """Released, recycled, moved to the CPU in place; the next file is on the card again, in the same process."""
    first, second = rig.folder / "first.db", rig.folder / "second.db"
    fill(first, 0, 64 * 50)
    fill(second, 0, 64 * 3)
    done = rig.run(command(rig, "card", "vector_backfill", str(first), str(second)))
    assert done.code == 0, done.errors
    assert remedies(done) == ["EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]
    assert [event["code"] for event in done.of("worker_ended")] == [75, 0]
    assert [seen["BGEM3_DEVICE"] for seen in processes(rig)] == [None, None]
    batches = [json.loads(line) for line in (rig.folder / ".helix-crawl/timeline.jsonl").read_text().splitlines()]
    devices = {(row["shard"], row["device"]) for row in batches if row["event"] == "batch"}
    assert devices == {("first", "cuda:0"), ("first", "cpu"), ("second", "cuda:0")}
    EXAMPLES[1].assert_whole(first, 0, 64 * 50)
    EXAMPLES[1].assert_whole(second, 0, 64 * 3)
    found = rig.verify(first, second)
    assert (found["vectors"], found["missing"], found["not_encodable"], found["code"]) == (64 * 53, 0, 2, 0)


@pytest.mark.parametrize(
    ("knob", "options", "expected"),
    [("", ("--device", "cpu"), "cpu"), ("cpu", ("--device", "cuda:1"), "cpu"), ("auto", ("--device", "cpu"), "cpu")],
)
def test_the_device_of_the_backfill(rig: Rig, knob: str, options: tuple[str, ...], expected: str) -> None:
    """Its own option counts unless BGEM3_DEVICE names a device: the supervisor's word is the last."""
    path = rig.folder / "one.db"
    fill(path, 0, 10)
    driver = [sys.executable, "-m", "tests.run.driver", "steady", "vector_backfill", str(rig.folder / "log")]
    done = rig.run([*COMMAND, "run", "--no-metrics", "--json", "--", *driver, *options, str(path)], BGEM3_DEVICE=knob)
    assert done.code == 0, done.errors
    timeline = [json.loads(line) for line in (rig.folder / ".helix-crawl/timeline.jsonl").read_text().splitlines()]
    assert {row["device"] for row in timeline if row["event"] == "batch"} == {expected}


def test_a_device_asked_of_the_supervisor_reaches_the_driver(rig: Rig) -> None:
    """`run --device` says BGEM3_DEVICE to what it starts."""
    path = rig.folder / "one.db"
    fill(path, 0, 10)
    assert rig.run(command(rig, "steady", "vector_backfill", str(path), options=("--device", "cpu"))).code == 0
    assert [seen["BGEM3_DEVICE"] for seen in processes(rig)] == ["cpu"]


@BOTH
def test_an_example_runs_as_it_stands(rig: Rig, example: Example) -> None:
    """Alone, with nobody supervising; the second time there is nothing to do."""
    path = rig.folder / "one.db"
    example.write(path, 0, 100)
    file = str(Path(__file__).parents[2] / f"docs/examples/{example.name}.py")
    for _ in range(2):
        done = rig.run([sys.executable, file, str(path)])
        assert done.code == 0, done.errors
        example.assert_whole(path, 0, 100)
