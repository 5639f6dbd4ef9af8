"""The monitor as the supervisor has it: a card's readings, what workers tell, what is too old, a card that is lost."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace

import pytest

from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.policy.model import CardReading, MemoryReading
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.probes import monitor
from helix_crawl_otel.probes.monitor import MemoryMonitor, ReportedProbe
from helix_crawl_otel.probes.probe import UNKNOWN, CallableProbe, Probe, ProbeFailure
from tests.standins.nvml import GIB, Answers
from tests.watch.rig import TICK, Clock, Series, collected, make_provider, wait_until

CARD = 12 * GIB


class Watched:
    """A memory monitor whose card is read by a test's callable, every 10 ms.

    Args:
        read: Answers for every card.
        first_seconds: For how long its first answer is waited for.
    """

    def __init__(self, read: Callable[[], MemoryReading], first_seconds: float = 50.0) -> None:
        self.clock = Clock()
        self.errors: list[Exception] = []
        self.asked_card: Callable[[], CardReading] = CardReading
        provider, self._reader = make_provider()
        self.pipeline = Pipeline(Settings(), Instruments(provider.get_meter("memory")), self.clock)

        def card_probe(device: str, environ: Mapping[str, str]) -> Probe:
            probe = CallableProbe(read, device)
            probe.source = "nvml"
            probe.read_card = self.read_card  # type: ignore[method-assign]  # of this one alone
            return probe

        self.memory = MemoryMonitor(
            self.deliver,
            self.clock,
            tick_seconds=TICK,
            clock_rate=500.0,
            environ={},
            on_error=self.errors.append,
            card_probe=card_probe,
            deliver_card=self.pipeline.read_card,
            first_seconds=first_seconds,
        )

    def deliver(self, device: str, reading: MemoryReading, sources: Mapping[str, bool]) -> None:
        """Looked up at each reading, so that a test can come in between."""
        self.pipeline.read_memory(device, reading, sources)

    def read_card(self) -> CardReading:
        """Likewise."""
        return self.asked_card()

    def series(self, name: str) -> Series:
        """The series of an instrument now."""
        return collected(self._reader).get(name if name.startswith("hw.") else f"helix_dense_vram_{name}", {})

    def close(self) -> None:
        """End the threads."""
        self.memory.close()
        self.pipeline.close()


@pytest.fixture
def card() -> list[MemoryReading]:
    """What the card answers."""
    return [MemoryReading(3 * GIB, CARD)]


@pytest.fixture
def watched(card: list[MemoryReading]) -> Iterator[Watched]:
    """A card that answers at once."""
    watched = Watched(lambda: card[0])
    yield watched
    watched.close()


def test_the_first_reading_of_a_card_is_there_when_its_worker_starts() -> None:
    """The gate has to know what was in use before."""
    watched = Watched(lambda: MemoryReading(3 * GIB, CARD))
    watched.memory.watch("cuda:0")
    assert watched.memory.used("cuda:0") == 3 * GIB
    wait_until(lambda: watched.series("used") == {("device=cuda:0",): 3 * GIB})
    assert watched.series("probe_up") == {
        ("device=cuda:0", "source=nvml"): 1,
        ("device=cuda:0", "source=torch"): 0,
    }
    watched.close()


def test_a_driver_that_hangs_keeps_no_worker_from_starting() -> None:
    """The first reading is waited for, for a moment; what comes later counts all the same."""
    answers_now = threading.Event()

    def read() -> MemoryReading:
        assert answers_now.wait(60)
        return MemoryReading(3 * GIB, CARD)

    watched = Watched(read, first_seconds=0.05)
    watched.memory.watch("cuda:0")
    assert watched.memory.used("cuda:0") is None
    answers_now.set()
    wait_until(lambda: watched.memory.used("cuda:0") == 3 * GIB)
    watched.close()


def test_a_card_that_hangs_for_a_minute_is_lost_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    """The gauges must not show the last good value for ever, nor the gate believe it."""
    answers_now, hangs = threading.Event(), threading.Event()
    answers_now.set()

    def read() -> MemoryReading:
        if not answers_now.is_set():
            hangs.set()
            assert answers_now.wait(60)
        return MemoryReading(3 * GIB, CARD)

    watched = Watched(read)
    watched.memory.watch("cuda:0")
    answers_now.clear()
    assert hangs.wait(50)
    watched.clock.now += 60.0
    watched.memory.tick()
    assert watched.memory.used("cuda:0") == 3 * GIB
    assert caplog.messages == []
    watched.clock.now += 1.0
    watched.memory.tick()
    text = "[crawl-watchdog] memory of cuda:0 is unknown (no answer for 60 s): nothing trips there until it is known"
    assert caplog.messages == [text]
    assert watched.memory.used("cuda:0") is None
    assert watched.series("used") == {}
    assert set(watched.series("probe_up").values()) == {0}
    answers_now.set()
    wait_until(lambda: watched.series("used") == {("device=cuda:0",): 3 * GIB})
    assert watched.memory.used("cuda:0") == 3 * GIB
    watched.close()


def test_what_else_a_card_says_comes_after_its_memory(watched: Watched) -> None:
    """A driver that hangs in one of these calls keeps back no reading before it; after a minute the card is lost."""
    hangs, go_on = threading.Event(), threading.Event()

    def read_card() -> CardReading:
        hangs.set()
        assert go_on.wait(60)
        return CardReading("GPU-1", "RTX 3090", temperature=71)

    watched.asked_card = read_card
    watched.memory.watch("cuda:0")
    assert hangs.wait(50)
    assert watched.memory.used("cuda:0") == 3 * GIB
    assert watched.series("hw.temperature") == {}
    watched.clock.now += 61.0
    watched.memory.tick()
    assert watched.memory.used("cuda:0") is None
    go_on.set()
    wait_until(lambda: list(watched.series("hw.temperature").values()) == [71])
    wait_until(lambda: watched.memory.used("cuda:0") == 3 * GIB)
    hangs.clear()
    go_on.clear()
    assert hangs.wait(50)
    watched.clock.now += 61.0
    watched.memory.tick()
    assert watched.series("hw.temperature") == {}, "the last value must not stay for ever"
    go_on.set()


def test_what_a_framework_holds_beyond_the_card_counts(watched: Watched, card: list[MemoryReading]) -> None:
    """Known inside the worker only, and near-proof of a spill. It is forgotten with the worker."""
    watched.memory.watch("cuda:0")
    watched.memory.report("w1", "cuda:0", MemoryReading(13 * GIB, CARD), "torch", True)
    wait_until(lambda: watched.memory.used("cuda:0") == 13 * GIB)
    wait_until(lambda: watched.series("probe_up")["device=cuda:0", "source=torch"] == 1)
    watched.memory.forget_worker("w1")
    wait_until(lambda: watched.memory.used("cuda:0") == 3 * GIB)
    assert watched.errors == []


def test_a_card_that_is_lost_in_the_middle_of_a_run_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """What torch holds counts on, and it is said that this is not all; without it nothing trips, and that is said."""
    lost, answered = threading.Event(), threading.Event()

    def read() -> MemoryReading:
        answered.set()
        if lost.is_set():
            raise ProbeFailure("NVML: GPU is lost (error 15 from nvmlDeviceGetMemoryInfo)")
        return MemoryReading(3 * GIB, CARD)

    watched = Watched(read)
    watched.memory.watch("cuda:0")
    watched.memory.report("w1", "cuda:0", MemoryReading(2 * GIB, CARD), "torch", True)
    wait_until(lambda: watched.series("probe_up").get(("device=cuda:0", "source=torch")) == 1)
    assert caplog.messages == []
    lost.set()
    wait_until(lambda: watched.memory.used("cuda:0") == 2 * GIB)
    watched.memory.forget_worker("w1")
    wait_until(lambda: watched.memory.used("cuda:0") is None)
    for _ in range(3):
        answered.clear()
        assert answered.wait(50)
    watched.close()
    why = "NVML: GPU is lost (error 15 from nvmlDeviceGetMemoryInfo)"
    told = "no worker has told what its framework holds"
    hint = "what other programs hold there is not seen"
    assert caplog.messages == [
        f"[crawl-watchdog] memory of cuda:0 is what torch itself holds ({why}): {hint}",
        f"[crawl-watchdog] memory of cuda:0 is unknown ({why}; torch: {told}): nothing trips there until it is known",
    ]


def test_what_a_worker_told_two_ticks_ago_is_unknown(watched: Watched) -> None:
    """It is wedged, and has given the memory back or not: nobody knows."""
    watched.memory.watch("cuda:0")
    watched.memory.report("w1", "cuda:0", MemoryReading(13 * GIB, CARD), "torch", True)
    wait_until(lambda: watched.memory.used("cuda:0") == 13 * GIB)
    watched.clock.now += 2 * TICK + 0.1
    wait_until(lambda: watched.memory.used("cuda:0") == 3 * GIB)


def test_of_several_workers_on_a_card_the_fullest_reading_counts() -> None:
    """One spills although the other does not. Each is forgotten by itself, and each grows old by itself."""
    clock = Clock()
    probe = ReportedProbe("cuda:0", 10.0, clock)
    assert probe() == UNKNOWN
    assert probe.why == "no worker has told what its framework holds"
    low, high = MemoryReading(1 * GIB, CARD), MemoryReading(11 * GIB, CARD)
    probe.tell("w1", high)
    clock.now += 6.0
    probe.tell("w2", low)
    assert (probe(), probe.why) == (high, None)
    clock.now += 4.0
    assert probe() == high
    clock.now += 0.1
    assert probe() == low
    probe.forget("w2")
    probe.forget("w2")
    assert probe() == UNKNOWN


def test_of_several_workers_the_one_nearest_to_its_cap_counts() -> None:
    """The fullest may have no cap, or room below it: what has been reserved and its cap are of one worker."""
    probe = ReportedProbe("cuda:0", 10.0, Clock())
    probe.tell("w1", MemoryReading(6 * GIB, CARD, reserved_bytes=6 * GIB, cap_bytes=9 * GIB))
    probe.tell("w2", MemoryReading(3 * GIB, CARD, reserved_bytes=3 * GIB, cap_bytes=3 * GIB))
    assert probe() == MemoryReading(6 * GIB, CARD, reserved_bytes=3 * GIB, cap_bytes=3 * GIB)


def test_a_workers_own_probe_stands_for_the_device(watched: Watched) -> None:
    """The driver's own, or a modelled card: what is read here does not count any more, until the run is over."""
    watched.memory.watch("cuda:0")
    watched.memory.report("w1", "cuda:0", MemoryReading(7 * GIB, CARD), "custom", True)
    assert watched.memory.used("cuda:0") == 7 * GIB
    assert watched.series("used") == {("device=cuda:0",): 7 * GIB}
    watched.memory.forget_worker("w2")
    assert watched.memory.used("cuda:0") == 7 * GIB
    watched.memory.forget_worker("w1")
    assert watched.memory.used("cuda:0") is None


