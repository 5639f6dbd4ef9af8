"""Shared memory, and what an allocator may take, in memory lines: there when it is known, absent when it is not."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.timeline import MemoryEvent, TimelineWriter, read_timeline

LINE: dict[str, Any] = {"event": "memory", "t": 5.0, "device": "cuda:0", "used_bytes": 6, "limit_bytes": 12}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """0 is a reading; unknown leaves no key, so that a timeline without counters is as it always was."""
    path = tmp_path / "timeline.jsonl"
    with TimelineWriter(path, lambda: 0.0) as writer:
        writer.memory(1.0, "cuda:0", 6, 12)
        writer.memory(2.0, "cuda:0", 6, 12, 3, 0)
        writer.memory(3.0, "cuda:0", None, None, None, 4)
        writer.memory(4.0, "cuda:0", **asdict(MemoryReading(6, 12, reserved_bytes=0, cap_bytes=8)))
    keys = [sorted(json.loads(line).keys() - LINE.keys()) for line in path.read_text(encoding="utf-8").splitlines()]
    assert keys == [
        [],
        ["other_shared_bytes", "shared_bytes"],
        ["other_shared_bytes"],
        ["cap_bytes", "reserved_bytes"],
    ]
    readings = [event[2:] for event in read_timeline(path) if isinstance(event, MemoryEvent)]
    assert readings == [
        (6, 12, None, None, None, None),
        (6, 12, 3, 0, None, None),
        (None, None, None, 4, None, None),
        (6, 12, None, None, 0, 8),
    ]


LEAST = {"shared_bytes": 0, "other_shared_bytes": 0, "reserved_bytes": 0, "cap_bytes": 1}


@pytest.mark.parametrize("key", LEAST)
def test_a_value_that_cannot_be_is_named(key: str) -> None:
    """Negative, text, true: the line is skipped, with the key and what is accepted. `null` is unknown."""
    for value in (-1, "1", True):
        lines = [json.dumps(LINE), json.dumps({**LINE, key: value})]
        reader = read_timeline(io.BytesIO("\n".join(lines).encode()))
        assert len(list(reader)) == 1
        assert reader.skipped[0].reason.startswith(f"{key} is {value!r}; accepted: {LEAST[key]} or more bytes")
    [event] = read_timeline(io.BytesIO(json.dumps({**LINE, key: None}).encode()))
    assert isinstance(event, MemoryEvent)
    assert event[2:] == (6, 12, None, None, None, None)
    assert event.fraction == MemoryReading(6, 12).fraction == 0.5
    assert event.cap_fraction is None


def test_a_line_is_as_near_to_its_cap_as_the_reading_was() -> None:
    """Above 1 too: a cap that was lowered below what was held. Unknown unless both are known."""
    for reserved, cap, fraction in ((6, 8, 0.75), (9, 8, 1.125), (0, 8, 0.0), (6, None, None), (None, 8, None)):
        line = {**LINE, "reserved_bytes": reserved, "cap_bytes": cap}
        [event] = read_timeline(io.BytesIO(json.dumps(line).encode()))
        assert isinstance(event, MemoryEvent)
        reading = MemoryReading(6, 12, reserved_bytes=reserved, cap_bytes=cap)
        assert event.cap_fraction == reading.cap_fraction == fraction
