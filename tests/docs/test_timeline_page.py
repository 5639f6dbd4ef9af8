"""The page about timelines says which events and keys there are, which are needed, and what a replay prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from helix_crawl_otel import CrawlConfig
from helix_crawl_otel.commands.replay import json_lines
from helix_crawl_otel.replay.engine import replay
from helix_crawl_otel.timeline import BatchEvent, Event, MemoryEvent, TimelineWriter
from helix_crawl_otel.timeline.events import BadLine, parse_event
from tests.docs.pages import page

EVENTS = [kind.__name__.removesuffix("Event").lower() for kind in get_args(Event)]

TRY: dict[str, Any] = {
    "t": 4.2,
    "shard": "a",
    "device": "cuda:0",
    "worker": "w",
    "genes": 64,
    "work": 8,
    "seconds": 4.2,
}
TRY |= {"work_pending": 80, "shards_follow": True, "tokens": 7, "read_seconds": 0.5}

WHOLE: dict[str, dict[str, Any]] = {
    "run": {"version": 1, "t": 0.0, "config": {}, "encoder": "x", "host": "x", "reconstructed": True, "source": "x"}
    | {"started": "2026-11-28T20:10:11.250Z", "clock": 100.0, "folder": "/shards", "state": {}},
    "worker": {"t": 0.1, "device": "cuda:0", "worker": "w", "pid": 1, "reason": "first"},
    "batch": TRY,
    "memory": {
        "t": 4.2,
        "device": "cuda:0",
        "used_bytes": 6,
        "limit_bytes": 12,
        "shared_bytes": 1,
        "other_shared_bytes": 0,
        "reserved_bytes": 0,
        "cap_bytes": 1,
    },
    "action": {"t": 4.2, "shard": "a", "kind": "DETECT", "outcome": "applied", "evidence": {}},
    "unfinished": TRY,
}
"""A line of each event with every key."""


class Noting(dict[str, Any]):
    """A line that notes which keys are looked at."""

    def __init__(self, line: dict[str, Any]) -> None:
        super().__init__(line)
        self.seen: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Note and answer."""
        self.seen.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.seen.add(str(key))
        return super().__contains__(key)


def crawling_job() -> Iterator[Event]:
    """Thirty batches of 4 s, then thirty of 40 s under a full memory."""
    t = 0.0
    for number in range(60):
        seconds, used_bytes = (4.0, 6_000_000_000) if number < 30 else (40.0, 11_900_000_000)
        t += seconds
        yield MemoryEvent(t - seconds, "cuda:0", used_bytes, 12_000_000_000)
        yield BatchEvent(t, "a", "cuda:0", "cuda:0", 64, None, seconds)


def test_every_event_has_a_section() -> None:
    """And there is no section for another."""
    assert page("timeline").headings(3) == EVENTS == list(WHOLE)


@pytest.mark.parametrize("event", EVENTS)
def test_the_keys_that_are_read_are_documented(event: str) -> None:
    """No key is read in secret, and none but `pid` and `clock` is documented and not read."""
    line = Noting({"event": event} | WHOLE[event])
    parse_event(line)
    documented = set(page("timeline").table(event, "key").column("key"))
    assert documented == set(WHOLE[event])
    assert documented - {"pid", "clock"} == line.seen - {"event"}


@pytest.mark.parametrize("event", EVENTS)
def test_the_keys_that_are_needed_are_documented(event: str) -> None:
    """A line without a needed key is refused, one without another is not."""
    for row in page("timeline").table(event, "key").rows:
        key = row["key"].strip("`")
        line = {"event": event} | {name: value for name, value in WHOLE[event].items() if name != key}
        if row["needed"] == "yes":
            with pytest.raises(BadLine):
                parse_event(line)
        else:
            assert parse_event(line) is not None, key


def test_the_keys_that_are_written_are_documented(tmp_path: Path) -> None:
    """What the recorder writes, the page explains."""
    path = tmp_path / "timeline.jsonl"
    with TimelineWriter(path) as timeline:
        timeline.run(config=CrawlConfig(), encoder="x", host="x")
        timeline.worker(0.0, "cuda:0", pid=1, reason="first", worker="w")
        timeline.batch(4.2, "a", "cuda:0", genes=64, seconds=4.2, work=8, worker="w")
        timeline.memory(4.2, "cuda:0", 6, 12, 1, 0)
        timeline.action(4.2, "a", "DETECT", "applied", {})
        timeline.unfinished(4.2, "a", "cuda:0", genes=64, seconds=4.2, work=8, worker="w")
    for text in path.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        event = line.pop("event")
        assert set(line) <= set(page("timeline").table(event, "key").column("key"))


def test_the_example_of_the_format_is_one() -> None:
    """One line of each event, each of which can be used."""
    lines = [json.loads(line) for line in page("timeline").fenced("text")[0].splitlines()]
    assert [line["event"] for line in lines] == EVENTS
    assert all(parse_event(line) is not None for line in lines)


def test_what_replay_prints_is_documented() -> None:
    """The keys of a decision's line and of the summary."""
    *decisions, summary = json_lines(replay(crawling_job(), CrawlConfig()))
    first, second = (table for table in page("timeline").tables() if table.under == "What a replay does")
    assert first.column("key") == list(decisions[0])
    assert second.column("key") == list(summary)
