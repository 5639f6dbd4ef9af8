"""What the goals of DESIGN.md, section 10, say of the results: what falls short is named.

Source: DESIGN.md, section 10.
"""

from __future__ import annotations

from collections.abc import Sequence

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.compare import Comparison, ladder_ratios, middle_and_worst
from helix_crawl_otel.simulate.table import span
from helix_crawl_otel.simulate.trace import SimulatedRun

__all__ = ["GOAL_FRESH_WORKER_SECONDS", "GOAL_RATIO", "fresh_worker_seconds", "goal_notes"]

GOAL_RATIO = 1.25
GOAL_FRESH_WORKER_SECONDS = 600.0
OTHER_SEEDS = range(10)


def goal_notes(comparisons: Sequence[Comparison], settings: Settings) -> list[str]:
    """A line or two a goal: who meets it, who misses it. Empty when no scenario is one that has a goal.

    Args:
        comparisons: What was run.
        settings: The knobs it was run with, for other draws of the batches.
    """
    notes: list[str] = []
    one_crawl = [item for item in comparisons if item.scenario.kind == "one-crawl"]
    if one_crawl:
        notes += _ratio_notes(one_crawl, settings)
    notes += [_fresh_worker_note(item.runs["ladder"]) for item in comparisons if item.scenario.name == "endless-batch"]
    notes += [_recurring_note(item) for item in comparisons if item.scenario.kind == "recurring"]
    healthy = [item for item in comparisons if item.scenario.kind == "healthy"]
    if healthy:
        wrong = [item.scenario.name for item in healthy if item.row("ladder").interventions]
        notes.append(f"Goal, no intervention on a healthy run: {_met(len(healthy), wrong)}")
    return notes


def _met(count: int, missed: Sequence[str]) -> str:
    return f"met in {count - len(missed)} of {count}" + (f"; MISSED by {', '.join(missed)}" if missed else "")


def _ratio_notes(comparisons: Sequence[Comparison], settings: Settings) -> list[str]:
    missed, spread = [], []
    for item in comparisons:
        name, ratio = item.scenario.name, item.row("ladder").ratio_to_best
        if ratio is None or ratio > GOAL_RATIO:
            missed.append(f"{name} ({_times(ratio)})")
        ratios = ladder_ratios(item.scenario, settings, OTHER_SEEDS)
        middle, worst = middle_and_worst(ratios)
        over = sum(ratio > GOAL_RATIO for ratio in ratios)
        spread.append(f"    {name:18} median {middle:.2f}, worst {worst:.2f}, above {GOAL_RATIO:g}: {over}")
    goal = f"Goal, at most one crawl in 25,000 genes, ladder at most {GOAL_RATIO:g} of best: "
    return [goal + _met(len(comparisons), missed), f"  with {len(OTHER_SEEDS)} other draws of the batches:", *spread]


def _times(ratio: float | None) -> str:
    return "never done" if ratio is None else f"{ratio:.2f}"


def _recurring_note(item: Comparison) -> str:
    row = item.row("ladder")
    return (
        f"No goal, shown beside it: {item.scenario.name}, ladder {_times(row.ratio_to_best)} of best: a crawl that "
        "comes back in a fresh context ends on the CPU"
    )


def fresh_worker_seconds(run: SimulatedRun) -> float | None:
    """From the start of the first crawled batch until a batch began that was encoded; `None` when none did."""
    if run.crawl_began is None:
        return None
    began = run.crawl_began
    return next((item.began - began for item in run.attempts if item.finished and item.began > began), None)


def _fresh_worker_note(run: SimulatedRun) -> str:
    goal = f"Goal, endless batch, a fresh worker encodes within {span(GOAL_FRESH_WORKER_SECONDS)}: "
    seconds = fresh_worker_seconds(run)
    if seconds is None:
        return goal + "MISSED: none ever does"
    return goal + ("met: " if seconds <= GOAL_FRESH_WORKER_SECONDS else "MISSED: ") + span(seconds)
