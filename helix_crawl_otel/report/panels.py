"""What the chart of a shard shows: speed, baseline and limit above, memory below, actions across both."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TypeVar

from helix_crawl_otel.charts import ChartNote, ChartRule, Curve, Layout, Level, Panel
from helix_crawl_otel.report.story import DETECT, HANG, Reading, ReportAction, ReportBatch, ShardReport

__all__ = ["LABELS", "panels", "window"]

LABELS = {
    DETECT: "crawl detected",
    "EMPTY_CACHE": "cache released",
    "RECYCLE": "worker recycled",
    "DEMOTE_CPU": "moved to the CPU",
    HANG: "hang",
}

MOST_LETTERS = 30
"""Of the name of an action that is none of ours."""

_Item = TypeVar("_Item")

MOST_POINTS = 400
"""Batches, and readings, drawn of a figure: of more, the slowest and the fastest (the fullest) of each stretch."""

MOST_STARTS = 200
"""New workers marked in a figure; of more, the first."""

_LIMIT = (1.5, 2.0)
"""Dashes of a limit: of the speed, and of the memory."""


def window(tale: ShardReport, steps: Mapping[int, ReportAction]) -> tuple[float, float]:
    """First and last second of the chart, a little more than what it shows."""
    began, ended = tale.span
    times = [step.t for step in steps.values()]
    began, ended = min([began, *times]), max([ended, *times])
    margin = 0.015 * max(ended - began, 1e-3)
    return began - margin, ended + margin


def panels(
    tale: ShardReport, steps: Mapping[int, ReportAction], factor: float, full: float, layouts: Iterable[Layout]
) -> Iterator[list[Panel]]:
    """One shard, for each layout: its rows are gone through once for all of them.

    Args:
        tale: The shard.
        steps: Its actions by the number that they carry in the table.
        factor: Crawl limit = baseline / factor.
        full: Fraction of the memory that counts as full.
        layouts: The sizes it will be drawn for.
    """
    rules = [ChartRule(start.t, "soft", dashes=(1, 3)) for start in tale.starts[:MOST_STARTS]]
    rules += [ChartRule(step.t, "ink", alpha=0.75) for step in steps.values()]
    speed, memory = _speed(tale, factor), _memory(tale, full)
    for layout in layouts:
        notes = list(_numbers(steps, window(tale, steps), layout))
        yield [replace(speed, rules=rules, notes=notes), replace(memory, rules=rules)]


def _speed(tale: ShardReport, factor: float) -> Panel:
    batches = thinned(tale.batches)
    curves = []
    for crawling, color, width in ((False, "rate", 2.6), (True, "crawl", 3.0)):
        x: list[float] = []
        y: list[float] = []
        for batch in batches:
            if tale.is_crawling(batch) is crawling:
                x += [batch.began, batch.ended, math.nan]
                y += [batch.rate, batch.rate, math.nan]
        curves.append(Curve(x, y, color, width, cap="round", above=3))
    unfinished = thinned(tale.unfinished)
    for batch in unfinished:  # at the most that its rate can have been, to a cross where its worker ended
        color = "crawl" if tale.is_crawling(batch) else "rate"
        ends, rates = (batch.began, batch.ended), (batch.rate, batch.rate)
        curves.append(Curve(ends, rates, color, 2.0, (2.5, 1.5), above=3, ends_in_cross=True))
    batches = sorted([*batches, *unfinished], key=lambda batch: batch.ended)
    known = [batch for batch in batches if batch.baseline]
    x, y = [], []
    for at, batch in enumerate(known):
        if at and batch.device != known[at - 1].device:  # another device, another baseline
            x.append(batch.began)
            y.append(math.nan)
        x.append(batch.ended)
        y.append(batch.baseline or math.nan)
    curves.append(Curve(x, y, "soft", 1.3, (6, 3), steps="pre"))
    curves.append(Curve(x, [level / factor for level in y], "crawl", 1.3, _LIMIT, steps="pre"))
    levels = [batch.rate for batch in batches] + [batch.baseline or 0.0 for batch in known]
    levels += [level / factor for level in levels[len(batches) :]]
    lowest, highest = min(levels, default=1.0), max(levels, default=10.0)
    return Panel("genes/s", curves, (lowest / 1.6, max(highest, 1.2 * lowest) * 1.6), height=1.9, is_log=True)


def _memory(tale: ShardReport, full: float) -> Panel:
    highest = 1.0
    curves = []
    for device, shown in tale.readings.items():
        for readings, color, dashes in ((shown, "memory", ()), (tale.lent(device), "crawl", (5, 1.5))):
            kept = thinned_readings(readings)
            used = [math.nan if reading.fraction is None else 100 * reading.fraction for reading in kept]
            curves.append(Curve([reading.t for reading in kept], used, color, 1.8, dashes, steps="post"))
            highest = max([highest, *(reading.fraction or 0.0 for reading in kept)])
    return Panel(
        "memory",
        curves,
        (0, 100 * highest * 1.08),
        levels=[Level(100 * full, "crawl", 1.2, _LIMIT)] if tale.readings else (),
        ticks=(0, 50, 100),
        form="{:.0f} %".format,
        empty="" if tale.readings else "not recorded",
    )


def _numbers(steps: Mapping[int, ReportAction], span: tuple[float, float], layout: Layout) -> Iterator[ChartNote]:
    """The number of each action's row above it, with its name where there is room."""
    length = span[1] - span[0]
    groups = list(_together(steps, length * (0.012 if layout.has_words else 0.03)))
    ends = [float("-inf")] * 3
    for at, (t, numbers) in enumerate(groups):
        words = ", ".join(map(str, numbers))
        if layout.has_words and len(groups) <= 12:
            kinds = dict.fromkeys(LABELS.get(kind := steps[number].kind, kind[:MOST_LETTERS]) for number in numbers)
            words += " " + ", ".join(kinds)
        place = (t - span[0]) / length
        width = (len(words) * 0.0088 if layout.has_words else len(words) * 0.022) + 0.008
        right = place + width > 1.0
        left = place - width if right else place
        row = next((row for row, end in enumerate(ends) if end <= left), at % 3)
        ends[row] = left + width
        yield ChartNote(t, 1.0, words, offset=(-3 if right else 3, 2 + row * (layout.font + 3)), ends_here=right)


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


