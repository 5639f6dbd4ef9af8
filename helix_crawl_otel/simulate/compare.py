"""Runs every policy on a scenario and puts the results side by side: as rows, and as a table for people.

A scenario is a kind of job, and its batches are drawn: how long each is, and how much longer than its share it takes.
What a policy is worth shows in ten draws, the middle one and the worst; one alone says as much of its seed.

Source: DESIGN.md, section 3.3 (`simulate --json`, fixed keys).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from helix_crawl_otel.formats import GIB, gib, span, table_lines
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.best import best_plan
from helix_crawl_otel.simulate.families import FAMILIES, random_scenarios
from helix_crawl_otel.simulate.loop import GIVE_UP_SECONDS, SimulatedRun, play
from helix_crawl_otel.simulate.policies import DEFINITIONS, MAKERS
from helix_crawl_otel.simulate.scenario import MOST_SEEDS, ORDERS, Scenario

__all__ = [
    "DRAWS",
    "Comparison",
    "RandomRow",
    "Row",
    "compare",
    "compare_draws",
    "compare_random",
    "legend",
    "order_table",
    "random_table",
    "table",
]

_HEADINGS = ("scenario", "policy", "finished after", "over best", "worst", "noticed after", "interventions", "false")
_RANDOM_HEADINGS = ("family", "policy", "over best", "95 %", "worst", "which", "interventions", "false")
_ORDER_HEADINGS = ("scenario", "policy", "in file order", "held", "by tokens", "held")

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
        order: Of the batches, see `Scenario`.
        peak_gib: The most that a worker held, weights and what had spilled with it.
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
    order: str
    peak_gib: float
    draws: tuple[Row, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The row of `--json`, with the worst draw and all of them behind what a single one has."""
        digits = {"finish_seconds": 3, "ratio_to_best": 4, "detect_seconds": 3, "peak_gib": 2}
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

    @property
    def finished(self) -> str:
        """When it was, in words."""
        return f"> {span(GIVE_UP_SECONDS)}" if self.finish_seconds is None else span(self.finish_seconds)

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            self.scenario,
            self.policy,
            self.finished,
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
            order=self.scenario.order,
            peak_gib=run.peak_gib,
        )


def compare(scenario: Scenario, settings: Settings, policies: Iterable[str] = MAKERS) -> Comparison:
    """Run a scenario under several policies, and under `best`.

    Args:
        scenario: The card and the batches.
        settings: The knobs of all but `none`, `release` and `best` (`finished-batches` never judges a batch in flight).
        policies: Names, all unless given.
    """
    runs = {name: play(scenario, MAKERS[name](settings)) for name in policies}
    return Comparison(scenario, runs | {"best": play(scenario, best_plan(scenario).policy())})


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
        drawn = scenario.drawn((scenario.seed + number) % MOST_SEEDS)
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


# -- random scenarios --------------------------------------------------------------------------------------------------

RANDOM_POLICIES = tuple(name for name in MAKERS if name not in ("release", "finished-batches"))
"""Those of `--random`."""

ALL = "all"


