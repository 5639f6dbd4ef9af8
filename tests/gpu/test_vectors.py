"""`build` on a real card: vectors that are the same however often it was killed, and agree with the CPU's."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from helix_crawl_otel.shards.vectors import cosine
from tests.build.rig import Done, Rig

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

LEAST_COSINE = 0.9999
SECONDS = 120.0
BATCH = ("--batch-size", "16")
KILLS = 3


def fill(rig: Rig) -> Rig:
    """Two shards, some 24 batches of 16 genes."""
    return rig.write_shards(2, 12, 60)


def vectors(out: Path) -> dict[str, bytes]:
    """Of every gene, by shard and id."""
    found: dict[str, bytes] = {}
    for path in sorted(out.glob("*.db")):
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT gene_id, embedding_dense_v2 FROM genes").fetchall()
        found.update({f"{path.stem}/{gene}": vector for gene, vector in rows})
    return found


def worst(first: dict[str, bytes], second: dict[str, bytes]) -> float:
    """Of the cosines between two builds' vectors."""
    assert first.keys() == second.keys()
    return min(cosine(first[gene], second[gene]) for gene in first)


def kill_after(rig: Rig, process: subprocess.Popen[bytes], batches: int) -> None:
    """Kill a started build once so many batches are committed."""
    assert process.stdout is not None
    committed = 0
    for line in process.stdout:
        committed += json.loads(line)["event"] == "committed"
        if committed == batches:
            break
    assert committed == batches, "the build ended before it was killed"
    process.kill()
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def on_card(make_rig: Callable[..., Rig]) -> tuple[Rig, Done]:
    """A build with `--device auto` that nobody disturbs."""
    rig = fill(make_rig("--device", "auto", *BATCH))
    return rig, rig.build(seconds=SECONDS)


def test_auto_builds_on_the_card(on_card: tuple[Rig, Done]) -> None:
    """The parameters are there, every gene has its vector, and `verify` is content."""
    rig, done = on_card
    assert done.code == 0, done.errors
    assert [event["device"] for event in done.of("model_loaded")] == ["cuda:0"]
    assert {event["device"] for event in done.of("committed")} == {"cuda:0"}
    verified = rig.verify()
    assert verified["code"] == 0
    assert verified["genes"] == verified["vectors"] == done.summary["encoded"] > 300
    took = done.of("model_loaded")[0]["seconds"]
    print(f"\n  {verified['genes']} genes in {done.summary['seconds']:.1f} s, of which the model took {took:.1f} s")


def test_auto_takes_float16(on_card: tuple[Rig, Done], make_rig: Callable[..., Rig]) -> None:
    """Any card of today is fast in it. A dtype that is asked for is taken; a worker that takes over tries nothing."""
    [loaded] = on_card[1].of("model_loaded")
    assert (loaded["dtype"], loaded["why"][:39]) == ("float16", "float16, which agrees with full precisi")
    assert on_card[0].verify()["encoders"][0]["dtypes"] == {"float16": 2}
    full = fill(make_rig("--device", "cuda", *BATCH))
    done = full.build("--dtype", "float32", seconds=SECONDS)
    assert [event["dtype"] for event in done.of("model_loaded")] == ["float32"]
    least = worst(vectors(on_card[0].out), vectors(full.out))
    print(f"\n  smallest cosine between float16 and float32: {least:.9f}")
    assert LEAST_COSINE <= least < 1
    killed = fill(make_rig("--device", "cuda", *BATCH, "--fault", "slow:seconds=0.1"))
    with killed.started(killed.build_command()) as process:
        kill_after(killed, process, 3)
    [again] = killed.build(seconds=SECONDS).of("model_loaded")
    assert again["why"] == "float16, as the vectors that are there"


def test_two_builds_have_one_digest(on_card: tuple[Rig, Done], make_rig: Callable[..., Rig]) -> None:
    """The card computes the same bytes again in another process."""
    again = fill(make_rig("--device", "cuda", *BATCH))
    done = again.build(seconds=SECONDS)
    assert done.code == 0, done.errors
    assert again.verify()["digest"] == on_card[0].verify()["digest"]


def test_a_build_that_was_killed_three_times_has_the_same_digest(
    on_card: tuple[Rig, Done], make_rig: Callable[..., Rig]
) -> None:
    """SIGKILL of the supervisor in the middle; the same command goes on where it was."""
    killed = fill(make_rig("--device", "cuda", *BATCH, "--fault", "slow:seconds=0.1"))
    for _ in range(KILLS):
        with killed.started(killed.build_command()) as process:
            kill_after(killed, process, 3)
    missing = killed.verify()["missing"]
    done = killed.build(seconds=SECONDS)
    assert done.code == 0, done.errors
    assert 0 < done.summary["encoded"] < on_card[1].summary["encoded"]
    assert killed.verify()["digest"] == on_card[0].verify()["digest"]
    print(f"\n  killed {KILLS} times; the last run encoded {done.summary['encoded']} genes ({missing} ingested before)")


def test_the_cpu_makes_the_same_vectors(on_card: tuple[Rig, Done], make_rig: Callable[..., Rig]) -> None:
    """To a cosine of 0.9999 at least, gene by gene."""
    on_cpu = fill(make_rig("--device", "cpu", *BATCH))
    done = on_cpu.build(seconds=SECONDS)
    assert done.code == 0, done.errors
    least = worst(vectors(on_card[0].out), vectors(on_cpu.out))
    print(f"\n  smallest cosine between card and CPU: {least:.9f}")
    assert least >= LEAST_COSINE


def test_a_build_begun_on_the_card_is_finished_on_the_cpu(
    on_card: tuple[Rig, Done], make_rig: Callable[..., Rig]
) -> None:
    """The device-change check encodes a few stored genes again and finds that they agree."""
    half = fill(make_rig(*BATCH))
    with half.started(half.build_command("--device", "cuda", "--fault", "slow:seconds=0.1")) as process:
        kill_after(half, process, 6)
    done = half.build("--device", "cpu", seconds=SECONDS)
    assert done.code == 0, done.errors
    assert [event["device"] for event in done.of("model_loaded")] == ["cpu"]
    assert done.summary["encoded"] > 0
    assert worst(vectors(on_card[0].out), vectors(half.out)) >= LEAST_COSINE