# -- fewer points -----------------------------------------------------------------------------------------------------


def thinned(batches: Collection[ReportBatch]) -> list[ReportBatch]:
    """At most about `MOST_POINTS` batches, in their order; of each stretch the slowest and the fastest stay."""
    if len(batches) <= MOST_POINTS:
        return list(batches)
    kept: list[ReportBatch] = []
    for stretch in _stretches(batches, MOST_POINTS // 2):
        rates = [batch.rate for batch in stretch]
        ends = dict.fromkeys((rates.index(min(rates)), rates.index(max(rates))))
        kept += sorted((stretch[at] for at in ends), key=lambda batch: batch.ended)
    return kept


def thinned_readings(readings: Collection[Reading]) -> list[Reading]:
    """At most about `MOST_POINTS` readings; of each stretch the fullest and the emptiest stay."""
    if len(readings) <= MOST_POINTS:
        return list(readings)
    kept: list[Reading] = []
    for stretch in _stretches(readings, MOST_POINTS // 2):
        known = [reading for reading in stretch if reading.fraction is not None] or stretch[:1]
        ends = {id(least_or_most(known, key=lambda r: r.fraction or 0.0)) for least_or_most in (min, max)}
        kept += [reading for reading in stretch if id(reading) in ends]
    return kept


def _stretches(items: Collection[_Item], count: int) -> Iterator[list[_Item]]:
    size, left = math.ceil(len(items) / count), iter(items)
    while stretch := list(islice(left, size)):
        yield stretch
