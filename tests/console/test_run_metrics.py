"""What a scrape sees of a run's end, and who is given the time for one: on a clock of the test's, without a socket."""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.metrics import MeterProvider

from helix_crawl_otel.console import run_metrics
from helix_crawl_otel.console.options import add_common_options, read_common_options
from helix_crawl_otel.console.run_metrics import RunMetrics
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, NEVER, PAUSED, Refusal
from helix_crawl_otel.interrupts import PausedEarly
from helix_crawl_otel.otel.endpoint import MetricsEndpoint
from helix_crawl_otel.supervise.session import Metrics
from tests.watch.rig import Clock, collected, make_provider


class Endpoint:
    """In the place of one that serves: who has scraped, and what happens at each look.

    Args:
        waits_for: Addresses that have scraped before the end.
        look: Called at each question; what it returns has scraped since.
    """

    url = "http://127.0.0.1:9464/metrics"

    def __init__(self, waits_for: list[str], look: Callable[[], list[str]]) -> None:
        self.has_ended = self.is_closed = False
        self._waits_for = waits_for
        self._look = look

    def mark_end(self) -> None:
        """See `MetricsEndpoint`."""
        self.has_ended = True

    def unseen(self) -> list[str]:
        """See `MetricsEndpoint`."""
        assert self.has_ended
        for address in self._look():
            self._waits_for.remove(address)
        return list(self._waits_for)

    def close(self) -> None:
        """See `MetricsEndpoint`."""
        self.is_closed = True


class Ran:
    """A run that has come to its end in this test.

    Args:
        monkeypatch: Of the test.
        waits_for: Addresses that have scraped.
        look: See `Endpoint`; `None` for a second that passes, and nobody who scrapes.
        options: Of the command.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        waits_for: tuple[str, ...] = (),
        look: Callable[[], list[str]] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.clock = Clock(0.0)
        self.provider, self.reader = make_provider()
        self.endpoint = Endpoint(list(waits_for), look or self._a_second)
        made = Metrics(cast("MeterProvider", self.provider), cast("MetricsEndpoint", self.endpoint))
        monkeypatch.setattr(run_metrics, "open_metrics", lambda *_, **__: made)
        monkeypatch.setattr(run_metrics, "LOOK_SECONDS", 0.001)
        parser = argparse.ArgumentParser()
        add_common_options(parser)
        common = read_common_options(parser.parse_args(list(options)))
        self.metrics = RunMetrics(common, "/out", "build", Path("/out"), "hashing", self.clock)

    def _a_second(self) -> list[str]:
        self.clock.now += 1.0
        return []

    def states(self) -> dict[str, float]:
        """What is shown of the run."""
        shown = collected(self.reader).get("helix_dense_run_state", {})
        return {labels[2].removeprefix("state="): value for labels, value in shown.items()}

    @property
    def state(self) -> str:
        """The one that is 1."""
        [state] = [state for state, value in self.states().items() if value]
        return state


@pytest.mark.parametrize(
    ("code", "state"),
    [(DONE, "done"), (FAILED, "failed"), (PAUSED, "paused"), (INTERRUPTED, "paused"), (NEVER, "failed")],
)
def test_the_state_of_an_end(monkeypatch: pytest.MonkeyPatch, code: int, state: str) -> None:
    """All four rows from the start to the end, of which one is 1."""
    ran = Ran(monkeypatch)
    with ran.metrics:
        assert ran.states() == {}, "a run that waits for its folder has not begun"
        ran.metrics.open(None)
        assert ran.states() == {"running": 1, "paused": 0, "done": 0, "failed": 0}
        ran.metrics.end(code)
        assert ran.state == state
        assert sum(ran.states().values()) == 1
    assert ran.states() == {}
    assert ran.endpoint.is_closed


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (PausedEarly("interrupted"), "paused"),
        (KeyboardInterrupt(), "paused"),
        (Refusal("another model"), "failed"),
        (OSError("no room"), "failed"),
        (SystemExit(2), "failed"),
    ],
)
def test_the_state_of_an_end_that_nobody_has_told(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, state: str
) -> None:
    """What a plan raises ends the command with a code of its own."""
    seen: list[str] = []
    ran = Ran(monkeypatch)

    def run() -> None:
        with ran.metrics:
            ran.metrics.open(None)
            ran.metrics.keep(lambda: seen.append(ran.state))
            raise error

    with pytest.raises(type(error)):
        run()
    assert seen == [state]


def end(ran: Ran, code: int = PAUSED) -> float:
    """Let it end with this code. Returns for how many seconds it has waited."""
    with ran.metrics:
        ran.metrics.open(None)
        ran.metrics.end(code)
    assert ran.endpoint.is_closed
    return ran.clock.now


def test_nobody_waits_for_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A run that nobody has scraped ends at once, and says nothing of it."""
    assert end(Ran(monkeypatch)) <= 1.0
    assert caplog.messages == []


