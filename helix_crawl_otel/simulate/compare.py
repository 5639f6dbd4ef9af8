"""Runs every policy on a scenario and puts the results side by side: as rows, and as a table for people.

Source: DESIGN.md, section 3.3 (`simulate --json`, fixed keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helix_crawl_otel.formats import span
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.best import best_plan
from helix_crawl_otel.simulate.loop import GIVE_UP_SECONDS, SimulatedRun, play
from helix_crawl_otel.simulate.policies import DEFINITIONS, SimulatedPolicy, finished_batches, ladder
from helix_crawl_otel.simulate.scenario import Scenario

__all__ = ["Comparison", "Row", "compare", "legend", "table"]

_HEADINGS = ("scenario", "policy", "finished after", "over best", "noticed after", "interventions", "false")


@dataclass(frozen=True)
class Row:
    """One policy on one scenario.

    Args:
        scenario: Name.
        policy: Name.
        finish_seconds: `None`: given up after `GIVE_UP_SECONDS`.
        ratio_to_best: Over the finish of `best`; `None` with it.
        detect_seconds: From the start of the first crawled batch to the first DETECT; `None`: there was no crawl, or it
            was not noticed, or the policy has no detector.
        interventions: Remedies taken; releases by the clock are routine and not counted.
        false_interventions: Those taken while there was no crawl; `None` for `best`, which acts beforehand.
    """

    scenario: str
    policy: str
    finish_seconds: float | None
    ratio_to_best: float | None
    detect_seconds: float | None
    interventions: int
    false_interventions: int | None

    def as_json(self) -> dict[str, str | float | int | None]:
        """The row of `--json`."""
        digits = {"finish_seconds": 3, "ratio_to_best": 4, "detect_seconds": 3}
        return {
            key: round(value, digits[key]) if key in digits and value is not None else value
            for key, value in vars(self).items()
        }

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        return (
            self.scenario,
            self.policy,
            f"> {span(GIVE_UP_SECONDS)}" if self.finish_seconds is None else span(self.finish_seconds),
            "-" if self.ratio_to_best is None else f"{self.ratio_to_best:.2f}",
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
        best_plan(scenario).policy(),
    ]
    runs = {policy.name: play(scenario, policy) for policy in policies}
    assert list(runs) == list(DEFINITIONS)
    return Comparison(scenario, runs)


# -- for people -------------------------------------------------------------------------------------------------------


def table(comparisons: Sequence[Comparison]) -> str:
    """All rows, aligned, a scenario's name on its first row only."""
    blocks = [[row.cells() for row in comparison.rows] for comparison in comparisons]
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
        "  over best         that time over best's",
        "  noticed after     from the start of the first batch that the card makes at least twice as long (or never",
        "                    ends) to the first DETECT",
        "  interventions     remedies taken in answer to a verdict (a release by the clock is routine); best: planned",
        "  false             of those, taken while there was no crawl",
    ]
    return "\n".join(lines)
