"""Who holds shared memory, by device and while it is fresh; and what becomes of counters that fail or hang."""

from __future__ import annotations

import logging
import sys

import pytest

from helix_crawl_otel import timing
from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading
from helix_crawl_otel.probes.shared import COUNTERS, SharedSampler
from tests.probes.counters import GIB, MIB, TABLE, FakeCounters, usage
from tests.watch.rig import TICK, Clock, wait_until

PLAIN = MemoryReading(6 * GIB, 12 * GIB)


@pytest.fixture(autouse=True)
def busy_threads_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has not ended in time is left behind with what it reads; on a busy machine it may take its time."""
    monkeypatch.setattr(timing, "STOP_SECONDS", 60.0)


class Sampled:
    """A sampler that a test samples, and what went wrong in it."""

    def __init__(self, counters: FakeCounters, *, is_judged: bool = False) -> None:
        self.counters = counters
        self.clock = Clock()
        self.errors: list[Exception] = []
        self.sampler = SharedSampler(
            lambda: counters, self.clock, TICK, self.errors.append, is_judged=is_judged, table=lambda: TABLE
        )

    def shared(self, device: str = "cuda:0") -> tuple[int | None, int | None]:
        """MiB of the worker and of others, as they are laid over a reading."""
        laid = self.sampler.lay_over(device, PLAIN)
        assert (laid.used_bytes, laid.limit_bytes) == (PLAIN.used_bytes, PLAIN.limit_bytes)
        own, other = laid.shared_bytes, laid.other_shared_bytes
        return None if own is None else own // MIB, None if other is None else other // MIB


BUSY = usage((4711, 100, 200), (4712, 6000, 900), (4800, 50, 40), (99, 3000, 10))


def sampled() -> Sampled:
    """A worker with a child of its own, read once."""
    one = Sampled(FakeCounters(BUSY))
    one.sampler.start_worker("w1", "cuda:0", 4711)
    one.sampler.sample()
    return one


def test_a_worker_is_its_process_and_all_that_it_has_started() -> None:
    """A driver may encode in a child. All the others together are the others."""
    assert sampled().shared() == (1100, 50)


def test_all_workers_of_a_device_count_together() -> None:
    """As the reading is the device's. A worker of another card is one of the others there."""
    one = sampled()
    one.sampler.start_worker("w2", "cuda:0", 4800)
    one.sampler.sample()
    assert one.shared() == (1140, 10)
    one.sampler.start_worker("w2", "cuda:1", 4800)
    one.sampler.sample()
    assert (one.shared("cuda:0"), one.shared("cuda:1")) == ((1100, 50), (40, 1110))


def test_before_a_worker_holds_anything_nothing_is_known() -> None:
    """0 would be the floor that everything has risen from. Listed with nothing is no more than not listed."""
    one = Sampled(FakeCounters(usage((4711, 0, 0), (99, 3000, 10))))
    one.sampler.start_worker("w1", "cuda:0", 4711)
    one.sampler.sample()
    assert one.shared() == (None, None)
    one.counters.answer = usage((4711, 1, 0), (99, 3000, 10))
    one.sampler.sample()
    assert one.shared() == (0, 10)


def test_a_reading_counts_for_two_ticks() -> None:
    """Counters that have stopped must not show the last good value for ever."""
    one = sampled()
    one.clock.now += 2 * TICK
    assert one.shared() == (1100, 50)
    one.clock.now += 0.1
    assert one.shared() == (None, None)


def test_what_was_read_across_a_change_of_worker_is_nobodys() -> None:
    """The old one's memory is not where the new one begins."""
    one = sampled()
    one.counters.during = lambda: one.sampler.start_worker("w1", "cuda:0", 4800)
    one.sampler.sample()
    assert one.shared() == (None, None)
    one.counters.during = lambda: None
    one.sampler.sample()
    assert one.shared() == (40, 1110)
    one.sampler.forget_worker("w1")
    assert one.shared() == (None, None)
    one.sampler.forget_worker("nobody")


