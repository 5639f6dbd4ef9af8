"""What operators see of one watch or supervisor: it counts on the hub's instruments and answers for its gauges.

The gauges show a snapshot: of the policy's state, and of the facts that are kept here beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from helix_crawl_otel.link.messages import BadMessage
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.otel.instruments import Instruments, Rows, stage_labels
from helix_crawl_otel.otel.policy_reader import LockedPolicy
from helix_crawl_otel.policy.batch import BatchInfo
from helix_crawl_otel.policy.model import (
    REMEDIES,
    UNKNOWN_DEVICE,
    ActionKind,
    CardReading,
    MemoryReading,
    Outcome,
    ShardStatus,
)
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.policy.settings import Settings

__all__ = [
    "ERROR_PLACES",
    "OWNERS",
    "SHARD_STATES",
    "START_REASONS",
    "ExportedMetrics",
    "GaugeState",
    "ShardView",
    "Snapshot",
]

START_REASONS = ("first", "recycle", "demote", "crash", "resume")
IGNORED_REASONS = ("genes", "seconds", "work")
ERROR_PLACES = ("driver", "hook", "policy", "probe", "release", "state", "timeline")
OWNERS = ("worker", "other")
SHARD_STATES = ("pending", "running", "done", "paused", "failed")

CARRIED_OUT = (Outcome.APPLIED, Outcome.OVERDUE)
"""At its boundary, or by ending its worker."""

STAGES = ("read", "encode", "commit")

ALERTED = (Outcome.APPLIED, Outcome.OVERDUE, Outcome.FAILED)
"""Outcomes that an alert or a board asks for."""

ZEROED_SHARDS = 100
"""Shards whose remedies are exported as 0 from their start; those of later shards from their first crawl on. Nine
series for each of 1,000 shards would pass the SDK's 2,000."""

ZEROED_SETS = 1000
"""Label sets of shards that are planned, which are exported as 0 before they begin: one that ends between two scrapes
has its whole increase seen. More would leave none to the devices that nobody has planned."""

CLOSED_KEPT = 1024
"""Shards closed last whose state is remembered: the memory stays flat over 10,000 shards."""


@dataclass(frozen=True)
class ShardView:
    """What the gauges show of one open shard.

    Args:
        device: Its newest device.
        status: See `ShardStatus`.
        pending_genes: Genes that lack a vector, `None` when unknown.
        most: The most that its batch in flight can still come to, in genes/s, `None` without one.
    """

    device: str
    status: ShardStatus
    pending_genes: int | None = None
    most: float | None = None

    @property
    def rate(self) -> float | None:
        """The EMA, until a batch in flight is slower than that: of a hung one it would be what was before it."""
        ema = self.status.ema
        return ema if ema is None or self.most is None else min(ema, self.most)


@dataclass(frozen=True)
class Snapshot:
    """All that the gauges show. Replaced whole, never changed: a callback reads one.

    Args:
        waiting: Genes of shards that are not begun, as far as they were counted or estimated.
        pending_in_all: Genes of a job whose shards nobody has counted.
        quarantined: Genes by shard, of those that were counted.
        failed: Shards that were given up, of those closed last.
    """

    shards: dict[str, ShardView] = field(default_factory=dict)
    memory: dict[str, MemoryReading] = field(default_factory=dict)
    sources: dict[tuple[str, str], bool] = field(default_factory=dict)
    workers: dict[str, bool] = field(default_factory=dict)
    shard_states: dict[str, int] = field(default_factory=dict)
    waiting: Mapping[str, int] = field(default_factory=dict)
    pending_in_all: int | None = None
    quarantined: dict[str, int] = field(default_factory=dict)
    failed: Collection[str] = ()
    cards: dict[str, CardReading] = field(default_factory=dict)


