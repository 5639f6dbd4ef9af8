"""The table of `simulate` and its legend.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_crawl_otel.simulate.compare import Comparison, Row
from helix_crawl_otel.simulate.policies import DEFINITIONS
from helix_crawl_otel.simulate.trace import GIVE_UP_SECONDS

__all__ = ["finish", "legend", "span", "table"]


_HEADINGS = ("scenario", "policy", "finished after", "over best", "noticed after", "interventions", "false")


def span(seconds: float | None) -> str:
    """A time for people: `12 s`, `35 min`, `8.8 h`, `2.6 d`."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} d" if seconds < 10 * 86400 else f"{seconds / 86400:.0f} d"


def finish(row: Row) -> str:
    """When it finished; a run that was given up is `> 30 d`."""
    return f"> {span(GIVE_UP_SECONDS)}" if row.finish_seconds is None else span(row.finish_seconds)


def _cells(row: Row, first: bool) -> tuple[str, ...]:
    best = row.policy == "best"
    return (
        row.scenario if first else "",
        row.policy,
        finish(row),
        "-" if row.ratio_to_best is None else f"{row.ratio_to_best:.2f}",
        span(row.detect_seconds),
        str(row.interventions),
        "-" if best else str(row.false_interventions),
    )


def table(comparisons: Sequence[Comparison]) -> str:
    """All rows, aligned."""
    lines: list[tuple[str, ...]] = [_HEADINGS]
    for comparison in comparisons:
        lines += [_cells(row, at == 0) for at, row in enumerate(comparison.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]

    def aligned(line: tuple[str, ...]) -> str:
        cells = [
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    text = [aligned(lines[0]), "  ".join("-" * width for width in widths)]
    for at, line in enumerate(lines[1:]):
        if at and line[0]:
            text.append("")
        text.append(aligned(line))
    return "\n".join(text)


def legend() -> str:
    """What each policy is, and what the columns mean."""
    lines = ["Policies:"]
    lines += [f"  {name:17} {text}" for name, text in DEFINITIONS.items()]
    lines += [
        "Columns:",
        f"  finished after    virtual time from the start of the first worker; given up after {span(GIVE_UP_SECONDS)}",
        "  over best         that time over best's",
        "  noticed after     from the start of the first batch that the card makes at least twice as long (or never",
        "                    ends) to the first DETECT",
        "  interventions     remedies taken in answer to a verdict (a release by the clock is routine); best: planned",
        "  false             of those, taken while there was no crawl",
    ]
    return "\n".join(lines)
