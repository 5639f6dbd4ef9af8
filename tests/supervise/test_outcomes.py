"""How each action ends, as the counter `helix_dense_ladder_actions` tells it over a supervised run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from helix_crawl_otel.link import messages
from helix_crawl_otel.policy.model import REMEDIES, ActionKind
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.slot import Phase
from tests.supervise.played import PlayedWorker
from tests.supervise.stage import Stage
from tests.watch.rig import SLOW, TICK


def begun(stage: Stage, can_take: Sequence[ActionKind] = REMEDIES) -> PlayedWorker:
    """A worker with a whole baseline."""
    worker = stage.begin()
    worker.hello()
    worker.open("a", can_take=can_take)
    stage.healthy(worker, "a")
    return worker


@pytest.mark.parametrize("outcome", ["vetoed", "failed", "passed_over"])
def test_what_the_worker_says_of_a_release(outcome: str) -> None:
    """Its hook vetoes it, it raises, or it cannot be done there: counted once, and the rung is used up."""
    with Stage() as stage:
        worker = begun(stage)
        action = stage.crawl(worker, "a", "EMPTY_CACHE")
        worker.acknowledge(action, outcome)
        worker.acknowledge(action, "applied")
        assert stage.outcomes() == {f"EMPTY_CACHE/{outcome}": 1}
        assert stage.crawl(worker, "a", "RECYCLE").kind is ActionKind.RECYCLE


def test_a_vetoed_recycle_ends_no_worker() -> None:
    """The driver's hook has refused: it goes on, the next trip asks for the CPU, and no exit is expected of it."""
    with Stage() as stage:
        worker = begun(stage)
        worker.acknowledge(stage.crawl(worker, "a", "EMPTY_CACHE"))
        worker.acknowledge(stage.crawl(worker, "a", "RECYCLE"), "vetoed")
        worker.acknowledge(stage.crawl(worker, "a", "DEMOTE_CPU"), "vetoed")
        assert stage.outcomes() == {"EMPTY_CACHE/applied": 1, "RECYCLE/vetoed": 1, "DEMOTE_CPU/vetoed": 1}
        assert stage.run.demoted == set()
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        worker.leave(79)
        stage.turn()
        assert stage.of(events.Crash) != []
        assert stage.slot.phase is Phase.WAITING


def test_rungs_that_the_driver_cannot_take_are_passed_over() -> None:
    """It is asked for the next one that it can."""
    with Stage() as stage:
        worker = begun(stage, can_take=[ActionKind.RECYCLE])
        worker.acknowledge(stage.crawl(worker, "a", "RECYCLE"))
        assert stage.outcomes() == {"EMPTY_CACHE/passed_over": 1, "RECYCLE/applied": 1}
        worker.leave(75)
        second = stage.next_worker(2)
        second.hello()
        second.open("a", can_take=[ActionKind.RECYCLE])
        for _ in range(20):
            stage.batch(second, "a", SLOW)
        assert stage.outcomes() == {"EMPTY_CACHE/passed_over": 1, "RECYCLE/applied": 1, "DEMOTE_CPU/passed_over": 1}
        assert stage.run.demoted == set()


def test_a_release_that_nobody_fetched_is_superseded_by_the_recycle() -> None:
    """The worker is told that it is void, and its late word about it changes nothing."""
    with Stage() as stage:
        worker = begun(stage)
        release = stage.crawl(worker, "a", "EMPTY_CACHE", boundary=False)
        recycle = stage.crawl(worker, "a", "RECYCLE", boundary=False)
        assert [m.action for m in worker.told if isinstance(m, messages.VoidAction)] == [release.id]
        worker.acknowledge(release)
        assert stage.outcomes() == {"EMPTY_CACHE/superseded": 1}
        worker.acknowledge(recycle)
        assert stage.outcomes() == {"EMPTY_CACHE/superseded": 1, "RECYCLE/applied": 1}


def test_a_batch_that_does_not_end_makes_the_release_overdue_and_a_recycle_of_it() -> None:
    """The worker is ended, another one takes the shard up, and that is the recycle, applied. The next one the CPU's."""
    with Stage() as stage:
        worker = begun(stage)
        stage.stuck(worker, "a")
        second = stage.next_worker(2)
        assert stage.outcomes() == {"EMPTY_CACHE/overdue": 1, "RECYCLE/applied": 1}
        assert stage.starts()[-1] == ("cuda:0", "recycle")
        assert stage.whys() == ["it was ended for RECYCLE"]
        assert stage.run.totals.lost_seconds >= 8 * TICK
        second.hello()
        second.open("a")
        stage.batch(second, "a", SLOW)
        stage.stuck(second, "a")
        third = stage.next_worker(3)
        assert stage.outcomes() == {"EMPTY_CACHE/overdue": 1, "RECYCLE/applied": 1, "DEMOTE_CPU/overdue": 1}
        assert stage.starts()[-1] == ("cpu", "demote")
        assert third.hello().demoted_shard == "a"
        assert stage.of(events.Crash) == []


def test_a_crash_before_the_boundary_is_what_the_recycle_asked_for() -> None:
    """Another process is there. A release that waited is void then."""
    with Stage() as stage:
        worker = begun(stage)
        worker.acknowledge(stage.crawl(worker, "a", "EMPTY_CACHE"))
        stage.crawl(worker, "a", "RECYCLE")
        worker.leave(1)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        stage.clock.now += 1.0
        stage.next_worker(2)
        assert stage.starts()[-1] == ("cuda:0", "crash")
        assert stage.outcomes() == {"EMPTY_CACHE/applied": 1, "RECYCLE/applied": 1}


def test_a_crash_before_the_boundary_with_the_cpu_asked_for_goes_on_there() -> None:
    """No rung is left, so the change of worker has to be the demotion."""
    with Stage() as stage:
        worker = begun(stage, can_take=[ActionKind.DEMOTE_CPU])
        stage.crawl(worker, "a", "DEMOTE_CPU")
        worker.leave(-11)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        stage.clock.now += 1.0
        second = stage.next_worker(2)
        assert stage.starts()[-1] == ("cpu", "crash")
        assert second.hello().demoted_shard == "a"
        assert stage.outcomes()["DEMOTE_CPU/applied"] == 1


def test_a_shard_that_ends_makes_what_it_was_asked_for_void() -> None:
    """Its last batch was the one that tripped."""
    with Stage() as stage:
        worker = begun(stage)
        action = stage.crawl(worker, "a", "EMPTY_CACHE")
        worker.close("a")
        worker.acknowledge(action)
        assert stage.outcomes() == {"EMPTY_CACHE/superseded": 1}


def test_a_driver_that_moves_to_the_cpu_in_place_does_not_leave() -> None:
    """DEMOTE_CPU is applied by its `on_demote`; the series go on on the other device, and its end is the job's end."""
    with Stage() as stage:
        worker = begun(stage)
        worker.acknowledge(stage.crawl(worker, "a", "EMPTY_CACHE"))
        worker.acknowledge(stage.crawl(worker, "a", "RECYCLE"), "passed_over")
        demote = stage.crawl(worker, "a", "DEMOTE_CPU")
        worker.say(messages.StartWorker("cpu", "demote"))
        worker.say(messages.MoveShard("a", "cpu"))
        worker.acknowledge(demote)
        assert stage.series("helix_dense_worker_up") == {("device=cpu",): 1}
        assert stage.outcomes()["DEMOTE_CPU/applied"] == 1
        worker.close("a")
        worker.leave(0)
        stage.turn()
        assert stage.slot.phase is Phase.OVER
        assert stage.whys() == ["done"]
