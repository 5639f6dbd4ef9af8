"""What a driver holds of one shard: it tells of batches, asks for its status, and obeys at the boundary."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.formats import mib
from helix_crawl_otel.policy.batch import RunningBatch
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome, ShardStatus, Verdict
from helix_crawl_otel.policy.samples import plain_number, sample_problem
from helix_crawl_otel.watch.backend import Backend, ShardPipeline
from helix_crawl_otel.watch.release import release_cache

__all__ = ["BatchScope", "ShardWatch"]

_NOTHING_KNOWN = ShardStatus(Verdict.WARMING_UP, None, None, None, 0, 0, False, None)


class BatchScope:
    """The `with` block around one encode. Made by `ShardWatch.batch`; used once."""

    __slots__ = ("_first", "_genes", "_running", "_shard", "_work")

    def __init__(self, shard: ShardWatch, genes: float, work: float | None, first: str | None) -> None:
        self._shard = shard
        self._genes = genes
        self._work = work
        self._first = first
        self._running: tuple[ShardPipeline, RunningBatch] | None = None

    def __enter__(self) -> None:
        self._running = self._shard._begin(self._genes, self._work, self._first)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            running, self._running = self._running, None
            self._shard._end(*running, failed=kind is not None)


class ShardWatch:
    """One shard, watched. Made by `CrawlWatch.shard`.

    Args:
        backend: What runs behind the watch.
        name: Of the shard.
        device: Where it is encoded; becomes `cpu` when `on_demote` has moved it there.
        on_demote: Rebuilds the driver's encoder on the CPU, in place; `None` when the driver cannot.
        exit_to_recycle: Something restarts the process and the driver resumes.

    Threads: any may tell of batches. `boundary` can end the process in the main thread only.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        device: str,
        on_demote: Callable[[], object] | None,
        exit_to_recycle: bool,
    ) -> None:
        self.name = name
        self.device = device
        self._backend = backend
        self._on_demote = on_demote
        self._exit_to_recycle = exit_to_recycle
        self._opened_by: object = None  # the pipeline that knows this shard; a forked child has another
        self._opening = threading.Lock()
        self._stays_open = False
        self._gap = threading.local()  # per thread: when the stage between two encodes began
        backend.add_shard(self)

    def __enter__(self) -> ShardWatch:
        self._backend.guarded("driver", self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = "done" if kind is None else "paused" if not issubclass(kind, Exception) else "failed"
        if self._stays_open:
            state = "left"
        self._backend.guarded("driver", lambda: self._close(state))

    def batch(self, genes: float, work: float | None = None, *, first: str | None = None) -> BatchScope:
        """A context manager around the encode of one batch.

        Args:
            genes: Passages in the batch, more than 0.
            work: What the batch costs, more than 0, in any unit that is the same for all batches: passages times the
                longest token count for a padded transformer; characters are a fair stand-in. `None` judges by genes.
            first: Id of its first gene. `helix-crawl build` suspects what begins with it when the worker dies in it.

        An exception inside is the driver's: it passes through, and the batch is not counted.
        """
        return BatchScope(self, genes, work, first)

    def record(self, genes: float, seconds: float, work: float | None = None) -> None:
        """Tell of a batch that has ended, timed by the driver.

        Args:
            genes: As for `batch`.
            seconds: Time of the encode, more than 0.
            work: As for `batch`.

        Numbers that cannot be judged are counted (`helix_dense_samples_ignored`) and ignored.
        """
        self._backend.guarded("driver", lambda: self._record(genes, seconds, work))

    def boundary(self, *, genes: int | None = None, pending: int | None = None) -> list[Action]:
        """Apply what the ladder asks: call it between batches, when all earlier ones are committed.

        Args:
            genes: Of `helix-crawl build`'s workers: how many have been committed since the last boundary.
            pending: How many of the shard's genes lack a vector still, for who watches; `None` where nobody counts.

        Returns:
            The actions applied, oldest first; mostly none.

        Raises:
            PauseRequested: The process has to end so that another goes on (RECYCLE, DEMOTE_CPU), or for the operator's
                pause under a supervisor. It is no `Exception`; let it pass.
        """
        self._backend.guarded("driver", lambda: self._tell_boundary(genes, pending))
        self._backend.guarded("driver", lambda: self._backend.arrive(self.name))
        applied: list[Action] = []
        for action in self._backend.pipeline.actions.drain(self.name):
            outcome = self._apply(action)
            self._acknowledge(action, outcome)
            if outcome is not Outcome.APPLIED:
                continue
            applied.append(action)
            if self._must_exit(action):
                raise PauseRequested(action)
        self._backend.guarded("driver", self._begin_gap)
        return applied

    def leave_open(self) -> None:
        """Under a supervisor: however the shard is left now, another process goes on with it at once."""
        self._stays_open = True

    def status(self) -> ShardStatus:
        """What is known of the shard now: a frozen snapshot."""
        return self._backend.guarded("driver", lambda: self._backend.pipeline.status(self.name)) or _NOTHING_KNOWN

    # -- batches ------------------------------------------------------------------------------------------------------

    def _begin(self, genes: float, work: float | None, first: str | None) -> tuple[ShardPipeline, RunningBatch] | None:
        def begin() -> tuple[ShardPipeline, RunningBatch]:
            self._open()
            costs = plain_number(genes), plain_number(work)
            pipeline = self._backend.pipeline
            read_seconds = self._backend.guarded("driver", self._end_gap)
            return pipeline, pipeline.start_batch(self.name, self.device, self.device, *costs, read_seconds, first)

        return self._backend.guarded("driver", begin)

    def _end(self, pipeline: ShardPipeline, running: RunningBatch, *, failed: bool) -> None:
        def end() -> None:
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

        self._backend.guarded("driver", end)

    def _record(self, genes: float, seconds: float, work: float | None) -> None:
        self._open()
        genes, seconds, work = plain_number(genes), plain_number(seconds), plain_number(work)
        if sample_problem(genes, seconds, work) is None:
            seconds = self._backend.sleep.taken_off(seconds)
        self._backend.pipeline.record_batch(self.name, self.device, self.device, genes, seconds, work)

    def _begin_gap(self) -> None:
        self._gap.since = self._backend.clock()

    def _end_gap(self) -> float | None:
        """How long the stage since the last batch took, `None` where nobody knows."""
        since: float | None = getattr(self._gap, "since", None)
        if since is None:
            return None
        self._gap.since = None
        return max(0.0, self._backend.clock() - since)

    def _tell_boundary(self, genes: int | None, pending: int | None) -> None:
        seconds = self._backend.guarded("driver", self._end_gap)
        self._backend.pipeline.boundary(self.name, self.device, seconds, genes, pending)

    @property
    def is_open(self) -> bool:
        """Between its first word and the end of its `with` block."""
        return self._opened_by is self._backend.pipeline

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held is held by nobody now."""
        self._opening = threading.Lock()
        self._stays_open = False

    # -- opening and closing ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        pipeline = self._backend.pipeline
        if self._opened_by is pipeline:
            return
        with self._opening:
            if self._opened_by is pipeline:
                return
            self._backend.admit(self.name)
            self._backend.run_worker(self.device)
            pipeline.open_shard(self.name, self.device, self.device, self._can_take())
            self._opened_by = pipeline

    def _close(self, state: str) -> None:
        pipeline = self._backend.pipeline
        if self._opened_by is pipeline:
            self._opened_by = None
            pipeline.close_shard(self.name, state)

    def _can_take(self) -> list[ActionKind]:
        kinds = [ActionKind.EMPTY_CACHE]
        if self._exit_to_recycle:
            kinds.append(ActionKind.RECYCLE)
        if self._on_demote is not None or self._exit_to_recycle:
            kinds.append(ActionKind.DEMOTE_CPU)
        return kinds

    # -- actions ------------------------------------------------------------------------------------------------------

    def _acknowledge(self, action: Action, outcome: Outcome) -> None:
        self._backend.guarded("driver", lambda: self._backend.pipeline.actions.acknowledge(action, outcome))

    def _must_exit(self, action: Action) -> bool:
        if action.kind is ActionKind.RECYCLE:
            return True
        return action.kind is ActionKind.DEMOTE_CPU and self._on_demote is None

    def _apply(self, action: Action) -> Outcome:
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
            self._backend.guarded(place, partial(self._failed, action, place, error))
            return Outcome.FAILED
        if what:
            self._tell("applied", action, what)
        return Outcome.APPLIED

    def _may_exit(self, action: Action) -> Outcome:
        if threading.current_thread() is not threading.main_thread():
            self._tell("passed over", action, "only the main thread can end the process; call boundary() there")
            return Outcome.PASSED_OVER
        self._tell("applied", action, f"the process ends with exit code {PauseRequested(action).code}")
        return Outcome.APPLIED

    def _failed(self, action: Action, place: str, error: Exception) -> None:
        self._tell("failed", action, f"{type(error).__name__}: {error}; the job goes on as it is")
        self._backend.pipeline.error(place, error)

    def _tell(self, happened: str, action: Action, what: str) -> None:
        self._backend.tell(happened, action, what)

    @staticmethod
    def _release() -> str:
        freed = release_cache()
        return "no CUDA context here, garbage collected" if freed is None else f"{mib(freed)} freed"

    def _demote(self) -> str:
        assert self._on_demote is not None
        self._on_demote()
        left, self.device = self.device, "cpu"
        self._backend.guarded("driver", lambda: self._move_from(left))
        return "the encoder was rebuilt on the CPU"

    def _move_from(self, left: str) -> None:
        self._backend.leave_device(left)
        self._backend.run_worker("cpu", reason="demote")
        self._backend.pipeline.move_shard(self.name, "cpu")
