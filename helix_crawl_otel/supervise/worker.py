"""One worker as the supervisor holds it: the process, its channel, and the thread that reads what it says."""

from __future__ import annotations

import threading
from typing import Any

from helix_crawl_otel.link.channel import BadFrame, Channel, ChannelClosed
from helix_crawl_otel.supervise.incoming import IncomingMessages
from helix_crawl_otel.supervise.outgoing import SendQueue
from helix_crawl_otel.supervise.process import ProcessHandle
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.worker_listener import WorkerListener

__all__ = ["Worker"]


class Worker:
    """A running worker.

    Args:
        process: Started.
        channel: The supervisor's end.
        send_queue: What writes to it.
        incoming: What takes its messages.
        listener: What the relay tells of them.
        run: Woken when the channel has come to its end.
        is_ours: It is this package's own worker.
        started_at: Seconds, on the run's clock.

    Threads: the reader is the worker's own and ends with the channel; all else belongs to the supervisor's.
    """

    def __init__(
        self,
        process: ProcessHandle,
        channel: Channel,
        send_queue: SendQueue,
        incoming: IncomingMessages,
        listener: WorkerListener,
        run: RunContext,
        *,
        is_ours: bool,
        started_at: float,
    ) -> None:
        self.process = process
        self.incoming = incoming
        self.listener = listener
        self.is_ours = is_ours
        self.started_at = started_at
        self.broken: str | None = None
        """Why its channel cannot be read any more although it has not ended; set by the reader, once."""
        self._channel = channel
        self._send_queue = send_queue
        self._run = run
        self._reader = threading.Thread(target=self._read, name=f"helix-crawl-worker-{process.pid}", daemon=True)
        self._reader.start()

    def finish_reading(self, seconds: float) -> None:
        """Wait until everything that a worker said before its end has been taken, for at most so long.

        A process that it left behind may hold the channel open; what that one says is nobody's.
        """
        self._reader.join(seconds)
        self._send_queue.close()
        self._channel.close()
        self._reader.join(1.0)

    def _read(self) -> None:
        try:
            while True:
                self._take(self._channel.receive())
        except ChannelClosed:
            pass
        except BadFrame as error:
            self.broken = f"what it sent is no message: {error}"
        finally:
            self._run.wake(_nothing)

    def _take(self, message: dict[str, Any]) -> None:
        try:
            self.incoming.handle(message)
        except Exception as error:  # noqa: BLE001 - one bad message, or a fault of ours, must not end a night's run
            self._run.pipeline.error("driver", error)


def _nothing() -> None:
    """Only to look at the slots."""
