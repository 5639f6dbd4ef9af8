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
        (
            {"name": "a", "device": None},
            "device is None; accepted: a name such as cuda:0 or cpu",
        ),
        ({"name": "a", "device": "GPU"}, "device is 'GPU'; accepted: cpu, cuda, cuda:N"),
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


class Device:
    """A stand-in for `torch.device`, which has these two attributes and no common base."""

    def __init__(self, kind: object, index: object = None) -> None:
        self.type = kind
        self.index = index


@pytest.mark.parametrize(
    ("given", "device"),
    [
        *((name, name.strip().lower()) for name in ("cuda:1", "CUDA:1", " Cpu ", "MPS:0")),
        ("CUDA", "cuda:0"),
        *((number, f"cuda:{number}") for number in (0, 3)),
        (Device("cuda"), "cuda:0"),
        (Device("cuda", 2), "cuda:2"),
        (Device("cpu"), "cpu"),
        (Device("cpu", 0), "cpu"),
    ],
)
def test_a_device_is_taken_as_torch_gives_it(given: Any, device: str) -> None:
    """By name, whatever its letters, by the number of a card, and as the object that a model has at `.device`."""
    with Rig() as rig:
        assert rig.watch.shard("a", device=given).device == device


@pytest.mark.slow
def test_a_real_device_of_torch() -> None:
    """Also what a real one is."""
    torch = pytest.importorskip("torch", reason="needs torch")
    with Rig() as rig:
        for device in (torch.device("cuda"), torch.device("cuda", 0), torch.zeros(1).device):
            assert rig.watch.shard("a", device=device).device == ("cpu" if device.type == "cpu" else "cuda:0")
        with pytest.raises(ValueError, match=r"device is device\(type='meta'\); accepted: cpu, cuda, cuda:N"):
            rig.watch.shard("a", device=torch.device("meta"))


@pytest.mark.parametrize("given", [True, -1, 1.5, b"cuda", ["cuda"], object(), Device(None), Device("cuda", "0")])
def test_what_is_no_device_is_refused(given: Any) -> None:
    """With what is accepted."""
    accepted = "accepted: a name such as cuda:0 or cpu, the number of a CUDA card, or a torch.device"
    with Rig() as rig, pytest.raises(ValueError, match="^" + re.escape(f"device is {given!r}; {accepted}") + "$"):
        rig.watch.shard("a", device=given)


async def _rebuilds() -> None:
    """Nobody awaits it."""


def test_a_coroutine_function_demotes_nothing() -> None:
    """It is refused when the shard is made: at the third rung its body would never run."""
    accepted = "accepted: a callable that does its work itself, no coroutine function"
    with Rig() as rig, pytest.raises(ValueError, match=accepted):
        rig.watch.shard("a", on_demote=_rebuilds)


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
