"""Which shard goes to which slot of a fleet, and what becomes of it when the slot is lost. Pure: time comes in.

Large shards go first, so that no long one is left when the others are done. A shard that was demoted is finished on
the CPU, by a slot that takes nothing else where there are cards. A slot that has not been heard of for the time of its
lease is taken for lost, and its shards go to others: that it may wake again is no danger, for what it puts then is
refused by the storage. Leases say when to begin anew, never who may write.

Source: DESIGN.md, sections 5 and 8.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["PlacedShard", "Placement", "SlotKind"]

MOST_LOSSES = 5
"""Slots that a shard may lose without a gene more in between; then it is the shard that ends them, and has failed."""


class SlotKind(str, Enum):
    """What a slot takes."""

    HOME = "home"
    """A card; or the CPU, in a fleet that has no card: whatever waits, but for the demoted where there are cards."""
    SPARE = "spare"
    """The CPU beside cards: demoted shards."""


@dataclass
class PlacedShard:
    """One shard.

    Args:
        name: Of the shard.
        size: What it is likely to cost, in any unit: genes, or bytes where nobody has counted.
        is_demoted: It has to be finished on the CPU.
        slot: That has it, `None` while it waits or is over.
        losses: Slots that were lost with it, since it last came further.
        is_over: Done, failed or left to the next run.
    """

    name: str
    size: float
    is_demoted: bool = False
    slot: str | None = None
    losses: int = 0
    is_over: bool = False


@dataclass
class _Slot:
    kind: SlotKind
    on_card: bool
    heard_at: float
    shards: list[str] = field(default_factory=list)


class Placement:
    """The shards of a run and the slots that it has.

    Args:
        shards: What there is to do.
        lease_seconds: Without a word from a slot after which it is taken for lost.

    Threads: one.
    """

    def __init__(self, shards: Iterable[PlacedShard], lease_seconds: float) -> None:
        self.shards = {shard.name: shard for shard in shards}
        self.lease_seconds = lease_seconds
        self._slots: dict[str, _Slot] = {}
        self._waiting: dict[bool, list[tuple[float, str]]] = {False: [], True: []}  # heaps, by whether demoted
        self._left = len(self.shards)
        for shard in self.shards.values():
            self._wait(shard)

    # -- slots --------------------------------------------------------------------------------------------------------

    def add_slot(self, name: str, kind: SlotKind, *, on_card: bool, now: float) -> None:
        """A slot is there and takes shards."""
        self._slots[name] = _Slot(kind, on_card, now)

    def heard(self, name: str, now: float) -> None:
        """A slot has said something."""
        if name in self._slots:
            self._slots[name].heard_at = now

    def silent(self, now: float) -> list[str]:
        """Slots whose lease is over."""
        return [name for name, slot in self._slots.items() if now - slot.heard_at > self.lease_seconds]

    def lose_slot(self, name: str) -> list[PlacedShard]:
        """A slot is gone. Returns the shards that it had: they wait again, or are over where they ended too many."""
        slot = self._slots.pop(name, None)
        lost = [self.shards[shard] for shard in slot.shards] if slot else []
        for number, shard in enumerate(lost):
            shard.losses += number == 0  # the others were only staged
            self._give_back(shard, fails=shard.losses >= MOST_LOSSES)
        return lost

    @property
    def has_cards(self) -> bool:
        """Whether any slot is a card: then the CPU is for demoted shards."""
        return any(slot.on_card for slot in self._slots.values())

    @property
    def slots(self) -> list[str]:
        """Those that are there."""
        return list(self._slots)

    def shards_of(self, slot: str) -> list[str]:
        """What a slot has, in the order in which it was given; nothing where it is not there."""
        return list(self._slots[slot].shards) if slot in self._slots else []

    # -- shards -------------------------------------------------------------------------------------------------------

    def next_for(self, name: str) -> PlacedShard | None:
        """What a slot is to be given now; it has it from then on. `None` where it has enough, or nothing waits for it.

        A slot is given one shard, and one more to be copied to its node meanwhile, as long as more wait than there are
        slots: at the end each shard goes to a slot that is free.
        """
        slot = self._slots.get(name)
        if slot is None or len(slot.shards) > 1:
            return None
        waiting = self._queue_for(slot)
        if not waiting or (slot.shards and len(waiting) <= len(self._slots)):
            return None
        shard = self.shards[heapq.heappop(waiting)[1]]
        shard.slot = name
        slot.shards.append(shard.name)
        return shard

    def _queue_for(self, slot: _Slot) -> list[tuple[float, str]]:
        if slot.kind is SlotKind.SPARE or (not slot.on_card and self._waiting[True]):
            return self._waiting[True]
        return self._waiting[False]

    def came_further(self, name: str) -> None:
        """What a slot has encoded of a shard is kept: another loss begins to count anew."""
        self.shards[name].losses = 0

    def end(self, name: str) -> None:
        """A shard is over: done, failed or left to the next run."""
        shard = self.shards[name]
        self._take_away(shard)
        if not shard.is_over:
            shard.is_over = True
            self._left -= 1

    def demote(self, name: str) -> None:
        """A slot has left a shard to the CPU."""
        self.shards[name].is_demoted = True
        self.wait_again(name)

    def wait_again(self, name: str) -> None:
        """A slot leaves, and a shard with it: no fault of the shard's."""
        self._take_away(self.shards[name])
        self._wait(self.shards[name])

    def give_back(self, name: str) -> bool:
        """A slot could not go on with a shard, which others may. Returns whether it waits again; else it is over."""
        shard = self.shards[name]
        self._take_away(shard)
        shard.losses += 1
        self._give_back(shard, fails=shard.losses >= MOST_LOSSES)
        return not shard.is_over

    def _give_back(self, shard: PlacedShard, *, fails: bool) -> None:
        shard.slot = None
        if fails:
            self.end(shard.name)
        else:
            self._wait(shard)

    def _take_away(self, shard: PlacedShard) -> None:
        slot = self._slots.get(shard.slot or "")
        if slot is not None and shard.name in slot.shards:
            slot.shards.remove(shard.name)
        shard.slot = None

    def _wait(self, shard: PlacedShard) -> None:
        heapq.heappush(self._waiting[shard.is_demoted], (-shard.size, shard.name))

    # -- what is left -------------------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether no shard waits and none is with a slot."""
        return not self._left

    @property
    def wants_spares(self) -> int:
        """Slots on the CPU that are missing: demoted shards wait that no slot there is takes."""
        demoted = len(self._waiting[True])
        takers = sum(not slot.on_card and len(slot.shards) == 0 for slot in self._slots.values())
        return max(0, demoted - takers) if demoted else 0
