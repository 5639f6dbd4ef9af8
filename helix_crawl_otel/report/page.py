"""The page: one file that loads nothing, readable on a screen and a telephone, in light and dark.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from html import escape

from helix_crawl_otel.formats import count, duration, printable
from helix_crawl_otel.report.charts import NARROW, WIDE, figure
from helix_crawl_otel.report.choice import Shown, numbered
from helix_crawl_otel.report.effect import MEANINGS, effect_of, lost_seconds, remedy_seconds, saved_seconds
from helix_crawl_otel.report.story import DETECT, ReportAction, ReportBatch, RunReport, ShardReport, StartMark
from helix_crawl_otel.report.style import STYLE
from helix_crawl_otel.report.svg import INK, svg_of
from helix_crawl_otel.report.words import (
    clock,
    evidence_text,
    headline,
    name_of,
    sentences,
    speed_text,
    step_text,
    tale_text,
    unfinished_text,
)

__all__ = ["page"]

MOST_ROWS = 200
"""Rows of a shard's table; of more, the first."""


def page(story: RunReport, shown: Shown, name: str, notes: Sequence[str] = ()) -> str:
    """The whole page.

    Args:
        story: What happened.
        shown: The shards that get a figure.
        name: Of the timeline.
        notes: What could not be read of it.
    """
    title = f"Report of {escape(printable(name))}"
    parts = [f"<h1>{escape(headline(story))}</h1>"]
    parts += [f'<p class="lead">{escape(" ".join(sentences(story)))}</p>', _tiles(story)]
    parts += [f"<p>{escape(line)}</p>" for line in shown.sentences(story)]
    for at, tale in enumerate(shown.tales, start=1):
        parts += _shard(tale, story, f"f{at}")
    parts += ["<h2>How the numbers are made</h2>", *(f"<p>{escape(text)}</p>" for text in _definitions(story))]
    parts += ["<h2>What was read</h2>", f"<p>{title}.</p>"]
    parts += [f"<p>Reconstructed, not recorded: {escape(printable(source))}</p>" for source in story.sources]
    parts += [f"<p>{escape(printable(line))}</p>" for line in notes]
    parts += [f"<p>Knobs: {escape(_knobs(story))}.</p>"]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _tiles(story: RunReport) -> str:
    saved = [seconds for tale in story.tales if (seconds := saved_seconds(tale)) is not None]
    remedies = sum(map(remedy_seconds, story.tales))
    tiles = [
        ("crawls", str(story.crawls)),
        ("lost to the crawl", duration(sum(map(lost_seconds, story.tales)))),
        ("spent on new workers", duration(remedies)),
        ("saved by the ladder", _signed(sum(saved)) if saved else "-"),
    ]
    cells = "".join(f"<div><dt>{label}</dt><dd>{escape(value)}</dd></div>" for label, value in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _signed(seconds: float) -> str:
    return f"about {duration(seconds)}" if seconds >= 0 else f"\N{MINUS SIGN}{duration(-seconds)}"


def _shard(tale: ShardReport, story: RunReport, key: str) -> Iterator[str]:
    steps = numbered(tale)
    name = escape(name_of(tale, story))
    yield f'<section>\n<h2 class="shard">{name}</h2>\n<p>{escape(tale_text(tale, story))}</p>'
    yield "<figure>"
    for layout, kind in ((WIDE, "wide"), (NARROW, "narrow")):
        drawn = figure(tale, steps, story.settings.factor, story.settings.vram_full, INK, layout)
        label = f"Speed and memory of {name} over time"
        yield f'<div class="{kind}">{svg_of(drawn, f"{key}{kind[0]}", label)}</div>'
    yield f"<figcaption>{_legend(tale, story)}</figcaption>\n</figure>"
    if rows := _rows(tale, steps, story):
        yield _table(rows)
        if not story.is_recorded and len(steps):
            yield (
                "<p>A timeline does not get better by what is asked for: after a remedy the policy sees what happened "
                "without it, and goes on asking.</p>"
            )
    yield "</section>"


def _legend(tale: ShardReport, story: RunReport) -> str:
    settings = story.settings
    keys = [
        ("rate", "a batch"),
        ("crawl", "a batch during a crawl"),
        *([("unfinished", "a batch that did not end, at most so fast")] if tale.unfinished else []),
        ("base", "baseline"),
        ("limit", f"crawl limit (baseline / {settings.factor:g}), full memory ({100 * settings.vram_full:g} %)"),
        ("memory", "memory used of the limit"),
        *([("shared", "shared memory of the worker, of the same limit")] if tale.tells_shared else []),
        ("action", "action, with its number in the table"),
        ("worker", "new worker"),
    ]
    items = "".join(f'<li><i class="{key}"></i>{escape(text)}</li>' for key, text in keys)
    lost = f" Lost to the crawl: {duration(lost_seconds(tale))}." if tale.episodes else ""
    return f"<ul>{items}</ul><p>{count(round(tale.genes), 'gene')}, {_devices(tale)}.{escape(lost)}</p>"


def _devices(tale: ShardReport) -> str:
    return escape(printable(", then ".join(dict.fromkeys(batch.device for batch in tale.tries))))


_Row = tuple[str, str, str, str, str, str]
_HEADINGS = ("#", "at", "what", "evidence", "before", "after")


def _rows(tale: ShardReport, steps: Mapping[int, ReportAction], story: RunReport) -> list[_Row]:
    """Actions, workers and batches that did not end in the order of time."""
    events: list[tuple[float, int, ReportAction | StartMark | ReportBatch]] = [
        (step.t, number, step) for number, step in steps.items()
    ]
    events += [(batch.ended, 0, batch) for batch in tale.unfinished]
    events += [(start.t, 0, start) for start in tale.starts]
    rows: list[_Row] = []
    for t, number, event in sorted(events, key=lambda item: item[0])[:MOST_ROWS]:
        if isinstance(event, StartMark):
            reason = f" ({printable(event.reason)})" if event.reason else ""
            rows.append(("", clock(t), f"new worker on {printable(event.device)}{reason}", "", "", ""))
            continue
        if isinstance(event, ReportBatch):
            rows.append(("", clock(t), unfinished_text(event), "", "", ""))
            continue
        effect = effect_of(event, tale, story.settings.window)
        before = speed_text(effect.before)
        if effect.before is not None and effect.before.is_in_flight:
            before += ", the batch in flight"
        takes_effect = event.is_taken and event.kind != DETECT
        after = speed_text(effect.after) if takes_effect else "-"
        rows.append((str(number), clock(t), step_text(event, story.is_recorded), evidence_text(event), before, after))
    return rows


def _table(rows: Sequence[_Row]) -> str:
    head = "".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS)
    body = "\n".join(map(_line, rows))
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _line(row: _Row) -> str:
    """A row; of a worker, who has no number, only what it is."""
    cells = [
        f'<td data-is="{heading}">{escape(cell).replace(" %", "&nbsp;%")}</td>'
        for heading, cell in zip(_HEADINGS, row, strict=True)
    ]
    if row[0]:
        return f"<tr>{''.join(cells)}</tr>"
    wide = cells[2].replace("<td ", '<td colspan="4" ', 1)
    return f'<tr class="worker">{cells[0]}{cells[1]}{wide}</tr>'


def _definitions(story: RunReport) -> Iterator[str]:
    yield from MEANINGS.values()
    window = story.settings.window
    yield (
        f"Before and after: the median of up to {window} batches on either side of an action, after it only up to the "
        "next remedy and without the first batch of a new worker, which loads and warms up. Where a batch in flight "
        "gave the crawl away, before is the speed of that batch."
    )
    yield (
        "Speed is in genes a second, as a batch was encoded. Baseline and limit are those in force, at each batch's "
        "own passage length: long passages are slower, and that is no crawl. Shares of the baseline are judged in work."
    )


def _knobs(story: RunReport) -> str:
    shown = []
    for field in dataclasses.fields(story.settings):
        value = getattr(story.settings, field.name)
        word = ("on" if value else "off") if isinstance(value, bool) else f"{value:g}" if value != str(value) else value
        shown.append(f"{field.name} {word}")
    return ", ".join(shown)