def test_a_card_that_hangs_takes_nothing_from_a_worker_whose_own_probe_stands_for_it() -> None:
    """It is not lost: what counts is read elsewhere."""
    answers_now, hangs = threading.Event(), threading.Event()

    def read() -> MemoryReading:
        hangs.set()
        assert answers_now.wait(60)
        return MemoryReading(3 * GIB, CARD)

    watched = Watched(read, first_seconds=0.0)
    watched.memory.watch("cuda:0")
    assert hangs.wait(50)
    watched.memory.report("w1", "cuda:0", MemoryReading(7 * GIB, CARD), "custom", True)
    watched.clock.now += 100.0
    watched.memory.tick()
    assert watched.memory.used("cuda:0") == 7 * GIB
    assert watched.series("used") == {("device=cuda:0",): 7 * GIB}
    answers_now.set()
    watched.close()


def test_a_reading_on_its_way_does_not_come_after_the_one_that_stands_for_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker's would be hidden by ours until it tells the next one."""
    watched = Watched(lambda: MemoryReading(3 * GIB, CARD))
    on_its_way, goes_on, arrived = threading.Event(), threading.Event(), threading.Event()
    passed_on = watched.pipeline.read_memory

    def slow(device: str, reading: MemoryReading, sources: Mapping[str, bool]) -> None:
        if reading.used_bytes == 3 * GIB:
            on_its_way.set()
            assert goes_on.wait(60)
        passed_on(device, reading, sources)
        if reading.used_bytes == 3 * GIB:
            arrived.set()

    monkeypatch.setattr(watched.pipeline, "read_memory", slow)
    watched.memory.watch("cuda:0")
    assert on_its_way.wait(50)
    own = ("w1", "cuda:0", MemoryReading(7 * GIB, CARD), "custom", True)
    worker = threading.Thread(target=watched.memory.report, args=own)
    worker.start()
    worker.join(0.2)  # what it must not do, it would have done by then
    goes_on.set()
    worker.join(50)
    assert arrived.wait(50)
    assert watched.memory.used("cuda:0") == 7 * GIB
    assert watched.series("used") == {("device=cuda:0",): 7 * GIB}
    watched.close()


