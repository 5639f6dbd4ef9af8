"""The queue between the policy and the driver: each action handed out once, each outcome counted once."""

from __future__ import annotations

import queue
import threading
import time

import pytest

from helix_crawl_otel.actions import ActionQueue, PauseRequested
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome
from tests.watch.rig import FULL, GENES, LOW, WORK, Rig


def action(number: int, kind: ActionKind = ActionKind.EMPTY_CACHE, shard: str = "a") -> Action:
    """An action."""
    return Action(number, kind, shard, "cuda:0", "why")


def filled(count: int = 3) -> ActionQueue:
    """A queue of so many, for shards a and b in turn."""
    actions = ActionQueue()
    for n in range(count):
        actions.put(action(n, shard="ab"[n % 2]))
    return actions


def test_actions_come_oldest_first() -> None:
    """And are gone once they were taken."""
    actions = filled()
    assert len(actions) == 3
    assert [actions.get_nowait().id, actions.get(timeout=1).id, actions.get().id] == [0, 1, 2]
    assert len(actions) == 0


def test_an_empty_queue_raises_what_the_standard_library_raises() -> None:
    """A driver polls it as it polls `queue.Queue`."""
    actions = ActionQueue()
    with pytest.raises(queue.Empty):
        actions.get_nowait()
    started = time.monotonic()
    with pytest.raises(queue.Empty):
        actions.get(timeout=0.05)
    assert time.monotonic() - started > 0.049  # by the clock that it waits by, whatever its tick
    assert actions.drain() == []


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), "1"])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    """A NaN would wait for ever, or not at all."""
    with pytest.raises(ValueError, match=r"timeout is .*; accepted: seconds >= 0, or None"):
        ActionQueue().get(timeout=timeout)


@pytest.mark.parametrize("timeout", [None, 30.0, float("inf"), 1e300])
def test_get_waits_for_an_action(timeout: float | None) -> None:
    """Also for longer than a lock can wait."""
    actions = ActionQueue()
    taken: list[Action] = []
    thread = threading.Thread(target=lambda: taken.append(actions.get(timeout)), daemon=True)
    thread.start()
    actions.put(action(1))
    thread.join(50)
    assert [each.id for each in taken] == [1]


def test_drain_takes_all_or_those_of_one_shard() -> None:
    """Others stay, in order."""
    actions = filled(5)
    assert [each.id for each in actions.drain("b")] == [1, 3]
    assert actions.drain("c") == []
    assert [each.id for each in actions.drain()] == [0, 2, 4]
    assert len(actions) == 0


def test_discard_drops_one_by_its_id() -> None:
    """An action that a later one has made void must not be applied."""
    actions = filled()
    actions.discard(1)
    actions.discard(77)
    assert [each.id for each in actions.drain()] == [0, 2]


def test_a_newer_detect_takes_the_place_of_one_that_nobody_fetched() -> None:
    """So that the queue of a driver that never looks is bounded. Of other shards and kinds nothing is dropped."""
    actions = ActionQueue()
    for each in (
        action(1, ActionKind.DETECT),
        action(2),
        action(3, ActionKind.DETECT, "b"),
        action(4, ActionKind.DETECT),
        action(5),
    ):
        actions.put(each)
    assert [each.id for each in actions.drain()] == [2, 3, 4, 5]


