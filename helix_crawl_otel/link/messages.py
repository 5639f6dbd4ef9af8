"""Every message between a worker and its supervisor, once: what it is called, what is in it, and of what type.

On the wire a message is a JSON object, its name under `type` beside its fields. What does not fit its row is refused
with one sentence, before anybody looks into it.

A batch costs four: `start_batch` before the work, `finish_batch` after it, `judged` in answer to that, and `boundary`
once it is committed. The worker commits while the answer is on its way.

Source: DESIGN.md, section 7. A change of a row is another `VERSION`: a driver may have another release of this package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.batch_limits import BATCH_TOKENS
from helix_crawl_otel.policy.codec import decode, encode
from helix_crawl_otel.policy.model import (
    Action,
    ActionKind,
    MemoryReading,
    Outcome,
    SampleProblem,
    ShardEnd,
    ShardStatus,
)

__all__ = [
    "FROM_SUPERVISOR",
    "FROM_WORKER",
    "VERSION",
    "AbandonBatch",
    "Acknowledge",
    "Answer",
    "AskStatus",
    "Assignment",
    "BadMessage",
    "Boundary",
    "BuildTask",
    "CannotStart",
    "CloseShard",
    "Encoding",
    "FinishBatch",
    "GiveAction",
    "GiveShard",
    "Hello",
    "IgnoreBatch",
    "IngestEnd",
    "IngestProgress",
    "Judged",
    "LastWords",
    "Leave",
    "LoadEnd",
    "LoadStart",
    "Memory",
    "Message",
    "MoveShard",
    "NextBatch",
    "OpenShard",
    "PassOnShard",
    "Pause",
    "QuarantineGene",
    "RecordBatch",
    "ReportError",
    "ShardDone",
    "ShardFailed",
    "ShardOpened",
    "StartBatch",
    "StartWorker",
    "StatusTold",
    "VoidAction",
    "Welcome",
    "WorkerSettings",
    "pack",
    "unpack",
]

VERSION = 6

_BIG_LETTER = re.compile(r"(?<!^)(?=[A-Z])")

M = TypeVar("M", bound="Message")


class BadMessage(ValueError):
    """What arrived fits no row of the table; the text says what is wrong, what came and what is accepted."""


class Message:
    """A row of the table.

    Attributes:
        NAME: On the wire, such as `start_batch`: the class's name in small letters.
    """

    NAME: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.NAME = _BIG_LETTER.sub("_", cls.__name__).lower()


# -- a worker to its supervisor: who it is ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello(Message):
    """The first word. Its row never changes, so that each version understands which one the other is."""

    version: int
    pid: int
    python: str
    package: str


@dataclass(frozen=True)
class StartWorker(Message):
    """A driver has rebuilt its encoder in this process, on another device."""

    device: str
    reason: str


@dataclass(frozen=True)
class Memory(Message):
    """What this process sees of its device's memory. May be lost."""

    device: str
    reading: MemoryReading
    source: str
    up: bool


@dataclass(frozen=True)
class ReportError(Message):
    """An error of the watch in this process, to be counted."""

    where: str
    text: str


@dataclass(frozen=True)
class LastWords(Message):
    """Why this process is about to end by itself.

    Args:
        reason: One sentence, shown in place of an exit code.
        is_device: Another process on the same device may fail as well.
    """

    reason: str
    is_device: bool


# -- shards and batches -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OpenShard(Message):
    """Begin a shard; answered by `ShardOpened`.

    Args:
        request: Of the answer.
        shard: Its name.
        device: Where it is encoded, as this process numbers its cards.
        can_take: Rungs that the driver can take.
        can_leave: The process can leave it to another one.
        is_child: Another process of the job waits for this one's end, as that of a pool does.
        is_of_pool: That one is a `multiprocessing.Pool`: who waits for its result would wait for ever.
        is_held: The end of a block leaves it: a process that is gone before that has died in it.
        cards: What its environment says of that numbering; see `card_variables`.
    """

    request: int
    shard: str
    device: str
    can_take: list[ActionKind]
    can_leave: bool
    is_child: bool = False
    is_of_pool: bool = False
    is_held: bool = False
    cards: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MoveShard(Message):
    """An open shard goes on on another device, in the same process."""

    shard: str
    device: str


@dataclass(frozen=True)
class CloseShard(Message):
    """A shard is left `done`, `paused`, `failed` or, for the next process, `left`."""

    shard: str
    state: ShardEnd