def test_a_modelled_card_is_not_read_here(card: list[MemoryReading]) -> None:
    """There is no such card in this machine, or it is another one."""
    asked: list[str] = []

    def read() -> MemoryReading:
        asked.append("read")
        return card[0]

    watched = Watched(read)
    watched.memory.watch("cuda:0", is_modelled=True)
    watched.memory.watch("cuda:0", is_modelled=True)
    assert (watched.memory.used("cuda:0"), asked) == (None, [])
    watched.close()


def test_an_unknown_memory_is_told_once_and_why(card: list[MemoryReading], caplog: pytest.LogCaptureFixture) -> None:
    """A card that cannot be read trips nothing, and the operator has to know: a warning, not one each tick."""
    card[0] = UNKNOWN
    readings: list[None] = []

    def read() -> MemoryReading:
        readings.append(None)
        return card[0]

    watched = Watched(read)
    with caplog.at_level(logging.INFO, logger="helix_crawl_otel"):
        watched.memory.watch("cuda:0")
        wait_until(lambda: len(readings) > 3)
    watched.close()
    told = [record for record in caplog.records if "is unknown" in record.message]
    assert [record.levelname for record in told] == ["WARNING"]
    assert "memory of cuda:0 is unknown (nvml: the probe knows no value" in told[0].message
    assert watched.memory.used("cuda:0") is None


