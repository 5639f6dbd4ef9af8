"""The flight recorder: what happened in a run, as JSON lines that can be replayed.

Source: DESIGN.md, section 3.6.
"""

from helix_crawl_otel.timeline.events import (
    ActionEvent,
    BatchEvent,
    Event,
    MemoryEvent,
    RunEvent,
    TriedBatch,
    UnfinishedEvent,
    WorkerEvent,
)
from helix_crawl_otel.timeline.reader import JoinedFiles, SkippedLine, TimelineError, TimelineReader, read_timeline
from helix_crawl_otel.timeline.stages import STORAGE_ADVICE, ShardStages, StageTimes
from helix_crawl_otel.timeline.writer import TimelineWriter

__all__ = [
    "STORAGE_ADVICE",
    "ActionEvent",
    "BatchEvent",
    "Event",
    "JoinedFiles",
    "MemoryEvent",
    "RunEvent",
    "ShardStages",
    "SkippedLine",
    "StageTimes",
    "TimelineError",
    "TimelineReader",
    "TimelineWriter",
    "TriedBatch",
    "UnfinishedEvent",
    "WorkerEvent",
    "read_timeline",
]