class ExportedMetrics:
    """Counts, and shows a snapshot once it is `open`.

    Args:
        hub: Instruments of the app's provider, or ours.
        look: Makes a snapshot of what is now; called when somebody asks and something has changed, not at each batch.
        settings: The knobs.
        batch_age: Seconds that the oldest batch in flight of a shard has been running, 0 between batches, `None` when
            the clock cannot tell.
        batch_deadline: Age in seconds at which it has its worker ended; `None` where nobody ends it.
        queue_length: How many actions wait.
        wall: Unix time, in seconds.

    Threads: any. `rows` runs in whatever thread collects, and only reads: it waits for pure computation at most.
    """

    def __init__(
        self,
        hub: Instruments,
        look: Callable[[], Snapshot],
        *,
        settings: Settings,
        batch_age: Callable[[str], float | None],
        batch_deadline: Callable[[str], float | None],
        queue_length: Callable[[], int],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._hub = hub
        self._look = look
        self._wall = wall
        self._newest: dict[str, dict[tuple[str, ...], tuple[float, dict[str, str]]]] = {
            "helix_dense_last_crawl_timestamp": {},
            "helix_dense_last_action_timestamp": {},
        }  # Unix time by label set, which the labels of shards bound; single operations only
        self._looking = threading.Lock()  # an older snapshot must not replace a newer one, and stay
        self._snapshot = Snapshot()
        self.has_changed = True
        """What the gauges show is not as it was. Set by whoever has changed it."""
        self._told: set[tuple[str, str]] = set()  # what has been logged, by kind; any thread, single operations only
        self._shard_gauges: dict[str, Callable[[str, ShardView], float | None]] = {
            "helix_dense_throughput": lambda _, view: view.rate,
            "helix_dense_baseline": lambda _, view: view.status.baseline,
            "helix_dense_crawl_ratio": lambda _, view: view.status.ratio,
            "helix_dense_crawl_active": lambda _, view: int(view.status.episode_open),
            "helix_dense_crawl_streak": lambda _, view: view.status.streak,
            "helix_dense_batch_inflight": lambda shard, _: batch_age(shard),
            "helix_dense_batch_deadline": lambda shard, _: batch_deadline(shard),
            "helix_dense_ladder_rung": lambda _, view: view.status.rung,
        }
        self._gauges: dict[str, Callable[[], Rows]] = {
            "helix_dense_crawl_limit_ratio": lambda: [(1 / settings.factor, {})],
            "helix_dense_vram_full_ratio": lambda: [(settings.vram_full, {})],
            "helix_dense_vram_used": lambda: self._by_device(lambda reading: reading.used_bytes),
            "helix_dense_vram_limit": lambda: self._by_device(lambda reading: reading.limit_bytes),
            "helix_dense_vram_shared": self._shared,
            "helix_dense_vram_probe_up": self._probes,
            "helix_dense_action_queue_length": lambda: [(queue_length(), {})],
            "helix_dense_worker_up": lambda: [(int(up), {"device": d}) for d, up in self.snapshot.workers.items()],
            "helix_dense_genes_pending": self._pending,
            "helix_dense_shards": lambda: [(n, {"state": s}) for s, n in self.snapshot.shard_states.items()],
            "helix_dense_genes_quarantined": self._quarantined,
            "helix_dense_shard_failed": self._failed,
            "helix_dense_device_info": self._device_info,
            "hw.gpu.utilization": lambda: self._by_card(lambda card: card.utilization),
            "hw.temperature": lambda: self._by_card(lambda card: card.temperature),
            "hw.power": lambda: self._by_card(lambda card: card.power),
            "hw.gpu.speed": lambda: self._by_card_and("hw.gpu.clock", lambda card: card.clocks),
            "hw.gpu.throttled": lambda: self._by_card_and("hw.gpu.throttle_reason", lambda card: card.throttled),
        } | {gauge: partial(self._times, gauge) for gauge in self._newest}
        for reason in IGNORED_REASONS:
            self.ignored(reason, 0)
        for place in ERROR_PLACES:
            self._hub.count("helix_dense_internal_errors", 0, {"where": place})

    def open(self) -> None:
        """Show the gauges from now on."""
        self._hub.add(self)

    def close(self) -> None:
        """The gauges are shown no longer; the counters stay."""
        self._hub.remove(self)
        self._hub.record_stages()

    @property
    def snapshot(self) -> Snapshot:
        """Of what is now; the one before when that cannot be looked at: the clock is the caller's, and may fail."""
        if self.has_changed:
            with self._looking:
                self.has_changed = False  # first: what changes while it is made is not in it
                with suppress(Exception):
                    self._snapshot = self._look()
        return self._snapshot

    def rows(self, gauge: str) -> Rows:
        """Values of one gauge; see `GaugeSource`."""
        value = self._shard_gauges.get(gauge)
        if value is not None:
            return self._by_shard(gauge, value)
        return self._gauges[gauge]() if gauge in self._gauges else ()

    # A counter first seen at 1 has no increase(): every series that an alert may ask for begins at 0.

    def begin_shard(self, shard: str, device: str) -> None:
        """A shard is opened, or goes on on another device."""
        self._zero_genes(shard, device)
        if self._hub.labels.count() <= ZEROED_SHARDS:
            self._zero_remedies(shard)

    def begin_worker(self, device: str, reason: str) -> None:
        """A worker starts, for one of `START_REASONS`."""
        self.begin_device(device)
        self._hub.count("helix_dense_worker_starts", 1, {"device": device, "reason": reason})

    def begin_device(self, device: str) -> None:
        """A worker runs on a device. Of the CPU the first one may be that which a demotion starts."""
        for reason in START_REASONS:
            self._hub.count("helix_dense_worker_starts", 0, {"device": device, "reason": reason})
            self._hub.count("helix_dense_worker_starts", 0, {"device": "cpu", "reason": reason})
        for stage in STAGES:
            self._hub.begin_stage(stage_labels(device, stage))

    def expect_shards(self, shards: Collection[str], devices: Collection[str]) -> None:
        """These shards are planned, for these devices."""
        if len(shards) * len(devices) <= ZEROED_SETS:
            for shard in shards:
                for device in devices:
                    self._zero_genes(shard, device)

    def crawl(self, shard: str, device: str) -> None:
        """An episode opens."""
        self.count_shard("helix_dense_crawl_detected", 1, shard, device=device)
        self._note_time("helix_dense_last_crawl_timestamp", shard, device=device)
        self._zero_remedies(shard)

    def action(self, shard: str, kind: ActionKind, outcome: Outcome, times: int = 1) -> None:
        """An action has ended."""
        self.count_shard("helix_dense_ladder_actions", times, shard, action=kind.value, outcome=outcome.value)
        if times and outcome in CARRIED_OUT:
            self._note_time("helix_dense_last_action_timestamp", shard, action=kind.value)

    def ignored(self, reason: str, times: int = 1) -> None:
        """A sample could not be judged."""
        self._hub.count("helix_dense_samples_ignored", times, {"reason": reason})

    # Each kind of what must not reach the job is told in full once; further ones are only counted, so that a log does
    # not fill with them.

    def not_judged(self, problem: str, info: BatchInfo, seconds: object) -> None:
        """Count a batch that cannot be judged, and say once of each kind that there are such.

        Args:
            problem: Which of its numbers is none that is accepted: `genes`, `work` or `seconds`.
            info: The batch.
            seconds: What it took.
        """
        self.ignored(problem)
        if self._is_first("ignored", problem):
            given = repr({"genes": info.genes, "work": info.work, "seconds": seconds}[problem])[:80]
            watchdog.warning(
                "a batch of shard %r is not judged: %s is %s; accepted: a number > 0. Further ones are only counted",
                info.shard,
                problem,
                given,
            )

    def error(self, place: str, error: Exception) -> None:
        """Count and log an error of our own; it goes no further."""
        self._hub.count("helix_dense_internal_errors", 1, {"where": place})
        level = logging.WARNING if self._is_first(place, type(error).__name__) else logging.DEBUG
        # A file that cannot be written, or what a worker sends, is the world's fault, not a bug: its message says all.
        trace = None if isinstance(error, (OSError, BadMessage)) else error
        watchdog.log(level, "internal error in %s, the job goes on: %r", place, error, exc_info=trace)

    def _is_first(self, what: str, kind: str) -> bool:
        is_first = (what, kind) not in self._told
        self._told.add((what, kind))
        return is_first

    def count_shard(self, counter: str, amount: float, shard: str, **others: str) -> None:
        """Add to a counter that has a label for the shard.

        Args:
            counter: Its OpenTelemetry name.
            amount: 0 or more.
            shard: Of the shard.
            others: Its other labels.
        """
        self._hub.count(counter, amount, self._hub.labels.of(counter, shard, **others))

    def _zero_genes(self, shard: str, device: str) -> None:
        self.count_shard("helix_dense_crawl_detected", 0, shard, device=device)
        self.count_shard("helix_dense_genes", 0, shard, device=device)

    def _zero_remedies(self, shard: str) -> None:
        for kind in REMEDIES:
            for outcome in ALERTED:
                self.action(shard, kind, outcome, times=0)

    def _note_time(self, gauge: str, shard: str, **others: str) -> None:
        labels = self._hub.labels.of(gauge, shard, **others)
        self._newest[gauge][tuple(labels.values())] = self._wall(), labels

    def _times(self, gauge: str) -> Rows:
        return list(self._newest[gauge].values())

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

    def _quarantined(self) -> Rows:
        for shard, genes in self.snapshot.quarantined.items():
            yield genes, self._hub.labels.of("helix_dense_genes_quarantined", shard)

    def _failed(self) -> Rows:
        for shard in self.snapshot.shards:
            yield 0, self._hub.labels.of("helix_dense_shard_failed", shard)
        for shard in self.snapshot.failed:
            yield 1, self._hub.labels.of("helix_dense_shard_failed", shard)

    def _device_info(self) -> Rows:
        for device, card in self.snapshot.cards.items():
            if card.uuid:
                yield 1, {"device": device, "UUID": card.uuid, "modelName": card.name}

    def _by_card(self, value: Callable[[CardReading], float | None]) -> Rows:
        for device, card in self.snapshot.cards.items():
            yield value(card), _card_labels(device, card)

    def _by_card_and(self, key: str, values: Callable[[CardReading], Mapping[str, float]]) -> Rows:
        for device, card in self.snapshot.cards.items():
            for name, value in values(card).items():
                yield float(value), {**_card_labels(device, card), key: name}

    def _probes(self) -> Rows:
        for (device, source), up in self.snapshot.sources.items():
            yield int(up), {"device": device, "source": source}

    def _pending(self) -> Rows:
        if self.snapshot.pending_in_all is not None:
            yield self.snapshot.pending_in_all, {}
        for shard, view in self.snapshot.shards.items():
            yield view.pending_genes, self._hub.labels.of("helix_dense_genes_pending", shard)
        for shard, genes in self.snapshot.waiting.items():
            yield genes, self._hub.labels.of("helix_dense_genes_pending", shard)


def _card_labels(device: str, card: CardReading) -> dict[str, str]:
    """As the semantic conventions for hardware name them."""
    return {"device": device, "hw.id": card.uuid or device, "hw.name": card.name, "hw.type": "gpu"}


class GaugeState:
    """The facts that the gauges show beside the policy's own, which shards are open and where among them: what has
    become of shards, genes that are pending, memory, probes, workers.

    Args:
        feed: The policy, told of a shard before it is opened or closed here.

    Threads: any; every field is guarded by `_lock`, which is held for plain assignments only.
    """

    def __init__(self, feed: LockedPolicy) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        self._memory: dict[str, MemoryReading] = {}
        self._sources: dict[tuple[str, str], bool] = {}
        self._workers: dict[str, str] = {}  # those that run, with their devices
        self._devices: dict[str, None] = {}  # where a worker has ever run, in order
        self._states = dict.fromkeys(SHARD_STATES, 0)  # but for `running`: the policy knows what is open
        self._pending: dict[str, int] = {}  # genes, as the worker that has the store counted them last
        self._pending_in_all: int | None = None
        self._quarantined: dict[str, int] = {}
        self._cards: dict[str, CardReading] = {}
        self._expected: set[str] = set()  # pending ones that are known by name
        self._waiting: Mapping[str, int] = {}  # genes of those; replaced, never changed, for snapshots show it
        self._closed: dict[str, str] = {}  # state of the shards closed last: one that comes back is counted once

    def open_shard(self, shard: str) -> None:
        """A shard is running."""
        with self._lock:
            self._leave_state(shard)

    def close_shard(self, shard: str, state: str, *, was_open: bool) -> None:
        """A shard is `done`, `paused`, `failed` or `pending` again; one that was never open nor expected is nothing."""
        with self._lock:
            left, was_known = self._pending.pop(shard, None), self._leave_state(shard)
            if not was_known and not was_open:
                return
            if state == "paused" and left is not None:
                self._waiting = {**self._waiting, shard: left}
            self._states[state] += 1
            self._closed[shard] = state
            if len(self._closed) > CLOSED_KEPT:
                del self._closed[next(iter(self._closed))]

    def expect_shards(self, shards: Iterable[str], genes: Mapping[str, int] = MappingProxyType({})) -> None:
        """These are pending, some with so many genes."""
        running = self._feed.ask(lambda policy: set(policy.open_shards()))
        with self._lock:
            new = set(shards) - self._expected - running
            self._expected |= new
            self._waiting = {**self._waiting, **{shard: genes[shard] for shard in new if shard in genes}}
            self._states["pending"] += len(new)

    def set_pending(self, shard: str, genes: int) -> None:
        """So many genes of a shard still lack a vector; shown while it is open, and may be told before."""
        with self._lock:
            self._pending[shard] = genes

    def set_pending_in_all(self, genes: int) -> None:
        """So many genes of the whole job still lack a vector, of whose shards nobody knows that."""
        with self._lock:
            self._pending_in_all = genes

    def set_quarantined(self, shard: str, genes: int) -> None:
        """So many genes of a shard are left out because they cannot be encoded; shown to the end of the run."""
        with self._lock:
            self._quarantined[shard] = genes

    def set_card(self, device: str, card: CardReading) -> None:
        """What a card says of itself; nothing, where it does not answer."""
        with self._lock:
            self._cards[device] = card

    def set_shard_state(self, state: str, count: int) -> None:
        """How many shards are in a state that no open shard tells: `pending`, or `done` by earlier runs."""
        with self._lock:
            self._states[state] = count

    def has_pending_shards(self) -> bool:
        """Whether there are shards that nobody has begun."""
        with self._lock:
            return self._states["pending"] > 0

    def set_memory(self, device: str, reading: MemoryReading, sources: Mapping[str, bool]) -> None:
        """The newest reading of a device, and which sources are up."""
        with self._lock:
            self._memory[device] = reading
            for source, up in sources.items():
                self._sources[device, source] = up

    def forget_readings(self) -> None:
        """Nobody reads any more: what was read last says nothing of now."""
        with self._lock:
            self._memory, self._sources, self._cards = {}, {}, {}

    def start_worker(self, worker: str, device: str) -> None:
        """A worker runs on a device, and no longer on another one. Once it is known which, it never was on none."""
        with self._lock:
            if self._workers.get(worker) == UNKNOWN_DEVICE:
                self._devices.pop(UNKNOWN_DEVICE, None)
            self._workers[worker] = device
            self._devices[device] = None

    def stop_worker(self, worker: str) -> None:
        """A worker runs no longer. Its device is up while another one runs there."""
        with self._lock:
            self._workers.pop(worker, None)

    def snapshot(self, now: float) -> Snapshot:
        """Everything as it is now."""
        with self._lock:
            pending, waiting, in_all = dict(self._pending), self._waiting, self._pending_in_all
            memory, sources = dict(self._memory), dict(self._sources)
            quarantined, cards = dict(self._quarantined), dict(self._cards)
            running, states = set(self._workers.values()), dict(self._states)
            failed = [shard for shard, state in self._closed.items() if state == "failed"]
            workers = {device: device in running for device in self._devices}

        def view(policy: Policy) -> dict[str, ShardView]:
            return {
                shard: ShardView(device, policy.status(shard, now), pending.get(shard), _most(policy, shard, now))
                for shard, device in policy.open_shards().items()
            }

        shards = self._feed.ask(view)
        states["running"] = len(shards)
        return Snapshot(shards, memory, sources, workers, states, waiting, in_all, quarantined, failed, cards)

    def _leave_state(self, shard: str) -> bool:
        """Count a shard no longer in the state it was in, if one is known. The caller holds the lock."""
        earlier = self._closed.pop(shard, None)
        if shard in self._expected:
            self._expected.discard(shard)
            earlier = "pending"
        if shard in self._waiting:
            self._waiting = {name: genes for name, genes in self._waiting.items() if name != shard}
        if earlier is not None:
            self._states[earlier] = max(0, self._states[earlier] - 1)
        return earlier is not None


def _most(policy: Policy, shard: str, now: float) -> float | None:
    """See `ShardView`."""
    batches = policy.inflight(shard=shard)
    oldest = min((batch.started for batch in batches), default=now)
    return sum(batch.genes for batch in batches) / (now - oldest) if now > oldest else None
