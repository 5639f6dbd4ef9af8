"""The monitor's readings of shared memory, as the supervisor has them: beside those of NVML, never in their way."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.gpu_counters import GpuCounters
from helix_crawl_otel.probes.monitor import MemoryMonitor
from helix_crawl_otel.probes.probe import UNKNOWN, CallableProbe, Probe
from helix_crawl_otel.supervise.session import Metrics, RunOptions, Session
from helix_crawl_otel.timeline import MemoryEvent, TimelineWriter, read_timeline, writer
from tests.probes.counters import GIB, MIB, TABLE, FakeCounters, usage
from tests.watch.rig import TICK, Clock, Series, collected, make_provider, wait_until

CARD = 12 * GIB
HELD = usage((4711, 6000, 200), (99, 3000, 10))


class Watched:
    """A memory monitor whose card and counters answer what a test says, every 10 ms."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.card = MemoryReading(9 * GIB, CARD)
        self.counters = FakeCounters(HELD)
        self.path = folder / "timeline.jsonl"
        self._timeline = TimelineWriter(self.path, self.clock)
        provider, self._reader = make_provider()
        hub = Instruments(provider.get_meter("memory"))
        self.pipeline = Pipeline(CrawlConfig(), hub, self.clock, timeline=self._timeline)

        def card_probe(device: str, environ: Mapping[str, str]) -> Probe:
            return CallableProbe(lambda: self.card, device, "nvml")

        self.memory = MemoryMonitor(
            self.pipeline.read_memory,
            self.clock,
            tick_seconds=TICK,
            clock_rate=500.0,
            environ={},
            on_error=lambda error: self.pipeline.error("probe", error),
            card_probe=card_probe,
            counters=lambda: self.counters,
            first_seconds=50.0,
            table=lambda: TABLE,
        )

    def series(self, name: str) -> Series:
        """The series of an instrument now."""
        return collected(self._reader).get(f"helix_dense_{name}", {})

    def has(self, own: int | None, other: int | None = None) -> bool:
        """Whether so many MiB are exported of the worker and of others, and nothing where it is unknown."""
        owners = {"worker": own, "other": other}
        known = {("device=cuda:0", f"owner={name}"): mib * MIB for name, mib in owners.items() if mib is not None}
        return self.series("vram_shared") == known

    def close(self) -> None:
        """End the threads."""
        self.memory.close()
        self.pipeline.close()
        self._timeline.close()