def test_nothing_is_read_without_a_worker_on_a_card() -> None:
    """Under Windows as well: a job on the CPU opens no counters."""
    one = Sampled(FakeCounters(BUSY))
    one.sampler.sample()
    one.sampler.start_worker("w1", "cpu", 4711)
    one.sampler.watch("cpu", 0.001)
    one.sampler.sample()
    assert one.counters.reads == 0
    one.sampler.start_worker("w1", "cuda:0", 4711)
    one.sampler.start_worker("w1", "cpu", 4711)
    one.sampler.sample()
    assert one.counters.reads == 0


def test_a_readers_own_word_stays() -> None:
    """Somebody's probe that tells shared memory itself knows better."""
    own = MemoryReading(1, 2, 3, None)
    assert sampled().sampler.lay_over("cuda:0", own) == own


@pytest.mark.parametrize(("is_judged", "level"), [(False, "INFO"), (True, "WARNING")])
def test_why_nothing_is_known_is_said_once(is_judged: bool, level: str, caplog: pytest.LogCaptureFixture) -> None:
    """A warning where the knob is on: what was asked for is not there. What was known before is not."""
    one = Sampled(FakeCounters(BUSY), is_judged=is_judged)
    one.sampler.start_worker("w1", "cuda:0", 4711)
    one.sampler.sample()
    one.counters.answer, one.counters.why = None, "no such counters"
    with caplog.at_level(logging.INFO, "helix_crawl_otel"):
        one.sampler.sample()
        one.sampler.sample()
    assert one.shared() == (None, None)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (level, "[crawl-watchdog] shared GPU memory is unknown: no such counters")
    ]
    assert one.errors == []


