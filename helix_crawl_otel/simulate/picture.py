"""Lays one scenario out over time: a row a policy, the card's memory below.

matplotlib is imported late: only who draws needs it.

Source: DESIGN.md, section 3.3 (`simulate --plot`).
"""

from __future__ import annotations

import textwrap
from statistics import fmean, median
from typing import TYPE_CHECKING

from helix_crawl_otel.simulate.compare import Comparison, span
from helix_crawl_otel.simulate.loop import GIVE_UP_SECONDS, Mark, SimulatedRun
from helix_crawl_otel.simulate.policies import CARD, DEFINITIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_of"]

_COLOURS = {
    "none": "#7a7a7a",
    "release": "#c77c11",
    "finished-batches": "#7b5aa6",
    "ladder": "#1f6fb4",
    "best": "#2a7f3e",
}
_CRAWL = "#d7301f"
_INK = "#222222"
_LABELS = {
    "DETECT": "crawl noticed",
    "EMPTY_CACHE": "cache released",
    "RECYCLE": "worker recycled",
    "DEMOTE_CPU": "moved to the CPU",
    "RESTART": "worker restarted",
    "RETURN": "back to the card",
}
_MAX_LABELS = 6


def figure_of(comparison: Comparison) -> Figure:
    """The picture of a scenario, at 11 by 11 inches.

    Args:
        comparison: All policies on one scenario.
    """
    from matplotlib.figure import Figure

    scenario = comparison.scenario
    end = _horizon(comparison)
    scale, unit = (3600.0, "hours") if end > 3 * 3600 else (60.0, "minutes")
    figure = Figure(figsize=(11, 11.2), facecolor="white")
    rows = figure.subplots(
        len(DEFINITIONS) + 1,
        1,
        sharex=True,
        gridspec_kw={"height_ratios": [1] * len(DEFINITIONS) + [1.5], "hspace": 0.42},
    )
    figure.subplots_adjust(left=0.08, right=0.975, top=0.862, bottom=0.055)
    figure.text(
        0.012,
        0.985,
        f"{scenario.name}: {scenario.genes:,} genes on a card of {scenario.card.limit_gib:g} GiB, modelled",
        fontsize=15,
        fontweight="bold",
        va="top",
    )
    figure.text(0.012, 0.957, textwrap.fill(scenario.text, 130), fontsize=10, va="top", color="#444444")
    tokens = fmean(item.load.tokens for item in comparison.runs["best"].attempts or comparison.runs["none"].attempts)
    lowest, highest = _limits(comparison, tokens, end)
    for axes, (policy, run) in zip(rows, comparison.runs.items(), strict=False):
        axes.set_yscale("log")
        axes.set_ylim(lowest, highest)
        _rate_row(axes, comparison, policy, run, tokens, scale, end)
    _memory_row(rows[-1], comparison, scale, end)
    rows[-1].set_xlim(0, end / scale)
    rows[-1].set_xlabel(f"{unit} since the start")
    figure.text(
        0.012,
        0.905,
        f"Rows: encode speed in genes/s (at the mean length, {tokens:.0f} tokens), log scale.  "
        "Dashed: healthy baseline.  Dotted: crawl limit.",
        fontsize=9.5,
        va="top",
    )
    figure.text(0.975, 0.905, "Red: crawling", fontsize=9.5, va="top", ha="right", color=_CRAWL, fontweight="bold")
    return figure


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


