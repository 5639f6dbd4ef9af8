"""Puts what the policy saw into the evidence of an action and into one sentence for the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from helix_crawl_otel.formats import gib, whole_seconds
from helix_crawl_otel.policy.baseline import Baseline
from helix_crawl_otel.policy.detector import Detector
from helix_crawl_otel.policy.memory import Shared
from helix_crawl_otel.policy.model import ActionKind, Evidence
from helix_crawl_otel.policy.settings import Settings

__all__ = ["TripContext", "evidence", "passed_over_reason", "sentence"]


@dataclass(frozen=True)
class TripContext:
    """What was seen when a window filled.

    Args:
        detector: Before the trip was noted, so that the streak is still there.
        baseline: The one in force.
        source: Whose baseline it is: `shard` or `card`.
        genes_rate: Rate of the newest observation, genes/s; `None` when no time has passed.
        memory_fraction: Highest since the batch began, `None` when unknown.
        cap_fraction: The same of the allocator's cap.
        inflight_seconds: Age of the batch in flight, `None` between batches.
        shared: Shared memory.
        seconds: What each way on would cost, in seconds to the end of the shard; DETECT is to stay; none where it was
            not weighed.
    """

    detector: Detector
    baseline: Baseline
    source: str
    genes_rate: float | None
    memory_fraction: float | None
    cap_fraction: float | None
    inflight_seconds: float | None
    shared: Shared
    seconds: Mapping[ActionKind, float] = field(default_factory=dict)


def evidence(context: TripContext, settings: Settings) -> Evidence:
    """The numbers behind an action: rates in genes/s as reported, ratios in work as judged."""
    return {
        "rate": context.genes_rate,
        "ema": context.detector.genes_ema,
        "baseline": context.baseline.genes_rate,
        "limit": context.baseline.genes_rate / settings.factor,
        "ratio": context.detector.ratio(context.baseline),
        "limit_ratio": 1 / settings.factor,
        "streak": context.detector.streak,
        "memory_fraction": context.memory_fraction,
        "inflight_seconds": context.inflight_seconds,
        "baseline_source": context.source,
        "shared_bytes": context.shared.used,
        "shared_rise_bytes": context.shared.rise,
        "other_shared_bytes": context.shared.other,
        **{f"{_WAYS[kind].lower().replace(' ', '_')}_seconds": seconds for kind, seconds in context.seconds.items()},
    }


def sentence(kind: ActionKind, context: TripContext, settings: Settings) -> str:
    """Why an action is asked for, in one sentence."""
    ratio = context.detector.ratio(context.baseline) or 0.0
    memory = "unknown" if context.memory_fraction is None else f"{100 * context.memory_fraction:.1f} % full"
    if context.cap_fraction is not None and context.cap_fraction >= settings.vram_full:
        memory += f", {100 * context.cap_fraction:.1f} % of the allocator's cap reserved"
    if settings.shared and context.shared.is_spill:
        memory += f", shared memory up by {gib(context.shared.rise or 0, 2)} since the worker's first batches"
    running = (
        "" if context.inflight_seconds is None else f", a batch running for {whole_seconds(context.inflight_seconds)}"
    )
    return (
        f"{_ASKED[kind]}: {100 * ratio:.3g} % of the {context.source}'s baseline "
        f"for {context.detector.streak} observations, memory {memory}{running}{_weighed(context.seconds)}"
    )


def _weighed(seconds: Mapping[ActionKind, float]) -> str:
    """Such as `; to the end of the shard: recycle 74 s, CPU 310 s, stay 2400 s, empty cache 95 s`, cheapest first."""
    ways = sorted(seconds, key=lambda kind: seconds[kind])
    costs = ", ".join(f"{_WAYS[kind]} {whole_seconds(seconds[kind])}" for kind in ways)
    return f"; to the end of the shard: {costs}" if costs else ""


def passed_over_reason(kind: ActionKind, device: str) -> str:
    """Why a rung was passed over, and what would have made it possible."""
    if kind is ActionKind.DEMOTE_CPU and device == "cpu":
        return "the shard is on the CPU already"
    if kind is ActionKind.EMPTY_CACHE:
        return (
            "the cache is another process's; a job that tells of itself (--instrument, or CrawlWatch) releases its own"
        )
    if kind is ActionKind.RECYCLE:
        return (
            "nothing restarts this process; start the job with `helix-crawl run`, one "
            "that --instrument or --progress watches with --resumable, if it resumes; or pass exit_to_recycle=True"
        )
    return (
        "the driver cannot move to the CPU; start the job with `helix-crawl run`, or pass on_demote= to watch.shard()"
    )


_WAYS = {
    ActionKind.DETECT: "stay",
    ActionKind.EMPTY_CACHE: "empty cache",
    ActionKind.RECYCLE: "recycle",
    ActionKind.DEMOTE_CPU: "CPU",
}

_ASKED = {
    ActionKind.DETECT: "crawl detected",
    ActionKind.EMPTY_CACHE: "release the cache",
    ActionKind.RECYCLE: "recycle the worker",
    ActionKind.DEMOTE_CPU: "finish the shard on the CPU",
}
