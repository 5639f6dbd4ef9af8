"""What operators see of one watch or supervisor: it counts on the hub's instruments and answers for its gauges."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from helix_crawl_otel.otel.instruments import Instruments, Rows
from helix_crawl_otel.policy.model import ActionKind, MemoryReading, Outcome, ShardStatus

__all__ = ["ERROR_PLACES", "OWNERS", "SHARD_STATES", "START_REASONS", "ExportedMetrics", "ShardView", "Snapshot"]

logger = logging.getLogger("helix_crawl_otel")

START_REASONS = ("first", "recycle", "demote", "crash", "resume")
IGNORED_REASONS = ("genes", "seconds", "work")
ERROR_PLACES = ("driver", "hook", "policy", "probe", "release", "state", "timeline")
OWNERS = ("worker", "other")
SHARD_STATES = ("pending", "running", "done", "paused", "failed")

ZEROED_SHARDS = 300
"""Shards whose remedies are exported as 0 from their start; those of later shards from their first crawl on. Three
series for each of 1,000 shards would pass the SDK's 2,000."""


@dataclass(frozen=True)
class ShardView:
    """What the gauges show of one open shard.

    Args:
        device: Its newest device.
        status: See `ShardStatus`.
        pending_genes: Genes that lack a vector, `None` when unknown.
    """

    device: str
    status: ShardStatus
    pending_genes: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """All that the gauges show. Replaced whole, never changed: a callback reads one and waits for nothing."""

    shards: dict[str, ShardView] = field(default_factory=dict)
    memory: dict[str, MemoryReading] = field(default_factory=dict)
    sources: dict[tuple[str, str], bool] = field(default_factory=dict)
    workers: dict[str, bool] = field(default_factory=dict)
    shard_states: dict[str, int] = field(default_factory=dict)