@dataclass(frozen=True)
class RandomRow:
    """One policy on the random scenarios of a family, or of all.

    Args:
        family: Name, or `all`.
        policy: Name.
        scenarios: How many.
        median_ratio: Of the times over the best possible, the middle one (of an even number the lower); `None` where it
            was given up.
        p95_ratio: The one that 95 % of them do not pass.
        worst_ratio: The largest.
        worst_seed: Whose that is.
        worst_family: Likewise.
        interventions: Remedies taken in all of them.
        false_interventions: Those taken while there was no crawl.
        order: Of the batches, see `Scenario`.
    """

    family: str
    policy: str
    scenarios: int
    median_ratio: float | None
    p95_ratio: float | None
    worst_ratio: float | None
    worst_seed: int
    worst_family: str
    interventions: int
    false_interventions: int
    order: str

    def as_json(self) -> dict[str, Any]:
        """The row of `--random --json`."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in vars(self).items()}

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        ratios = (self.median_ratio, self.p95_ratio, self.worst_ratio)
        return (
            self.family,
            self.policy,
            *("-" if ratio is None else f"{ratio:.3f}" if ratio < 10 else f"{ratio:.1f}" for ratio in ratios),
            f"{self.worst_family} {self.worst_seed}",
            str(self.interventions),
            str(self.false_interventions),
        )


def compare_random(
    count: int,
    seed: int,
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
    order: str = ORDERS[0],
) -> list[RandomRow]:
    """Run random scenarios of all families under each of `RANDOM_POLICIES`.

    Args:
        count: How many, 1 or more.
        seed: Of the first; the next ones follow.
        settings: See `compare`.
        progress: Called after each, with how many are done.
        order: Of the batches, see `Scenario`.

    Returns:
        A row a policy of all scenarios, then those of each family.
    """
    found: list[Row] = []
    for scenario in random_scenarios(count, seed):
        found += compare(replace(scenario, order=order), settings, RANDOM_POLICIES).rows
        progress(len(found) // (len(RANDOM_POLICIES) + 1))
    families = (ALL, *dict.fromkeys(row.scenario for row in found))
    return [
        _random_row(family, policy, [row for row in found if row.policy == policy and family in (ALL, row.scenario)])
        for family in families
        for policy in RANDOM_POLICIES
    ]


def _random_row(family: str, policy: str, rows: Sequence[Row]) -> RandomRow:
    ranked = sorted(rows, key=_by_ratio)
    return RandomRow(
        family,
        policy,
        len(rows),
        ranked[(len(rows) - 1) // 2].ratio_to_best,
        ranked[math.ceil(0.95 * len(rows)) - 1].ratio_to_best,
        ranked[-1].ratio_to_best,
        ranked[-1].seed,
        ranked[-1].scenario,
        sum(row.interventions for row in rows),
        sum(row.false_interventions or 0 for row in rows),
        rows[0].order,
    )


# -- for people -------------------------------------------------------------------------------------------------------


def table(scenarios: Sequence[Sequence[Row]], columns: int | None = None) -> list[str]:
    """Lines with all rows, a block a scenario, its name on its first row only; see `formats.table_lines`."""
    return table_lines(_HEADINGS, [[row.cells() for row in rows] for rows in scenarios], columns)


def random_table(rows: Sequence[RandomRow], columns: int | None = None) -> list[str]:
    """The same of random scenarios, a block a family."""
    blocks: dict[str, list[tuple[str, ...]]] = {}
    for row in rows:
        blocks.setdefault(row.family, []).append(row.cells())
    return table_lines(_RANDOM_HEADINGS, list(blocks.values()), columns)


def order_table(by_order: Sequence[Sequence[Sequence[Row]]], columns: int | None = None) -> list[str]:
    """What the order of batches changes: the same scenarios in each of `ORDERS`, side by side."""
    blocks = [
        [
            (files.scenario, files.policy, *(cell for row in (files, tokens) for cell in _of_order(row)))
            for files, tokens in zip(*pair, strict=True)
        ]
        for pair in zip(*by_order, strict=True)
    ]
    return table_lines(_ORDER_HEADINGS, blocks, columns)


def _of_order(row: Row) -> tuple[str, str]:
    return row.finished, gib(round(row.peak_gib * GIB))


def legend() -> str:
    """What each policy is, and what the columns mean."""
    lines = ["Policies:"]
    lines += [f"  {name:17} {text}" for name, text in DEFINITIONS.items()]
    lines += [
        "",
        "Columns:",
        f"  finished after    virtual time from the start of the first worker; given up after {span(GIVE_UP_SECONDS)}",
        "  over best         that time over best's, in the middle one of the draws (of an even number, the lower)",
        "  worst             the same in the worst of them",
        "  noticed after     from the start of the first batch that the card makes at least twice as long (or never",
        "                    ends) to the first DETECT",
        "  interventions     remedies taken in answer to a verdict (a release by the clock is routine); best: planned",
        "  false             of those, taken while there was no crawl; the most in any draw",
        "  held              with --order both: the most that a worker took, weights and what has spilled with it",
        "",
        f"Each scenario is drawn {DRAWS} times, or --draws: its batches' lengths and times differ from seed to seed.",
        "",
        "Families of --random N, each of which is a SCENARIO too; --seed S makes the same one again:",
        *(f"  {name:17} {text}" for name, (text, _) in FAMILIES.items()),
    ]
    return "\n".join(lines)
