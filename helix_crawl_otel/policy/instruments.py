"""The one table of instruments: names, kinds, units, labels, descriptions.

The instruments themselves, the reference page and the checks of the dashboards are all made from it.

Source: DESIGN.md, section 3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial

__all__ = ["BATCH_DURATION", "BATCH_DURATION_BOUNDS", "INSTRUMENTS", "MAX_LABELLED_SHARDS", "Instrument", "Kind"]

MAX_LABELLED_SHARDS = 1000
"""Beyond this many shards in a run the label `shard` is left out: the SDK folds everything past 2,000 label sets into
one overflow series, and two label values a shard are common (`action` and `outcome`)."""

BATCH_DURATION_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Seconds. The SDK's default bounds are made for milliseconds; ours reach from a hashing encoder to a 30-minute hang.
Floats, because integer bounds and float bounds make two different series."""


class Kind(str, Enum):
    """Kind of an instrument, as the OpenTelemetry API names it.

    An up-down counter is what adds up over its labels: counts of things, memory. To Prometheus it is a gauge.
    """

    COUNTER = "counter"
    UP_DOWN_COUNTER = "up-down counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


_UNIT_SUFFIX = {
    "s": "_seconds",
    "By": "_bytes",
    "{gene}/s": "_per_second",
    "Cel": "_celsius",
    "W": "_watts",
    "Hz": "_hertz",
}


@dataclass(frozen=True, slots=True)
class Instrument:
    """One row of the table.

    Args:
        kind: What it is.
        name: OpenTelemetry name.
        unit: UCUM unit; braces hold an annotation that Prometheus drops. `1` is for ratios alone.
        labels: Attribute keys, in the order of the reference page.
        description: One sentence.
    """

    kind: Kind
    name: str
    unit: str
    labels: tuple[str, ...]
    description: str

    @property
    def prometheus_name(self) -> str:
        """Name of the series (of the family, for a histogram) in Prometheus, whether it scrapes the endpoint or gets it
        from a collector: a gauge of unit `1` ends in `_ratio`.
        """
        name = self.name.replace(".", "_")
        if self.kind is Kind.COUNTER:
            return f"{name}{_UNIT_SUFFIX.get(self.unit, '')}_total"
        if self.kind is Kind.GAUGE and self.unit == "1":
            return f"{name.removesuffix('_ratio')}_ratio"
        return name + _UNIT_SUFFIX.get(self.unit, "")

    @property
    def prometheus_labels(self) -> tuple[str, ...]:
        """Its labels as Prometheus spells them."""
        return tuple(label.replace(".", "_") for label in self.labels)


_SHARD = ("shard", "device")
_CARD = ("device", "hw.id", "hw.name", "hw.type")
_counter, _gauge = partial(Instrument, Kind.COUNTER), partial(Instrument, Kind.GAUGE)
_up_down = partial(Instrument, Kind.UP_DOWN_COUNTER)

BATCH_DURATION = Instrument(
    Kind.HISTOGRAM,
    "helix_dense_batch_duration",
    "s",
    ("device", "stage"),
    "Time of a stage of a batch: read, encode or commit.",
)

