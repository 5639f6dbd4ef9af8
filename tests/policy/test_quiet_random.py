"""What must not trip, by random draws: every kind of section 4, with 15 % noise, from the first batch of a card on."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.timeline import FULL, LOW, RATE, Job

DRAWS = 250
"""Of each of eight kinds."""

OVERHEAD = 0.1
"""Seconds of a batch, whatever is in it."""


class Rig:
    """A healthy job, as random as its seed makes it.

    Args:
        seed: Of everything.
    """

    def __init__(self, seed: str) -> None:
        self.dice = random.Random(seed)
        self.job = Job(memory=self.dice.choice([FULL, FULL, 1.2, LOW, None]), can_end_worker=self.dice.random() < 0.5)
        self.job.cap = self.dice.choice([None, 0.5, 0.99])
        self.pace = RATE * self.dice.uniform(0.2, 5.0)
        self.usual = self.pace * self.dice.choice([0.2, 1.0, 4.0, 20.0])  # seconds of a batch
        self.counts_genes = self.dice.random() < 0.2  # then all are of one length

    def batch(self, work: float = 1.0, speed: float = 1.0, stall: float = 0.0) -> None:
        """One of so much of the usual work, at a speed, with a stall of so many slices of the usual batch in it."""
        cost = 1.0 if self.counts_genes else work
        seconds = OVERHEAD + cost * self.usual / (self.pace * speed) * self.dice.uniform(0.85, 1.15)
        self.job.begin(work=None if self.counts_genes else cost * self.usual)
        if stall:
            self.job.wait(stall * max(5.0, 5.0 * self.usual / self.pace))
        self.job.wait(seconds, ticks=seconds > 60.0)
        self.job.end()

    def shards(self) -> list[int]:
        """Batches of each shard: all short, all long, or anything."""
        most = self.dice.choice([4, 8, 30])
        return [self.dice.randint(1, most) for _ in range(self.dice.randint(2, 5))]

    def between_shards(self, n: int) -> None:
        """The same worker, a fresh one, or another run of the command that reads the state file."""
        what = self.dice.choice(["worker", "fresh", "run"])
        if what == "run":
            self.job.policy.close_shard(self.job.t, self.job.shard)
            kept = restore_durable(dump_durable(self.job.policy.state), "")
            job, self.job = self.job, Job(memory=self.job.memory, can_end_worker=self.job.can_end_worker, state=kept)
            self.job.cap = job.cap
        elif what == "fresh":
            self.job.start_worker()
        self.job.enter(f"shard{n}")
        if what != "worker":
            self.batch(speed=self.dice.uniform(0.02, 1.0))


def steady(rig: Rig) -> None:
    """Shards of any length."""
    for n, batches in enumerate(rig.shards()):
        rig.between_shards(n)
        for _ in range(batches):
            rig.batch()


def slow_first_batches(rig: Rig) -> None:
    """The first batch of each worker takes up to fifty times as long."""
    for n, batches in enumerate(rig.shards()):
        rig.job.start_worker().enter(f"shard{n}")
        rig.batch(speed=rig.dice.uniform(0.02, 0.1))
        for _ in range(batches):
            rig.batch()


def one_stall(rig: Rig) -> None:
    """One batch a shard stalls, for less than a window of slices as the fastest batch so far may make them."""
    for n, batches in enumerate(rig.shards()):
        rig.between_shards(n)
        at = rig.dice.randrange(batches)
        for i in range(batches):
            rig.batch(stall=rig.dice.uniform(0.5, 5.0) if i == at else 0.0)


def long_documents(rig: Rig) -> None:
    """Up to thirty times the work a batch, after short ones, also right at the beginning."""
    for n, batches in enumerate(rig.shards()):
        rig.between_shards(n)
        for i in range(batches):
            rig.batch(work=1.0 if i < batches // 2 else rig.dice.uniform(1.0, 30.0))


def documents_of_every_length(rig: Rig) -> None:
    """Batches of any size, and tiny ones at the end, whose rate is all overhead."""
    for n, batches in enumerate(rig.shards()):
        rig.between_shards(n)
        for _ in range(batches):
            rig.batch(work=rig.dice.lognormvariate(0.0, 0.8))
        rig.batch(work=rig.dice.uniform(0.001, 0.1))


def throttling(rig: Rig) -> None:
    """To a half, at any time, for ever or for a while."""
    for n, batches in enumerate(rig.shards()):
        rig.between_shards(n)
        begins, ends = sorted(rig.dice.randrange(batches + 1) for _ in range(2))
        for i in range(batches):
            rig.batch(speed=0.5 if begins <= i < ends else 1.0)


def a_slow_disk(rig: Rig) -> None:
    """Minutes between the batches."""
    for n, batches in enumerate(rig.shards()):
        rig.between_shards(n)
        for _ in range(batches):
            rig.job.wait(rig.dice.uniform(1.0, 300.0), ticks=False)
            rig.batch()


def fast_by_chance(rig: Rig) -> None:
    """A tiny batch at fifty times the speed comes first, and now and then."""
    for n, batches in enumerate(rig.shards()):
        rig.between_shards(n)
        for i in range(batches):
            if i == 0 or rig.dice.random() < 0.1:
                work = rig.dice.uniform(0.001, 0.02) * rig.usual
                rig.job.begin(work=None if rig.counts_genes else work, genes=1)
                rig.job.wait(work / rig.pace / 50, ticks=False)
                rig.job.end()
            rig.batch()


KINDS = [
    steady,
    slow_first_batches,
    one_stall,
    long_documents,
    documents_of_every_length,
    throttling,
    a_slow_disk,
    fast_by_chance,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: getattr(kind, "__name__", ""))
def test_no_draw_of_a_healthy_job_yields_a_decision(kind: Callable[[Rig], None]) -> None:
    """Nothing is detected, nothing asked for, no worker ended."""
    for seed in range(DRAWS):
        rig = Rig(f"{getattr(kind, '__name__', '')}|{seed}")
        kind(rig)
        assert rig.job.decisions == [], seed
