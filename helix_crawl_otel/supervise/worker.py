"""One worker as the supervisor holds it: its process, links and log file; what it says, in a thread that reads, as
calls of the pipeline; what it is told, in one that writes, since nobody in the supervisor ever waits for a worker.

A worker of ours has one link. A driver of the user's own may start further processes, each of which comes to one of its
own: they are workers to the policy, by the names `job`, `job/2` and so on, and end with the process that was started.

The policy, the ladder and the instruments live in the supervisor; the worker only says what happened. So series go on
through every recycle, and a scrape never waits for a worker that is wedged. Which shards a worker has open and which
batches it runs is the policy's to know: nothing of that is kept here.

A worker that is wedged or stopped does not read. Its pipe holds a few messages, on Windows and macOS 8 kB of them; a
send that found it full would otherwise hold up the ticker, and with it the policy of every other worker. Each action is
told once and acknowledged once.

Source: DESIGN.md, sections 5, 6 and 7.
"""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import BadFrame, Channel, ChannelClosed, ChildEnd, open_pair
from helix_crawl_otel.link.listener import LinkListener
from helix_crawl_otel.link.messages import Hello, LastWords, Message, Welcome
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel.logline import action_line
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome, sample_problem
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.probes.processes import LOOK_EVERY_SECONDS, ProcessorUse
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.job import Launch, WorkerStart
from helix_crawl_otel.supervise.process import ProcessHandle
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.timing import RunningClock

__all__ = ["IncomingMessages", "JobShards", "OutgoingActions", "SendQueue", "Sender", "Worker", "launch_worker"]

JOIN_SECONDS = 0.5

LONGEST_REASON = 500

IDLE_SECONDS = 30.0
"""For so long a process that outlives its job may be in no batch; a daemon that nobody asks any more is ended then."""

_AT_WORK = (
    messages.OpenShard,
    messages.StartBatch,
    messages.FinishBatch,
    messages.RecordBatch,
    messages.CloseShard,
)

_NUMBERED = re.compile(r" \([2-9]\d*\)\Z")


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

    def push(self, shards: Iterable[str], told: Callable[[Action], Action] = lambda action: action) -> None:
        """Send the actions that wait for these shards. A later one makes an earlier one of its shard void.

        Args:
            shards: As the policy calls them.
            told: Gives an action the names that the worker knows.
        """
        with self._lock:
            if self._is_closed:
                return  # they stay where they are: the policy settles them when the next worker starts
            for shard in shards:
                for action in self._actions.drain(shard):
                    self._send(action, told)

    def take(self, action_id: int) -> Action | None:
        """The action that the worker acknowledges; `None` when it was void, or has been acknowledged before."""
        with self._lock:
            return self._sent.pop(action_id, None)

    def close(self) -> None:
        """The worker is gone: nothing is told any more, and nothing that was is waited for."""
        with self._lock:
            self._is_closed = True
            self._sent.clear()

    def _send(self, action: Action, told: Callable[[Action], Action]) -> None:
        for earlier in list(self._sent.values()):
            if earlier.shard == action.shard and earlier.kind.rung < action.kind.rung:
                del self._sent[earlier.id]
                self._mail.send(messages.VoidAction(earlier.id))
        if action.kind is not ActionKind.DETECT:  # that one is done by being said
            self._sent[action.id] = action
        self._mail.send(messages.GiveAction(told(action)))


def original_name(shard: str) -> str:
    """What a shard is called in its job; see `JobShards`."""
    return _NUMBERED.sub("", shard)


