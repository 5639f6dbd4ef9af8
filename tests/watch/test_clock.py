"""Time as the driver's machine has it: clocks that stand still, step back, answer nonsense or fail; and sleep."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import chain, pairwise, repeat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.timing import (
    RunningClock,
    SleepMeter,
    Ticker,
    awake_clock,
    checked_clock,
    finer_clock,
    slept_seconds,
)
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.release import CacheReleases
from tests.watch.rig import FULL, LOW, Clock, Rig, collected, make_provider, pipeline_of, reading, wait_until


class Scripted:
    """A clock that goes on by a second at each call, and now and then does what a test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wrong: Iterator[object] = iter(())

    def __call__(self) -> float:
        self.now += 1.0
        wrong = next(self.wrong, None)
        if isinstance(wrong, Exception):
            raise wrong
        return self.now if wrong is None else wrong  # type: ignore[return-value]  # wrong on purpose


def test_a_clock_that_stands_still_is_ignored_and_counted() -> None:
    """Zero seconds are no rate."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        for _ in range(30):
            with shard.batch(64):
                pass
            assert shard.boundary() == []
        assert rig.series("helix_dense_samples_ignored")["reason=seconds",] == 30
        assert shard.status().baseline is None
        assert rig.series("helix_dense_batch_duration") == {}
        rig.fraction = FULL
        rig.wait(4000)  # none of them is in flight
        assert shard.status().streak == 0
        policy = pipeline_of(rig.watch)._feed.ask(lambda policy: policy)
        assert policy.state.inflight == {}


def test_a_clock_that_steps_back_is_ignored_until_it_goes_on() -> None:
    """The batch across the step is lost, nothing else."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        rig.healthy(shard)
        with shard.batch(64, 4000):
            rig.clock.now -= 500.0
        assert rig.series("helix_dense_samples_ignored")["reason=seconds",] == 1
        rig.batches(shard, 30)
        assert shard.status().ema == 16.0
        rig.crawl(shard, 5)
        assert shard.status().rung == 1


@pytest.mark.parametrize(
    "wrong", [float("nan"), float("inf"), -float("inf"), None, "12", OSError("no clock"), ZeroDivisionError()], ids=repr
)
@pytest.mark.parametrize("disabled", [False, True])
def test_a_clock_that_fails_now_and_then_breaks_nothing(
    wrong: object, disabled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At whichever call it fails: no exception into the driver, no batch left in flight, no false trip."""
    if disabled:
        monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    if wrong is None:
        wrong = [None]  # None itself means "as usual" to the script
    for fails_at in range(40):
        clock = Scripted()
        provider, _ = make_provider()
        watch = CrawlWatch(
            meter_provider=provider,
            memory=lambda: reading(FULL),
            clock=clock,
            tick_seconds=None,
            timeline=tmp_path / f"{fails_at}.jsonl",
        )
        with watch.shard("a") as shard:
            clock.wrong = chain(repeat(None, fails_at), [wrong])
            for n in range(4):
                watch.tick()
                with shard.batch(64, 4000):
                    pass
                assert shard.boundary() == []
                shard.record(64, 4.0, 4000)
                if n == 1:
                    with pytest.raises(KeyError), shard.batch(64):
                        raise KeyError
                shard.status()
            clock.wrong = iter(())
            policy = pipeline_of(watch)._feed.ask(lambda policy: policy)
            watch.tick()
            assert policy.state.inflight == {}, fails_at
            clock.now += 10_000
            watch.tick()
            assert shard.status().streak == 0
        watch.close()


def test_a_failing_clock_is_counted() -> None:
    """It is the caller's, but the batch that was lost by it is ours to tell of."""
    clock = Scripted()
    provider, reader = make_provider()
    watch = CrawlWatch(meter_provider=provider, memory=lambda: reading(LOW), clock=clock, tick_seconds=None)
    with watch.shard("a") as shard:
        shard.record(64, 4.0)
        clock.wrong = repeat(float("nan"), 200)
        for _ in range(10):
            with shard.batch(64):
                pass
            shard.boundary()
        clock.wrong = iter(())
        seen = collected(reader)
        assert seen["helix_dense_internal_errors"]["where=driver",] >= 10
        assert seen["helix_dense_genes"]["device=cuda:0", "shard=a"] == 64
    watch.close()


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), "1", None, True])
def test_the_checked_clock_raises_instead_of_answering_nonsense(answer: object) -> None:
    """Every comparison with a NaN is false, so a batch that began then would never end."""
    with pytest.raises(ValueError, match=r"clock answered .*; accepted: a finite number of seconds"):
        checked_clock(lambda: answer)()  # type: ignore[arg-type, return-value]  # wrong on purpose


