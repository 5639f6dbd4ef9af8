"""Several processes of one job: each has a link, a shard and a ladder of its own, whoever has started it."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest

from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import COMMAND, Done, Rig
from tests.run.pools import BATCHES, GENES, SHARDS

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="what is left running is looked for")

posix = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

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
        "spawn-pool",
        pytest.param("forkserver-pool", marks=[posix, pytest.mark.slow]),
        pytest.param("fork-executor", marks=[posix, pytest.mark.slow]),
        pytest.param("spawn-executor", marks=pytest.mark.slow),
        pytest.param("programs", marks=pytest.mark.slow),
        pytest.param("joblib", marks=[needs("joblib"), pytest.mark.slow]),
        pytest.param("loader", marks=[needs("torch"), pytest.mark.slow]),
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
