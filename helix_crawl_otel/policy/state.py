"""All that the policy remembers, as plain dataclasses that `codec` can write and read; what is kept of it between
processes, and what is forgotten of shards that are done.

Source: DESIGN.md, section 4, rule 9: what survives a change of worker is `ShardState.ladder.rung` and the meters; and
section 5: "ladder state is plain JSON beside the shard".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from helix_crawl_otel.policy.baseline import Baseline, BaselineMeter, CardBaselines
from helix_crawl_otel.policy.batch import Batch
from helix_crawl_otel.policy.codec import OPTIONAL, decode, encode
from helix_crawl_otel.policy.costs import CardCosts, ContextCosts, ShardCosts
from helix_crawl_otel.policy.detector import Detector
from helix_crawl_otel.policy.ladder import Ladder
from helix_crawl_otel.policy.memory import MemoryTrack, SharedFloor
from helix_crawl_otel.policy.model import REMEDIES, ActionKind

__all__ = [
    "DurableShard",
    "DurableState",
    "DurableText",
    "PolicyState",
    "ShardState",
    "WorkerState",
    "dump_durable",
    "dump_within",
    "durable_mark",
    "durable_shard",
    "forget_closed",
    "restore_durable",
    "take_durable",
]

VERSION = 1

UNITS = ("", "genes", "work")
"""What a shard's rates are counted in; empty before its first batch."""

CLOSED_KEPT = 256
"""Closed shards whose state is kept whole, in case they are opened again. Of older ones only a rung above 0 stays: so
the memory is flat over 10,000 shards, and still no shard gets more than three interventions."""


@dataclass
class WorkerState:
    """One worker process.

    Args:
        device: What it encodes on.
        floor: Of its shared memory.
        batches: Batches it began, the first of which are its warm-up.
        shards: Names of those it began a batch of, in order: what ends with it, without a look at all others.
        busy_at: When it was last known to use the processor, in seconds; `None` when that is not known.
        reason: Why it was started, as `helix_dense_worker_starts` has it; empty where that was not told.
        idle_seconds: From the end of the worker before it to its first batch, until that has ended; else `None`.
        costs: Of its context.
    """

    device: str
    floor: SharedFloor
    batches: int = 0
    busy_at: float | None = field(default=None, metadata={OPTIONAL: True})
    shards: dict[str, bool] = field(default_factory=dict)  # a set in order
    reason: str = ""
    idle_seconds: float | None = None
    costs: ContextCosts = field(default_factory=ContextCosts)


@dataclass
class ShardState:
    """One shard.

    Args:
        unit: `work` or `genes`, what its first batch brought; empty before that.
        worker: The worker that encodes it; empty before the first batch.
        device: The device of its newest batch, by which it is judged.
        runs_on: Where its driver has it: opened there, or moved there since its newest batch.
        can_take: Rungs that its driver can take.
        can_end_worker: Somebody outside can end the worker, and will when an action is overdue.
        is_open: Between `open_shard` and `close_shard`.
        is_done: Closed with nothing left to encode; another process need not know its baseline.
        ladder: The rung (survives every worker) and the action that waits (does not).
        meters: Baselines by device (survive every worker).
        detectors: EMA, streak and episode by device (do not).
        costs: What its crawls have cost (survive every worker).
        card: The newest device of its batches but for the CPU, whose costs are its own; empty before the first.
        left_at: When its last batch ended, or the worker of it, in seconds; `None` before.
        waiting: Work that still waits for a vector, in padded tokens or characters; `None` when that is not known.
        shards_follow: Other shards wait for its worker.
    """

    unit: str = ""
    worker: str = ""
    device: str = ""
    runs_on: str = ""
    can_take: list[ActionKind] = field(default_factory=lambda: list(REMEDIES))
    can_end_worker: bool = False
    is_open: bool = True
    is_done: bool = False
    ladder: Ladder = field(default_factory=Ladder)
    meters: dict[str, BaselineMeter] = field(default_factory=dict)
    detectors: dict[str, Detector] = field(default_factory=dict)
    costs: ShardCosts = field(default_factory=ShardCosts)
    card: str = ""
    left_at: float | None = None
    waiting: float | None = None
    shards_follow: bool = False

    def meter(self, device: str) -> BaselineMeter:
        """The baseline meter of a device."""
        meter = self.meters.get(device)
        if meter is None:
            meter = self.meters[device] = BaselineMeter()
        return meter

    def detector(self, device: str) -> Detector:
        """The detector of a device."""
        detector = self.detectors.get(device)
        if detector is None:
            detector = self.detectors[device] = Detector()
        return detector


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
    costs: dict[str, CardCosts] = field(default_factory=dict)

    def card_costs(self, device: str, unit: str) -> CardCosts:
        """What crawls have cost on a device, in a unit of work."""
        return self.costs.setdefault(CardBaselines.key(device, self.encoder, unit), CardCosts())