@dataclass(frozen=True)
class StartBatch(Message):
    """A batch begins. Sent before the work, so that a worker that is wedged by it is seen.

    Args:
        batch: Its number in this process.
        shard: Of the shard.
        device: Where it is encoded.
        genes: Passages.
        work: What it costs, `None` to be judged by genes.
        read_seconds: What the stage before took, `None` where nobody knows.
        first: In a build, the id of its first gene: what is suspected when its worker dies.
        tokens: In a build, those of its passages without padding; `None` where nobody knows.
    """

    batch: int
    shard: str
    device: str
    genes: int | float
    work: int | float | None
    read_seconds: float | None
    first: str | None
    tokens: int | float | None = None

    @classmethod
    def of(cls, info: BatchInfo) -> StartBatch:
        """As the driver has said it; its worker is known by the channel."""
        told = info.genes, info.work, info.read_seconds, info.first, info.tokens
        return cls(int(info.id), info.shard, info.device, *told)


@dataclass(frozen=True)
class FinishBatch(Message):
    """It has been encoded, in so many seconds. Answered by `Judged`.

    Args:
        end: Counts the ends of batches in this process, from 1.
        batch: Its number.
        seconds: More than 0.
    """

    end: int
    batch: int
    seconds: float


@dataclass(frozen=True)
class AbandonBatch(Message):
    """It has raised."""

    batch: int


@dataclass(frozen=True)
class RecordBatch(Message):
    """A batch that the driver has timed itself; the fields are those of the two above. Answered by `Judged`."""

    end: int
    shard: str
    device: str
    genes: int | float
    seconds: float
    work: int | float | None


@dataclass(frozen=True)
class IgnoreBatch(Message):
    """A batch whose numbers cannot be judged. The worst may be none that JSON knows, so it comes as text.

    Args:
        shard: Of the shard.
        problem: Which number: `genes`, `seconds` or `work`.
        given: What it was.
    """

    shard: str
    problem: SampleProblem
    given: str


@dataclass(frozen=True)
class Boundary(Message):
    """All earlier batches of a shard are committed, as far as its driver tells.

    Args:
        shard: Of the shard.
        device: Where it is encoded.
        commit_seconds: What that took, `None` where no batch of the thread came before.
        genes: In a build, how many have their vector since the boundary before.
        pending: In a build, how many of the shard's genes lack one still, as the store counts them.
        work_pending: What those cost, in the unit of a batch's work; `None` where nobody knows.
    """

    shard: str
    device: str
    commit_seconds: float | None
    genes: int | None
    pending: int | None
    work_pending: float | None = None


@dataclass(frozen=True)
class Acknowledge(Message):
    """An action has ended so; the detail is for the log."""

    action: int
    outcome: Outcome
    detail: str


@dataclass(frozen=True)
class AskStatus(Message):
    """What is known of the shard? Answered by `StatusTold`."""

    request: int
    shard: str


# -- what a build's worker says beside --------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadStart(Message):
    """It begins to load its model."""

    model: str
    device: str


@dataclass(frozen=True)
class LoadEnd(Message):
    """It has it.

    Args:
        model: As given to `--model`.
        device: Where it is.
        seconds: What that took.
        dtype: What it computes in.
        why: Why in that; people may be told.
        note: What else is to be said of it to the operator, empty for nothing.
    """

    model: str
    device: str
    seconds: float
    dtype: str = "float32"
    why: str = ""
    note: str = ""


@dataclass(frozen=True)
class IngestProgress(Message):
    """Its shard's sources are read: so many, and so many genes, so far."""

    shard: str
    sources: int
    genes: int


@dataclass(frozen=True)
class IngestEnd(Message):
    """They have been read and cut.

    Args:
        shard: Of the shard.
        sources: How many.
        added: Genes.
        removed: Genes.
        skipped: How many files were left out, in earlier runs too.
        left_out: The first hundred of them: source, what it is, and the reason.
        read_as: The first hundred sources that were not read as they stand, with what they were read as.
        problems: Sources that cannot be read, with the reason: the first hundred.
        problem_count: How many there are.
        gone: How many sources are there no longer, or are left out now, and keep their genes.
    """

    shard: str
    sources: int
    added: int
    removed: int
    skipped: int
    left_out: list[tuple[str, str, str]]
    read_as: list[tuple[str, str]]
    problems: list[tuple[str, str]]
    problem_count: int
    gone: int = 0


