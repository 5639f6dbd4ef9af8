"""Draws a scenario over time, a row a policy with the card's memory below, into a PNG, or a page that holds the
picture, the figures and the definitions.

Source: DESIGN.md, section 3.3 (`simulate --plot`).
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

from helix_crawl_otel.charts import (
    LIGHT,
    ChartError,
    ChartNote,
    ChartRule,
    Curve,
    Layout,
    Level,
    Page,
    Panel,
    check_matplotlib,
    draw,
    figure,
    png_of,
    svg_of,
    write,
)
from helix_crawl_otel.formats import html_text, span
from helix_crawl_otel.simulate.compare import Comparison, Row, legend, table
from helix_crawl_otel.simulate.loop import GIVE_UP_SECONDS, Mark, SimulatedRun
from helix_crawl_otel.simulate.policies import CARD

__all__ = ["check_picture", "draw_into", "figure_of"]

SUFFIXES = (".png", ".html")

INK = LIGHT | {
    "none": "#7a7a7a",
    "release": "#c77c11",
    "finished-batches": "#7b5aa6",
    "ladder": "#1f6fb4",
    "ladder+cap": "#2b9aa8",
    "adaptive": "#b0457b",
    "adaptive+cap": "#8a6d1f",
    "best": "#2a7f3e",
}
"""A colour a policy beside those of every chart."""

LAYOUT = Layout((11.0, 11.2), 9.5, True, 0.08, bottom=0.055, gap=0.42)

_LABELS = {
    "DETECT": "crawl noticed",
    "EMPTY_CACHE": "cache released",
    "RECYCLE": "worker recycled",
    "DEMOTE_CPU": "moved to the CPU",
    "RESTART": "worker restarted",
    "RETURN": "back to the card",
}
_MAX_LABELS = 6


def check_picture(path: Path) -> None:
    """Refuse, before anything is run, what cannot be drawn.

    Raises:
        ChartError: Another kind of file than `.png` or `.html`, or matplotlib is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ChartError(f"--plot is {str(path)!r}; accepted: a file name that ends in .png or .html")
    check_matplotlib("--plot")


def draw_into(path: Path, comparison: Comparison, rows: Sequence[Row] = ()) -> None:
    """Draw a scenario into a file.

    Args:
        path: Ends in `.png` or `.html`. The page loads nothing.
        comparison: All policies on one draw of a scenario.
        rows: Of the table below the picture; none for those of this draw.

    Raises:
        ChartError: See `check_picture`.
        OSError: The file cannot be written.
    """
    check_picture(path)
    page = figure_of(comparison)
    if path.suffix.lower() == ".html":
        path.write_text(
            _page(comparison, rows, svg_of(page, "f", "Speed and memory under each policy")), encoding="utf-8"
        )
    else:
        path.write_bytes(png_of(page, 130))


def figure_of(comparison: Comparison) -> Page:
    """The picture of a scenario.

    Args:
        comparison: All policies on one scenario.
    """
    scenario, end = comparison.scenario, _horizon(comparison)
    page = figure(LAYOUT.inches, "white")
    title = f"{scenario.name}: {scenario.genes:,} genes on a card of {scenario.card.limit_gib:g} GiB, modelled"
    write(page, (0.012, 0.985), title, 15, INK["ink"], fontweight="bold")
    write(page, (0.012, 0.957), textwrap.fill(scenario.text, 130), 10, INK["soft"])
    tokens = fmean(item.load.tokens for item in comparison.runs["best"].attempts or comparison.runs["none"].attempts)
    key = (
        f"Rows: encode speed in genes/s (at the mean length, {tokens:.0f} tokens), log scale.  "
        "Dashed: healthy baseline.  Dotted: crawl limit."
    )
    write(page, (0.012, 0.905), key, 9.5, INK["ink"])
    write(page, (0.985, 0.905), "Red: crawling", 9.5, INK["crawl"], ha="right", fontweight="bold")
    limits = _limits(comparison, tokens, end)
    rows = [_speed(comparison, policy, run, tokens, end, limits) for policy, run in comparison.runs.items()]
    draw(page, [*rows, _memory(comparison, end)], (0.0, end), INK, LAYOUT, 0.862, "since the start")
    return page


def _horizon(comparison: Comparison) -> float:
    """Where the time axis ends: shortly after the ladder, so that a run of days does not squeeze it to a line."""
    finishes = [run.finish_seconds for name, run in comparison.runs.items() if name in ("ladder", "best")]
    known = [seconds for seconds in finishes if seconds is not None]
    latest = max((item.ended for item in comparison.runs["none"].attempts), default=60.0)
    return 1.3 * max(known) if known else latest


def _limits(comparison: Comparison, tokens: float, end: float) -> tuple[float, float]:
    """Of the speed axes, the same for all rows."""
    rates = [
        item.load.work / tokens / (item.ended - item.began)
        for run in comparison.runs.values()
        for item in run.attempts
        if item.began < end and item.ended > item.began
    ]
    lowest, highest = max(min(rates) / 1.5, max(rates) / 5000), max(rates) * 1.2
    return lowest, highest * (highest / lowest) ** 0.6  # the upper part is for the labels


