"""What holds for every job, not only for the examples."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.memory import RISE_BYTES
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind, MemoryReading, Outcome
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import dump_durable, restore_durable
from tests.policy.strategies import FRACTIONS, SETTINGS, SPEEDS, WORKS, Step, play, steps
from tests.policy.timeline import (
    DEMOTE_CPU,
    DETECT,
    EMPTY_CACHE,
    FULL,
    GENES,
    LOW,
    RATE,
    RECYCLE,
    SLICE,
    WORK,
    Job,
    copied,
)

FEW = settings(max_examples=60)


def seen(job: Job) -> tuple[list[Decision], list[object]]:
    """Everything that a job's owner can see."""
    shards = [job.policy.status(shard, job.t) for shard in sorted(job.policy.state.shards)]
    return job.decisions, [*shards, job.policy.state]


@FEW
@given(SETTINGS, steps(st.just(LOW) | st.none()))
def test_nothing_trips_on_unknown_or_low_memory(knobs: Settings, script: list[Step]) -> None:
    """However slow: HANG is the only decision there is."""
    for memory in (None, LOW):
        job = play(Job(knobs, memory=memory), script)
        assert {d.what for d in job.decisions} <= {DecisionKind.HANG}
        assert all(state.ladder.rung == 0 for state in job.policy.state.shards.values())


@FEW
@given(st.integers(0, 7), st.sampled_from([0.15, 0.1, 0.03]), st.booleans())
def test_a_healthy_batch_resets_the_streak(slow: int, speed: float, inflight: bool) -> None:
    """Default knobs: one batch at the baseline lifts the EMA to 0.3 of it at least."""
    job = Job(Settings(inflight=inflight), obeys=False).warmed()
    job.memory = FULL
    while job.status.streak == 0:
        job.batches(1, speed)
    for _ in range(slow):
        if not job.status.episode_open:
            job.batches(1, speed)
    job.batches(1)
    assert job.status.streak == 0


@FEW
@given(SETTINGS, steps(spills=True), st.booleans(), st.booleans())
def test_the_ladder_never_falls_and_never_takes_more_than_three(
    knobs: Settings, script: list[Step], obeys: bool, supervised: bool
) -> None:
    """Within a shard, whatever happens, in this process and the next."""
    rungs: dict[str, int] = {}

    def look(job: Job) -> None:
        for name, shard in job.policy.state.shards.items():
            assert 3 >= shard.ladder.rung >= rungs.get(name, 0)
            rungs[name] = shard.ladder.rung

    job = play(Job(knobs, obeys=obeys, can_end_worker=supervised), script, look)
    state = restore_durable(dump_durable(job.policy.state), "")
    again = play(Job(knobs, obeys=obeys, can_end_worker=supervised, state=state, t=job.t), script, look)
    issued = [d for d in [*job.decisions, *again.decisions] if d.what is DecisionKind.ISSUE and d.kind is not DETECT]
    for name in rungs:
        taken = [d.kind.rung for d in issued if d.shard == name and d.kind is not None]
        assert taken == sorted(set(taken))  # each at most once, upwards
        assert len(taken) <= 3
    if knobs.action == "off":
        assert issued == []
    if knobs.action == "cpu":
        assert {d.kind for d in issued} <= {DEMOTE_CPU}


@FEW
@example(Settings(), [("batches", (10, 1.0, WORK)), ("memory", FULL), ("stall", 4000.0)], True)
@given(SETTINGS, steps(), st.booleans())
def test_where_nobody_can_end_a_batch_no_batch_brings_two_rungs(
    knobs: Settings, script: list[Step], obeys: bool
) -> None:
    """One a boundary, whether the driver comes to it or not."""
    asked: dict[object, int] = {}

    class Counted(Job):
        def _note(self, decisions: list[Decision]) -> None:
            super()._note(decisions)
            for decision in decisions:
                if decision.what is DecisionKind.ISSUE and decision.kind is not DETECT:
                    batch = self._batches, decision.shard
                    asked[batch] = asked.get(batch, 0) + 1

    play(Counted(knobs, obeys=obeys), script)
    assert set(asked.values()) <= {1}


@FEW
@given(SETTINGS, steps(), st.sampled_from([2.0**-20, 0.5, 1024.0, 2.0**40]))
def test_scaling_the_work_changes_nothing(knobs: Settings, script: list[Step], scale: float) -> None:
    """Characters, tokens or kilobytes: only ratios are judged. Decisions, verdicts, genes a second are equal."""
    assert_same_with(knobs, script, lambda work: work * scale)


