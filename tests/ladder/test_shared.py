"""A card that never reads as full: only shared memory tells that it has spilled, and only with the knob on."""

from __future__ import annotations

import io
import json

import pytest

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.engine import replay
from helix_crawl_otel.timeline import read_timeline
from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import Rig
from tests.ladder.test_ladder import QUICK, SPILLS

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="processes are found on Linux and Windows only")

NEVER_FULL = ("--vram", "1", "--fault", SPILLS)
"""The modelled driver withholds 0.15 of 12 GiB, so that 98.8 % are the most that is ever read: Windows gives a process
less than the card has."""


@pytest.mark.timeout(180)
def test_the_ladder_is_climbed_by_shared_memory_alone(rig: Rig) -> None:
    """Detected, recycled; the evidence and the timeline have the rise. The same timeline replays to a crawl with the
    knob on, and to nothing with it off: the default would have left this crawl alone."""
    rig.write_shards(1, 6, 90)
    done = rig.build(*QUICK, *NEVER_FULL, "--shared", "on")
    assert done.code == 0, done.errors
    actions = [event for event in done.of("action") if event["outcome"] == "applied"]
    assert [event["action"] for event in actions][:3] == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    for event in actions:
        assert event["evidence"]["memory_fraction"] < 1
        assert event["evidence"]["shared_rise_bytes"] > 512 * 1024**2
    lines = (rig.out / ".helix-crawl/timeline.jsonl").read_bytes()
    memory = [line for line in map(json.loads, lines.splitlines()) if line["event"] == "memory"]
    assert {line["other_shared_bytes"] for line in memory} == {0}
    on, off = (
        replay(read_timeline(io.BytesIO(lines)), Settings(window=4, vram_full=1.0, shared=shared))
        for shared in (True, False)
    )
    assert on.actions["EMPTY_CACHE"] == 1
    assert off.issued() == []
    assert rig.verify()["missing"] == 0
