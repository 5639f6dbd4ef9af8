"""`adaptive`: what a trip leads to. Four ways on, what each would take to the end of the shard, and the smallest.

Pure formulas over one `Situation`. W is the work left, h, r and c the rates of the healthy card, of the card now and of
the CPU; what a remedy costs has been measured on this machine (`costs`), or is a guess until it has.

Source: DESIGN.md, section 5.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from helix_crawl_otel.policy.model import ActionKind

__all__ = ["Choice", "Situation", "choose"]

RELEASE_SECONDS = 1.0
"""One release of the cache, with the allocations made again after it."""

MOST_RECYCLES = 20
"""A shard, whatever they cost."""

MOST_STUCK = 2
"""Workers ended by force in one batch. The batch is halved after the second; a third belongs to the CPU."""

SPARE = 0.25
"""Of the CPU's time for what is left: so much may be lost by trying the card again."""


@dataclass(frozen=True)
class Situation:
    """What is known at a trip. Work is in the shard's unit, rates in work a second, more than 0.

    Args:
        left: Work without a vector.
        batch: Work of a batch.
        pace: Rate now.
        healthy: Rate of the baseline.
        fresh: Rate of a fresh context: `healthy`, unless the last one was slow before its memory was full.
        cpu: Rate of the CPU.
        recycle_seconds: A new worker on the card.
        demote_seconds: A new worker on the CPU.
        crawl_seconds: What a crawl costs until it is answered.
        span: Work of a fresh context until it crawls; `None`: it does not.
        released_span: The same after a release of the cache.
        cure_chance: That such a release helps.
        lost_seconds: What the shard's recycles have cost beyond the CPU's time.
        recycles: How many it has had.
        stuck: Workers ended by force since it last finished a batch.
        shards_follow: Other shards wait for this worker.
        at_boundary: No batch is in flight.
        was_released: The cache was released in this crawl already, or is about to be.
    """

    left: float
    batch: float
    pace: float
    healthy: float
    fresh: float
    cpu: float
    recycle_seconds: float
    demote_seconds: float
    crawl_seconds: float
    span: float | None
    released_span: float | None
    cure_chance: float
    lost_seconds: float = 0.0
    recycles: int = 0
    stuck: int = 0
    shards_follow: bool = False
    at_boundary: bool = True
    was_released: bool = False

    # -- the four ways, in seconds to the end of the shard ------------------------------------------------------------

    def stay(self) -> float:
        """Go on as it is; what comes after needs a fresh context all the same."""
        return self.left / self.pace + self._return_seconds

    def recycle(self) -> float:
        """A fresh context, which may crawl again."""
        again = self._times(self.span) * (self.recycle_seconds + self.crawl_seconds)
        return self.recycle_seconds + self.left / self.fresh + again

    def demote(self) -> float:
        """The CPU, and back to the card for what comes after."""
        return self.demote_seconds + self.left / self.cpu + self._return_seconds

    def empty_cache(self, otherwise: float) -> float:
        """A release of the cache. Where it does not help, two batches show it, and then one of the other ways is taken.

        Args:
            otherwise: The cheapest of them, in seconds.
        """
        again = self._times(self.released_span) * (RELEASE_SECONDS + self.crawl_seconds)
        cured = self.left / self.healthy + again
        failed = 2 * self.batch * (1 / self.pace - 1 / self.healthy) + otherwise
        return RELEASE_SECONDS + self.cure_chance * cured + (1 - self.cure_chance) * failed

    def _times(self, span: float | None) -> float:
        """How often it crawls again, 0 or more. A context that crawled at once still ends a batch."""
        return 0.0 if span is None else self.left / max(span, self.batch)

    @property
    def _return_seconds(self) -> float:
        return self.recycle_seconds if self.shards_follow else 0.0

    # -- what bounds them ---------------------------------------------------------------------------------------------

    @property
    def may_retry(self) -> bool:
        """Whether the card may be tried again: so the shard takes at most a quarter longer than on the CPU alone, and
        one cycle."""
        if self.recycles >= MOST_RECYCLES or self.stuck >= MOST_STUCK:
            return False
        at_stake = self.lost_seconds + self.recycle_seconds + self.crawl_seconds
        return self.lost_seconds == 0 or at_stake <= SPARE * self.left / self.cpu


@dataclass(frozen=True)
class Choice:
    """What a trip leads to.

    Args:
        kind: The cheapest remedy that can be taken; `None`: the shard stays as it is.
        seconds: What each way that can be taken would cost, in seconds to the end of the shard; DETECT is to stay.
        missed: A remedy that would be cheaper than all of them, and that the driver cannot take; `None` for none.
    """

    kind: ActionKind | None
    seconds: Mapping[ActionKind, float]
    missed: ActionKind | None = None


def choose(situation: Situation, can_take: Collection[ActionKind], refused: Collection[ActionKind] = ()) -> Choice:
    """The cheapest way on.

    Args:
        situation: What is known.
        can_take: Remedies that the driver can take.
        refused: Those that were vetoed or failed before: they are used up.
    """
    seconds = {
        ActionKind.DETECT: situation.stay(),
        ActionKind.RECYCLE: situation.recycle(),
        ActionKind.DEMOTE_CPU: situation.demote(),
    }
    if not situation.may_retry:
        del seconds[ActionKind.RECYCLE]
    for kind in refused:
        seconds.pop(kind, None)
    possible = {kind: cost for kind, cost in seconds.items() if kind is ActionKind.DETECT or kind in can_take}
    if _may_release(situation) and ActionKind.EMPTY_CACHE in can_take and ActionKind.EMPTY_CACHE not in refused:
        possible[ActionKind.EMPTY_CACHE] = situation.empty_cache(min(possible.values()))
    cheapest = min(possible, key=lambda kind: possible[kind])
    missed = min(seconds, key=lambda kind: seconds[kind])
    return Choice(
        kind=None if cheapest is ActionKind.DETECT else cheapest,
        seconds=possible,
        missed=missed if missed not in possible and seconds[missed] < possible[cheapest] else None,
    )


def _may_release(situation: Situation) -> bool:
    """A card that is slow before its memory is full is not cured by freeing it."""
    is_well_afresh = situation.fresh >= situation.healthy
    return situation.at_boundary and situation.may_retry and is_well_afresh and not situation.was_released
