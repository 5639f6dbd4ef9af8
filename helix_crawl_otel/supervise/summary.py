"""What a run came to, at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from helix_crawl_otel.supervise.numbers import duration, genes

__all__ = ["Summary"]


@dataclass(frozen=True)
class Summary:
    """The end of a run.

    Args:
        exit_code: See DESIGN.md, section 3.3.
        seconds: From the start.
        encoded: Genes.
        skipped: Genes in shards that were complete before.
        quarantined: Genes left out, in all shards of the run.
        shards: How many there are in each state, `complete` for those that were so before.
        failed: Shards that failed, with the reason.
        source_problems: Sources that could not be read.
        actions: Actions applied, by name.
        starts: Workers started, by reason.
        lost_seconds: What crawling batches took beyond their share, and what was thrown away of them.
        next_step: What to type next, empty when nothing is left to do.
        reason: Why it ended early, empty when it did not.
    """

    exit_code: int
    seconds: float
    encoded: int
    skipped: int = 0
    quarantined: int = 0
    shards: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    source_problems: int = 0
    actions: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)
    lost_seconds: float = 0.0
    next_step: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            **dataclasses.asdict(self),
            "seconds": round(self.seconds, 3),
            "lost_seconds": round(self.lost_seconds, 3),
        }

    def text(self) -> str:
        """A few lines for people."""
        lines = [
            f"{_STATES.get(self.exit_code, 'ended')} after {duration(self.seconds)}: {genes(self.encoded)} encoded"
        ]
        if self.skipped:
            lines[0] += f", {genes(self.skipped)} were complete before"
        if self.reason:
            lines.append(f"  why           {self.reason}")
        if self.shards:
            lines.append(
                "  shards        " + ", ".join(f"{count} {state}" for state, count in self.shards.items() if count)
            )
        if self.quarantined:
            lines.append(f"  quarantined   {genes(self.quarantined)}; --retry-quarantined tries them again")
        if self.source_problems:
            lines.append(f"  unreadable    {self.source_problems} sources; the lines above say which and why")
        if self.actions:
            lines.append("  ladder        " + ", ".join(f"{name} {count}" for name, count in self.actions.items()))
        restarts = {reason: count for reason, count in self.starts.items() if reason != "first"}
        if restarts:
            lines.append("  restarts      " + ", ".join(f"{count} for {reason}" for reason, count in restarts.items()))
        if self.lost_seconds >= 1:
            lines.append(f"  lost          {duration(self.lost_seconds)} to the crawl")
        lines += [f"  failed        {name}: {reason}" for name, reason in self.failed.items()]
        if self.next_step:
            lines.append(f"  next          {self.next_step}")
        return "\n".join(lines)


_STATES = {0: "done", 1: "finished, but not all is well,", 75: "paused", 78: "could not start", 130: "interrupted"}
