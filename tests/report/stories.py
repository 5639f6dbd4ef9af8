"""Timelines to report on: the recorded ones, and lines of one's own."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from helix_crawl_otel.core.settings import Settings
from helix_crawl_otel.report.choice import choose
from helix_crawl_otel.report.page import page
from helix_crawl_otel.report.story import Story
from helix_crawl_otel.report.witness import tell
from helix_crawl_otel.timeline import read_timeline
from tests.data.timelines import make

__all__ = ["FOLDER", "GB", "job_with_a_recycle", "lines", "page_of", "recorded", "story_of"]

FOLDER = Path(make.__file__).parent
GB = 1_000_000_000


def recorded(name: str) -> Story:
    """One of the recorded timelines."""
    return tell(read_timeline(FOLDER / f"{name}.jsonl"), Settings())


def lines(events: list[dict[str, Any]]) -> bytes:
    """A timeline's content."""
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def story_of(events: list[dict[str, Any]], settings: Settings | None = None) -> Story:
    """The story of a few lines."""
    return tell(read_timeline(io.BytesIO(lines(events))), settings or Settings())


def page_of(story: Story) -> str:
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
