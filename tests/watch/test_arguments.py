"""Wrong arguments are refused where they are given: the message names the argument, the value and what is accepted."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from tests.watch.rig import Rig, pipeline_of


def _fails() -> float:
    raise OSError("no clock")


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("config", {"factor": 5}, "a CrawlConfig, or None"),
        ("config", Settings(), "a CrawlConfig, or None"),
        ("meter_provider", "global", "an OpenTelemetry MeterProvider, or None"),
        ("memory", 0.9, "a callable that returns a MemoryReading, or None"),
        ("clock", None, "a callable that returns seconds"),
        ("clock", 12.0, "a callable that returns seconds"),
        ("tick_seconds", 0, "a number of seconds > 0, or None"),
        ("tick_seconds", -5.0, "a number of seconds > 0, or None"),
        ("tick_seconds", float("nan"), "a number of seconds > 0, or None"),
        ("tick_seconds", float("inf"), "a number of seconds > 0, or None"),
        ("tick_seconds", threading.TIMEOUT_MAX * 2, "a number of seconds > 0, or None"),
        ("tick_seconds", 10**400, "a number of seconds > 0, or None"),
        ("tick_seconds", True, "a number of seconds > 0, or None"),
        ("tick_seconds", "5", "a number of seconds > 0, or None"),
        ("state", 7, "the path of a file, or None"),
        ("timeline", b"bytes", "the path of a file, or None"),
        ("encoder", None, "a string"),
    ],
)
def test_arguments_of_the_watch(name: str, value: object, accepted: str) -> None:
    """Before any thread, file or instrument is made."""
    given: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match="^" + re.escape(f"{name} is {value!r}; accepted: {accepted}") + "$"):
        CrawlWatch(**given)


@pytest.mark.parametrize("name", ["state", "timeline"])
def test_a_folder_is_no_file(name: str, tmp_path: Path) -> None:
    """A build's folder, given where its file was meant."""
    given: dict[str, Any] = {name: tmp_path}
    with pytest.raises(ValueError, match=rf"^{name} is '.*'; accepted: the path of a file, not of a folder$"):
        CrawlWatch(**given)


@pytest.mark.parametrize(
    "clock",
    [_fails, lambda: float("nan"), lambda: None, lambda seconds: seconds],
    ids=["raises", "nan", "none", "wants an argument"],
)
def test_a_clock_that_never_works(clock: Callable[[], float]) -> None:
    """One that fails later breaks nothing; one that fails at once is a wrong argument."""
    with pytest.raises(ValueError, match=r"^clock cannot be read \(.*\); accepted: a callable that returns seconds$"):
        CrawlWatch(clock=clock)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": ""}, "shard name is ''; accepted: a string that is not empty"),
        ({"name": 7}, "shard name is 7; accepted: a string that is not empty"),
        ({"name": "a", "device": None}, "device is None; accepted: a name such as cuda:0 or cpu"),
        ({"name": "a", "device": "gpu"}, "device is 'gpu'; accepted: cpu, cuda, cuda:N"),
        ({"name": "a", "device": "cuda:x"}, "device is 'cuda:x'; accepted: cpu, cuda, cuda:N"),
        ({"name": "a", "on_demote": True}, "on_demote is True; accepted: a callable, or None"),
        ({"name": "a", "exit_to_recycle": "yes"}, "exit_to_recycle is 'yes'; accepted: True, False or None"),
        ({"name": "a", "exit_to_recycle": 1}, "exit_to_recycle is 1; accepted: True, False or None"),
    ],
)
def test_arguments_of_a_shard(given: dict[str, Any], message: str) -> None:
    """When the shard is made, not hours later at its third rung."""
    with Rig() as rig, pytest.raises(ValueError, match="^" + re.escape(message)):
        rig.watch.shard(**given)


@pytest.mark.parametrize("hook", [None, "print", 3])
def test_a_hook_must_be_callable(hook: Any) -> None:
    """It would fail at the first crawl, in the night."""
    with Rig() as rig, pytest.raises(ValueError, match=r"hook is .*; accepted: a callable that takes an Action"):
        rig.watch.on_action(hook)


def test_the_knobs_come_from_the_environment_or_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    """An explicit config is taken as it is."""
    monkeypatch.setenv("HELIX_BFM_CRAWL_FACTOR", "10")
    with Rig() as rig:
        assert rig.total("helix_dense_crawl_limit_ratio") == pytest.approx(0.1)
    with Rig(config=CrawlConfig(factor=4.0)) as rig:
        assert rig.total("helix_dense_crawl_limit_ratio") == pytest.approx(0.25)


def test_a_bad_knob_warns_and_the_default_is_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Embedded in somebody's job it is no reason not to run."""
    monkeypatch.setenv("HELIX_BFM_CRAWL_WINDOW", "eight, please")
    with Rig() as rig:
        assert pipeline_of(rig.watch)._feed.ask(lambda policy: policy.settings.window) == 8
    assert "HELIX_BFM_CRAWL_WINDOW is 'eight, please'; accepted:" in caplog.text
