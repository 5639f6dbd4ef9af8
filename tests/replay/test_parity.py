"""Promise: a replay decides what the policy decided when it lived with the job.

The other side is written apart from the engine: a job on a virtual clock, ticking every quarter of a second, that
drives `Policy` as a supervisor does, records itself with `TimelineWriter`, and acts on nothing but the policy's state.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helix_crawl_otel.commands.replay import replay
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind, MemoryReading, Outcome
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import PolicyState, dump_durable, restore_durable
from helix_crawl_otel.timeline import TimelineWriter, read_timeline

GPU = "cuda:0"
MIB = 1024**2
TICK = 1.0
ENDS_WORKER = (ActionKind.RECYCLE, ActionKind.DEMOTE_CPU)


@dataclass(frozen=True)
class Plan:
    """One batch of the job: how long it takes, how full the card is then, what comes before it."""

    seconds: float
    used: int
    work: int = 64_000
    pause: float = 0.5
    before: str = ""
    """`worker` for a new worker, `run` for a new run, else nothing."""
    lost: bool = False
    """Its worker crashes at the end of those seconds; another one is started after the pause."""
    shard: str = "a"
    shared: int | None = None
    """MiB of shared memory that the worker holds meanwhile, `None` for unknown."""
    waiting: int | None = None
    """Work that waits for a vector when it begins, `None` for unknown."""


class Live:
    """Drives the policy beside a job and records the job.

    Args:
        path: Of the timeline.
        settings: The knobs.
        obeys: A worker that is ended inside a batch is gone, and another one is started after the pause, as in a
            supervised job; else the batch goes on as if nothing had been asked for.
        state: To go on from, `None` to begin.
    """

    def __init__(
        self, path: Path, settings: Settings, *, obeys: bool = False, state: PolicyState | None = None
    ) -> None:
        self.now = 0.0
        self.obeys = obeys
        self.policy = Policy(settings, state=state)
        self.issued: list[Decision] = []
        self.writer = TimelineWriter(path, lambda: 0.0)
        self.writer.run(state=state)
        self.batches = 0
        self.was_ended = False

    def play(self, plans: list[Plan]) -> list[Decision]:
        """The whole job; returns what was issued."""
        for plan in plans:
            if plan.before == "run":
                self.now = 0.0
                self.writer.run()
                self.policy.restart()
            elif plan.before == "worker":
                self.writer.worker(self.now, GPU, pid=1, reason="crash")
                self.policy.start_worker(self.now, GPU, GPU)
            is_worker_left = self.encode(plan)
            self.now += plan.pause
            if not is_worker_left:
                reason = "recycle" if self.was_ended else "crash"
                self.writer.worker(self.now, GPU, pid=1, reason=reason)
                self.keep(self.policy.start_worker(self.now, GPU, GPU, reason))
        self.writer.close()
        return self.issued

    def encode(self, plan: Plan) -> bool:
        """One batch; returns whether its worker is left. One that is ended inside takes no more part in it."""
        self.batches += 1
        info = BatchInfo(str(self.batches), plan.shard, GPU, GPU, 64, plan.work)
        end = round(self.now + plan.seconds, 6)
        self.read(plan)
        self.keep(self.policy.open_shard(self.now, plan.shard, GPU, GPU, can_end_worker=True))
        told: dict[str, Any] = {}
        if plan.waiting is not None:
            told = {"work_pending": plan.waiting, "shards_follow": plan.waiting % 2 == 0}
            self.policy.wait_for(plan.shard, plan.waiting, shards_follow=told["shards_follow"])
        self.keep(self.policy.start_batch(self.now, info))
        alive, now, began = True, self.now, self.now
        while alive and now + TICK < end:
            now += TICK
            alive = self.keep(self.policy.advance(now))
        if alive:
            # What was due before the end is seen by a tick just before it.
            alive = self.keep(self.policy.advance(end - 1e-6))
        is_ended_for_it = self.was_ended = self.obeys and not alive
        self.now = now if is_ended_for_it else end
        if plan.lost or is_ended_for_it:
            self.writer.unfinished(self.now, plan.shard, GPU, 64, self.now - began, work=plan.work, **told)
            self.policy.abandon_batch(info.id)
            return False
        self.read(plan)
        self.writer.batch(end, plan.shard, GPU, 64, plan.seconds, work=plan.work, **told)
        if alive:
            decisions, problem = self.policy.finish_batch(end, info, plan.seconds)
            assert problem is None
            self.keep(decisions)
            self.boundary(plan.shard)
        return True

    def read(self, plan: Plan) -> None:
        """A reading, now."""
        shared = None if plan.shared is None else plan.shared * MIB
        other = None if shared is None else 1000 - plan.used
        self.writer.memory(self.now, GPU, plan.used, 120, shared, other)
        self.policy.read_memory(self.now, GPU, MemoryReading(plan.used, 120, shared, other))

    def boundary(self, shard: str) -> None:
        """The driver does what it is asked."""
        pending = self.policy.state.shards[shard].ladder.pending
        if pending is not None and pending.kind in ENDS_WORKER:
            self.policy.start_worker(self.now, GPU, GPU)
        elif pending is not None:
            self.policy.resolve(shard, pending.id, Outcome.APPLIED)

    def keep(self, decisions: list[Decision]) -> bool:
        """Returns whether the worker lives on."""
        for decision in decisions:
            if decision.what is DecisionKind.ISSUE:
                self.issued.append(decision)
            if decision.forced:
                if not self.obeys:
                    self.policy.start_worker(decision.t, GPU, GPU)
                return False
        return True


def compare(path: Path, plans: list[Plan], knobs: Settings, *, obeys: bool = False) -> int:
    """Play live and replay; returns how many decisions there were."""
    live = Live(path, knobs, obeys=obeys).play(plans)
    result = replay(read_timeline(path), knobs)
    assert [(d.kind, d.shard, d.rung, d.forced) for d in result.issued()] == [
        (d.kind, d.shard, d.rung, d.forced) for d in live
    ]
    for replayed, lived in zip(result.issued(), live, strict=True):
        assert replayed.t == pytest.approx(lived.t, abs=1e-3)
        for key, value in lived.evidence.items():
            assert replayed.evidence[key] == (pytest.approx(value, rel=1e-3) if isinstance(value, float) else value)
    return len(live)


WARM = [Plan(4.0, 60)] * 9
WARM_LOW = [Plan(4.0, 60, shared=150)] * 9
"""With shared memory read as well."""


@pytest.mark.parametrize(
    ("plans", "least"),
    [
        ([*WARM, *[Plan(28.0, 119)] * 60], 5),
        ([*WARM, Plan(2820.0, 119), *WARM], 3),
        ([*WARM, *[Plan(300.0, 119)] * 8], 5),
        ([*WARM, *[Plan(300.0, 119)] * 3, Plan(4.0, 119, before="run"), *[Plan(300.0, 119)] * 4], 5),
        ([*WARM, *[Plan(60.0, 119)] * 4, Plan(60.0, 119, before="worker"), *[Plan(60.0, 119)] * 20], 5),
        ([*WARM, *[Plan(300.0, 119, shard="b")] * 8], 5),
        ([*WARM, *[Plan(300.0, 60)] * 8], 0),
        ([*WARM, *[Plan(80.0, 119, work=64_000 * 20)] * 20], 0),
    ],
    ids=["slow", "endless", "long", "two-runs", "new-worker", "born-crawling", "not-full", "long-documents"],
)
@pytest.mark.parametrize("action", ["ladder", "cpu", "adaptive", "off"])
def test_replay_decides_what_the_live_policy_decided(
    tmp_path: Path, plans: list[Plan], least: int, action: str
) -> None:
    """The same kinds, shards, rungs and evidence, at the same moments."""
    knobs = Settings(action=action)
    count = compare(tmp_path / "timeline.jsonl", plans, knobs)
    assert count >= (least if action == "ladder" else min(least, 1))


@pytest.mark.parametrize(
    ("plans", "least"),
    [
        ([*WARM, Plan(2820.0, 119), *WARM], 3),
        ([*WARM, *[Plan(2820.0, 119), Plan(4.0, 119)] * 3, *WARM], 5),
        ([*WARM, Plan(150.0, 119, lost=True), *[Plan(300.0, 119, pause=0.0)] * 4], 3),
        ([*WARM, *[Plan(400.0, 119, lost=True)] * 2, Plan(300.0, 119, before="run"), Plan(300.0, 119, shard="b")], 5),
        ([*WARM, Plan(9000.0, 60), *WARM], 0),
        ([*WARM, *[Plan(150.0, 119, lost=True)] * 8], 0),
    ],
    ids=["endless", "endless-again", "crash", "crashes-and-runs", "hang", "crashes-before-a-trip"],
)
@pytest.mark.parametrize("action", ["ladder", "cpu", "adaptive", "off"])
def test_replay_decides_what_a_supervised_job_did(tmp_path: Path, plans: list[Plan], least: int, action: str) -> None:
    """Batches whose worker was ended for them, or died in them, are judged for as long as they ran, and not longer."""
    count = compare(tmp_path / "timeline.jsonl", plans, Settings(action=action), obeys=True)
    assert count >= (least if action == "ladder" else min(least, 1))
    assert (count > 0) == (least > 0)
    assert '"unfinished"' in (tmp_path / "timeline.jsonl").read_text()


@pytest.mark.parametrize(
    ("plans", "least"),
    [
        ([*WARM_LOW, *[Plan(28.0, 60, shared=700)] * 60], 3),
        ([*WARM_LOW, Plan(2820.0, 60, shared=4000), *WARM_LOW], 3),
        ([*WARM_LOW, *[Plan(60.0, 60, shared=700)] * 4, Plan(60.0, 60, before="worker", shared=100)]
         + [Plan(60.0, 60, shared=700)] * 20, 3),
        ([*WARM_LOW, *[Plan(300.0, 60, shared=600)] * 8], 0),
        ([*WARM, *[Plan(300.0, 60)] * 8], 0),
    ],
    ids=["slow", "endless", "new-worker", "less-than-512-mib", "unknown"],
)  # fmt: skip
def test_replay_judges_by_shared_memory_as_the_live_policy_did(tmp_path: Path, plans: list[Plan], least: int) -> None:
    """With the knob on, on a card that is never full; with it off nothing trips, live or replayed."""
    count = compare(tmp_path / "on.jsonl", plans, Settings(shared=True))
    assert count >= least
    assert (count > 0) == (least > 0)
    assert compare(tmp_path / "off.jsonl", plans, Settings()) == 0


@pytest.mark.parametrize("action", ["ladder", "cpu", "adaptive"])
def test_replay_knows_what_a_run_went_on_from(tmp_path: Path, action: str) -> None:
    """Rungs, baselines and costs that no line of its own timeline tells: those before lie elsewhere, or are gone."""
    knobs = Settings(action=action)
    first = Live(tmp_path / "first.jsonl", knobs, obeys=True)
    first.play([*WARM, *[Plan(300.0, 119)] * 3, *WARM, *[Plan(300.0, 119, shard="b")] * 2])
    assert first.issued

    path = tmp_path / "second.jsonl"
    kept = restore_durable(json.loads(json.dumps(dump_durable(first.policy.state))), "")
    second = Live(path, knobs, obeys=True, state=kept)
    issued = [(d.kind, d.shard, d.rung) for d in second.play([*[Plan(4.0, 60)] * 2, *[Plan(300.0, 119)] * 3])]
    assert issued

    def replayed(lines: list[dict[str, Any]]) -> list[tuple[object, str, int]]:
        stream = io.BytesIO("".join(json.dumps(line) + "\n" for line in lines).encode())
        return [(d.kind, d.shard, d.rung) for d in replay(read_timeline(stream), knobs).issued()]

    run, *rest = map(json.loads, path.read_text().splitlines())
    assert replayed([run, *rest]) == issued
    blank = {key: value for key, value in run.items() if key != "state"}
    assert replayed([blank, *rest]) != issued
    assert replayed([run | {"state": {"version": 99}}, *rest]) == replayed([blank, *rest])  # of a later version

    before = list(map(json.loads, (tmp_path / "first.jsonl").read_text().splitlines()))
    told = len(first.issued)
    assert replayed([*before, run, *rest])[told:] == replayed([*before, blank, *rest])[told:] == issued


PLANS = st.lists(
    st.builds(
        Plan,
        seconds=st.sampled_from([3.7, 4.1, 19.3, 27.7, 61.3, 299.9, 1501.3]),
        used=st.sampled_from([60, 119]),
        work=st.sampled_from([9_000, 64_000, 65_000, 640_000]),
        pause=st.sampled_from([0.003, 0.5, 70.0]),
        before=st.sampled_from([""] * 12 + ["worker", "run"]),
        shard=st.sampled_from(["a", "a", "a", "b"]),
        shared=st.sampled_from([None, 0, 150, 700, 4000]),
        lost=st.sampled_from([False] * 6 + [True]),
        waiting=st.sampled_from([None, 64_000, 640_001, 64_000_000]),
    ),
    max_size=25,
)


@given(
    plans=PLANS,
    knobs=st.sampled_from(
        [
            Settings(),
            Settings(window=3, warmup=0),
            Settings(inflight=False, window=2),
            Settings(window=3, shared=True),
            Settings(action="adaptive", window=3),
        ]
    ),
    obeys=st.booleans(),
)
@settings(max_examples=40)
def test_any_job(tmp_path_factory: pytest.TempPathFactory, plans: list[Plan], knobs: Settings, obeys: bool) -> None:
    """Whatever the job does, and whether or not its workers are ended for it."""
    compare(tmp_path_factory.mktemp("live") / "timeline.jsonl", [*WARM_LOW, *plans], knobs, obeys=obeys)


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    """Other knobs decide otherwise: the timeline alone does not make the decisions."""
    path = tmp_path / "timeline.jsonl"
    live = Live(path, Settings()).play([*WARM, *[Plan(28.0, 119)] * 60])
    other = replay(read_timeline(io.BytesIO(path.read_bytes())), Settings(factor=8.0))
    assert live
    assert not other.issued()