class JobShards:
    """What the processes of one job share: who has which shard open, and what was to be done by another process.

    The ladder acts on a process. So of two that have the same shard open, as the ranks of a job may, the second has
    one of its own, under the name `shard (2)`, and the third `shard (3)`.

    Threads: any; `_lock` guards all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders: dict[str, object] = {}
        self._owed: dict[str, Action] = {}
        self._lost: dict[str, bool] = {}
        self.newest_done = ""  # the shard that was done last

    @property
    def owed(self) -> Action | None:
        """For what a process has left a shard that nobody has taken up since."""
        with self._lock:
            return next(iter(self._owed.values()), None)

    @property
    def lost(self) -> str | None:
        """A shard in which a process has died, and that nobody has taken up since."""
        with self._lock:
            return next(iter(self._lost), None)

    @property
    def lost_by_pool(self) -> str | None:
        """The same of a process of a `Pool`, which waits for its result for ever."""
        with self._lock:
            return next((shard for shard, is_of_pool in self._lost.items() if is_of_pool), None)

    def take(self, shard: str, holder: object) -> str:
        """A process begins a shard. Returns the name that it has here: the first that no other process has."""
        with self._lock:
            name, number = shard, 1
            while self._holders.get(name, holder) is not holder:
                number += 1
                name = f"{shard} ({number})"
            self._holders[name] = holder
            self._owed.pop(name, None)
            self._lost.pop(shard, None)
            return name

    def leave(self, name: str, *, is_done: bool) -> None:
        """It has left it."""
        with self._lock:
            self._holders.pop(name, None)
            if is_done:
                self._owed.pop(name, None)
                self.newest_done = name

    def leave_all(self, holder: object, died_in: str | None, *, is_of_pool: bool) -> None:
        """A process has gone, in the middle of a shard perhaps."""
        with self._lock:
            if died_in is not None:
                self._lost[original_name(died_in)] = is_of_pool
            self._holders = {name: other for name, other in self._holders.items() if other is not holder}

    def owe(self, action: Action) -> None:
        """A process is about to leave a shard to another one for this."""
        with self._lock:
            self._owed[action.shard] = action


class IncomingMessages:
    """One process's messages. Each has its own, so that the words of one are never taken for the next one's.

    Args:
        run: What all slots share.
        worker: Name of the worker, the same for all that follow each other in a slot.
        number: No other one of the run has it.
        mail: To answer with. A send never waits.
        welcome: The answer to `Hello`.
        trusts_boundaries: For a driver of the user's own, a boundary after a batch is a commit; ours say so themselves.
        shards: Those of its job.
        start: Of a process that the worker has started itself, told once it has said hello; else `None`.

    Threads: `handle` runs in the worker's reader thread; `push` also in the ticker's, `drop` and `progressed` in the
    supervisor's, which reads the attributes too. `_handling` is held while a message is taken, so that after `drop`
    none is.
    """

    def __init__(
        self,
        run: RunContext,
        worker: str,
        number: int,
        mail: Sender,
        welcome: Welcome,
        *,
        trusts_boundaries: bool,
        shards: JobShards | None = None,
        start: WorkerStart | None = None,
    ) -> None:
        self.number = number
        self.worker = worker
        self.hello: Hello | None = None  # guarded by _lock
        self.leaving: Action | None = None  # what the worker has said that it exits for; set by the reader thread
        self.last_words: LastWords | None = None  # set by the reader thread
        self.device: str | None = None  # where a driver of the user's own said last that it encodes; likewise
        self.refused: str | None = None  # a shard that it has to leave to one on the CPU; set by the reader thread
        self.has_paused = False  # it left a shard before its end; set by the reader thread
        self.is_child = False  # the driver's own processes have started it; likewise
        self.is_of_pool = False  # a `Pool` of theirs; likewise
        self.heard_at = run.clock()  # when its driver last said anything; set by the reader thread
        self.encoded_at = self.heard_at  # when it began or ended a shard or a batch last; likewise
        self._run = run
        self._pipeline = run.pipeline
        self._mail = mail
        self._welcome = welcome
        self._trusts_boundaries = trusts_boundaries
        self._shards = JobShards() if shards is None else shards
        self._names: dict[str, str] = {}  # of its shards: here, by that in the worker; the reader's
        self._devices: dict[str, str] = {}  # likewise
        self._cards: dict[str, str] | None = None  # how it numbers them, once it has said so; the reader's
        self._start = start
        self._handling = threading.Lock()
        self._lock = threading.Lock()
        self._outgoing = OutgoingActions(run.pipeline.actions, mail)
        self._is_pausing = False  # guarded by _lock
        self._is_dropped = False  # guarded by _handling
        self._uncommitted: set[str] = set()  # shards with a batch since their last boundary; the reader's
        self._held: set[str] = set()  # shards that a block ends, and that it has not ended yet; likewise
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
            if isinstance(message, _AT_WORK):
                self.encoded_at = self.heard_at
            self._take(message if not self._trusts_boundaries else self._named(message))
            if self._run.job.said(self.worker, self, message):
                self._has_progressed.set()

    def _named(self, message: Any) -> Any:
        """A message with the names that its shard and its device have here."""
        if isinstance(message, messages.OpenShard):
            self._names[message.shard] = self._shards.take(message.shard, self)
            if message.cards != self._cards:
                self._cards, self._devices = message.cards, {}
        names = {}
        shard, device = getattr(message, "shard", None), getattr(message, "device", None)
        if shard is not None and self._names.get(shard, shard) != shard:
            names["shard"] = self._names[shard]
        if device is not None and self._cards is not None:
            if device not in self._devices:
                self._devices[device] = self._run.memory.name_of(device, self._cards)
            if self._devices[device] != device:
                names["device"] = self._devices[device]
        return replace(message, **names) if names else message

    def _as_told(self, action: Action) -> Action:
        """An action with the names that the worker knows."""
        return replace(action, shard=_told(self._names, action.shard), device=_told(self._devices, action.device))

    def _take(self, message: Message) -> None:
        match message:
            case messages.StartBatch():
                self._start_batch(message)
            case messages.FinishBatch():
                self._finish_batch(message)
            case messages.Boundary(shard):
                self._pipeline.boundary(
                    shard,
                    message.device,
                    message.commit_seconds,
                    message.genes,
                    message.pending,
                    message.work_pending,
                )
                # One before the first batch of a worker has committed nothing.
                if self._trusts_boundaries and shard in self._uncommitted:
                    self._has_progressed.set()
                self._uncommitted.discard(shard)
            case messages.AbandonBatch(batch):
                running = self._pipeline.running(self._batch_id(batch))
                if running is not None:
                    self._pipeline.abandon_batch(running)
                    self._run.emit(events.BatchAbandoned(self._run.clock(), running[0].shard, self.worker))
            case messages.RecordBatch():
                self._record_batch(message)
            case messages.IgnoreBatch():
                self._ignore_batch(message)
            case messages.Memory(device, reading, source, up) if self._cards is not None or not self._trusts_boundaries:
                self._run.memory.report(self.worker, device, reading, source, up)
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
                if self._start is not None:
                    self._run.worker_started(self.worker, self._start, message.pid)
                with self._lock:
                    self.hello = message
                    self._mail.send(self._welcome)
                    if self._is_pausing:
                        self._mail.send(messages.Pause())
            case messages.StartWorker(device, reason):
                pid = self.pid or 0
                self._pipeline.start_worker(self.worker, device, reason, pid)
            case messages.LastWords(reason):
                self.last_words = replace(message, reason=reason[:LONGEST_REASON])
            case messages.ReportError(where, text):
                self._pipeline.error(where, RuntimeError(text[:LONGEST_REASON]))

    def _open_shard(self, message: messages.OpenShard) -> None:
        shard, device = message.shard, message.device
        self.is_child = self.is_child or message.is_child
        self.is_of_pool = self.is_of_pool or message.is_of_pool
        leave = message.can_leave and shard in self._run.demoted and device != "cpu"
        if leave:
            self.refused = shard
        else:
            if message.is_held:
                self._held.add(shard)
            if self._trusts_boundaries:  # our own workers tell their job, which knows more of it
                self._encoded[shard] = 0
                if device != self.device:
                    self.device = device
                    self._run.worker_placed(self.worker, device, self.pid or 0)
                self._run.emit(events.ShardStarted(self._run.clock(), shard, self.worker, device, None))
            self._pipeline.open_shard(shard, self.worker, device, message.can_take)
        self._mail.send(messages.ShardOpened(message.request, leave))

    def _close_shard(self, message: messages.CloseShard) -> None:
        shard, state = message.shard, message.state
        self._names.pop(_told(self._names, shard), None)
        self._held.discard(shard)
        self._shards.leave(shard, is_done=state == "done")
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
                worker=self.worker,
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
                events.BatchStarted(self._run.clock(), message.shard, self.worker, round(message.genes) or 1)
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
            f"{self.number}/end {message.end}", message.shard, self.worker, message.device, message.genes, message.work
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
        self._run.measured(genes, seconds, status)
        if shard in self._encoded:
            self._encoded[shard] += int(genes)
            self._run.emit(
                events.Committed(self._run.clock(), shard, self.worker, device, int(genes), None, *status.told)
            )

    def _judged(self, end: int) -> None:
        """Answer, whatever went wrong: its driver waits for that at the boundary."""
        self.push()
        self._mail.send(messages.Judged(end))

    def _ignore_batch(self, message: messages.IgnoreBatch) -> None:
        given: dict[str, Any] = {"genes": 0.0, "work": None, "seconds": None, message.problem: message.given}
        info = BatchInfo("", message.shard, self.worker, "", given["genes"], given["work"])
        self._pipeline.ignore(message.problem, info, given["seconds"])

    def _acknowledge(self, message: messages.Acknowledge) -> None:
        action, outcome = self._outgoing.take(message.action), message.outcome
        if action is None:
            return
        device = self._pipeline.ask(Policy.open_shards, self.worker).get(action.shard)
        is_moved = device == "cpu"  # to the CPU in place, by a driver that can
        leaves = action.kind is ActionKind.RECYCLE or (action.kind is ActionKind.DEMOTE_CPU and not is_moved)
        if outcome is Outcome.APPLIED and leaves:
            self.leaving = action
            self._shards.owe(action)
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
        self._outgoing.push(self._pipeline.ask(Policy.open_shards, self.worker), self._as_told)

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
        return shard in self._pipeline.ask(Policy.open_shards, self.worker)

    def has_batch(self) -> bool:
        """Whether a batch is in flight: the policy watches it then."""
        return self._pipeline.has_batch(self.worker)

    def has_own_shard(self) -> bool:
        """Whether the driver's process itself is in a shard."""
        return bool(self._encoded)

    def is_at_work(self, since: float) -> bool:
        """Whether it is in a batch, or has begun or ended one or a shard since then."""
        return self.encoded_at >= since or self.has_batch()

    @property
    def pid(self) -> int | None:
        """Of its process, once it has said hello."""
        return self.hello.pid if self.hello else None

    def understands(self) -> bool:
        """Whether the worker takes messages: it has said hello, and in our version. Another one runs by itself."""
        with self._lock:
            return self.hello is not None and self.hello.version == messages.VERSION

    def is_in_batch(self, shard: str, t: float) -> bool:
        """Whether a batch of the shard that was in flight at `t` still is."""
        return self._pipeline.has_batch(self.worker, shard, t)

    def pause(self) -> None:
        """Ask the worker to finish its batch, commit and leave; one that has not said hello is asked when it does."""
        with self._lock:
            self._is_pausing = True
            if self.hello is not None:
                self._mail.send(messages.Pause())

    # -- the end ------------------------------------------------------------------------------------------------------

    def drop(self, *, by_itself: bool = False) -> float:
        """Nothing counts any more that this worker says: it is gone, or about to be ended.

        Returns:
            For how many seconds its oldest batch in flight had been running, 0 when there was none.
        """
        with self._handling:
            self._is_dropped = True
        self._outgoing.close()
        died_in = next(iter(self._held), None) if by_itself else None
        self._shards.leave_all(self, died_in, is_of_pool=self.is_of_pool)
        return self._pipeline.lose_batches(self.worker)


