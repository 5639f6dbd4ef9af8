"""The lines of a timeline as values, and what a line must hold to be one.

A timeline may come from somebody else's job: the device defaults to `cuda:0`, `work` and `worker` are optional, unknown
keys are ignored. Numbers have bounds far outside any real job, so that no rate made from them overflows.

Source: DESIGN.md, section 3.6.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from msgspec import Meta as Bounds
from msgspec import MsgspecError, Struct
from msgspec.json import Decoder

from helix_crawl_otel.dates import moment_of
from helix_crawl_otel.policy.model import LEAST, MOST, is_number, share

__all__ = [
    "DEFAULT_DEVICE",
    "VERSION",
    "ActionEvent",
    "BadLine",
    "BatchEvent",
    "Event",
    "FutureVersion",
    "MemoryEvent",
    "RunEvent",
    "TriedBatch",
    "UnfinishedEvent",
    "WorkerEvent",
    "parse_event",
    "usual_event",
]

VERSION = 1
DEFAULT_DEVICE = "cuda:0"

_LONGEST_TIME = 1e11
"""Seconds: 3,000 years, and beyond it a float no longer tells milliseconds apart."""


class BadLine(ValueError):
    """A line cannot be used; the message says why."""


class FutureVersion(BadLine):
    """A run was recorded in a later version of the format: nothing after it can be trusted."""


class RunEvent(NamedTuple):
    """A run begins, and with it a time axis. `encoder` is empty where it was not recorded."""

    t: float
    config: Mapping[str, Any]
    encoder: str
    host: str
    source: str
    """Where the timeline comes from, when it was reconstructed rather than recorded; else empty."""
    started: float | None = None
    """Its date and time, as `time.time` has them; `None` where they were not recorded."""
    folder: str = ""
    """Whose run it was, as the machine calls it; empty where it was not recorded."""
    state: Mapping[str, Any] | None = None
    """What its policy went on from, as `restore_durable` takes it; `None` for nothing, or where it was not recorded."""

    @property
    def tick_seconds(self) -> float | None:
        """The length of a tick that the run recorded with its knobs, `None` where it did not."""
        ticks: Any = self.config.get("tick_seconds")
        return float(ticks) if is_number(ticks) and ticks > 0 else None


class WorkerEvent(NamedTuple):
    """A worker has been started: the first of its name, or in place of the one before."""

    t: float
    device: str
    worker: str
    reason: str


class TriedBatch(NamedTuple):
    """A batch that was in flight up to `t`; its encode stage began at `t - seconds`. `work_pending` is what its shard
    still waited for when it began, this batch with it; `shards_follow`, whether other shards waited for its worker;
    `tokens`, those of its passages without padding; `read_seconds`, what the stage before it took."""

    t: float
    shard: str
    device: str
    worker: str
    genes: float
    work: float | None
    seconds: float
    work_pending: float | None = None
    shards_follow: bool = False
    tokens: float | None = None
    read_seconds: float | None = None


class BatchEvent(TriedBatch):
    """A batch has ended."""

    __slots__ = ()


class MemoryEvent(NamedTuple):
    """A reading of a device's memory, in bytes; `None` where it was unknown."""

    t: float
    device: str
    used_bytes: int | None
    limit_bytes: int | None
    shared_bytes: int | None = None
    other_shared_bytes: int | None = None
    reserved_bytes: int | None = None
    cap_bytes: int | None = None

    @property
    def fraction(self) -> float | None:
        """Used over limit; see `MemoryReading`, whose place it takes for the policy."""
        return share(self.used_bytes, self.limit_bytes)

    @property
    def cap_fraction(self) -> float | None:
        """Reserved over cap; see there."""
        return None if self.cap_bytes is None else share(self.reserved_bytes, self.cap_bytes)


class ActionEvent(NamedTuple):
    """What the job's own policy asked for, and what became of it."""

    t: float
    shard: str
    kind: str
    outcome: str
    evidence: Mapping[str, Any]


class UnfinishedEvent(TriedBatch):
    """A batch's worker has ended in it. It is no sample, and counts no genes.

    Older versions ignore it, as every event that they do not know.
    """

    __slots__ = ()


