"""Runs every policy on a scenario and puts the results side by side: as rows, and as a table for people.

A scenario is a kind of job, and its batches are drawn: how long each is, and how much longer than its share it takes.
What a policy is worth shows in ten draws, the middle one and the worst; one alone says as much of its seed.

Source: DESIGN.md, section 3.3 (`simulate --json`, fixed keys).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from helix_crawl_otel.formats import span
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.best import best_plan
from helix_crawl_otel.simulate.loop import GIVE_UP_SECONDS, SimulatedRun, play
from helix_crawl_otel.simulate.policies import DEFINITIONS, SimulatedPolicy, finished_batches, ladder
from helix_crawl_otel.simulate.scenario import MOST_SEEDS, Scenario

__all__ = ["DRAWS", "Comparison", "Row", "compare", "compare_draws", "legend", "table"]

_HEADINGS = ("scenario", "policy", "finished after", "over best", "worst", "noticed after", "interventions", "false")

DRAWS = 10
"""DESIGN.md, section 10 has its goals in ten draws."""


@dataclass(frozen=True)
class Row:
    """One policy on one scenario, in one draw or, of several, in the middle one.

    Args:
        scenario: Name.
        policy: Name.
        finish_seconds: `None`: given up after `GIVE_UP_SECONDS`.
        ratio_to_best: Over the finish of `best`; `None` with it.
        detect_seconds: From the start of the first crawled batch to the first DETECT; `None`: there was no crawl, or it
            was not noticed, or the policy has no detector.
        interventions: Remedies taken; releases by the clock are routine and not counted.
        false_interventions: Those taken while there was no crawl, of several draws the most in any; `None` for `best`,
            which acts beforehand.
        seed: Of the draw.
        draws: All of them, this one among them, in the order of their seeds; none where it is the only one.
    """

    scenario: str
    policy: str
    finish_seconds: float | None
    ratio_to_best: float | None
    detect_seconds: float | None
    interventions: int
    false_interventions: int | None
    seed: int
    draws: tuple[Row, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The row of `--json`, with the worst draw and all of them behind what a single one has."""
        digits = {"finish_seconds": 3, "ratio_to_best": 4, "detect_seconds": 3}
        row = {
            key: round(value, digits[key]) if key in digits and value is not None else value
            for key, value in vars(self).items()
            if key != "draws"
        }
        if not self.draws:
            return row
        return row | {"worst": self.worst.as_json(), "draws": [draw.as_json() for draw in self.draws]}

    @property
    def worst(self) -> Row:
        """The draw that takes longest over the best possible."""
        return max(self.draws or (self,), key=_by_ratio)

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            self.scenario,
            self.policy,
            f"> {span(GIVE_UP_SECONDS)}" if self.finish_seconds is None else span(self.finish_seconds),
            "-" if self.ratio_to_best is None else f"{self.ratio_to_best:.2f}",
            "-" if self.worst.ratio_to_best is None else f"{self.worst.ratio_to_best:.2f}",
            span(self.detect_seconds),
            str(self.interventions),
            "-" if self.false_interventions is None else str(self.false_interventions),
        )


@dataclass(frozen=True)
class Comparison:
    """All policies on one scenario.

    Args:
        scenario: What was run.
        runs: By policy, in the order of `DEFINITIONS`.
    """

    scenario: Scenario
    runs: dict[str, SimulatedRun]

    @property
    def rows(self) -> list[Row]:
        """In the order of `DEFINITIONS`."""
        return [self.row(policy) for policy in self.runs]

    def row(self, policy: str) -> Row:
        """The row of one policy."""
        run = self.runs[policy]
        best, finish = self.runs["best"].finish_seconds, run.finish_seconds
        return Row(
            scenario=self.scenario.name,
            policy=policy,
            finish_seconds=finish,
            ratio_to_best=None if finish is None or best is None else finish / best,
            detect_seconds=run.detect_seconds,
            interventions=run.interventions,
            false_interventions=None if policy == "best" else run.false_interventions,
            seed=self.scenario.seed,
        )


