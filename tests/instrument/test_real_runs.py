"""The job of `tests/instrument/job.py`, real processes: with a crawl, before and after."""

from __future__ import annotations

import sys

import pytest

from tests.build.rig import COMMAND, Done, Rig

pytestmark = pytest.mark.slow


def watch(rig: Rig, *options: str, library: str, calls: int, passes: int) -> tuple[Done, list[str]]:
    """Run the job. Returns what came of it, and the lines of its file."""
    file = rig.folder / "done"
    knobs = ("--no-metrics", "--json", "--window", "4", "--clock-rate", "25")
    job = [sys.executable, "-m", "tests.instrument.job", library, str(file), str(calls), str(passes)]
    done = rig.run([*COMMAND, "run", *knobs, *options, "--", *job])
    return done, file.read_text(encoding="utf-8").splitlines()


def applied(done: Done) -> list[str]:
    """The steps of the ladder that were taken."""
    return [event["action"] for event in done.of("action") if event["outcome"] == "applied"]


@pytest.mark.parametrize("library", ["sentence", "sparse", "cross"])
def test_one_long_call_is_finished_on_the_cpu(rig: Rig, library: str) -> None:
    """In the process it was begun in: a job that does not resume is never ended."""
    done, lines = watch(rig, "--instrument", library=library, calls=1, passes=60)
    assert done.code == 0, done.errors
    assert lines == ["0 120"]
    assert applied(done) == ["DETECT", "EMPTY_CACHE", "DEMOTE_CPU"]
    assert len(done.of("worker_started")) == 1


def test_a_job_of_many_calls_is_recycled_between_two(rig: Rig) -> None:
    """And goes on behind the last line; no call is missing, none is there twice."""
    done, lines = watch(rig, "--instrument", "--resumable", library="sentence", calls=12, passes=4)
    assert done.code == 0, done.errors
    assert lines == [f"{number} 8" for number in range(12)]
    assert applied(done)[:3] == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    assert next(event["code"] for event in done.of("worker_ended")) == 75


def test_without_us_the_job_is_what_it_was(rig: Rig) -> None:
    """The same job, alone."""
    file = rig.folder / "done"
    job = [sys.executable, "-m", "tests.instrument.job", "sentence", str(file), "2", "4"]
    assert rig.run(job).code == 0
    assert file.read_text(encoding="utf-8").splitlines() == ["0 8", "1 8"]
