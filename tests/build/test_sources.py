"""Sources that are many, large, or change while they are read."""

from __future__ import annotations

import os
import sys

import pytest

from tests.build.rig import Rig, prose, wait_for


@pytest.mark.parametrize("count", [1_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_tiny_files(rig: Rig, count: int) -> None:
    """Each is a gene; a second build reads none of them again."""
    rig.write({f"a/{n // 1000:03}/{n:06}.txt": f"Tiny file {n}." for n in range(count)})
    done = rig.build(seconds=1500)
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == count
    assert rig.verify()["vectors"] == count
    assert rig.build(seconds=300).of("worker_started") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_file_of_fifty_megabytes(rig: Rig) -> None:
    """Ingested and encoded; a build that is killed half-way goes on in the middle of the file."""
    page = prose(1, 300)
    rig.write({"a/large.txt": "\n\n".join(f"Copy {n}. {page}" for n in range(50_000_000 // len(page)))})
    with rig.started(rig.build_command()) as process:
        wait_for(process, "committed")
        process.kill()
        process.wait()
    half = rig.verify()
    assert 0 < half["vectors"] < half["genes"]
    done = rig.build(seconds=1500)
    assert done.code == 0, done.errors
    assert done.summary["encoded"] == half["missing"]
    assert rig.verify()["code"] == 0


def test_sources_that_go_and_change_while_a_build_runs(rig: Rig) -> None:
    """What was ingested is encoded as it was; the next build takes in what has changed since."""
    rig.write_shards(2, 4, 12)
    command = rig.build_command("--batch-size", "4", "--fault", "slow:seconds=0.1")
    with rig.started(command, **rig.held(2)) as process:  # in the first shard, before it looks at the second
        wait_for(process, "committed")
        (rig.source / "shard-0/file-001.txt").unlink()
        (rig.source / "shard-1/file-002.txt").unlink()
        rig.write({"shard-0/file-000.txt": prose(500, 12), "shard-1/file-009.txt": prose(501, 12)})
        rig.go()
        assert rig.ended(process).code == 0
    assert rig.build("--prune").code == 0
    changed = rig.verify()
    rig.out.rename(rig.folder / "in-steps")
    assert rig.build().code == 0
    assert {key: rig.verify()[key] for key in ("code", "genes", "vectors")} == {
        key: changed[key] for key in ("code", "genes", "vectors")
    }


@pytest.mark.skipif(sys.platform == "win32", reason="a named pipe as files are, which Windows has elsewhere")
def test_what_is_no_regular_file_is_left_alone(rig: Rig) -> None:
    """A pipe that nobody writes to would be waited for for ever. It is named, and nothing has failed."""
    rig.write({"a/one.txt": "One passage."})
    os.mkfifo(rig.source / "a/pipe.txt")
    os.mkfifo(rig.source / "loose.txt")
    done = rig.build()
    assert done.code == 0
    assert rig.verify()["genes"] == 1
    assert [(event["source"], event["what"]) for event in done.of("source_skipped")] == [("a/pipe.txt", "pipe")]
    assert done.summary["skipped_sources"] == rig.build().summary["skipped_sources"] == {"pipe": 1}
