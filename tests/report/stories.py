"""Timelines to report on: the recorded ones, and lines of one's own."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.order import in_runs
from helix_crawl_otel.report.effect import choose
from helix_crawl_otel.report.page import page
from helix_crawl_otel.report.story import RunReport
from helix_crawl_otel.report.tell import tell
from helix_crawl_otel.timeline import read_timeline
from tests.data.timelines import make

__all__ = [
    "FOLDER",
    "GB",
    "job_with_a_recycle",
    "job_with_an_endless_batch",
    "lines",
    "page_of",
    "recorded",
    "story_of",
]

FOLDER = Path(make.__file__).parent
GB = 1_000_000_000


def recorded(name: str) -> RunReport:
    """One of the recorded timelines."""
    return tell(list(in_runs(read_timeline(FOLDER / f"{name}.jsonl"))), Settings())


def lines(events: list[dict[str, Any]]) -> bytes:
    """A timeline's content."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def story_of(events: list[dict[str, Any]], settings: Settings | None = None) -> RunReport:
    """The story of a few lines."""
    return tell(list(in_runs(read_timeline(io.BytesIO(lines(events))))), settings or Settings())


def page_of(story: RunReport) -> str:
    """Its page."""
    return page(story, choose(story), "timeline.jsonl")


def job_with_a_recycle(shard: str = "notes", *, slow: float = 40.0) -> list[dict[str, Any]]:
    """30 batches of 4 s, 10 slow ones under a full card, a recycle that takes 20 s, 30 batches of 4 s again.

    Each has 64 genes, so 16 genes/s and, with the default of 40 s, 1.6.
    """
    events: list[dict[str, Any]] = [
        {"event": "run", "t": 0.0, "version": 1, "encoder": "e"},
        {"event": "worker", "t": 0.0, "device": "cuda:0", "pid": 1, "reason": "first"},
    ]
    t = 0.0

    def batches(count: int, seconds: float, used: float) -> None:
        nonlocal t
        for _ in range(count):
            memory = {"device": "cuda:0", "used_bytes": int(used * GB), "limit_bytes": 12 * GB}
            events.append({"event": "memory", "t": t, **memory})
            t += seconds
            events.append({"event": "batch", "t": t, "shard": shard, "genes": 64, "seconds": seconds})

    def action(kind: str, **evidence: Any) -> None:
        events.append({"event": "action", "t": t, "shard": shard, "kind": kind, "outcome": "applied"} | evidence)

    numbers = {"rate": 64 / slow, "ema": 64 / slow, "baseline": 16.0, "ratio": 4 / slow, "limit_ratio": 0.2}
    seen = {"evidence": {**numbers, "streak": 8, "memory_fraction": 0.99, "inflight_seconds": None}}
    batches(30, 4.0, 6.0)
    batches(8, slow, 11.9)
    action("DETECT", **seen)
    batches(2, slow, 11.9)
    action("RECYCLE", **seen)
    t += 20.0
    events.append({"event": "worker", "t": t - 8, "device": "cuda:0", "pid": 2, "reason": "recycle"})
    batches(30, 4.0, 6.0)
    return events


def job_with_an_endless_batch(shard: str = "notes") -> list[dict[str, Any]]:
    """30 batches of 4 s, one that has run for 360 s when its worker is ended, another worker 20 s later, 30 batches.

    What a supervised job records: the release is overdue, and the worker in place of the old one is the recycle.
    """
    worker = {"event": "worker", "device": "cuda:0"}
    batch = {"shard": shard, "device": "cuda:0", "genes": 64}
    card = {"event": "memory", "device": "cuda:0", "limit_bytes": 12 * GB}
    seen = {"rate": 0.3, "ema": 0.8, "baseline": 16.0, "ratio": 0.05, "limit_ratio": 0.2, "streak": 8}

    def action(t: float, kind: str, outcome: str, age: float) -> dict[str, Any]:
        evidence = {**seen, "inflight_seconds": age}
        return {"event": "action", "t": t, "shard": shard, "kind": kind, "outcome": outcome, "evidence": evidence}

    return [
        {"event": "run", "t": 0.0, "version": 1, "encoder": "e"},
        {**worker, "t": 0.0, "pid": 1, "reason": "first"},
        *({**batch, "event": "batch", "t": 4.0 * (n + 1), "seconds": 4.0} for n in range(30)),
        {**card, "t": 120.0, "used_bytes": int(11.9 * GB)},
        action(400.0, "DETECT", "applied", 280.0),
        action(480.0, "EMPTY_CACHE", "overdue", 280.0),
        {**batch, "event": "unfinished", "t": 480.0, "seconds": 360.0},
        action(500.0, "RECYCLE", "applied", 360.0),
        {**worker, "t": 500.0, "pid": 2, "reason": "recycle"},
        *({**batch, "event": "batch", "t": 500.0 + 4.0 * (n + 1), "seconds": 4.0} for n in range(30)),
    ]