def test_eight_threads_take_each_action_once() -> None:
    """Taken twice, a cache would be released twice; lost, a rung would be used up for nothing."""
    actions = ActionQueue()
    taken: list[int] = []

    def take(number: int) -> None:
        while True:
            found = (actions.drain() if number % 2 else []) or [actions.get()]
            for each in found:
                taken.append(each.id)
            if any(each.id < 0 for each in found):
                return

    threads = [threading.Thread(target=take, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for n in range(2000):
        actions.put(action(n))
    while any(thread.is_alive() for thread in threads):
        actions.put(action(-1))
        for thread in threads:
            thread.join(0.01)
    assert sorted(number for number in taken if number >= 0) == list(range(2000))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_outcome_may_be_said_by_its_word(outcome: Outcome) -> None:
    """A driver need not import the enum."""
    told: list[tuple[Action, Outcome]] = []
    actions = ActionQueue(lambda action, outcome: told.append((action, outcome)))
    actions.acknowledge(action(1), outcome)
    actions.acknowledge(action(1), str(outcome.value))
    assert told == [(action(1), outcome)] * 2


def test_an_outcome_that_is_none_is_refused() -> None:
    """The message lists the words."""
    with pytest.raises(
        ValueError,
        match="outcome is 'done'; accepted: applied, vetoed, passed_over, superseded, overdue, failed",
    ):
        ActionQueue().acknowledge(action(1), "done")


def test_a_driver_that_wants_no_help_polls_and_acknowledges() -> None:
    """It leaves `boundary` alone; what it says is counted once, and the ladder goes on."""
    with Rig() as rig, rig.watch.shard("a", exit_to_recycle=True) as shard:
        rig.healthy(shard)
        release = rig.crawl_until(shard, "EMPTY_CACHE")
        rig.watch.actions.acknowledge(release, "failed")
        rig.watch.actions.acknowledge(release, "applied")
        recycle = rig.crawl_until(shard, "RECYCLE")
        rig.watch.actions.acknowledge(recycle)
        demote = rig.crawl_until(shard, "DEMOTE_CPU")
        rig.watch.actions.acknowledge(demote, Outcome.PASSED_OVER)
        rig.fraction = 0.99
        for _ in range(10):
            rig.batch(shard, 80.0)
        assert len(rig.watch.actions) == 0
        assert shard.status().rung == 3
        assert rig.outcomes() == {
            "DETECT/applied": 1,
            "EMPTY_CACHE/failed": 1,
            "RECYCLE/applied": 1,
            "DEMOTE_CPU/passed_over": 1,
        }


def test_nothing_trips_while_a_recycle_waits() -> None:
    """Until it is acknowledged no further rung is asked for."""
    with Rig() as rig, rig.watch.shard("a", exit_to_recycle=True) as shard:
        rig.healthy(shard)
        recycle = rig.crawl_until(shard, "RECYCLE")
        for _ in range(20):
            rig.batch(shard, 80.0)
        assert shard.status().rung == 2
        assert len(rig.watch.actions) == 0
        rig.watch.actions.acknowledge(recycle, "vetoed")
        assert rig.crawl_until(shard, "DEMOTE_CPU").id > recycle.id


def test_a_later_action_supersedes_a_release_that_nobody_fetched() -> None:
    """It is gone from the queue and counted as superseded."""
    with Rig() as rig, rig.watch.shard("a", exit_to_recycle=True) as shard:
        rig.healthy(shard)
        rig.fraction = 0.99
        for _ in range(10):
            rig.batch(shard, 80.0)
        assert [each.kind.value for each in rig.watch.actions.drain()] == ["DETECT", "RECYCLE"]
        assert rig.outcomes() == {"DETECT/applied": 1, "EMPTY_CACHE/superseded": 1}


@pytest.mark.parametrize("timed_by_the_driver", [False, True])
def test_one_stall_of_an_embedded_job_does_not_move_it_to_the_cpu(timed_by_the_driver: bool) -> None:
    """Batches of half a second and one of two minutes and more: it brings the release of the cache, and that helps."""
    demoted: list[float] = []
    with Rig() as rig, rig.watch.shard("a", on_demote=lambda: demoted.append(rig.clock.now)) as shard:
        rig.batches(shard, 20, 0.5)
        rig.fraction = FULL
        if timed_by_the_driver:
            rig.wait(200.0)
            shard.record(GENES, 200.0, WORK)
            rig.applied += shard.boundary()
        else:
            rig.batches(shard, 1, 200.0)
        rig.fraction = LOW
        rig.batches(shard, 100, 0.5)
        assert [action.kind.value for action in rig.applied] == ["DETECT", "EMPTY_CACHE"]
        assert (demoted, shard.device, shard.status().rung) == ([], "cuda:0", 1)


def test_what_waits_when_a_shard_is_closed_is_gone() -> None:
    """Nobody is left to take it; the shard opened again does not find it."""
    with Rig() as rig:
        with rig.watch.shard("a", exit_to_recycle=True) as shard:
            rig.healthy(shard)
            rig.fraction = 0.99
            for _ in range(10):
                rig.batch(shard, 80.0)
            assert len(rig.watch.actions) == 2
        assert len(rig.watch.actions) == 0
        assert rig.outcomes() == {"DETECT/applied": 1, "EMPTY_CACHE/superseded": 1, "RECYCLE/superseded": 1}
        with rig.watch.shard("a", exit_to_recycle=True) as shard:
            assert shard.boundary() == []


def test_the_length_of_the_queue_is_a_gauge() -> None:
    """An alert on it says that nobody looks."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard)
        rig.fraction = 0.99
        for _ in range(5):
            rig.batch(shard, 80.0)
        assert rig.total("helix_dense_action_queue_length") == len(rig.watch.actions) == 2


@pytest.mark.parametrize(("kind", "code"), [(ActionKind.RECYCLE, 75), (ActionKind.DEMOTE_CPU, 79)])
def test_the_request_to_pause_is_no_exception(kind: ActionKind, code: int) -> None:
    """Uncaught it is the process's exit code; a broad `except Exception` does not swallow it."""
    request = PauseRequested(action(1, kind))
    assert isinstance(request, SystemExit)
    assert not isinstance(request, Exception)
    assert request.code == code
    assert request.action is not None
    assert request.action.kind is kind
    assert str(request) == f"{kind.value} of shard 'a': why"
