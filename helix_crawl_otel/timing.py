"""Clocks that do not count the time in which nothing can be done: a machine that sleeps, a process that is stopped. A
laptop's lid or Ctrl-Z must not look like a crawl. What takes such time off a driver's own times, and the thread that
looks at the clock every few seconds.

Linux and macOS: `time.monotonic` does not count it (CLOCK_MONOTONIC, mach_absolute_time). Windows: `time.monotonic`
does (GetTickCount64, and the performance counter from Python 3.13 on), the unbiased interrupt time does not.

Sleep is the difference between a clock that counts it and one that does not, never a gap between ticks alone: a driver
call that holds the GIL makes such gaps. A process that is stopped makes them too, and then no thread of it runs.

Source: DESIGN.md, section 4, rule 5. The Windows part has run under Wine only.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from helix_crawl_otel.policy.model import is_number

__all__ = [
    "LONGEST_TURN_SECONDS",
    "RunningClock",
    "SleepMeter",
    "Ticker",
    "awake_clock",
    "checked_clock",
    "finer_clock",
    "process_switches",
    "scaled_clock",
    "slept_seconds",
]

_INTERRUPT_UNITS_A_SECOND = 10_000_000  # 100 ns
_WINDOWS_TICK_SECONDS = 0.25
"""A tick is a 64th of a second. One that is late is waited for this long: what comes beyond may be sleep."""

_LEAST_STEP_SECONDS = 1e-6  # less than it takes to look

LEAST_SLEEP_SECONDS = 1.0
"""Less is no sleep: two clocks are read one after the other, and their difference wavers by what lies between."""

Switches = Callable[[], int]

STOP_SECONDS = 1.0
"""What a call that is running when its ticker is stopped gets to end. One that hangs in a driver never does."""


def awake_clock(clock: Callable[[], float] = time.monotonic) -> Callable[[], float]:
    """The clock to watch by, in seconds.

    Args:
        clock: What the caller asked for. `time.monotonic` is replaced where it counts sleep; anything else is taken
            as it is.
    """
    if clock is time.monotonic and sys.platform == "win32":
        return _windows_unbiased_clock() or clock
    return clock


def checked_clock(clock: Callable[[], float]) -> Callable[[], float]:
    """The same clock, which raises `ValueError` instead of answering something that is no time.

    A NaN among times is worse than an error: every comparison with it is false, and a batch that began then never ends.
    The system's own clock is taken at its word.
    """
    if clock is time.monotonic:
        return clock

    def checked() -> float:
        now = clock()
        if not is_number(now):
            raise ValueError(f"clock answered {now!r}; accepted: a finite number of seconds")
        return float(now)

    return checked


def scaled_clock(clock: Callable[[], float], rate: float) -> Callable[[], float]:
    """A clock that runs `rate` times as fast. Fault injection: with it real processes need not be waited for."""
    return clock if rate == 1.0 else lambda: clock() * rate


def slept_seconds() -> float:
    """Seconds that this machine has slept since it was started, 0.0 where that cannot be told."""
    try:
        if sys.platform == "win32":
            return _windows_slept_seconds()
        if sys.platform == "darwin":
            # CLOCK_MONOTONIC goes on during sleep on macOS, CLOCK_UPTIME_RAW does not.
            return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    except (AttributeError, OSError):
        return 0.0


def finer_clock(coarse: Callable[[], float], fine: Callable[[], float], tick_seconds: float) -> Callable[[], float]:
    """A clock that goes on between the ticks of a coarse one, so that a batch shorter than a tick still takes time.

    Args:
        coarse: Seconds, in steps.
        fine: Seconds that pass alike while the machine is awake.
        tick_seconds: The longest step. The fine clock is followed for no longer than that: it may count sleep.

    Returns:
        A clock that never steps back nor stands still, and is off by less than a tick. Zero seconds would be no time
        for a batch, which then could not be counted.

    Threads: any.
    """
    looking = threading.RLock()  # a signal's handler may look while its own thread does
    newest, since = coarse(), fine()  # the newest tick, and when it was first seen
    last = float("-inf")

    def finer() -> float:
        nonlocal newest, since, last
        with looking:
            tick, now = coarse(), fine()
            if tick > newest:
                newest, since = tick, now
            last = max(newest + min(max(now - since, 0.0), tick_seconds), last + _LEAST_STEP_SECONDS)
            return last

    return finer


LONGEST_TURN_SECONDS = 10.0
"""Between two looks at a clock that a ticker of 5 s reads, as long as its process runs at all."""

WAITING_PART = 0.05
"""Of a gap. A thread that waits for the GIL wakes up once a switch interval; on a busy machine less often."""


COUNT_EVERY_SECONDS = 1.0

LOCKED_SECONDS = 1.0
"""A look takes a millionth of that."""


class RunningClock:
    """A clock that leaves out the time in which its process did not run: stopped by a signal (Ctrl-Z), frozen with its
    container (`docker pause`).

    Somebody has to read it again and again while the process runs, a ticker say. A longer time between two reads is
    one in which nobody could; it is noticed by whoever reads first afterwards, so that nothing is judged by it.

    Args:
        clock: Seconds.
        longest: Between two reads in a process that runs, in seconds.
        switches: How often the threads of this process have waited for something, so far. For one whose driver may hold
            the GIL: the threads that wait for it try again and again, those of a stopped process do not. `None` where
            nothing but a stop keeps the reader from reading.

    Threads: any, also a signal's handler.
    """

    def __init__(
        self, clock: Callable[[], float], longest: float = LONGEST_TURN_SECONDS, switches: Switches | None = None
    ) -> None:
        self.stopped_seconds = 0.0
        """Left out so far."""
        self._clock = clock
        self._longest = longest
        self._switches = switches
        self._looking = threading.RLock()  # a signal's handler may look while its own thread does
        self._read_at = clock()
        self._before = 0 if switches is None else switches()
        self._counted_at = self._read_at

    def __call__(self) -> float:
        """Seconds."""
        if not (self._looking.acquire(blocking=False) or self._looking.acquire(timeout=LOCKED_SECONDS)):
            # This is a forked child, whose parent was looking just then in a thread that is none here.
            self._looking = threading.RLock()
            self._looking.acquire()
        looking = self._looking
        try:
            now = self._clock()
            gap = now - self._read_at
            if gap > self._longest and not self._has_waited(now - self._counted_at):
                self.stopped_seconds += gap
            if gap > 0:
                self._read_at = now
            if self._switches is not None and now - self._counted_at >= COUNT_EVERY_SECONDS:
                self._before, self._counted_at = self._switches(), now
            return now - self.stopped_seconds
        finally:
            looking.release()

    def _has_waited(self, seconds: float) -> bool:
        if self._switches is None:
            return False
        return (self._switches() - self._before) * sys.getswitchinterval() >= WAITING_PART * seconds


def process_switches() -> Switches | None:
    """Counts how often threads of this process have waited for something; `None` where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


