"""What several tests look at: each scenario under every policy with the default knobs, run once."""

from __future__ import annotations

from functools import cache

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.compare import Comparison, compare
from helix_crawl_otel.simulate.loop import Attempt, SimulatedRun
from helix_crawl_otel.simulate.scenario import by_name


@cache
def result(name: str) -> Comparison:
    """A scenario under every policy."""
    scenario = by_name(name)
    assert scenario is not None
    return compare(scenario, Settings())


def rate(attempts: list[Attempt]) -> float:
    """Genes a second of encode time."""
    return sum(item.load.genes for item in attempts) / sum(item.ended - item.began for item in attempts)


def split(run: SimulatedRun) -> tuple[list[Attempt], list[Attempt]]:
    """Healthy batches without the warm-up, and crawled ones."""
    return [item for item in run.attempts[1:] if not item.crawling], [item for item in run.attempts if item.crawling]
