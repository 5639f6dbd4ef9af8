"""Rule 11: a hang is not a crawl: no trip, no rung, but the worker is ended."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.model import Decision, DecisionKind
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import FULL, LOW, SLICE, Job

HALF_AN_HOUR = 1800.0


def hang(job: Job) -> Decision:
    """The one HANG."""
    (decision,) = job.of(DecisionKind.HANG)
    return decision


@pytest.mark.parametrize("memory", [LOW, None])
def test_a_batch_beyond_100_slices_is_a_hang(memory: float | None) -> None:
    """100 slices of 20 s are more than 30 minutes, so they decide."""
    job = Job(memory=memory, can_end_worker=True, obeys=False).warmed().stall(100 * SLICE - 5)
    assert job.decisions == []
    job.wait(10.0)
    assert hang(job).t == pytest.approx(job.began + 100 * SLICE)
    assert hang(job).forced
    assert hang(job).reason == "a batch has been running for 2000 s: a hang, not a crawl"


def test_no_batch_is_a_hang_before_30_minutes() -> None:
    """Slices of 5 s make 100 of them too soon."""
    job = Job(obeys=False).batches(9, speed=4.0).stall(HALF_AN_HOUR - 5)
    assert job.decisions == []
    job.wait(10.0)
    assert hang(job).t == pytest.approx(job.began + HALF_AN_HOUR)


def test_it_is_no_trip_and_no_rung() -> None:
    """A crash of that batch, nothing more; nothing is detected."""
    job = Job(obeys=False).warmed().stall(101 * SLICE)
    assert (hang(job).kind, hang(job).action_id, hang(job).rung) == (None, 0, 0)
    assert job.issued == []
    assert (job.status.rung, job.status.episode_open) == (0, False)
    assert job.policy.state.trips == 0


def test_it_is_reported_once() -> None:
    """However long the batch goes on."""
    job = Job(obeys=False).warmed().stall(500 * SLICE)
    assert len(job.of(DecisionKind.HANG)) == 1


def test_where_no_slice_is_known_it_takes_30_minutes() -> None:
    """The first batch of all."""
    job = Job(memory=FULL, obeys=False).stall(HALF_AN_HOUR - 1)
    assert job.decisions == []
    job.wait(1.0).tick()
    assert hang(job).t == pytest.approx(job.began + HALF_AN_HOUR)
    assert hang(job).evidence == {"inflight_seconds": pytest.approx(HALF_AN_HOUR)}


def test_the_warm_up_is_no_excuse() -> None:
    """The very first batch of a worker can hang."""
    job = Job(obeys=False).stall(HALF_AN_HOUR + 1)
    assert hang(job).shard == "a"
    job = Job(obeys=False).warmed().start_worker().stall(HALF_AN_HOUR + 100)
    assert job.decisions == []  # its slices are known: 100 of them
    assert job.wait(101).tick().of(DecisionKind.HANG) != []


def test_memory_is_no_excuse() -> None:
    """A card that is full and a ladder that is used up: the worker is ended all the same."""
    job = Job(Settings(action="off"), memory=FULL, obeys=False).warmed().stall(101 * SLICE)
    assert hang(job).t == pytest.approx(job.began + 100 * SLICE)


def test_with_inflight_off_a_hang_is_still_a_hang() -> None:
    """The knob is about judging, not about ending what is dead."""
    job = Job(Settings(inflight=False), obeys=False).warmed().stall(101 * SLICE)
    assert hang(job).t == pytest.approx(job.began + 100 * SLICE)


def test_nobody_is_asked_to_end_what_nobody_can_end() -> None:
    """Embedded, a hang is reported only."""
    job = Job(can_end_worker=False, obeys=False).warmed().stall(101 * SLICE)
    assert not hang(job).forced


def test_a_batch_that_ended_was_no_hang() -> None:
    """A late tick finds it finished."""
    job = Job(obeys=False).warmed().begin().wait(200 * SLICE, ticks=False)
    job.end()
    assert job.of(DecisionKind.HANG) == []


def test_the_evidence_has_its_age_and_the_bound_of_its_rate() -> None:
    """For the log line."""
    job = Job(obeys=False).warmed().stall(101 * SLICE)
    assert hang(job).evidence["inflight_seconds"] == pytest.approx(100 * SLICE)
    assert hang(job).evidence["rate"] == pytest.approx(64 / (100 * SLICE))
    assert hang(job).evidence["memory_fraction"] == pytest.approx(LOW)


def test_a_clock_far_beyond_its_precision_raises_nothing() -> None:
    """Where adding half an hour changes nothing, a batch hangs at age 0: there is no rate then."""
    job = Job(obeys=False).warmed()
    job.t = 1e300
    job.begin().tick()
    assert hang(job).evidence["rate"] is None
    assert hang(job).evidence["inflight_seconds"] == 0.0


def on_the_cpu(busy_hours: float) -> Job:
    """A first batch there, whose worker has used the processor for so long since it began."""
    job = Job(device="cpu", obeys=False).begin()
    began = job.t
    while job.t < began + 3600.0 * busy_hours:
        job.policy.use_processor(job.t, job.worker)
        job.wait(60.0)
    job.policy.use_processor(job.t, job.worker)
    return job


def test_on_the_cpu_a_worker_that_uses_the_processor_does_not_hang() -> None:
    """Half an hour after it has stopped it does, and says so."""
    job = on_the_cpu(5.0)
    assert job.decisions == []
    job.wait(HALF_AN_HOUR - 5.0)
    assert job.decisions == []
    job.wait(15.0)
    assert hang(job).reason.endswith("a hang, not a crawl; its worker last used the processor 1800 s ago")


def test_no_batch_takes_more_than_a_day() -> None:
    """A loop without an end, in a text's tokens say."""
    job = on_the_cpu(23.9)
    assert job.decisions == []
    job = on_the_cpu(24.1)
    assert hang(job).t - job.began == pytest.approx(24 * 3600.0, abs=61.0)


def test_on_a_card_a_worker_that_uses_the_processor_hangs_as_ever() -> None:
    """Its driver spins while it waits."""
    job = Job(obeys=False).begin()
    for _ in range(31):
        job.policy.use_processor(job.t, job.worker)
        job.wait(60.0)
    assert hang(job).t == pytest.approx(job.began + HALF_AN_HOUR)