@dataclass(frozen=True)
class Encoding(Message):
    """It begins to encode.

    Args:
        shard: Of the shard.
        label: Where.
        pending: Genes that lack a vector.
        vectors: Genes that have one.
        work_pending: What the pending ones cost, in the unit of a batch's work; `None` where nobody knows.
        quarantined: Genes that have none and are left out.
        notes: What else is to be said of it to the operator.
    """

    shard: str
    label: str
    pending: int
    vectors: int = 0
    work_pending: float | None = None
    quarantined: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NextBatch(Message):
    """It is about to look at this batch. Said only where a worker of the shard has died outside of batches."""

    shard: str
    first: str
    genes: int


@dataclass(frozen=True)
class QuarantineGene(Message):
    """A gene cannot be encoded.

    Args:
        shard: Of the shard.
        gene: Its id.
        source: The file that it was cut from, empty where nothing says so.
        begins: The first words of its text.
        reason: Why.
    """

    shard: str
    gene: str
    source: str
    begins: str
    reason: str


@dataclass(frozen=True)
class ShardDone(Message):
    """Each gene has its vector."""

    shard: str


@dataclass(frozen=True)
class ShardFailed(Message):
    """It cannot be finished; a corrupt file may be set aside."""

    shard: str
    reason: str
    is_corrupt: bool


@dataclass(frozen=True)
class PassOnShard(Message):
    """Another process has to go on with it.

    Args:
        shard: Of the shard.
        reason: Why.
        lacks_memory: Where there is memory; else on the CPU.
        is_loading: It was not there for the model.
    """

    shard: str
    reason: str
    lacks_memory: bool
    is_loading: bool


@dataclass(frozen=True)
class CannotStart(Message):
    """No worker can ever start."""

    reason: str


FROM_WORKER: tuple[type[Message], ...] = (
    Hello,
    StartWorker,
    Memory,
    ReportError,
    LastWords,
    OpenShard,
    MoveShard,
    CloseShard,
    StartBatch,
    FinishBatch,
    AbandonBatch,
    RecordBatch,
    IgnoreBatch,
    Boundary,
    Acknowledge,
    AskStatus,
    LoadStart,
    LoadEnd,
    IngestProgress,
    IngestEnd,
    Encoding,
    NextBatch,
    QuarantineGene,
    ShardDone,
    ShardFailed,
    PassOnShard,
    CannotStart,
)


# -- a supervisor to its worker ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorkerSettings:
    """What holds for the whole life of a build's worker.

    Args:
        model: As given to `--model`.
        device: Where its parameters have to be.
        batch_size: Genes a batch, 1 or more.
        threads: Of the encoder on the CPU; `None` leaves it to the framework.
        release_every: Batches between two releases of the CUDA cache, 0 for never; `None` releases by need.
        faults: `--fault`, as given.
        number: 1 for the first worker of the run, and so on.
        label: The device that it is reported under: `device`, unless a modelled card is laid over the CPU.
        lock_seconds: How long to wait for a shard that another program holds.
        batch_tokens: Tokens a batch, with padding, 1 or more.
        vram_cap: What of the card's free memory the worker's torch may take: a fraction, `auto` or `off`.
        workers: Of the run on its device, itself among them.
        dtype: What to compute in, as given to `--dtype`.
        must_agree: The folder holds vectors of the model as it is saved: those of `dtype` have to agree with them.
        max_chars: Letters of a text that are encoded, 0 for all; `None` for what the shard or its application says.
        dim: Numbers of a vector that are kept; `None` likewise.
        begun: Files of the run that say of their vectors how much of a text is encoded, of each kind a few.
    """

    model: str
    device: str
    batch_size: int
    threads: int | None
    release_every: int | None
    faults: list[str]
    number: int
    label: str
    lock_seconds: float = 30.0
    batch_tokens: int = BATCH_TOKENS
    vram_cap: float | str = "off"
    workers: int = 1
    dtype: str = "auto"
    must_agree: bool = False
    max_chars: int | None = None
    dim: int | None = None
    begun: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Assignment:
    """One shard for a build's worker.

    Args:
        shard: Its name.
        path: Its file.
        epoch: The lease under which the worker writes; higher than any before it. Until it is given out, the highest
            that was taken.
        source: The tree that it is cut from, `None` for a shard that is only encoded.
        output: The folder of the shards, left out of the tree.
        reencode: Take the encoder in place of another one, and encode everything again.
        prune: Remove genes of sources that are gone.
        retry_quarantined: Try those genes again.
        limits: Batches that killed a worker: most genes of a piece, by the batch's first gene.
        quarantine: Genes that killed a worker alone, with the reason: left out, and quarantined once another gene of
            the shard has been encoded.
        shortages: How many workers in a row had to leave this shard on this device for want of memory.
        is_wary: A worker of this shard has died outside of batches: say which one is looked at before it is.
        exclude: See `corpus.filters.Filters`, also of the next three.
        include: See there.
        gitignore: See there.
        max_file_bytes: See there.
    """

    shard: str
    path: str
    epoch: int = 0
    source: str | None = None
    output: str | None = None
    reencode: bool = False
    prune: bool = False
    retry_quarantined: bool = False
    limits: dict[str, int] = field(default_factory=dict)
    quarantine: dict[str, str] = field(default_factory=dict)
    shortages: int = 0
    is_wary: bool = False
    exclude: list[str] = field(default_factory=list)
    include: list[str] = field(default_factory=list)
    gitignore: bool = True
    max_file_bytes: int | None = None


