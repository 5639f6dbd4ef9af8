"""Section 5, `adaptive`, in a closed loop: what is measured, what is remembered, and that it converges."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_crawl_otel.policy.baseline import Baseline, CardBaselines
from helix_crawl_otel.policy.choice import MOST_RECYCLES
from helix_crawl_otel.policy.costs import KEPT, CardCosts, ContextCosts, ShardCosts, note
from helix_crawl_otel.policy.meter import CPU_SHARE
from helix_crawl_otel.policy.model import ActionKind, DecisionKind, Outcome
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.timeline import DEMOTE_CPU, DETECT, EMPTY_CACHE, FULL, LOW, RATE, RECYCLE, SECONDS, TICK, WORK, Job

ADAPTIVE = Settings(action="adaptive")


@dataclass(frozen=True)
class World:
    """What a job meets: how long a context lasts, how slow it is then, what a new worker takes.

    Args:
        spans: Batches that each context ends before it crawls; the last one is that of all further ones.
        slow: Speed of a crawl, over the healthy one.
        cpu: The CPU's, likewise.
        start_seconds: Of a new worker.
        batches: Of the shard.
    """

    spans: tuple[int, ...]
    slow: float
    cpu: float
    start_seconds: float
    batches: int


class Played(Job):
    """A shard of a supervised job to its end, in this world."""

    def __init__(self, world: World, settings: Settings = ADAPTIVE, *, knows_cpu: bool = True) -> None:
        super().__init__(settings, can_end_worker=True)
        self.world = world
        self.cycles = [0.0]  # ends of contexts
        if knows_cpu:
            cpu = Baseline(world.cpu * RATE, 1.0, WORK)
            self.policy.state.cards.add(CardBaselines.key("cpu", "", "work"), cpu)

    def play(self) -> Played:
        """To the end."""
        done = context = ended = 0
        while done < self.world.batches:
            self.policy.wait_for(self.shard, (self.world.batches - done) * WORK)
            if len(self.cycles) > context:
                context, ended = len(self.cycles), 0
            lasts = self.world.spans[min(context, len(self.world.spans)) - 1]
            crawls = ended >= lasts and self.device != "cpu"
            self.memory = FULL if crawls else LOW
            is_done = self.encode(self.world.cpu if self.device == "cpu" else self.world.slow if crawls else 1.0)
            done, ended = done + is_done, ended + is_done
        return self

    def encode(self, speed: float) -> bool:
        """One batch; `False` when its worker was ended in it."""
        self.begin()
        ends = self.began + SECONDS / speed
        while self.t < ends:
            self.wait(min(TICK, ends - self.t))
            forced = next((d for d in self.decisions[-2:] if d.forced and d.t >= self.began), None)
            if forced is not None:
                self.replace("cpu" if forced.kind is DEMOTE_CPU else self.device)
                return False
        self.end()
        return True

    def tick(self) -> Played:
        """Who ends a worker does so behind it."""
        self._note(self.policy.advance(self.t))
        return self

    def boundary(self) -> Played:
        """Take what is asked."""
        pending = self.pending
        if pending is not None and pending.kind is EMPTY_CACHE:
            self.policy.resolve(self.shard, pending.action_id, Outcome.APPLIED)
        elif pending is not None:
            self.replace("cpu" if pending.kind is DEMOTE_CPU else self.device)
        return self

    def replace(self, device: str) -> None:
        """Another worker, which takes its time."""
        self.cycles.append(self.t)
        if self.running is not None:
            self.abandon()
        self.wait(self.world.start_seconds)
        self.start_worker(device=device, reason="demote" if device == "cpu" else "recycle")

    def costs(self) -> CardCosts:
        """Of the card."""
        return self.policy.state.card_costs("cuda:0", "work")


ONCE = World(spans=(100, 10**9), slow=0.01, cpu=0.2, start_seconds=45.0, batches=400)


def test_one_crawl_is_answered_by_one_recycle_and_the_line_names_the_alternatives() -> None:
    """By a release only where two batches at the crawl's pace are worth the try."""
    job = Played(ONCE).play()
    assert job.issued == [DETECT, RECYCLE]
    detect, recycle = (d for d in job.decisions if d.what is DecisionKind.ISSUE)
    assert "; to the end of the shard: recycle " in recycle.reason
    assert recycle.reason.index("recycle ") < recycle.reason.index(", CPU ") < recycle.reason.index(", stay ")
    assert {"recycle_seconds", "cpu_seconds", "stay_seconds"} <= recycle.evidence.keys()
    assert detect.evidence["stay_seconds"] == recycle.evidence["stay_seconds"]
    assert job.status.rung == 2


