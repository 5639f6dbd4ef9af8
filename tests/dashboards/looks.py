"""Grafana's colours and units, as far as the boards use them.

Source: `createVisualizationColors`, `palette` and the value formats of `@grafana/data` 11.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["DARK", "UNITS", "Look", "in_unit", "mapped", "step_color"]


@dataclass(frozen=True)
class Look:
    """A theme.

    Args:
        canvas: Behind the panels.
        panel: Behind a graph.
        border: Of a panel.
        grid: Lines of an axis.
        text: Titles and legends.
        pale: Numbers on an axis.
        hues: The colours that boards name.
    """

    canvas: str
    panel: str
    border: str
    grid: str
    text: str
    pale: str
    hues: Mapping[str, str]

    def color(self, name: str) -> str:
        """What a board's name of a colour looks like."""
        return self.hues[name]

    @property
    def palette(self) -> list[str]:
        """Colours of series, in their order."""
        named = ("green", "semi-dark-yellow", "light-blue", "semi-dark-orange", "red", "blue", "purple")
        return [self.hues[name] for name in named] + [
            "#705DA0",
            self.hues["dark-green"],
            self.hues["yellow"],
            "#447EBC",
        ]


DARK = Look(
    "#111217",
    "#181b1f",
    "#2e3036",
    "#2a2d33",
    "#ccccdc",
    "#9a9aa8",
    {
        "red": "#F2495C",
        "orange": "#FF9830",
        "semi-dark-orange": "#FF780A",
        "yellow": "#FADE2A",
        "semi-dark-yellow": "#F2CC0C",
        "green": "#73BF69",
        "dark-green": "#37872D",
        "blue": "#5794F2",
        "light-blue": "#8AB8FF",
        "purple": "#B877D9",
        "gray": "#808080",
    },
)
UNITS = ("none", "percentunit", "s", "bytes", "dateTimeFromNow", "suffix:")
"""Beginnings of the units that can be written."""


def in_unit(value: float, unit: str, decimals: int | None = None, now: float = 0.0) -> str:
    """A value as Grafana writes it.

    Args:
        value: In the unit.
        unit: Grafana's name of it.
        decimals: As the panel says; None leaves it to the size of the value.
        now: For a date, in seconds since 1970.

    Raises:
        ValueError: A unit that no board had so far.
    """
    if unit == "percentunit":
        return f"{_digits(100 * value, decimals)}%"
    if unit == "s":
        return _duration(value, decimals)
    if unit == "bytes":
        for name in ("B", "KiB", "MiB", "GiB"):
            if value < 1024 or name == "GiB":
                return f"{_digits(value, decimals)} {name}"
            value /= 1024
    if unit == "dateTimeFromNow":
        return _ago(now - value / 1000)
    if unit == "none":
        return _digits(value, decimals)
    if unit.startswith("suffix:"):
        return f"{_digits(value, decimals)} {unit.removeprefix('suffix:')}"
    raise ValueError(f"unit {unit!r}")


def _digits(value: float, decimals: int | None) -> str:
    """Three digits, and whole numbers without a fraction."""
    if decimals is None:
        is_whole = math.isclose(value, round(value), abs_tol=1e-9)
        decimals = 0 if is_whole else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{math.floor(value * 10**decimals + 0.5) / 10**decimals:.{decimals}f}"  # halves go up, as in a browser


def _duration(seconds: float, decimals: int | None) -> str:
    if seconds and abs(seconds) < 1:
        return f"{_digits(1000 * seconds, decimals)} ms"
    for size, name in ((86_400, "day"), (3600, "hour"), (60, "min")):
        if abs(seconds) >= size:
            return f"{_digits(seconds / size, decimals)} {name}" + ("s" if seconds != size else "")
    return f"{_digits(seconds, decimals)} s"


def _ago(seconds: float) -> str:
    if seconds < 45:
        return "a few seconds ago"
    if seconds < 90:
        return "a minute ago"
    if seconds < 45 * 60:
        return f"{round(seconds / 60)} minutes ago"
    return "an hour ago" if seconds < 90 * 60 else f"{round(seconds / 3600)} hours ago"


def mapped(value: float, mappings: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Text and colour that a board gives a value, None without."""
    for mapping in mappings:
        found = mapping["options"].get(f"{value:g}")
        if found:
            return found["text"], found["color"]
    return None


def step_color(value: float, thresholds: Mapping[str, Any]) -> str:
    """Colour of the highest threshold that a value has reached."""
    colors = [step["color"] for step in thresholds["steps"] if step["value"] is None or value >= step["value"]]
    return str(colors[-1])
