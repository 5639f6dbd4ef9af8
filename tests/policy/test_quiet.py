"""The end of section 4: what must not trip. Healthy timelines of every kind yield no decision at all."""

from __future__ import annotations

import random

import pytest

from helix_crawl_otel.policy.model import Verdict
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.timeline import FULL, GENES, LOW, RATE, SLICE, WORK, Job

MEMORY = [FULL, 1.3, LOW, None]


@pytest.mark.parametrize("memory", MEMORY)
def test_a_first_slow_batch(memory: float | None) -> None:
    """Of a run, of a worker, or of a shard, under a full card."""
    job = Job(memory=memory).batches(1, speed=0.005).batches(20)
    job.start_worker().batches(1, speed=0.005).batches(20)
    job.enter("b").batches(1, speed=0.03).batches(20)  # 6.7 slices by the stand-in
    assert job.decisions == []


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0])
@pytest.mark.parametrize("slices", [1.0, 3.5, 7.0, 7.99])
@pytest.mark.parametrize("before", [1.0, 0.25])
def test_one_batch_stalled_for_less_than_a_window_of_slices(alpha: float, slices: float, before: float) -> None:
    """Whatever the EMA was before, and however sharp it is: seen in flight and when it ends, it is too short."""
    job = Job(Settings(ema_alpha=alpha), memory=FULL).warmed().batches(20, before).stall(slices * SLICE)
    job.end()
    job.batches(30)
    assert job.decisions == []


def test_stalls_with_healthy_batches_between_them() -> None:
    """One stall of half a window after another, and a recovery in between."""
    job = Job(memory=FULL).warmed()
    for _ in range(20):
        job.stall(4 * SLICE).end()
        job.batches(8)
    assert job.decisions == []


@pytest.mark.parametrize("memory", MEMORY)
def test_long_documents_after_short_ones(memory: float | None) -> None:
    """Thirty times the work a gene is a thirtieth of the genes a second, and no crawl: work is judged."""
    job = Job(memory=memory).warmed().batches(40, work=30 * WORK)
    assert job.decisions == []
    assert job.status.verdict is Verdict.HEALTHY
    assert job.status.ema == pytest.approx(64 / 120, rel=0.01)


@pytest.mark.parametrize("memory", MEMORY)
def test_thermal_throttling_to_a_half(memory: float | None) -> None:
    """Suddenly, for ever, in every shard."""
    job = Job(memory=memory).warmed().batches(200, speed=0.5).enter("b").batches(100, speed=0.5)
    assert job.decisions == []


@pytest.mark.parametrize("memory", MEMORY)
def test_a_slow_disk(memory: float | None) -> None:
    """Minutes between the batches are none of the encode stage."""
    job = Job(memory=memory).warmed()
    for _ in range(50):
        job.wait(300.0).batches(1)
    assert job.decisions == []


@pytest.mark.parametrize("memory", [None, LOW])
def test_a_cpu_only_box(memory: float | None) -> None:
    """No card, no memory that could be full, however slow it gets."""
    job = Job(memory=memory, device="cpu").warmed().batches(100, speed=0.02)
    assert job.decisions == []


def test_a_missing_probe() -> None:
    """A true crawl that nobody can prove: reported as UNKNOWN, never acted upon."""
    job = Job(memory=None).warmed().batches(100, speed=0.02).stall(50 * SLICE)
    assert job.decisions == []
    assert job.status.verdict is Verdict.UNKNOWN


def test_a_slow_shard_on_a_card_with_room() -> None:
    """An index that has outgrown the file cache: slow for ever, memory low."""
    job = Job(memory=0.9).warmed().batches(300, speed=0.01)
    assert job.decisions == []
    assert job.status.verdict is Verdict.SLOW


def test_a_huge_shard_at_any_length() -> None:
    """Twenty thousand batches on a full card with 15 % jitter and documents of every length."""
    rng = random.Random(1)
    job = Job(memory=FULL)
    for _ in range(20_000):
        work = WORK * rng.lognormvariate(0.0, 0.8)
        job.begin(work=work, genes=GENES)
        job.t += work / (RATE * rng.uniform(0.85, 1.15) * 0.6)
        job.end()
    assert job.decisions == []
    assert job.status.streak == 0


def test_a_card_that_is_always_full() -> None:
    """A healthy pace under 99 % for 300 shards; the last batch of each is a small one with much overhead."""
    job = Job(memory=FULL)
    for n in range(300):
        job.enter(f"shard{n}").batches(n % 20).begin(work=WORK / 50, genes=1).wait(2.0).end()
    assert job.decisions == []


def test_many_runs_of_short_shards() -> None:
    """Each run reads the state file of the one before; workers are fresh, first batches slow."""
    job = Job(memory=FULL)
    for run in range(20):
        for n in range(5):
            job.enter(f"r{run}s{n}").batches(1, speed=0.2 if n == 0 else 1.0).batches(9)
        job = Job(memory=FULL, state=restore_durable(dump_durable(job.policy.state), ""))
    assert job.decisions == []
    assert job.status.rung == 0


def test_a_single_stall_on_a_card_with_a_stand_in() -> None:
    """The second batch of a new shard stalls for less than a window of slices."""
    job = Job(Settings(ema_alpha=1.0), memory=FULL).warmed().enter("b").stall(7.9 * SLICE)
    job.end()
    job.batches(20)
    assert job.decisions == []
