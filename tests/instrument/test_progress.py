"""Any program, watched by its progress bar."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from helix_crawl_otel import CrawlConfig, CrawlWatch, MemoryReading, PauseRequested
from helix_crawl_otel.instrument.progress_bars import BarReader, BarState
from tests.build.rig import COMMAND, SECONDS, Rig
from tests.standins import nvml
from tests.watch.rig import CARD_BYTES, Clock

BARS = [
    (b"\rBatches:   0%|          | 0/313 [00:00<?, ?it/s]", BarState("Batches", 0, 313)),
    (b"\rsteps:   3%|#  | 41/1600 [01:02<39:12,  1.51s/it, avr_loss=0.1]", BarState("steps", 41, 1600)),
    (b"\r45it [00:03, 13.01it/s]", BarState("", 45, None)),
    (b"\r 10%|# | 1.2k/12.0k [00:01<00:10, 1.1kB/s]", BarState("", 1200, 12000)),
    ("\r\x1b[2KWorking \x1b[35m━━━━━╸━━\x1b[0m  40% 40/100 0:00:12".encode(), BarState("Working", 40, 100)),
    ("\r\x1b[2KWorking... \x1b[35m━━━━━╸━━\x1b[0m  40% 0:00:12".encode(), BarState("Working...", 40, 100)),
    (b"2026-11-29 08:00:00 INFO loaded 3/4 files\n", None),
    (b"a.py:3 [1/2] 100% done\n", None),
    (b"|" * 9000, None),
]


@pytest.mark.parametrize(("drawn", "state"), BARS)
def test_bars_as_tqdm_and_rich_draw_them(drawn: bytes, state: BarState | None) -> None:
    """And what is none. In whatever pieces it comes."""
    assert BarReader().feed(drawn)[-1:] == ([] if state is None else [state])
    reader, found = BarReader(), []
    for at in range(len(drawn)):
        found += reader.feed(drawn[at : at + 1])
    assert found[-1:] == ([] if state is None else [state])


@pytest.mark.parametrize("resumes", [False, True])
def test_a_bar_that_crawls_is_detected(resumes: bool) -> None:
    """Its steps are batches; the one in flight is judged as well, and nothing is released that is another process's.
    A program that resumes is ended at the next step."""
    from helix_crawl_otel.instrument.progress_driver import BarWatch

    clock, fraction = Clock(), [0.5]
    watch = CrawlWatch(
        CrawlConfig(window=2),
        memory=lambda: MemoryReading(round(fraction[0] * CARD_BYTES), CARD_BYTES),
        clock=clock,
        tick_seconds=None,
    )
    kinds: list[str] = []
    watch.on_action(lambda action: kinds.append(action.kind.value))
    bars = BarWatch(watch, "train.py", resumes, clock)
    for step in range(12):
        bars.feed(BarState("steps", step, 100), clock.now)
        clock.now += 4.0
        watch.tick()
    fraction[0] = 0.99
    for _ in range(40):
        clock.now += 5.0
        watch.tick()
    assert kinds == (["DETECT", "RECYCLE"] if resumes else ["DETECT"])
    if resumes:
        with pytest.raises(PauseRequested) as raised:
            bars.feed(BarState("steps", 12, 100), clock.now)
        assert raised.value.code == 75
    bars.close()
    watch.close()


def test_a_bar_that_ends_and_one_that_begins_anew(tmp_path: Path) -> None:
    """What comes after the last step is no step, and a new bar of the same name is no step back."""
    from helix_crawl_otel.instrument.progress_driver import BarWatch

    clock = Clock()
    with CrawlWatch(memory=lambda: MemoryReading(1, 2), clock=clock, tick_seconds=None) as watch:
        bars = BarWatch(watch, "train.py", False, clock)
        for _ in range(2):
            for step in range(4):
                bars.feed(BarState("", step, 3), clock.now)
                clock.now += 2.0
            assert bars._scope is None
            clock.now += 1000.0
        assert watch.shard("train.py").status().ema is None or watch.shard("train.py").status().ema == 0.5
        bars.close()


LOSSES = [(f"Epoch {step // 5} loss={1 / (step + 1):.3f}", step % 5) for step in range(15)]
CARDS = [(f"GPU {step % 2}", step // 2 + 5 * (step % 2)) for step in range(1, 30)]


@pytest.mark.parametrize(
    ("drawn", "shards", "rate"), [(LOSSES, {"Epoch loss"}, 0.5), (CARDS, {"GPU 0", "GPU 1"}, 0.25)]
)
def test_a_bar_whose_description_changes_is_one_and_two_bars_are_two(
    drawn: list[tuple[str, int]], shards: set[str], rate: float
) -> None:
    """A loss is told before it at each step, or its epoch; bars of two cards differ by a number as well."""
    from helix_crawl_otel.instrument.progress_driver import BarWatch

    clock = Clock()
    with CrawlWatch(CrawlConfig(warmup=0), memory=lambda: MemoryReading(1, 2), clock=clock, tick_seconds=None) as watch:
        bars = BarWatch(watch, "train.py", False, clock)
        for name, step in drawn:
            bars.feed(BarState(name, step, 100), clock.now)
            clock.now += 2.0
        assert shards <= set(bars._shards)
        for name in shards:
            assert bars._shards[name].status().ema == pytest.approx(rate)
        bars.close()


def test_what_is_read_late_is_timed_by_when_it_was_drawn() -> None:
    """Steps that wait in a pipe while the supervisor is asked took as long as they took."""
    from helix_crawl_otel.instrument.progress_driver import BarWatch

    clock = Clock()
    with CrawlWatch(CrawlConfig(warmup=0), memory=lambda: MemoryReading(1, 2), clock=clock, tick_seconds=None) as watch:
        bars = BarWatch(watch, "train.py", False, clock)
        began = clock.now
        clock.now += 100.0
        for step in range(6):
            bars.feed(BarState("", step, 100), began + 4.0 * step)
            clock.now += 0.001
        assert bars._shards["train.py"].status().ema == pytest.approx(0.25)
        bars.close()


JOB = """
import os, sys, time
assert "HELIX_CRAWL_PROGRESS_JOB" not in os.environ
assert os.environ.get("PYTHONPATH") == {variable!r}, os.environ.get("PYTHONPATH")
for step in range(4):
    sys.stderr.write(f"\\rsteps:  10%|#   | {{step}}/4 [00:01<00:02,  1.10s/it]"); sys.stderr.flush()
    time.sleep(1.05)
