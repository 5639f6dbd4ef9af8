"""The state is flat over 10,000 shards and 50,000 batches, and no shard is forgotten that matters."""

from __future__ import annotations

import json

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.codec import encode
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import FULL, GENES, LOW, WORK, Job, reading


def size(policy: Policy) -> int:
    """Of the state as JSON."""
    return len(json.dumps(encode(policy.state)))


@pytest.mark.parametrize(("batches", "shards"), [(0, 10_000), (1, 3_000), (2, 10_000)])
def test_the_state_is_flat_over_10_000_shards(batches: int, shards: int) -> None:
    """Shards without a batch, with the warm-up only, with half a baseline and with a whole one."""
    policy = Policy(Settings(window=2))
    sizes = []
    t = 0.0
    for n in range(shards):
        shard, worker = f"shard-{n:05}", f"w{n if batches == 1 and n < 10 else 0}"
        policy.open_shard(t, shard, worker, "cuda:0")
        for _ in range(batches):
            t += 4.0
            policy.finish_batch(t, BatchInfo("b", shard, worker, "cuda:0", GENES, WORK), 4.0)
        policy.close_shard(t, shard)
        if n in (999, shards - 1):
            sizes.append(size(policy))
    assert sizes[1] <= sizes[0] * 1.05 + 100


def test_the_state_is_flat_over_50_000_batches() -> None:
    """With readings all along: rising, falling and equal."""
    policy = Policy(Settings())
    sizes = []
    for n in range(50_000):
        info = BatchInfo(f"b{n}", "a", "w", "cuda:0", GENES, WORK)
        policy.read_memory(4.0 * n, "cuda:0", reading((n % 97) / 97))
        policy.start_batch(4.0 * n, info)
        policy.finish_batch(4.0 * n + 4.0, info, 4.0)
        if n in (999, 49_999):
            sizes.append(size(policy))
    assert sizes[1] <= sizes[0] + 200


def test_ever_falling_readings_are_bounded() -> None:
    """The worst case of the peaks; the newest are kept."""
    job = Job(memory=None).begin()
    for n in range(10_000):
        job.t += 1.0
        job.read_memory(1.0 - n / 20_000)
    assert len(job.policy.state.memory["cuda:0"].peaks) <= 4096
    assert job.status.memory_fraction == pytest.approx(0.5, abs=1e-3)


def test_the_latest_256_closed_shards_are_kept_whole() -> None:
    """One opened again soon has its baseline."""
    job = Job().warmed()
    for n in range(256):
        job.enter(f"s{n}").batches(9 if n == 0 else 1)
    assert job.enter("s0").source == "shard"
    for n in range(258):
        job.enter(f"t{n}").batches(1)
    assert job.policy.status("s0", job.t).baseline is None


def test_a_rung_is_never_forgotten() -> None:
    """A shard that was closed 500 shards ago gets no second ladder."""
    job = Job(Settings(ema_alpha=1.0, inflight=False)).warmed()
    job.memory = FULL
    job.batches(40, speed=0.1)
    job.memory = LOW
    job.start_worker(device="cuda:0")
    for n in range(500):
        job.enter(f"s{n}").batches(1)
    assert job.enter("a").status.rung == 3
    assert "s0" not in job.policy.state.shards


def test_a_paused_shard_outlives_those_that_are_done() -> None:
    """It comes back; they do not."""
    job = Job().warmed()
    job.policy.close_shard(job.t, "a", is_done=False)
    job.shard, job._opened = "s", False
    for n in range(500):
        job.enter(f"s{n}").batches(1)
    assert job.enter("a").source == "shard"


def test_a_shard_with_a_batch_in_flight_is_not_forgotten() -> None:
    """A driver that begins a batch in a shard it has closed must not break the policy for all others."""
    policy = Policy(Settings())
    policy.open_shard(0.0, "late", "w", "cuda:0")
    policy.close_shard(0.0, "late")
    info = BatchInfo("late-batch", "late", "w", "cuda:0", GENES, WORK)
    policy.start_batch(0.0, info)
    for n in range(600):
        policy.open_shard(1.0, f"s{n}", "w2", "cuda:0")
        policy.close_shard(1.0, f"s{n}")
    policy.advance(10_000.0)
    policy.finish_batch(10_000.0, info, 10_000.0)
