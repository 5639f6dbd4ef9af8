"""Which batch, and in the end which gene, ends its worker: cut smaller until it is found.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

__all__ = ["BadBatches", "CrashOutcome"]

TWICE = 2

PARTS = 8
"""A batch that kills its worker is cut into so many, so that one gene of 64 is found by three batches that kill."""

MOST_UNPROVEN = 8
"""Genes of a shard that may be found to blame one after the other, none encoded in between: then it is not they."""


@dataclass(frozen=True)
class CrashOutcome:
    """What a crash has led to.

    Args:
        narrows: The next try is another one: a smaller batch, or one without the gene.
        needs_cpu: It is a single gene, on a card: only the CPU can tell whether it is to blame.
    """

    narrows: bool
    needs_cpu: bool = False


class BadBatches:
    """The suspected batches of one shard: which killed a worker. Pure; the owner serialises the calls.

    One that does it twice is cut small, and small again as soon as a part of it does it once: each try is the start of
    a worker. A single gene that does it twice on the CPU is to blame.

    Source: DESIGN.md, section 7.
    """

    def __init__(self) -> None:
        self._crashes: dict[tuple[str, int], int] = {}
        self._stuck: Counter[tuple[str, int]] = Counter()  # workers ended in it for an action that it kept waiting
        self._limits: dict[str, int] = {}
        self._quarantined: dict[str, str] = {}
        self._unproven = 0
        self._suspects = 0  # genes of a batch that has killed twice, not encoded since

    def crashed(self, first: str, genes: int, why: str, *, is_on_card: bool = False) -> CrashOutcome:
        """A worker has died with this batch in flight.

        Args:
            first: Id of the batch's first gene.
            genes: Its size, 1 or more.
            why: How the worker ended, for the reason of a quarantine.
            is_on_card: The worker was not on the CPU.
        """
        key = first, genes
        self._crashes[key] = self._crashes.get(key, 0) + 1
        is_part = genes <= self._suspects
        if genes > 1:
            if self._crashes[key] < TWICE and not is_part:
                return CrashOutcome(narrows=False)
            self._limits[first], self._suspects = max(1, genes // PARTS), genes
            return CrashOutcome(narrows=True)
        if self._crashes[key] < TWICE:
            if is_part:
                self._limits[first] = 1  # alone again, and not in a whole batch that begins with it
            return CrashOutcome(narrows=False)
        if is_on_card:
            del self._crashes[key]
            return CrashOutcome(narrows=True, needs_cpu=True)
        if first in self._quarantined or self._unproven >= MOST_UNPROVEN:
            return CrashOutcome(narrows=False)
        self._unproven += 1
        self._suspects = 0
        self._quarantined[first] = f"its worker died twice while it was encoded alone: {why}"
        return CrashOutcome(narrows=True)

    def stuck(self, first: str, genes: int) -> None:
        """A worker was ended for a fresh one with this batch in flight, first gene and size. What keeps two of them is
        halved."""
        self._stuck[first, genes] += 1
        if self._stuck[first, genes] >= TWICE:
            self._limits[first] = max(1, genes // 2)

    def committed(self, first: str, genes: int) -> None:
        """A batch that begins with this gene was encoded.

        Args:
            first: Id of the gene.
            genes: Size of the batch.
        """
        self._unproven = 0
        self._suspects = max(0, self._suspects - genes)
        self._limits.pop(first, None)
        self._crashes = {key: count for key, count in self._crashes.items() if key[0] != first}
        self._stuck.clear()

    def limits(self) -> dict[str, int]:
        """Most genes of a piece that begins with a gene, by the gene's id."""
        return dict(self._limits)

    def quarantined(self) -> dict[str, str]:
        """Genes that are to blame, with the reason. Their worker quarantines them, once it has encoded another one."""
        return dict(self._quarantined)