def _speed(
    comparison: Comparison, policy: str, run: SimulatedRun, tokens: float, end: float, limits: tuple[float, float]
) -> Panel:
    curves = []
    for crawling, color in ((False, policy), (True, "crawl")):
        times: list[float] = []
        rates: list[float] = []
        for item in run.attempts:
            if item.crawling is crawling and item.began <= end:
                rate = max(item.load.work / tokens / max(item.ended - item.began, 1e-9), 1.2 * limits[0])
                times += [item.began, item.ended, item.ended]
                rates += [rate, rate, math.nan]
        curves.append(Curve(times, rates, color, 3 if crawling else 1.6, cap="butt"))
    judged = [item for item in comparison.runs["ladder"].attempts if item.baseline and item.device == CARD]
    levels = []
    if judged:
        baseline = median((item.baseline or 0.0) * item.load.tokens / tokens for item in judged)
        limit = median((item.limit or 0.0) * item.load.tokens / tokens for item in judged)
        levels = [Level(baseline, "ink", 0.8, (6, 4)), Level(limit, "crawl", 0.9, (1, 2))]
    groups = list(_together([mark for mark in run.marks if mark.what in _LABELS and mark.t <= end], 0.005 * end))
    rules = [ChartRule(group[0].t, "ink") for group in groups]
    notes = [_label(at, group) for at, group in enumerate(groups[:_MAX_LABELS])]
    if run.finish_seconds is not None and run.finish_seconds <= end:
        rules.append(ChartRule(run.finish_seconds, policy, 2.5))
        notes.append(ChartNote(run.finish_seconds, 0.16, "done", policy, (5, 0), at="center", is_bold=True))
    else:
        beyond = "goes on beyond this picture \N{RIGHTWARDS ARROW}"
        notes.append(ChartNote(end, 0.93, beyond, policy, (-3, 0), ends_here=True, at="top"))
    return Panel(
        "genes/s",
        curves,
        limits,
        is_log=True,
        levels=levels,
        rules=rules,
        notes=notes,
        ticks=[10.0**power for power in range(math.ceil(math.log10(limits[0])), math.ceil(math.log10(limits[1])))],
        form=lambda value: f"{value:g}" if value < 100 else "",
        title=(_headline(comparison, policy), policy),
    )


def _headline(comparison: Comparison, policy: str) -> str:
    row = comparison.row(policy)
    if row.finish_seconds is None:
        return f"{policy}: not finished after {span(GIVE_UP_SECONDS)}"
    text = f"{policy}: finished after {span(row.finish_seconds)}"
    if row.ratio_to_best is None or policy == "best":
        return text
    return f"{text}, {row.ratio_to_best:.{2 if row.ratio_to_best < 10 else 0}f} times the best possible"


def _together(marks: Sequence[Mark], distance: float) -> Iterator[list[Mark]]:
    """Marks of the same moment share a line and its words."""
    group: list[Mark] = []
    for mark in marks:
        if group and mark.t - group[0].t >= distance:
            yield group
            group = []
        group.append(mark)
    if group:
        yield group


def _label(at: int, group: Sequence[Mark]) -> ChartNote:
    words = dict.fromkeys(_LABELS[mark.what] + (" by force" if mark.forced else "") for mark in group)
    height = 0.94 if at % 2 == 0 else 0.75
    return ChartNote(group[0].t, height, ", ".join(words), offset=(4, 0), at="top", size=8.5, has_ground=True)


def _memory(comparison: Comparison, end: float) -> Panel:
    limit_gib = comparison.scenario.card.limit_gib
    curves = []
    for policy, run in comparison.runs.items():
        shown = [(t, used_gib) for t, used_gib in run.memory if t <= end]
        times = [*(t for t, _ in shown), min(run.finish_seconds or end, end)]
        used = [*(used_gib for _, used_gib in shown), shown[-1][1]]
        is_ours = policy == "ladder"
        width, above = (2.2, 3) if is_ours else (1.2, 2)
        curves.append(Curve(times, used, policy, width, steps="post", above=above, name=policy))
    return Panel(
        "GiB",
        curves,
        (0, limit_gib * 1.18),
        height=1.5,
        levels=[Level(limit_gib, "crawl", 1.4, name="limit")],
        title=("memory used on the card (dips: the cache is released; to the ground: the worker is ended)", "ink"),
        has_key=True,
    )


def _page(comparison: Comparison, rows: Sequence[Row], svg: str) -> str:
    title = html_text(f"helix-crawl simulate {comparison.scenario.name}")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ background: #fff; color: #222; font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; }}
svg {{ width: 100%; height: auto; }}
pre {{ overflow-x: auto; font-size: 13px; }}
</style>
</head>
<body>
{svg}
<h2>Figures</h2>
<pre>{html_text(chr(10).join(table([rows or comparison.rows])))}</pre>
<h2>What is compared</h2>
<pre>{html_text(legend())}</pre>
<p>A model in virtual time, not a measurement.</p>
</body>
</html>
"""
