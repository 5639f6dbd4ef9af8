"""The page, one file that loads nothing, readable on a screen and a telephone, in light and dark; and the picture for a
mail: the headline, a few sentences, and the shards that matter most.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from helix_crawl_otel.charts import DARK, INK, LIGHT, Layout, Panel, Part, draw, figure, png_of, svg_of, write
from helix_crawl_otel.formats import clock, count, duration, html_text
from helix_crawl_otel.report.effect import (
    MEANINGS,
    Shown,
    choose,
    effect_of,
    lost_seconds,
    numbered,
    remedy_seconds,
    saved_seconds,
)
from helix_crawl_otel.report.panels import panels, window
from helix_crawl_otel.report.savings import MEANING, Saving
from helix_crawl_otel.report.story import DETECT, ReportAction, ReportBatch, RunReport, ShardReport, StartMark
from helix_crawl_otel.report.words import (
    evidence_text,
    headline,
    name_of,
    origin,
    sentences,
    speed_text,
    step_text,
    tale_text,
    unfinished_text,
)

__all__ = ["page", "picture"]

WIDE = Layout((11.0, 4.9), 10.5, True, 0.07)
NARROW = Layout((4.7, 5.6), 10.5, False, 0.17)
PICTURE = Layout((11.0, 4.6), 10.0, True, 0.07)

MOST_ROWS = 200
"""Rows of a shard's table; of more, the first."""


def page(story: RunReport, shown: Shown, name: str, notes: Sequence[str] = (), saved: Sequence[Saving] = ()) -> str:
    """The whole page.

    Args:
        story: What happened.
        shown: The shards that get a figure.
        name: Of the timeline.
        notes: What could not be read of it.
        saved: What would have been saved by what was off.
    """
    title = f"Report of {html_text(name)}"
    parts = [f"<h1>{html_text(headline(story))}</h1>"]
    parts += [f'<p class="origin">{html_text(text)}</p>' for text in [origin(story)] if text]
    parts += [f'<p class="lead">{html_text(" ".join(sentences(story)))}</p>', _tiles(story)]
    parts += [f"<p>{html_text(line)}</p>" for line in (*(one.text for one in saved), *shown.sentences(story))]
    for at, tale in enumerate(shown.tales, start=1):
        parts += _shard(tale, story, f"f{at}")
    parts += [
        "<h2>How the numbers are made</h2>",
        *(f"<p>{html_text(text)}</p>" for text in _definitions(story, saved)),
    ]
    parts += ["<h2>What was read</h2>", f"<p>{title}.</p>"]
    parts += [f"<p>Reconstructed, not recorded: {html_text(source)}</p>" for source in story.sources]
    parts += [f"<p>{html_text(line)}</p>" for line in notes]
    parts += [f"<p>Knobs: {html_text(_knobs(story))}.</p>"]
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
    cells = "".join(f"<div><dt>{label}</dt><dd>{html_text(value)}</dd></div>" for label, value in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _signed(seconds: float) -> str:
    return f"about {duration(seconds)}" if seconds >= 0 else f"\N{MINUS SIGN}{duration(-seconds)}"


def _shard(tale: ShardReport, story: RunReport, key: str) -> Iterator[str]:
    steps = numbered(tale)
    name = html_text(name_of(tale, story))
    yield f'<section>\n<h2 class="shard">{name}</h2>\n<p>{html_text(tale_text(tale, story))}</p>'
    yield "<figure>"
    kinds = {"wide": WIDE, "narrow": NARROW}
    for (kind, layout), shown in zip(kinds.items(), _panels(tale, steps, story, kinds.values()), strict=True):
        drawn = figure(layout.inches)
        _draw(drawn, shown, tale, steps, INK, layout, top=0.87 if steps else 0.97)
        label = f"Speed and memory of {name} over time"
        yield f'<div class="{kind}">{svg_of(drawn, f"{key}{kind[0]}", label)}</div>'
    yield f"<figcaption>{_legend(tale, story)}</figcaption>\n</figure>"
    if rows := _rows(tale, steps, story):
        yield _table(rows)
        happened = len(tale.steps) + len(tale.unfinished) + len(tale.starts)
        if len(rows) < happened:
            yield (
                f"<p>The table has the first {len(rows)} of {happened:,} actions, new workers and batches that did not "
                "end, and the figure marks no others; the timeline has a line of each.</p>"
            )
        if not story.is_recorded and len(steps):
            yield (
                "<p>A timeline does not get better by what is asked for: after a remedy the policy sees what happened "
                "without it, and goes on asking.</p>"
            )
    yield "</section>"


def _panels(
    tale: ShardReport, steps: Mapping[int, ReportAction], story: RunReport, layouts: Iterable[Layout]
) -> Iterator[list[Panel]]:
    return panels(tale, steps, story.settings.factor, story.settings.vram_full, layouts)


def _draw(
    page: Part,
    shown: Sequence[Panel],
    tale: ShardReport,
    steps: Mapping[int, ReportAction],
    ink: Mapping[str, str],
    layout: Layout,
    top: float,
) -> None:
    draw(page, shown, window(tale, steps), ink, layout, top, "since the run began")


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
    items = "".join(f'<li><i class="{key}"></i>{html_text(text)}</li>' for key, text in keys)
    lost = f" Lost to the crawl: {duration(lost_seconds(tale))}." if tale.episodes else ""
    return f"<ul>{items}</ul><p>{count(round(tale.genes), 'gene')}, {_devices(tale)}.{html_text(lost)}</p>"


def _devices(tale: ShardReport) -> str:
    return html_text(", then ".join(tale.left))


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
            reason = f" ({event.reason})" if event.reason else ""
            rows.append(("", clock(t), f"new worker on {event.device}{reason}", "", "", ""))
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
        f'<td data-is="{heading}">{html_text(cell).replace(" %", "&nbsp;%")}</td>'
        for heading, cell in zip(_HEADINGS, row, strict=True)
    ]
    if row[0]:
        return f"<tr>{''.join(cells)}</tr>"
    wide = cells[2].replace("<td ", '<td colspan="4" ', 1)
    return f'<tr class="worker">{cells[0]}{cells[1]}{wide}</tr>'


