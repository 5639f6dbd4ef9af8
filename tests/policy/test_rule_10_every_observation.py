"""Rule 10: every observation is fed, so that windows stay true."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DETECT, EMPTY_CACHE, FULL, LOW, RATE, RECYCLE, Job


@pytest.mark.parametrize("memory", [LOW, None])
def test_the_ema_moves_while_memory_is_low_or_unknown(memory: float | None) -> None:
    """When memory fills, the shard is slow already and only the window has to pass."""
    job = Job(Settings(inflight=False), obeys=False, memory=memory).warmed().batches(20, speed=0.1)
    assert job.ema == pytest.approx(0.1 * RATE, rel=0.01)
    job.memory = FULL
    assert job.batches(7, speed=0.1).issued == []
    assert job.batches(1, speed=0.1).issued == [DETECT, EMPTY_CACHE]


def test_ema_streak_and_verdict_move_while_an_action_is_pending() -> None:
    """A pending RECYCLE stops trips, not observations."""
    job = Job(Settings(ema_alpha=0.5, inflight=False), obeys=False).warmed()
    job.memory = FULL
    while RECYCLE not in job.issued:
        job.batches(1, speed=0.1)
    job.batches(3, speed=0.05)
    assert job.status.streak == 3
    assert job.ema == pytest.approx(0.05 * RATE, rel=0.3)
    job.batches(3)
    assert job.status.streak == 0
    assert job.ema is not None
    assert job.ema > 0.8 * RATE


def test_recovery_is_seen_while_an_action_is_pending() -> None:
    """Eight healthy observations close the episode, asked for or not."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), obeys=False).warmed()
    job.memory = FULL
    job.batches(16, speed=0.1)
    assert job.issued[-1] is RECYCLE
    assert job.status.episode_open
    job.batches(8)
    assert not job.status.episode_open


def test_slices_are_fed_while_an_action_is_pending() -> None:
    """A batch that goes on being stuck goes on being observed."""
    job = Job(Settings(ema_alpha=1.0), obeys=False).warmed()
    job.memory = FULL
    job.stall(40 * 20.0)
    assert job.ema == pytest.approx(RATE / 5 / 40)