Event = RunEvent | WorkerEvent | BatchEvent | MemoryEvent | ActionEvent | UnfinishedEvent


# -- the usual lines --------------------------------------------------------------------------------------------------
# Batches and readings, of which there may be millions: decoded right into their types, in a fifth of the time. Whatever
# does not fit is parsed by `parse_event`, which knows all that is accepted, and says what is wrong.

_Seconds = Annotated[float, Bounds(ge=-_LONGEST_TIME, le=_LONGEST_TIME)]
_Name = Annotated[str, Bounds(min_length=1)]
_Amount = Annotated[int, Bounds(ge=1, le=int(MOST))] | Annotated[float, Bounds(ge=LEAST, le=MOST)]
_Bytes = Annotated[int, Bounds(ge=0, le=10**18)]
_Limit = Annotated[int, Bounds(ge=1, le=10**18)]


class _BatchLine(Struct, tag_field="event", tag="batch", gc=False):
    t: _Seconds
    shard: _Name
    genes: _Amount
    seconds: _Amount
    device: _Name | None = None
    worker: _Name | None = None
    work: _Amount | None = None
    work_pending: _Amount | None = None
    shards_follow: bool = False
    tokens: _Amount | None = None
    read_seconds: _Amount | None = None


class _MemoryLine(Struct, tag_field="event", tag="memory", gc=False):
    t: _Seconds
    used_bytes: _Bytes | None
    limit_bytes: _Limit | None
    device: _Name | None = None
    shared_bytes: _Bytes | None = None
    other_shared_bytes: _Bytes | None = None
    reserved_bytes: _Bytes | None = None
    cap_bytes: _Limit | None = None


_USUAL = Decoder(_BatchLine | _MemoryLine)

_new = tuple.__new__
"""Of a named tuple: by its own way of being called it takes twice the time."""


def usual_event(raw: bytes) -> BatchEvent | MemoryEvent | None:
    """The event of a line as a job writes them, `None` for any other: `parse_event` then says what it is."""
    try:
        line = _USUAL.decode(raw)
    except (MsgspecError, RecursionError, UnicodeError):
        return None
    device = line.device or DEFAULT_DEVICE
    if type(line) is _MemoryLine:
        return _new(
            MemoryEvent,
            (
                line.t,
                device,
                line.used_bytes,
                line.limit_bytes,
                line.shared_bytes,
                line.other_shared_bytes,
                line.reserved_bytes,
                line.cap_bytes,
            ),
        )
    return _new(
        BatchEvent,
        (
            line.t,
            line.shard,
            device,
            line.worker or device,
            line.genes,
            line.work,
            line.seconds,
            line.work_pending,
            line.shards_follow,
            line.tokens,
            line.read_seconds,
        ),
    )


# -- any line ---------------------------------------------------------------------------------------------------------


def parse_event(line: object) -> Event | None:
    """The event of a parsed line, `None` for an event of another kind than these.

    Raises:
        BadLine: It is no event, lacks a key, or has a value that is not accepted.
    """
    if not isinstance(line, dict):
        raise BadLine("not an object")
    name = line.get("event")
    if not isinstance(name, str):
        raise BadLine("no event named")
    parse = _PARSERS.get(name)
    return parse(line) if parse else None


def _run(line: dict[str, Any]) -> RunEvent:
    version = line.get("version", VERSION)
    if type(version) is not int or version < 1:
        raise BadLine(f"version is {_shown(version)}; accepted: {VERSION}")
    if version > VERSION:
        raise FutureVersion(f"version is {_shown(version)}; accepted: {VERSION}")
    config = line.get("config")
    source = _word(line, "source") if line.get("reconstructed") else ""
    return RunEvent(
        _time(line) if "t" in line else 0.0,
        config if isinstance(config, dict) else {},
        _word(line, "encoder"),
        _word(line, "host"),
        source or ("not said" if line.get("reconstructed") else ""),
        moment_of(_word(line, "started")),
        _word(line, "folder"),
        state if isinstance(state := line.get("state"), dict) else None,
    )


