"""The operator's signals are counted while a run lasts, and are the program's own again after it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from helix_crawl_otel.supervise.interrupts import Interrupts

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


def test_each_signal_counts_and_the_handlers_come_back(before: dict[int, Any]) -> None:
    """Ctrl-C, then SIGTERM, then the closed terminal: 1, 2, 3."""
    heard: list[int] = []
    with Interrupts(heard.append):
        for number in NUMBERS:
            signal.raise_signal(number)
    assert heard == list(range(1, len(NUMBERS) + 1))
    assert {number: signal.getsignal(number) for number in NUMBERS} == before


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
