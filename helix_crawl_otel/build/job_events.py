"""Tells the display what the workers of a build say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from helix_crawl_otel.build.job import ShardWork
from helix_crawl_otel.formats import shard_name
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.supervise import events

__all__ = ["JobEvents"]


class JobEvents:
    """See `job.JobListener`.

    Args:
        emit: Takes events.
        clock: Seconds.
        pipeline: Knows rates and rungs.
        memory: Says of a device how full it is and who holds it, as far as that is known.

    Threads: any.
    """

    def __init__(
        self,
        emit: Callable[[events.Event], None],
        clock: Callable[[], float],
        pipeline: Pipeline,
        memory: Callable[[str], str],
    ) -> None:
        self._emit = emit
        self._clock = clock
        self._pipeline = pipeline
        self._memory = memory
        self._devices: dict[str, str] = {}

    def said(self, slot: str, work: ShardWork | None, what: str, payload: Mapping[str, Any]) -> None:
        """See `JobListener`."""
        t = self._clock()
        if what == "loading":
            self._emit(events.ModelLoading(t, slot, payload["model"], payload["device"]))
        elif what == "loaded":
            self._devices[slot] = str(payload["device"])
            self._emit(events.ModelLoaded(t, slot, payload["model"], payload["device"], payload["seconds"]))
        elif what == "ingesting":
            self._emit(events.Ingesting(t, payload["shard"], slot, payload["sources"], payload["genes"]))
        elif what == "ingested":
            self._ingested(t, payload)
        elif what == "encoding" and work is not None:
            self._pipeline.set_pending(str(payload["shard"]), int(payload["pending"]))
            label = str(payload["label"])
            self._emit(events.ShardStarted(t, payload["shard"], slot, label, payload["pending"]))
        elif what == "batch":
            self._emit(events.BatchStarted(t, payload["shard"], slot, payload["genes"]))
        elif what == "committed" and work is not None:
            self._committed(t, slot, work, payload)
        elif what == "quarantined":
            self._emit(events.Quarantined(t, payload["shard"], payload["gene"], payload["reason"]))
        elif what == "done" and work is not None:
            self._pipeline.close_shard(str(payload["shard"]), "done")
            self._emit(events.ShardEnded(t, payload["shard"], "done", work.encoded, ""))

    def failed(self, work: ShardWork) -> None:
        """See `JobListener`."""
        self._pipeline.close_shard(work.assignment.shard, "failed")
        self._emit(events.ShardEnded(self._clock(), work.assignment.shard, "failed", work.encoded, work.reason))

    def moved(self, work: ShardWork, before: str, after: str, reason: str, *, lacks_memory: bool) -> None:
        """See `JobListener`."""
        known = self._memory(before) if lacks_memory else ""
        text = f"shard {shard_name(work.assignment.shard)}: {reason}" + (f" ({before}: {known})" if known else "")
        way_on = (
            f"another worker tries again on {before}" if after == before else f"it is finished on the {after.upper()}"
        )
        self._emit(events.Note(self._clock(), "warning", f"{text}; {way_on}"))

    def _ingested(self, t: float, payload: Mapping[str, Any]) -> None:
        shard = str(payload["shard"])
        for source, reason in payload["problems"]:
            self._emit(events.SourceTrouble(t, shard, source, reason))
        counts = payload["sources"], payload["added"], payload["removed"], payload["skipped_count"]
        self._emit(events.Ingested(t, shard, *counts))

    def _committed(self, t: float, slot: str, work: ShardWork, payload: Mapping[str, Any]) -> None:
        shard = str(payload["shard"])
        if work.pending is not None:
            self._pipeline.set_pending(shard, work.pending)
        status = self._pipeline.status(shard)
        self._emit(
            events.Committed(
                t,
                shard,
                slot,
                str(payload["label"]),
                int(payload["genes"]),
                work.pending,
                status.ema,
                status.baseline,
                status.memory_fraction,
                status.rung,
                status.episode_open,
            )
        )
