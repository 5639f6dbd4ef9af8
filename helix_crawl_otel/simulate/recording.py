"""Writes a simulated run as a timeline, so that `helix-crawl replay` and `report` can read it.

A batch whose worker was ended is one that did not end, as in a real job. One in flight when the run was given up leaves
no line: its worker was not ended.

Source: DESIGN.md, section 3.6.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from helix_crawl_otel.formats import GIB
from helix_crawl_otel.policy.policy import TICK_SECONDS
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.loop import GIVE_UP_SECONDS, Attempt, SimulatedRun
from helix_crawl_otel.simulate.policies import CARD, CPU
from helix_crawl_otel.simulate.scenario import Scenario

__all__ = ["timeline", "write_timeline"]

_UNFINISHED, _WORKER, _MEMORY, _ACTION, _BATCH = range(5)  # order of lines of the same moment


def timeline(scenario: Scenario, run: SimulatedRun, settings: Settings) -> list[dict[str, Any]]:
    """The events of a run, in the order of time.

    Args:
        scenario: What was run.
        run: One policy's.
        settings: The knobs it was run with.
    """
    source = f"helix-crawl simulate {scenario.name}, policy {run.policy}: a model, not a recording"
    first = {
        "event": "run",
        "version": 1,
        "t": 0.0,
        "config": asdict(settings),
        "encoder": "modelled",
        "host": "modelled",
        "reconstructed": True,
        "source": source,
    }
    return [first, *(event for _, event in sorted(_events(scenario, run), key=lambda item: item[0]))]


def _events(scenario: Scenario, run: SimulatedRun) -> Iterator[tuple[tuple[float, int], dict[str, Any]]]:
    limit_bytes, last = round(scenario.card.limit_gib * GIB), scenario.stretches[-1].name
    for at, (t, device, reason) in enumerate(run.workers):
        yield (t, _WORKER), {"event": "worker", "t": t, "device": device, "pid": at + 1, "reason": reason}
    for mark in run.marks:
        if mark.intervenes or mark.what == "DETECT":
            outcome = "overdue" if mark.forced else "applied"
            what = {"shard": mark.shard, "kind": mark.what, "outcome": outcome, "evidence": {}}
            yield (mark.t, _ACTION), {"event": "action", "t": mark.t, **what}
    for t, used_gib in run.memory:
        yield (t, _MEMORY), _memory(t, used_gib, limit_bytes)
    for item in run.attempts:
        if item.device != CPU:
            for t in _read_at(item):
                yield (t, _MEMORY), _memory(t, item.used_gib, limit_bytes)
        if item.finished:
            yield (item.ended, _BATCH), _batch(item, "batch", last)
        elif item.ended < GIVE_UP_SECONDS:
            yield (item.ended, _UNFINISHED), _batch(item, "unfinished", last)


def _read_at(item: Attempt) -> tuple[float, ...]:
    """When the card's memory was read: as the batch began, at the first tick inside it, as it ended."""
    tick = TICK_SECONDS * (math.floor(item.began / TICK_SECONDS) + 1)
    return (item.began, tick, item.ended) if tick < item.ended else (item.began, item.ended)


def _memory(t: float, used_gib: float, limit_bytes: int) -> dict[str, Any]:
    used_bytes = round(used_gib * GIB)
    return {"event": "memory", "t": t, "device": CARD, "used_bytes": used_bytes, "limit_bytes": limit_bytes}


def _batch(item: Attempt, event: str, last: str) -> dict[str, Any]:
    return {
        "event": event,
        "t": item.ended,
        "shard": item.load.shard,
        "device": item.device,
        "genes": item.load.genes,
        "work": item.load.work,
        "tokens": item.load.work if item.load.own_tokens is None else item.load.own_tokens,
        "work_pending": item.work_pending,
        "shards_follow": item.load.shard != last,
        "seconds": item.ended - item.began,
    }


def write_timeline(path: Path, scenario: Scenario, run: SimulatedRun, settings: Settings) -> None:
    """Write the timeline of a run, JSON lines.

    Raises:
        OSError: The file cannot be written.
    """
    lines = (json.dumps(event, allow_nan=False) for event in timeline(scenario, run, settings))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
