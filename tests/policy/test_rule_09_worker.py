"""Rule 9: across a change of worker the rung, the baseline and the batches measured survive; nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import DecisionKind, Verdict
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.timeline import DETECT, EMPTY_CACHE, FULL, GENES, LOW, RATE, RECYCLE, SLICE, WORK, Job

FINISHED = Settings(ema_alpha=1.0, inflight=False)


def same_name(job: Job) -> None:
    """A fresh worker takes the place of the old one, under its name."""
    job.start_worker()


def other_name(job: Job) -> None:
    """The shard goes on in a worker of another name."""
    job.worker, job._opened = "w2", False
    job._open()


def other_name_unsaid(job: Job) -> None:
    """A batch of another worker turns up without a word before it, as on a timeline."""
    job.worker = "w3"
    job.batches(1)


def new_supervisor(job: Job) -> None:
    """A new time axis in the same state."""
    job.policy.restart()
    job.t, job._opened = 0.0, False


def state_file(job: Job) -> None:
    """Another process reads the state file."""
    job.policy = Job(job.policy.settings, state=restore_durable(dump_durable(job.policy.state), "")).policy
    job._opened = False


CHANGES = [same_name, other_name, other_name_unsaid, new_supervisor, state_file]


def crawling() -> Job:
    """An open episode at rung 1, a streak of 3, no boundary reached."""
    job = Job(FINISHED, obeys=False).warmed()
    job.memory = FULL
    job.batches(8 + 3, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE]
    assert (job.status.streak, job.status.rung, job.status.episode_open) == (3, 1, True)
    return job


@pytest.mark.parametrize("change", CHANGES)
def test_the_rung_and_the_baseline_survive(change: Callable[[Job], None]) -> None:
    """Whatever the change of worker is."""
    job = crawling()
    change(job)
    assert job.status.rung == 1
    assert (job.baseline, job.source) == (pytest.approx(RATE), "shard")


@pytest.mark.parametrize("change", CHANGES)
def test_ema_streak_and_episode_do_not(change: Callable[[Job], None]) -> None:
    """A fresh worker has seen nothing."""
    job = crawling()
    change(job)
    status = job.status
    assert (status.ema, status.ratio, status.streak, status.episode_open) == (None, None, 0, False)
    assert status.verdict is Verdict.WARMING_UP


@pytest.mark.parametrize("change", CHANGES)
def test_a_fresh_worker_is_judged_by_the_whole_signature(change: Callable[[Job], None]) -> None:
    """Slow under a low memory is not a crawl any more, however long; under a full one it is, and a new one."""
    job = crawling()
    change(job)
    job.memory = LOW
    job.wait(61.0).batches(1 + 20, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE]
    job.memory = FULL
    job.batches(8, speed=0.1)
    assert job.issued == [DETECT, EMPTY_CACHE, DETECT, RECYCLE]


@pytest.mark.parametrize("change", CHANGES)
def test_the_batches_measured_for_a_baseline_survive(change: Callable[[Job], None]) -> None:
    """Five before and three after, without the warm-up of each worker, are a window."""
    job = Job(FINISHED).batches(1 + 5)
    change(job)
    job.batches(2 if change is other_name_unsaid else 1 + 2)
    assert job.source != "shard"
    job.batches(1)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "shard")


def test_the_episode_of_another_shard_goes_as_well() -> None:
    """All that the worker had open is new; other workers' shards are not touched."""
    job = crawling()
    job.policy.open_shard(job.t, "other", "w9", "cuda:0")
    for n in range(2):
        info = BatchInfo(f"o{n}", "other", "w9", "cuda:0", GENES, WORK)
        job.policy.finish_batch(job.t, info, 4.0)
    job.start_worker()
    assert job.status.ema is None
    assert job.policy.status("other", job.t).ema is not None


def test_the_batch_in_flight_goes_with_its_worker() -> None:
    """What a killed worker was doing is not observed any more."""
    job = Job(Settings(window=100, ema_alpha=1.0), memory=FULL).warmed().stall(3 * SLICE).start_worker()
    job.wait(10 * SLICE).tick()
    assert job.ema is None
    assert job.policy.state.inflight == {}


