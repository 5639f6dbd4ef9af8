"""Takes the machine's sleep off what a driver has timed with a clock of its own."""

from __future__ import annotations

from collections.abc import Callable

from helix_crawl_otel.timing import slept_seconds

__all__ = ["SleepMeter"]

LEAST_SLEEP_SECONDS = 1.0
"""Less is no sleep: two clocks are read one after the other, and their difference wavers by what lies between."""


class SleepMeter:
    """Knows how long the machine slept since the batch before.

    Args:
        clock: Seconds, not counting sleep.
        slept: Seconds slept since the machine was started; a seam for tests.

    Threads: any; two drivers' threads that end a batch across one sleep may share it unevenly.
    """

    def __init__(self, clock: Callable[[], float], slept: Callable[[], float] = slept_seconds) -> None:
        self._clock = clock
        self._slept = slept
        self._marked_at = clock()
        self._slept_before = slept()

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