def test_the_ladder_is_weighed_by_nobody() -> None:
    """Its lines and its evidence are what they were; what it meets is measured all the same."""
    job = Played(ONCE, Settings()).play()
    assert not any("to the end of the shard" in decision.reason for decision in job.decisions)
    assert not any("stay_seconds" in decision.evidence for decision in job.decisions)
    assert job.costs().crawls == 1
    assert job.costs().recycle_seconds == [pytest.approx(45.0)]


def test_what_a_crawl_and_a_recycle_cost_is_measured() -> None:
    """From the last healthy batch to the answer, and from the end of a worker to the first batch of the next."""
    costs = Played(ONCE).play().costs()
    assert costs.spans == [100 * WORK]
    assert costs.recycle_seconds == [pytest.approx(45.0)]
    (crawl_seconds,) = costs.crawl_seconds
    assert 8 * 20 <= crawl_seconds <= 8 * 20 + 60, "eight slices"
    assert costs.crawls == 1


def test_what_the_warm_up_of_a_new_worker_costs_belongs_to_its_start() -> None:
    """Its first batch takes longer than its share."""
    job = Job(ADAPTIVE).warmed()
    job.memory = FULL
    job.stall(400.0)
    assert job.pending is not None
    job.end()
    left = job.policy.state.shards["a"].left_at
    assert left == job.t
    job.wait(30.0)
    job.start_worker(reason="recycle")
    job.memory = LOW
    job.batches(1, 0.5)
    assert job.policy.state.card_costs("cuda:0", "work").recycle_seconds == [pytest.approx(30.0 + SECONDS)]


def test_a_worker_that_nobody_asked_for_is_no_cost_of_a_recycle() -> None:
    """A crash, a pause, or a worker that only a replay makes up."""
    job = Job(ADAPTIVE).warmed().start_worker(reason="crash").batches(2)
    assert job.policy.state.card_costs("cuda:0", "work") == CardCosts()


def test_a_context_that_lasts_ever_so_long_is_recycled_again_and_again() -> None:
    """The ladder would have gone to the CPU with its second crawl."""
    world = World(spans=(100,), slow=0.01, cpu=0.1, start_seconds=10.0, batches=500)
    job = Played(world).play()
    assert job.issued.count(RECYCLE) >= 4
    assert DEMOTE_CPU not in job.issued
    assert Played(world, Settings()).play().issued[-1] is DEMOTE_CPU


BLOB = World(spans=(250,), slow=0.02, cpu=0.2, start_seconds=45.0, batches=3_000)
"""A file whose contexts end a good many times, as that of 947,000 genes would on a card of 12 GB; the CPU has a
fifth of the card's pace."""


def test_a_blob_is_recycled_as_often_as_its_work_left_is_worth_it() -> None:
    """The ladder leaves it to the CPU, which takes four times as long: the recipe for such a file says `adaptive`."""
    on_cpu = BLOB.batches * SECONDS / BLOB.cpu
    counted, climbed = Played(BLOB).play(), Played(BLOB, Settings(action="ladder")).play()
    assert DEMOTE_CPU not in counted.issued
    assert counted.issued.count(RECYCLE) >= BLOB.batches // BLOB.spans[0] - 1
    assert counted.t < 0.3 * on_cpu
    assert climbed.device == "cpu"
    assert climbed.t > 0.8 * on_cpu


def test_contexts_that_crawl_at_once_end_on_the_cpu() -> None:
    """One trial is free; what the last two contexts did says what the next one will. It is the shard's last word."""
    job = Played(World(spans=(100, 2), slow=0.01, cpu=0.5, start_seconds=45.0, batches=400)).play()
    assert [kind for kind in job.issued if kind is not DETECT] == [RECYCLE, RECYCLE, DEMOTE_CPU]
    assert job.device == "cpu"
    assert job.policy.state.shards["a"].ladder.is_demoted
    assert job.status.rung == 3


