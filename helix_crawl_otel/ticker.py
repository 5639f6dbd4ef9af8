"""A daemon thread that calls something every few seconds, and never dies of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Ticker"]

STOP_SECONDS = 1.0
"""What a call that is running when its ticker is stopped gets to end. One that hangs in a driver never does."""


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
                self._on_error(error)
            except SystemExit as error:  # somebody's hook; it cannot end the process from here, only this thread
                self._on_error(RuntimeError(f"{type(error).__name__} outside the main thread: {error}"))
            if self._stopping.wait(self._seconds):
                return
