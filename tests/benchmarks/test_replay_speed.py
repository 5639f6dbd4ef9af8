"""How fast a timeline is replayed, by the API and as a command, and how long the whole table of `simulate` takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helix_crawl_otel import CrawlConfig
from helix_crawl_otel.replay.engine import replay
from helix_crawl_otel.simulate.policies import DEFINITIONS
from helix_crawl_otel.timeline import read_timeline
from tests.benchmarks.figures import Benchmark, Figures, Samples
from tests.benchmarks.timelines import write_long_timeline

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

LINES = 100_000
ROUNDS = 5
REPLAY_TITLE = f"Replay of a timeline of {LINES:,} lines"
SIMULATE_TITLE = "Whole table of `helix-crawl simulate`"


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for (not on Windows)."""
    return sum(os.times()[:4])


def timed(samples: Samples, cpu_samples: Samples, step: Callable[[], None]) -> Callable[[], None]:
    """The step, with its seconds kept."""

    def run() -> None:
        began, cpu_began = time.perf_counter(), cpu_seconds()
        step()
        samples.rounds.append([time.perf_counter() - began])
        cpu_samples.rounds.append([cpu_seconds() - cpu_began])

    return run


def command(*arguments: str) -> str:
    """What `helix-crawl` prints."""
    line = [sys.executable, "-m", "helix_crawl_otel", *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("way", ["reading alone", "API", "command"])
def test_replay_takes_seconds_for_days_of_batches(
    benchmark: Benchmark, figures: Figures, tmp_path: Path, way: str
) -> None:
    """Replaying is quick enough to try knobs on: 50,000 batches are two days on a small card."""
    path = tmp_path / "timeline.jsonl"
    batches = write_long_timeline(path, LINES // 10 if benchmark.disabled else LINES)
    found: list[int] = []

    def read() -> None:
        found.append(sum(1 for event in read_timeline(path) if type(event).__name__ == "BatchEvent"))

    def run_api() -> None:
        result = replay(read_timeline(path), CrawlConfig())
        assert benchmark.disabled or result.actions["DETECT"] > 0
        found.append(result.batches)

    def run_command() -> None:
        found.append(json.loads(command("replay", str(path), "--json").splitlines()[-1])["batches"])

    samples, cpu_samples = Samples(), Samples()
    benchmark.group = "replay"
    step = {"reading alone": read, "API": run_api, "command": run_command}[way]
    benchmark.pedantic(timed(samples, cpu_samples, step), rounds=ROUNDS)
    assert set(found) == {batches}
    least, most = samples.spread
    figures.add(
        REPLAY_TITLE,
        {
            "way": way,
            "batches": f"{batches:,}",
            "seconds (median)": f"{samples.median:.2f}",
            "CPU seconds (median)": f"{cpu_samples.median:.2f}",
            "batches a CPU second": f"{batches / cpu_samples.median:,.0f}",
            "seconds of the rounds": f"{least:.2f} to {most:.2f}",
        },
    )
    benchmark.extra_info["batches_per_second"] = batches / samples.median


def test_simulate_takes_seconds(benchmark: Benchmark, figures: Figures) -> None:
    """The whole table: every scenario under every policy, one draw each, as a process."""
    samples, cpu_samples = Samples(), Samples()
    printed: list[str] = []
    benchmark.group = "simulate"
    benchmark.pedantic(
        timed(samples, cpu_samples, lambda: printed.append(command("simulate", "--json", "--draws", "1"))),
        rounds=ROUNDS,
    )
    rows = json.loads(printed[-1])
    least, most = samples.spread
    figures.add(
        SIMULATE_TITLE,
        {
            "rows": str(len(rows)),
            "seconds (median)": f"{samples.median:.2f}",
            "CPU seconds (median)": f"{cpu_samples.median:.2f}",
            "seconds of the rounds": f"{least:.2f} to {most:.2f}",
        },
    )
    assert {row["policy"] for row in rows} == set(DEFINITIONS)