def _worker(line: dict[str, Any]) -> WorkerEvent:
    device = _device(line)
    return WorkerEvent(_time(line), device, _worker_name(line, device), _word(line, "reason"))


def _batch(line: dict[str, Any]) -> BatchEvent:
    device = _device(line)
    return BatchEvent(
        _time(line),
        _name(line, "shard"),
        device,
        _worker_name(line, device),
        _amount(line, "genes"),
        None if line.get("work") is None else _amount(line, "work"),
        _amount(line, "seconds"),
        None if line.get("work_pending") is None else _amount(line, "work_pending"),
        line.get("shards_follow") is True,
        None if line.get("tokens") is None else _amount(line, "tokens"),
        None if line.get("read_seconds") is None else _amount(line, "read_seconds"),
    )


def _memory(line: dict[str, Any]) -> MemoryEvent:
    return MemoryEvent(
        _time(line),
        _device(line),
        _bytes(line, "used_bytes", 0),
        _bytes(line, "limit_bytes", 1),
        _bytes(line, "shared_bytes", 0) if "shared_bytes" in line else None,
        _bytes(line, "other_shared_bytes", 0) if "other_shared_bytes" in line else None,
        _bytes(line, "reserved_bytes", 0) if "reserved_bytes" in line else None,
        _bytes(line, "cap_bytes", 1) if "cap_bytes" in line else None,
    )


def _action(line: dict[str, Any]) -> ActionEvent:
    evidence = line.get("evidence")
    return ActionEvent(
        _time(line),
        _name(line, "shard"),
        _name(line, "kind"),
        _word(line, "outcome"),
        {sys.intern(key): value for key, value in evidence.items()} if isinstance(evidence, dict) else {},
    )


def _unfinished(line: dict[str, Any]) -> UnfinishedEvent:
    return UnfinishedEvent(*_batch(line))


_PARSERS: dict[str, Callable[[dict[str, Any]], Event]] = {
    "run": _run,
    "worker": _worker,
    "batch": _batch,
    "memory": _memory,
    "action": _action,
    "unfinished": _unfinished,
}


# -- values -----------------------------------------------------------------------------------------------------------
# `type(...)` and comparisons rather than isinstance and isfinite: True is no number, NaN fails every comparison, and
# an integer of 400 digits compares without being made a float.


def _time(line: dict[str, Any]) -> float:
    value: Any = line.get("t")
    if type(value) not in (int, float) or not -_LONGEST_TIME <= value <= _LONGEST_TIME:
        raise BadLine(f"t is {_shown(value)}; accepted: a number of seconds")
    return float(value)


def _amount(line: dict[str, Any], key: str) -> Any:
    value: Any = line.get(key)
    if type(value) not in (int, float) or not LEAST <= value <= MOST:
        raise BadLine(f"{key} is {_shown(value)}; accepted: a number > 0 (from {LEAST:g} to {MOST:g})")
    return value


def _bytes(line: dict[str, Any], key: str, least: int) -> int | None:
    if key not in line:
        raise BadLine(f"{key} is missing")
    value = line[key]
    if value is None:
        return None
    if type(value) not in (int, float) or not least <= value <= 1e18:
        raise BadLine(f"{key} is {_shown(value)}; accepted: {least} or more bytes, or null")
    return int(value)


def _name(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    if type(value) is not str or not value:
        raise BadLine(f"{key} is {_shown(value)}; accepted: a name")
    return value


def _device(line: dict[str, Any]) -> str:
    value = line.get("device")
    if type(value) is str and value:
        return value
    return DEFAULT_DEVICE if value is None else _name(line, "device")


def _worker_name(line: dict[str, Any], device: str) -> str:
    value = line.get("worker")
    if value is None:
        return device
    if type(value) is int and abs(value) < 10**18:
        return str(value)
    return _name(line, "worker")


def _word(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    return value if isinstance(value, str) else ""


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    if type(value) is int and abs(value) >= 10**40:
        return "an integer of more than 40 digits"  # repr refuses 4,300 and more
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
