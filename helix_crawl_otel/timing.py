"""A clock that does not count the time the machine slept: a laptop's lid must not look like a crawl.

Linux and macOS: `time.monotonic` does not count it (CLOCK_MONOTONIC, mach_absolute_time). Windows: `time.monotonic`
does (GetTickCount64, and the performance counter from Python 3.13 on), the unbiased interrupt time does not.

Sleep is the difference between a clock that counts it and one that does not, never a gap between ticks: a driver call
that holds the GIL makes such gaps.

Source: DESIGN.md, section 4, rule 5. The Windows part has run under Wine only.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable

from helix_crawl_otel.policy.samples import is_number

__all__ = ["awake_clock", "checked_clock", "finer_clock", "scaled_clock", "slept_seconds"]

_INTERRUPT_UNITS_A_SECOND = 10_000_000  # 100 ns
_WINDOWS_TICK_SECONDS = 0.25
"""A tick is a 64th of a second. One that is late is waited for this long: what comes beyond may be sleep."""

_LEAST_STEP_SECONDS = 1e-6  # less than it takes to look


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
    """

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
