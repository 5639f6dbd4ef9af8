"""Rule 3 on a card that has shown nothing yet: its first `window` healthy batches across shards stand in, and until
there are so many the fastest of them.
"""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.model import Verdict
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.timeline import DETECT, EMPTY_CACHE, FULL, GENES, GENES_RATE, LOW, RATE, RECYCLE, SLICE, WORK, Job

FINISHED = Settings(inflight=False)


@pytest.mark.parametrize("batches", [1, 2, 3, 7])
@pytest.mark.parametrize("fresh_worker", [True, False])
def test_shards_that_are_all_short_make_one(batches: int, fresh_worker: bool) -> None:
    """No shard ever has a baseline of its own; the card has one after eight batches, and a crawl trips."""
    job = Job(memory=FULL, obeys=False)
    for n in range(16):
        job.enter(f"short{n}")
        if fresh_worker and batches > 1:
            job.start_worker()
        job.batches(batches)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "card")
    (early,) = job.policy.state.cards.early.values()
    assert len(early) == 8
    for n in range(16):
        job.enter(f"crawling{n}").batches(batches, speed=0.05 if batches > 2 else 0.01)
    assert job.issued[:2] == [DETECT, EMPTY_CACHE]
    assert job.decisions[0].evidence["baseline_source"] == "card"


def test_shards_of_one_batch_each_in_a_process_of_its_own_are_all_warm_up() -> None:
    """Nothing is measured of a worker's first batch, whatever comes of it."""
    job = Job(memory=FULL)
    for n in range(20):
        job.enter(f"s{n}").start_worker().batches(1)
    assert job.source == "none"


@pytest.mark.parametrize("healthy", [1, 2, 4, 7])
@pytest.mark.parametrize("work", [WORK, None])
def test_a_first_shard_that_crawls_in_its_first_batches_trips(healthy: int, work: float | None) -> None:
    """One healthy batch is enough to tell; and the crawl never becomes the normal."""
    job = Job(memory=FULL, obeys=False).batches(1 + healthy, work=work).batches(20, speed=0.05, work=work)
    assert job.issued[:2] == [DETECT, EMPTY_CACHE]
    assert job.source == "card"
    job.batches(9, work=work)
    assert job.source == "shard"
    assert job.status.baseline == pytest.approx(GENES_RATE)


def test_an_endless_batch_of_the_first_shard_trips() -> None:
    """The third batch of all never ends."""
    job = Job(memory=FULL, can_end_worker=True).batches(2).begin()
    began = job.t
    job.wait(8 * SLICE + 5.0)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]
    assert job.decisions[0].t == pytest.approx(began + 8 * SLICE)


@pytest.mark.parametrize("crawling", [1, 4, 7])
def test_a_crawl_before_the_first_healthy_batch_is_no_baseline(crawling: int) -> None:
    """Others held the card while the run began: what was measured of that goes when a healthy batch shows it."""
    job = Job(FINISHED, memory=FULL).batches(1).batches(crawling, speed=0.05).batches(8)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "shard")


def test_a_crawl_that_other_shards_began_in_is_no_baseline_of_theirs() -> None:
    """What a shard has measured already is looked at again as well."""
    job = Job(FINISHED, memory=FULL).batches(1).batches(4, speed=0.05).enter("b", leave=False).batches(3)
    job.enter("a", leave=False).batches(7)
    assert job.source == "card"
    job.batches(1)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "shard")


def test_of_what_no_healthy_batch_is_seen_nothing_can_be_told() -> None:
    """Slow from the first batch to the last, on a card that nothing is known of: that is its pace."""
    job = Job(memory=FULL).batches(50, speed=0.01)
    assert job.decisions == []
    assert job.status.verdict is Verdict.HEALTHY


def test_until_the_window_is_full_the_fastest_stands_in_and_then_the_median() -> None:
    """The median of the first eight, across shards."""
    job = Job().batches(1)
    for n, speed in enumerate((0.8, 1.4, 0.9, 1.0, 1.1, 0.7, 1.3)):
        job.enter(f"s{n}").batches(1, speed)
        assert job.baseline == pytest.approx(max(0.8, 1.4 if n else 0.8) * RATE)
    assert job.enter("last").batches(1, speed=1.2).baseline == pytest.approx(1.05 * RATE)
    assert job.enter("more").batches(5, speed=3.0).baseline == pytest.approx(1.05 * RATE)