def test_the_end_of_a_shard_is_waited_for() -> None:
    """Two batches at a fifth take less than any remedy; nothing is asked."""
    job = Played(World(spans=(100,), slow=0.19, cpu=0.2, start_seconds=60.0, batches=109)).play()
    assert [kind for kind in job.issued if kind is not DETECT] == []


def test_a_third_worker_ended_in_one_batch_is_the_last_on_the_card() -> None:
    """Two may be chance, and after the second the batch is halved. A worker's first batch is only judged without a
    warm-up; with one it may hang."""
    world = World(spans=(100, 0), slow=1e-4, cpu=0.5, start_seconds=10.0, batches=400)
    job = Played(world, Settings(action="adaptive", warmup=0), knows_cpu=False).play()
    kinds = [kind for kind in job.issued if kind is not DETECT]
    assert kinds == [RECYCLE, RECYCLE, DEMOTE_CPU]


# -- the driver --------------------------------------------------------------------------------------------------------


def crawling(*, can_take: tuple[ActionKind, ...] = (EMPTY_CACHE, RECYCLE, DEMOTE_CPU), batches: int = 30) -> Job:
    """A job that crawls at a tenth under a full memory, and its 60 batches before."""
    job = Job(Settings(action="adaptive", inflight=False), can_take=can_take).batches(60)
    job.memory = FULL
    return job.batches(batches, 0.1)


def test_what_the_driver_cannot_take_is_passed_over_once_with_a_hint() -> None:
    """It stays: the log says what would have made a recycle possible."""
    job = crawling(can_take=())
    assert job.issued == [DETECT]
    passed_over = job.of(DecisionKind.PASSED_OVER)
    assert [d.kind for d in passed_over][:1] == [RECYCLE]
    assert "helix-crawl run" in passed_over[0].reason
    assert len(passed_over) == len({d.kind for d in passed_over})
    assert job.status.rung == 0, "the highest taken"


@pytest.mark.parametrize("outcome", [Outcome.VETOED, Outcome.FAILED])
def test_what_was_vetoed_is_used_up(outcome: Outcome) -> None:
    """The next best comes with the next trip; a demotion that was refused does not make the shard the CPU's."""
    job = Job(Settings(action="adaptive", inflight=False), obeys=False).batches(60)
    job.memory = FULL
    for _ in range(60):
        job.batches(1, 0.1)
        if job.pending is not None:
            job.policy.resolve("a", job.pending.action_id, outcome)
    asked, ladder = [kind for kind in job.issued if kind is not DETECT], job.policy.state.shards["a"].ladder
    assert len(asked) == len(set(asked)) > 1
    assert (ladder.refused, ladder.is_demoted) == (asked, False)


def test_a_release_that_cures_is_counted_and_one_that_does_not_as_well() -> None:
    """Beta(0.5, 2), one in five before any was tried."""
    assert CardCosts().cure_chance == 0.2
    costs = CardCosts(tries=3, cures=3)
    assert costs.cure_chance == 3.5 / 5.5
    job = Job(Settings(action="adaptive", inflight=False), can_take=(EMPTY_CACHE,)).batches(60)
    job.memory = FULL
    for _ in range(40):
        if job.pending is not None:
            break
        job.batches(1, 0.19)
    assert job.issued[-1] is EMPTY_CACHE or job.issued == [DETECT]


@pytest.mark.parametrize(
    ("rate", "age", "pace"),
    [(None, 40.0, 50.0), (1000.0, 40.0, 4000 / 76), (100.0, 20.0, 100.0), (100.0, 40.0, 100.0), (100.0, 60.0, 50.0)],
)
def test_the_pace_of_a_batch_in_flight(rate: float | None, age: float, pace: float) -> None:
    """That of the batch before while it may be so, then as much later again as it is late; stuck, w / (2 age)."""
    assert ContextCosts(rate=rate).pace(4000.0, age) == pytest.approx(pace)


