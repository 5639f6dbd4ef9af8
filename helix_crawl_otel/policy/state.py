"""All that the policy remembers, as plain dataclasses that `codec` can write and read.

Source: DESIGN.md, section 4, rule 9: what survives a change of worker is `ShardState.ladder.rung` and the meters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from helix_crawl_otel.policy.baseline import BaselineMeter, CardBaselines
from helix_crawl_otel.policy.batch import Batch
from helix_crawl_otel.policy.codec import OPTIONAL
from helix_crawl_otel.policy.detector import Detector
from helix_crawl_otel.policy.ladder import Ladder
from helix_crawl_otel.policy.memory import MemoryTrack
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.policy.shared import SharedFloor

__all__ = ["DurableShard", "DurableState", "PolicyState", "ShardState", "WorkerState"]

REMEDIES = (ActionKind.EMPTY_CACHE, ActionKind.RECYCLE, ActionKind.DEMOTE_CPU)


@dataclass
class WorkerState:
    """One worker process.

    Args:
        device: What it encodes on.
        floor: Of its shared memory.
        batches: Batches it began, the first of which are its warm-up.
    """

    device: str
    floor: SharedFloor
    batches: int = 0


@dataclass
class ShardState:
    """One shard.

    Args:
        unit: `work` or `genes`, what its first batch brought; empty before that.
        worker: The worker that encodes it; empty before the first batch.
        device: The device of its newest batch.
        can_take: Rungs that its driver can take.
        can_end_worker: Somebody outside can end the worker, and will when an action is overdue.
        is_open: Between `open_shard` and `close_shard`.
        is_done: Closed with nothing left to encode; another process need not know its baseline.
        ladder: The rung (survives every worker) and the action that waits (does not).
        meters: Baselines by device (survive every worker).
        detectors: EMA, streak and episode by device (do not).
    """

    unit: str = ""
    worker: str = ""
    device: str = ""
    can_take: list[ActionKind] = field(default_factory=lambda: list(REMEDIES))
    can_end_worker: bool = False
    is_open: bool = True
    is_done: bool = False
    ladder: Ladder = field(default_factory=Ladder)
    meters: dict[str, BaselineMeter] = field(default_factory=dict)
    detectors: dict[str, Detector] = field(default_factory=dict)

    def meter(self, device: str) -> BaselineMeter:
        """The baseline meter of a device."""
        return self.meters.setdefault(device, BaselineMeter())

    def detector(self, device: str) -> Detector:
        """The detector of a device."""
        return self.detectors.setdefault(device, Detector())


@dataclass
class PolicyState:
    """Everything, between two events."""

    encoder: str = ""
    next_action: int = 1
    trips: int = 0
    workers: dict[str, WorkerState] = field(default_factory=dict)
    shards: dict[str, ShardState] = field(default_factory=dict)
    inflight: dict[str, Batch] = field(default_factory=dict)
    memory: dict[str, MemoryTrack] = field(default_factory=dict)
    cards: CardBaselines = field(default_factory=CardBaselines)


@dataclass
class DurableShard:
    """What is kept of a shard between processes; see `Ladder` and `ShardState`."""

    rung: int
    unit: str
    meters: dict[str, BaselineMeter]
    is_spared: bool = field(default=False, metadata={OPTIONAL: True})


@dataclass
class DurableState:
    """What is kept between processes: the content of the ladder's state file."""

    version: int
    encoder: str
    shards: dict[str, DurableShard]
    cards: CardBaselines