def compare(scenario: Scenario, settings: Settings) -> Comparison:
    """Run a scenario under every policy.

    Args:
        scenario: The card and the batches.
        settings: The knobs of `ladder` and of `finished-batches` (which never judges a batch in flight).
    """
    policies = [
        SimulatedPolicy("none", routine_release=False),
        SimulatedPolicy("release", routine_release=True),
        finished_batches(settings),
        ladder(settings),
        ladder(settings, caps=True),
        best_plan(scenario).policy(),
    ]
    runs = {policy.name: play(scenario, policy) for policy in policies}
    assert list(runs) == list(DEFINITIONS)
    return Comparison(scenario, runs)


def compare_draws(
    scenario: Scenario, settings: Settings, draws: int = DRAWS, progress: Callable[[int], None] = lambda done: None
) -> list[Row]:
    """Run several draws of a scenario under every policy.

    Args:
        scenario: The card and the kind of batches; its seed is that of the first draw, and the next ones follow.
        settings: See `compare`.
        draws: How many, 1 or more.
        progress: Called after each, with how many are done.

    Returns:
        A row a policy, in the order of `DEFINITIONS`: its middle draw, by the time over the best possible.
    """
    by_policy: dict[str, list[Row]] = {policy: [] for policy in DEFINITIONS}
    for number in range(draws):
        drawn = replace(scenario, seed=(scenario.seed + number) % MOST_SEEDS)
        for row in compare(drawn, settings).rows:
            by_policy[row.policy].append(row)
        progress(number + 1)
    return [_middle(rows) for rows in by_policy.values()]


def _middle(rows: Sequence[Row]) -> Row:
    """Of an even number the lower of the two: the row is of a run that took place."""
    middle = sorted(rows, key=_by_ratio)[(len(rows) - 1) // 2]
    false = [row.false_interventions for row in rows if row.false_interventions is not None]
    return replace(middle, false_interventions=max(false) if false else None, draws=tuple(rows))


def _by_ratio(row: Row) -> tuple[float, float, int]:
    """One that was given up is worse than any that was not; of those alike, what takes longer, and then the seed."""
    endless = math.inf
    ratio = endless if row.ratio_to_best is None else row.ratio_to_best
    return ratio, endless if row.finish_seconds is None else row.finish_seconds, row.seed


# -- for people -------------------------------------------------------------------------------------------------------


def table(scenarios: Sequence[Sequence[Row]]) -> str:
    """All rows, a block a scenario, aligned, its name on its first row only."""
    blocks = [[row.cells() for row in rows] for rows in scenarios]
    widths = [
        max(map(len, column)) for column in zip(_HEADINGS, *(row for block in blocks for row in block), strict=True)
    ]

    def aligned(cells: Sequence[str]) -> str:
        text = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
        text += [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
        return "  ".join(text).rstrip()

    lines = [aligned(_HEADINGS), "  ".join("-" * width for width in widths)]
    texts = ["\n".join(aligned(("" if at else row[0], *row[1:])) for at, row in enumerate(block)) for block in blocks]
    return "\n".join([*lines, "\n\n".join(texts)])


def legend() -> str:
    """What each policy is, and what the columns mean."""
    lines = ["Policies:"]
    lines += [f"  {name:17} {text}" for name, text in DEFINITIONS.items()]
    lines += [
        "Columns:",
        f"  finished after    virtual time from the start of the first worker; given up after {span(GIVE_UP_SECONDS)}",
        "  over best         that time over best's, in the middle one of the draws (of an even number, the lower)",
        "  worst             the same in the worst of them",
        "  noticed after     from the start of the first batch that the card makes at least twice as long (or never",
        "                    ends) to the first DETECT",
        "  interventions     remedies taken in answer to a verdict (a release by the clock is routine); best: planned",
        "  false             of those, taken while there was no crawl; the most in any draw",
        f"Each scenario is drawn {DRAWS} times, or --draws: its batches' lengths and times differ from seed to seed.",
    ]
    return "\n".join(lines)