def test_who_holds_a_card_is_asked_for_a_moment_only(monkeypatch: pytest.MonkeyPatch, watched: Watched) -> None:
    """A driver that hangs holds nobody up; what is known without it is told."""
    goes_on = threading.Event()
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=lambda: goes_on.wait(60)))
    monkeypatch.setattr(monitor, "HOLDERS_SECONDS", 0.05)
    watched.memory.watch("cuda:0")
    assert watched.memory.describe("cuda:0") == "3.0 GiB of 12.0 GiB in use"
    goes_on.set()


REAL = """
import os, sys
from helix_crawl_otel.timing import awake_clock, scaled_clock
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.otel.instruments import instruments_of
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.probes import monitor
from helix_crawl_otel.probes.monitor import MemoryMonitor
clock = scaled_clock(awake_clock(), 500.0)
pipeline = Pipeline(Settings(), instruments_of(None, "test"), clock)
ticks = dict(tick_seconds=5.0, clock_rate=500.0)
memory = MemoryMonitor(pipeline.read_memory, clock, environ=os.environ, on_error=print, **ticks)
memory.watch("cuda:0")
import time
for line in sys.stdin:
    wanted, until = (None if line.strip() == "None" else int(line)), time.monotonic() + 50
    while memory.used("cuda:0") != wanted and time.monotonic() < until:
        time.sleep(0.005)
    print(memory.used("cuda:0"), flush=True)
memory.close()
print("torch" in sys.modules, flush=True)
"""


def test_a_card_through_nvml_that_falls_off_the_bus_and_comes_back(
    nvml_environ: dict[str, str], answers: Answers
) -> None:
    """The real `pynvml`: full, lost (error 15), and back again; nothing of torch is loaded."""
    answers.change(reserved=0)
    with subprocess.Popen(
        [sys.executable, "-c", REAL], env=nvml_environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def comes_to(wanted: int | None) -> None:
            assert process.stdin is not None
            assert process.stdout is not None
            print(wanted, file=process.stdin, flush=True)
            assert process.stdout.readline().strip() == str(wanted)

        comes_to(GIB)
        answers.change(used=11 * GIB)
        comes_to(11 * GIB)
        answers.fail(nvmlDeviceGetMemoryInfo_v2=15)
        comes_to(None)
        answers.fail(nvmlDeviceGetMemoryInfo_v2=0)
        comes_to(11 * GIB)
        process.stdin.close()
        assert process.stdout.read().strip() == "False"
        assert process.wait(30) == 0
