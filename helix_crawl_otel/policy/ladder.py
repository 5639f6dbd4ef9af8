"""Climbs, per shard, never downwards: EMPTY_CACHE, RECYCLE, DEMOTE_CPU. At most three interventions a shard; under
`adaptive` what was chosen is taken in its place, and the rung is the highest one taken.

Source: DESIGN.md, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from helix_crawl_otel.policy.choice import Choice
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.policy.settings import ACTION_MODES

__all__ = ["Climb", "Ladder", "Pending"]

OVERDUE_SLICES = 4
OVERDUE_SECONDS = 30.0
"""An action that a stuck batch keeps from its boundary has 4 slices, and at least 30 s."""


@dataclass
class Pending:
    """An action that waits for its boundary.

    Args:
        id: The action's id.
        kind: What was asked.
        since: When, in seconds.
        overdue: Its deadline has passed.
    """

    id: int
    kind: ActionKind
    since: float
    overdue: bool = False

    def deadline(self, slice_seconds: float | None) -> float:
        """When it is overdue, in seconds, for a batch with slices of this length."""
        return self.since + max(OVERDUE_SLICES * (slice_seconds or 0.0), OVERDUE_SECONDS)


@dataclass(frozen=True)
class Climb:
    """What a trip leads to.

    Args:
        kind: The rung to take now, `None` when none is left.
        passed_over: Rungs that the driver cannot take; they are used up.
    """

    kind: ActionKind | None
    passed_over: tuple[ActionKind, ...]


@dataclass
class Ladder:
    """State of one shard. The rung survives every worker.

    Args:
        rung: The highest one used.
        pending: The action that waits.
        refused: Remedies that were vetoed, passed over or failed: they are used up.
    """

    rung: int = 0
    pending: Pending | None = None
    refused: list[ActionKind] = field(default_factory=list)

    @property
    def is_spared(self) -> bool:
        """Whether DEMOTE_CPU is used up, and the shard is not the CPU's."""
        return ActionKind.DEMOTE_CPU in self.refused

    @property
    def is_demoted(self) -> bool:
        """Whether the shard has to be finished on the CPU, or has been."""
        return self.rung >= ActionKind.DEMOTE_CPU.rung and not self.is_spared

    def refuse(self, kind: ActionKind) -> None:
        """An action was not taken, and will not be."""
        if kind not in self.refused:
            self.refused.append(kind)

    def climb(self, mode: str, can_take: frozenset[ActionKind]) -> Climb:
        """Use up the next rung that the driver can take, and those below it.

        Args:
            mode: `ladder`, `cpu` or `off`.
            can_take: What the driver can do.
        """
        passed_over: list[ActionKind] = []
        for kind in ACTION_MODES[mode]:
            if kind.rung <= self.rung:
                continue
            self.rung = kind.rung
            if kind in can_take:
                return Climb(kind, tuple(passed_over))
            passed_over.append(kind)
            self.refuse(kind)
        return Climb(None, tuple(passed_over))

    def take(self, choice: Choice) -> Climb:
        """Take what was chosen, whatever was taken before. A cheaper one that the driver cannot take is passed over."""
        if choice.kind is not None:
            self.rung = max(self.rung, choice.kind.rung)
        if choice.missed is None:
            return Climb(choice.kind, ())
        self.refuse(choice.missed)
        return Climb(choice.kind, (choice.missed,))
