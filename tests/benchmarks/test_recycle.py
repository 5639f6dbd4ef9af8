"""How long a shard is idle while its worker is replaced, and what the supervisor holds meanwhile."""

from __future__ import annotations

import statistics
import subprocess
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks.builds import build_command, events
from tests.benchmarks.figures import Benchmark, Figures
from tests.build.rig import prose, write_tree

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

RATE = 100.0
"""Of the run's clock, so that a crawl is found in a second; what is measured is divided by it."""

SPILLS = (
    *("--model", "hashing", "--window", "4", "--batch-size", "8", "--fault", f"clock:rate={RATE:.0f}"),
    *("--release-every", "0", "--fault", "card:fragment_gib=1.0,spill_cost=12,spill_power=0.1"),
)
"""Each batch leaves a GiB on a modelled card, and no worker releases its cache of itself, so that a shard is released,
recycled, and then sent to the CPU."""


def idle_seconds(said: list[dict[str, Any]]) -> list[float]:
    """From a replaced worker's last commit to its successor's first message, without the wait for the card's memory."""
    found = []
    for number, event in enumerate(said):
        if event["event"] != "worker_started" or event["reason"] == "first":
            continue
        committed = next(other for other in reversed(said[:number]) if other["event"] == "committed")
        loading = next(other for other in said[number:] if other["event"] == "model_loading")
        between = said[said.index(committed) : number]
        gates = [other["t"] for other in between if other["event"] == "gate"]
        waited = gates[-1] - gates[0] if gates else 0.0
        found.append((loading["t"] - committed["t"] - waited) / RATE)
    return found


def test_a_recycle_is_short(benchmark: Benchmark, figures: Figures, tmp_path: Path) -> None:
    """The goal is 2 s from worker to worker, beyond the load of the model and the memory gate; to be read off."""
    write_tree(tmp_path / "source", {f"a/{n}.txt": prose(n, 90) for n in range(16)})
    idle: list[float] = []
    outs = [0]

    def run_round() -> None:
        outs[0] += 1
        said = events(tmp_path / "source", tmp_path / f"out-{outs[0]}", *SPILLS)
        assert "recycle" in [event["reason"] for event in said if event["event"] == "worker_started"]
        idle.extend(idle_seconds(said))

    benchmark.group = "recycle"
    benchmark.pedantic(run_round, rounds=1 if benchmark.disabled else 6)
    figures.add(
        "A shard without a worker, from the last commit of one to the first message of the next",
        {
            "replaced workers": str(len(idle)),
            "seconds (median)": f"{statistics.median(idle):.2f}",
            "least to most": f"{min(idle):.2f} to {max(idle):.2f}",
        },
    )
    benchmark.extra_info["idle_seconds"] = idle
    assert all(seconds > 0 for seconds in idle)


def peak_mib(command: list[str]) -> float:
    """The most that a command's own process holds, without its workers, looked at every 20 ms."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        about, peak, pause = psutil.Process(process.pid), 0, threading.Event()
        while process.poll() is None:
            try:
                peak = max(peak, about.memory_info().rss)
            except psutil.Error:  # it has just ended
                break
            pause.wait(0.02)
    assert process.returncode == 0
    return peak / 2**20


@pytest.mark.parametrize("shards", [1, 300])
def test_the_supervisor_stays_small(benchmark: Benchmark, figures: Figures, tmp_path: Path, shards: int) -> None:
    """Torch is never loaded there, and shards cost it little; the peak during a build with metrics, in MiB."""
    count = min(shards, 20) if benchmark.disabled else shards
    write_tree(tmp_path / "source", {f"shard-{n:04}/one.txt": prose(n, 4) for n in range(count)})
    peaks: list[float] = []
    benchmark.group = "supervisor"
    command = build_command(tmp_path / "source", tmp_path / "out", "--model", "hashing")
    benchmark.pedantic(lambda: peaks.append(peak_mib(command)))
    figures.add("Peak memory of the supervisor during a build", {"shards": f"{count:,}", "peak MiB": f"{peaks[0]:.0f}"})
    benchmark.extra_info["peak_mib"] = peaks
    assert peaks[0] < 200  # torch alone is more
