"""The operator's signals are counted while a run lasts, and are the program's own again after it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from helix_crawl_otel.supervise.interrupts import TOGETHER_SECONDS, Interrupts
from tests.watch.rig import Clock

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


@pytest.fixture(autouse=True)
def before() -> Iterator[dict[int, Any]]:
    """The usual handlers, also under nohup. Those of this process are put back whatever a test does."""
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    yield dict.fromkeys(NUMBERS, signal.SIG_DFL)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_each_wish_counts_and_the_handlers_come_back(before: dict[int, Any]) -> None:
    """Ctrl-C, then SIGTERM, then the closed terminal, a second after the other: 1, 2, 3."""
    heard: list[int] = []
    clock = Clock()
    with Interrupts(heard.append, clock):
        for number in NUMBERS:
            signal.raise_signal(number)
            clock.now += TOGETHER_SECONDS
    assert heard == list(range(1, len(NUMBERS) + 1))
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


def test_signals_within_a_second_are_one() -> None:
    """Of one kind or of several. The second runs from the one that has counted: who holds the key down insists."""
    heard: list[int] = []
    clock = Clock()
    with Interrupts(heard.append, clock):
        for _ in range(25):
            for number in NUMBERS:
                signal.raise_signal(number)
            clock.now += 0.1
    assert heard == [1, 2, 3]


def test_the_rest_of_an_interrupt_does_not_end_the_program_after_the_run() -> None:
    """The run was over before it came. A second later the next one is the program's own again."""
    heard: list[int] = []
    clock = Clock()
    own: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: own.append(number))
    with Interrupts(heard.append, clock):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    clock.now += TOGETHER_SECONDS
    assert own == []
    signal.raise_signal(signal.SIGINT)
    assert (own, heard) == ([signal.SIGINT], [1])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_was_ignored_stays_ignored() -> None:
    """Under nohup a closed terminal is no reason to stop; a background job of a shell ignores Ctrl-C."""
    heard: list[int] = []
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)
    with Interrupts(heard.append):
        assert {signal.getsignal(number) for number in NUMBERS} == {signal.SIG_IGN}
        for number in NUMBERS:
            if sys.platform != "win32":
                signal.raise_signal(number)
    assert heard == []
    assert {signal.getsignal(number) for number in NUMBERS} == {signal.SIG_IGN}


def test_the_handlers_come_back_when_the_run_raises(before: dict[int, Any]) -> None:
    """The next Ctrl-C ends the program."""

    def fail() -> None:
        with Interrupts(lambda times: None):
            raise LookupError("the run's")

    with pytest.raises(LookupError):
        fail()
    assert {number: signal.getsignal(number) for number in NUMBERS} == before
