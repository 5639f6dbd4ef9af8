"""Shared memory in memory lines: there when it is known, absent when it is not."""

from __future__ import annotations

import io
import json
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
    keys = [sorted(json.loads(line).keys() - LINE.keys()) for line in path.read_text(encoding="utf-8").splitlines()]
    assert keys == [[], ["other_shared_bytes", "shared_bytes"], ["other_shared_bytes"]]
    readings = [event[2:] for event in read_timeline(path) if isinstance(event, MemoryEvent)]
    assert readings == [
        (6, 12, None, None),
        (6, 12, 3, 0),
        (None, None, None, 4),
    ]


@pytest.mark.parametrize("key", ["shared_bytes", "other_shared_bytes"])
def test_a_value_that_cannot_be_is_named(key: str) -> None:
    """Negative, text, true: the line is skipped, with the key and what is accepted. `null` is unknown."""
    for value in (-1, "1", True):
        lines = [json.dumps(LINE), json.dumps({**LINE, key: value})]
        reader = read_timeline(io.BytesIO("\n".join(lines).encode()))
        assert len(list(reader)) == 1
        assert reader.skipped[0].reason.startswith(f"{key} is {value!r}; accepted: 0 or more bytes, or null")
    [event] = read_timeline(io.BytesIO(json.dumps({**LINE, key: None}).encode()))
    assert isinstance(event, MemoryEvent)
    assert event[2:] == (6, 12, None, None)
    assert event.fraction == MemoryReading(6, 12).fraction == 0.5
