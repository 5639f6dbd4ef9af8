"""One worker as the supervisor holds it: its process, channel and log file; what it says, in a thread that reads, as
calls of the pipeline; what it is told, in one that writes, since nobody in the supervisor ever waits for a worker.

The policy, the ladder and the instruments live in the supervisor; the worker only says what happened. So series go on
through every recycle, and a scrape never waits for a worker that is wedged. Which shards a worker has open and which
batches it runs is the policy's to know: nothing of that is kept here.

A worker that is wedged or stopped does not read. Its pipe holds a few messages, on Windows and macOS 8 kB of them; a
send that found it full would otherwise hold up the ticker, and with it the policy of every other worker. Each action is
told once and acknowledged once.

Source: DESIGN.md, sections 5, 6 and 7.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import BadFrame, Channel, ChannelClosed, open_pair
from helix_crawl_otel.link.messages import Hello, LastWords, Message, Welcome
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel.logline import action_line
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome, ShardStatus, Verdict, sample_problem
from helix_crawl_otel.probes.processes import LOOK_EVERY_SECONDS, ProcessorUse
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.job import WorkerStart
from helix_crawl_otel.supervise.process import ProcessHandle
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.timing import RunningClock

__all__ = ["IncomingMessages", "OutgoingActions", "SendQueue", "Sender", "Worker", "launch_worker"]

JOIN_SECONDS = 0.5

LONGEST_REASON = 500


class Sender(Protocol):
    """Where messages for a worker go."""

    def send(self, message: Message) -> None:
        """Send one message."""


class SendQueue:
    """Messages on their way to one worker, in order. What a worker that has gone was still to get is thrown away.

    Args:
        channel: The supervisor's end. Closing it ends a send that waits.
        name: For the thread.

    Threads: any.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._waiting: SimpleQueue[Message | None] = SimpleQueue()
        threading.Thread(target=self._deliver, name=f"helix-crawl-mail-{name}", daemon=True).start()

    def send(self, message: Message) -> None:
        """Have one message sent; comes back at once."""
        self._waiting.put(message)

    def close(self) -> None:
        """End the thread once what waits has been sent."""
        self._waiting.put(None)

    def _deliver(self) -> None:
        message = self._waiting.get()
        while message is not None:
            try:
                self._channel.send(messages.pack(message))
            except ChannelClosed:  # it is gone; its exit is about to be seen
                return
            except Exception as error:  # noqa: BLE001 - out of memory, say; it would wait for what is never sent
                watchdog.error("a worker cannot be told what to do: %r; its channel is closed", error)
                self._channel.close()
                return
            message = self._waiting.get()


class OutgoingActions:
    """Actions told to a worker.

    Args:
        actions: Where the policy puts them.
        mail: To the worker. A send never waits.

    Threads: any. `_lock` is held from the queue to the mail: two threads that push must not swap two actions.
    """

    def __init__(self, actions: ActionQueue, mail: Sender) -> None:
        self._actions = actions
        self._mail = mail
        self._lock = threading.Lock()
        self._sent: dict[int, Action] = {}  # told and not acknowledged; guarded by _lock
        self._is_closed = False  # guarded by _lock

    def push(self, shards: Iterable[str]) -> None:
        """Send the actions that wait for these shards. A later one makes an earlier one of its shard void."""
        with self._lock:
            if self._is_closed:
                return  # they stay where they are: the policy settles them when the next worker starts
            for shard in shards:
                for action in self._actions.drain(shard):
                    self._send(action)

    def take(self, action_id: int) -> Action | None:
        """The action that the worker acknowledges; `None` when it was void, or has been acknowledged before."""
        with self._lock:
            return self._sent.pop(action_id, None)

    def close(self) -> None:
        """The worker is gone: nothing is told any more, and nothing that was is waited for."""
        with self._lock:
            self._is_closed = True
            self._sent.clear()

    def _send(self, action: Action) -> None:
        for earlier in list(self._sent.values()):
            if earlier.shard == action.shard and earlier.kind.rung < action.kind.rung:
                del self._sent[earlier.id]
                self._mail.send(messages.VoidAction(earlier.id))
        if action.kind is not ActionKind.DETECT:  # that one is done by being said
            self._sent[action.id] = action
        self._mail.send(messages.GiveAction(action))


