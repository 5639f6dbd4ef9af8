"""Promises of what `helix-crawl replay` prints: objects for scripts, a table with reasons for people."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.commands.replay import json_lines, replay
from helix_crawl_otel.formats import printable
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.text import replay_lines
from helix_crawl_otel.timeline import read_timeline
from tests.data.timelines import make

FOLDER = Path(make.__file__).parent
EVIDENCE = {
    "rate",
    "ema",
    "baseline",
    "limit",
    "ratio",
    "limit_ratio",
    "streak",
    "memory_fraction",
    "inflight_seconds",
    "baseline_source",
    "shared_bytes",
    "shared_rise_bytes",
    "other_shared_bytes",
}


def lines_of(data: str) -> list[dict[str, Any]]:
    """What `--json` prints of some content, through JSON."""
    reader = read_timeline(io.BytesIO(data.encode()))
    result = replay(reader, Settings())
    return [json.loads(json.dumps(line, allow_nan=False)) for line in json_lines(result, reader)]


def text_of(data: str, settings: Settings | None = None) -> str:
    """What is printed of some content for people."""
    reader = read_timeline(io.BytesIO(data.encode()))
    return "\n".join(map(printable, replay_lines(replay(reader, settings or Settings()), reader)))  # as `say` does


def batch(t: float, shard: str = "a", seconds: float = 4.0) -> str:
    """A batch line."""
    return json.dumps({"event": "batch", "t": t, "shard": shard, "genes": 64, "seconds": seconds}) + "\n"


INCIDENT = (FOLDER / "incident-0611-slack.jsonl").read_text()


def test_json_has_an_object_for_each_action_and_then_the_summary() -> None:
    """The keys of section 3.6, in order of time, the summary last."""
    *actions, summary = lines_of(INCIDENT)
    assert [(line["kind"], line["rung"]) for line in actions] == [("DETECT", 0), ("EMPTY_CACHE", 1), ("RECYCLE", 2)]
    assert [line["t"] for line in actions] == sorted(line["t"] for line in actions)
    for line in actions:
        assert set(line) == {"t", "shard", "kind", "rung", "evidence"}
        assert line["shard"] == "slack__eng-oncall"
        assert set(line["evidence"]) == EVIDENCE
    assert summary == {
        "event": "summary",
        "shards": 1,
        "batches": 169,
        "trips": 1,
        "actions": {"DETECT": 1, "EMPTY_CACHE": 1, "RECYCLE": 1, "DEMOTE_CPU": 0},
        "runs": 1,
        "seconds": pytest.approx(3785, abs=60),
        "ignored_samples": 0,
        "cut_batches": 1,
        "unfinished_batches": 0,
        "skipped_lines": 0,
        "torn_line": None,
    }


def test_json_counts_what_could_not_be_used() -> None:
    """A script sees it without reading messages."""
    (summary,) = lines_of(batch(4.0) + "junk\n" + batch(8.0) + '{"event":"ba')
    assert (summary["batches"], summary["skipped_lines"], summary["torn_line"]) == (2, 1, 4)


def test_text_says_what_was_seen_what_would_have_been_done_and_why() -> None:
    """One line an action, with shard, rung and reason; then a sentence."""
    text = text_of(INCIDENT)
    assert "169 batches, 1 shard, 1 run, 63.1 min" in text
    assert "reconstructed, not recorded: incident 06-11" in text
    assert "factor 5, window 8, action ladder, vram_full 0.92, ema_alpha 0.3, warmup 1, inflight on, shared off" in text
    rows = [line.split() for line in text.splitlines() if "cuda:0" in line]
    assert [row[3] for row in rows] == ["DETECT", "EMPTY_CACHE", "overdue", "RECYCLE"]
    assert "99.5 % full" in text
    assert "a batch running for 172 s may take another 172 s" in text
    assert "1 crawl in 1 of 1 shard; actions: 1 EMPTY_CACHE, 1 RECYCLE." in text


def test_text_of_a_healthy_job_says_so() -> None:
    """No table without rows."""
    text = text_of((FOLDER / "healthy.jsonl").read_text())
    assert text.endswith("No crawl: the policy would have left the shard alone.")
    assert "why" not in text


def test_text_names_the_lines_it_skipped() -> None:
    """Ten by number and reason, the rest as a number; the torn end apart."""
    text = text_of(batch(4.0) + "junk\n" * 12 + batch(8.0) + '{"event":"ba')
    assert "line 2 skipped: not JSON (expecting value, column 1)\n" in text
    assert "line 11 skipped" in text
    assert "line 12 skipped" not in text
    assert "and 2 more; 12 lines skipped in all" in text
    assert "line 15, the last, is cut short, as a killed job leaves it; not used" in text


def test_text_says_when_the_job_had_other_knobs() -> None:
    """The recorded knobs are shown where they differ, and not used."""
    run = json.dumps({"event": "run", "config": {"window": 6, "factor": 5, "inflight": False, "tick": 5}}) + "\n"
    text = text_of(run + batch(4.0))
    assert "the job ran with window 6\n" in text
    assert "the job ran with inflight off\n" in text
    assert "ran with factor" not in text
    assert "the job ran with" not in text_of(run + batch(4.0), Settings(window=6, inflight=False))


def test_text_shows_the_actions_of_the_job_itself() -> None:
    """Beside what the knobs given would have done."""
    action = '{"event":"action","t":5,"shard":"a","kind":"RECYCLE","outcome":"applied"}\n'
    assert "actions of the job itself: 2 RECYCLE" in text_of(batch(4.0) + action * 2)


def test_text_without_a_batch() -> None:
    """A job that has just begun is no error."""
    assert text_of('{"event":"run"}\n').endswith("No batch is recorded, so there is nothing to judge.")


def test_text_and_json_count_batches_that_did_not_end() -> None:
    """Beside the others, never among them; one alone is something to judge."""
    lost = batch(90.0, seconds=80.0).replace('"batch"', '"unfinished"')
    assert "1 batch and 1 that did not end, 1 shard" in text_of(batch(4.0) + lost)
    assert text_of(lost).endswith("No crawl: the policy would have left the shard alone.")
    (summary,) = lines_of(batch(4.0) + lost)
    assert (summary["batches"], summary["unfinished_batches"], summary["cut_batches"]) == (1, 1, 0)


def test_text_counts_samples_that_could_not_be_judged() -> None:
    """A line without work in a shard that is judged by work."""
    worked = json.dumps({"event": "batch", "t": 1.0, "shard": "a", "genes": 64, "seconds": 1.0, "work": 5}) + "\n"
    assert text_of(worked + batch(8.0)).endswith("1 batch could not be judged and did not count")


def test_text_obeys_no_name() -> None:
    """A shard's name is somebody else's text: nothing in it reaches the terminal as an order."""
    hostile = INCIDENT.replace("slack__eng-oncall", "\\u001b[31m\\nred")
    text = text_of(hostile)
    assert r"\x1b[31m\nred" in text
    assert "\x1b" not in text
    assert [line["shard"] for line in lines_of(hostile)[:1]] == ["\x1b[31m\nred"]


def test_text_tells_runs_apart() -> None:
    """`t` begins again with each run, so the table says which it is."""
    second = INCIDENT.replace('"reason":"first"', '"reason":"resume"')
    text = text_of(INCIDENT + second)
    assert "run 2" in text
    assert "2 runs" in text
    assert "run 3" not in text
