"""What a watch comes to hold over a long run: of batches in one shard, of shards one after the other."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tests.benchmarks.figures import Benchmark, Figures
from tests.benchmarks.long_run import PARTS
from tests.rules.tree import ROOT

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1200)]

WARMUP_PARTS = 2
"""Parts of a run that fill caches, pools and, with many shards, the 1,000 labels; growth is counted after them."""

TITLE = "Growth over a long run, after a warm-up of two tenths"


@dataclass(frozen=True)
class LongRun:
    """What a run has printed, and how many steps lie between its halves after the warm-up."""

    printed: dict[str, Any]
    steps: int

    def growth(self, key: str) -> float:
        """Bytes a step. Each half speaks by its least part: a scrape under way only ever adds."""
        values = [part[key] for part in self.printed["parts"][WARMUP_PARTS:]]
        half = len(values) // 2
        growth: float = (min(values[half:]) - min(values[:half])) / self.steps
        return growth

    def ageing(self) -> float:
        """CPU time of a step of the old watch over that of a fresh one."""
        ratio: float = self.printed["aged_seconds"] / self.printed["fresh_seconds"]
        return ratio


def long_run(what: str, count: int, *options: str) -> LongRun:
    """Run the program beside this file."""
    command = [sys.executable, "-m", "tests.benchmarks.long_run", what, str(count), *options]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return LongRun(json.loads(done.stdout), count * (PARTS - WARMUP_PARTS) // PARTS // 2)


@pytest.mark.parametrize(
    ("what", "count", "unit", "most_traced", "most_rss"),
    [
        pytest.param("batches", 50_000, 10_000, 5_000, 1_000_000, id="batches"),
        # A closed shard leaves what may serve the next ones; see policy.durable.
        pytest.param("shards", 10_000, 1_000, 100_000, 2_000_000, id="shards"),
    ],
)
def test_a_long_run_holds_no_more_and_takes_no_longer(
    benchmark: Benchmark, figures: Figures, what: str, count: int, unit: int, most_traced: float, most_rss: float
) -> None:
    """No growth of memory or time with the number of batches or shards."""
    runs: list[LongRun] = []
    short = benchmark.disabled
    size, turns = (count // 50, 1) if short else (count, 20)

    benchmark.group = "long run"
    benchmark.pedantic(lambda: runs.append(long_run(what, size, "--turns", str(turns))))
    plain, traced = runs[-1], long_run(what, size, "--traced")

    figures.add(
        TITLE,
        {
            "run": f"{size:,} {what}",
            "per": f"{unit:,} {what}",
            "traced bytes": f"{unit * traced.growth('traced_bytes'):,.0f}",
            "RSS bytes": f"{unit * plain.growth('rss_bytes'):,.0f}",
            "RSS at the end": f"{plain.printed['parts'][-1]['rss_bytes'] / 2**20:.1f} MiB",
            "CPU time, old watch over fresh": f"{plain.ageing():.2f}",
        },
    )
    benchmark.extra_info["plain"] = plain.printed
    benchmark.extra_info["traced"] = traced.printed
    if not short:  # a short run is all warm-up
        assert unit * traced.growth("traced_bytes") < most_traced
        assert unit * plain.growth("rss_bytes") < most_rss
        assert plain.ageing() < 2
