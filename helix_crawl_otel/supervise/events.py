"""What happens in a supervised run, as values: the displays show them, `--json` prints them.

Times are seconds of the run's clock; the displays count from the first event.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from helix_crawl_otel.policy.model import EvidenceValue

__all__ = [
    "ActionEnded",
    "BatchAbandoned",
    "BatchStarted",
    "Committed",
    "Crash",
    "Event",
    "Gate",
    "Ingested",
    "Ingesting",
    "Interrupted",
    "MetricsAt",
    "ModelLoaded",
    "ModelLoading",
    "Note",
    "Quarantined",
    "RunStarted",
    "ShardCounted",
    "ShardEnded",
    "ShardStarted",
    "SourceReadAs",
    "SourceSkipped",
    "SourceTrouble",
    "TreeLooked",
    "WorkerEnded",
    "WorkerStarted",
    "event_of",
]

_KINDS: dict[str, type[Event]] = {}

_BIG_LETTER = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True)
class Event:
    """Something that happened at `t`; in a fleet on a node, else that is empty."""

    t: float
    node: str = field(default="", kw_only=True)

    KIND: ClassVar[str] = "event"

    def __init_subclass__(cls, kind: str | None = None) -> None:
        """Take its name from the class's, or as it is given: scripts know it, classes may be renamed."""
        super().__init_subclass__()
        cls.KIND = kind or _BIG_LETTER.sub("_", cls.__name__).lower()
        _KINDS[cls.KIND] = cls

    @property
    def kind(self) -> str:
        """Its name, such as `worker_started`: what scripts look for."""
        return self.KIND

    def to_json(self, since: float = 0.0) -> dict[str, Any]:
        """A JSON object; `t` counts from `since`."""
        fields = dataclasses.asdict(self)
        where = {"node": node} if (node := fields.pop("node")) else {}
        return {"event": self.kind, **where, **fields, "t": round(self.t - since, 3)}


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins, with so many shards, of which some are complete already, with so many genes that have a vector.

    Of a driver of the user's own nothing of that is known, unless its user said how many genes there are in all
    (`expected`); `vectors` are then those of earlier runs.
    """

    command: str
    output: str
    model: str
    devices: tuple[str, ...]
    why: str
    shards: int
    complete: int
    vectors: int = 0
    expected: int | None = None


@dataclass(frozen=True)
class TreeLooked(Event):
    """Before anything is read, the whole tree was looked at: sizes in bytes, passages estimated from them where nobody
    has cut the files yet. `pending` of them are to be encoded, at `rate` genes/s, which the last run in this folder
    came to on `rate_device`, in `seconds`; `null` where none, or hardly one, has run with this model on this machine.
    `no_text` files are taken for pictures, archives and the like. `dominating` is
    the pattern of a single file that makes most of the work; `unused` patterns of `--exclude` left nothing out.
    """

    sources: Sequence[str]
    files: int
    bytes: int
    passages: int
    shards: int
    complete: int
    pending: int
    rate: float | None
    rate_device: str
    seconds: float | None
    left_out: Sequence[Mapping[str, Any]]
    unreadable: int
    no_text: int
    no_text_bytes: int
    largest: Sequence[Mapping[str, Any]]
    dominating: str | None
    unused: Sequence[str]


@dataclass(frozen=True)
class ShardCounted(Event):
    """In a shard that waits, so many genes lack a vector: counted, or estimated from the bytes of its files."""

    shard: str
    pending: int
    is_estimate: bool = False


@dataclass(frozen=True)
class MetricsAt(Event):
    """The metrics are served there."""

    url: str


@dataclass(frozen=True)
class Note(Event):
    """Something to be said: `info`, `warning` or `error`."""

    level: str
    text: str


@dataclass(frozen=True)
class WorkerStarted(Event):
    """A worker process runs."""

    slot: str
    device: str
    pid: int
    reason: str


@dataclass(frozen=True)
class WorkerEnded(Event):
    """A worker process is gone. `code` is `None` for one that a driver of the user's own has started."""

    slot: str
    device: str
    pid: int
    code: int | None
    why: str