def test_the_checked_clock_answers_the_same_otherwise() -> None:
    """Integers become floats."""
    assert checked_clock(lambda: 12)() == 12.0
    assert isinstance(checked_clock(lambda: 12)(), float)


# -- sleep ------------------------------------------------------------------------------------------------------------


def test_the_awake_clock_is_the_one_that_was_asked_for() -> None:
    """Only `time.monotonic` is replaced, and only where it counts sleep."""
    mine = Clock()
    assert awake_clock(mine) is mine
    assert awake_clock(time.perf_counter) is time.perf_counter
    if sys.platform != "win32":
        assert awake_clock() is time.monotonic
    assert abs(awake_clock()() - awake_clock()()) < 60


def test_the_awake_clock_tells_apart_what_takes_a_millisecond() -> None:
    """Windows' own has a tick of 16 ms: a batch within one would take no time, which is no rate."""
    clock = awake_clock()
    for _ in range(100):
        began, until = clock(), time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass
        assert clock() > began


def test_a_release_that_is_shorter_than_a_tick_has_a_cost() -> None:
    """Without one a cache that stays full would be released at each boundary."""
    releases = CacheReleases(None, lambda: MemoryReading(95, 100), lambda: 1)
    for _ in range(5):
        began = releases.clock()
        sum(range(1000))
        releases.released(releases.clock() - began)
        assert releases._need.interval_seconds > 0.0


def test_a_finer_clock_follows_the_coarse_one() -> None:
    """Within a tick by the fine one, for no longer than a tick: that one counts a sleep."""
    coarse, fine = Clock(10.0), Clock(500.0)
    clock = finer_clock(coarse, fine, 0.016)
    assert clock() == 10.0
    fine.now += 0.010
    assert clock() == pytest.approx(10.010)
    fine.now += 3600.0
    assert clock() == pytest.approx(10.016)
    coarse.now += 0.016
    assert clock() == pytest.approx(10.016)
    fine.now -= 1.0  # another core's
    assert clock() == pytest.approx(10.016)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 0.016)), max_size=50))
def test_a_finer_clock_never_steps_back(steps: list[tuple[bool, float]]) -> None:
    """Whenever it is read, as long as both clocks go on; it is always a little later than before."""
    coarse, fine, true = Clock(10.0), Clock(0.0), 10.0
    clock = finer_clock(coarse, fine, 0.016)
    before = clock()
    for sleeps, seconds in steps:
        fine.now += 5.0 if sleeps else seconds
        true += 0.0 if sleeps else seconds
        coarse.now = 10.0 + int((true - 10.0) / 0.016) * 0.016
        now = clock()
        assert before < now <= true + 0.016 + 1e-4
        before = now


def test_a_finer_clock_does_not_stand_still_where_a_tick_is_late() -> None:
    """A batch in that time would have taken none, and would not be counted; the late tick is no step back."""
    coarse, fine = Clock(10.0), Clock(0.0)
    clock = finer_clock(coarse, fine, 0.016)
    fine.now = 5.0
    seen = [clock() for _ in range(100)]
    coarse.now = 10.0161
    seen += [clock() for _ in range(100)]
    assert seen == sorted(set(seen))
    assert seen[-1] == pytest.approx(10.0162, abs=1e-5)


def test_sleep_so_far_is_a_number() -> None:
    """0 where it cannot be told; here the machine may have slept before."""
    several = [slept_seconds() for _ in range(20)]  # two clocks are read, and a thread may be stopped between them
    assert max(several) >= -0.01
    assert min(abs(one - other) for one, other in pairwise(several)) < 1


class Laptop:
    """A clock that does not count sleep, and how long the machine slept."""

    def __init__(self) -> None:
        self.awake, self.slept = 0.0, 0.0
        self.meter = SleepMeter(lambda: self.awake, lambda: self.slept)

    def passed(self, awake: float, slept: float = 0.0) -> Laptop:
        """Time goes by."""
        self.awake += awake
        self.slept += slept
        return self


