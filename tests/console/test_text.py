"""The end of a run, in words and as numbers."""

from __future__ import annotations

import json

import pytest

from helix_crawl_otel.console.text import Summary

WHOLE = Summary(
    exit_code=1,
    seconds=3725.0,
    encoded=1495,
    skipped=12,
    quarantined=1,
    quarantines=[{"shard": ".", "gene": "g1", "reason": "it killed its worker"}],
    shards={"done": 5, "failed": 1, "paused": 0, "complete before": 2},
    failed={"docs": "no space left"},
    source_problems=7,
    unreadable=[{"shard": "docs", "source": "a\x1b.txt", "reason": "Permission denied"}],
    actions={"DETECT": 1, "RECYCLE": 1},
    starts={"first": 1, "recycle": 1},
    crashes=1,
    lost_seconds=557.0,
    gate_seconds=12.0,
    next_step="helix-crawl verify /b",
    logs=["/b/.helix-crawl/worker-cpu.log"],
)


def test_everything_that_went_wrong_is_named() -> None:
    """What, which ones, where to look, what the code means, and what to type next."""
    assert WHOLE.lines() == [
        "finished, but not all is well, after 1 h 02 min: 1,495 genes encoded, "
        "12 genes skipped (their shards were complete before)",
        "  shards        5 done, 1 failed, 2 complete before",
        "  failed        shard docs: no space left",
        "  quarantined   1 gene; --retry-quarantined tries again",
        "                g1 in . (loose files): it killed its worker",
        "  unreadable    7 sources",
        "                a\x1b.txt in docs: Permission denied",
        "                and 6 more",
        "  ladder        DETECT 1, RECYCLE 1",
        "  restarts      1 for recycle",
        "  lost          9 min 17 s to the crawl",
        "  waited        12 s for the memory of cards to come back",
        "  worker logs   /b/.helix-crawl/worker-cpu.log",
        "  exit code     1: shards, genes or sources failed; the rest is done",
        "  next          helix-crawl verify /b",
    ]


@pytest.mark.parametrize(
    ("code", "head", "meaning"),
    [
        (75, "paused after 1.0 s: 3 genes encoded", "75: paused, nothing is lost"),
        (78, "could not start after 1.0 s: 3 genes encoded", "78: it can never start like this"),
        (130, "interrupted after 1.0 s: 3 genes encoded", "130: a second interrupt; only batches in flight are lost"),
        (9, "ended after 1.0 s: 3 genes encoded", "9: it failed"),
    ],
)
def test_every_ending_has_its_words(code: int, head: str, meaning: str) -> None:
    """The reason stands first."""
    lines = Summary(code, 1.0, 3, reason="because").lines()
    assert lines == [head, "  why           because", f"  exit code     {meaning}"]


def test_a_good_end_is_short() -> None:
    """No zero is listed, no code explained."""
    assert Summary(0, 1.0, 1, shards={"done": 1, "failed": 0}).lines() == [
        "done after 1.0 s: 1 gene encoded",
        "  shards        1 done",
    ]


def test_scripts_get_numbers() -> None:
    """Plain JSON, whatever happened."""
    content = json.loads(json.dumps(WHOLE.to_json()))
    assert content["encoded"] == 1495
    assert content["lost_seconds"] == 557.0
    assert content["gate_seconds"] == 12.0
    assert content["actions"] == {"DETECT": 1, "RECYCLE": 1}
    assert content["unreadable"][0]["source"] == "a\x1b.txt"


def test_a_job_of_the_operators_own_that_failed_is_not_called_finished() -> None:
    """`run` counts no shards, so nothing is said of the rest being done."""
    summary = Summary(exit_code=1, seconds=8.0, encoded=0, reason="job: it ended with exit code 1", next_step="again")
    assert summary.lines() == [
        "failed after 8.0 s: 0 genes encoded",
        "  why           job: it ended with exit code 1",
        "  exit code     1: the job failed",
        "  next          again",
    ]