INSTRUMENTS: tuple[Instrument, ...] = (
    _counter("helix_dense_crawl_detected", "{crawl}", _SHARD, "Crawls detected: trips that opened an episode."),
    _counter(
        "helix_dense_genes",
        "{gene}",
        _SHARD,
        "Genes encoded; those of a batch whose worker ends before they are committed are encoded, and counted, again.",
    ),
    BATCH_DURATION,
    _gauge("helix_dense_throughput", "{gene}/s", _SHARD, "Throughput of the encode stage, exponential moving average."),
    _gauge("helix_dense_baseline", "{gene}/s", _SHARD, "Healthy throughput that the shard is judged by."),
    _gauge("helix_dense_crawl_ratio", "1", _SHARD, "Throughput over baseline as judged, in work."),
    _gauge("helix_dense_crawl_limit_ratio", "1", (), "Ratio below which a shard is slow: 1 / factor."),
    _gauge("helix_dense_crawl_active", "{episode}", _SHARD, "1 while an episode is open, else 0."),
    _gauge(
        "helix_dense_crawl_streak",
        "{observation}",
        _SHARD,
        "Consecutive observations that fit the signature of a crawl.",
    ),
    _gauge("helix_dense_batch_inflight", "s", _SHARD, "Age of the oldest batch in flight, 0 between batches."),
    _up_down("helix_dense_vram_used", "By", ("device",), "Dedicated memory in use; absent while unknown."),
    _up_down(
        "helix_dense_vram_limit", "By", ("device",), "Dedicated memory that the device has; absent while unknown."
    ),
    _gauge(
        "helix_dense_vram_probe_up",
        "{probe}",
        ("device", "source"),
        "1 when the newest memory reading of the source is known, else 0.",
    ),
    _gauge(
        "helix_dense_ladder_rung",
        "{rung}",
        _SHARD,
        "Highest rung taken: 0 none, 1 EMPTY_CACHE, 2 RECYCLE, 3 DEMOTE_CPU.",
    ),
    _counter(
        "helix_dense_ladder_actions",
        "{action}",
        ("shard", "action", "outcome"),
        "Actions of the ladder by how they ended.",
    ),
    _up_down("helix_dense_action_queue_length", "{action}", (), "Actions that wait for the driver."),
    _counter(
        "helix_dense_worker_starts",
        "{start}",
        ("device", "reason"),
        "Workers started: first, recycle, demote, crash or resume.",
    ),
    _gauge("helix_dense_worker_up", "{worker}", ("device",), "1 while a worker of the device runs, else 0."),
    _up_down(
        "helix_dense_genes_pending",
        "{gene}",
        ("shard",),
        "Genes of the shard that still lack a vector, of one that is not begun as estimated; absent while unknown. "
        "Of a job whose user has said how many genes it has (`run --total`) those of all its shards, without a label.",
    ),
    _up_down("helix_dense_shards", "{shard}", ("state",), "Shards by state: pending, running, done, paused or failed."),
    _gauge(
        "helix_dense_shard_failed", "{shard}", ("shard",), "1 for a shard that was given up, 0 for one that is open."
    ),
    _up_down(
        "helix_dense_vram_shared",
        "By",
        ("device", "owner"),
        "Shared GPU memory, system memory lent to the device, that the worker holds and that others do; absent while "
        "unknown.",
    ),
    _counter("helix_dense_samples_ignored", "{sample}", ("reason",), "Samples that could not be judged, by reason."),
    _counter(
        "helix_dense_internal_errors",
        "{error}",
        ("where",),
        "Errors of the watchdog itself; each is logged, none reaches the job.",
    ),
    _gauge(
        "helix_dense_run_info",
        "{run}",
        ("run", "run_id", "command", "folder", "model", "version", "policy", "factor", "window", "vram_full"),
        "Always 1. `run` is what the same command resumes, a folder or a job's name; `run_id` is this start of it; the "
        "others say how it was started.",
    ),
    _gauge(
        "helix_dense_run_state",
        "{run}",
        ("run", "run_id", "state"),
        "1 for the state that the run is in, 0 for the others: running, paused, done or failed.",
    ),
    _gauge(
        "helix_dense_last_crawl_timestamp",
        "s",
        _SHARD,
        "When the newest crawl was detected, in Unix time; absent before the first.",
    ),
    _gauge(
        "helix_dense_last_action_timestamp",
        "s",
        ("shard", "action"),
        "When the newest action was carried out, at a boundary or by ending its worker, in Unix time; absent before "
        "the first.",
    ),
    _up_down(
        "helix_dense_genes_quarantined",
        "{gene}",
        ("shard",),
        "Genes of the shard that have no vector because they cannot be encoded, earlier runs included.",
    ),
    _gauge("helix_dense_vram_full_ratio", "1", (), "Share of dedicated memory that counts as full."),
    _gauge(
        "helix_dense_batch_deadline",
        "s",
        _SHARD,
        "Age at which the oldest batch in flight has its worker ended; absent where nobody can end it.",
    ),
    _gauge(
        "helix_dense_device_info",
        "{device}",
        ("device", "UUID", "modelName"),
        "Always 1. Which card a device is, in the words of NVIDIA's DCGM exporter; absent while NVML does not say.",
    ),
    _gauge("hw.gpu.utilization", "1", _CARD, "Share of the time in which the card had something to compute."),
    _gauge("hw.temperature", "Cel", _CARD, "Temperature of the card."),
    _gauge("hw.power", "W", _CARD, "Power that the card draws."),
    _gauge("hw.gpu.speed", "Hz", (*_CARD, "hw.gpu.clock"), "Clock of the card: sm or memory."),
    _gauge(
        "hw.gpu.throttled",
        "{reason}",
        (*_CARD, "hw.gpu.throttle_reason"),
        "1 while the card runs slower than it could for this reason, else 0: thermal, power or hardware.",
    ),
)
