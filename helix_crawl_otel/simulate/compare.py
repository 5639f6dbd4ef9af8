"""Runs every policy on a scenario and puts the results side by side.

Source: DESIGN.md, section 3.3 (`simulate --json`, fixed keys) and section 10 (goals).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.best import best_plan
from helix_crawl_otel.simulate.loop import play
from helix_crawl_otel.simulate.policies import DEFINITIONS, SimulatedPolicy, finished_batches, ladder
from helix_crawl_otel.simulate.scenario import Scenario
from helix_crawl_otel.simulate.trace import SimulatedRun

__all__ = ["Comparison", "Row", "compare", "ladder_ratios", "middle_and_worst"]


@dataclass(frozen=True)
class Row:
    """One policy on one scenario.

    Args:
        scenario: Name.
        policy: Name.
        finish_seconds: `None`: given up after `trace.GIVE_UP_SECONDS`.
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
        return {
            "scenario": self.scenario,
            "policy": self.policy,
            "finish_seconds": _rounded(self.finish_seconds, 3),
            "ratio_to_best": _rounded(self.ratio_to_best, 4),
            "detect_seconds": _rounded(self.detect_seconds, 3),
            "interventions": self.interventions,
            "false_interventions": self.false_interventions,
        }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


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
        return [self._row(run) for run in self.runs.values()]

    def row(self, policy: str) -> Row:
        """The row of one policy."""
        return self._row(self.runs[policy])

    def _row(self, run: SimulatedRun) -> Row:
        best = self.runs["best"].finish_seconds
        finish = run.finish_seconds
        return Row(
            scenario=self.scenario.name,
            policy=run.policy,
            finish_seconds=finish,
            ratio_to_best=None if finish is None or best is None else finish / best,
            detect_seconds=run.detect_seconds,
            interventions=run.interventions,
            false_interventions=None if run.policy == "best" else run.false_interventions,
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


def ladder_ratios(scenario: Scenario, settings: Settings, seeds: range) -> list[float]:
    """The ladder's finish over the best one with other batch lengths, ascending; a run given up counts as infinite.

    One seed is one draw: where in the shard the fall comes, and how long that batch is, moves the ratio.
    """
    ratios = []
    for seed in seeds:
        other = replace(scenario, seed=seed)
        finish = play(other, ladder(settings)).finish_seconds
        ratios.append(float("inf") if finish is None else finish / best_plan(other).seconds)
    return sorted(ratios)


def middle_and_worst(ratios: list[float]) -> tuple[float, float]:
    """Median and maximum."""
    return median(ratios), max(ratios)