def _definitions(story: RunReport, saved: Sequence[Saving]) -> Iterator[str]:
    yield from MEANINGS.values()
    if saved:
        yield MEANING
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


# -- the picture ------------------------------------------------------------------------------------------------------

MOST_SHARDS = 3
_HEAD_INCHES, _SHARD_INCHES, _FOOT_INCHES = 1.25, 5.4, 0.45


def picture(story: RunReport) -> bytes:
    """The picture as the bytes of a PNG file.

    Args:
        story: What happened.
    """
    shown = choose(story, MOST_SHARDS)
    ratios = [_HEAD_INCHES] + [_SHARD_INCHES] * max(len(shown.tales), 1) + [_FOOT_INCHES]
    page = figure((PICTURE.inches[0], sum(ratios)), "white")
    head, *parts, foot = page.subfigures(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
    write(head, (0.02, 0.8), headline(story), 17, LIGHT["ink"], fontweight="bold")
    lead = textwrap.fill(" ".join([*sentences(story), origin(story)]).strip(), 135)
    write(head, (0.02, 0.5), lead, 10.5, LIGHT["ink"], linespacing=1.4)
    for part, tale in zip(parts, shown.tales, strict=False):
        name = textwrap.shorten(name_of(tale, story), 90)
        write(part, (0.02, 0.985), name, 13, LIGHT["ink"], fontweight="bold")
        words = textwrap.wrap(tale_text(tale, story), 145, max_lines=4, placeholder=" ...")
        write(part, (0.02, 0.93), "\n".join(words), 9.5, LIGHT["soft"], linespacing=1.35)
        steps = numbered(tale)
        top = 0.93 - 0.042 * len(words) - (0.13 if steps else 0.02)
        (shown_panels,) = _panels(tale, steps, story, [PICTURE])
        _draw(part, shown_panels, tale, steps, LIGHT, PICTURE, top)
    key = "Blue: a batch.  Red: a batch during a crawl.  Dashed: baseline.  Dotted red: crawl limit, full memory."
    if any(tale.tells_shared for tale in shown.tales):
        key += "  Dashed red: shared memory."
    if any(tale.unfinished for tale in shown.tales):
        key += "  Dashed to a cross: a batch that did not end."
    lines = textwrap.fill(" ".join([key, *shown.sentences(story)]), 160)
    write(foot, (0.02, 0.6), lines, 9, LIGHT["soft"], va="center", linespacing=1.35)
    return png_of(page, 110)


# -- colours by name in light and dark, one column on a narrow screen --------------------------------------------------


def _colours(paper: str, card: str, names: dict[str, str]) -> str:
    return "; ".join([f"--paper: {paper}; --card: {card}", *(f"--{name}: {value}" for name, value in names.items())])


STYLE = f"""\
:root {{ {_colours("#ffffff", "#f6f8fa", LIGHT)}; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colours("#0d1117", "#161b22", DARK)}; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }}
main {{ max-width: 1140px; margin: 0 auto; padding: 24px 20px 60px; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0.3em 0; }}
h2 {{ font-size: 1.25rem; margin: 2em 0 0.4em; }}
p {{ margin: 0.5em 0; max-width: 75ch; }}
.lead {{ font-size: 1.08rem; }}
.origin {{ color: var(--soft); }}
.tiles {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 20px 0; }}
.tiles div {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }}
dt {{ color: var(--soft); font-size: 0.88rem; }}
dd {{ margin: 2px 0 0; font-size: 1.3rem; font-weight: 600; }}
figure {{ margin: 14px 0; }}
svg {{ display: block; width: 100%; height: auto; }}
.narrow {{ display: none; }}
figcaption {{ color: var(--soft); font-size: 0.88rem; }}
figcaption ul {{ list-style: none; margin: 6px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 18px; }}
figcaption i {{ display: inline-block; width: 22px; vertical-align: middle; margin-right: 7px; height: 0; }}
i.rate {{ border-top: 3px solid var(--rate); }}
i.crawl {{ border-top: 4px solid var(--crawl); }}
i.unfinished {{ border-top: 3px dashed var(--ink); }}
i.base {{ border-top: 2px dashed var(--soft); }}
i.limit {{ border-top: 2px dotted var(--crawl); }}
i.memory {{ border-top: 3px solid var(--memory); }}
i.shared {{ border-top: 2px dashed var(--crawl); }}
i.action, i.worker {{ width: 0; height: 15px; margin: 0 10px; }}
i.action {{ border-left: 1.5px solid var(--ink); }}
i.worker {{ border-left: 2px dotted var(--soft); }}
table {{ border-collapse: collapse; width: 100%; font-size: 0.9rem; }}
th, td {{ text-align: left; vertical-align: top; padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 500; }}
td:nth-child(-n+2) {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
td:nth-child(3) {{ font-weight: 600; }}
.worker td {{ color: var(--soft); font-weight: 400 !important; }}
th:nth-child(4) {{ width: 40%; }}
th:nth-child(5), th:nth-child(6) {{ width: 19%; }}
@media (max-width: 720px) {{
  main {{ padding: 16px 14px 40px; }}
  h1 {{ font-size: 1.4rem; }}
  .tiles {{ grid-template-columns: 1fr 1fr; }}
  .wide, thead {{ display: none; }}
  .narrow {{ display: block; }}
  table, tbody, tr, td {{ display: block; max-width: none !important; }}
  tr {{ border-bottom: 1px solid var(--line); padding: 10px 0; }}
  td {{ border: 0; padding: 1px 0; }}
  td[data-is="#"], td[data-is="at"] {{ display: inline; padding-right: 12px; color: var(--soft); }}
  td[data-is="evidence"]::before, td[data-is="before"]::before, td[data-is="after"]::before {{
    content: attr(data-is) ": "; color: var(--soft); }}
}}
@media print {{ :root {{ {_colours("#ffffff", "#f6f8fa", LIGHT)}; }} section {{ break-inside: avoid; }} }}
"""