def _rate_row(
    axes: Axes, comparison: Comparison, policy: str, run: SimulatedRun, tokens: float, scale: float, end: float
) -> None:
    from matplotlib.ticker import LogLocator

    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 100 else "")
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    axes.set_ylabel("genes/s")
    _plain(axes)
    colour = _COLOURS[policy]
    for crawling, tint in ((False, colour), (True, _CRAWL)):
        times: list[float] = []
        rates: list[float] = []
        for item in run.attempts:
            if item.crawling is crawling and item.began <= end:
                rate = max(item.load.work / tokens / max(item.ended - item.began, 1e-9), 1.2 * axes.get_ylim()[0])
                times += [item.began / scale, item.ended / scale, item.ended / scale]
                rates += [rate, rate, float("nan")]
        axes.plot(times, rates, color=tint, linewidth=3 if crawling else 1.6, solid_capstyle="butt")
    judged = [item for item in comparison.runs["ladder"].attempts if item.baseline and item.device == CARD]
    if judged:
        baseline = median((item.baseline or 0.0) * item.load.tokens / tokens for item in judged)
        limit = median((item.limit or 0.0) * item.load.tokens / tokens for item in judged)
        axes.axhline(baseline, color=_INK, linewidth=0.8, linestyle=(0, (6, 4)))
        axes.axhline(limit, color=_CRAWL, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_title(_headline(comparison, policy), loc="left", fontsize=11, color=colour, fontweight="bold", pad=4)
    if run.finish_seconds is not None and run.finish_seconds <= end:
        axes.axvline(run.finish_seconds / scale, color=colour, linewidth=2.5)
        axes.annotate(
            "done",
            (run.finish_seconds / scale, 0.16),
            xycoords=("data", "axes fraction"),
            xytext=(5, 0),
            textcoords="offset points",
            fontsize=9.5,
            color=colour,
            fontweight="bold",
            va="center",
        )
    else:
        axes.text(
            0.995,
            0.93,
            "goes on beyond this picture \N{RIGHTWARDS ARROW}",
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontsize=9.5,
            color=colour,
        )
    _mark(axes, [mark for mark in run.marks if mark.what in _LABELS and mark.t <= end], scale, end)


def _headline(comparison: Comparison, policy: str) -> str:
    row = comparison.row(policy)
    if row.finish_seconds is None:
        return f"{policy}: not finished after {span(GIVE_UP_SECONDS)}"
    if row.ratio_to_best is None or policy == "best":
        return f"{policy}: finished after {span(row.finish_seconds)}"
    digits = 2 if row.ratio_to_best < 10 else 0
    return (
        f"{policy}: finished after {span(row.finish_seconds)}, {row.ratio_to_best:.{digits}f} times the best possible"
    )


def _mark(axes: Axes, marks: list[Mark], scale: float, end: float) -> None:
    """Vertical lines with a word each; marks of the same moment share one."""
    groups: list[list[Mark]] = []
    for mark in marks:
        if groups and mark.t - groups[-1][0].t < 0.005 * end:
            groups[-1].append(mark)
        else:
            groups.append([mark])
    for at, group in enumerate(groups):
        axes.axvline(group[0].t / scale, color=_INK, linewidth=1.0)
        if at < _MAX_LABELS:
            words = list(dict.fromkeys(_LABELS[mark.what] + (" by force" if mark.forced else "") for mark in group))
            axes.annotate(
                ", ".join(words),
                (group[0].t / scale, 0.94 if at % 2 == 0 else 0.75),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8.5,
                color=_INK,
                va="top",
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.9, "pad": 0.6},
            )


def _memory_row(axes: Axes, comparison: Comparison, scale: float, end: float) -> None:
    _plain(axes)
    limit_gib = comparison.scenario.card.limit_gib
    for policy, run in comparison.runs.items():
        shown = [(t, used_gib) for t, used_gib in run.memory if t <= end]
        last = min(run.finish_seconds or end, end)
        times = [t / scale for t, _ in shown] + [last / scale]
        axes.step(
            times,
            [used_gib for _, used_gib in shown] + [shown[-1][1]] if shown else [],
            where="post",
            color=_COLOURS[policy],
            linewidth=2.2 if policy == "ladder" else 1.2,
            label=policy,
            zorder=3 if policy == "ladder" else 2,
        )
    axes.axhline(limit_gib, color=_CRAWL, linewidth=1.4)
    axes.text(0.004, limit_gib, " limit", color=_CRAWL, fontsize=9, va="bottom", transform=axes.get_yaxis_transform())
    axes.set_ylim(0, limit_gib * 1.18)
    axes.set_ylabel("GiB")
    axes.set_title(
        "memory used on the card (dips: the cache is released; to the ground: the worker is ended)",
        loc="left",
        fontsize=11,
        fontweight="bold",
        pad=4,
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1.005, 0.04), ncols=5, fontsize=9, framealpha=0.9, edgecolor="none")


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", which="major", color="#e6e6e6", linewidth=0.8)
    axes.tick_params(labelsize=9)