def _told(names: Mapping[str, str], name: str) -> str:
    """What a worker calls something, by its name here."""
    return next((told for told, here in list(names.items()) if here == name), name)


class ProcessLink:
    """The link of one process.

    Args:
        channel: The supervisor's end.
        incoming: What takes its messages.
        mail: What writes to it.
        run: Told of errors.
        on_end: Called when the channel has come to its end, or cannot be read any more; in its thread.

    Threads: the reader is its own and ends with the channel.
    """

    def __init__(
        self,
        channel: Channel,
        incoming: IncomingMessages,
        mail: SendQueue,
        run: RunContext,
        on_end: Callable[[ProcessLink], object],
    ) -> None:
        self.incoming = incoming
        self.broken: str | None = None
        """Why its channel cannot be read any more although it has not ended; set by the reader, once."""
        self.has_ended = False
        """Nothing more is heard of its process; set by the reader, last."""
        self._channel = channel
        self._mail = mail
        self._run = run
        self._on_end = on_end
        self._reader = threading.Thread(target=self._read, name=f"helix-crawl-{incoming.worker}", daemon=True)

    def start(self) -> None:
        """Read from now on. Raises `RuntimeError` where the system has no thread to give."""
        self._reader.start()

    def can_be_told(self) -> bool:
        """Whether a message reaches it: it understands ours, and has not closed its end."""
        return self.incoming.understands() and self._reader.is_alive()

    def is_read(self, seconds: float) -> bool:
        """Whether all that it said has been taken, at most so many seconds from now."""
        self._reader.join(seconds)
        return not self._reader.is_alive()

    def close(self) -> None:
        """Close our end, once what waits has been sent."""
        self._mail.close()
        self._channel.close()

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
            self._on_end(self)


