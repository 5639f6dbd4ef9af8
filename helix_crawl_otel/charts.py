"""Charts over time: the one place that knows matplotlib, our colours and our style.

Who has something to show says it as values: panels below each other on one time axis, with curves, levels, rules and
notes. Times are seconds; the axis takes the unit that fits. Colours are names: who saves the figure says what they are,
so that one chart serves a page in light and dark, and a picture. matplotlib is imported late: only who draws needs it.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from helix_crawl_otel.formats import printable, printable_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = [
    "DARK",
    "INK",
    "LIGHT",
    "ChartError",
    "ChartNote",
    "ChartRule",
    "Curve",
    "Layout",
    "Level",
    "Page",
    "Panel",
    "Part",
    "check_matplotlib",
    "draw",
    "figure",
    "png_of",
    "svg_of",
    "write",
]

LIGHT = {
    "ink": "#1f2328",
    "soft": "#57606a",
    "line": "#d8dee4",
    "rate": "#1f6fb4",
    "crawl": "#cf2a1a",
    "memory": "#7b5aa6",
}
"""Colours of a picture, and of a page in light."""

DARK = {
    "ink": "#e6edf3",
    "soft": "#9aa4b0",
    "line": "#30363d",
    "rate": "#58a6ff",
    "crawl": "#ff7b72",
    "memory": "#c297ff",
}

INK = {name: f"#01020{at}" for at, name in enumerate(LIGHT)}
"""Stand-ins that nobody else uses: in an SVG each becomes the CSS variable of its name, and the page decides."""

Page: TypeAlias = "Figure"
Part: TypeAlias = "Figure | SubFigure"
"""A page, or a part of one."""

Dashes = tuple[float, ...]
"""Lengths on and off in widths of the line; empty for a solid one."""


class ChartError(Exception):
    """Nothing can be drawn; the message is one sentence that says what to do."""


def check_matplotlib(who: str) -> None:
    """Refuse, before anything is done, what cannot be drawn.

    Raises:
        ChartError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError:
        raise ChartError(f"{who} needs matplotlib: pip install 'helix-crawl-otel[plot]'") from None