class ExportedMetrics:
    """Counts, and shows the newest snapshot once it is `open`.

    Args:
        hub: Instruments of the app's provider, or ours.
        limit_ratio: 1 / factor.
        batch_age: Seconds that the oldest batch in flight of a shard has been running, 0 between batches, `None` when
            the clock cannot tell.
        queue_length: How many actions wait.

    Threads: any. `rows` runs in whatever thread collects, and only reads.
    """

    def __init__(
        self,
        hub: Instruments,
        *,
        limit_ratio: float,
        batch_age: Callable[[str], float | None],
        queue_length: Callable[[], int],
    ) -> None:
        self.snapshot = Snapshot()
        self._hub = hub
        self._told: set[str] = set()  # kinds of failure logged; any thread, single operations only
        self._shard_gauges: dict[str, Callable[[str, ShardView], float | None]] = {
            "helix_dense_throughput": lambda _, view: view.status.ema,
            "helix_dense_baseline": lambda _, view: view.status.baseline,
            "helix_dense_crawl_ratio": lambda _, view: view.status.ratio,
            "helix_dense_crawl_active": lambda _, view: int(view.status.episode_open),
            "helix_dense_crawl_streak": lambda _, view: view.status.streak,
            "helix_dense_batch_inflight": lambda shard, _: batch_age(shard),
            "helix_dense_ladder_rung": lambda _, view: view.status.rung,
        }
        self._gauges: dict[str, Callable[[], Rows]] = {
            "helix_dense_crawl_limit_ratio": lambda: [(limit_ratio, {})],
            "helix_dense_vram_used": lambda: self._by_device(lambda reading: reading.used_bytes),
            "helix_dense_vram_limit": lambda: self._by_device(lambda reading: reading.limit_bytes),
            "helix_dense_vram_shared": self._shared,
            "helix_dense_vram_probe_up": self._probes,
            "helix_dense_action_queue_length": lambda: [(queue_length(), {})],
            "helix_dense_worker_up": lambda: [(int(up), {"device": d}) for d, up in self.snapshot.workers.items()],
            "helix_dense_genes_pending": self._pending,
            "helix_dense_shards": lambda: [(n, {"state": s}) for s, n in self.snapshot.shard_states.items()],
        }
        for reason in IGNORED_REASONS:
            self.ignored(reason, 0)
        for place in ERROR_PLACES:
            self.error(place, 0)

    def open(self) -> None:
        """Show the gauges from now on."""
        self._hub.add(self)

    def close(self) -> None:
        """The gauges are shown no longer; the counters stay."""
        self._hub.remove(self)

    def rows(self, gauge: str) -> Rows:
        """Values of one gauge; see `GaugeSource`."""
        value = self._shard_gauges.get(gauge)
        return self._gauges[gauge]() if value is None else self._by_shard(gauge, value)

    # A counter first seen at 1 has no increase(): every series that an alert may ask for begins at 0.

    def begin_shard(self, shard: str, device: str) -> None:
        """A shard is opened, or goes on on another device."""
        self._count_shard("helix_dense_crawl_detected", 0, shard, device=device)
        self._count_shard("helix_dense_genes", 0, shard, device=device)
        if self._hub.labels.count() <= ZEROED_SHARDS:
            self._zero_remedies(shard)

    def begin_worker(self, device: str, reason: str) -> None:
        """A worker starts, for one of `START_REASONS`."""
        for each in START_REASONS:
            self._count("helix_dense_worker_starts", int(each == reason), {"device": device, "reason": each})
        # The first worker that a demotion starts is the first one on the CPU.
        self._count("helix_dense_worker_starts", 0, {"device": "cpu", "reason": "demote"})

    def crawl(self, shard: str, device: str) -> None:
        """An episode opens."""
        self._count_shard("helix_dense_crawl_detected", 1, shard, device=device)
        self._zero_remedies(shard)

    def genes(self, shard: str, device: str, genes: float) -> None:
        """Genes have been encoded."""
        self._count_shard("helix_dense_genes", genes, shard, device=device)

    def stage(self, device: str, stage: str, seconds: float) -> None:
        """A stage of a batch has ended: `read`, `encode` or `commit`."""
        try:
            self._hub.histograms["helix_dense_batch_duration"].record(seconds, {"device": device, "stage": stage})
        except Exception as error:  # noqa: BLE001 - the app's provider; it is told once
            self._tell(error)

    def action(self, shard: str, kind: ActionKind, outcome: Outcome, times: int = 1) -> None:
        """An action has ended."""
        self._count_shard("helix_dense_ladder_actions", times, shard, action=kind.value, outcome=outcome.value)

    def ignored(self, reason: str, times: int = 1) -> None:
        """A sample could not be judged."""
        self._count("helix_dense_samples_ignored", times, {"reason": reason})

    def error(self, place: str, times: int = 1) -> None:
        """The watchdog itself has failed at something."""
        self._count("helix_dense_internal_errors", times, {"where": place})

    def _count_shard(self, counter: str, amount: float, shard: str, **others: str) -> None:
        self._count(counter, amount, self._hub.labels.of(counter, shard, **others))

    def _count(self, counter: str, amount: float, attributes: Mapping[str, str]) -> None:
        try:
            self._hub.counters[counter].add(amount, attributes)
        except Exception as error:  # noqa: BLE001 - the app's provider; it is told once, and the policy goes on
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            logger.warning("[crawl-watchdog] the meter provider failed to count, detection goes on: %r", error)

    def _zero_remedies(self, shard: str) -> None:
        for kind in (ActionKind.EMPTY_CACHE, ActionKind.RECYCLE, ActionKind.DEMOTE_CPU):
            self.action(shard, kind, Outcome.APPLIED, times=0)

    def _by_shard(self, gauge: str, value: Callable[[str, ShardView], float | None]) -> Rows:
        for shard, view in self.snapshot.shards.items():
            yield value(shard, view), self._hub.labels.of(gauge, shard, device=view.device)

    def _by_device(self, value: Callable[[MemoryReading], float | None]) -> Rows:
        for device, reading in self.snapshot.memory.items():
            yield value(reading), {"device": device}

    def _shared(self) -> Rows:
        for device, reading in self.snapshot.memory.items():
            for owner, held in zip(OWNERS, (reading.shared_bytes, reading.other_shared_bytes), strict=True):
                yield held, {"device": device, "owner": owner}

    def _probes(self) -> Rows:
        for (device, source), up in self.snapshot.sources.items():
            yield int(up), {"device": device, "source": source}

    def _pending(self) -> Rows:
        for shard, view in self.snapshot.shards.items():
            yield view.pending_genes, self._hub.labels.of("helix_dense_genes_pending", shard)
