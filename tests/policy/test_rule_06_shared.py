"""Rule 6 with the knob `shared`: a rise of the worker's shared memory since its first batches counts as full."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.memory import RISE_BYTES, Shared, SharedFloor
from helix_crawl_otel.policy.model import MemoryReading, Verdict
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DETECT, FULL, GENES, LOW, RECYCLE, WORK, Job, reading

MIB = 1024**2
ON = Settings(factor=2.0, ema_alpha=1.0, window=100, shared=True)
OFF = Settings(factor=2.0, ema_alpha=1.0, window=100)

HELD = 150 * MIB
"""What a healthy worker holds."""


def warmed(settings: Settings = ON, shared: int | None = HELD, memory: float | None = LOW) -> Job:
    """A job with a baseline whose worker has held so much in its first batches."""
    job = Job(settings, memory=memory)
    job.start_worker().wait(1.0)
    job.shared = shared
    return job.warmed()


def finish_slow(job: Job) -> bool:
    """A slow batch; whether it counted as full."""
    before = job.status.streak
    job.begin().wait(10.0, ticks=False).read_memory().end()
    return job.status.streak > before


@pytest.mark.parametrize(("rise", "full"), [(RISE_BYTES + 1, True), (RISE_BYTES, False), (0, False), (-HELD, False)])
def test_a_rise_by_more_than_512_mib_is_full(rise: int, full: bool) -> None:
    """Over what the worker held in its first batches, with room in the dedicated memory."""
    job = warmed()
    job.shared = HELD + rise
    assert finish_slow(job) is full
    assert job.status.verdict is (Verdict.CRAWLING if full else Verdict.SLOW)


def test_the_default_is_off() -> None:
    """Nobody has tried it on a real card."""
    assert Settings().shared is False
    job = warmed(OFF)
    job.shared = 8192 * MIB
    assert not finish_slow(job)
    assert job.status.verdict is Verdict.SLOW


def test_the_knob_takes_true_and_false_only() -> None:
    """A number of bytes is no answer to whether."""
    with pytest.raises(ValueError, match="shared is 512; accepted: True or False"):
        Settings(shared=512)  # type: ignore[arg-type]  # that is what is refused


def test_a_rise_with_unknown_dedicated_memory_is_full() -> None:
    """The evidence is direct: no other reading is needed."""
    job = warmed(memory=None)
    job.shared = HELD + RISE_BYTES + 1
    assert finish_slow(job)


def test_a_full_card_without_a_rise_is_full_all_the_same() -> None:
    """The knob adds a reason and takes none away, known or unknown."""
    for shared in (HELD, None):
        job = warmed(shared=shared)
        job.memory = FULL
        assert finish_slow(job)


def test_a_fast_batch_with_a_rise_is_healthy() -> None:
    """It takes both: a program may use shared memory and be fast."""
    job = warmed()
    job.shared = 8192 * MIB
    job.batches(20)
    assert job.status.verdict is Verdict.HEALTHY
    assert job.decisions == []


def test_unknown_never_counts() -> None:
    """No reading at all, or none since long before the batch."""
    assert not finish_slow(warmed(shared=None))
    job = warmed()
    job.shared = 8192 * MIB
    job.read_memory()
    job.shared = None
    job.wait(61.0, ticks=False)
    assert not finish_slow(job)
    assert job.status.verdict is Verdict.SLOW


def test_the_highest_reading_since_the_batch_began_counts() -> None:
    """As for the dedicated memory."""
    job = warmed().begin().wait(4.0, ticks=False)
    job.shared = 4096 * MIB
    job.read_memory().wait(4.0, ticks=False)
    job.shared = HELD
    job.read_memory().wait(2.0, ticks=False)
    job.end()
    assert job.status.streak == 1


def test_one_endless_batch_that_spills_trips() -> None:
    """64 genes in 47 minutes, with a card that never reads as full: seen while it runs, and the ladder is climbed."""
    job = Job(Settings(shared=True), memory=0.8, can_end_worker=True, obeys=False).start_worker().wait(1.0)
    job.shared = HELD
    job.warmed().begin()
    job.shared = 3072 * MIB
    job.wait(600.0)
    assert job.issued[0] is DETECT
    assert "shared memory up by 2.85 GiB since the worker's first batches" in job.decisions[0].reason
    blind = Job(Settings(), memory=0.8, can_end_worker=True, obeys=False).warmed().begin().wait(600.0)
    assert blind.issued == []


def test_the_evidence_has_the_shared_memory_of_worker_and_others() -> None:
    """With the knob off as well: it is a reading, and tells a spill to whoever looks."""
    job = Job(Settings(ema_alpha=1.0, inflight=False), obeys=False).start_worker().wait(1.0)
    job.shared, job.other_shared = HELD, 300 * MIB
    job.warmed()
    job.memory, job.shared = FULL, 3000 * MIB
    evidence = job.batches(8, speed=0.1).decisions[0].evidence
    assert (evidence["shared_bytes"], evidence["other_shared_bytes"]) == (3000 * MIB, 300 * MIB)
    assert evidence["shared_rise_bytes"] == 3000 * MIB - HELD
    assert "shared" not in job.decisions[0].reason


# -- the first batches ------------------------------------------------------------------------------------------------


def floor_of(job: Job) -> int | None:
    """Of the job's worker."""
    return job.policy.state.workers[job.worker].floor.value