@dataclass(frozen=True)
class BuildTask:
    """What a build's worker is started for: its settings, and its first shard."""

    settings: WorkerSettings
    assignment: Assignment


@dataclass(frozen=True)
class Welcome(Message):
    """The answer to `Hello`.

    Args:
        version: Ours. A worker of another one runs by itself.
        demoted_shard: The shard that it finishes on the CPU, `None` for a worker on its slot's own device.
        tick_seconds: On the run's clock.
        clock_rate: Seconds of that clock a second of the world's.
        task: `None` for a driver of the user's own.
    """

    version: int
    demoted_shard: str | None
    tick_seconds: float
    clock_rate: float
    task: BuildTask | None


@dataclass(frozen=True)
class Answer(Message):
    """An answer to the question of this number."""

    request: int


@dataclass(frozen=True)
class ShardOpened(Answer):
    """The answer to `OpenShard`: whether it has to be left to a worker on the CPU."""

    demote: bool


@dataclass(frozen=True)
class StatusTold(Answer):
    """The answer to `AskStatus`."""

    status: ShardStatus


@dataclass(frozen=True)
class Judged(Message):
    """What was decided on this batch, and on all that ended before it, has been sent."""

    end: int


@dataclass(frozen=True)
class GiveAction(Message):
    """The ladder asks for this."""

    action: Action


@dataclass(frozen=True)
class VoidAction(Message):
    """It does so no more: a later one came first."""

    action: int


@dataclass(frozen=True)
class Pause(Message):
    """Finish the batch, commit and leave: the operator has asked for it."""


@dataclass(frozen=True)
class GiveShard(Message):
    """The next shard of a build's worker."""

    assignment: Assignment


@dataclass(frozen=True)
class Leave(Message):
    """Nothing is left for a build's worker."""


FROM_SUPERVISOR: tuple[type[Message], ...] = (
    Welcome,
    ShardOpened,
    Judged,
    StatusTold,
    GiveAction,
    VoidAction,
    Pause,
    GiveShard,
    Leave,
)


# -- the wire ---------------------------------------------------------------------------------------------------------

_BY_NAME = {table: {row.NAME: row for row in table} for table in (FROM_WORKER, FROM_SUPERVISOR)}


def pack(message: Message) -> dict[str, Any]:
    """A message as a JSON object."""
    return {"type": message.NAME, **encode(message)}


def unpack(table: tuple[type[Message], ...], content: Mapping[str, Any]) -> Message:
    """The message that `pack` was given.

    Args:
        table: `FROM_WORKER` or `FROM_SUPERVISOR`: who has sent it.
        content: A JSON object with a `type`.

    Raises:
        BadMessage: It is none of the table.
    """
    fields = dict(content)
    name = fields.pop("type")
    row = _BY_NAME[table].get(name)
    if row is None:
        raise BadMessage(f"a message is called {name[:80]!r}; accepted: {', '.join(_BY_NAME[table])}")
    try:
        message: Message = decode(row, fields)
    except ValueError as error:
        raise BadMessage(str(error)) from None
    return message