@dataclass
class DurableShard:
    """What is kept of a shard between processes; see `Ladder` and `ShardState`.

    `is_spared` is what earlier versions have of `refused`.
    """

    rung: int
    unit: str
    meters: dict[str, BaselineMeter]
    is_spared: bool = field(default=False, metadata={OPTIONAL: True})
    refused: list[ActionKind] = field(default_factory=list, metadata={OPTIONAL: True})
    costs: ShardCosts = field(default_factory=ShardCosts, metadata={OPTIONAL: True})


@dataclass
class DurableState:
    """What is kept between processes: the content of the ladder's state file."""

    version: int
    encoder: str
    shards: dict[str, DurableShard]
    cards: CardBaselines
    costs: dict[str, CardCosts] = field(default_factory=dict, metadata={OPTIONAL: True})


def dump_durable(state: PolicyState) -> dict[str, Any]:
    """The state file's content: rungs, baselines and costs of the shards, and what the cards have shown and cost.

    Closed shards are among them: a shard that was paused, or restored and not opened again yet, keeps what it measured.
    """
    shards = {name: _kept(shard) for name, shard in state.shards.items() if _is_durable(shard)}
    durable: dict[str, Any] = encode(DurableState(VERSION, state.encoder, shards, state.cards, state.costs))
    return durable


def dump_within(state: PolicyState, most_bytes: int) -> dict[str, Any]:
    """The same in so many bytes of JSON at most: all of it, else of the shards those with a rung, else nothing. Empty
    where nothing is known.
    """
    durable = dump_durable(state)
    shards = durable["shards"]
    taken = {name: shard for name, shard in shards.items() if shard["rung"]}
    fitting = (durable | {"shards": some} for some in (shards, taken))
    if not (shards or any(durable["cards"].values()) or durable["costs"]):
        return {}
    return next((one for one in fitting if len(json.dumps(one)) <= most_bytes), {})


class DurableText:
    """The same as JSON, a shard a line. What has not changed since it was last written is not written anew: with 256
    shards that took 50 ms at each batch of a baseline.

    Args:
        key_of: What a shard is called in this file, by its name in the policy; `None` where it stands in another one.

    Threads: as `Policy`; one for each policy.
    """

    def __init__(self, key_of: Callable[[str], str | None] = str) -> None:
        self._key_of = key_of
        self._shards: dict[str, tuple[ShardState, object, str]] = {}  # as it was written, and its line
        self._cards: dict[str, tuple[object, str]] = {}

    def of(self, state: PolicyState) -> str:
        """The state file's content.

        Raises:
            ValueError: A number in it is not finite.
        """
        shards = {
            key: self._shard(key, shard)
            for name, shard in state.shards.items()
            if _is_durable(shard) and (key := self._key_of(name)) is not None
        }
        cards = {key: self._card(key, tuple(history)) for key, history in state.cards.cards.items()}
        early = {key: (_line(key, samples),) for key, samples in state.cards.early.items()}
        self._shards, self._cards = shards, cards
        return (
            f'{{"version": {VERSION}, "encoder": {json.dumps(state.encoder)}, "shards": {_object(shards)},\n'
            f'"cards": {{"cards": {_object(cards)},\n"early": {_object(early)}}},\n'
            f'"costs": {json.dumps(encode(state.costs), allow_nan=False)}}}\n'
        )

    def _shard(self, name: str, shard: ShardState) -> tuple[ShardState, object, str]:
        known = self._shards.get(name)
        if known is not None and known[0] is shard and known[1] == "closed" and not shard.is_open:
            return known
        mark = (_mark(shard), astuple(shard.costs)) if shard.is_open else "closed"  # and so it stays
        if known is not None and known[0] is shard and known[1] == mark:
            return known
        return shard, mark, _line(name, _kept(shard))

    def _card(self, key: str, history: tuple[Baseline, ...]) -> tuple[object, str]:
        known = self._cards.get(key)
        return known if known is not None and known[0] == history else (history, _line(key, history))


def _line(key: str, content: object) -> str:
    return f"\n{json.dumps(key)}: {json.dumps(encode(content), allow_nan=False)}"


def _object(lines: Mapping[str, tuple[Any, ...]]) -> str:
    return "{" + ",".join(known[-1] for known in lines.values()) + "}"


