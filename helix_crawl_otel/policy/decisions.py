"""What the policy hands back: things to do or to report, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from helix_crawl_otel.policy.model import ActionKind, Evidence

__all__ = ["Decision", "DecisionKind"]


class DecisionKind(str, Enum):
    """Kinds of decisions."""

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