@pytest.mark.parametrize(
    ("awake", "slept", "told", "left"),
    [
        (4.0, 0.0, 4.0, 4.0),  # no sleep: as told
        (4.0, 0.0, 9.0, 9.0),  # told more than was awake, but nobody slept
        (4.0, -5.0, 9.0, 9.0),  # a counter of sleep that stepped back
        (0.0, 2e-8, 80.0, 80.0),  # two clocks read one after the other: no sleep
        (4.0, 0.5, 9.0, 9.0),  # two clocks that are read one after the other
        (4.0, 1.0, 5.0, 4.0),  # the least that is a sleep
        (4.0, 600.0, 604.0, 4.0),  # a clock that counts sleep
        (4.0, 600.0, 4.0, 4.0),  # a clock that does not
        (4.0, 600.0, 3.0, 3.0),  # part of the time was not encoding
        (10.0, 600.0, 604.0, 10.0),  # 6 s of reading before it: never below the awake time
        (4.0, 600.0, 300.0, 4.0),  # asleep before the batch began, in part
        (0.0, 600.0, 600.0, 0.0),  # nothing is left: the sample is ignored, not judged
    ],
)
def test_sleep_is_taken_off_what_a_driver_timed(awake: float, slept: float, told: float, left: float) -> None:
    """A closed lid must not look like a crawl."""
    assert Laptop().passed(awake, slept).meter.taken_off(told) == left


def test_a_sleep_is_taken_off_once() -> None:
    """The batch after it is not made shorter."""
    laptop = Laptop().passed(4.0, 600.0)
    assert laptop.meter.taken_off(604.0) == 4.0
    assert laptop.passed(4.0).meter.taken_off(4.0) == 4.0
    assert laptop.passed(4.0).meter.taken_off(60.0) == 60.0


def test_the_watch_takes_sleep_off_records_and_not_off_its_own_timing() -> None:
    """Its own clock does not count it in the first place."""
    with Rig() as rig, rig.watch.shard("a") as shard:
        slept = Clock(0.0)
        rig.watch._backend.sleep = SleepMeter(rig.clock, slept)
        for _ in range(3):
            rig.clock.now += 4.0
            shard.record(64, 4.0, 4000)
        rig.clock.now += 4.0
        slept.now += 30_000.0
        shard.record(64, 30_004.0, 4000)
        assert shard.status().ema == pytest.approx(16.0)
        assert rig.total("helix_dense_samples_ignored") == 0
        slept.now += 30_000.0
        rig.batch(shard)
        assert shard.status().ema == pytest.approx(16.0)


# -- the ticker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [10.1, 3000.0, 1e6])
def test_the_time_in_which_a_process_was_stopped_is_left_out(stop: float) -> None:
    """Between two looks, whoever looks first afterwards. What is shorter than two ticks is as good as running."""
    world = Clock()
    clock = RunningClock(world)
    began = clock()
    for _ in range(10):
        world.now += 5.0
        clock()
    assert clock() - began == 50.0
    world.now += stop
    assert clock() - began == pytest.approx(50.0)
    world.now += 10.0
    assert clock() - began == pytest.approx(60.0)
    assert clock.stopped_seconds == pytest.approx(stop)


def test_a_driver_that_holds_the_gil_has_not_stopped_its_process() -> None:
    """Other threads wait for it, and try again 200 times a second; in a process that is stopped none does."""
    world, switches = Clock(), [0]
    clock = RunningClock(world, switches=lambda: switches[0])
    began = clock()
    world.now += 2820.0
    switches[0] += 2820 * 200
    assert clock() - began == 2820.0
    world.now += 1000.0
    switches[0] += 1000 * 20  # a machine that is busy with something else
    assert clock() - began == 3820.0
    world.now += 3000.0
    switches[0] += 128  # as many threads, each woken to be stopped
    assert clock() - began == 3820.0


def test_a_lock_that_a_fork_has_left_locked_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread of the parent was looking just then: in the child it is none."""
    monkeypatch.setattr("helix_crawl_otel.timing.LOCKED_SECONDS", 0.01)
    clock = RunningClock(Clock())
    thread = threading.Thread(target=clock._looking.acquire)
    thread.start()
    thread.join()
    assert (clock(), clock()) == (1000.0, 1000.0)


STOPPED = """
import ctypes, os, subprocess, sys, threading, time
from helix_crawl_otel.timing import RunningClock, process_switches
class Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))
clock = RunningClock(time.monotonic, 0.5, process_switches())
def look():
    while True:
        clock()
        time.sleep(0.1)
