"""What runs behind a watch whose process a supervisor has started: it tells what happens, and decides nothing.

Source: DESIGN.md, sections 3.4, 6 and 7.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from functools import partial

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.config import environment
from helix_crawl_otel.exit_codes import DEMOTED
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.client import Link
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import (
    UNKNOWN_DEVICE,
    Action,
    ActionKind,
    MemoryReading,
    SampleProblem,
    ShardEnd,
    ShardStatus,
    sample_problem,
)
from helix_crawl_otel.probes.cuda_order import card_variables
from helix_crawl_otel.probes.probe import UNKNOWN, CallableProbe, Probe
from helix_crawl_otel.probes.torch_cuda import TorchProbe, may_have_card
from helix_crawl_otel.timing import SleepMeter, Ticker, scaled_clock
from helix_crawl_otel.watch.backend import Backend, ShardPipeline, WatchedShard
from helix_crawl_otel.watch.process_end import end_of_this_process

__all__ = ["RemoteBackend", "RemotePipeline"]

ANSWER_SECONDS = 10.0
"""The supervisor answers within a millisecond. When it does not, the job goes on without it."""


class RemotePipeline(ShardPipeline):
    """The pipeline's calls, as messages.

    Args:
        link: To the supervisor.
        clock: Seconds, of the watch.

    Attributes:
        unjudged: The newest end of a batch of each shard whose judgement nobody has waited for yet.
        held: Shards that the end of a block leaves, in this process.

    Threads: any.
    """

    def __init__(self, link: Link, clock: Callable[[], float]) -> None:
        self.actions = link.actions
        self.hooks = link.hooks
        self._link = link
        self._clock = clock
        self._ends = itertools.count(1)
        self.unjudged: dict[str, int] = {}  # single operations only
        self.held: set[str] = set()  # likewise

    def open_shard(self, shard: str, worker: str, device: str, can_take: Iterable[ActionKind]) -> None:
        """Begin a shard.

        Raises:
            PauseRequested: It belongs on the CPU, and this process is on a card.
        """
        request = self._link.expect()
        kinds, end = list(can_take), end_of_this_process()
        may_leave = ActionKind.RECYCLE in kinds and _can_leave()  # never a job that does not resume
        cards = card_variables(environment())
        is_child, is_of_pool = not end.is_free, end.tasks is not None
        is_held = shard in self.held
        opened = messages.OpenShard(request, shard, device, kinds, may_leave, is_child, is_of_pool, is_held, cards)
        self._link.send(opened)
        answer = self._link.answer(request, ANSWER_SECONDS)
        if isinstance(answer, messages.ShardOpened) and answer.demote and _can_leave():
            raise PauseRequested(None, DEMOTED)

    def move_shard(self, shard: str, device: str) -> None:
        """An open shard goes on on another device."""
        self._link.send(messages.MoveShard(shard, device))

    def close_shard(self, shard: str, state: ShardEnd) -> None:
        """The shard is left."""
        self.unjudged.pop(shard, None)
        self.held.discard(shard)
        self._link.send(messages.CloseShard(shard, state))

    def start_batch(self, info: BatchInfo) -> RunningBatch:
        """A batch begins. Sent before the work, so that a worker that is wedged by it is seen."""
        if sample_problem(info.genes, work=info.work) is None:
            self._link.send(messages.StartBatch.of(info))
        return info, self._clock()

    def finish_batch(self, running: RunningBatch, seconds: float) -> None:
        """It has been encoded. One that cannot be judged is told as such; the supervisor counts it."""
        info = running[0]
        problem = sample_problem(info.genes, seconds, info.work)
        if problem is None:
            end = self.unjudged[info.shard] = next(self._ends)
            self._link.send(messages.FinishBatch(end, int(info.id), seconds))
            return
        if sample_problem(info.genes, work=info.work) is None:
            self.abandon_batch(running)
        self._ignore(problem, info, seconds)

    def abandon_batch(self, running: RunningBatch) -> None:
        """It has raised."""
        self._link.send(messages.AbandonBatch(int(running[0].id)))

    def record_batch(self, info: BatchInfo, seconds: float) -> None:
        """A batch that the driver has timed itself."""
        problem = sample_problem(info.genes, seconds, info.work)
        if problem is not None:
            self._ignore(problem, info, seconds)
            return
        end = self.unjudged[info.shard] = next(self._ends)
        self._link.send(messages.RecordBatch(end, info.shard, info.device, info.genes, seconds, info.work))

    def _ignore(self, problem: SampleProblem, info: BatchInfo, seconds: object) -> None:
        given = repr({"genes": info.genes, "work": info.work, "seconds": seconds}[problem])[:80]
        self._link.send(messages.IgnoreBatch(info.shard, problem, given))

    def boundary(
        self,
        shard: str,
        device: str,
        commit_seconds: float | None,
        genes: int | None,
        pending: int | None,
        work_pending: float | None,
    ) -> None:
        """All earlier batches are committed."""
        self._link.send(messages.Boundary(shard, device, commit_seconds, genes, pending, work_pending))

    def read_memory(self, device: str, reading: MemoryReading, source: str) -> None:
        """What this process sees of its device's memory."""
        self._link.send_if_room(messages.Memory(device, reading, source, up=reading.used_bytes is not None))

    def status(self, shard: str) -> ShardStatus:
        """Ask the supervisor."""
        request = self._link.expect()
        self._link.send(messages.AskStatus(request, shard))
        answer = self._link.answer(request, ANSWER_SECONDS)
        if not isinstance(answer, messages.StatusTold):
            raise TimeoutError("the supervisor has not answered")
        return answer.status

    def error(self, place: str, error: Exception) -> None:
        """An error of the watch in this process; it goes no further."""
        watchdog.warning("internal error in %s, the job goes on: %r", place, error)
        self._link.send(messages.ReportError(place, f"{type(error).__name__}: {error}"))


