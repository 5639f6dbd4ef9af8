"""One worker as the supervisor holds it: the process, its channel, its log file, the thread that reads what it says.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from pathlib import Path

from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import BadFrame, Channel, ChannelClosed, open_pair
from helix_crawl_otel.probes.processes import LOOK_EVERY_SECONDS, ProcessorUse
from helix_crawl_otel.supervise.job import WorkerStart
from helix_crawl_otel.supervise.process import ProcessHandle
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.worker_messages import IncomingMessages, SendQueue
from helix_crawl_otel.timing import RunningClock

__all__ = ["Worker", "launch_worker"]

JOIN_SECONDS = 0.5


class Worker:
    """A running worker.

    Args:
        process: Started.
        channel: The supervisor's end.
        send_queue: What writes to it.
        incoming: What takes its messages.
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
        run: RunContext,
        *,
        is_ours: bool,
        started_at: float,
    ) -> None:
        self.process = process
        self.incoming = incoming
        self.is_ours = is_ours
        self.started_at = started_at
        self.busy_at = started_at
        """When it was last seen to use the processor, on the CPU; set by the ticker."""
        # On a clock that is faster a minute is too short to see anything in.
        self.processor_use = ProcessorUse(max(LOOK_EVERY_SECONDS, run.scaled(1.0)))
        self.broken: str | None = None
        """Why its channel cannot be read any more although it has not ended; set by the reader, once."""
        self._channel = channel
        self._send_queue = send_queue
        self._run = run
        self._reader = threading.Thread(target=self._read, name=f"helix-crawl-worker-{process.pid}", daemon=True)
        self._reader.start()

    def can_be_told(self) -> bool:
        """Whether a message reaches it: it understands ours, and has not closed its end."""
        return self.incoming.understands() and self._reader.is_alive()

    def finish_reading(self, seconds: float) -> None:
        """Wait until everything that a worker said before its end has been taken, for at most so long.

        A process that it left behind may hold the channel open; what that one says is nobody's.
        """
        clock = RunningClock(time.monotonic, 2 * JOIN_SECONDS)  # while this process is stopped nothing is read
        ends = clock() + seconds
        while self._reader.is_alive() and clock() < ends:
            self._reader.join(JOIN_SECONDS)
        self._send_queue.close()
        self._channel.close()
        self._reader.join(1.0)

    def _read(self) -> None:
        try:
            while True:
                content = self._channel.receive()
                try:
                    self.incoming.handle(messages.unpack(messages.FROM_WORKER, content))
                except Exception as error:  # noqa: BLE001 - one bad message, or a fault of ours, must not end a night's run
                    self._run.pipeline.error("driver", error)
        except ChannelClosed:
            pass
        except BadFrame as error:
            self.broken = f"what it sent is no message: {error}"
        except Exception as error:  # noqa: BLE001 - out of memory, say: nobody would hear the worker any more
            self.broken = f"what it says cannot be read: {error!r}"
        finally:
            self._run.wake()


def launch_worker(run: RunContext, slot: str, start: WorkerStart) -> Worker:
    """Start a worker.

    Args:
        run: What all slots share.
        slot: Name of the worker's slot.
        start: Why and where.

    Raises:
        OSError, MemoryError, RuntimeError: It cannot be started; the last is the system's lack of a thread.

    Threads: the main thread: on Linux a child dies with the thread that made it.
    """
    number = run.next_number()
    launch = run.job.launch(slot, start, number)
    channel, end = open_pair()
    try:
        with ExitStack() as stack:
            stack.enter_context(closing(end))
            path = _log_file(run.logs, slot) if launch.is_ours else None
            output = stack.enter_context(path.open("ab")) if path is not None else None
            process = run.spawn(
                launch.argv,
                env={**launch.environ, **end.environment()},
                popen_arguments=end.popen_arguments(),
                stdout=output,
                stderr=output,
                is_ours=launch.is_ours,
            )
    except BaseException:
        channel.close()
        raise
    started_at = run.clock()
    run.worker_started(slot, start, process.pid)
    try:
        send_queue = SendQueue(channel, str(process.pid))
        welcome = messages.Welcome(messages.VERSION, start.demoted_shard, run.tick_seconds, run.clock_rate, launch.task)
        incoming = IncomingMessages(run, slot, number, send_queue, welcome, trusts_boundaries=not launch.is_ours)
        return Worker(process, channel, send_queue, incoming, run, is_ours=launch.is_ours, started_at=started_at)
    except BaseException:
        process.end(0.0)
        channel.close()
        run.worker_ended(slot, start.device, process.pid, process.exit_code or 0, "it could not be supervised")
        raise


def _log_file(folder: Path | None, slot: str) -> Path | None:
    return None if folder is None else folder / f"worker-{slot.replace(':', '-').replace('#', '-')}.log"
