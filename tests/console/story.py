"""One event of every kind, and a run that crawls."""

from __future__ import annotations

from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.supervise import events

__all__ = ["EVIDENCE", "STORY", "told"]

EVIDENCE = {"rate": 0.02, "ema": 0.3, "baseline": 15.3, "limit": 3.06, "memory_fraction": 0.99}

STORY: tuple[events.Event, ...] = (
    events.RunStarted(100.0, "helix-crawl build a --out b", "/b", "minilm", ("cuda:0",), "as asked for", 3, 1),
    events.MetricsAt(100.0, "http://127.0.0.1:9464/metrics"),
    events.Note(100.0, "warning", "a note"),
    events.TreeLooked(
        100.0,
        *(("/notes",), 12, 20_400_000, 1_200, 3, 1, 1_040, 15.3, "cuda:0", 68.0),
        left_out=({"why": ".gitignore", "files": 1, "folders": 2}, {"why": "caches", "files": 0, "folders": 1}),
        unreadable=1,
        no_text=2,
        no_text_bytes=3_000_000,
        largest=({"source": "app.log", "bytes": 900_000, "passages": 1_100, "share": 0.9167},),
        dominating="/app.log",
        unused=("nothere/",),
    ),
    events.ShardCounted(100.0, "late", 400),
    events.WorkerStarted(100.1, "cuda:0", "cuda:0", 4711, "first"),
    events.Ingesting(101.0, ".", "cuda:0", 3, 90),
    events.SourceTrouble(102.0, ".", "no.txt", "Permission denied"),
    events.Ingested(102.0, ".", 1, 640, 0, 1),
    events.ModelLoading(102.0, "cuda:0", "minilm", "cuda:0"),
    events.ModelLoaded(112.0, "cuda:0", "minilm", "cuda:0", 10.0),
    events.ShardStarted(112.0, ".", "cuda:0", "cuda:0", 640),
    events.BatchStarted(112.0, ".", "cuda:0", 64),
    events.Committed(116.0, ".", "cuda:0", "cuda:0", 64, 576, 16.0, 15.3, 0.5, 0, False),
    events.BatchStarted(116.0, ".", "cuda:0", 8),
    events.BatchAbandoned(116.0, ".", "cuda:0"),
    events.BatchStarted(116.0, ".", "cuda:0", 64),
    events.Committed(120.0, ".", "cuda:0", "cuda:0", 64, 512, 16.0, 15.3, 0.97, 0, False),
    events.BatchStarted(120.0, ".", "cuda:0", 64),
    events.ActionEnded(200.0, ".", "DETECT", "applied", EVIDENCE),
    events.ActionEnded(200.0, ".", "EMPTY_CACHE", "overdue", EVIDENCE),
    events.WorkerEnded(201.0, "cuda:0", "cuda:0", 4711, -9, "ended for EMPTY_CACHE"),
    events.Gate(202.0, "cuda:0", "cuda:0", 11 * 1024**3, 1024**3, "waiting"),
    events.Gate(206.0, "cuda:0", "cuda:0", 1024**3, 1024**3, "back"),
    events.Crash(207.0, "cuda:0", ".", "killed", 1, 2.0),
    events.SourceSkipped(208.0, ".", "one.png", "picture", "it is a picture"),
    events.SourceReadAs(208.0, ".", "two.txt", "cp1252"),
    events.Quarantined(208.0, ".", "g1", "no.txt", "Once upon a time", "it killed its worker"),
    events.Interrupted(209.0, 1),
    events.ShardEnded(210.0, ".", "paused", 128, ""),
)


def told(last: float, story: tuple[events.Event, ...] = STORY) -> Progress:
    """The progress after all events of the story up to a time."""
    progress = Progress()
    for event in story:
        if event.t <= last:
            progress.take(event)
    return progress
