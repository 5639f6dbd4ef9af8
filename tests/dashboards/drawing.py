"""Draws each kind of panel that the boards use, much as Grafana does."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from tests.dashboards.answers import Line, Mark, Moment, rows_of, value_of
from tests.dashboards.looks import Look, in_unit, mapped, step_color
from tests.dashboards.sheet import STRONG, Box, Sheet

__all__ = ["DRAWERS", "draw_row"]

Panel = Mapping[str, Any]

TITLE, LEGEND, AXIS = 14.0, 12.0, 12.0
TITLE_ROOM = 34.0
LEGEND_STEP = 19.0
MOST_LEGEND_ROWS = 4


def draw_row(sheet: Sheet, box: Box, title: str) -> None:
    """The line above a row of panels."""
    middle = box.y + box.h / 2
    x = [box.x + 8, box.x + 12, box.x + 16]
    sheet.paper.plot(x, [middle - 2, middle + 2, middle - 2], color=sheet.look.pale, linewidth=1.4)
    sheet.text(box.x + 26, middle, title, 15, weight=STRONG)


def _frame(sheet: Sheet, box: Box, panel: Panel) -> None:
    sheet.fill(box, sheet.look.panel, sheet.look.border)
    title = sheet.shortened(panel["title"], TITLE, box.w - 20, STRONG)
    sheet.text(box.x + 10, box.y + TITLE_ROOM / 2 + 1, title, TITLE, weight=STRONG)


def _draw_number(sheet: Sheet, box: Box, panel: Panel, moment: Moment, marks: Sequence[Mark]) -> bool:
    _frame(sheet, box, panel)
    defaults = panel["fieldConfig"]["defaults"]
    value = value_of(moment, panel)
    text, color = defaults["noValue"], step_color(-math.inf, defaults["thresholds"])
    if value is not None:
        color = step_color(value, defaults["thresholds"])
        found = mapped(value, defaults.get("mappings", []))
        text = in_unit(value, defaults["unit"], defaults.get("decimals"), moment.end)
        text, color = found or (text, color)
    inner = box.within(6, TITLE_ROOM, 6, 6)
    sheet.fill(inner, sheet.look.color(color))
    size = min(38.0, 38.0 * 0.88 * inner.w / max(1.0, sheet.width_of(text, 38.0, STRONG)))
    place = inner.x + inner.w / 2, inner.y + inner.h / 2
    sheet.text(*place, text, size, weight=STRONG, ha="center", color=_ink(sheet.look.color(color)))
    return value is not None


def _ink(background: str) -> str:
    red, green, blue = (int(background[n : n + 2], 16) for n in (1, 3, 5))
    return "#202226" if 0.299 * red + 0.587 * green + 0.114 * blue > 165 else "#ffffff"


def _draw_graph(sheet: Sheet, box: Box, panel: Panel, moment: Moment, marks: Sequence[Mark]) -> bool:
    _frame(sheet, box, panel)
    lines = moment.lines(panel)
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit, decimals = defaults["custom"], defaults["unit"], defaults.get("decimals")
    styles = [_style(panel, line, sheet.look, number) for number, line in enumerate(lines)]
    items = [(line.name, style["color"]) for line, style in zip(lines, styles, strict=True) if style.pop("in_legend")]
    room = _legend(sheet, box, items)
    is_log = custom.get("scaleDistribution", {}).get("type") == "log"
    values = [value for line in lines for value in line.values if value > 0 or not is_log]
    ticks = _ticks(values, defaults, is_log=is_log)
    labels = [in_unit(tick, unit, decimals) for tick in ticks]
    left = 18 + max((sheet.width_of(label, AXIS) for label in labels), default=30)
    axes = sheet.axes(box.within(left, TITLE_ROOM + 4, 14, 26 + room))
    if is_log:
        axes.set_yscale("log")
    axes.set_ylim(*_ends(values, ticks, is_log=is_log))
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_unit(value, unit, decimals)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(color=sheet.look.grid, linewidth=1)
    _time_axis(sheet, axes, moment)
    _draw_marks(sheet, axes, marks)
    _draw_thresholds(sheet, axes, panel)
    for number, (line, style) in enumerate(zip(lines, styles, strict=True)):
        for times, points in _pieces(line, moment.scrape_seconds):
            alone: dict[str, Any] = {"marker": "o", "markersize": 4} if len(times) == 1 else {}
            axes.plot(times, points, **style, **alone, zorder=3 + 0.01 * number, solid_joinstyle="round")
    return any(line.values for line in lines)


def _style(panel: Panel, line: Line, look: Look, number: int) -> dict[str, Any]:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    style = {"color": look.palette[number % len(look.palette)], "linewidth": custom["lineWidth"], "linestyle": "-"}
    style["in_legend"] = True
    style["drawstyle"] = {"stepAfter": "steps-post", "linear": "default"}[custom.get("lineInterpolation", "linear")]
    for override in panel["fieldConfig"]["overrides"]:
        if not re.search(override["matcher"]["options"].strip("/"), line.name):
            continue
        for change in override["properties"]:
            if change["id"] == "color":
                style["color"] = look.color(change["value"]["fixedColor"])
            elif change["id"] == "custom.lineWidth":
                style["linewidth"] = change["value"] * 1.3
            elif change["id"] == "custom.hideFrom":
                style["in_legend"] = not change["value"]["legend"]
            elif change["id"] == "custom.lineStyle":
                style["linestyle"] = (0, tuple(length / 1.6 for length in change["value"]["dash"]))
            else:
                raise ValueError(f"override {change['id']} of {panel['title']!r}")
    return style


def _legend(sheet: Sheet, box: Box, items: Sequence[tuple[str, str]], *, squares: bool = False) -> float:
    """Draw it at the bottom, and say how high it is."""
    rows: list[list[tuple[str, str]]] = [[]]
    used = 0.0
    for name, color in items:
        short = sheet.shortened(name, LEGEND, box.w - 60)
        width = 24 + sheet.width_of(short, LEGEND) + 16
        if used and used + width > box.w - 24:
            rows.append([])
            used = 0.0
        rows[-1].append((short, color))
        used += width
    rows = rows[:MOST_LEGEND_ROWS]
    for number, row in enumerate(rows):
        x, y = box.x + 14, box.y + box.h - LEGEND_STEP * (len(rows) - number) + 4
        for name, color in row:
            thick = 8 if squares else 3
            sheet.paper.plot([x, x + 15], [y, y], color=color, linewidth=thick, linestyle="-", solid_capstyle="butt")
            sheet.text(x + 22, y, name, LEGEND)
            x += 24 + sheet.width_of(name, LEGEND) + 16
    return LEGEND_STEP * len(rows) if items else 0.0


def _ticks(values: Sequence[float], defaults: Mapping[str, Any], *, is_log: bool) -> list[float]:
    if not values:
        return []
    low, high = defaults.get("min", min(values)), max(values)
    if is_log:
        low, high = low * 0.9, high * 1.1
        spread = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if high / low < 200 else (1,)
        return [n * 10.0**power for power in spread for n in steps if low <= n * 10.0**power <= high]
    if high <= low:
        high = low + 1
    size = 1024.0 ** int(math.log(high, 1024)) if defaults["unit"] == "bytes" else 1.0
    is_whole = defaults.get("decimals") == 0 or size > 1
    round_numbers = [1, 2, 5, 10] if is_whole else [1, 2, 2.5, 5, 10]
    found = MaxNLocator(5, steps=round_numbers, integer=is_whole, min_n_ticks=1).tick_values(low / size, high / size)
    return [float(tick) * size for tick in found if low <= tick * size <= high * 1.06]


def _ends(values: Sequence[float], ticks: Sequence[float], *, is_log: bool) -> tuple[float, float]:
    if not values:
        return (0.1, 1.0) if is_log else (0.0, 1.0)
    low, high = min(*values, *ticks, math.inf), max(*values, *ticks, -math.inf)
    if is_log:
        return low * 0.85, high * 1.2
    return min(low, ticks[0]), (high if high > low else low + 1) * 1.06


def _pieces(line: Line, step: float) -> Iterator[tuple[list[float], list[float]]]:
    """A line without its gaps."""
    begin = 0
    for n in range(1, len(line.times) + 1):
        if n == len(line.times) or line.times[n] - line.times[n - 1] > 1.5 * step:
            yield line.times[begin:n], line.values[begin:n]
            begin = n


def _time_axis(sheet: Sheet, axes: Axes, moment: Moment) -> None:
    axes.set_xlim(moment.begin, moment.end)
    step = next(step for step in (30, 60, 120, 300, 600, 1800, 3600, 14_400) if (moment.end - moment.begin) / step <= 8)
    first = math.ceil(moment.begin / step) * step
    form = "%H:%M:%S" if step < 60 else "%H:%M"
    axes.xaxis.set_major_locator(FixedLocator([first + n * step for n in range(9) if first + n * step <= moment.end]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: time.strftime(form, time.gmtime(t))))
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontproperties(sheet.font(AXIS))
        label.set_color(sheet.look.pale)
    axes.tick_params(pad=6)


def _draw_marks(sheet: Sheet, axes: Axes, marks: Sequence[Mark]) -> None:
    """Each as a dashed line where it begins, a tint as long as it lasts, and a bar below the axis.

    The dashes of each colour begin elsewhere, so that two marks of one moment are seen.
    """
    colors = sorted({mark.color for mark in marks})
    for mark in marks:
        phase = colors.index(mark.color)
        color = sheet.look.color(mark.color)
        axes.axvspan(mark.begin, mark.end, color=color, alpha=0.09, linewidth=0, zorder=1)
        axes.axvline(mark.begin, color=color, linewidth=1.3, linestyle=(4 * phase, (4, 4)), zorder=2)
        across = axes.get_xaxis_transform()
        y = -0.008 - 0.016 * phase
        axes.plot([mark.begin, mark.end], [y, y], color=color, linewidth=2.4, transform=across, clip_on=False)


def _draw_thresholds(sheet: Sheet, axes: Axes, panel: Panel) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    if "thresholdsStyle" in defaults["custom"]:
        for step in defaults["thresholds"]["steps"]:
            if step["value"] is not None:
                axes.axhline(step["value"], color=sheet.look.color(step["color"]), linewidth=1.3, linestyle=(0, (5, 4)))


def _draw_states(sheet: Sheet, box: Box, panel: Panel, moment: Moment, marks: Sequence[Mark]) -> bool:
    _frame(sheet, box, panel)
    lines = [line for line in moment.lines(panel) if line.values]
    mappings = panel["fieldConfig"]["defaults"]["mappings"]
    seen: dict[float, tuple[str, str]] = {}
    for value in sorted({value for line in lines for value in line.values}):
        text, color = mapped(value, mappings) or (in_unit(value, "none"), "gray")
        seen[value] = text, sheet.look.color(color)
    room = _legend(sheet, box, list(seen.values()), squares=True)
    left = 22 + max((sheet.width_of(line.name, AXIS) for line in lines), default=30)
    left = min(left, box.w * 0.42)
    inner = box.within(left, TITLE_ROOM + 4, 14, 26 + room)
    axes = sheet.axes(inner)
    axes.set_ylim(max(1, len(lines)), 0)
    axes.yaxis.set_major_locator(FixedLocator([n + 0.5 for n in range(len(lines))]))
    names = [sheet.shortened(line.name, AXIS, left - 18) for line in lines]
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: names[int(y)]))
    _time_axis(sheet, axes, moment)
    for number, line in enumerate(lines):
        for begin, end, value in _bands(line, moment):
            text, color = seen[value]
            axes.barh(number + 0.5, end - begin, left=begin, height=0.8, color=color, alpha=0.9, linewidth=0)
            wide = (end - begin) / (moment.end - moment.begin) * inner.w
            if sheet.width_of(text, AXIS) + 10 < wide:
                where = begin + 6 * (moment.end - moment.begin) / inner.w
                font = sheet.font(AXIS, STRONG)
                axes.text(where, number + 0.5, text, fontproperties=font, color=_ink(color), va="center")
    return bool(lines)


def _bands(line: Line, moment: Moment) -> Iterator[tuple[float, float, float]]:
    """Begin, end and value; equal values that follow each other are one."""
    for times, values in _pieces(line, moment.scrape_seconds):
        begin = 0
        for n in range(1, len(times) + 1):
            if n == len(times) or values[n] != values[begin]:
                end = times[n] if n < len(times) else min(times[-1] + moment.scrape_seconds, moment.end)
                yield times[begin], end, values[begin]
                begin = n


def _draw_table(sheet: Sheet, box: Box, panel: Panel, moment: Moment, marks: Sequence[Mark]) -> bool:
    _frame(sheet, box, panel)
    columns, rows = rows_of(moment, panel)
    overrides = {one["matcher"]["options"]: one["properties"] for one in panel["fieldConfig"]["overrides"]}
    inner = box.within(10, TITLE_ROOM, 10, 6)
    wide = inner.w / max(1, len(columns))
    for number, row in enumerate([list[str | float | None](columns), *rows]):
        y = inner.y + 34 * number
        if y + 34 > inner.y + inner.h:
            break
        for place, (name, value) in enumerate(zip(columns, row, strict=True)):
            cell = Box(inner.x + wide * place, y, wide, 34)
            changes = {one["id"]: one["value"] for one in overrides.get(name, ())}
            text, color, weight = str(value or ""), sheet.look.text, STRONG if number == 0 else "plain"
            if isinstance(value, float):
                found = mapped(value, changes.get("mappings", []))
                text = found[0] if found else in_unit(value, changes.get("unit", "none"))
                if found and "custom.cellOptions" in changes:
                    sheet.fill(cell.within(0, 1, 2, 1), sheet.look.color(found[1]), rounding=0.1)
                    color = _ink(sheet.look.color(found[1]))
            elif number and "links" in changes:
                color = sheet.look.color("light-blue")
            text = sheet.shortened(text, 13, wide - 14, weight)
            sheet.text(cell.x + 8, cell.y + 17, text, 13, color=color, weight=weight)
        sheet.fill(Box(inner.x, y + 33.5, inner.w, 0.8), sheet.look.grid, rounding=0.1)
    return bool(rows)


DRAWERS: Mapping[str, Callable[[Sheet, Box, Panel, Moment, Sequence[Mark]], bool]] = {
    "stat": _draw_number,
    "timeseries": _draw_graph,
    "state-timeline": _draw_states,
    "table": _draw_table,
}
"""By Grafana's name of the kind of panel. Each says whether there was anything to draw."""