@dataclass(frozen=True)
class ModelLoading(Event):
    """A worker loads its model: the first seconds of a worker, and the longest."""

    slot: str
    model: str
    device: str


@dataclass(frozen=True)
class ModelLoaded(Event):
    """A worker has its model, after so many seconds, and computes in `dtype`; `why` where there was a choice."""

    slot: str
    model: str
    device: str
    seconds: float
    dtype: str = "float32"
    why: str = ""


@dataclass(frozen=True)
class Ingesting(Event):
    """A shard's sources are being read: so many of them, and so many genes, so far."""

    shard: str
    slot: str
    sources: int
    genes: int


@dataclass(frozen=True)
class Ingested(Event):
    """A shard's sources have been read and cut."""

    shard: str
    sources: int
    added: int
    removed: int
    skipped: int


@dataclass(frozen=True)
class ShardStarted(Event):
    """A worker encodes a shard, in which so many genes lack a vector, `None` when the driver alone knows, and so many
    have one. The pending ones cost `work_pending`, in the unit of a batch's work; `None` where nobody knows.
    """

    shard: str
    slot: str
    device: str
    pending: int | None
    vectors: int = 0
    work_pending: float | None = None


@dataclass(frozen=True)
class BatchStarted(Event):
    """A batch is in flight: what a worker that is silent since is stuck in."""

    shard: str
    slot: str
    genes: int


@dataclass(frozen=True)
class BatchAbandoned(Event):
    """It has raised in its driver, which goes on."""

    shard: str
    slot: str


@dataclass(frozen=True)
class Committed(Event):
    """A batch is in its shard: `pending` genes are left, which cost `work_pending`. Rates are in genes/s; what is
    unknown is `None`.
    """

    shard: str
    slot: str
    device: str
    genes: int
    pending: int | None
    rate: float | None
    baseline: float | None
    memory_fraction: float | None
    rung: int
    is_crawling: bool
    work_pending: float | None = None


@dataclass(frozen=True)
class ActionEnded(Event, kind="action"):
    """An action of the ladder has ended so; DETECT is a crawl."""

    shard: str
    action: str
    outcome: str
    evidence: Mapping[str, EvidenceValue]


@dataclass(frozen=True)
class Gate(Event):
    """Before the next worker, the card's memory is waited for: `waiting`, or why no longer."""

    slot: str
    device: str
    used_bytes: int | None
    before_bytes: int | None
    state: str


@dataclass(frozen=True)
class Crash(Event):
    """A worker has crashed; it is started again in so many seconds, `None` for no more."""

    slot: str
    shard: str | None
    why: str
    restarts_left: int
    retry_in_seconds: float | None


@dataclass(frozen=True)
class Quarantined(Event):
    """A gene cannot be encoded and is left out: of which source, and how its text begins."""

    shard: str
    gene: str
    source: str
    begins: str
    reason: str


@dataclass(frozen=True)
class SourceTrouble(Event):
    """A source cannot be read."""

    shard: str
    source: str
    reason: str


@dataclass(frozen=True)
class SourceSkipped(Event):
    """A source was skipped, in this run or an earlier one: what it is, and why. The first hundred of a shard."""

    shard: str
    source: str
    what: str
    reason: str


@dataclass(frozen=True)
class SourceReadAs(Event):
    """A source was not read as it stands, but as text of this encoding. The first hundred of a shard."""

    shard: str
    source: str
    what: str


@dataclass(frozen=True)
class ShardEnded(Event):
    """A shard is `done`, `failed` or `paused`."""

    shard: str
    state: str
    encoded: int
    reason: str


@dataclass(frozen=True)
class Interrupted(Event):
    """The operator has asked to stop, so many times."""

    times: int


def event_of(content: Mapping[str, Any], *, t: float, node: str) -> Event:
    """The event that `to_json` was of, on another machine of the same version.

    Args:
        content: What it said.
        t: When it came here.
        node: Where it happened.
    """
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return _KINDS[fields.pop("event")](**{**fields, "t": t, "node": node})
