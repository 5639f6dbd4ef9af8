"""The words of the package as types: readings, actions, verdicts, statuses, decisions. And which numbers of a driver
can be judged: a bad sample is counted and ignored, never an exception into the job.

Every type here is a value: frozen, comparable, free of clocks and threads. DESIGN.md, section 2, holds the glossary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

__all__ = [
    "REMEDIES",
    "UNKNOWN_DEVICE",
    "Action",
    "ActionKind",
    "CardReading",
    "Decision",
    "DecisionKind",
    "Evidence",
    "EvidenceValue",
    "MemoryReading",
    "Outcome",
    "SampleProblem",
    "ShardEnd",
    "ShardStatus",
    "Verdict",
    "is_number",
    "plain_number",
    "sample_problem",
    "share",
]

EvidenceValue = float | int | str | None
Evidence = Mapping[str, EvidenceValue]

UNKNOWN_DEVICE = "unknown"
"""In the place of a name, of a worker whose job has not said yet where it encodes."""


class Verdict(str, Enum):
    """What the detector says of a shard on a device after its newest observation."""

    WARMING_UP = "WARMING_UP"
    """No baseline yet, neither the shard's own nor one of the card: nothing can be slow."""
    HEALTHY = "HEALTHY"
    """The EMA is at the crawl limit or above it."""
    SLOW = "SLOW"
    """The EMA is below the limit and the memory is known not to be full: something else is slow."""
    CRAWLING = "CRAWLING"
    """The EMA is below the limit and the memory is full, or an episode is open."""
    UNKNOWN = "UNKNOWN"
    """The EMA is below the limit and nothing is known of the memory. Never trips."""


class ActionKind(str, Enum):
    """What the ladder can ask for. The value is the name used in logs, labels and files."""

    DETECT = "DETECT"
    EMPTY_CACHE = "EMPTY_CACHE"
    RECYCLE = "RECYCLE"
    DEMOTE_CPU = "DEMOTE_CPU"

    def __init__(self, name: str) -> None:
        self.rung = len(type(self).__members__)  # those above
        """Height on the ladder: 0 for DETECT, 1 to 3 for the remedies."""
        self.ends_worker = name in ("RECYCLE", "DEMOTE_CPU")
        """While one of these waits for its boundary, nothing trips."""


REMEDIES = (ActionKind.EMPTY_CACHE, ActionKind.RECYCLE, ActionKind.DEMOTE_CPU)
"""The rungs, from below."""


