"""Several processes of one job: each has a link, a shard and a ladder of its own, whoever has started it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import COMMAND, Done, Rig
from tests.run.pools import BATCHES, BUILT, GENES, KILLS, LONG, SHARDS

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="what is left running is looked for")

posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

since_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="an executor keeps its processes")

ALL = len(SHARDS) * BATCHES * GENES


def run(rig: Rig, way: str, *arguments: str, rate: int = 25) -> Done:
    """One of the drivers, supervised, on a clock that is faster than the world's."""
    (rig.folder / "out").mkdir(exist_ok=True)
    options = ("--no-metrics", "--json", "--window", "4", "--clock-rate", str(rate))
    driver = [sys.executable, "-m", "tests.run.pools", way, str(rig.folder / "out"), *arguments]
    return rig.run([*COMMAND, "run", *options, "--", *driver])


def encoded(rig: Rig) -> dict[str, list[int]]:
    """The batches that were committed, by shard, as they stand there."""
    lines = {path.name: path.read_text().splitlines() for path in (rig.folder / "out").iterdir()}
    return {name: [int(line.split()[0]) for line in found] for name, found in lines.items()}


def needs(*modules: str) -> pytest.MarkDecorator:
    """Skips where one of them is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("fork-pool", marks=posix),
        pytest.param("spawn-pool", marks=pytest.mark.slow),
        pytest.param("forkserver-pool", marks=[posix, pytest.mark.slow]),
        pytest.param("fork-executor", marks=[posix, pytest.mark.slow]),
        pytest.param("spawn-executor", marks=pytest.mark.slow),
        pytest.param("forkserver-executor", marks=[posix, pytest.mark.slow]),
        pytest.param("replaced-pool", marks=pytest.mark.slow),
        pytest.param("replaced-executor", marks=[since_3_11, pytest.mark.slow]),
        pytest.param("nested", marks=pytest.mark.slow),
        pytest.param("programs", marks=pytest.mark.slow),
        pytest.param("awaited", marks=pytest.mark.slow),
        pytest.param("joblib-loky", marks=[needs("joblib"), pytest.mark.slow]),
        pytest.param("joblib-multiprocessing", marks=[needs("joblib"), posix, pytest.mark.slow]),
        pytest.param("loader", marks=[needs("torch"), pytest.mark.slow]),
        pytest.param("fork-readers", marks=[needs("torch"), posix, pytest.mark.slow]),
        pytest.param("spawn-readers", marks=[needs("torch"), pytest.mark.slow]),
        pytest.param("torchrun", marks=[needs("torch"), posix, pytest.mark.slow]),
        pytest.param("accelerate", marks=[needs("accelerate"), posix, pytest.mark.slow]),
    ],
)
def test_every_process_of_a_job_is_heard(rig: Rig, way: str) -> None:
    """Nothing that they encode is missing from the sum, each is a worker, and each shard is closed as done."""
    done = run(rig, way, "steady")
    assert done.code == 0, done.errors
    assert encoded(rig) == {shard: list(range(BATCHES)) for shard in SHARDS}
    assert done.summary["encoded"] == ALL
    started = {event["slot"]: event["pid"] for event in done.of("worker_started")}
    assert set(started) <= {"job", "job/2", "job/3"}
    ended = {event["shard"]: (event["state"], event["encoded"]) for event in done.of("shard_ended")}
    assert ended == dict.fromkeys(SHARDS, ("done", BATCHES * GENES))
    assert "no supervisor can be reached" not in done.errors


@pytest.mark.slow
def test_a_pool_that_a_process_is_killed_of_is_gone_on_with(rig: Rig) -> None:
    """It would wait for ever, also where its driver does not look: each batch is there once."""
    done = run(rig, "last_killed", "steady")
    assert done.code == 0, done.errors
    (rig.out / "killed").unlink()
    assert encoded(rig) == {shard: list(range(BATCHES)) for shard in SHARDS}
    (crash,) = done.of("crash")
    assert "for which the pool would wait for ever" in crash["why"]


def remedies(done: Done) -> list[tuple[str, str, str]]:
    """What came of the actions that do something, in order."""
    rows = [(event["shard"], event["action"], event["outcome"]) for event in done.of("action")]
    return [row for row in rows if row[1] != "DETECT"]


def test_a_process_of_a_pool_is_recycled_between_two_tasks(rig: Rig) -> None:
    """It ends once its result is sent: nobody waits for ever, and the pool's next process takes the next task."""
    done = run(rig, "one-process-pool", "card")
    assert done.code == 0, done.errors
    assert encoded(rig) == {"north": list(range(LONG)), "south": list(range(BATCHES)), "west": list(range(BATCHES))}
    assert remedies(done) == [("north", "EMPTY_CACHE", "applied"), ("north", "RECYCLE", "applied")]
    assert "the process ends after its task, and its pool starts another" in done.errors
    pids = {path.name: {line.split()[1] for line in path.read_text().splitlines()} for path in rig.out.iterdir()}
    assert len(pids["north"]) == 1
    assert pids["south"].isdisjoint(pids["north"])
    assert [event["reason"] for event in done.of("worker_started")] == ["first", "recycle"]
    assert done.summary["encoded"] == (LONG + 2 * BATCHES) * GENES


@pytest.mark.slow
def test_a_pool_that_breaks_by_an_end_is_not_recycled(rig: Rig) -> None:
    """The rung is passed over, and the log says what would have made it possible."""
    done = run(rig, "spawn-executor", "card")
    assert done.code == 0, done.errors
    assert encoded(rig)["north"] == list(range(LONG))
    assert ("north", "RECYCLE", "passed_over") in remedies(done)
    assert "a ProcessPoolExecutor breaks when one of its processes ends; use multiprocessing.Pool" in done.errors
    assert len(done.of("worker_started")) == len(SHARDS)


@pytest.mark.slow
def test_three_builders_are_killed_and_recycled_twenty_times(rig: Rig) -> None:
    """And not one batch is lost or doubled, whoever ended when."""
    done = run(rig, "builders", "card")
    assert done.code == 0, done.errors
    assert encoded(rig) == {shard: list(range(2 * LONG)) for shard in BUILT}
    recycled = [row for row in remedies(done) if row[1:] == ("RECYCLE", "applied")]
    demoted = [row for row in remedies(done) if row[1:] == ("DEMOTE_CPU", "applied")]
    assert f"killed {KILLS}" in done.errors
    print(f"{len(recycled)} recycled, {len(demoted)} demoted, {KILLS} killed")
    assert len(recycled) >= KILLS
    assert [event["code"] for event in done.of("worker_ended")][-1] == 0
