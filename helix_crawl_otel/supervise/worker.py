"""One worker as the supervisor holds it: the process, its channel, and the thread that reads what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from helix_crawl_otel.link.channel import BadFrame, Channel, ChannelClosed
from helix_crawl_otel.supervise.process import WorkerProcess
from helix_crawl_otel.supervise.relay import Relay

__all__ = ["Worker"]


class Worker:
    """A running worker.

    Args:
        number: 1 for the first worker of a run, and so on.
        process: Started.
        channel: The supervisor's end.
        relay: What takes its messages.
        wake: Called when the channel has come to its end.
        on_error: Called with what one message raised; the next one is taken all the same.

    Threads: the reader is the worker's own and ends with the channel; all else belongs to the supervisor's.
    """

    def __init__(
        self,
        number: int,
        process: WorkerProcess,
        channel: Channel,
        relay: Relay,
        wake: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.relay = relay
        self.broken: str | None = None
        """Why its channel cannot be read any more although it has not ended; set by the reader, once."""
        self._wake = wake
        self._on_error = on_error
        self._reader = threading.Thread(target=self._read, name=f"helix-crawl-worker-{process.pid}", daemon=True)
        self._reader.start()

    def finish_reading(self, seconds: float) -> None:
        """Wait until everything that a worker said before its end has been taken, for at most so long.

        A process that it left behind may hold the channel open; what that one says is nobody's.
        """
        self._reader.join(seconds)
        self.channel.close()
        self._reader.join(1.0)

    def _read(self) -> None:
        try:
            while True:
                self._take(self.channel.receive())
        except ChannelClosed:
            pass
        except BadFrame as error:
            self.broken = f"what it sent is no message: {error}"
        finally:
            self._wake()

    def _take(self, message: dict[str, Any]) -> None:
        try:
            self.relay.handle(message)
        except Exception as error:  # noqa: BLE001 - one bad message, or a fault of ours, must not end a night's run
            self._on_error(error)