for _ in range(3):
    threading.Thread(target=look, daemon=True).start()
ctypes.PyDLL(None).nanosleep(ctypes.byref(Time(1, 500000000)), None)
print(clock.stopped_seconds)
stop = "import os, signal, time; os.kill({0}, signal.SIGSTOP); time.sleep(1.5); os.kill({0}, signal.SIGCONT)"
subprocess.run([sys.executable, "-c", stop.format(os.getpid())], check=True)
print(clock() and clock.stopped_seconds)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sends SIGSTOP, and counts as Linux does")
def test_a_real_process_that_holds_the_gil_and_one_that_is_stopped() -> None:
    """The first for 1.5 s, then the other for as long."""
    done = subprocess.run([sys.executable, "-c", STOPPED], capture_output=True, text=True, timeout=100, check=True)
    held, stopped = map(float, done.stdout.split())
    assert held == 0.0
    assert stopped > 1.0


def test_a_stop_is_no_crawl_of_an_embedded_job() -> None:
    """On a card that is full as a rule: the batch and its record have the time in which they could run."""
    world = Clock()
    clock = RunningClock(world, switches=lambda: 0)
    with Rig(clock=clock) as rig, rig.watch.shard("a") as shard:
        rig.watch._backend.sleep = SleepMeter(clock)
        rig.fraction = FULL
        for _ in range(20):
            with shard.batch(64, 4000):
                world.now += 4.0
            assert shard.boundary() == []
        with shard.batch(64, 4000):
            world.now += 2.0
            rig.watch.tick()
            world.now += 3000.0
            rig.watch.tick()
            world.now += 2.0
        assert shard.boundary() == []
        assert shard.status().rung == 0
        world.now += 4.0
        shard.record(64, 4.0, 4000)
        world.now += 2.0
        rig.watch.tick()
        world.now += 3000.0
        rig.watch.tick()
        world.now += 2.0
        shard.record(64, 3004.0, 4000)
        assert shard.boundary() == []
        assert shard.status().ema == pytest.approx(16.0, rel=0.5)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell how often a process has waited")
def test_an_embedded_watch_leaves_out_the_stops_where_a_ticker_looks_at_its_clock() -> None:
    """Not of a clock of the driver's own, and not where nobody looks: a batch may take an hour there."""
    for more, is_running in (({}, True), ({"tick_seconds": None}, False), ({"clock": Clock()}, False)):
        with CrawlWatch(meter_provider=make_provider()[0], **more) as watch:
            assert isinstance(watch._backend.clock, RunningClock) == is_running


def test_the_ticker_calls_at_once_and_goes_on_after_an_error() -> None:
    """What it calls may fail: the next tick comes all the same."""
    calls: list[int] = []
    errors: list[Exception] = []

    def work() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise LookupError
        if len(calls) == 4:
            sys.exit(2)

    ticker = Ticker("test-ticker", work, 0.005, errors.append).start()
    wait_until(lambda: len(calls) >= 6)
    assert ticker.stop(timeout=50)
    assert [type(error) for error in errors] == [LookupError, RuntimeError]
    count = len(calls)
    assert ticker.stop(timeout=50)
    assert len(calls) == count


def test_the_first_tick_waits_for_nothing() -> None:
    """A memory that is full at the start is seen at the start."""
    calls: list[int] = []
    ticker = Ticker("test-ticker", lambda: calls.append(1), 3600.0, lambda error: None).start()
    wait_until(lambda: calls)
    assert ticker.stop(timeout=50)


def test_a_ticker_can_stop_itself() -> None:
    """A hook that closes the watch runs in its thread."""
    stopped: list[bool] = []
    tickers: list[Ticker] = []

    def work() -> None:
        if tickers:
            stopped.append(tickers[0].stop())

    tickers.append(Ticker("test-ticker", work, 0.005, lambda error: None))
    tickers[0].start()
    wait_until(lambda: stopped)
    assert stopped == [False]  # it is in it
    assert tickers[0].stop(timeout=50)


def test_a_ticker_whose_work_hangs_is_left_behind() -> None:
    """`stop` says so and returns."""
    go_on, entered = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        go_on.wait(60)

    ticker = Ticker("test-ticker", work, 0.005, lambda error: None).start()
    assert entered.wait(50)
    assert not ticker.stop(timeout=0.05)
    go_on.set()
    assert ticker.stop(timeout=50)
