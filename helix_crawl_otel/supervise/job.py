"""What a supervisor has to know of the work it supervises: a build's shards, or a driver of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from helix_crawl_otel.link.messages import BuildTask, GiveShard, Leave, Message

__all__ = ["Job", "JobWorker", "Launch", "WorkerStart"]


@dataclass(frozen=True)
class WorkerStart:
    """The start of a worker.

    Args:
        reason: `first`, `recycle`, `demote`, `crash` or `resume`.
        device: Where it is to encode.
        demoted_shard: The shard that it finishes on the CPU, `None` for a worker on its slot's own device.
        after_seconds: To be waited for before.
    """

    reason: str
    device: str
    demoted_shard: str | None = None
    after_seconds: float = 0.0


@dataclass(frozen=True)
class Launch:
    """A command to start.

    Args:
        argv: Program and arguments, no shell.
        environ: The whole environment, without the channel.
        task: What the job tells its worker at once; `None` for a driver of the user's own.
        is_ours: It is this package's own worker: it says hello within a minute, and its output goes to a log file.
    """

    argv: Sequence[str]
    environ: Mapping[str, str]
    task: BuildTask | None = None
    is_ours: bool = False


class JobWorker(Protocol):
    """A worker as its job sees it."""

    @property
    def number(self) -> int:
        """1 for the first worker of the run, and so on."""

    def tell(self, message: GiveShard | Leave) -> None:
        """Say what it is to do next."""


class Job(Protocol):
    """The work of a run.

    Attributes:
        keeps_account: It knows which of its shards are done, and says so itself.
        resumes: A worker that is started again goes on where the last one was; else none is.

    Threads: `said` runs in a worker's reader thread, all else in the supervisor's.
    """

    keeps_account: bool
    resumes: bool

    def next_start(self, slot: str, device: str, is_first: bool) -> WorkerStart | None:
        """What to start in a slot that has no worker, `None` when nothing is left for it."""

    def has_work(self, slot: str) -> bool:
        """Whether anything is left for a slot whose worker has ended."""

    def next_shard(self, slot: str) -> str | None:
        """The shard that the next worker of a slot begins with, `None` when only its driver knows."""

    def has_finished(self, slot: str, code: int | None) -> bool:
        """Whether the worker that has just ended had finished all it was given: then its end is no crash, and with work
        left it is one, whatever its code. `None` is the code of one that we have ended: it says nothing."""

    def launch(self, slot: str, start: WorkerStart, number: int) -> Launch:
        """The command of a worker; `number` counts the workers of the run from 1."""

    def said(self, slot: str, worker: JobWorker, message: Message) -> bool:
        """A worker has said something, which the pipeline knows already. Returns whether genes were committed by it."""

    def crashed(self, slot: str, why: str) -> bool:
        """A worker has crashed. Returns whether the job has learnt something that makes the next try another one."""

    def gave_up_card(self, slot: str, why: str) -> str | None:
        """Workers of a slot have failed with a card again and again. Returns the shard that is to be finished on the
        CPU, `None` where there is none."""

    def hands_over(self, slot: str) -> bool:
        """The shard of a slot has to be finished on the CPU. Returns whether somebody else does that, so that the slot
        goes on with the next one."""

    def gave_up(self, slot: str, why: str) -> bool:
        """The crash budget is spent. Returns whether the slot goes on with something else."""
