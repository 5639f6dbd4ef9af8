"""What a run has come to so far, from its events: the displays draw it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from helix_crawl_otel.supervise import events

__all__ = ["Progress", "ShardProgress"]

RATE_WINDOW_SECONDS = 60.0
LEAST_COMMITS = 4


@dataclass
class ShardProgress:
    """One shard that a worker is on.

    Args:
        slot: The worker's place.
        device: Where it encodes.
        total: Genes that lacked a vector when it was begun in this run.
        done: Of those, committed.
        newest: The newest commit, `None` before the first.
    """

    slot: str
    device: str
    total: int
    done: int = 0
    newest: events.Committed | None = None


@dataclass
class Progress:
    """The whole run.

    Args:
        shards: How many there are.
        ended: How many of them are over, those that were complete before included.
        running: Those that a worker is on, by name.
        encoded: Genes committed in this run.
        actions: Actions by name.
        crashes: How many.
        quarantined: Genes, in this run.
    """

    shards: int = 0
    ended: int = 0
    running: dict[str, ShardProgress] = field(default_factory=dict)
    encoded: int = 0
    actions: dict[str, int] = field(default_factory=dict)
    crashes: int = 0
    quarantined: int = 0
    _commits: list[tuple[float, int]] = field(default_factory=list)

    def take(self, event: events.Event) -> None:
        """Take an event into account."""
        if isinstance(event, events.RunStarted):
            self.shards, self.ended = event.shards, event.complete
        elif isinstance(event, events.ShardStarted):
            before = self.running.get(event.shard)
            done = before.done if before else 0
            self.running[event.shard] = ShardProgress(event.slot, event.device, event.pending + done, done)
        elif isinstance(event, events.Committed):
            self._commit(event)
        elif isinstance(event, events.ShardEnded):
            self.running.pop(event.shard, None)
            self.ended += event.state != "paused"
        elif isinstance(event, events.Action):
            if event.outcome == "applied":
                self.actions[event.action] = self.actions.get(event.action, 0) + 1
        elif isinstance(event, events.Crash):
            self.crashes += 1
        elif isinstance(event, events.Quarantined):
            self.quarantined += 1

    def _commit(self, event: events.Committed) -> None:
        self.encoded += event.genes
        self._commits.append((event.t, event.genes))
        # A minute of them, and at least a few: a batch that crawls takes longer than that.
        while len(self._commits) > LEAST_COMMITS and event.t - self._commits[0][0] > RATE_WINDOW_SECONDS:
            self._commits.pop(0)
        shard = self.running.get(event.shard)
        if shard is not None:
            shard.done += event.genes
            shard.total = max(shard.total, shard.done + event.pending)
            shard.device, shard.newest = event.device, event

    def rate(self, now: float) -> float | None:
        """Genes a second over the last minute or the last few batches, all workers together; `None` before that."""
        if len(self._commits) < 2:
            return None
        seconds = now - self._commits[0][0]
        return sum(genes for _, genes in self._commits[1:]) / seconds if seconds > 0 else None

    def to_go(self, now: float) -> float | None:
        """Seconds that the shards being encoded still need; others are not counted yet. `None` while unknown."""
        rate = self.rate(now)
        left = sum(shard.total - shard.done for shard in self.running.values())
        return left / rate if rate and self.running else None

    @property
    def is_all_known(self) -> bool:
        """Whether no shard waits whose genes nobody has counted."""
        return self.ended + len(self.running) >= self.shards