class SleepMeter:
    """Takes off what a driver has timed with a clock of its own what the machine has slept since the batch before, and
    for how long the process was stopped.

    Args:
        clock: Seconds, not counting sleep.
        slept: Seconds slept since the machine was started, and stopped since the process was; a seam for tests.

    Threads: any; two drivers' threads that end a batch across one sleep may share it unevenly.
    """

    def __init__(self, clock: Callable[[], float], slept: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._slept = slept or (lambda: slept_seconds() + getattr(clock, "stopped_seconds", 0.0))
        self._marked_at = clock()
        self._slept_before = self._slept()

    def taken_off(self, seconds: float) -> float:
        """The awake part of a time that ends now.

        A driver's clock may count sleep or not. It did when more time is reported than the machine was awake since
        the batch before; only then is the sleep taken off, and never below that awake time.
        """
        now, slept = self._clock(), self._slept()
        awake, asleep = now - self._marked_at, slept - self._slept_before
        self._marked_at, self._slept_before = now, slept
        if asleep < LEAST_SLEEP_SECONDS or not seconds > awake:
            return seconds
        return max(awake, seconds - asleep)


class Ticker:
    """Calls `work` at once and then every `seconds`, in a daemon thread of its own, until `stop`.

    Args:
        name: Of the thread.
        work: What to call. What it raises goes to `on_error`; the next tick comes all the same.
        seconds: Between two calls, more than 0.
        on_error: Called with what `work` raised.

    Threads: `start` and `stop` from any thread; `work` runs in the ticker's.
    """

    def __init__(
        self, name: str, work: Callable[[], None], seconds: float, on_error: Callable[[Exception], None]
    ) -> None:
        self._work = work
        self._seconds = seconds
        self._on_error = on_error
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Ticker:
        """Begin. Returns itself."""
        self._thread.start()
        return self

    def stop(self, timeout: float | None = None) -> bool:
        """End after the call that is running, waiting for it up to `timeout` seconds, `None` for `STOP_SECONDS`.

        Returns:
            Whether it has ended. A call that hangs, in a driver say, is left behind: the thread is a daemon.
        """
        self._stopping.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(STOP_SECONDS if timeout is None else timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - a watchdog's thread outlives every error; it is handed on
                self._tell(error)
            except SystemExit as error:  # somebody's hook; it cannot end the process from here, only this thread
                self._tell(RuntimeError(f"{type(error).__name__} outside the main thread: {error}"))
            if self._stopping.wait(self._seconds):
                return

    def _tell(self, error: Exception) -> None:
        with suppress(Exception):  # without memory this fails as well
            self._on_error(error)


if sys.platform == "win32":

    def _windows_unbiased_clock() -> Callable[[], float] | None:
        try:
            query = ctypes.windll.kernel32.QueryUnbiasedInterruptTime
        except (AttributeError, OSError):
            return None
        if not query(ctypes.byref(ctypes.c_ulonglong())):
            return None

        def read() -> float:
            value = ctypes.c_ulonglong()
            query(ctypes.byref(value))
            return value.value / _INTERRUPT_UNITS_A_SECOND

        return finer_clock(read, time.perf_counter, _WINDOWS_TICK_SECONDS)

    def _windows_slept_seconds() -> float:
        unbiased = _windows_unbiased_clock()
        if unbiased is None:
            return 0.0
        counting = ctypes.c_ulonglong()
        # QueryInterruptTime (Windows 10 on) lives in the API set, not in kernel32.
        query = ctypes.WinDLL("api-ms-win-core-realtime-l1-1-1").QueryInterruptTime
        query.restype = None
        query(ctypes.byref(counting))
        return max(0.0, counting.value / _INTERRUPT_UNITS_A_SECOND - unbiased())
