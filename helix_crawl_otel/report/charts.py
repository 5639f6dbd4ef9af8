"""Draws a shard over time: speed, baseline and limit above, memory below, actions across both.

Colours are names here; who saves the figure says what they are, so that one drawing serves a page in light and dark and
a picture. matplotlib is imported late: only who draws needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from helix_crawl_otel.report.story import DETECT, HANG, Reading, ReportAction, ReportBatch, ShardReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["LABELS", "NARROW", "PICTURE", "WIDE", "Layout", "draw", "figure"]

LABELS = {
    DETECT: "crawl detected",
    "EMPTY_CACHE": "cache released",
    "RECYCLE": "worker recycled",
    "DEMOTE_CPU": "moved to the CPU",
    HANG: "hang",
}

_Item = TypeVar("_Item")

MOST_POINTS = 400
"""Batches, and readings, drawn of a figure: of more, the slowest and the fastest (the fullest) of each stretch."""


@dataclass(frozen=True)
class Layout:
    """A size to draw for.

    Args:
        inches: Width and height.
        font: Points.
        has_words: Whether there is room to name the actions beside their numbers.
        left: Where the axes begin, as a fraction of the width.
    """

    inches: tuple[float, float]
    font: float
    has_words: bool
    left: float


WIDE = Layout((11.0, 4.9), 10.5, True, 0.07)
NARROW = Layout((4.7, 5.6), 10.5, False, 0.17)
PICTURE = Layout((11.0, 4.6), 10.0, True, 0.07)


def figure(
    tale: ShardReport,
    steps: Mapping[int, ReportAction],
    factor: float,
    full: float,
    ink: Mapping[str, str],
    layout: Layout,
) -> Figure:
    """One shard as a figure.

    Args:
        tale: The shard.
        steps: Its actions by the number that they carry in the table.
        factor: Crawl limit = baseline / factor.
        full: Fraction of the memory that counts as full.
        ink: Colours by name: `ink`, `soft`, `line`, `rate`, `crawl`, `memory`.
        layout: The size.
    """
    from matplotlib.figure import Figure

    page = Figure(figsize=layout.inches)
    page.patch.set_alpha(0)
    draw(page, tale, steps, factor, full, ink, layout, top=0.87 if steps else 0.97)
    return page


def draw(
    page: Figure | SubFigure,
    tale: ShardReport,
    steps: Mapping[int, ReportAction],
    factor: float,
    full: float,
    ink: Mapping[str, str],
    layout: Layout,
    top: float = 0.87,
) -> None:
    """Draw a shard into a figure or a part of one; see `figure`.

    Args:
        top: Where the axes end, as a fraction of the height; above are the numbers of the actions.
    """
    speed, memory = page.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [1.9, 1], "hspace": 0.16})
    page.subplots_adjust(left=layout.left, right=0.985, top=top, bottom=0.11)
    began, ended = _window(tale, steps)
    scale, unit = _unit(ended - began)
    _speed(speed, tale, factor, scale, ink, layout)
    _memory(memory, tale, full, scale, ink, layout)
    speed.set_xlim(began / scale, ended / scale)
    memory.set_xlabel(f"{unit} since the run began", color=ink["soft"], fontsize=layout.font, parse_math=False)
    for start in tale.starts:
        for axes in (speed, memory):
            axes.axvline(start.t / scale, color=ink["soft"], linewidth=1.0, linestyle=(0, (1, 3)), zorder=1)
    _mark(speed, memory, steps, scale, (began, ended), ink, layout)


def _window(tale: ShardReport, steps: Mapping[int, ReportAction]) -> tuple[float, float]:
    began, ended = tale.span
    times = [step.t for step in steps.values()]
    began, ended = min([began, *times]), max([ended, *times])
    margin = 0.015 * max(ended - began, 1e-3)
    return began - margin, ended + margin


def _unit(seconds: float) -> tuple[float, str]:
    if seconds > 3 * 86400:
        return 86400.0, "days"
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 180 else (1.0, "seconds")


def _speed(axes: Axes, tale: ShardReport, factor: float, scale: float, ink: Mapping[str, str], layout: Layout) -> None:
    batches = thinned(tale.batches)
    for crawling, colour, width in ((False, "rate", 2.6), (True, "crawl", 3.0)):
        x: list[float] = []
        y: list[float] = []
        for batch in batches:
            if tale.is_crawling(batch) is crawling:
                # A round end shows a batch of no visible length as a point.
                x += [batch.began / scale, batch.ended / scale, math.nan]
                y += [batch.rate, batch.rate, math.nan]
        axes.plot(x, y, color=ink[colour], linewidth=width, solid_capstyle="round", zorder=3)
    unfinished = thinned(tale.unfinished)
    for batch in unfinished:
        _unfinished(axes, batch, scale, ink["crawl" if tale.is_crawling(batch) else "rate"])
    batches = sorted([*batches, *unfinished], key=lambda batch: batch.ended)
    known = [batch for batch in batches if batch.baseline]
    x, y = [], []
    for at, batch in enumerate(known):
        if at and batch.device != known[at - 1].device:  # another device, another baseline
            x.append(batch.began / scale)
            y.append(math.nan)
        x.append(batch.ended / scale)
        y.append(batch.baseline or math.nan)
    for share, dashes, colour in ((1.0, (0, (6, 3)), "soft"), (factor, (0, (1.5, 2)), "crawl")):
        axes.plot(
            x,
            [level / share for level in y],
            color=ink[colour],
            linewidth=1.3,
            linestyle=dashes,
            drawstyle="steps-pre",
            zorder=2,
        )
    levels = [batch.rate for batch in batches] + [batch.baseline or 0.0 for batch in known]
    levels += [level / factor for level in levels[len(batches) :]]
    lowest, highest = min(levels, default=1.0), max(levels, default=10.0)
    axes.set_yscale("log")
    axes.set_ylim(lowest / 1.6, max(highest, 1.2 * lowest) * 1.6)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: _minor(value, highest / lowest))
    _plain(axes, "genes/s", ink, layout)


def _unfinished(axes: Axes, batch: ReportBatch, scale: float, colour: str) -> None:
    """At the most that its rate can have been, to a cross where its worker ended."""
    x, y = [batch.began / scale, batch.ended / scale], [batch.rate, batch.rate]
    axes.plot(x, y, color=colour, linewidth=2.0, linestyle=(0, (2.5, 1.5)), zorder=3)
    axes.plot(x[1:], y[1:], color=colour, linestyle="none", marker="X", markersize=7.5, zorder=4)


def _minor(value: float, decades: float) -> str:
    """A log axis of less than a decade or so needs more than its powers of ten."""
    digit = round(value / 10 ** math.floor(math.log10(value)))
    return f"{value:g}" if decades < 40 and digit in (2, 5) else ""


def _memory(axes: Axes, tale: ShardReport, full: float, scale: float, ink: Mapping[str, str], layout: Layout) -> None:
    highest = 1.0
    for device in dict.fromkeys(reading.device for reading in tale.readings):
        shown = [reading for reading in tale.readings if reading.device == device]
        for readings, colour, dashes in ((shown, "memory", "solid"), (tale.lent(device), "crawl", (0, (5, 1.5)))):
            kept = thinned_readings(readings)
            axes.plot(
                [reading.t / scale for reading in kept],
                [math.nan if reading.fraction is None else 100 * reading.fraction for reading in kept],
                color=ink[colour],
                linewidth=1.8,
                linestyle=dashes,
                drawstyle="steps-post",
            )
            highest = max([highest, *(reading.fraction or 0.0 for reading in kept)])
    if tale.readings:
        axes.axhline(100 * full, color=ink["crawl"], linewidth=1.2, linestyle=(0, (1.5, 2)))
    else:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color=ink["soft"])
    axes.set_ylim(0, 100 * highest * 1.08)
    axes.set_yticks([0, 50, 100])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0f} %")
    _plain(axes, "memory", ink, layout)


def _mark(
    speed: Axes,
    memory: Axes,
    steps: Mapping[int, ReportAction],
    scale: float,
    window: tuple[float, float],
    ink: Mapping[str, str],
    layout: Layout,
) -> None:
    """A line across both for each action; the number of its row above, with its name where there is room."""
    for step in steps.values():
        for axes in (speed, memory):
            axes.axvline(step.t / scale, color=ink["ink"], linewidth=1.0, alpha=0.75, zorder=1)
    length = window[1] - window[0]
    groups = list(_together(steps, length * (0.012 if layout.has_words else 0.03)))
    ends = [float("-inf")] * 3
    for at, (t, numbers) in enumerate(groups):
        words = ", ".join(map(str, numbers))
        if layout.has_words and len(groups) <= 12:
            kinds = dict.fromkeys(LABELS.get(steps[number].kind, steps[number].kind) for number in numbers)
            words += " " + ", ".join(kinds)
        place = (t - window[0]) / length
        width = (len(words) * 0.0088 if layout.has_words else len(words) * 0.022) + 0.008
        right = place + width > 1.0
        left = place - width if right else place
        row = next((row for row, end in enumerate(ends) if end <= left), at % 3)
        ends[row] = left + width
        speed.annotate(
            words,
            (t / scale, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if right else 3, 2 + row * (layout.font + 3)),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=layout.font,
            color=ink["ink"],
            parse_math=False,
            annotation_clip=False,
        )


def _together(steps: Mapping[int, ReportAction], distance: float) -> Iterator[tuple[float, list[int]]]:
    """Actions that are too near to be told apart share a label."""
    group: list[int] = []
    for number, step in steps.items():
        if group and step.t - steps[group[0]].t > distance:
            yield steps[group[0]].t, group
            group = []
        group.append(number)
    if group:
        yield steps[group[0]].t, group


def _plain(axes: Axes, label: str, ink: Mapping[str, str], layout: Layout) -> None:
    axes.patch.set_alpha(0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(ink["line"])
    axes.grid(axis="y", which="major", color=ink["line"], linewidth=0.8)
    axes.tick_params(which="both", labelsize=layout.font, labelcolor=ink["soft"], color=ink["line"])
    axes.set_ylabel(label, color=ink["soft"], fontsize=layout.font)
    axes.yaxis.set_label_coords(-0.72 * layout.left / (0.985 - layout.left), 0.5)  # whatever the numbers beside it


# -- fewer points -----------------------------------------------------------------------------------------------------


def thinned(batches: list[ReportBatch]) -> list[ReportBatch]:
    """At most about `MOST_POINTS` batches, in their order; of each stretch the slowest and the fastest stay."""
    if len(batches) <= MOST_POINTS:
        return batches
    kept: list[ReportBatch] = []
    for stretch in _stretches(batches, MOST_POINTS // 2):
        ends = {id(one): one for one in (min(stretch, key=lambda b: b.rate), max(stretch, key=lambda b: b.rate))}
        kept += sorted(ends.values(), key=lambda batch: batch.ended)
    return kept


def thinned_readings(readings: list[Reading]) -> list[Reading]:
    """At most about `MOST_POINTS` readings; of each stretch the fullest and the emptiest stay."""
    if len(readings) <= MOST_POINTS:
        return readings
    kept: list[Reading] = []
    for stretch in _stretches(readings, MOST_POINTS // 2):
        known = [reading for reading in stretch if reading.fraction is not None] or stretch[:1]
        ends = {min(known, key=lambda r: r.fraction or 0.0), max(known, key=lambda r: r.fraction or 0.0)}
        kept += sorted(ends, key=lambda reading: reading.t)
    return kept


def _stretches(items: list[_Item], count: int) -> Iterable[list[_Item]]:
    size = math.ceil(len(items) / count)
    return (items[at : at + size] for at in range(0, len(items), size))