def test_the_first_baseline_of_a_shard_takes_its_place() -> None:
    """What stands in is then the median of shards, as ever."""
    job = Job().batches(1)
    for n in range(3):
        job.enter(f"s{n}").batches(4, speed=2.0)
    assert job.baseline == pytest.approx(2.0 * RATE)
    job.enter("long").batches(8).enter("next").batches(1)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "card")
    assert job.policy.state.cards.early == {}


@pytest.mark.parametrize("memory", [LOW, None, FULL])
@pytest.mark.parametrize("tiny", [1, 3])
@pytest.mark.parametrize("work", [WORK, 10 * WORK])
def test_a_tiny_batch_that_is_fast_by_chance_is_no_measure(memory: float | None, tiny: int, work: float) -> None:
    """A hundredth of the work, at a hundred times the speed; then batches of 4 s, or of 40 s."""
    job = Job(memory=memory).batches(1).batches(tiny, speed=100.0, work=WORK / 100).batches(40, work=work)
    assert job.decisions == []
    assert job.baseline == pytest.approx(RATE)


def test_the_last_batches_of_short_shards_do_not_move_the_median() -> None:
    """Every other batch is tiny and all overhead, or fast by chance."""
    for speed in (0.05, 50.0):
        job = Job(memory=FULL).batches(1)
        for n in range(10):
            job.enter(f"s{n}").batches(1).batches(1, speed, work=WORK / 50)
        assert (job.baseline, job.source) == (pytest.approx(RATE), "card")
        assert job.decisions == []


def test_a_batch_of_much_work_does_not_make_the_others_small() -> None:
    """Sixteen times the usual, first of all, or crawling: the others are judged all the same."""
    job = Job(memory=FULL, obeys=False).batches(1).batches(1, work=16 * WORK).batches(4).batches(12, speed=0.05)
    assert job.issued[:2] == [DETECT, EMPTY_CACHE]
    job = Job(FINISHED, memory=FULL, obeys=False).batches(4).batches(1, speed=0.05, work=16 * WORK)
    assert job.batches(12, speed=0.05).issued[:2] == [DETECT, EMPTY_CACHE]


@pytest.mark.parametrize("memory", [LOW, None])
def test_a_batch_that_was_fast_by_chance_keeps_no_baseline_away(memory: float | None) -> None:
    """Slow beside it, with room on the card, is no crawl: eight of those are the baseline, as ever."""
    job = Job(memory=memory).batches(1).batches(1, speed=20.0).batches(7)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "shard")


def test_on_a_full_card_it_costs_one_shard_a_fresh_worker_at_most() -> None:
    """Twenty times the speed by chance: the fresh worker has room, is measured, and the card is known."""
    job = Job(memory=FULL).batches(1).batches(1, speed=20.0)
    while RECYCLE not in job.issued:
        job.batches(1)
    job.memory = LOW
    job.batches(9)
    job.memory = FULL
    job.batches(50).enter("b").batches(50)
    assert job.issued == [DETECT, EMPTY_CACHE, RECYCLE]


@pytest.mark.parametrize("speed", [0.5, 0.34])
def test_throttling_from_the_second_batch_on_is_no_crawl(speed: float) -> None:
    """To a half, and to a third: neither trips, and it is what the card does."""
    job = Job(memory=FULL).batches(2).batches(60, speed)
    assert job.decisions == []
    assert job.source == "shard"


@pytest.mark.parametrize("healthy", [1, 5])
def test_it_survives_the_process(healthy: int) -> None:
    """The state file has it, by card and encoder; the next run's first shard is judged by it."""
    job = Job(memory=FULL).batches(1 + healthy)
    content = dump_durable(job.policy.state)
    job = Job(memory=FULL, obeys=False, state=restore_durable(content, "")).enter("b").batches(1)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "card")
    job.batches(12, speed=0.05)
    assert job.issued[:2] == [DETECT, EMPTY_CACHE]
    other = Job(memory=FULL, state=restore_durable(content, "another encoder")).enter("b").batches(1)
    assert other.source == "none"


def test_a_file_of_before_is_read() -> None:
    """It knows of no first batches."""
    content = dump_durable(Job().warmed().policy.state)
    del content["cards"]["early"]
    assert restore_durable(content, "").cards.early == {}


def test_it_is_asked_for_by_no_batch_that_raised() -> None:
    """Nor by one whose worker was ended in it."""
    job = Job().batches(1).begin(genes=GENES).wait(3.0).abandon()
    assert job.source == "none"
    job.begin().wait(3.0).start_worker()
    assert job.source == "none"
