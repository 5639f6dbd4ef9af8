"""Turns what one worker says on its link into calls of the pipeline, and what the policy asks into messages to it.

The policy, the ladder and the instruments live in the supervisor; the worker only says what happened. So series go on
through every recycle, and a scrape never waits for a worker that is wedged.

Source: DESIGN.md, sections 5, 6 and 7.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel.logline import action_line
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading, Outcome, ShardStatus, Verdict
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.outgoing import OutgoingActions, Sender
from helix_crawl_otel.supervise.run_state import RunContext

__all__ = ["IncomingMessages", "LastWords", "OpenShards"]


@dataclass(frozen=True)
class LastWords:
    """Why a worker ends by itself, as it says.

    Args:
        reason: One sentence.
        is_device: Another process on the same device may fail as well.
    """

    reason: str
    is_device: bool


class OpenShards:
    """Shards that a worker left open for the next one of its slot.

    Threads: any; `_lock` guards the names.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[str] = set()

    def add(self, shards: list[str]) -> None:
        """A worker has gone and left these."""
        with self._lock:
            self._names.update(shards)

    def discard(self, shard: str) -> None:
        """The next worker has taken it up, or it is over."""
        with self._lock:
            self._names.discard(shard)

    def names(self) -> list[str]:
        """All of them, sorted."""
        with self._lock:
            return sorted(self._names)

    def take(self) -> list[str]:
        """All of them, sorted; none is left."""
        with self._lock:
            names, self._names = sorted(self._names), set()
            return names


