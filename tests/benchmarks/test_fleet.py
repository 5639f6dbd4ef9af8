"""What it costs to have shards placed by Ray, how many nodes help how much, and what a plan of many shards takes.

Run by `pytest -n0 -m "fleet and slow" tests/benchmarks`: half an hour, most of which is sleep.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.benchmarks.figures import Figures
from tests.build.rig import COMMAND, write_tree
from tests.fleet.nodes import nodes_of

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(3600)]

GENES = 10
OPTIONS = ("--model", "hashing", "--no-metrics", "--json")

SLEEP_SECONDS = 3.0
"""Of a batch, which is a shard: the nodes are of one machine, and a real encode would share its cores."""

EDGE = 5
"""Shards at the beginning and at the end that are not counted: a worker starts there, or slots have nothing left."""


def write_shards(root: Path, shards: int) -> Path:
    """A tree of so many folders with ten short files each, which are ten genes."""
    write_tree(root, {f"s{s:05}/{g}.txt": f"Gene {g} of shard {s}.\n" for s in range(shards) for g in range(GENES)})
    return root


class Running:
    """A build that runs.

    Args:
        process: Its own.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def events(self, kind: str) -> Iterator[dict[str, Any]]:
        """Those of a kind, as they come; ends with the build."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                yield event

    def processor_seconds(self) -> dict[str, float]:
        """Of the driver, the slots' processes, the workers, and the rest, which is Ray's."""
        own = psutil.Process(self.process.pid)
        spent = dict.fromkeys(("driver", "slot", "worker", "Ray"), 0.0)
        for process in [own, *own.children(recursive=True)]:
            with suppress(psutil.Error):
                words, times = " ".join(process.cmdline()), process.cpu_times()
                kinds = {"ray::Host": "slot", "build.worker": "worker"}
                kind = next((name for word, name in kinds.items() if word in words), "Ray")
                spent["driver" if process == own else kind] += times.user + times.system
        return spent


@contextmanager
def build(source: Path, out: Path, *more: str) -> Iterator[Running]:
    """A build, which has to come to its end within the block or is ended there."""
    command = [*COMMAND, "build", str(source), "--out", str(out), *OPTIONS, *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def test_the_price_of_placement(figures: Figures, tmp_path: Path) -> None:
    """By turns with a build on one machine; the goal is 200 ms a shard beside it, to be read off: cores are shared."""
    shards, rounds = 60, 5
    source = write_shards(tmp_path / "source", shards)
    kinds = {"--workers 1": ("--workers", "1"), "--ray local": ("--ray", "local", "--workers", "1")}
    wall: dict[str, list[float]] = {name: [] for name in kinds}
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for turn in range(rounds):
        for name, words in kinds.items():
            with build(source, tmp_path / f"out-{turn}-{len(words)}", "--device", "cpu", *words) as run:
                ended, at_begin, at_end = [], run.processor_seconds(), run.processor_seconds()
                for event in run.events("shard_ended"):
                    ended.append(float(event["t"]))
                    if len(ended) == EDGE:
                        at_begin = run.processor_seconds()
                    elif len(ended) == shards - EDGE:
                        at_end = run.processor_seconds()
                assert run.process.wait() == 0
            counted = shards - 2 * EDGE
            wall[name].append((ended[-EDGE - 1] - ended[EDGE - 1]) / counted)
            spent[name].append({kind: (at_end[kind] - at_begin[kind]) / counted for kind in at_end})
    for name in kinds:
        row = {"build": name, "ms a shard (median)": f"{1000 * statistics.median(wall[name]):.0f}"}
        row["least to most"] = f"{1000 * min(wall[name]):.0f} to {1000 * max(wall[name]):.0f}"
        for kind in spent[name][0]:
            row[f"{kind}, CPU ms"] = f"{1000 * statistics.median(each[kind] for each in spent[name]):.1f}"
        figures.add(f"A shard of {GENES} genes, {shards} of them, {rounds} rounds by turns", row)


def test_each_node_is_as_much_as_the_first(figures: Figures, tmp_path: Path) -> None:
    """200 shards on four nodes; fewer on fewer, so that it takes no hour. The goal at four is 0.95."""
    alone = 0.0
    for nodes, shards in ((1, 50), (2, 100), (3, 150), (4, 200)):
        source = write_shards(tmp_path / f"source-{nodes}", shards)
        folder = tmp_path / f"fleet-{nodes}"
        folder.mkdir()
        with nodes_of(folder, tuple(f"n{n}" for n in range(1, nodes + 1))) as fleet:
            faults = ("--fault", "card:fragment_gib=0.0", "--fault", f"slow:seconds={SLEEP_SECONDS:g}")
            with build(source, tmp_path / f"out-{nodes}", "--ray", fleet.address, *faults) as run:
                ended = [float(event["t"]) for event in run.events("shard_ended")]
                assert run.process.wait() == 0
        assert len(ended) == shards
        # All slots are busy from the first end on until so many are left as there are slots.
        rate = (shards - 2 * nodes) / (ended[-nodes - 1] - ended[nodes - 1])
        alone = alone or rate
        figures.add(
            f"Shards of {SLEEP_SECONDS:g} s on nodes of one machine",
            {
                "nodes": str(nodes),
                "shards": str(shards),
                "seconds a shard and node": f"{nodes / rate:.2f}",
                "efficiency": f"{rate / nodes / alone:.3f}",
                "of the sleep alone": f"{rate / nodes * SLEEP_SECONDS:.3f}",
            },
        )


def test_ten_thousand_shards_in_the_plan(figures: Figures, tmp_path: Path) -> None:
    """The driver's memory and start; the run is paused half a minute after its first shard."""
    source = write_shards(tmp_path / "source", 10_000)
    for name, words in (("--workers 1", ("--workers", "1")), ("--ray local", ("--ray", "local"))):
        began = time.monotonic()
        with build(source, tmp_path / f"out-{len(words)}-{name[2:5]}", "--device", "cpu", *words) as run:
            driver, seconds, planned, first = psutil.Process(run.process.pid), 0.0, 0.0, 0.0
            for number, _ in enumerate(run.events("shard_ended")):
                if number == 0:
                    first, seconds = time.monotonic(), time.monotonic() - began
                    planned = sum(driver.cpu_times()[:2])
                if time.monotonic() > first + 30:
                    break
            peak = driver.memory_info().rss
            with suppress(AttributeError, OSError):
                status = Path(f"/proc/{driver.pid}/status").read_text(encoding="ascii")
                peak = 1024 * next(int(row.split()[1]) for row in status.splitlines() if row.startswith("VmHWM"))
            run.process.send_signal(signal.SIGINT)
            assert [event["exit_code"] for event in run.events("summary")] == [75]
        figures.add(
            f"10,000 shards of {GENES} genes, {10_000 * GENES:,} files, in the plan",
            {
                "build": name,
                "seconds to the first shard's end": f"{seconds:.0f}",
                "driver's processor seconds until then": f"{planned:.1f}",
                "driver's peak MiB": f"{peak / 1024**2:.0f}",
            },
        )