class Worker:
    """A running worker: the process that was started, and the links of all that are its own.

    Args:
        process: Started.
        slot: Its name.
        start: Why and where.
        launch: What it was started as.
        run: Woken when a channel has come to its end.
        listener: Where its processes come in; `None` for a worker of ours, which has its channel.

    Threads: `link` is any thread's, all else the supervisor's and the ticker's. `_lock` guards the links.
    """

    def __init__(
        self,
        process: ProcessHandle,
        slot: str,
        start: WorkerStart,
        launch: Launch,
        run: RunContext,
        listener: LinkListener | None,
    ) -> None:
        self.process = process
        self.is_ours = launch.is_ours
        self.started_at = run.clock()
        self.busy_at = self.started_at
        """When it was last seen to use the processor, on the CPU; set by the ticker."""
        # On a clock that is faster a minute is too short to see anything in.
        self.processor_use = ProcessorUse(max(LOOK_EVERY_SECONDS, run.scaled(1.0)))
        self.shards = JobShards()
        self._slot = slot
        self._start = start
        self._task = launch.task
        self._run = run
        self._listener = listener
        self._lock = threading.Lock()
        self._links: dict[str, ProcessLink] = {}  # the newest of each name
        self._over_at: float | None = None  # when it was seen to have ended, with others of it that nobody knows yet

    # -- its processes ------------------------------------------------------------------------------------------------

    def link(self, channel: Channel, number: int) -> None:
        """A process of the worker is there.

        Args:
            channel: Ours, to it.
            number: No other one of the run has it.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        run, start = self._run, self._start
        mail = SendQueue(channel, str(number))
        demoted = start.demoted_shard and original_name(start.demoted_shard)
        welcome = messages.Welcome(messages.VERSION, demoted, run.tick_seconds, run.clock_rate, self._task)
        with self._lock:  # until it is read: who waits for all that was said counts on that
            name = next(name for name in self._possible_names() if self._is_free(name))
            incoming = IncomingMessages(
                run,
                name,
                number,
                mail,
                welcome,
                trusts_boundaries=not self.is_ours,
                shards=self.shards,
                start=self._start_of(name),
            )
            if run.pausing:
                incoming.pause()
            link = ProcessLink(channel, incoming, mail, run, self._ended)
            run.names.setdefault(self._slot, {})[name] = None
            try:
                link.start()
            except RuntimeError:
                mail.close()
                raise
            self._links[name] = link

    def _possible_names(self) -> Iterator[str]:
        yield self._slot
        for number in itertools.count(2):
            yield f"{self._slot}/{number}"

    def _is_free(self, name: str) -> bool:
        return name not in self._links or self._links[name].has_ended

    def _start_of(self, name: str) -> WorkerStart | None:
        """What is told of a process that takes this name; nothing of the first, whose start is the worker's own."""
        if name not in self._links:
            return None if name == self._slot else WorkerStart("first", self._start.device)
        before = self._links[name].incoming
        return WorkerStart("resume" if before.leaving is None else "recycle", before.device or self._start.device)

    def _ended(self, link: ProcessLink) -> None:
        """A process says no more. What it has open is left to another one; the worker itself may go on."""
        incoming = link.incoming
        if not self.is_ours:
            link.close()
            # Of the process that was started here the exit code tells whether its work is done.
            incoming.drop(by_itself=incoming.pid not in (None, self.process.pid))
            if incoming.worker != self._slot and incoming.hello is not None:
                why = "its channel is closed" if incoming.leaving is None else "recycle"
                device = incoming.device or self._start.device
                self._run.worker_ended(incoming.worker, device, incoming.hello.pid, None, why)
        link.has_ended = True
        self._run.wake()

    def let_nobody_in(self) -> None:
        """No process comes any more. Who is in by now is heard."""
        if self._listener is not None:
            self._listener.close()

    def finish_reading(self, seconds: float) -> None:
        """Wait until everything that its processes said before their end has been taken, for at most so long.

        A process that it left behind may hold its channel open; what that one says is nobody's.
        """
        self.let_nobody_in()
        clock = RunningClock(time.monotonic, 2 * JOIN_SECONDS)  # while this process is stopped nothing is read
        ends = clock() + seconds
        for link in self.links:
            while not link.is_read(JOIN_SECONDS) and clock() < ends:
                pass
            link.close()
            link.is_read(1.0)

    # -- what they have said ------------------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int | None:
        """The code of the process that was started here, `None` while the worker runs.

        A job that has ended well may have left others at work, as a shell script does that waits for none of them. It
        is over when they have ended as well, or have encoded nothing for a while. Where nobody has come in yet they get
        as long for that.
        """
        code, now = self.process.poll(), self._run.clock()
        since = now - self._run.scaled(IDLE_SECONDS)
        if code == 0 and not self.is_ours and not self.has_said_hello and self.process.has_rest():
            self._over_at = now if self._over_at is None else self._over_at
            return None if self._over_at >= since else code
        left = (link.incoming for link in self.links if not link.has_ended)
        if code == 0 and any(incoming.pid != self.process.pid and incoming.is_at_work(since) for incoming in left):
            return None
        return code

    @property
    def links(self) -> list[ProcessLink]:
        """Of its processes. One that has ended is among them until another one takes its name."""
        with self._lock:
            return list(self._links.values())

    @property
    def _all(self) -> list[IncomingMessages]:
        return [link.incoming for link in self.links]

    @property
    def broken(self) -> str | None:
        """Why a channel cannot be read any more although its process has not ended."""
        return next((link.broken for link in self.links if link.broken is not None), None)

    @property
    def heard_at(self) -> float:
        """When one of its drivers last said anything."""
        return max((incoming.heard_at for incoming in self._all), default=self.started_at)

    @property
    def has_said_hello(self) -> bool:
        """Whether one of its processes has."""
        return any(incoming.hello is not None for incoming in self._all)

    @property
    def last_words(self) -> LastWords | None:
        """Why it is about to end by itself."""
        return next((incoming.last_words for incoming in self._all if incoming.last_words is not None), None)

    @property
    def refused(self) -> str | None:
        """A shard that it has to leave to one on the CPU."""
        return next((incoming.refused for incoming in self._all if incoming.refused is not None), None)

    @property
    def has_paused(self) -> bool:
        """It left a shard before its end."""
        return any(incoming.has_paused for incoming in self._all)

    @property
    def device(self) -> str | None:
        """Where a driver of the user's own said last that it encodes: of several the first."""
        first = self._links.get(self._slot)
        return first.incoming.device if first else None

    @property
    def stays_on_cpu(self) -> bool:
        """Whether the shard that it was started on the CPU for is done, and processes that cannot leave go on there."""
        demoted, done = self._start.demoted_shard, self.shards.newest_done
        is_done = demoted is not None and original_name(done) == original_name(demoted)
        return is_done and any(link.incoming.is_child for link in self.links if not link.has_ended)

    @property
    def waits_for_ever(self) -> str | None:
        """The shard that a pool of it waits for in vain, once its other processes are in none."""
        shard = self.shards.lost_by_pool
        is_at_work = any(link.incoming.has_own_shard() for link in self.links if not link.has_ended)
        return None if is_at_work else shard

    def progressed(self) -> bool:
        """Whether a gene has been committed since this was last asked."""
        return any(incoming.progressed() for incoming in self._all)

    def has_shard(self, shard: str) -> bool:
        """Whether a process of it has this shard open, or an earlier one of its name has left it open to it."""
        return any(incoming.has_shard(shard) for incoming in self._all)

    def has_batch(self) -> bool:
        """Whether a batch is in flight: the policy watches it then."""
        return any(incoming.has_batch() for incoming in self._all)

    def is_in_batch(self, shard: str, t: float) -> bool:
        """Whether a batch of the shard that was in flight at `t` still is."""
        return any(incoming.is_in_batch(shard, t) for incoming in self._all)

    # -- what they are told -------------------------------------------------------------------------------------------

    def push(self) -> None:
        """Send the actions that wait for shards of it."""
        for incoming in self._all:
            incoming.push()

    def pause(self) -> None:
        """Ask it to finish its batches, commit and leave.

        A driver of the user's own that no word reaches gets what a terminal would send; and so does one whose own
        children encode: they cannot leave before their parent does, which waits for them.
        """
        told = [link.incoming for link in self.links if link.can_be_told()]
        if not self.is_ours and (not told or any(incoming.is_child for incoming in told)):
            self.process.interrupt()
        for incoming in self._all:
            incoming.pause()

    def drop(self) -> float:
        """Nothing counts any more that it says: it is gone, or about to be ended.

        Returns:
            For how many seconds its oldest batch in flight had been running, 0 when there was none.
        """
        return max((incoming.drop() for incoming in self._all), default=0.0)


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
    number = next(run.numbers)
    launch = run.job.launch(slot, start, number)
    with ExitStack() as undo:
        channel: Channel | None = None
        listener: LinkListener | None = None
        with ExitStack() as stack:
            inherited: dict[str, Any] = {}
            end: ChildEnd | LinkListener
            if launch.is_ours:
                channel, end = open_pair()
                inherited = end.popen_arguments()
                stack.enter_context(closing(end))
                undo.callback(channel.close)
            else:
                end = listener = LinkListener()  # of which nothing is inherited
                undo.callback(listener.close)
            path = _log_file(run.logs, slot) if launch.is_ours else None
            output = stack.enter_context(path.open("ab")) if path is not None else None
            process = run.spawn(
                launch.argv,
                env={**launch.environ, **end.environment()},
                popen_arguments=inherited,
                stdout=output,
                stderr=output,
                is_ours=launch.is_ours,
            )
        run.worker_started(slot, start, process.pid)
        try:
            worker = Worker(process, slot, start, launch, run, listener)
            if channel is not None:
                worker.link(channel, number)
            if listener is not None:
                listener.start(lambda found: worker.link(found, next(run.numbers)))
        except BaseException:
            process.end(0.0)
            run.worker_ended(slot, start.device, process.pid, process.exit_code or 0, "it could not be supervised")
            raise
        undo.pop_all()
        return worker


def _log_file(folder: Path | None, slot: str) -> Path | None:
    return None if folder is None else folder / f"worker-{re.sub('[/:#]', '-', slot)}.log"