@FEW
@given(SETTINGS, steps())
def test_work_in_place_of_genes_changes_nothing_when_every_gene_costs_the_same(
    knobs: Settings, script: list[Step]
) -> None:
    """A driver that counts is judged as one that does not."""
    assert_same_with(knobs, script, lambda work: None)


class OtherWork(Job):
    """A job whose driver counts work differently; the batches take as long, with genes in step with the work."""

    counts: Any = staticmethod(lambda work: work)

    def begin(self, *, work: float | None = WORK, genes: float = GENES) -> Job:
        """Start a batch of as many genes as its work makes."""
        assert work is not None
        return super().begin(work=self.counts(work), genes=GENES * work / WORK)


def assert_same_with(knobs: Settings, script: list[Step], counts: Any) -> None:
    """Two jobs that differ in how work is counted."""
    job, other = OtherWork(knobs), OtherWork(knobs)
    other.counts = counts
    play(job, script)
    play(other, script)
    assert [dataclasses.replace(d, t=0.0, evidence={}) for d in other.decisions] == [
        dataclasses.replace(d, t=0.0, evidence={}) for d in job.decisions
    ]
    assert [d.t for d in other.decisions] == pytest.approx([d.t for d in job.decisions])  # a slice is a quotient
    for d, o in zip(job.decisions, other.decisions, strict=True):
        assert o.evidence == pytest.approx(d.evidence)
    for shard in job.policy.state.shards:
        one, two = job.policy.status(shard, job.t), other.policy.status(shard, other.t)
        assert (two.verdict, two.streak, two.rung, two.episode_open) == (
            one.verdict,
            one.streak,
            one.rung,
            one.episode_open,
        )
        assert two.ema == pytest.approx(one.ema)
        assert two.ratio == pytest.approx(one.ratio)


@FEW
@given(SETTINGS, steps(spills=True), st.booleans())
def test_writing_and_reading_the_state_changes_nothing(knobs: Settings, script: list[Step], obeys: bool) -> None:
    """Between any two events, through JSON, into a new policy."""
    job = play(Job(knobs, obeys=obeys, can_end_worker=True), script)
    other = play(Job(knobs, obeys=obeys, can_end_worker=True), script, Job.reload)
    assert seen(other) == seen(job)


def without_shared(decision: Decision) -> Decision:
    """Without what its evidence knows of shared memory."""
    kept = {key: value for key, value in decision.evidence.items() if "shared" not in key}
    return dataclasses.replace(decision, evidence=kept)


@FEW
@given(SETTINGS, steps(spills=True), st.booleans())
def test_with_the_knob_off_shared_memory_changes_nothing(knobs: Settings, script: list[Step], supervised: bool) -> None:
    """Not a verdict, not a decision, not a word: only the evidence knows more."""
    off = dataclasses.replace(knobs, shared=False)
    job = play(Job(off, can_end_worker=supervised), script)
    blind = play(Job(off, can_end_worker=supervised), [step for step in script if step[0] != "shared"])
    assert [without_shared(decision) for decision in job.decisions] == [without_shared(d) for d in blind.decisions]
    for shard in job.policy.state.shards:
        assert job.policy.status(shard, job.t) == blind.policy.status(shard, blind.t)


@FEW
@given(SETTINGS, steps(st.just(LOW) | st.none(), spills=True))
def test_with_the_knob_on_nothing_trips_without_a_rise(knobs: Settings, script: list[Step]) -> None:
    """Unknown is no rise: neither before the first reading nor with none at all."""
    job = play(Job(dataclasses.replace(knobs, shared=True)), script)
    for decision in job.of(DecisionKind.ISSUE):
        rise = decision.evidence["shared_rise_bytes"]
        assert decision.kind is not DETECT or (isinstance(rise, int) and rise > RISE_BYTES)
    if not any(isinstance(value, int) and value > 600 * 1024**2 for name, value in script if name == "shared"):
        assert {decision.what for decision in job.decisions} <= {DecisionKind.HANG}


@FEW
@given(SETTINGS, steps(shards=False), st.sampled_from(["same", "other", "file", "restart"]))
def test_across_a_change_of_worker_exactly_what_rule_9_says_survives(
    knobs: Settings, script: list[Step], change: str
) -> None:
    """Rung, baseline and batches measured; not EMA, streak, episode, or what was pending."""
    job = play(Job(knobs, obeys=False), script)
    job._open()
    before = job.policy.state.shards["a"]
    rung, meters = before.ladder.rung, copied(job.policy.state).shards["a"].meters
    if change == "same":
        job.start_worker(device="cuda:0")
    elif change == "other":
        job.policy.open_shard(job.t, "a", "another", "cuda:0")
    elif change == "restart":
        job.policy.restart()
    else:
        job.policy = Policy(knobs, state=restore_durable(dump_durable(job.policy.state), ""))
    after = job.policy.state.shards["a"]
    assert (after.ladder.rung, after.meters) == (rung, meters)
    assert after.ladder.pending is None
    status = job.policy.status("a", job.t)
    assert (status.ema, status.streak, status.episode_open) == (None, 0, False)
    assert not [batch for batch in job.policy.state.inflight.values() if batch.shard == "a"]


