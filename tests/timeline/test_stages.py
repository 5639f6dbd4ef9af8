"""What a shard's time went into, by its timeline: told by the report and the doctor where it is not the encoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.doctor.checks import Severity
from helix_crawl_otel.doctor.facts import ShardFolder, look_at
from helix_crawl_otel.timeline import BatchEvent, StageTimes
from tests.doctor.machines import CPU_ONLY, about
from tests.report.stories import page_of, story_of

GIB = 1024**3


def job(gaps: list[float], read: float | None = None, *, seconds: float = 2.0) -> list[dict[str, Any]]:
    """Batches with so much between them; `read` is the share of that which was the read stage."""
    events: list[dict[str, Any]] = [
        {"event": "run", "t": 0.0, "version": 1},
        {"event": "worker", "t": 0.0, "device": "cuda:0", "pid": 1, "reason": "first"},
    ]
    t = 100.0  # the model is loaded: no stage of a batch
    for gap in gaps:
        t += gap + seconds
        told = {} if read is None else {"read_seconds": gap * read}
        batch = {"event": "batch", "t": t, "shard": "slack", "device": "cuda:0", "genes": 64, "seconds": seconds}
        events.append(batch | told)
    return events


def times(events: list[dict[str, Any]]) -> StageTimes:
    """Of its batches."""
    found = StageTimes()
    for event in events:
        if event["event"] == "batch":
            named = {key: value for key, value in event.items() if key != "event"}
            found.add(BatchEvent(**{"worker": "cuda:0", "work": None, **named}))
    return found


GROWING = [0.2] * 20 + [1.0 * n for n in range(1, 40)]


@pytest.mark.parametrize(
    ("read", "stage"),
    [(0.1, "the commit stage"), (0.9, "the read stage"), (None, "what lies between two batches (read and commit)")],
)
def test_the_stage_that_is_slow_is_named(read: float | None, stage: str) -> None:
    """With what it took at the beginning and at the end."""
    ((shard, stages),) = times(job(GROWING, read)).slow()
    assert (shard, stages.slow_stage) == ("slack", stage)
    assert "0.2 s a batch at its beginning, 31.5 s at its end" in str(stages)
    assert stages.outside == pytest.approx(sum(GROWING[1:]))
    assert stages.encode == pytest.approx(2.0 * len(GROWING))


def test_what_encodes_most_of_the_time_is_not_told() -> None:
    """Nor what takes no time worth a word; nor what lies before a worker's first batch."""
    assert list(times(job([0.5] * 100)).slow()) == []
    assert list(times(job([0.5] * 50, seconds=0.001)).slow()) == []
    events = times(job([0.1] * 3))
    events.forget("cuda:0")
    events.add(BatchEvent(9000.0, "slack", "cuda:0", "cuda:0", 64, None, 2.0))
    assert list(events.slow()) == []


def test_the_report_says_what_is_slow_and_what_to_set() -> None:
    """No crawl, and no remedy that would help."""
    pytest.importorskip("matplotlib", reason="draws the page")
    text = " ".join(page_of(story_of(job(GROWING, 0.1))).split())
    assert "Of slack the commit stage is what is slow: 87 % of its time" in text
    assert "No release, recycle or CPU cures that." in text
    assert "cures that" not in page_of(story_of(job([0.5] * 100)))


def test_the_doctor_reads_the_timeline_of_a_folder(tmp_path: Path) -> None:
    """And compares the largest shard with the memory."""
    (tmp_path / ".helix-crawl").mkdir()
    lines = "".join(json.dumps(event) + "\n" for event in job(GROWING, 0.1))
    (tmp_path / ".helix-crawl/timeline.jsonl").write_text(lines)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/big.genome.db").write_bytes(b"x" * 1000)
    place = look_at(tmp_path)
    assert (place.largest, place.largest_bytes) == ("big.genome.db", 1000)
    slow = about(replace(CPU_ONLY, place=place), "storage")
    assert slow.fact.startswith("of slack the commit stage is what is slow")
    assert slow.verdict is Severity.WARN
    large = ShardFolder("x", None, None, "blob.db", 18 * GIB)
    check = about(replace(CPU_ONLY, place=large, memory_bytes=32 * GIB), "storage")
    assert check.fact == "blob.db has 18.0 GiB, and this machine 32.0 GiB of memory"
    assert "no release, recycle or CPU cures that" in check.advice