def test_the_batch_in_flight_goes_when_a_worker_of_another_name_takes_the_shard() -> None:
    """The dead worker's batch is no observation of the fresh one."""
    job = Job(Settings(window=100, ema_alpha=1.0), memory=FULL).warmed().stall(3 * SLICE)
    job.running = None
    other_name(job)
    job.wait(10 * SLICE).tick()
    assert job.ema is None


def test_another_workers_batch_stays_in_flight() -> None:
    """A change of one worker is none of the other."""
    job = Job(Settings(window=100)).warmed()
    job.policy.start_batch(job.t, BatchInfo("o", "other", "w9", "cuda:0", GENES, WORK))
    job.start_worker()
    assert list(job.policy.state.inflight) == ["o"]


def test_the_same_worker_opening_the_shard_again_is_no_change() -> None:
    """A shard left and entered again by one worker keeps its EMA."""
    job = Job().warmed()
    assert job.enter("a").ema == pytest.approx(RATE)


def test_the_rung_belongs_to_the_shard() -> None:
    """Another shard begins at the foot of the ladder, another device does not."""
    job = crawling()
    assert job.start_worker(device="cuda:1").batches(1).status.rung == 1
    assert job.enter("b").status.rung == 0


def test_the_rest_belongs_to_shard_and_device() -> None:
    """EMA and streak of the first device are still there when the shard comes back to it in the same worker."""
    job = Job(FINISHED, memory=FULL).warmed().batches(3, speed=0.1)
    streak = job.status.streak
    job.device = "cuda:1"
    job.batches(2)
    assert job.status.streak == 0
    job.device = "cuda:0"
    assert job.batches(1, speed=0.1).status.streak == streak + 1


@pytest.mark.parametrize("restart", [same_name, other_name])
def test_a_change_of_worker_applies_a_recycle(restart: Callable[[Job], None]) -> None:
    """It is what the action asked for."""
    job = crawling().batches(5, speed=0.1)
    asked = job.pending
    assert asked is not None
    assert asked.kind is RECYCLE
    restart(job)
    applied = job.decisions[-1]
    assert (applied.what, applied.kind, applied.action_id) == (DecisionKind.APPLIED, RECYCLE, asked.action_id)
    assert (applied.shard, applied.rung) == ("a", 2)
    assert job.pending is None


def test_a_change_of_worker_makes_an_empty_cache_void() -> None:
    """The fresh worker has nothing to release."""
    job = crawling()
    asked = job.pending
    assert asked is not None
    job.start_worker()
    assert (job.decisions[-1].what, job.decisions[-1].action_id) == (DecisionKind.SUPERSEDED, asked.action_id)
    assert job.pending is None


def test_leaving_a_shard_makes_what_waits_void() -> None:
    """The next shard is not to pay for it."""
    for batches in (8, 16):
        job = Job(FINISHED, obeys=False).warmed()
        job.memory = FULL
        job.batches(batches, speed=0.1)
        asked = job.pending
        assert asked is not None
        job.enter("b")
        assert (job.decisions[-1].what, job.decisions[-1].action_id) == (DecisionKind.SUPERSEDED, asked.action_id)
        assert job.of(DecisionKind.APPLIED) == []


def test_leaving_a_shard_ends_its_batches_in_flight() -> None:
    """And no others."""
    job = Job().warmed()
    job.policy.start_batch(job.t, BatchInfo("o", "other", "w9", "cuda:0", GENES, WORK))
    job.stall(1.0).enter("b")
    assert list(job.policy.state.inflight) == ["o"]


def test_a_new_time_axis_starts_without_a_reading() -> None:
    """A reading of the old axis would be from the future, and never stale."""
    job = Job(memory=FULL, t=1e6).warmed()
    job.policy.restart()
    job.t = 0.0
    assert job.status.memory_fraction is None
    assert job.policy.state.inflight == {}
    assert job.batches(1, speed=0.1).ema is None  # a new worker warms up
