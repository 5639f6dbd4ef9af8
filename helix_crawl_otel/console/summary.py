"""What a run came to, at its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from helix_crawl_otel.numbers import count, duration, genes, printable, shard_name

__all__ = ["Summary"]

LEAST_TOLD_SECONDS = 1.0
MOST_FAILED = 10


@dataclass(frozen=True)
class Summary:
    """The end of a run.

    Args:
        exit_code: See DESIGN.md, section 3.3.
        seconds: From the start.
        encoded: Genes.
        skipped: Genes in shards that were complete before.
        quarantined: Genes left out, in all shards of the run.
        quarantines: The first of them that this run put there: `shard`, `gene`, `reason`.
        shards: How many there are in each state, `complete before` for those that were so.
        failed: Shards that failed, with the reason.
        source_problems: Sources that could not be read.
        unreadable: The first of them: `shard`, `source`, `reason`.
        actions: Actions applied, by name.
        starts: Workers started, by reason.
        crashes: Of workers.
        lost_seconds: What crawling batches took beyond their share, and what was thrown away of them.
        gate_seconds: How long the memory of cards was waited for between workers.
        next_step: What to type next, empty when nothing is left to do.
        reason: Why it ended early, empty when it did not.
        logs: Files in which the workers wrote what they did, where something went wrong.
    """

    exit_code: int
    seconds: float
    encoded: int
    skipped: int = 0
    quarantined: int = 0
    quarantines: Sequence[Mapping[str, str]] = ()
    shards: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    source_problems: int = 0
    unreadable: Sequence[Mapping[str, str]] = ()
    actions: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, int] = field(default_factory=dict)
    crashes: int = 0
    lost_seconds: float = 0.0
    gate_seconds: float = 0.0
    next_step: str = ""
    reason: str = ""
    logs: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            **dataclasses.asdict(self),
            "seconds": round(self.seconds, 3),
            "lost_seconds": round(self.lost_seconds, 3),
            "gate_seconds": round(self.gate_seconds, 3),
        }

    def text(self) -> str:
        """A few lines for people."""
        state = "failed" if self._is_failed_job else _STATES.get(self.exit_code, "ended")
        head = f"{state} after {duration(self.seconds)}: {genes(self.encoded)} encoded"
        if self.skipped:
            head += f", {genes(self.skipped)} skipped (their shards were complete before)"
        lines = [head, *(f"  {title:<13} {printable(text)}" for title, text in self._rows())]
        return "\n".join(lines)

    @property
    def _is_failed_job(self) -> bool:
        """Of `run`, which knows nothing of shards that are done."""
        return self.exit_code == 1 and not self.shards

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("why", self.reason)] if self.reason else []
        shards = ", ".join(f"{number:,} {state}" for state, number in self.shards.items() if number)
        rows += [("shards", shards)] if shards else []
        rows += self._trouble()
        actions = ", ".join(f"{name} {number}" for name, number in self.actions.items())
        rows += [("ladder", actions)] if actions else []
        restarts = ", ".join(f"{number} for {why}" for why, number in self.starts.items() if why != "first")
        rows += [("restarts", restarts)] if restarts else []
        if self.lost_seconds >= LEAST_TOLD_SECONDS:
            rows.append(("lost", f"{duration(self.lost_seconds)} to the crawl"))
        if self.gate_seconds >= LEAST_TOLD_SECONDS:
            rows.append(("waited", f"{duration(self.gate_seconds)} for the memory of cards to come back"))
        if self.logs:
            rows.append(("worker logs", ", ".join(self.logs)))
        if self.exit_code:
            meaning = "the job failed" if self._is_failed_job else _MEANINGS.get(self.exit_code, "it failed")
            rows.append(("exit code", f"{self.exit_code}: {meaning}"))
        rows += [("next", self.next_step)] if self.next_step else []
        return rows

    def _trouble(self) -> list[tuple[str, str]]:
        rows = []
        for name, reason in list(self.failed.items())[:MOST_FAILED]:
            rows.append(("failed", f"shard {shard_name(name)}: {reason}"))
        if len(self.failed) > MOST_FAILED:
            rows.append(("", f"and {len(self.failed) - MOST_FAILED:,} more"))
        if self.quarantined:
            rows.append(("quarantined", f"{genes(self.quarantined)}; --retry-quarantined tries again"))
            rows += [("", f"{row['gene']} in {shard_name(row['shard'])}: {row['reason']}") for row in self.quarantines]
        if self.source_problems:
            rows.append(("unreadable", count(self.source_problems, "source")))
            rows += [("", f"{row['source']} in {shard_name(row['shard'])}: {row['reason']}") for row in self.unreadable]
            hidden = self.source_problems - len(self.unreadable)
            rows += [("", f"and {hidden:,} more")] if self.unreadable and hidden > 0 else []
        return rows


_STATES = {0: "done", 1: "finished, but not all is well,", 75: "paused", 78: "could not start", 130: "interrupted"}

_MEANINGS = {
    1: "shards, genes or sources failed; the rest is done",
    75: "paused, nothing is lost",
    78: "it can never start like this",
    130: "a second interrupt; only batches in flight are lost",
}
