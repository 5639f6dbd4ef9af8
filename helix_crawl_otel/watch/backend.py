"""What a watch needs behind it: one protocol, kept by what judges in this process and by what tells a supervisor.

`local` holds the policy itself; `remote` sends each call as a message. Shards and the watch know this page alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import ParamSpec, Protocol, TypeVar

from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.policy.batch import BatchInfo, RunningBatch
from helix_crawl_otel.policy.model import Action, ActionKind, ShardEnd, ShardStatus
from helix_crawl_otel.timing import SleepMeter

__all__ = ["Backend", "ShardPipeline", "WatchedShard"]

P = ParamSpec("P")
Value = TypeVar("Value")


class WatchedShard(Protocol):
    """What a backend knows of a shard that the driver holds; see `ShardWatch`."""

    device: str

    @property
    def is_open(self) -> bool:
        """Between its first word and the end of its `with` block."""

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held is held by nobody now."""


class ShardPipeline(Protocol):
    """What is told of shards and their batches; see `otel.engine.Pipeline`.

    Attributes:
        actions: What the ladder asks for.
        hooks: Asked about each action before it is queued; `False` vetoes it.
    """

    actions: ActionQueue
    hooks: list[Callable[[Action], object]]

    def open_shard(self, shard: str, worker: str, device: str, can_take: Iterable[ActionKind]) -> None:
        """Begin a shard, whose driver can take these rungs."""

    def move_shard(self, shard: str, device: str) -> None:
        """An open shard goes on on another device."""

    def close_shard(self, shard: str, state: ShardEnd) -> None:
        """The shard is left `done`, `paused`, `failed` or, for the next process, `left`."""

    def start_batch(self, info: BatchInfo) -> RunningBatch:
        """A batch begins."""

    def finish_batch(self, running: RunningBatch, seconds: float) -> None:
        """It has been encoded."""

    def abandon_batch(self, running: RunningBatch) -> None:
        """It has raised."""

    def record_batch(self, info: BatchInfo, seconds: float) -> None:
        """A batch that the driver has timed itself."""

    def boundary(
        self,
        shard: str,
        device: str,
        commit_seconds: float | None,
        genes: int | None,
        pending: int | None,
        work_pending: float | None,
    ) -> None:
        """All earlier batches are committed; see `link.messages.Boundary`."""

    def status(self, shard: str) -> ShardStatus:
        """What is known of the shard now."""

    def error(self, place: str, error: Exception) -> None:
        """An error of the watch: log it and count it."""


class Backend(Protocol):
    """The machinery of one `CrawlWatch`. Its shards use it; authors of jobs do not.

    Attributes:
        clock: Seconds, not counting sleep.
        sleep: What the computer slept, for a driver that times its batches itself.
        may_exit: Something is known to restart this process.
        is_closed: The driver has closed its watch.
        pipeline: Where shards and batches are told. A forked child has another than its parent.

    Threads: any.
    """

    clock: Callable[[], float]
    sleep: SleepMeter
    may_exit: bool
    is_closed: bool
    pipeline: ShardPipeline

    def guarded(self, place: str, step: Callable[P, Value], *given: P.args, **named: P.kwargs) -> Value | None:
        """Do something for the driver.

        Returns:
            What came of it; `None` when it went wrong, which is logged and counted and never reaches the job.
        """
        try:
            return step(*given, **named)
        except Exception as error:  # noqa: BLE001 - nothing in this package may break the job it watches
            self.report(place, error)
            return None

    def report(self, place: str, error: Exception) -> None:
        """Log and count an error of the watch."""
        with suppress(Exception):  # counting an error failed as well; the job goes on all the same
            self.pipeline.error(place, error)

    def device_of(self, device: str, *, is_said: bool = True) -> str:
        """Where a shard is encoded whose driver says this, or says nothing: then it is the default."""

    def admit(self, shard: str) -> None:
        """A driver begins a shard.

        Raises:
            PauseRequested: Another process has to.
        """

    def belongs_on_cpu(self, shard: str) -> bool:
        """Whether a shard that is about to be opened has been demoted before, and no supervisor sees to it."""

    def arrive(self, shard: str, *, may_pause: bool = True) -> None:
        """A driver is at a boundary: what was decided on its last batch is in the queue afterwards.

        Args:
            shard: Its name.
            may_pause: All that was encoded is committed.

        Raises:
            PauseRequested: The operator has asked for a pause.
        """

    def tell(self, happened: str, action: Action, what: str) -> None:
        """What came of an action, for the log."""

    def run_worker(self, device: str, reason: str | None = None) -> None:
        """This process encodes on a device: read its memory from now on.

        Args:
            device: Its name.
            reason: Why it does so only now, such as `demote`.
        """

    def leave_device(self, device: str) -> None:
        """A shard's encoder has moved away."""

    def add_shard(self, shard: WatchedShard) -> None:
        """Know a shard for as long as the driver holds it."""

    def hold_shard(self, shard: str) -> None:
        """A driver enters the block that leaves this shard, in this process."""

    def tick(self) -> None:
        """Look at the clock and the memory."""

    def close(self, state: str = "done") -> None:
        """End the threads, keep the state, close the files. The job has ended so: `done`, `paused` or `failed`."""