class RemoteBackend(Backend):
    """The supervisor's, at the other end of the link; see `Backend`.

    Args:
        link: To the supervisor.
        memory: Somebody's own probe, `None` for what torch holds in this process.
        clock: Seconds, not counting sleep.

    Threads: any.
    """

    pipeline: RemotePipeline
    may_exit = True
    """Something restarts this process."""

    def __init__(self, link: Link, memory: Callable[[], MemoryReading] | None, clock: Callable[[], float]) -> None:
        self.clock = scaled_clock(clock, link.clock_rate)
        self.sleep = SleepMeter(self.clock)
        self._link = link
        self._memory = memory
        self._shards: weakref.WeakSet[WatchedShard] = weakref.WeakSet()  # those that the driver still holds
        self._reset()
        self.is_closed = False
        _living.add(self)

    def _reset(self) -> None:
        self.pipeline = RemotePipeline(self._link, self.clock)
        self._probes: dict[str, Probe] = {}
        self._devices: dict[str, None] = {}  # in order; single operations only
        self._ticker: Ticker | None = None
        self._starting = threading.Lock()

    def after_fork(self) -> None:
        """In a forked child: nothing of the parent's; what the child encodes is told over a link of its own."""
        self._reset()
        for shard in list(self._shards):
            shard.after_fork()

    # -- what a shard asks --------------------------------------------------------------------------------------------

    def device_of(self, device: str, *, is_said: bool = True) -> str:
        """A process that was started for a demoted shard encodes on the CPU, whatever its driver calls that. One that
        says nothing, and reads no memory of its own, is on no card where there is none.
        """
        if self._link.demoted_shard is not None:
            return "cpu"
        return device if is_said or self._memory is not None or may_have_card(environment()) else UNKNOWN_DEVICE

    def admit(self, shard: str) -> None:
        """A driver begins a shard.

        Raises:
            PauseRequested: Of the main thread: this process was on the CPU for another shard, which is done.
        """
        demoted = self._link.demoted_shard
        if demoted not in (None, shard) and _can_leave():
            raise PauseRequested(None, DEMOTED)

    def belongs_on_cpu(self, shard: str) -> bool:
        """The supervisor sees to it."""
        return False

    def arrive(self, shard: str, *, may_pause: bool = True) -> None:
        """A driver is at a boundary: have what was decided on its last batch sent first.

        Raises:
            PauseRequested: Of the main thread: the operator has asked for a pause.
        """
        end = self.pipeline.unjudged.pop(shard, None)
        if end is not None:
            self._link.await_judged(end, ANSWER_SECONDS)
        if may_pause and self._link.pausing and _can_leave():
            raise PauseRequested(None)

    def tell(self, happened: str, action: Action, what: str) -> None:
        """What came of an action: the supervisor logs it."""
        self._link.details[action.id] = what

    def run_worker(self, device: str, reason: str | None = None) -> None:
        """See `Backend`."""
        with self._starting:
            self._devices[device] = None
            if self._ticker is None:
                seconds = self._link.tick_seconds / self._link.clock_rate
                self._ticker = Ticker("helix-crawl-memory", self.tick, seconds, partial(self.report, "probe")).start()
        if reason is not None:  # the driver has rebuilt its encoder on another device, in this process
            self._link.send(messages.StartWorker(device, reason))

    def add_shard(self, shard: WatchedShard) -> None:
        """See `Backend`."""
        self._shards.add(shard)

    def hold_shard(self, shard: str) -> None:
        """See `Backend`."""
        self.pipeline.held.add(shard)

    def leave_device(self, device: str) -> None:
        """See `Backend`."""
        self._devices.pop(device, None)

    def tick(self) -> None:
        """Read and tell the memory of each device; and read the clock, which has to be, see `RunningClock`."""
        self.clock()
        for device in list(self._devices):
            probe = self._probe(device)
            if probe is not None:
                reading = probe()
                if reading != UNKNOWN:
                    self.pipeline.read_memory(device, reading, probe.source)

    def close(self, state: str = "done") -> None:
        """End the thread. The link stays: another watch of this process may use it."""
        with self._starting:
            self.is_closed = True
            ticker, self._ticker = self._ticker, None
        if ticker is not None:
            ticker.stop()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _probe(self, device: str) -> Probe | None:
        if device not in self._probes:
            if self._memory is not None:
                self._probes[device] = CallableProbe(self._memory, device)
            elif device.startswith("cuda"):
                self._probes[device] = TorchProbe(device)
        return self._probes.get(device)


def _can_leave() -> bool:
    """Whether an exception may end this process here: in its main thread, and where nobody waits for it."""
    return threading.current_thread() is threading.main_thread() and end_of_this_process().is_free


_living: weakref.WeakSet[RemoteBackend] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for backend in list(_living):
        backend.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
