"""Rule 3: while a shard has no baseline, the median of earlier shards on the card stands in, for tripping only."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.timeline import DETECT, EMPTY_CACHE, FULL, GENES_RATE, LIMIT, RATE, Job


def after(*speeds: float, settings: Settings | None = None) -> Job:
    """A job that has finished a shard at each of these speeds and enters the next one."""
    job = Job(settings).batches(1)
    for n, speed in enumerate(speeds):
        job.enter(f"earlier{n}").batches(8, speed)
    return job.enter("new")


def test_a_shard_that_is_slow_from_its_first_batch_trips() -> None:
    """The second shard crawls from the start and is seen, though it has no baseline of its own."""
    job = after(1.0)
    job.memory = FULL
    job.batches(12, speed=0.05)
    assert job.issued[:2] == [DETECT, EMPTY_CACHE]
    assert job.decisions[0].evidence["baseline_source"] == "card"
    assert "card's baseline" in job.decisions[0].reason


def test_it_is_the_median_of_the_earlier_shards() -> None:
    """One odd shard does not move it."""
    job = after(1.0, 0.9, 9.0).batches(1)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "card")


def test_only_the_latest_64_shards_count() -> None:
    """What the card did long ago is forgotten."""
    job = after(*([0.5] * 10), *([1.0] * 64)).batches(1)
    assert job.baseline == pytest.approx(RATE)
    assert [len(history) for history in job.policy.state.cards.cards.values()] == [64]


def test_it_does_not_compare_across_cards() -> None:
    """Another device has its own history."""
    job = after(1.0).start_worker(device="cuda:1")
    assert job.baseline is None
    assert job.batches(2, speed=0.1).baseline == pytest.approx(0.1 * RATE)


def test_it_does_not_compare_across_units() -> None:
    """Genes a second and work a second have nothing to do with each other."""
    job = after(1.0).batches(1, work=None)
    assert (job.baseline, job.source) == (GENES_RATE, "card")


def test_it_does_not_compare_across_encoders() -> None:
    """Another model is another speed."""
    job = after(1.0)
    job.policy.state.encoder = "other"
    assert job.batches(1, speed=0.1).baseline == pytest.approx(0.1 * RATE)


def test_a_slow_batch_enters_no_baseline() -> None:
    """A shard born crawling does not make the crawl its normal; its fast batches measure it."""
    job = after(1.0)
    for _ in range(8):
        job.batches(1, speed=0.05).batches(1, speed=0.8)
    assert job.source == "shard"
    assert job.baseline == pytest.approx(0.8 * RATE)


def test_a_batch_at_the_limit_is_not_slow() -> None:
    """At exactly the limit of the stand-in a batch enters the baseline; below it does not."""
    job = after(1.0).batches(8, speed=0.2)
    assert (job.baseline, job.source) == (pytest.approx(LIMIT), "shard")
    job = after(1.0).batches(20, speed=0.199)
    assert job.source == "card"


def test_it_never_becomes_the_shards_own() -> None:
    """A shard that is honestly half as fast gets a baseline of half."""
    job = after(1.0).batches(7, speed=0.5)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "card")
    job.batches(1, speed=0.5)
    assert (job.baseline, job.source) == (pytest.approx(0.5 * RATE), "shard")


def test_a_short_shard_is_judged_by_it_all_along() -> None:
    """Five healthy batches are no baseline; a crawl after them trips by the card's."""
    job = after(1.0).batches(5)
    job.memory, job.obeys = FULL, False
    job.batches(10, speed=0.05)
    assert job.source == "card"
    assert job.issued[:2] == [DETECT, EMPTY_CACHE]


def test_earlier_runs_count() -> None:
    """The stand-in comes back from the state file, even where the shards themselves are forgotten."""
    content = dump_durable(after(1.0).policy.state)
    content["shards"] = {}
    job = Job(state=restore_durable(content, "")).enter("later").batches(2)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "card")
