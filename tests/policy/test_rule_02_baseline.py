"""Rule 2: the baseline is the median rate of the next `window` finished batches of the shard on that device."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.baseline import Baseline, BaselineMeter, Sample
from helix_crawl_otel.policy.model import Verdict
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.timeline import FULL, GENES, RATE, WORK, Job


def test_it_is_the_median_of_the_window() -> None:
    """Neither the mean nor an extreme: four batches each side of it."""
    job = Job().batches(1)
    for speed in (5.0, 0.9, 1.0, 0.8, 1.2, 1.1, 0.01, 9.0):
        job.batches(1, speed)
    assert job.baseline == pytest.approx(1.05 * RATE)


@pytest.mark.parametrize("window", [1, 3, 8])
def test_it_takes_a_whole_window(window: int) -> None:
    """The shard has none of its own before the last of `window` batches."""
    job = Job(Settings(window=window), memory=FULL).batches(1 + window - 1)
    assert job.source == ("none" if window == 1 else "card")
    job.batches(1)
    assert job.baseline == pytest.approx(RATE)
    assert job.source == "shard"
    assert job.status.verdict is Verdict.HEALTHY


def test_it_stays_as_it_was_measured() -> None:
    """Later batches, faster or slower, do not move it."""
    job = Job().warmed().batches(20, speed=2.0).batches(20, speed=0.5)
    assert job.baseline == pytest.approx(RATE)


@pytest.mark.parametrize("speed", [0.05, 50.0])
def test_tiny_batches_are_no_measure(speed: float) -> None:
    """All overhead, or fast by chance: half of the window may be of those."""
    job = Job().batches(1)
    for _ in range(4):
        job.batches(1, speed, work=WORK / 50).batches(1)
    assert (job.baseline, job.source) == (pytest.approx(RATE), "shard")


def test_it_is_reported_in_genes_and_judged_in_work() -> None:
    """The same batches give both; the work of the usual batch is kept for small ones."""
    job = Job().batches(1)
    for genes, work in ((64, 4000.0), (32, 4000.0), (16, 4000.0)) * 3:
        job.batches(1, genes=genes, work=work)
    assert job.baseline == pytest.approx(RATE)
    assert job.status.baseline == pytest.approx(8.0)
    baseline, _ = job.policy.baseline("a", "cuda:0")
    assert baseline is not None
    assert baseline.work == pytest.approx(WORK)


def test_without_work_it_counts_genes() -> None:
    """A driver that does not know its work is judged by genes a second."""
    job = Job().batches(9, work=None)
    assert job.baseline == pytest.approx(GENES / 4.0)
    assert job.batches(1, speed=0.5, work=None).status.ratio == pytest.approx(0.3 * 0.5 + 0.7)


def test_it_belongs_to_one_device() -> None:
    """A shard that moves is measured anew there."""
    job = Job().warmed().start_worker(device="cpu").batches(8, speed=0.1)
    assert (job.baseline, job.source) == (pytest.approx(0.1 * RATE), "card")
    job.batches(1, speed=0.1)
    assert (job.baseline, job.source) == (pytest.approx(0.1 * RATE), "shard")
    assert job.policy.baseline("a", "cuda:0")[0] is not None


def test_it_belongs_to_one_encoder() -> None:
    """With another encoder a restored shard has none; with the same one it does."""
    job = Job()
    job.policy.state.encoder = "m1"
    content = dump_durable(job.warmed().policy.state)
    assert Job(state=restore_durable(content, "m2")).baseline is None
    assert Job(state=restore_durable(content, "m1")).baseline == pytest.approx(RATE)


def test_a_recycled_worker_does_not_measure_itself_anew() -> None:
    """A worker that is slow from its first batch on is slow, not the new normal."""
    job = Job().warmed().start_worker().batches(1 + 8, speed=0.1)
    assert job.baseline == pytest.approx(RATE)
    assert job.status.verdict is Verdict.SLOW


def test_the_batch_that_completes_it_is_judged_by_it() -> None:
    """The last batch of the window can be slow by the median of which it is a part, and not by the fastest before."""
    job = Job(Settings(ema_alpha=1.0, inflight=False)).batches(1).batches(1, speed=4.0).batches(6)
    assert (job.baseline, job.source) == (pytest.approx(4.0 * RATE), "card")
    job.batches(1, speed=0.5)
    assert job.source == "shard"
    assert job.status.ratio == pytest.approx(0.5)


def test_a_batch_that_raised_enters_no_baseline() -> None:
    """Seven batches and one that raised are not a window."""
    job = Job().batches(8).begin().wait(400.0).abandon()
    assert job.source == "card"
    assert job.batches(1).source == "shard"


def test_a_meter_that_is_done_takes_nothing_more() -> None:
    """It says once that it is complete, keeps no sample, and does not move."""
    meter = BaselineMeter()
    assert meter.add(Sample(1.0, 1.0, 1.0), window=2) is None
    assert meter.add(Sample(3.0, 3.0, 3.0), window=2) == Baseline(2.0, 2.0, 2.0)
    for _ in range(3):
        assert meter.add(Sample(9.0, 9.0, 9.0), window=2) is None
    assert (meter.baseline, meter.samples) == (Baseline(2.0, 2.0, 2.0), [])


@pytest.mark.parametrize("name", ["rate", "genes_rate", "work"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_baseline_is_more_than_nothing(name: str, value: float) -> None:
    """Else a damaged file would divide by it."""
    with pytest.raises(ValueError, match=rf"^{name} is .*; accepted: a number > 0$"):
        Baseline(**{"rate": 1.0, "genes_rate": 1.0, "work": 1.0, name: value})
