"""Shared memory in a report: drawn, named and in the evidence where the timeline has it, and not a word where not."""

from __future__ import annotations

from typing import Any

from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.report.page import picture
from tests.report.stories import GB, job_with_a_recycle, page_of, story_of

GIB = 1024**3


def spilling_job(*, used: float = 8.0) -> list[dict[str, Any]]:
    """The job with a recycle on a card that is never full: the slow batches hold 3 GB of shared memory, the others 0.2.

    Others hold 0.1 GB.
    """
    events = job_with_a_recycle()
    for event in events:
        if event["event"] == "memory":
            event["shared_bytes"] = int((3.0 if event["used_bytes"] > 10 * GB else 0.2) * GB)
            event["other_shared_bytes"] = GB // 10
            event["used_bytes"] = int(used * GB)
        if event["event"] == "action":
            event["evidence"] |= {"shared_bytes": 3 * GIB, "shared_rise_bytes": int(2.8 * GIB), "other_shared_bytes": 0}
    return events


def test_it_is_drawn_as_a_line_of_its_own() -> None:
    """In percent of what the card has, with the dedicated memory; the legend says so."""
    story = story_of(spilling_job())
    [tale] = story.tales
    assert tale.tells_shared
    assert max(reading.fraction or 0.0 for reading in tale.lent("cuda:0")) == 0.25
    assert "shared memory of the worker, of the same limit" in page_of(story)
    assert picture(story).startswith(b"\x89PNG")


def test_the_evidence_of_an_action_names_it() -> None:
    """What the worker held, how much more than in its first batches, and the others."""
    text = page_of(story_of(spilling_job()))
    assert "shared memory of the worker 3.00 GiB (+2.80 since its first batches); of others 0.00 GiB" in text


def test_without_such_readings_nothing_is_said() -> None:
    """As on Linux, and in every older timeline."""
    story = story_of(job_with_a_recycle())
    text = page_of(story)
    assert "shared memory" not in text
    assert 'class="shared"' not in text
    assert story.tales[0].lent("cuda:0") == []


def test_evidence_without_values_says_nothing() -> None:
    """Unknown is null in a timeline."""
    events = job_with_a_recycle()
    for event in events:
        if event["event"] == "action":
            event["evidence"] |= dict.fromkeys(("shared_bytes", "shared_rise_bytes", "other_shared_bytes"))
    assert "shared memory" not in page_of(story_of(events))


def test_batches_are_a_crawl_by_it_only_with_the_knob_on() -> None:
    """The dedicated memory is two thirds full all the time."""
    on, off = (story_of(spilling_job(), Settings(shared=shared)) for shared in (True, False))
    assert [sum(batch.slow for batch in story.tales[0].batches) for story in (on, off)] == [10, 0]


def test_memory_whose_limit_is_unknown_has_no_share() -> None:
    """Nothing to measure it by; the figure is drawn all the same."""
    events = spilling_job()
    for event in events:
        if event["event"] == "memory":
            event["limit_bytes"] = None
    story = story_of(events)
    assert not story.tales[0].tells_shared
    assert page_of(story)