class IncomingMessages:
    """One worker's messages. Each has its own, so that the words of one are never taken for the next one's.

    Args:
        run: What all slots share.
        worker: Name of the worker, the same for all that follow each other in a slot.
        number: 1 for the first worker of the run, and so on.
        mail: To answer with. A send never waits.
        welcome: Content of the answer to `hello`.
        left: Shards that earlier workers of the slot left open.
        trusts_boundaries: For a driver of the user's own, a boundary after a batch is a commit; ours say so themselves.

    Threads: `handle` runs in the worker's reader thread; `push` also in the ticker's, `drop` and `progressed` in the
    supervisor's, which reads the attributes too. What they share is guarded by `_lock`, which is not held while the
    pipeline is used; `_handling` is held while a message is taken, so that after `drop` none is.
    """

    def __init__(
        self,
        run: RunContext,
        worker: str,
        number: int,
        mail: Sender,
        welcome: Mapping[str, object],
        left: OpenShards,
        *,
        trusts_boundaries: bool,
    ) -> None:
        self.number = number
        self.hello: Mapping[str, Any] | None = None  # guarded by _lock
        self.shards: dict[str, str] = {}  # open ones, with their devices; guarded by _lock
        self.leaving: Action | None = None  # what the worker has said that it exits for; set by the reader thread
        self.last_words: LastWords | None = None  # set by the reader thread
        self.refused: str | None = None  # a shard that it has to leave to one on the CPU; set by the reader thread
        self.has_paused = False  # it left a shard before its end; set by the reader thread
        self.heard_at = run.clock()  # when its driver last said anything; set by the reader thread
        self._run = run
        self._pipeline = run.pipeline
        self._worker = worker
        self._mail = mail
        self._welcome = welcome
        self._left = left
        self._trusts_boundaries = trusts_boundaries
        self._handling = threading.Lock()
        self._lock = threading.Lock()
        self._outgoing = OutgoingActions(run.pipeline.actions, mail)
        self._running: dict[str, RunningBatch] = {}  # guarded by _lock
        self._is_pausing = False  # guarded by _lock
        self._is_dropped = False  # guarded by _handling
        self._uncommitted: set[str] = set()  # shards with a batch since their last boundary; the reader's
        self._shown: dict[str, tuple[str, int]] = {}  # a driver's own shards: device and genes so far; the reader's
        self._has_progressed = threading.Event()

    # -- from the worker ----------------------------------------------------------------------------------------------

    def handle(self, message: Mapping[str, Any]) -> None:
        """Take one message.

        Raises:
            KeyError, TypeError, ValueError: It lacks what its type needs: the worker is not one of ours.
        """
        with self._handling:
            if not self._is_dropped:
                self._take(message)

    def _take(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind != "memory":  # that is told by a thread that lives on while the driver hangs
            self.heard_at = self._run.clock()
        handler = getattr(self, f"_on_{kind}", None)
        if handler is None:
            watchdog.debug("worker %s sent an unknown message %r; ignored", self._worker, kind)
            return
        handler(message)

    def _on_hello(self, message: Mapping[str, Any]) -> None:
        with self._lock:
            self.hello = dict(message)
            self._mail.send({"type": "welcome", **self._welcome})
            if self._is_pausing:
                self._mail.send({"type": "pause"})

    def _on_open_shard(self, message: Mapping[str, Any]) -> None:
        shard, device = str(message["shard"]), str(message["device"])
        leave = bool(message.get("can_leave", True)) and shard in self._run.demoted and device != "cpu"
        if leave:
            self.refused = shard
        else:
            self._left.discard(shard)
            if self._trusts_boundaries:  # our own workers tell their job, which knows more of it
                self._shown[shard] = device, 0
                self._run.emit(events.ShardStarted(self._run.clock(), shard, self._worker, device, None))
            with self._lock:
                self.shards[shard] = device
            kinds = [ActionKind(kind) for kind in message["can_take"]]
            self._pipeline.open_shard(shard, self._worker, device, kinds, message.get("pending"))
        self._reply(message, demote=leave)

    def _on_close_shard(self, message: Mapping[str, Any]) -> None:
        shard, state = str(message["shard"]), str(message["state"])
        with self._lock:
            if shard not in self.shards or state == "left" or (state == "paused" and self.leaving is not None):
                return  # it goes on in the next worker: its series must not end in between
            del self.shards[shard]
        self._pipeline.close_shard(shard, state)
        self._uncommitted.discard(shard)
        if state == "done":
            self._run.demoted.discard(shard)
        elif state == "paused":
            self.has_paused = True
        if shard in self._shown:
            _, genes = self._shown.pop(shard)
            self._run.emit(events.ShardEnded(self._run.clock(), shard, state, genes, ""))

    def _on_move_shard(self, message: Mapping[str, Any]) -> None:
        shard, device = str(message["shard"]), str(message["device"])
        with self._lock:
            self.shards[shard] = device
        self._pipeline.move_shard(shard, device)

    def _on_start_worker(self, message: Mapping[str, Any]) -> None:
        """A driver has rebuilt its encoder in place, on another device."""
        pid = int(self.hello["pid"]) if self.hello else 0
        self._pipeline.start_worker(self._worker, str(message["device"]), str(message["reason"]), pid)

    def _on_start_batch(self, message: Mapping[str, Any]) -> None:
        shard, device = str(message["shard"]), str(message["device"])
        running = self._pipeline.start_batch(shard, self._worker, device, message["genes"], message["work"])
        with self._lock:
            self._running[str(message["batch"])] = running

    def _on_finish_batch(self, message: Mapping[str, Any]) -> None:
        running = self._ended_batch(message)
        if running is not None:
            seconds = message["seconds"]
            self._pipeline.finish_batch(running, seconds)
            self._measured(running[0].shard, running[0].genes, seconds)

    def _on_abandon_batch(self, message: Mapping[str, Any]) -> None:
        running = self._ended_batch(message)
        if running is not None:
            self._pipeline.abandon_batch(running)

    def _on_record_batch(self, message: Mapping[str, Any]) -> None:
        shard, device, genes, seconds = (message[key] for key in ("shard", "device", "genes", "seconds"))
        self._pipeline.record_batch(shard, self._worker, device, genes, seconds, message["work"])
        self._measured(shard, genes, seconds)

    def _on_ignored(self, message: Mapping[str, Any]) -> None:
        """A batch whose numbers cannot be judged; the worst may be none that JSON knows, so it comes as text."""
        given = {"genes": 0.0, "work": None, "seconds": None, str(message["problem"]): message["given"]}
        info = BatchInfo("", str(message["shard"]), self._worker, "", given["genes"], given["work"])
        self._pipeline.ignore(str(message["problem"]), info, given["seconds"])

    def _on_stage(self, message: Mapping[str, Any]) -> None:
        self._pipeline.stage(str(message["device"]), str(message["stage"]), float(message["seconds"]))

    def _on_memory(self, message: Mapping[str, Any]) -> None:
        shared = message.get("shared_bytes"), message.get("other_shared_bytes")
        reading = MemoryReading(message["used_bytes"], message["limit_bytes"], *shared)
        device, source, up = str(message["device"]), str(message["source"]), bool(message["up"])
        self._run.memory.report(self._worker, device, reading, source, up)

    def _on_boundary(self, message: Mapping[str, Any]) -> None:
        """What the driver has encoded is committed. One before the first batch of a worker has committed nothing."""
        shard = str(message["shard"])
        if self._trusts_boundaries and shard in self._uncommitted:
            self._has_progressed.set()
        self._uncommitted.discard(shard)
        self.push()
        self._reply(message)

    def _on_acknowledge(self, message: Mapping[str, Any]) -> None:
        action = self._outgoing.take(int(message["action"]))
        if action is None:
            return
        outcome = Outcome(message["outcome"])
        if outcome is Outcome.APPLIED and self._makes_leave(action):
            self.leaving = action
        if action.kind is ActionKind.DEMOTE_CPU and outcome is Outcome.APPLIED:
            self._run.demoted.add(action.shard)
        self._pipeline.actions.acknowledge(action, outcome)
        if outcome is not Outcome.VETOED and message.get("detail"):
            watchdog.warning("%s", action_line(outcome.value.replace("_", " "), action, str(message["detail"])))

    def _on_status(self, message: Mapping[str, Any]) -> None:
        status = dataclasses.asdict(self._pipeline.status(str(message["shard"])))
        self._reply(message, status=status)

    def _on_error(self, message: Mapping[str, Any]) -> None:
        self._pipeline.error(str(message["where"]), RuntimeError(str(message["text"])[:500]))

    def _on_last_words(self, message: Mapping[str, Any]) -> None:
        self.last_words = LastWords(str(message["reason"])[:500], bool(message["is_device"]))

    def _on_job(self, message: Mapping[str, Any]) -> None:
        if self._run.job.said(self._worker, self, message):
            self._has_progressed.set()

    # -- to the worker ------------------------------------------------------------------------------------------------

    def push(self) -> None:
        """Send the actions that wait for this worker's shards."""
        with self._lock:
            shards = list(self.shards)
        self._outgoing.push(shards)

    def tell(self, payload: Mapping[str, object]) -> None:
        """See `JobWorker`."""
        self._mail.send({**payload, "type": "job"})

    def progressed(self) -> bool:
        """Whether a gene has been committed since this was last asked."""
        has_progressed = self._has_progressed.is_set()
        self._has_progressed.clear()
        return has_progressed

    def has_shard(self, shard: str) -> bool:
        """Whether the worker has this shard open."""
        with self._lock:
            return shard in self.shards

    def has_batch(self) -> bool:
        """Whether a batch is in flight: the policy watches it then."""
        with self._lock:
            return bool(self._running)

    def pause(self) -> None:
        """Ask the worker to finish its batch, commit and leave; one that has not said hello is asked when it does."""
        with self._lock:
            self._is_pausing = True
            if self.hello is not None:
                self._mail.send({"type": "pause"})

    # -- the end ------------------------------------------------------------------------------------------------------

    def drop(self) -> tuple[list[str], float]:
        """Nothing counts any more that this worker says: it is gone, or about to be ended.

        Returns:
            The shards it had open, which stay open for the next worker; and for how many seconds its oldest batch in
            flight had been running, 0 when there was none. Both are empty at a second call.
        """
        with self._handling:
            self._is_dropped = True
        self._outgoing.close()
        with self._lock:
            running, self._running = list(self._running.values()), {}
            shards, self.shards = list(self.shards), {}
        now = self._run.clock()
        for batch in running:
            self._pipeline.lose_batch(batch)
        return shards, max((now - started for _, started in running), default=0.0)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _makes_leave(self, action: Action) -> bool:
        """Whether the worker exits for an action that it has applied. A driver may have moved to the CPU in place."""
        if action.kind is ActionKind.RECYCLE:
            return True
        with self._lock:
            return action.kind is ActionKind.DEMOTE_CPU and self.shards.get(action.shard) != "cpu"

    def _ended_batch(self, message: Mapping[str, Any]) -> RunningBatch | None:
        with self._lock:
            return self._running.pop(str(message["batch"]), None)

    def _measured(self, shard: str, genes: float, seconds: float) -> None:
        status = self._pipeline.status(shard)
        self._uncommitted.add(shard)
        self._run.measured(genes, _lost_seconds(genes, seconds, status))
        if shard in self._shown:
            device, before = self._shown[shard]
            self._shown[shard] = device, before + int(genes)
            numbers = status.ema, status.baseline, status.memory_fraction, status.rung, status.episode_open
            self._run.emit(events.Committed(self._run.clock(), shard, self._worker, device, int(genes), None, *numbers))
        self.push()

    def _reply(self, message: Mapping[str, Any], **content: object) -> None:
        self._mail.send({"type": "reply", "request": message["request"], **content})


def _lost_seconds(genes: float, seconds: float, status: ShardStatus) -> float:
    """What a batch took beyond its share, while its shard crawled; 0 when it did not, or no baseline is known."""
    if not status.baseline or not (status.episode_open or status.verdict is Verdict.CRAWLING):
        return 0.0
    return max(0.0, seconds - genes / status.baseline)