@pytest.fixture(autouse=True)
def writes_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is given up where another thread's write seems to hang; on a busy machine it may take a second."""
    monkeypatch.setattr(writer, "LOCK_SECONDS", 100.0)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A worker of process 4711 on a card with counters."""
    watched = Watched(tmp_path)
    watched.memory.start_worker("w1", "cuda:0", 4711)
    watched.memory.watch("cuda:0")
    yield watched
    watched.counters.goes.set()
    watched.close()


def test_shared_memory_is_exported_and_recorded_with_the_readings_of_the_card(watched: Watched) -> None:
    """One line of the timeline has both; before the counters have answered it has no such keys."""
    wait_until(lambda: watched.has(200, 10))
    assert watched.series("vram_used") == {("device=cuda:0",): 9 * GIB}
    readings = [MemoryReading(*event[2:]) for event in read_timeline(watched.path) if isinstance(event, MemoryEvent)]
    assert readings[-1] == MemoryReading(9 * GIB, CARD, 200 * MIB, 10 * MIB)


def test_counters_that_hang_hold_nothing_up(watched: Watched) -> None:
    """The card goes on being read, shared memory is unknown after two ticks, and the operator hears of it once."""
    wait_until(lambda: watched.has(200, 10))
    watched.counters.hang()
    watched.card = MemoryReading(10 * GIB, CARD)
    wait_until(lambda: watched.series("vram_used") == {("device=cuda:0",): 10 * GIB})
    watched.clock.now += 2 * TICK + 0.1
    wait_until(lambda: watched.has(None))
    watched.clock.now += 60.0
    watched.memory.tick()
    watched.memory.tick()
    assert watched.series("internal_errors")[("where=probe",)] == 1
    assert watched.memory.used("cuda:0") == 10 * GIB
    watched.counters.goes.set()
    wait_until(lambda: watched.has(200, 10))


def test_counters_that_hang_do_not_keep_a_run_from_ending(watched: Watched) -> None:
    """Their thread is left behind."""
    watched.counters.hang()
    watched.memory.close()
    assert watched.counters.closed == 0


def test_counters_that_fail_are_counted_and_said_once(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """However often; the card goes on being read."""
    with caplog.at_level(logging.INFO, "helix_crawl_otel"):
        watched.counters.answer = OSError("access violation")
        reads = watched.counters.reads
        wait_until(lambda: watched.counters.reads > reads + 3)
        wait_until(lambda: watched.has(None))
    assert watched.series("internal_errors")[("where=probe",)] >= 3
    said = [record for record in caplog.records if "access violation" in record.getMessage()]
    assert [record.levelname for record in said if record.levelno > logging.INFO] == ["WARNING"]
    assert len(said) == 2
    watched.card = MemoryReading(10 * GIB, CARD)
    wait_until(lambda: watched.series("vram_used") == {("device=cuda:0",): 10 * GIB})


def test_a_card_that_is_lost_leaves_shared_memory_to_be_known(watched: Watched) -> None:
    """Two libraries: what one does not know takes nothing from the other."""
    wait_until(lambda: watched.has(200, 10))
    watched.card = UNKNOWN
    wait_until(lambda: watched.series("vram_used") == {})
    assert watched.has(200, 10)


def test_a_worker_that_is_gone_takes_its_shared_memory_along(watched: Watched) -> None:
    """And the next one is read by its own process."""
    wait_until(lambda: watched.has(200, 10))
    watched.memory.forget_worker("w1")
    wait_until(lambda: watched.has(None))
    watched.counters.answer = usage((4800, 100, 5), (99, 3000, 10))
    watched.memory.start_worker("w1", "cuda:0", 4800)
    wait_until(lambda: watched.has(5, 10))


def test_a_modelled_card_is_not_asked_for(tmp_path: Path) -> None:
    """There is no such card in this machine."""
    watched = Watched(tmp_path)
    watched.memory.start_worker("w1", "cuda:0", 4711)
    watched.memory.watch("cuda:0", is_modelled=True)
    watched.memory.watch("cpu")
    watched.close()
    assert watched.counters.reads == 0


def test_a_run_names_who_else_holds_the_memory(tmp_path: Path) -> None:
    """A session's pipeline asks its memory watch at each action; the knob is in the timeline's first line."""
    provider, _ = make_provider()
    options = RunOptions(CrawlConfig(shared=True), tmp_path, "", [("job", "cpu")], {}, keeps_logs=False)
    with Session(options, Metrics(provider), lambda event: None, lambda: None) as session:
        assert session.pipeline.hooks == [session.memory.tell_holders]
    first = json.loads((tmp_path / "timeline.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["config"]["shared"] is True


SLEEPER = "import sys; sys.stdin.read()"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], stdin=sys.stdin)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "win32", reason="needs Windows: runs under Wine")
def test_the_counters_of_windows_and_its_table_of_processes(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real reading code on a stand-in of `pdh.dll`: a worker that has started a process is both of them."""
    from tests.standins.pdh import VARIABLE, Answers, Use, build

    answers = Answers(tmp_path / "answers.txt")
    monkeypatch.setenv(VARIABLE, str(answers.path))
    library = str(build(tmp_path))
    worker = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert worker.stdin is not None
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        answers.usage([Use(worker.pid, GIB, 100 * MIB), Use(child, 6 * GIB, 900 * MIB), Use(99, GIB, 10 * MIB)])
        real = MemoryMonitor(
            watched.pipeline.read_memory,
            watched.clock,
            tick_seconds=TICK,
            clock_rate=500.0,
            environ={},
            on_error=lambda error: watched.pipeline.error("probe", error),
            card_probe=lambda device, environ: CallableProbe(lambda: watched.card, device, "nvml"),
            counters=lambda: GpuCounters(library),
        )
        watched.memory.close()
        real.start_worker("w1", "cuda:0", worker.pid)
        real.watch("cuda:0")
        wait_until(lambda: watched.has(1000, 10))
        answers.set("error.PdhCollectQueryData", "0xC0000BC6")
        wait_until(lambda: watched.has(None))
        real.close()
    finally:
        worker.kill()
        worker.communicate()