def test_the_floor_is_the_lowest_reading_up_to_the_end_of_the_batch_after_the_warm_up() -> None:
    """Two batches with the default warm-up. What is lower later does not make what came before a rise."""
    job = Job(Settings(warmup=1)).start_worker().wait(1.0)
    assert floor_of(job) is None
    for held in (400, 300):
        job.shared = held * MIB
        job.batches(1)
    assert floor_of(job) == 300 * MIB
    job.shared = 200 * MIB
    job.read_memory()  # at the moment at which that batch ended
    assert floor_of(job) == 200 * MIB
    job.wait(0.5, ticks=False)
    job.shared = 100 * MIB
    job.batches(5)
    assert floor_of(job) == 200 * MIB


def test_a_worker_that_spills_while_it_loads_has_risen() -> None:
    """Readings from its start on count, not only those of its batches: it is slow from the first one."""
    job = Job(ON, memory=LOW).warmed().start_worker().wait(1.0)
    job.shared = HELD
    job.wait(20.0)
    job.shared = 2048 * MIB
    job.wait(20.0).batches(2)
    assert floor_of(job) == HELD
    assert finish_slow(job)


def test_without_a_reading_in_the_first_batches_the_first_one_after_is_the_floor() -> None:
    """Batches of a tenth of a second are over before the first tick. A spill that was there by then is not seen."""
    job = Job(ON).start_worker().batches(9)
    assert floor_of(job) is None
    job.shared = 700 * MIB
    job.wait(5.0)
    job.shared = 600 * MIB
    job.wait(5.0)
    assert floor_of(job) == 700 * MIB


def test_a_change_of_worker_begins_anew() -> None:
    """Rule 9: what the one before held is not the new one's, and a reading of that very moment is the old one's."""
    job = warmed()
    job.shared = 4096 * MIB
    job.read_memory().start_worker().read_memory()
    assert floor_of(job) is None
    job.wait(1.0, ticks=False)
    job.shared = 1000 * MIB
    job.read_memory()
    assert floor_of(job) == 1000 * MIB
    assert not finish_slow(job.batches(3))


def test_a_recycle_that_brings_the_memory_back_ends_the_crawl() -> None:
    """The ladder on a modelled spill: the fresh worker holds little, and nothing more is asked for."""
    job = Job(Settings(shared=True), memory=0.8).start_worker().wait(1.0)
    job.shared = HELD
    job.warmed()
    job.shared = 3072 * MIB
    while RECYCLE not in job.issued:
        job.batches(1, speed=0.05)
    job.shared = HELD
    job.batches(40)
    assert job.issued[-1] is RECYCLE
    assert not job.status.episode_open


def test_each_worker_of_a_device_has_its_own_floor() -> None:
    """A reading is the device's. One that was started later is measured from its own start on."""
    job = warmed()
    job.wait(1.0).policy.start_worker(job.t, "v", "cuda:0")
    job.policy.start_worker(job.t, "far", "cuda:1")
    job.wait(1.0, ticks=False)
    job.shared = 900 * MIB
    job.read_memory()
    floors = {name: worker.floor.value for name, worker in job.policy.state.workers.items()}
    assert floors == {"w": HELD, "v": 900 * MIB, "far": None}


def test_a_batch_that_raises_is_no_first_batch() -> None:
    """It has not ended."""
    job = Job(Settings(warmup=0)).start_worker().wait(1.0)
    job.shared = 500 * MIB
    job.begin().wait(6.0).abandon()
    job.shared = 300 * MIB
    job.batches(1)
    assert floor_of(job) == 300 * MIB


def test_a_driver_that_names_no_worker_is_measured_from_its_first_batch_on() -> None:
    """A timeline of somebody else's job, say."""
    job = Job(ON, memory=LOW)
    job.shared = HELD
    job.policy.finish_batch(5.0, BatchInfo("untold", "a", "w", "cuda:0", GENES, WORK), 4.0)
    job.t = 6.0
    job.read_memory()
    assert floor_of(job) == HELD


def test_the_end_of_a_batch_may_be_told_after_a_later_reading() -> None:
    """Times decide, not the order of the calls: live and replayed come to the same floor."""
    in_order, late = SharedFloor(0.0), SharedFloor(0.0)
    in_order.add(1.0, 500)
    in_order.finish_batch(2.0, 0)
    in_order.add(3.0, 100)
    late.add(1.0, 500)
    late.add(3.0, 100)
    late.finish_batch(2.0, 0)
    assert in_order.value == late.value == 500


def test_a_floor_is_of_flat_size() -> None:
    """A first batch that lasts for days, under a memory that falls all the time."""
    floor = SharedFloor(0.0)
    for n in range(10_000):
        floor.add(1.0 + n, 10**9 - n)
    floor.add(float("nan"), 1)
    assert floor.value == 10**9 - 9_999
    assert len(floor.lows) == 64


def test_unknown_is_no_spill() -> None:
    """The value without readings."""
    assert not Shared().is_spill


@pytest.mark.parametrize("name", ["shared_bytes", "other_shared_bytes"])
def test_a_reading_that_cannot_be_is_refused(name: str) -> None:
    """The message names the field."""
    with pytest.raises(ValueError, match=f"MemoryReading.{name} is -1; accepted: 0 or more bytes, or None"):
        MemoryReading(1, 2, **{name: -1})
    assert reading(LOW, 0, 0).shared_bytes == 0