class IncomingMessages:
    """One worker's messages. Each has its own, so that the words of one are never taken for the next one's.

    Args:
        run: What all slots share.
        worker: Name of the worker, the same for all that follow each other in a slot.
        number: 1 for the first worker of the run, and so on.
        mail: To answer with. A send never waits.
        welcome: The answer to `Hello`.
        trusts_boundaries: For a driver of the user's own, a boundary after a batch is a commit; ours say so themselves.

    Threads: `handle` runs in the worker's reader thread; `push` also in the ticker's, `drop` and `progressed` in the
    supervisor's, which reads the attributes too. `_handling` is held while a message is taken, so that after `drop`
    none is.
    """

    def __init__(
        self, run: RunContext, worker: str, number: int, mail: Sender, welcome: Welcome, *, trusts_boundaries: bool
    ) -> None:
        self.number = number
        self.hello: Hello | None = None  # guarded by _lock
        self.leaving: Action | None = None  # what the worker has said that it exits for; set by the reader thread
        self.last_words: LastWords | None = None  # set by the reader thread
        self.device: str | None = None  # where a driver of the user's own said last that it encodes; likewise
        self.refused: str | None = None  # a shard that it has to leave to one on the CPU; set by the reader thread
        self.has_paused = False  # it left a shard before its end; set by the reader thread
        self.heard_at = run.clock()  # when its driver last said anything; set by the reader thread
        self._run = run
        self._pipeline = run.pipeline
        self._worker = worker
        self._mail = mail
        self._welcome = welcome
        self._trusts_boundaries = trusts_boundaries
        self._handling = threading.Lock()
        self._lock = threading.Lock()
        self._outgoing = OutgoingActions(run.pipeline.actions, mail)
        self._is_pausing = False  # guarded by _lock
        self._is_dropped = False  # guarded by _handling
        self._uncommitted: set[str] = set()  # shards with a batch since their last boundary; the reader's
        self._encoded: dict[str, int] = {}  # of a driver's own shards, how many genes so far; the reader's
        self._has_progressed = threading.Event()

    # -- from the worker ----------------------------------------------------------------------------------------------

    def handle(self, message: Message) -> None:
        """Take one message."""
        with self._handling:
            if self._is_dropped:
                return
            if not isinstance(message, messages.Memory):  # told by a thread that lives on while the driver hangs
                self.heard_at = self._run.clock()
            self._take(message)
            if self._run.job.said(self._worker, self, message):
                self._has_progressed.set()

    def _take(self, message: Message) -> None:
        match message:
            case messages.StartBatch():
                self._start_batch(message)
            case messages.FinishBatch():
                self._finish_batch(message)
            case messages.Boundary():
                self._boundary(message)
            case messages.AbandonBatch(batch):
                running = self._pipeline.running(self._batch_id(batch))
                if running is not None:
                    self._pipeline.abandon_batch(running)
                    self._run.emit(events.BatchAbandoned(self._run.clock(), running[0].shard, self._worker))
            case messages.RecordBatch():
                self._record_batch(message)
            case messages.IgnoreBatch():
                self._ignore_batch(message)
            case messages.Memory(device, reading, source, up):
                self._run.memory.report(self._worker, device, reading, source, up)
            case messages.OpenShard():
                self._open_shard(message)
            case messages.CloseShard():
                self._close_shard(message)
            case messages.MoveShard(shard, device):
                self._pipeline.move_shard(shard, device)
            case messages.Acknowledge():
                self._acknowledge(message)
            case messages.AskStatus(request, shard):
                self._mail.send(messages.StatusTold(request, self._pipeline.status(shard)))
            case messages.Hello():
                with self._lock:
                    self.hello = message
                    self._mail.send(self._welcome)
                    if self._is_pausing:
                        self._mail.send(messages.Pause())
            case messages.StartWorker(device, reason):
                pid = self.hello.pid if self.hello else 0
                self._pipeline.start_worker(self._worker, device, reason, pid)
            case messages.LastWords(reason):
                self.last_words = replace(message, reason=reason[:LONGEST_REASON])
            case messages.ReportError(where, text):
                self._pipeline.error(where, RuntimeError(text[:LONGEST_REASON]))

    def _open_shard(self, message: messages.OpenShard) -> None:
        shard, device = message.shard, message.device
        leave = message.can_leave and shard in self._run.demoted and device != "cpu"
        if leave:
            self.refused = shard
        else:
            if self._trusts_boundaries:  # our own workers tell their job, which knows more of it
                self._encoded[shard] = 0
                if device != self.device:
                    self.device = device
                    self._run.worker_placed(self._worker, device, self.hello.pid if self.hello else 0)
                self._run.emit(events.ShardStarted(self._run.clock(), shard, self._worker, device, None))
            self._pipeline.open_shard(shard, self._worker, device, message.can_take)
        self._mail.send(messages.ShardOpened(message.request, leave))

    def _close_shard(self, message: messages.CloseShard) -> None:
        shard, state = message.shard, message.state
        if not self.has_shard(shard) or state == "left" or (state == "paused" and self.leaving is not None):
            return  # it goes on in the next worker: its series must not end in between
        self._pipeline.close_shard(shard, state)
        self._uncommitted.discard(shard)
        if state == "paused":
            self.has_paused = True
        if shard in self._encoded:
            self._run.emit(events.ShardEnded(self._run.clock(), shard, state, self._encoded.pop(shard), ""))

    def _start_batch(self, message: messages.StartBatch) -> None:
        self._pipeline.start_batch(
            BatchInfo(
                id=self._batch_id(message.batch),
                shard=message.shard,
                worker=self._worker,
                device=message.device,
                genes=message.genes,
                work=message.work,
                first=message.first,
                read_seconds=message.read_seconds,
                tokens=message.tokens,
            )
        )
        if self._trusts_boundaries:
            self._run.emit(
                events.BatchStarted(self._run.clock(), message.shard, self._worker, round(message.genes) or 1)
            )

    def _finish_batch(self, message: messages.FinishBatch) -> None:
        try:
            running = self._pipeline.running(self._batch_id(message.batch))
            if running is not None:
                self._pipeline.finish_batch(running, message.seconds)
                self._measured(running[0], message.seconds)
        finally:
            self._judged(message.end)

    def _record_batch(self, message: messages.RecordBatch) -> None:
        info = BatchInfo(
            f"{self.number}/end {message.end}", message.shard, self._worker, message.device, message.genes, message.work
        )
        try:
            self._pipeline.record_batch(info, message.seconds)
            self._measured(info, message.seconds)
        finally:
            self._judged(message.end)

    def _batch_id(self, batch: int) -> str:
        return f"{self.number}/{batch}"

    def _measured(self, info: BatchInfo, seconds: float) -> None:
        if sample_problem(info.genes, seconds, info.work) is not None:
            return  # the pipeline has not counted it either
        shard, device, genes = info.shard, info.device, info.genes
        status = self._pipeline.status(shard)
        self._uncommitted.add(shard)
        self._run.measured(genes, _lost_seconds(genes, seconds, status))
        if shard in self._encoded:
            self._encoded[shard] += int(genes)
            self._run.emit(
                events.Committed(self._run.clock(), shard, self._worker, device, int(genes), None, *status.told)
            )

    def _judged(self, end: int) -> None:
        """Answer, whatever went wrong: its driver waits for that at the boundary."""
        self.push()
        self._mail.send(messages.Judged(end))

    def _ignore_batch(self, message: messages.IgnoreBatch) -> None:
        given: dict[str, Any] = {"genes": 0.0, "work": None, "seconds": None, message.problem: message.given}
        info = BatchInfo("", message.shard, self._worker, "", given["genes"], given["work"])
        self._pipeline.ignore(message.problem, info, given["seconds"])

    def _boundary(self, message: messages.Boundary) -> None:
        """What the driver has encoded is committed. One before the first batch of a worker has committed nothing."""
        shard = message.shard
        self._pipeline.boundary(message)
        if self._trusts_boundaries and shard in self._uncommitted:
            self._has_progressed.set()
        self._uncommitted.discard(shard)

    def _acknowledge(self, message: messages.Acknowledge) -> None:
        action, outcome = self._outgoing.take(message.action), message.outcome
        if action is None:
            return
        device = self._pipeline.open_shards(self._worker).get(action.shard)
        is_moved = device == "cpu"  # to the CPU in place, by a driver that can
        leaves = action.kind is ActionKind.RECYCLE or (action.kind is ActionKind.DEMOTE_CPU and not is_moved)
        if outcome is Outcome.APPLIED and leaves:
            self.leaving = action
        if action.kind is ActionKind.DEMOTE_CPU and outcome is Outcome.APPLIED:
            self._run.demoted.add(action.shard)
        self._pipeline.actions.acknowledge(action, outcome)
        if outcome is not Outcome.VETOED and message.detail:
            watchdog.warning("%s", action_line(outcome.value.replace("_", " "), action, message.detail))

    # -- to the worker ------------------------------------------------------------------------------------------------

    def push(self) -> None:
        """Send the actions that wait for this worker's shards.

        Nothing before its hello, though its predecessor may have left some: a worker whose first message is no welcome
        takes its supervisor for one of another version.
        """
        with self._lock:
            if self.hello is None:
                return
        self._outgoing.push(self._pipeline.open_shards(self._worker))

    def tell(self, message: Message) -> None:
        """See `JobWorker`."""
        self._mail.send(message)

    def progressed(self) -> bool:
        """Whether a gene has been committed since this was last asked."""
        has_progressed = self._has_progressed.is_set()
        self._has_progressed.clear()
        return has_progressed

    def has_shard(self, shard: str) -> bool:
        """Whether the worker has this shard open, or an earlier one of its slot has left it open to it."""
        return shard in self._pipeline.open_shards(self._worker)

    def has_batch(self) -> bool:
        """Whether a batch is in flight: the policy watches it then."""
        return self._pipeline.has_batch(self._worker)

    def understands(self) -> bool:
        """Whether the worker takes messages: it has said hello, and in our version. Another one runs by itself."""
        with self._lock:
            return self.hello is not None and self.hello.version == messages.VERSION

    def is_in_batch(self, shard: str, t: float) -> bool:
        """Whether a batch of the shard that was in flight at `t` still is."""
        return self._pipeline.has_batch(self._worker, shard, t)

    def pause(self) -> None:
        """Ask the worker to finish its batch, commit and leave; one that has not said hello is asked when it does."""
        with self._lock:
            self._is_pausing = True
            if self.hello is not None:
                self._mail.send(messages.Pause())

    # -- the end ------------------------------------------------------------------------------------------------------

    def drop(self) -> float:
        """Nothing counts any more that this worker says: it is gone, or about to be ended.

        Returns:
            For how many seconds its oldest batch in flight had been running, 0 when there was none.
        """
        with self._handling:
            self._is_dropped = True
        self._outgoing.close()
        return self._pipeline.lose_batches(self._worker)


def _lost_seconds(genes: float, seconds: float, status: ShardStatus) -> float:
    """What a batch took beyond its share, while its shard crawled; 0 when it did not, or no baseline is known."""
    if not status.baseline or not (status.episode_open or status.verdict is Verdict.CRAWLING):
        return 0.0
    return max(0.0, seconds - genes / status.baseline)


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
    run.launched += 1
    number = run.launched
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
