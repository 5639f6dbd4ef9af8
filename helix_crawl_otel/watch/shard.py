"""What a driver holds of one shard: it tells of batches, asks for its status, and obeys at the boundary."""

from __future__ import annotations

import inspect
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.formats import mib, whole_seconds
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import (
    Action,
    ActionKind,
    Outcome,
    ShardEnd,
    ShardStatus,
    Verdict,
    is_number,
    plain_number,
)
from helix_crawl_otel.probes.vram_cap import refresh_cap
from helix_crawl_otel.watch.backend import Backend, ShardPipeline
from helix_crawl_otel.watch.process_end import ProcessEnd, end_of_this_process
from helix_crawl_otel.watch.release import release_cache

__all__ = [
    "BatchScope",
    "EncodeGate",
    "ShardWatch",
    "batch_from",
    "boundary_after",
    "boundary_within",
    "is_in_batch",
    "is_to_leave",
    "of_other_process",
]

_NOTHING_KNOWN = ShardStatus(Verdict.WARMING_UP, None, None, None, 0, 0, False, None)

_ids = itertools.count(1)
"""Of the batches of this process."""

_gap: ContextVar[tuple[object, float] | None] = ContextVar("helix_crawl_otel.gap", default=None)
"""Per thread, and per task of an event loop: whose stage between two encodes began, and when."""


_in_batch: ContextVar[bool] = ContextVar("helix_crawl_otel.in_batch", default=False)
"""Per thread, and per task of an event loop: it is inside of a batch."""

CALL_SECONDS = 60.0
"""How long an action that ends the process waits for the end of a call whose results nobody has yet."""


DEMOTION_SECONDS = 600.0
"""How long a batch waits for `on_demote`. A large model loads in a minute or two; a callable that waits for the very
threads that wait here would never end."""

BATCHES_SECONDS = 60.0
"""How long `on_demote` waits for batches of other threads. One that crawls may take an hour, and one may wait for a
lock that the caller of `boundary` holds."""

LOOK_SECONDS = 0.01


class EncodeGate:
    """Batches of one shard go through it, from any thread; a demotion closes it to all threads but its own.

    The batches of the thread that demotes are not waited for: it would wait for itself.

    Args:
        shard: Its name, for the log.

    Threads: any. `_changed` guards all; nothing of the driver's is called under it.
    """

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._changed = threading.Condition()
        self._running: dict[int, int] = {}  # batches in flight, by thread
        self._demoting: int | None = None  # the thread in which `on_demote` runs

    def enter(self) -> int:
        """A batch begins, once nobody demotes. Returns the thread, for `leave`."""
        thread = threading.get_ident()
        with self._changed:
            if not (self._lets_in(thread) or self._changed.wait_for(lambda: self._lets_in(thread), DEMOTION_SECONDS)):
                self._give_up()
            self._running[thread] = self._running.get(thread, 0) + 1
        return thread

    async def enter_async(self) -> int:
        """As `enter`, and the event loop goes on meanwhile."""
        import asyncio  # of a job that awaits alone

        thread, ends = threading.get_ident(), time.monotonic() + DEMOTION_SECONDS
        while True:
            with self._changed:
                is_late = time.monotonic() > ends
                if is_late or self._lets_in(thread):
                    self._running[thread] = self._running.get(thread, 0) + 1
                    break
            await asyncio.sleep(LOOK_SECONDS)
        if is_late:
            self._give_up()
        return thread

    def leave(self, thread: int) -> None:
        """A batch has ended."""
        with self._changed:
            left = self._running.pop(thread, 1) - 1  # a forked child knows no batch of its parent
            if left > 0:
                self._running[thread] = left
            if self._demoting is not None:
                self._changed.notify_all()

    @contextmanager
    def closed_to_others(self, *, insists: bool = True) -> Iterator[None]:
        """No other thread is in a batch of the shard inside of this block, as far as that can be waited for.

        Args:
            insists: Go on all the same after that.

        Raises:
            TimeoutError: A batch of another thread has not ended, and not `insists`.
        """
        thread = threading.get_ident()
        with self._changed:
            self._demoting = thread
            try:
                alone = self._changed.wait_for(lambda: set(self._running) <= {thread}, BATCHES_SECONDS)
            except BaseException:  # an interrupt of the main thread
                self._open()
                raise
        if not alone and not insists:
            with self._changed:
                self._open()
            raise TimeoutError(f"a pass of another thread has not ended within {whole_seconds(BATCHES_SECONDS)}")
        if not alone:
            watchdog.warning(
                "shard %r: a batch of another thread has not ended within %s; on_demote is called all the same",
                self._shard,
                whole_seconds(BATCHES_SECONDS),
            )
        try:
            yield
        finally:
            with self._changed:
                self._open()

    def _open(self) -> None:
        self._demoting = None
        self._changed.notify_all()

    def _lets_in(self, thread: int) -> bool:
        """A thread that is in a batch already is waited for: it must not wait in turn."""
        return self._demoting in (None, thread) or thread in self._running

    def _give_up(self) -> None:
        watchdog.warning(
            "shard %r: on_demote has not come back within %s; a batch that waited for it begins",
            self._shard,
            whole_seconds(DEMOTION_SECONDS),
        )