@FEW
@given(SETTINGS, steps())
def test_nothing_trips_while_the_end_of_the_worker_is_pending(knobs: Settings, script: list[Step]) -> None:
    """Between a RECYCLE or DEMOTE_CPU and its outcome the shard issues nothing."""
    job = play(Job(knobs, obeys=False), script)
    pending: dict[str, bool] = {}
    for d in job.decisions:
        if d.what is DecisionKind.ISSUE:
            assert not pending.get(d.shard, False)
            pending[d.shard] = d.kind in (RECYCLE, DEMOTE_CPU)
        elif d.what in (DecisionKind.APPLIED, DecisionKind.SUPERSEDED):
            pending[d.shard] = False


@FEW
@given(SETTINGS, steps(), st.booleans())
def test_every_action_has_one_outcome_at_most(knobs: Settings, script: list[Step], supervised: bool) -> None:
    """And only an action that was issued has one; ids are never used twice."""
    job = play(Job(knobs, obeys=False, can_end_worker=supervised), script)
    issued = [d.action_id for d in job.of(DecisionKind.ISSUE)]
    assert len(issued) == len(set(issued))
    outcomes = [d.action_id for d in job.decisions if d.what in (DecisionKind.APPLIED, DecisionKind.SUPERSEDED)]
    assert len(outcomes) == len(set(outcomes))
    assert set(outcomes) <= set(issued)


@FEW
@given(SETTINGS, st.lists(st.tuples(st.floats(0.1, 900.0), WORKS), max_size=12), FRACTIONS)
def test_ticks_or_no_ticks_the_observations_are_the_same(
    knobs: Settings, batches: list[tuple[float, float]], fraction: float
) -> None:
    """Slices fed one by one as they fall due, or all at once when the batch ends."""
    fine = Job(knobs, memory=fraction, obeys=False, can_take=[]).warmed()
    coarse = Job(knobs, memory=fraction, obeys=False, can_take=[]).warmed()
    for seconds, work in batches:
        fine.begin(work=work).wait(seconds).read_memory().end()
        coarse.begin(work=work).wait(seconds, ticks=False).read_memory().end()

    def judged(job: Job) -> list[Decision]:
        return [d for d in job.decisions if d.what is not DecisionKind.HANG]  # a hang that ended is none

    assert [dataclasses.replace(d, evidence={}) for d in judged(coarse)] == [
        dataclasses.replace(d, evidence={}) for d in judged(fine)
    ]
    assert coarse.policy.state.shards["a"].detectors == fine.policy.state.shards["a"].detectors


@FEW
@given(st.lists(st.floats(0.5, 2.5), min_size=1, max_size=80), st.floats(0.2, 5.0), st.none() | FRACTIONS)
def test_a_healthy_shard_yields_no_decision(speeds: list[float], work: float, memory: float | None) -> None:
    """Half to two and a half times the usual speed, documents of any one length, under any memory."""
    job = Job(memory=memory).warmed()
    for speed in speeds:
        job.batches(1, speed, work=work * WORK)
    assert job.decisions == []


@FEW
@given(st.floats(0.0, 7.99), st.floats(0.4, 1.0), st.sampled_from([0.1, 0.3, 1.0]))
def test_one_stall_of_less_than_a_window_yields_no_decision(slices: float, before: float, alpha: float) -> None:
    """At any pace before and after it from 0.4 of the baseline up; nearer the limit the EMA stays low."""
    job = Job(Settings(ema_alpha=alpha), memory=FULL).warmed().batches(20, before).stall(slices * SLICE)
    job.end()
    assert job.batches(10, before).decisions == []


@FEW
@given(SETTINGS, steps(spills=True))
def test_a_trip_has_its_signature(knobs: Settings, script: list[Step]) -> None:
    """Each DETECT has a window of observations, a ratio below the limit, and a memory that is full, or has spilled."""
    job = play(Job(knobs, obeys=False), script)
    for d in job.decisions:
        if d.what is DecisionKind.ISSUE and d.kind is DETECT:
            evidence: dict[str, Any] = dict(d.evidence)
            assert evidence["streak"] >= knobs.window
            assert evidence["ratio"] < 1 / knobs.factor
            has_spilled = knobs.shared and (evidence["shared_rise_bytes"] or 0) > RISE_BYTES
            assert has_spilled or evidence["memory_fraction"] >= knobs.vram_full
            assert d.reason.startswith("crawl detected: ")
            assert "\n" not in d.reason


