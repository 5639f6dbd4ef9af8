"""The supervisor's own loop: interrupts, exit codes, and that nothing is left behind when it fails itself."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from helix_crawl_otel.interrupts import INTERRUPTS, TOGETHER_SECONDS
from helix_crawl_otel.link.messages import Pause
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.slot import Phase
from tests.supervise.stage import Stage


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of this process come back also where the stage's clock stands still after an interrupt."""
    numbers = [getattr(signal, name) for name in INTERRUPTS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def supervise(stage: Stage, *steps: Callable[[], object]) -> int:
    """Run the loop to its end; each turn takes one step of the test until it has returned something true."""
    waiting = list(steps)

    def step() -> None:
        if waiting and waiting[0]():
            del waiting[0]

    stage.at_turn = step
    code = stage.supervisor.run()
    assert waiting == [], "the run has ended too early"
    return code


def interrupt(stage: Stage) -> bool:
    """What Ctrl-C does, a second after the last one."""
    stage.clock.now += TOGETHER_SECONDS
    signal.raise_signal(signal.SIGINT)
    return True


def greeted(stage: Stage) -> bool:
    """The worker knows its supervisor and has opened a shard."""
    stage.worker.hello()
    stage.worker.open("a")
    return True


def left(stage: Stage, code: int) -> bool:
    """The worker ends."""
    stage.worker.leave(code)
    return True


def test_a_run_that_ends_well() -> None:
    """0, and the handlers of the signals are what they were."""
    before = signal.getsignal(signal.SIGINT)
    with Stage() as stage:
        assert supervise(stage, lambda: greeted(stage), lambda: left(stage, 0)) == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("code", [75, 0, 1])
def test_the_first_interrupt_pauses_whatever_the_driver_makes_of_it(code: int) -> None:
    """It is told, finishes and leaves its shard: 75, and another run takes it up."""
    with Stage() as stage:

        def obeys() -> bool:
            stage.worker.next_told(Pause)
            stage.worker.close("a", "paused")
            return left(stage, code)

        assert supervise(stage, lambda: greeted(stage), lambda: interrupt(stage), obeys) == 75
        assert [event.times for event in stage.of(events.Interrupted)] == [1]
        assert stage.of(events.Crash) == []
        assert len(stage.workers) == 1


def test_the_second_interrupt_ends_the_worker_at_once() -> None:
    """130: it is inside a batch and does not come to its boundary."""
    with Stage() as stage:

        def in_a_batch() -> bool:
            stage.start_batch(stage.worker, "a")
            return True

        assert supervise(stage, lambda: greeted(stage), in_a_batch, *[lambda: interrupt(stage)] * 2) == 130
        assert stage.whys() == ["it was ended by the operator"]
        assert stage.run.is_paused


def test_the_second_interrupt_while_a_worker_is_being_ended() -> None:
    """It is being ended for an action: nothing waits for another one, no worker follows, and the code is 130."""
    with Stage() as stage:

        def ended() -> bool:
            stage.worker.may_end.clear()
            stage.slot.end_worker("RECYCLE")
            return True

        def lets_go() -> bool:
            assert stage.slot.phase is Phase.ENDING
            stage.worker.may_end.set()
            return True

        assert supervise(stage, lambda: greeted(stage), ended, *[lambda: interrupt(stage)] * 2, lets_go) == 130
        assert len(stage.workers) == 1
        assert stage.run.is_paused


def test_an_interrupt_while_nothing_runs() -> None:
    """A slot that waits for its backoff is over at once."""
    with Stage() as stage:
        steps = (lambda: greeted(stage), lambda: left(stage, 1), lambda: stage.slot.phase is Phase.WAITING)
        assert supervise(stage, *steps, lambda: interrupt(stage)) == 75
        assert len(stage.workers) == 1


def test_a_worker_that_can_never_start_ends_the_others() -> None:
    """78: no retry, and the other slots pause."""
    with Stage(devices=("cuda:0", "cuda:1")) as stage:

        def never() -> bool:
            stage.workers[0].hello()
            stage.workers[1].hello()
            stage.workers[0].leave(78)
            return True

        def paused() -> bool:
            stage.workers[1].next_told(Pause)
            stage.workers[1].leave(75)
            return True

        assert supervise(stage, never, lambda: stage.run.pausing, paused) == 78
        assert len(stage.workers) == 2


def test_a_75_that_nobody_asked_for_ends_the_run_with_75() -> None:
    """The driver has reasons of its own."""
    with Stage() as stage:
        assert supervise(stage, lambda: greeted(stage), lambda: left(stage, 75)) == 75
        assert stage.series("helix_dense_shards") == {("state=paused",): 1}


def test_no_worker_outlives_a_supervisor_that_fails() -> None:
    """An error of ours, or of a display, is no reason to leave a process behind."""

    def fails() -> bool:
        raise LookupError("the display")

    before = signal.getsignal(signal.SIGINT)
    with Stage() as stage:
        with pytest.raises(LookupError):
            supervise(stage, lambda: greeted(stage), fails)
        assert stage.worker.exit_code is not None
    assert signal.getsignal(signal.SIGINT) is before