@pytest.mark.parametrize(("options", "seconds"), [((), 20), (("--linger", "7"), 7), (("--linger", "0"), 0)])
def test_who_does_not_come_back_is_waited_for_so_long(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], seconds: int
) -> None:
    """At most; a second passes at each look of this test."""
    assert seconds <= end(Ran(monkeypatch, ("10.0.0.1",), options=options)) <= seconds + 3


def test_the_wait_is_over_once_all_have_scraped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Two Prometheus of one job, as is usual; the line says whom it waits for, and how to end that."""
    come = {4.0: ["10.0.0.2"], 9.0: ["10.0.0.1"]}

    def look() -> list[str]:
        ran.clock.now += 1.0
        return come.get(ran.clock.now, [])

    ran = Ran(monkeypatch, ("10.0.0.1", "10.0.0.2"), look)
    with caplog.at_level(logging.WARNING, "helix_crawl_otel"):
        assert end(ran) == 9.0
    [line] = caplog.messages
    assert line.startswith("the metrics stay for one more scrape by 10.0.0.1 and 10.0.0.2, at most 20 s (--linger)")


def test_a_second_interrupt_has_ended_the_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """130 waits for nobody."""
    assert end(Ran(monkeypatch, ("10.0.0.1",)), INTERRUPTED) == 0.0


def test_an_interrupt_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """And is none for the command: its exit code stays."""
    before = signal.getsignal(signal.SIGINT)

    def look() -> list[str]:
        ran.clock.now += 2.0
        if ran.clock.now == 6.0:
            signal.raise_signal(signal.SIGINT)
        return []

    ran = Ran(monkeypatch, ("10.0.0.1",), look)
    assert end(ran) < 10.0
    signal.signal(signal.SIGINT, before)  # a part of the same wish may still be on its way


def test_what_it_keeps_is_shown_until_all_have_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gauges of the run, so that the last scrape has what is left."""
    order: list[str] = []

    def look() -> list[str]:
        order.append("look")
        return ["10.0.0.1"] if len(order) == 3 else []

    ran = Ran(monkeypatch, ("10.0.0.1",), look)
    with ran.metrics:
        ran.metrics.open(None)
        ran.metrics.keep(lambda: order.append("hidden"))
        ran.metrics.end(DONE)
    assert order == ["look"] * (len(order) - 1) + ["hidden"]


def test_what_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it was started, with its knobs, in labels that any terminal can show; the model once the plan knows it."""
    ran = Ran(monkeypatch, options=("--factor", "4", "--window", "12", "--action", "cpu", "--vram", "0.9"))
    ran.metrics._facts = ("/out\x1b[2J" + "x" * 600, "build", "/out")
    with ran.metrics:
        ran.metrics.open(None)
        ran.metrics.says("BAAI/bge-m3")
        data: Any = ran.reader.get_metrics_data()
        ran.metrics.end(DONE)
    [info] = [
        SimpleNamespace(**dict(point.attributes))
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "helix_dense_run_info"
        for point in metric.data.data_points
    ]
    assert (info.command, info.folder, info.model) == ("build", "/out", "BAAI/bge-m3")
    assert (info.policy, info.factor, info.window, info.vram_full) == ("cpu", "4", "12", "0.9")
    assert info.run.startswith("/out\\x1b[2J")
    assert len(info.run) <= 512