# -- what a chart shows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A line through points.

    Args:
        x: Seconds.
        y: Values; NaN ends a piece.
        color: Name.
        width: Points.
        dashes: See there.
        steps: `pre` or `post`: the value holds before, or after its point; empty for straight lines.
        cap: End of a piece; `round` shows one of no visible length as a point.
        above: What is higher covers what is lower.
        name: In the panel's key; empty for none.
        ends_in_cross: A cross at its last point: it came to nothing.
    """

    x: Sequence[float]
    y: Sequence[float]
    color: str
    width: float
    dashes: Dashes = ()
    steps: str = ""
    cap: str = "projecting"
    above: float = 2
    name: str = ""
    ends_in_cross: bool = False


@dataclass(frozen=True)
class Level:
    """A line across the panel at a value, with its name at the left end."""

    y: float
    color: str
    width: float
    dashes: Dashes = ()
    name: str = ""


@dataclass(frozen=True)
class ChartRule:
    """A line from top to bottom at a time, in seconds."""

    t: float
    color: str
    width: float = 1.0
    dashes: Dashes = ()
    alpha: float | None = None


@dataclass(frozen=True)
class ChartNote:
    """Words at a time.

    Args:
        t: Seconds.
        y: Fraction of the panel's height; 1 is its upper edge.
        text: As it stands.
        color: Name.
        offset: Points to the right and up.
        ends_here: The words stand before the time, not after it.
        at: `baseline`, `center` or `top` of the words is at that height.
        size: Points; `None` for the layout's.
        is_bold: For what stands out.
        has_ground: White behind them: they stand among the curves.
    """

    t: float
    y: float
    text: str
    color: str = "ink"
    offset: tuple[float, float] = (3, 0)
    ends_here: bool = False
    at: str = "baseline"
    size: float | None = None
    is_bold: bool = False
    has_ground: bool = False


@dataclass(frozen=True)
class Panel:
    """Axes.

    Args:
        label: Of the values, with their unit.
        curves: From the lowest to the highest; of equal height the last covers.
        limits: Least and greatest value.
        height: Share of the figure's.
        is_log: Logarithmic.
        levels: Across.
        rules: From top to bottom.
        notes: Words.
        ticks: Where numbers stand; `None` leaves it to matplotlib.
        form: How a number is written.
        empty: Said in the middle, where there is nothing to show.
        title: Above it, and its colour.
        has_key: Names of the curves at the lower right.
    """

    label: str
    curves: Sequence[Curve]
    limits: tuple[float, float]
    height: float = 1.0
    is_log: bool = False
    levels: Sequence[Level] = ()
    rules: Sequence[ChartRule] = ()
    notes: Sequence[ChartNote] = ()
    ticks: Sequence[float] | None = None
    form: Callable[[float], str] = "{:g}".format
    empty: str = ""
    title: tuple[str, str] | None = None
    has_key: bool = False


@dataclass(frozen=True)
class Layout:
    """A size to draw for.

    Args:
        inches: Width and height.
        font: Points.
        has_words: Whether there is room to name what is marked.
        left: Where the axes begin, as a fraction of the width.
        bottom: Likewise, of the height.
        gap: Between panels, as a fraction of their mean height.
    """

    inches: tuple[float, float]
    font: float
    has_words: bool
    left: float
    bottom: float = 0.11
    gap: float = 0.16


RIGHT = 0.985


# -- drawing ----------------------------------------------------------------------------------------------------------


def figure(inches: tuple[float, float], paper: str = "") -> Page:
    """An empty figure; without a colour of its paper one can see through it."""
    from matplotlib.figure import Figure

    page = Figure(figsize=inches)
    if paper:
        page.set_facecolor(paper)
    else:
        page.patch.set_alpha(0)
    return page


def write(page: Part, at: tuple[float, float], text: str, size: float, color: str, **how: Any) -> None:
    """Put words on a page; of the place the upper left end counts. A `$` is no formula."""
    page.text(*at, printable_lines(text), fontsize=size, color=color, parse_math=False, **{"va": "top", **how})


def draw(
    page: Part,
    panels: Sequence[Panel],
    span: tuple[float, float],
    ink: Mapping[str, str],
    layout: Layout,
    top: float,
    since: str,
) -> None:
    """Draw panels below each other into a figure, or a part of one.

    Args:
        page: Where.
        panels: From the top.
        span: First and last second.
        ink: Colour by name.
        layout: The size.
        top: Where the axes end, as a fraction of the height.
        since: What the time counts from, behind its unit.
    """
    ratios = {"height_ratios": [panel.height for panel in panels], "hspace": layout.gap}
    rows = page.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw=ratios)[:, 0]
    page.subplots_adjust(left=layout.left, right=RIGHT, top=top, bottom=layout.bottom)
    scale, unit = _unit(span[1] - span[0])
    for axes, panel in zip(rows, panels, strict=True):
        _draw_panel(axes, panel, scale, ink, layout)
    rows[0].set_xlim(span[0] / scale, span[1] / scale)
    rows[-1].set_xlabel(f"{unit} {since}", color=ink["soft"], fontsize=layout.font, parse_math=False)


def _unit(seconds: float) -> tuple[float, str]:
    if seconds > 3 * 86400:
        return 86400.0, "days"
    if seconds > 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if seconds > 180 else (1.0, "seconds")


def _draw_panel(axes: Axes, panel: Panel, scale: float, ink: Mapping[str, str], layout: Layout) -> None:
    for curve in panel.curves:
        x = [t / scale for t in curve.x]
        axes.plot(
            x,
            curve.y,
            color=ink[curve.color],
            linewidth=curve.width,
            linestyle=_dashed(curve.dashes),
            drawstyle=f"steps-{curve.steps}" if curve.steps else "default",
            solid_capstyle=curve.cap,
            zorder=curve.above,
            label=curve.name or None,
        )
        if curve.ends_in_cross:
            cross: dict[str, Any] = {"linestyle": "none", "marker": "X", "markersize": 7.5, "zorder": curve.above + 1}
            axes.plot(x[-1:], curve.y[-1:], color=ink[curve.color], **cross)
    for level in panel.levels:
        axes.axhline(level.y, color=ink[level.color], linewidth=level.width, linestyle=_dashed(level.dashes))
        if level.name:
            across = axes.get_yaxis_transform()
            axes.text(0.004, level.y, level.name, color=ink[level.color], fontsize=9, va="bottom", transform=across)
    for rule in panel.rules:
        how: dict[str, Any] = {"linewidth": rule.width, "alpha": rule.alpha, "zorder": 1}
        axes.axvline(rule.t / scale, color=ink[rule.color], linestyle=_dashed(rule.dashes), **how)
    if panel.empty:
        axes.text(0.5, 0.5, panel.empty, transform=axes.transAxes, ha="center", va="center", color=ink["soft"])
    _draw_scale(axes, panel)
    _draw_frame(axes, panel, ink, layout)
    for note in panel.notes:
        axes.annotate(
            printable(note.text),
            (note.t / scale, note.y),
            xycoords=("data", "axes fraction"),
            xytext=note.offset,
            textcoords="offset points",
            ha="right" if note.ends_here else "left",
            va=note.at,
            fontsize=note.size or layout.font,
            fontweight="bold" if note.is_bold else "normal",
            color=ink[note.color],
            parse_math=False,
            annotation_clip=False,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.6} if note.has_ground else None,
        )


def _dashed(dashes: Dashes) -> Any:
    return (0, dashes) if dashes else "solid"


def _draw_scale(axes: Axes, panel: Panel) -> None:
    """The numbers beside the axes."""
    low, high = panel.limits
    if panel.is_log:
        axes.set_yscale("log")
    axes.set_ylim(low, high)
    if panel.ticks is not None:
        axes.set_yticks(panel.ticks)
    axes.yaxis.set_major_formatter(lambda value, _: panel.form(value))
    if panel.is_log:
        axes.yaxis.set_minor_formatter(lambda value, _: panel.form(value) if _is_told(value, high / low) else "")


def _is_told(value: float, ratio: float) -> bool:
    """A log axis of less than two decades needs more than its powers of ten."""
    return ratio < 100 and round(value / 10 ** math.floor(math.log10(value))) in (2, 5)


def _draw_frame(axes: Axes, panel: Panel, ink: Mapping[str, str], layout: Layout) -> None:
    axes.patch.set_alpha(0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(ink["line"])
    axes.grid(axis="y", which="major", color=ink["line"], linewidth=0.8)
    axes.tick_params(which="both", labelsize=layout.font, labelcolor=ink["soft"], color=ink["line"])
    axes.set_ylabel(panel.label, color=ink["soft"], fontsize=layout.font)
    axes.yaxis.set_label_coords(-0.72 * layout.left / (RIGHT - layout.left), 0.5)  # whatever the numbers beside it
    if panel.title is not None:
        text, color = panel.title
        axes.set_title(text, loc="left", fontsize=11, fontweight="bold", color=ink[color], pad=4)
    if panel.has_key:
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.005, 0.04), "ncols": len(panel.curves)}
        axes.legend(**place, fontsize=9, framealpha=0.9, edgecolor="none")


# -- saving -----------------------------------------------------------------------------------------------------------


def png_of(page: Page, dots: int) -> bytes:
    """A figure as the bytes of a PNG file, with so many dots an inch."""
    with io.BytesIO() as image, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        page.savefig(image, format="png", dpi=dots)
        return image.getvalue()


_FONT = re.compile(r"(font: [^;\"]*?px) [^;\"]*")
_SOURCE = re.compile(r"\s+xmlns(?::\w+)?=\"[^\"]*\"")
_ID = re.compile(r'(\sid="|url\(#|href="#)')


def svg_of(page: Page, key: str, label: str) -> str:
    """A figure as an SVG element of a page: without an address in it, the same each time, with real text.

    matplotlib knows fixed colours only: those of `INK` become CSS variables, which the page has to set.

    Args:
        page: Drawn.
        key: Put before every id, so that two figures of a page do not share one.
        label: What it shows, escaped for HTML; for those who cannot see it.
    """
    from matplotlib import rc_context

    image = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "helix-crawl", "path.simplify": True}):
        page.savefig(image, format="svg", metadata=nothing)
    svg = image.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = _SOURCE.sub("", svg).replace("xlink:href", "href")
    svg = _ID.sub(rf"\g<1>{key}-", svg)
    svg = _FONT.sub(r"\1 system-ui, sans-serif", svg)
    for name, stand_in in INK.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    svg = re.sub(r"<style .*?</style>", "", svg, flags=re.DOTALL)  # it would hold for the whole page
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    return f'<svg role="img" aria-label="{label}" {box[0]}>' + svg[svg.index(">") + 1 :].strip()
