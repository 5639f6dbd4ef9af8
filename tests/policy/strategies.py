"""Random jobs for the properties: steps that a driver takes, and how a `Job` plays them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import FULL, LOW, WORK, Job

Step = tuple[str, Any]

SPEEDS = st.sampled_from([2.0, 1.0, 0.6, 0.3, 0.2, 0.19, 0.1, 0.05, 0.004])
WORKS = st.sampled_from([WORK, 2 * WORK, WORK / 2, WORK / 8])
FRACTIONS = st.sampled_from([FULL, 1.2, 0.92, 0.9, LOW])

MIB = 1024**2
SHARED = st.sampled_from([None, 0, 100 * MIB, 500 * MIB, 700 * MIB, 4096 * MIB])

SETTINGS = st.builds(
    Settings,
    factor=st.sampled_from([2.0, 5.0, 8.0]),
    window=st.integers(1, 8),
    action=st.sampled_from(["ladder", "ladder", "cpu", "adaptive", "off"]),
    ema_alpha=st.sampled_from([0.3, 0.7, 1.0]),
    warmup=st.integers(0, 2),
    inflight=st.booleans(),
    shared=st.booleans(),
)


def steps(
    fractions: st.SearchStrategy[float | None] = FRACTIONS, *, shards: bool = True, spills: bool = False
) -> st.SearchStrategy[list[Step]]:
    """A job: a healthy start most of the time, then anything; with `spills` its shared memory is read as well."""
    anything: list[st.SearchStrategy[Step]] = [
        st.tuples(st.just("batches"), st.tuples(st.integers(1, 12), SPEEDS, WORKS)),
        st.tuples(st.just("batches"), st.tuples(st.integers(1, 12), SPEEDS, WORKS)),
        st.tuples(st.just("stall"), st.sampled_from([3.0, 20.0, 61.5, 200.0, 900.0, 4000.0])),
        st.tuples(st.just("raise"), st.sampled_from([1.0, 50.0])),
        st.tuples(st.just("memory"), fractions),
        st.tuples(st.just("idle"), st.sampled_from([1.0, 61.0])),
        st.tuples(st.just("worker"), st.sampled_from(["w", "w2"])),
    ]
    if spills:
        anything.append(st.tuples(st.just("shared"), SHARED))
    if shards:
        anything.append(st.tuples(st.just("shard"), st.sampled_from("abc")))
    usual = st.lists(st.one_of(anything), max_size=14)
    start: list[Step] = [("shared", 100 * MIB)] if spills else []
    start.append(("batches", (10, 1.0, WORK)))
    return st.one_of(usual, usual.map(lambda rest: [*start, *rest]))


def play(job: Job, script: Sequence[Step], between: Callable[[Job], object] = lambda job: None) -> Job:
    """Let a job take the steps, with a look at it between any two events that the policy sees."""
    for name, value in script:
        if name == "batches":
            count, speed, work = value
            for _ in range(count):
                job.batches(1, speed, work=work)
                between(job)
        elif name == "stall":
            job.begin()
            between(job)
            job.wait(value / 2)
            between(job)
            job.wait(value / 2)
            job.end()
        elif name == "raise":
            job.begin().wait(value)
            if job.running is not None:
                job.abandon()
        elif name == "memory":
            job.memory = value
        elif name == "shared":
            job.shared = value
        elif name == "idle":
            job.wait(value)
        elif name == "worker":
            job.start_worker(value, device="cuda:0")
        elif name == "shard":
            job.enter(value)
        between(job)
    return job
