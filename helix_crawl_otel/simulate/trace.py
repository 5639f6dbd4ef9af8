"""What a simulated run leaves behind: when it finished, when it was noticed, what was done, and each batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from helix_crawl_otel.modelled_card import BatchLoad

__all__ = ["GIVE_UP_SECONDS", "Attempt", "Mark", "SimulatedRun"]

GIVE_UP_SECONDS = 30 * 86400.0
"""A run that has not finished by then is given up: 30 days. It has no finish time."""


@dataclass(frozen=True)
class Attempt:
    """One try at a batch.

    Args:
        load: The batch.
        device: `cuda:0` or `cpu`.
        began: Start of its encode stage, seconds.
        ended: End of it, or when its worker was ended or the run given up.
        finished: Whether its vectors were committed.
        crawling: Whether the card was slower than half its healthy speed because of its memory, or stood still.
        used_gib: Memory reading of the card while it ran.
        baseline: In force at its end, in genes/s at this batch's length; `None` where the policy has none.
        limit: Crawl limit, the same way.
    """

    load: BatchLoad
    device: str
    began: float
    ended: float
    finished: bool
    crawling: bool
    used_gib: float
    baseline: float | None = None
    limit: float | None = None

    @property
    def rate(self) -> float:
        """Genes/s; of an unfinished batch, the most it can have been."""
        return self.load.genes / max(self.ended - self.began, 1e-9)


@dataclass(frozen=True)
class Mark:
    """Something that was done, or noticed.

    Args:
        t: Seconds.
        what: `DETECT`, `EMPTY_CACHE`, `RECYCLE`, `DEMOTE_CPU`, `RESTART` (after a hang), `RETURN` (the next shard goes
            back to the card) or `release` (the driver's own).
        shard: The shard it was for.
        forced: The worker was ended inside a batch.
        crawling: Whether there was a crawl at that moment.
    """

    t: float
    what: str
    shard: str
    forced: bool = False
    crawling: bool = False

    @property
    def intervenes(self) -> bool:
        """Whether it answers a verdict; a release by the clock and the way back to the card do not."""
        return self.what in ("EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU", "RESTART")


@dataclass
class SimulatedRun:
    """One policy on one scenario.

    Args:
        policy: Its name.
        finish_seconds: When the last batch was committed, `None` when the run was given up.
        attempts: Every try at a batch, in order.
        marks: What was done, in order.
        memory: Readings of the card by time, (seconds, GiB), where they change.
        workers: Workers as they became ready: (seconds, device, reason).
        crawl_began: Start of the first batch that crawled, `None` when none did.
    """

    policy: str
    finish_seconds: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)
    workers: list[tuple[float, str, str]] = field(default_factory=list)
    crawl_began: float | None = None

    @property
    def detect_seconds(self) -> float | None:
        """From the start of the first crawl to the first DETECT since; `None` when there was none, or no DETECT."""
        if self.crawl_began is None:
            return None
        began = self.crawl_began
        return next((mark.t - began for mark in self.marks if mark.what == "DETECT" and mark.t >= began), None)

    @property
    def interventions(self) -> int:
        """Remedies taken in answer to a verdict."""
        return sum(mark.intervenes for mark in self.marks)

    @property
    def false_interventions(self) -> int:
        """Remedies taken while there was no crawl."""
        return sum(mark.intervenes and not mark.crawling for mark in self.marks)

    @property
    def genes_encoded(self) -> int:
        """Genes committed."""
        return sum(attempt.load.genes for attempt in self.attempts if attempt.finished)
