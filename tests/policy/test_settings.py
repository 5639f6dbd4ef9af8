"""The knobs: their defaults, their ranges, and refusals that name the knob, the value and what is accepted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from helix_crawl_otel.policy.policy import TICK_SECONDS, Policy
from helix_crawl_otel.policy.settings import Settings


def test_the_defaults_are_those_of_the_table() -> None:
    """Section 3.2."""
    assert dataclasses.asdict(Settings()) == {
        "factor": 5.0,
        "window": 8,
        "action": "ladder",
        "vram_full": 0.92,
        "ema_alpha": 0.3,
        "warmup": 1,
        "inflight": True,
        "shared": False,
    }
    assert TICK_SECONDS == 5.0


@pytest.mark.parametrize(
    ("name", "values", "accepted"),
    [
        ("factor", [1, 1.0, 0.5, 0, -5, float("nan"), float("inf"), "5", None, True, 10**400], "a number > 1"),
        ("window", [0, -1, 1.0, 8.5, "8", None, True], "an integer >= 1"),
        ("action", ["", "Ladder", "none", None, 1, ["ladder"]], "ladder, cpu, adaptive, off"),
        ("vram_full", [0, -0.1, 1.01, 92, float("nan"), "0.9", None, True, 10**400], r"a number in \(0, 1\]"),
        ("ema_alpha", [0, -0.1, 1.01, float("inf"), "0.3", None, True], r"a number in \(0, 1\]"),
        ("warmup", [-1, 1.0, "1", None, False], "an integer >= 0"),
        ("inflight", ["on", 1, 0, None], "True or False"),
    ],
)
def test_a_bad_value_is_refused_by_message(name: str, values: list[Any], accepted: str) -> None:
    """Each of them, before anything starts."""
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name} is .+; accepted: {accepted}$"):
            Settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("factor", [1.000001, 2, 1e6]),
        ("window", [1, 1000]),
        ("action", ["ladder", "cpu", "adaptive", "off"]),
        ("vram_full", [1e-9, 0.5, 1, 1.0]),
        ("ema_alpha", [1e-9, 0.5, 1, 1.0]),
        ("warmup", [0, 1, 100]),
        ("inflight", [True, False]),
    ],
)
def test_the_ends_of_the_ranges_are_accepted(name: str, values: list[Any]) -> None:
    """What the message says is accepted, is."""
    for value in values:
        assert getattr(Settings(**{name: value}), name) == value


def test_settings_are_frozen_and_comparable() -> None:
    """A value, not an object."""
    assert Settings() == Settings()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().window = 9  # type: ignore[misc]  # frozen: that is what is asked


@pytest.mark.parametrize("tick", [0, -1.0, float("nan"), float("inf")])
def test_a_tick_is_a_length_of_time(tick: float) -> None:
    """Else a trip would never have lasted long enough, or always."""
    with pytest.raises(ValueError, match=r"tick_seconds is .+; accepted: a number of seconds > 0"):
        Policy(Settings(), tick_seconds=tick)