class Outcome(str, Enum):
    """How an action ended; the label `outcome` of `helix_dense_ladder_actions`."""

    APPLIED = "applied"
    VETOED = "vetoed"
    PASSED_OVER = "passed_over"
    SUPERSEDED = "superseded"
    OVERDUE = "overdue"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory of one device at one moment.

    Args:
        used_bytes: Bytes in use, 0 or more. `None` means unknown. May exceed `limit_bytes`: a framework that holds
            more than the device has is near-proof of a spill (INCIDENTS.md).
        limit_bytes: Bytes the device has, more than 0. `None` means unknown.
        shared_bytes: System memory that the driver lends the device for the processes that encode on it, 0 or more:
            where a spill goes under WDDM. `None` means unknown.
        other_shared_bytes: The same for all other processes.
        reserved_bytes: What the framework's allocator of the process that encodes has taken from the device, 0 or
            more; of several processes that of the one nearest to its cap. `None` means unknown.
        cap_bytes: The most that this allocator may take, more than 0. `None` means unknown, or no cap.

    Raises:
        ValueError: A value is negative, not a number, or the limit or the cap is 0.
    """

    used_bytes: int | None
    limit_bytes: int | None
    shared_bytes: int | None = None
    other_shared_bytes: int | None = None
    reserved_bytes: int | None = None
    cap_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None or (type(value) is int and least <= value < 1 << 63):
                continue
            if not is_number(value):
                raise ValueError(f"MemoryReading.{name} is {value!r}; accepted: a whole number of bytes, or None")
            if value < least:
                raise ValueError(f"MemoryReading.{name} is {value!r}; accepted: {least} or more bytes, or None")

    @property
    def fraction(self) -> float | None:
        """Used over limit, 0 or more; `None` when either is unknown. Above 1 is possible and means full."""
        return share(self.used_bytes, self.limit_bytes)

    @property
    def cap_fraction(self) -> float | None:
        """Reserved over cap, 0 or more; `None` when either is unknown. Above 1: set below what was held."""
        return share(self.reserved_bytes, self.cap_bytes)


@dataclass(frozen=True, slots=True)
class CardReading:
    """What a card says of itself beside its memory, at one moment. No rule looks at it: it is for people.

    Args:
        uuid: Of the card, or of the part of one that is cut up (MIG); empty when unknown.
        name: Of its model; empty when unknown.
        utilization: Share of the last moment in which it computed, 0 to 1.
        temperature: In degrees Celsius.
        power: In watts.
        clocks: In hertz, by `sm` and `memory`, as far as it answers.
        throttled: Whether it is slower than it could be, by `thermal`, `power` and `hardware`; empty when unknown.
    """

    uuid: str = ""
    name: str = ""
    utilization: float | None = None
    temperature: float | None = None
    power: float | None = None
    clocks: Mapping[str, float] = field(default_factory=dict)
    throttled: Mapping[str, bool] = field(default_factory=dict)


_LEAST = {"limit_bytes": 1, "cap_bytes": 1} | dict.fromkeys(
    ("used_bytes", "shared_bytes", "other_shared_bytes", "reserved_bytes"), 0
)


def share(part: int | None, whole: int | None) -> float | None:
    """One over the other; `None` when either is unknown."""
    return None if part is None or whole is None else part / whole


@dataclass(frozen=True, slots=True)
class Action:
    """One step of the ladder, asked of one shard's driver.

    Args:
        id: Unique within a process; grows with each action.
        kind: What is asked.
        shard: Name of the shard.
        device: Device the shard is encoded on, such as `cuda:0`.
        reason: One sentence for the log.
        evidence: `rate`, `ema`, `baseline` and `limit` in genes/s, `ratio` and `limit_ratio` (judged, in work),
            `streak`, `memory_fraction`, `inflight_seconds`, `baseline_source` (`shard` or `card`), `shared_bytes` and
            `shared_rise_bytes` of the worker (the rise since its first batches), `other_shared_bytes`; `None` is
            unknown. With `adaptive` also `stay_seconds`, `recycle_seconds`, `cpu_seconds` and `empty_cache_seconds`:
            what each would take to the end of the shard, where it could be taken.
    """

    id: int
    kind: ActionKind
    shard: str
    device: str
    reason: str
    evidence: Evidence = field(default_factory=lambda: MappingProxyType({}), hash=False)


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """A snapshot of one shard, safe to keep.

    Args:
        verdict: See `Verdict`.
        ema: Throughput EMA in genes/s, `None` before the first observation.
        baseline: Healthy rate in genes/s (the shard's own, else the card's), `None` while neither is known.
        ratio: EMA over baseline as judged, in work; `None` while either is unknown.
        streak: Consecutive observations that fit the signature, 0 or more.
        rung: Highest rung taken so far, 0 to 3.
        episode_open: True from a trip to recovery.
        memory_fraction: Newest reading, used over limit; `None` when unknown.
    """

    verdict: Verdict
    ema: float | None
    baseline: float | None
    ratio: float | None
    streak: int
    rung: int
    episode_open: bool
    memory_fraction: float | None

    @property
    def told(self) -> tuple[float | None, float | None, float | None, int, bool]:
        """What a batch that is committed tells of its shard: EMA, baseline, memory fraction, rung, open episode."""
        return self.ema, self.baseline, self.memory_fraction, self.rung, self.episode_open


ShardEnd = Literal["done", "paused", "failed", "left"]
"""How a driver leaves a shard: `left` is for the next process to go on with."""


class DecisionKind(str, Enum):
    """Kinds of what the policy hands back: things to do or to report."""

    ISSUE = "issue"
    """Hand the action to the driver (or, `forced`, end the worker now)."""
    PASSED_OVER = "passed_over"
    """A rung that the driver cannot take was used up."""
    SUPERSEDED = "superseded"
    """The action named by `action_id` is void: a later one, or a change of worker, came first."""
    APPLIED = "applied"
    """The action named by `action_id` is done: the worker it asked to end has been replaced."""
    OVERDUE = "overdue"
    """The action named by `action_id` has waited too long for its boundary; a supervisor ends the worker."""
    RECOVERED = "recovered"
    """An episode ended by itself or by a remedy."""
    HANG = "hang"
    """A batch has been in flight beyond any crawl: a crash of that batch, no trip, no rung."""


@dataclass(frozen=True)
class Decision:
    """One thing the policy decided.

    Args:
        t: Seconds, on the policy's clock.
        what: What it is.
        shard: Shard concerned.
        device: Device concerned.
        worker: Worker that encodes the shard.
        kind: The action's kind, `None` for RECOVERED and HANG.
        action_id: The action's id, 0 where there is none.
        rung: The shard's rung after the decision (for DETECT: before any remedy), 0 to 3.
        forced: The worker has to be ended for it, because a stuck batch keeps it from its boundary.
        reason: One sentence for the log.
        evidence: See `Action.evidence`.
    """

    t: float
    what: DecisionKind
    shard: str
    device: str
    worker: str
    kind: ActionKind | None = None
    action_id: int = 0
    rung: int = 0
    forced: bool = False
    reason: str = ""
    evidence: Evidence = field(default_factory=dict)


# -- what a driver reports --------------------------------------------------------------------------------------------

LEAST, MOST = 1e-12, 1e18
"""Range of what a driver may report. Beyond it are bugs and rates that overflow, not batches."""


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold: not a `bool`, NaN, infinite, or an integer too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def plain_number(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own number; anything else as it is.

    Lengths come as such scalars from tokenizers, and as attributes of a measurement only plain numbers are kept.
    """
    item = getattr(value, "item", None)
    if isinstance(value, (int, float)) or not callable(item):
        return value
    try:
        return item()
    except (RuntimeError, TypeError, ValueError):  # more than one element
        return value


_PLAIN = (float, int)
"""Of these the comparison says it all: NaN and infinity fail it. `is_number` is for their subclasses."""


SampleProblem = Literal["genes", "seconds", "work"]
"""Which number of a batch cannot be judged."""


def sample_problem(genes: Any, seconds: Any = 1.0, work: Any = None) -> SampleProblem | None:
    """The first thing wrong with a sample, as the label `reason` of `helix_dense_samples_ignored`.

    Args:
        genes: Passages of the batch; accepted: a number from 1e-12 to 1e18.
        seconds: Time of the encode stage; accepted: a number from 1e-12 to 1e18 (0 is a clock that stands still).
        work: Cost of the batch, in the driver's unit; accepted: a number from 1e-12 to 1e18, or `None`.

    Returns:
        `genes`, `seconds`, `work`, or `None` when nothing is wrong.
    """
    # Twice a batch in every job: no call for each number.
    if not ((type(genes) in _PLAIN or is_number(genes)) and LEAST <= genes <= MOST):
        return "genes"
    if not ((type(seconds) in _PLAIN or is_number(seconds)) and LEAST <= seconds <= MOST):
        return "seconds"
    if not (work is None or ((type(work) in _PLAIN or is_number(work)) and LEAST <= work <= MOST)):
        return "work"
    return None