# -- nothing raises ---------------------------------------------------------------------------------------------------

STRANGE = st.one_of(
    st.sampled_from([0, 0.0, -1.0, math.nan, math.inf, -math.inf, 1e300, 5e-324, 1e-9, 10**400, True, None, "x", 64]),
    st.floats(),
    st.floats(0.1, 100.0),
)
TIMES = st.one_of(st.floats(-100.0, 2000.0), st.sampled_from([0.0, 1e300, -1e300, math.nan, math.inf, -math.inf]))
NAMES = st.sampled_from(["a", "b"])
WORKERS = st.sampled_from(["w", "v", ""])
DEVICES = st.sampled_from(["cuda:0", "cpu", ""])
IDS = st.sampled_from(["1", "2", "3"])
INFO = st.builds(BatchInfo, IDS, NAMES, WORKERS, DEVICES, STRANGE, STRANGE)
GOOD = st.builds(BatchInfo, IDS, NAMES, WORKERS, st.just("cuda:0"), st.just(64), st.just(4000.0))
EVENTS = st.one_of(
    st.tuples(st.just("open_shard"), TIMES, NAMES, WORKERS, DEVICES, st.sets(st.sampled_from(ActionKind))),
    st.tuples(st.just("close_shard"), TIMES, st.sampled_from(["a", "b", "nobody"])),
    st.tuples(st.just("start_worker"), TIMES, WORKERS, DEVICES),
    st.tuples(st.just("restart")),
    st.tuples(st.just("start_batch"), TIMES, INFO | GOOD),
    st.tuples(st.just("finish_batch"), TIMES, INFO | GOOD, STRANGE),
    st.tuples(st.just("finish_batch"), TIMES, GOOD, st.floats(0.1, 500.0)),
    st.tuples(st.just("abandon_batch"), IDS | st.just("nobody")),
    st.tuples(st.just("advance"), TIMES),
    st.tuples(st.just("resolve"), NAMES | st.just("nobody"), st.integers(-1, 9), st.sampled_from(Outcome)),
    st.tuples(
        st.just("read_memory"),
        TIMES,
        DEVICES,
        st.sampled_from(
            [
                MemoryReading(None, None),
                MemoryReading(1, None),
                MemoryReading(99, 100),
                MemoryReading(9, 1),
                MemoryReading(None, None, 0, 0),
                MemoryReading(9, 10, 10**12),
            ]
        ),
    ),
    st.tuples(st.just("status"), st.sampled_from(["a", "b", "nobody"]), TIMES),
    st.tuples(st.just("baseline"), st.sampled_from(["a", "b", "nobody"]), DEVICES),
)


@settings(max_examples=300)
@given(SETTINGS, st.lists(EVENTS, max_size=60), st.booleans())
def test_no_sequence_of_events_raises(knobs: Settings, events: list[tuple[Any, ...]], warm: bool) -> None:
    """Any numbers, any clock, any order: the policy must not break the job it watches."""
    policy = Policy(knobs)
    if warm:
        for n in range(12):
            info = BatchInfo("0", "a", "w", "cuda:0", 64, 4000.0)
            policy.finish_batch(4.0 * n, info, 4.0)
    for name, *arguments in events:
        getattr(policy, name)(*arguments)
    policy.open_shard(1e4, "a", "w", "cuda:0")
    policy.advance(1e5)
    policy.status("a", 1e5)


@settings(max_examples=100)
@given(SETTINGS, st.lists(st.tuples(st.sampled_from([4.0, 40.0, 400.0, 0.0, -50.0]), SPEEDS), max_size=40))
def test_a_clock_that_stands_still_or_steps_back_raises_nothing(
    knobs: Settings, batches: list[tuple[float, float]]
) -> None:
    """Through crawls, deadlines and recoveries, supervised; and the written state can still be read."""
    job = Job(knobs, obeys=False, can_end_worker=True).warmed()
    job.memory = FULL
    for step, speed in batches:
        job.begin()
        job.t += step
        job.read_memory().tick()
        job.end(seconds=WORK / (RATE * speed))
    assert copied(job.policy.state) == job.policy.state
    assert EMPTY_CACHE not in job.issued or job.status.rung > 0