class BatchScope:
    """The `with` or `async with` block around one encode. Made by `ShardWatch.batch`; used once."""

    __slots__ = ("_first", "_genes", "_running", "_shard", "_thread", "_tokens", "_used", "_work")

    def __init__(
        self, shard: ShardWatch, genes: float, work: float | None, first: str | None = None, tokens: float | None = None
    ) -> None:
        self._shard = shard
        self._genes = genes
        self._work = work
        self._first = first
        self._tokens = tokens
        self._used = False
        self._thread = 0  # in which it was entered
        self._running: tuple[ShardPipeline, RunningBatch] | None = None

    def __enter__(self) -> None:
        read_seconds = self._begin()
        self._thread = self._shard._gate.enter()
        self._start(read_seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _in_batch.set(False)
        running, self._running = self._running, None
        if running is not None:
            self._shard._backend.guarded("driver", self._shard._end, *running, failed=kind is not None)
        self._shard._gate.leave(self._thread)

    async def __aenter__(self) -> None:
        read_seconds = self._begin()
        self._thread = await self._shard._gate.enter_async()
        self._start(read_seconds)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _begin(self) -> float | None:
        self._shard._check_usable()
        if self._used:
            raise RuntimeError("a batch is entered once; shard.batch(...) makes the next one")
        self._used = True
        return self._shard._backend.guarded("driver", self._shard._end_gap)

    def _start(self, read_seconds: float | None) -> None:
        begin = self._shard._begin
        _in_batch.set(True)
        try:
            self._running = self._shard._backend.guarded(
                "driver", begin, self._genes, self._work, self._first, read_seconds, self._tokens
            )
        except BaseException:  # the process has to end: the shard belongs to another one
            _in_batch.set(False)
            self._shard._gate.leave(self._thread)
            raise


class ShardWatch:
    """One shard, watched. Made by `CrawlWatch.shard`.

    Args:
        backend: What runs behind the watch.
        name: Of the shard.
        device: Where it is encoded; becomes `cpu` when `on_demote` has moved it there.
        on_demote: Rebuilds the driver's encoder on the CPU, in place; `None` when the driver cannot.
        exit_to_recycle: Something restarts the process and the driver resumes.
        insists: The driver itself has said so.

    A shard is left once: by the end of its `with` or `async with` block, or by `close`. After that, and after its watch
    was closed, `batch`, `record`, `boundary` and another block raise `RuntimeError`; `status` goes on.

    Threads: any may tell of batches. `boundary` can end the process in the main thread only. While `on_demote` runs in
    one thread, `batch` waits in the others, and `on_demote` has waited for their batches.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        device: str,
        on_demote: Callable[[], object] | None,
        exit_to_recycle: bool,
        *,
        insists: bool = False,
    ) -> None:
        self.name = name
        self.device = device
        self._backend = backend
        self._on_demote = on_demote
        self._exit_to_recycle = exit_to_recycle
        self._insists = insists
        self._ends_for: Action | None = None  # the process ends after its task for this, told when the shard is left
        self._opened_by: object = None  # the pipeline that knows this shard; a forked child has another
        self._opening = threading.Lock()
        self._is_left = False
        self._stays_open = False
        self._gate = EncodeGate(name)
        self._gap_of = object()
        self._encodes_elsewhere = False
        self._waiting: dict[int, float] = {}  # actions that a call keeps from its end, and since when
        backend.add_shard(self)

    def __enter__(self) -> ShardWatch:
        self._check_usable()
        self._backend.hold_shard(self.name)
        self._backend.guarded("driver", self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state: ShardEnd = "done" if kind is None else "paused" if not issubclass(kind, Exception) else "failed"
        self._leave("left" if self._stays_open else state)

    async def __aenter__(self) -> ShardWatch:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def close(self) -> None:
        """The shard is done, as at the end of its block. A second call does nothing."""
        self._leave("done")

    def batch(self, genes: float, work: float | None = None) -> BatchScope:
        """A context manager around the encode of one batch: for `with`, and for `async with` in a job that awaits.

        Args:
            genes: Passages in the batch, more than 0: what one call of the model takes, not a whole corpus. Nothing is
                judged or carried out before it ends.
            work: What the batch costs, more than 0, in any unit that is the same for all batches: passages times the
                longest token count for a padded transformer; characters are a fair stand-in. `None` judges by genes.

        An exception inside is the driver's: it passes through, and the batch is not counted.

        Raises:
            RuntimeError: The shard or its watch is closed, or one scope is entered twice.

        Threads: any. While `on_demote` runs in another one, the block is entered once that is done; where it has not
            come back within ten minutes, all the same.
        """
        self._check_usable()
        return BatchScope(self, genes, work)

    def record(self, genes: float, seconds: float, work: float | None = None) -> None:
        """Tell of a batch that has ended, timed by the driver.

        Args:
            genes: As for `batch`.
            seconds: Time of the encode, more than 0.
            work: As for `batch`.

        Numbers that cannot be judged are counted (`helix_dense_samples_ignored`) and ignored.

        Raises:
            RuntimeError: The shard or its watch is closed.
        """
        self._check_usable()
        self._backend.guarded("driver", self._record, genes, seconds, work)

    def boundary(self) -> list[Action]:
        """Apply what the ladder asks: call it between batches, when all earlier ones are committed.

        Returns:
            The actions applied, oldest first; mostly none.

        Raises:
            PauseRequested: The process has to end so that another goes on (RECYCLE, DEMOTE_CPU), or for the operator's
                pause under a supervisor. It is no `Exception`; let it pass.
            RuntimeError: The shard or its watch is closed.

        Threads: any. An `on_demote` is called in this one, after the batches of all other threads have ended (a minute
            is waited for them).
        """
        return self._boundary(None, None, None)

    def _boundary(self, genes: int | None, pending: int | None, work_pending: float | None) -> list[Action]:
        self._check_usable()
        seconds = self._backend.guarded("driver", self._end_gap)
        tell = self._backend.pipeline.boundary
        self._backend.guarded("driver", tell, self.name, self.device, seconds, genes, pending, work_pending)
        self._backend.guarded("driver", self._backend.arrive, self.name)
        self._waiting.clear()
        applied = self._take(self._backend.pipeline.actions.drain(self.name))
        self._backend.guarded("driver", refresh_cap, self.device)
        self._backend.guarded("driver", self._begin_gap)
        return applied

    def _take(self, actions: list[Action]) -> list[Action]:
        applied: list[Action] = []
        for action in actions:
            outcome = self._apply(action)
            if outcome is None:
                continue
            self._backend.guarded("driver", self._backend.pipeline.actions.acknowledge, action, outcome)
            if outcome is not Outcome.APPLIED:
                continue
            applied.append(action)
            if self._must_exit(action):
                raise PauseRequested(action)
        return applied

    def _boundary_within(self) -> None:
        self._check_usable()
        arrive = partial(self._backend.arrive, self.name, may_pause=False)
        self._backend.guarded("driver", arrive)
        actions = self._backend.pipeline.actions
        found = actions.drain(self.name)
        if not found:
            return
        self._take([action for action in found if not self._must_exit(action)])
        now = self._backend.clock()
        for action in found:
            if not self._must_exit(action):
                continue
            if now - self._waiting.setdefault(action.id, now) < CALL_SECONDS:
                actions.put(action)
                continue
            what = f"the call has not ended within {whole_seconds(CALL_SECONDS)}; encode in several smaller calls"
            del self._waiting[action.id]
            self._backend.tell("passed over", action, what)
            self._backend.guarded("driver", actions.acknowledge, action, Outcome.PASSED_OVER)

    def leave_open(self) -> None:
        """Under a supervisor: however the shard is left now, another process goes on with it at once."""
        self._stays_open = True

    def status(self) -> ShardStatus:
        """What is known of the shard now: a frozen snapshot."""
        return self._backend.guarded("driver", lambda: self._backend.pipeline.status(self.name)) or _NOTHING_KNOWN

    # -- batches ------------------------------------------------------------------------------------------------------

    def _info(
        self,
        genes: float,
        work: float | None,
        first: str | None = None,
        read_seconds: float | None = None,
        tokens: float | None = None,
    ) -> BatchInfo:
        costs = plain_number(genes), plain_number(work)
        return BatchInfo(str(next(_ids)), self.name, self.device, self.device, *costs, first, read_seconds, tokens)

    def _begin(
        self,
        genes: float,
        work: float | None,
        first: str | None,
        read_seconds: float | None,
        tokens: float | None,
    ) -> tuple[ShardPipeline, RunningBatch]:
        self._open()
        pipeline = self._backend.pipeline
        return pipeline, pipeline.start_batch(self._info(genes, work, first, read_seconds, tokens))

    def _end(self, pipeline: ShardPipeline, running: RunningBatch, *, failed: bool) -> None:
        if pipeline is not self._backend.pipeline:
            return  # begun by the parent of this forked child
        if failed:
            pipeline.abandon_batch(running)
            return
        try:
            seconds = self._backend.clock() - running[1]
        except Exception:
            pipeline.abandon_batch(running)  # or it would be in flight for ever
            raise
        pipeline.finish_batch(running, seconds)
        self._begin_gap()

    def _record(self, genes: float, seconds: float, work: float | None) -> None:
        self._open()
        info, seconds = self._info(genes, work), plain_number(seconds)
        if is_number(seconds):
            seconds = self._backend.sleep.taken_off(seconds)
        self._backend.pipeline.record_batch(info, seconds)

    def _begin_gap(self) -> None:
        _gap.set((self._gap_of, self._backend.clock()))

    def _end_gap(self) -> float | None:
        """How long the stage since the last batch took, `None` where nobody knows."""
        began = _gap.get()
        if began is None or began[0] is not self._gap_of:
            return None
        _gap.set(None)
        return max(0.0, self._backend.clock() - began[1])

    @property
    def is_open(self) -> bool:
        """Between its first word and the end of its `with` block."""
        return self._opened_by is self._backend.pipeline

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held is held by nobody now."""
        self._opening = threading.Lock()
        self._gate = EncodeGate(self.name)
        self._stays_open = False
        self._ends_for = None

    # -- opening and closing ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        pipeline = self._backend.pipeline
        if self._opened_by is pipeline:
            return
        with self._opening:
            if self._opened_by is pipeline:
                return
            self._backend.admit(self.name)
            is_moved = self._backend.belongs_on_cpu(self.name) and self._begin_on_cpu()
            self._backend.run_worker(self.device, "demote" if is_moved else None)
            pipeline.open_shard(self.name, self.device, self.device, self._can_take())
            self._opened_by = pipeline

    def _begin_on_cpu(self) -> bool:
        """No rung is left: on its card the shard could crawl for ever. Nobody encodes before it is open.

        Returns:
            Whether the driver has gone to the CPU just now.
        """
        if self.device == "cpu":
            return False
        left = f"shard {self.name!r} has been moved to the CPU in an earlier run, and {self.device} is named for it"
        if self._on_demote is None:
            watchdog.warning("%s; it stays there: no rung is left; give device='cpu', or on_demote=", left)
            return False
        try:
            self._rebuild()
        except Exception as error:  # noqa: BLE001 - the driver's own; the job must be able to go on
            watchdog.warning("%s; on_demote has failed, it stays there: %s: %s", left, type(error).__name__, error)
            return False
        watchdog.warning("%s; its encoder was rebuilt on the CPU before its first batch", left)
        return True

    def _check_usable(self) -> None:
        if self._backend.is_closed:
            raise RuntimeError(f"the CrawlWatch of shard {self.name!r} is closed; make another one")
        if self._is_left:
            raise RuntimeError(f"shard {self.name!r} is closed; watch.shard({self.name!r}) begins it again")

    def _leave(self, state: ShardEnd) -> None:
        self._is_left = True
        action, self._ends_for = self._ends_for, None
        if action is not None:
            self._backend.tell("applied", action, "the process ends after its task, and its pool starts another")
            self._backend.guarded("driver", self._backend.pipeline.actions.acknowledge, action, Outcome.APPLIED)
        pipeline = self._backend.pipeline
        if self._opened_by is pipeline:
            self._opened_by = None
            self._backend.guarded("driver", pipeline.close_shard, self.name, state)

    def _can_take(self) -> list[ActionKind]:
        if self._encodes_elsewhere:
            return [ActionKind.RECYCLE] if self._exit_to_recycle else []
        kinds = [ActionKind.EMPTY_CACHE]
        if self._exit_to_recycle:
            kinds.append(ActionKind.RECYCLE)
        if self._on_demote is not None or self._exit_to_recycle:
            kinds.append(ActionKind.DEMOTE_CPU)
        return kinds

    # -- actions ------------------------------------------------------------------------------------------------------

    def _must_exit(self, action: Action) -> bool:
        if action.kind is ActionKind.RECYCLE:
            return True
        return action.kind is ActionKind.DEMOTE_CPU and self._on_demote is None

    def _apply(self, action: Action) -> Outcome | None:
        """Carry an action out. Returns what came of it; `None` while that waits for the end of the task."""
        if self._must_exit(action):
            return self._may_exit(action)
        try:
            what = ""
            if action.kind is ActionKind.EMPTY_CACHE:
                what = self._release()
            elif action.kind is ActionKind.DEMOTE_CPU:
                what = self._demote()
        except Exception as error:  # noqa: BLE001 - torch's or the driver's own; the job must be able to go on
            place = "release" if action.kind is ActionKind.EMPTY_CACHE else "driver"
            self._backend.guarded(place, self._failed, action, place, error)
            return Outcome.FAILED
        if what:
            self._backend.tell("applied", action, what)
        return Outcome.APPLIED

    def _may_exit(self, action: Action) -> Outcome | None:
        end = ProcessEnd() if self._insists else end_of_this_process()
        if threading.current_thread() is not threading.main_thread():
            return self._passed_over(action, "only the main thread can end the process; call boundary() there")
        if end.refusal:
            return self._passed_over(action, end.refusal)
        if end.is_free:
            self._backend.tell("applied", action, f"the process ends with exit code {PauseRequested(action).code}")
            return Outcome.APPLIED
        if action.kind is not ActionKind.RECYCLE:
            return self._passed_over(action, "its pool would start the next one on the card as well; pass on_demote=")
        end.after_task()
        self._ends_for = action
        return None

    def _passed_over(self, action: Action, why: str) -> Outcome:
        self._backend.tell("passed over", action, why)
        return Outcome.PASSED_OVER

    def _failed(self, action: Action, place: str, error: Exception) -> None:
        self._backend.tell("failed", action, f"{type(error).__name__}: {error}; the job goes on as it is")
        self._backend.pipeline.error(place, error)

    @staticmethod
    def _release() -> str:
        freed = release_cache()
        return "no CUDA context here, garbage collected" if freed is None else f"{mib(freed)} freed"

    def _demote(self) -> str:
        with self._gate.closed_to_others():
            left = self.device
            self._rebuild()
            self._backend.guarded("driver", self._move_from, left)
        return "the encoder was rebuilt on the CPU"

    def _rebuild(self) -> None:
        assert self._on_demote is not None
        result = self._on_demote()
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise TypeError("on_demote returned an awaitable, which nobody awaits; give a callable that does it")
        self.device = "cpu"

    def _move_from(self, left: str) -> None:
        self._backend.leave_device(left)
        self._backend.run_worker("cpu", reason="demote")
        self._backend.pipeline.move_shard(self.name, "cpu")


# -- of `helix-crawl build`'s own workers, which tell more ------------------------------------------------------------


def batch_from(shard: ShardWatch, genes: int, work: float, tokens: float, first: str) -> BatchScope:
    """As `ShardWatch.batch`; what begins with the gene of this id is suspected when the worker dies in it. `tokens` are
    those of its passages without padding."""
    return BatchScope(shard, genes, work, first, tokens)


def boundary_after(shard: ShardWatch, genes: int, pending: int, work_pending: float | None) -> list[Action]:
    """As `ShardWatch.boundary`, after so many genes were committed; so many lack a vector still, and cost so much."""
    return shard._boundary(genes, pending, work_pending)


# -- of a process that watches another one, which encodes -------------------------------------------------------------


def of_other_process(shard: ShardWatch) -> ShardWatch:
    """The same: its cache is not ours to release, nor its model ours to move. All that can be done is another start."""
    shard._encodes_elsewhere = True
    return shard


# -- of calls that encode many batches and hand out their results at the end ------------------------------------------


def boundary_within(shard: ShardWatch) -> None:
    """Between two batches of one call: what ends no process is applied.

    Nothing of the call is committed, so that what ends the process waits for `ShardWatch.boundary`; where the call has
    not ended a minute later it is passed over, and the ladder goes on.
    """
    shard._boundary_within()


def is_to_leave(shard: ShardWatch) -> bool:
    """Whether something that ends the process waits for `ShardWatch.boundary`, see `boundary_within`."""
    return bool(shard._waiting)


def is_in_batch() -> bool:
    """Whether this thread, or this task of an event loop, is inside of a batch."""
    return _in_batch.get()