def _is_durable(shard: ShardState) -> bool:
    return not shard.is_done or shard.ladder.rung > 0 or bool(shard.meters)


def _kept(shard: ShardState) -> DurableShard:
    ladder = shard.ladder
    return DurableShard(ladder.rung, shard.unit, shard.meters, ladder.is_spared, ladder.refused, shard.costs)


def restore_durable(content: Any, encoder: str) -> PolicyState:
    """The state that `dump_durable` described.

    Args:
        content: Parsed JSON.
        encoder: Identity of the encoder in use. A baseline belongs to one encoder: with another, rungs stay and what
            was measured of the shards goes.

    Raises:
        ValueError: The content is damaged or of another version; the message says where.
    """
    durable: DurableState = decode(DurableState, content)
    if durable.version != VERSION:
        raise ValueError(f"DurableState.version is {durable.version}; accepted: {VERSION}")
    same_encoder = durable.encoder == encoder
    state = PolicyState(encoder=encoder, cards=durable.cards, costs=durable.costs)
    for name, kept in durable.shards.items():
        state.shards[name] = _restored(name, kept, same_encoder=same_encoder)
    return state


def _restored(name: str, kept: DurableShard, *, same_encoder: bool) -> ShardState:
    if not 0 <= kept.rung <= 3:
        raise ValueError(f"DurableState.shards[{name!r}].rung is {kept.rung}; accepted: 0 to 3")
    if kept.unit not in UNITS:
        raise ValueError(f"DurableState.shards[{name!r}].unit is {kept.unit[:80]!r}; accepted: one of {list(UNITS)}")
    if kept.is_spared and ActionKind.DEMOTE_CPU not in kept.refused:
        kept.refused.append(ActionKind.DEMOTE_CPU)
    return ShardState(
        unit=kept.unit if same_encoder else "",
        is_open=False,
        is_done=False,
        ladder=Ladder(rung=kept.rung, refused=kept.refused),
        meters=kept.meters if same_encoder else {},
        costs=kept.costs if same_encoder else ShardCosts(recycles=kept.costs.recycles),
    )


def durable_shard(state: PolicyState, shard: str) -> dict[str, Any] | None:
    """What is kept of one shard, as `dump_durable` has it; `None` where there is nothing to keep."""
    known = state.shards.get(shard)
    if known is None or not _is_durable(known):
        return None
    kept: dict[str, Any] = encode(_kept(known))
    return kept


def take_durable(state: PolicyState, shard: str, content: Any) -> None:
    """Go on with a shard that another process had, from what `durable_shard` told there of the same encoder.

    Raises:
        ValueError: The content is damaged; the message says where.
    """
    state.shards[shard] = _restored(shard, decode(DurableShard, content), same_encoder=True)


def durable_mark(state: PolicyState) -> tuple[object, ...]:
    """Differs from an earlier one when `dump_durable` would: cheap enough to be asked for after every batch.

    The running sums of a shard's costs are left out: they change with each batch, and are written with what comes next.
    """
    shards = tuple((name, _mark(shard)) for name, shard in state.shards.items() if shard.is_open)
    early = [(key, tuple(samples)) for key, samples in state.cards.early.items()]
    return *early, *shards, *(costs.mark for costs in state.costs.values())


def _mark(shard: ShardState) -> tuple[object, ...]:
    measured = [
        (device, tuple(meter.samples), meter.baseline, len(meter.small)) for device, meter in shard.meters.items()
    ]
    ladder, costs = shard.ladder, shard.costs
    return shard.is_done, ladder.rung, tuple(ladder.refused), shard.unit, measured, costs.recycles, costs.lost_seconds


def forget_closed(state: PolicyState) -> None:
    """Bound what is kept of closed shards: those that are done go first, and the oldest of them."""
    running = {batch.shard for batch in state.inflight.values()}
    closed = [
        name for name, shard in state.shards.items() if not shard.is_open and _is_whole(shard) and name not in running
    ]
    closed.sort(key=lambda name: not state.shards[name].is_done)  # one that was paused comes back: it goes last
    for name in closed[: max(0, len(closed) - CLOSED_KEPT)]:
        shard = state.shards.pop(name)
        for worker in state.workers.values():
            worker.shards.pop(name, None)
        if shard.ladder.rung > 0:
            kept = Ladder(rung=shard.ladder.rung, refused=shard.ladder.refused)
            state.shards[name] = ShardState(is_open=False, ladder=kept, costs=shard.costs)


def _is_whole(shard: ShardState) -> bool:
    return bool(shard.meters or shard.detectors or shard.ladder.rung == 0)