sys.stderr.write("\\nlast words\\n"); print("out")
raise SystemExit(int(sys.argv[1]))
"""


def test_a_program_that_knows_nothing_of_us(tmp_path: Path) -> None:
    """Its output is passed on, its code counts, it is not started again; its environment is its own."""
    import os
    import subprocess

    script, variable = tmp_path / "train.py", f"{tmp_path}{os.pathsep}{Path.cwd()}"
    script.write_text(JOB.format(variable=variable), encoding="utf-8")
    state = str(tmp_path / "state")
    command = [*COMMAND, "run", "--no-metrics", "--json", "--progress", "tqdm", "--state", state, "--"]
    done = subprocess.run(
        [*command, sys.executable, str(script), "3"],
        env={**os.environ, "PYTHONPATH": variable},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "last words" in done.stderr
    assert "out" in done.stdout
    assert done.stdout.count('"event": "worker_started"') == 1
    assert '"shard": "steps"' in done.stdout


CRAWLS = """
import sys, time
from pathlib import Path
from tests.standins.nvml import GIB, Answers, Card
done, answers = Path(sys.argv[1]), Answers(Path(sys.argv[2]), [Card(total=12 * GIB, used=3 * GIB)])
first = len(done.read_text()) if done.exists() else 0
for step in range(first, 40):
    sys.stderr.write(f"\\rsteps:  10%|#   | {step}/40 [00:01<00:02,  1.10s/it]"); sys.stderr.flush()
    slow = step - first > 12 and first == 0
    answers.change(used=int((11.5 if slow else 3) * GIB))
    time.sleep(2.0 if slow else 0.15)
    with done.open("a") as file:
        file.write(".")
"""


@pytest.mark.slow
@pytest.mark.parametrize("resumes", [False, True])
def test_a_program_that_crawls(rig: Rig, tmp_path: Path, resumes: bool) -> None:
    """Its card is read by NVML; one that resumes is started again, and does each step once."""
    done, answers = tmp_path / "done", tmp_path / "answers.txt"
    library = nvml.build(tmp_path / "nvml")
    environ = nvml.Answers(answers, [nvml.Card(total=12 * nvml.GIB, used=3 * nvml.GIB)]).environ(library)
    options = ["--window", "4", "--clock-rate", "25", "--progress", "tqdm", *(["--resumable"] if resumes else [])]
    job = [sys.executable, "-c", CRAWLS, str(done), str(answers)]
    ended = rig.run([*COMMAND, "run", "--no-metrics", "--json", *options, "--", *job], SECONDS, **environ)
    assert ended.code == 0, ended.errors
    assert done.read_text() == "." * 40
    kinds = [event["action"] for event in ended.of("action") if event["outcome"] in ("applied", "overdue")]
    assert kinds == (["DETECT", "RECYCLE"] if resumes else ["DETECT"])
    assert len(ended.of("worker_started")) == 1 + resumes