def test_an_error_is_handed_on_each_time_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the library does, the next reading is tried."""
    one = Sampled(FakeCounters(OSError("access violation reading 0x0")))
    one.sampler.start_worker("w1", "cuda:0", 4711)
    with caplog.at_level(logging.INFO, "helix_crawl_otel"):
        one.sampler.sample()
        one.sampler.sample()
    assert [str(error) for error in one.errors] == ["access violation reading 0x0"] * 2
    assert len(caplog.records) == 1
    one.counters.answer = BUSY
    one.sampler.sample()
    assert one.shared() == (1100, 50)


def test_counters_that_cannot_be_opened_are_tried_again() -> None:
    """Opening is a call into the library as well."""
    counters, clock = FakeCounters(BUSY), Clock()
    errors: list[Exception] = []
    tries = [OSError("no pdh"), None]

    def open_counters() -> FakeCounters:
        error = tries.pop(0)
        if error is not None:
            raise error
        return counters

    sampler = SharedSampler(open_counters, clock, TICK, errors.append, table=lambda: TABLE)
    sampler.start_worker("w1", "cuda:0", 4711)
    sampler.sample()
    sampler.sample()
    sampler.sample()
    assert (len(errors), tries, counters.reads) == (1, [], 2)
    assert sampler.lay_over("cuda:0", PLAIN).shared_bytes == 1100 * MIB


def test_counters_that_hang_are_reported_once_a_minute_later() -> None:
    """Nothing of them is shown meanwhile, and the thread that hangs is left behind."""
    one = Sampled(FakeCounters(BUSY))
    one.sampler.start_worker("w1", "cuda:0", 4711)
    one.sampler.watch("cuda:0", 0.002)
    wait_until(lambda: one.shared() == (1100, 50))
    one.counters.hang()
    one.clock.now += 60.0
    one.sampler.check()
    assert one.errors == []
    one.clock.now += 0.1
    one.sampler.check()
    one.sampler.check()
    assert [str(error) for error in one.errors] == ["the performance counters have not answered for 60 s"]
    assert one.shared() == (None, None)
    one.counters.goes.set()
    wait_until(lambda: one.shared() == (1100, 50))
    one.sampler.stop()
    assert one.counters.closed == 1


def test_a_thread_is_started_once_and_gives_the_counters_back() -> None:
    """However many cards there are; a second stop does nothing."""
    one = Sampled(FakeCounters(BUSY))
    one.sampler.start_worker("w1", "cuda:0", 4711)
    one.sampler.watch("cuda:0", 3600.0)
    one.sampler.watch("cuda:1", 3600.0)
    wait_until(lambda: one.shared() == (1100, 50))
    one.sampler.stop()
    one.sampler.stop()
    assert (one.counters.reads, one.counters.closed) == (1, 1)


def test_where_there_are_no_counters_nothing_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """On Linux, say. Who has set the knob all the same is told that it changes nothing."""
    errors: list[Exception] = []
    with caplog.at_level(logging.INFO, "helix_crawl_otel"):
        for is_judged in (False, True):
            sampler = SharedSampler(None, Clock(), TICK, errors.append, is_judged=is_judged)
            sampler.start_worker("w1", "cuda:0", 4711)
            sampler.watch("cpu", 0.001)
            assert caplog.records == []
            sampler.watch("cuda:0", 0.001)
            sampler.watch("cuda:1", 0.001)
            sampler.sample()
            sampler.check()
            sampler.stop()
            assert sampler.lay_over("cuda:0", PLAIN) == PLAIN
    assert errors == []
    assert [record.getMessage() for record in caplog.records] == [
        "[crawl-watchdog] shared GPU memory is unknown: it is read under Windows only, so that HELIX_BFM_CRAWL_SHARED "
        "changes nothing here"
    ]


def test_the_counters_are_those_of_windows_only() -> None:
    """The default is what the system has."""
    assert (COUNTERS is not None) == (sys.platform == "win32")


# -- who holds it -----------------------------------------------------------------------------------------------------


def action(kind: ActionKind = ActionKind.DETECT, device: str = "cuda:0") -> Action:
    """An action on a device."""
    return Action(1, kind, "a", device, "why")


def told(one: Sampled, asked: Action, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says when it is issued."""
    caplog.clear()
    one.sampler.tell_holders(asked)
    return [record.getMessage() for record in caplog.records]


def test_a_crawl_names_who_else_holds_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    """Most first, with pid and GiB: the operator can close it."""
    assert told(sampled(), action(), caplog) == [
        "[crawl-watchdog] beside the worker, memory of cuda:0 is held by game.exe (pid 99) 2.93 GiB and "
        "0.01 GiB shared, python.exe (pid 4800) 0.05 GiB and 0.04 GiB shared"
    ]


def test_nobody_else_is_news_as_well(caplog: pytest.LogCaptureFixture) -> None:
    """Then it is the job itself that has grown."""
    one = sampled()
    one.counters.answer = usage((4711, 100, 200))
    one.sampler.sample()
    assert told(one, action(), caplog) == ["[crawl-watchdog] beside the worker, memory of cuda:0 is held by nobody"]


def test_a_program_without_a_name_or_with_a_strange_one(caplog: pytest.LogCaptureFixture) -> None:
    """It may have ended since; and a name never breaks the line."""
    one = sampled()
    one.counters.answer = usage((4711, 100, 200), (7, 2048, 0))
    one.sampler.sample()
    assert told(one, action(), caplog) == [
        "[crawl-watchdog] beside the worker, memory of cuda:0 is held by a program (pid 7) 2.00 GiB"
    ]


def test_what_is_not_known_or_no_crawl_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Only DETECT, only a device that is read, only while it is fresh."""
    one = sampled()
    assert told(one, action(ActionKind.RECYCLE), caplog) == []
    assert told(one, action(device="cuda:1"), caplog) == []
    one.clock.now += 60.0
    assert told(one, action(), caplog) == []
