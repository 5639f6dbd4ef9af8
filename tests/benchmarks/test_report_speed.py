"""A report takes time and memory by the line, whatever there is many of: batches, shards, workers, actions."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.engine import replay
from helix_crawl_otel.replay.order import in_runs
from helix_crawl_otel.report.effect import choose
from helix_crawl_otel.report.tell import tell
from helix_crawl_otel.report.words import sentences, tale_text
from helix_crawl_otel.timeline import read_timeline
from tests.benchmarks.figures import Benchmark, Figures

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

LIMIT_BYTES = 12_000_000_000
ROUNDS = 3
TITLE = "Report and replay: processor time of twice the lines over that of the lines"


def timeline(
    batches: int, *, shards: int = 4, workers: int = 1, actions: int = 0, starts: int = 0
) -> Iterator[dict[str, object]]:
    """A job of batches of 4 s. Each worker has a shard and a device of its own, and goes on to the next one."""
    yield {"event": "run", "version": 1, "t": 0.0, "encoder": "made"}
    seen = {"rate": 1.6, "ratio": 0.1, "streak": 8, "inflight_seconds": 33.0}
    acts, ends = (batches // count if count else batches + 1 for count in (actions, starts))
    for n in range(batches):
        turn, worker = divmod(n, workers)
        t = round(4.0 * (turn + 1) + worker / workers, 6)
        who = {"device": f"cuda:{worker}", "worker": f"w{worker}"}
        shard = f"s{n * shards // batches}-{worker}"
        slow = turn % 500 > 480
        used = LIMIT_BYTES if slow else LIMIT_BYTES // 2
        yield {"event": "memory", "t": t, "device": who["device"], "used_bytes": used, "limit_bytes": LIMIT_BYTES}
        yield {"event": "batch", "t": t, "shard": shard, **who, "genes": 1 if slow else 64, "seconds": 4.0}
        if n % acts == acts - 1:
            kind = ("DETECT", "EMPTY_CACHE", "RECYCLE")[n // acts % 3]
            yield {"event": "action", "t": t, "shard": shard, "kind": kind, "outcome": "overdue", "evidence": seen}
        if n % ends == ends - 1:
            yield {"event": "worker", "t": t, **who, "reason": "recycle"}


def written(path: Path, events: Iterator[dict[str, object]]) -> Path:
    """The file of them."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(event) + "\n" for event in events)
    return path


def report_in_words(path: Path) -> None:
    """All of a report but its figures, whose number and size are bounded."""
    story = tell(list(in_runs(read_timeline(path))), Settings())
    shown = choose(story)
    assert [*sentences(story), *(tale_text(tale, story) for tale in shown.tales)]


def replayed(path: Path) -> None:
    """What `replay` does."""
    assert replay(read_timeline(path), Settings()).batches


def seconds_of(step: Callable[[Path], None], path: Path, rounds: int) -> float:
    """The least processor time of a few rounds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        step(path)
        taken.append(time.process_time() - began)
    return min(taken)


@pytest.mark.parametrize("step", [report_in_words, replayed])
@pytest.mark.parametrize(
    ("what", "batches", "many"),
    [
        ("batches", 20_000, {}),
        ("shards", 10_000, {"shards": 2_000}),
        ("workers at once", 10_000, {"workers": 100}),
        ("starts of workers, and shards", 10_000, {"starts": 2_000, "shards": 2_000}),
        ("actions of a shard", 10_000, {"actions": 8_000, "shards": 1}),
        ("actions and starts", 10_000, {"actions": 4_000, "starts": 2_000, "shards": 1_000}),
    ],
)
def test_twice_the_lines_take_twice_the_time(
    benchmark: Benchmark,
    figures: Figures,
    tmp_path: Path,
    step: Callable[[Path], None],
    what: str,
    batches: int,
    many: dict[str, int],
) -> None:
    """8,000 actions took two minutes when each of them looked at every batch."""
    size, rounds = (batches // 20, 1) if benchmark.disabled else (batches, ROUNDS)

    def made(times: int) -> Path:
        counts = {key: n if key == "workers" else times * n * size // batches for key, n in many.items()}
        return written(tmp_path / f"{times}.jsonl", timeline(times * size, **counts))

    once, twice = made(1), made(2)
    benchmark.group = "report"
    found: list[float] = []
    benchmark.pedantic(lambda: found.append(seconds_of(step, twice, rounds) / seconds_of(step, once, rounds)))
    figures.add(TITLE, {"many": what, "of": step.__name__, "ratio": f"{found[0]:.2f}"})
    if not benchmark.disabled:
        assert found[0] < 3.0


@pytest.mark.skipif(sys.platform != "linux", reason="the greatest size of a process is read as Linux counts it")
def test_a_line_takes_less_than_150_bytes(benchmark: Benchmark, figures: Figures, tmp_path: Path) -> None:
    """So two million fit into 300 MB, beside what the libraries take."""
    size = 1_000 if benchmark.disabled else 200_000
    program = (
        "import resource, sys; from helix_crawl_otel.cli import main; "
        "assert main(['report', sys.argv[1], '-o', sys.argv[2]]) == 0; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )

    def peak_bytes(batches: int) -> int:
        path = written(tmp_path / f"{batches}.jsonl", timeline(batches, workers=4, actions=20))
        command = [sys.executable, "-c", program, str(path), str(tmp_path / "r.html")]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        return 1024 * int(done.stdout.split()[-1])

    found: list[float] = []
    benchmark.group = "report"
    benchmark.pedantic(lambda: found.append((peak_bytes(3 * size) - peak_bytes(size)) / (4 * size)))
    figures.add("Report: bytes of memory for one more line", {"lines": f"{6 * size:,}", "bytes": f"{found[0]:.0f}"})
    if not benchmark.disabled:
        assert found[0] < 150
