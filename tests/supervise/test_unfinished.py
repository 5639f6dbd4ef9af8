"""A batch whose worker ends in it has a line in the timeline, and the timeline replays to what the job did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.link.messages import AbandonBatch, FinishBatch, Message
from helix_crawl_otel.policy.model import DecisionKind
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.engine import replay
from helix_crawl_otel.supervise.slot import Phase
from helix_crawl_otel.timeline import read_timeline, writer
from tests.supervise.played import PlayedWorker
from tests.supervise.stage import Stage
from tests.watch.rig import FULL, GENES, TICK, WORK


@pytest.fixture(autouse=True)
def writes_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is given up where another thread's write seems to hang; on a busy machine it may take a second."""
    monkeypatch.setattr(writer, "LOCK_SECONDS", 100.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The timeline."""
    return tmp_path / "timeline.jsonl"


def lines(path: Path, *kinds: str) -> list[dict[str, Any]]:
    """The lines of some kinds, in their order."""
    read = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    return [line for line in read if line["event"] in kinds]


def begun(stage: Stage, shard: str = "a") -> PlayedWorker:
    """The newest worker, with this shard open."""
    stage.worker.hello()
    stage.worker.open(shard)
    return stage.worker


def in_flight(stage: Stage, worker: PlayedWorker, ticks: int) -> None:
    """A batch that has been running for so many ticks."""
    stage.tell_memory(worker)
    stage.start_batch(worker, "a")
    for _ in range(ticks):
        stage.tick(worker)


def compare(path: Path) -> list[str]:
    """Recorded and replayed actions are the same, each at the same moment within a tick; returns their kinds."""
    result = replay(read_timeline(path), Settings())
    recorded = lines(path, "action")
    assert [(line["kind"], line["shard"]) for line in recorded] == [
        (decision.kind.value if decision.kind else None, decision.shard) for decision in result.issued()
    ]
    for line, decision in zip(recorded, result.issued(), strict=True):
        for key in ("ema", "baseline", "streak", "inflight_seconds"):
            assert line["evidence"][key] == pytest.approx(decision.evidence[key], rel=1e-3), key
        ended = {DecisionKind.ISSUE, DecisionKind.OVERDUE, DecisionKind.APPLIED, DecisionKind.SUPERSEDED}
        times = [d.t for _, d in result.decisions if d.what in ended and d.action_id == decision.action_id]
        assert min(abs(line["t"] - t) for t in times) <= TICK
    return [line["kind"] for line in recorded]


def test_a_batch_that_is_ended_for_an_overdue_action(path: Path) -> None:
    """The endless batch is there, before the worker in its place, and the replay ends it where the job did."""
    with Stage(timeline=path) as stage:
        stage.begin()
        stage.healthy(begun(stage), "a")
        began = stage.clock.now
        stage.stuck(stage.worker, "a")
        ended = stage.clock.now
        stage.next_worker(2)
        stage.healthy(begun(stage), "a", 3)
    assert [line["event"] for line in lines(path, "worker", "unfinished")] == ["worker", "unfinished", "worker"]
    (line,) = lines(path, "unfinished")
    assert (line["shard"], line["device"], line["worker"]) == ("a", "cuda:0", "slot0")
    assert (line["genes"], line["work"], line["seconds"]) == (GENES, WORK, ended - began)
    assert compare(path) == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    result = replay(read_timeline(path), Settings())
    assert (result.batches, result.cut_batches, result.unfinished_batches) == (9 + 3, 0, 1)


def test_one_batch_after_the_other_up_to_the_cpu(path: Path) -> None:
    """A second worker that gets stuck as well: what was learnt of the first is still the same on both sides."""
    with Stage(timeline=path) as stage:
        stage.begin()
        stage.healthy(begun(stage), "a")
        stage.stuck(stage.worker, "a")
        stage.next_worker(2)
        stage.healthy(begun(stage), "a", 2)
        stage.stuck(stage.worker, "a")
        stage.next_worker(3)
    assert compare(path) == ["DETECT", "EMPTY_CACHE", "RECYCLE", "DETECT", "DEMOTE_CPU"]
    assert len(lines(path, "unfinished")) == 2


@pytest.mark.parametrize("ticks", [1, 31])
def test_a_batch_in_which_its_worker_crashes(path: Path, ticks: int) -> None:
    """Of itself, or killed by somebody: after a moment, or just before it has filled a window alone."""
    with Stage(timeline=path) as stage:
        stage.begin()
        stage.healthy(begun(stage), "a")
        stage.fraction = FULL
        in_flight(stage, stage.worker, ticks)
        stage.worker.leave(-9)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        stage.clock.now += TICK
        stage.next_worker(2)
        stage.healthy(begun(stage), "a", 3)
    assert [line["event"] for line in lines(path, "worker", "unfinished")] == ["worker", "unfinished", "worker"]
    assert lines(path, "unfinished")[0]["seconds"] == ticks * TICK
    assert compare(path) == []


def test_a_batch_of_a_second_interrupt(path: Path) -> None:
    """The run is over with it: no worker follows."""
    with Stage(timeline=path) as stage:
        stage.begin()
        in_flight(stage, begun(stage), 3)
        stage.slot.end_worker("interrupt")
        stage.until(lambda: stage.slot.phase is not Phase.ENDING)
    assert lines(path, "worker", "unfinished")[1:] == lines(path, "unfinished")
    assert lines(path, "unfinished")[0]["seconds"] == 3 * TICK


@pytest.mark.parametrize("how", [FinishBatch(1, 1, TICK), AbandonBatch(1)])
def test_a_batch_that_has_ended_before_its_worker_is_no_such_batch(path: Path, how: Message) -> None:
    """Its end was told, or it raised, which is the driver's affair: that its worker ends right after is nothing new."""
    with Stage(timeline=path) as stage:
        stage.begin()
        worker = begun(stage)
        in_flight(stage, worker, 1)
        worker.say(how)
        worker.leave(1)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
    assert lines(path, "unfinished") == []
    assert len(lines(path, "batch")) == isinstance(how, FinishBatch)
