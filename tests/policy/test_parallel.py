"""Several workers on one device, and several batches of one shard in flight at once."""

from __future__ import annotations

import pytest

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import Decision
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from tests.policy.timeline import DETECT, FULL, GENES, LIMIT, LOW, RATE, SLICE, TICK, WORK, reading

NEWEST = Settings(ema_alpha=1.0, window=8)


class Two:
    """Two workers on one card, each with a shard of its own, in step."""

    def __init__(self, settings: Settings = NEWEST, devices: tuple[str, str] = ("cuda:0", "cuda:0")) -> None:
        self.policy = Policy(settings)
        self.t = 0.0
        self.n = 0
        self.devices = dict(zip("ab", devices, strict=True))
        self.decisions: list[Decision] = []

    def info(self, shard: str) -> BatchInfo:
        """A usual batch."""
        self.n += 1
        return BatchInfo(f"{shard}{self.n}", shard, f"worker-{shard}", self.devices[shard], GENES, WORK)

    def both(self, count: int, seconds: dict[str, float], memory: float = LOW) -> Two:
        """A batch of each at the same time, so many times."""
        for _ in range(count):
            began = self.t
            infos = {shard: self.info(shard) for shard in seconds}
            for info in infos.values():
                self.decisions += self.policy.start_batch(began, info)
            for end in sorted(set(seconds.values())):
                self.until(began + end, memory)
                for shard, info in infos.items():
                    if seconds[shard] == end:
                        self.decisions += self.policy.finish_batch(self.t, info, end)[0]
        return self

    def until(self, t: float, memory: float) -> Two:
        """Ticks up to a moment."""
        while self.t + TICK < t:
            self.t += TICK
            self.tick(memory)
        self.t = t
        return self.tick(memory)

    def tick(self, memory: float) -> Two:
        """One tick now."""
        for device in self.devices.values():
            self.policy.read_memory(self.t, device, reading(memory))
        self.decisions += self.policy.advance(self.t)
        return self


def test_each_shard_is_judged_by_itself() -> None:
    """One crawls, the other does not, on the same full card."""
    two = Two(Settings(ema_alpha=1.0, inflight=False)).both(9, {"a": 4.0, "b": 4.0})
    two.both(8, {"a": 40.0, "b": 4.0}, FULL)
    assert {(d.shard, d.worker) for d in two.decisions} == {("a", "worker-a")}
    assert two.policy.status("b", two.t).streak == 0


def test_both_crawl_on_one_card() -> None:
    """Each has its own streak, its own DETECT, its own ladder."""
    two = Two(Settings(ema_alpha=1.0, inflight=False)).both(9, {"a": 4.0, "b": 4.0})
    two.both(8, {"a": 40.0, "b": 44.0}, FULL)
    assert [d.shard for d in two.decisions if d.kind is DETECT] == ["a", "b"]


def test_each_worker_warms_up_by_itself() -> None:
    """The second worker's first batch is left out, though the first has encoded a hundred."""
    two = Two().both(20, {"a": 4.0}).both(1, {"a": 4.0, "b": 400.0})
    assert two.policy.status("b", two.t).ema is None


def test_another_cards_memory_does_not_count() -> None:
    """Two cards: the reading of one does not make the other full."""
    two = Two(devices=("cuda:0", "cuda:1")).both(9, {"a": 4.0, "b": 4.0})
    info = two.info("b")
    two.policy.start_batch(two.t, info)
    for _ in range(60):
        two.t += TICK
        two.policy.read_memory(two.t, "cuda:0", reading(FULL))
        two.policy.read_memory(two.t, "cuda:1", reading(LOW))
        two.decisions += two.policy.advance(two.t)
    assert two.decisions == []
    assert two.policy.status("b", two.t).memory_fraction == pytest.approx(LOW)


def test_batches_of_one_shard_in_flight_at_once_have_slices_of_their_own() -> None:
    """Two threads: each batch counts its own age, and each end is one observation."""
    two = Two(Settings(ema_alpha=1.0, window=50)).both(51, {"a": 4.0})
    first, second = two.info("a"), two.info("a")
    began = two.t
    two.policy.start_batch(began, first)
    two.until(began + 10.0, FULL)
    two.policy.start_batch(two.t, second)
    two.until(began + 1.5 * SLICE, FULL)
    assert [two.policy.state.inflight[info.id].slices for info in (first, second)] == [1, 1]
    two.policy.finish_batch(two.t, second, two.t - began - 10.0)
    assert list(two.policy.state.inflight) == [first.id]
    two.until(began + 2 * SLICE, FULL)
    detector = two.policy.state.shards["a"].detector("cuda:0")
    assert detector.ema == pytest.approx(LIMIT / 2)


def test_a_stuck_thread_beside_a_healthy_one_is_no_crawl() -> None:
    """The healthy thread's batches keep the average up; what is stuck is a hang in time."""
    two = Two(Settings()).both(9, {"a": 4.0})
    two.policy.start_batch(two.t, BatchInfo("stuck", "a", "worker-a", "cuda:0", GENES, WORK))
    two.both(300, {"a": 4.0}, FULL)
    assert two.decisions == []
    detector = two.policy.state.shards["a"].detector("cuda:0")
    assert detector.ema is not None
    assert detector.ema > 0.4 * RATE


def test_abandoning_one_batch_leaves_the_other() -> None:
    """By id, and an unknown or abandoned id is no error."""
    two = Two()
    first, second = two.info("a"), two.info("a")
    for info in (first, second):
        two.policy.start_batch(0.0, info)
    two.policy.abandon_batch(first.id)
    two.policy.abandon_batch(first.id)
    two.policy.abandon_batch("nobody")
    assert list(two.policy.state.inflight) == [second.id]
    assert two.policy.state.workers["worker-a"].batches == 1


def test_a_batch_keeps_the_slices_it_began_with() -> None:
    """The shard's own baseline replaces the stand-in while a batch of another thread is in flight: its slices stay."""
    two = Two(Settings(ema_alpha=1.0)).both(9, {"a": 4.0})
    two.both(8, {"b": 8.0})
    long = two.info("b")
    two.policy.start_batch(two.t, long)
    began = two.t
    two.until(began + SLICE + 1.0, LOW)
    assert two.policy.baseline("b", "cuda:0")[1] == "card"
    two.both(1, {"b": 8.0})
    assert two.policy.baseline("b", "cuda:0")[1] == "shard"
    two.until(began + 2 * SLICE + 1.0, LOW)
    assert two.policy.state.inflight[long.id].slices == 2