def test_a_card_that_is_slow_for_another_reason_is_left_alone_after_one_trial() -> None:
    """A fresh worker is slow as well, before its memory is full: nothing that is done to its memory helps."""
    job = Job(ADAPTIVE, can_end_worker=True).batches(60)
    for _ in range(100):
        worker = job.policy.state.workers["w"]
        job.memory = FULL if worker.batches > 6 else LOW
        job.batches(1, 0.15)
    assert [kind for kind in job.issued if kind is not DETECT] == [RECYCLE]


def measured() -> CardCosts:
    """A card of which all is known."""
    return CardCosts([40.0], [30.0], [160.0, 170.0], [1e5, 2e5], [5e4], tries=3, cures=1, crawls=4)


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_costs_come_back_from_the_state_file() -> None:
    """Of the card, and of the shard; with another encoder the shard's number of recycles alone."""
    job = Played(World(spans=(100, 2), slow=0.01, cpu=0.5, start_seconds=45.0, batches=400)).play()
    job.policy.state.encoder = "m1"
    shard = job.policy.state.shards["a"]
    restored = restore_durable(dump_durable(job.policy.state), "m1")
    assert restored.costs == job.policy.state.costs
    assert restored.shards["a"].costs == shard.costs
    assert shard.costs.recycles == 2
    assert restore_durable(dump_durable(job.policy.state), "m2").shards["a"].costs == ShardCosts(recycles=2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tries", -1, r"costs\['k'\]: tries is -1; accepted: 0 to 1e\+18"),
        ("cures", 4, r"costs\['k'\]: cures is 4; accepted: at most tries \(3\)"),
        ("spans", [1.0, -2.0], r"costs\['k'\]: spans is \[1.0, -2.0\]; accepted: 0 to 1e\+18"),
        ("recycle_seconds", "no", r"costs\['k'\].recycle_seconds is 'no'; accepted: a list"),
        ("crawl_seconds", [float("nan")], r"costs\['k'\].crawl_seconds\[0\] is nan; accepted: a finite number"),
    ],
)
def test_damaged_costs_are_refused_by_name(name: str, value: object, message: str) -> None:
    """As every field of the state file."""
    content = dump_durable(Job().policy.state)
    content["costs"] = {"k": {**vars(measured()), name: value}}
    with pytest.raises(ValueError, match=message):
        restore_durable(content, "")


def test_of_each_cost_the_latest_are_kept() -> None:
    """The file stays small, and a machine may change."""
    kept: list[float] = []
    for value in range(-1, 20):
        note(kept, float(value))
    assert kept == [float(value) for value in range(20 - KEPT, 20)]


# -- it converges ------------------------------------------------------------------------------------------------------

WORLDS = st.builds(
    World,
    spans=st.lists(st.sampled_from([1, 2, 9, 20, 60, 200]), min_size=1, max_size=6).map(lambda rest: (40, *rest)),
    slow=st.sampled_from([0.15, 0.05, 0.01]),
    cpu=st.sampled_from([0.6, 0.3, 0.1, 0.03]),
    start_seconds=st.sampled_from([0.0, 5.0, 45.0, 300.0]),
    batches=st.sampled_from([50, 120, 400]),
)


@given(WORLDS, st.booleans())
@settings(max_examples=40, deadline=None)
def test_it_takes_a_quarter_longer_than_the_cpu_at_most_and_one_cycle(world: World, knows_cpu: bool) -> None:
    """From the first trip on, whatever the contexts do and the starts cost: against the CPU that it knows of, as in ski
    rental; and never more than 20 recycles."""
    job = Played(world, knows_cpu=knows_cpu).play()
    assert job.issued.count(RECYCLE) <= MOST_RECYCLES
    tripped = next((decision for decision in job.decisions if decision.kind is DETECT), None)
    if tripped is None:
        return
    cpu = world.cpu if knows_cpu else min(world.cpu, CPU_SHARE)
    cycles = [tripped.t, *[t for t in job.cycles if t >= tripped.t], job.t]
    longest = max(later - earlier for earlier, later in pairwise(cycles))
    on_the_cpu = (world.batches - 40) * WORK / (RATE * cpu)
    guess = 60.0  # of a start, until one was measured
    allowed = 1.25 * on_the_cpu + longest + world.start_seconds + guess
    assert job.t - tripped.t <= allowed
