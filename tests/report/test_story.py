"""What is found on a timeline: crawls, effects of actions, time lost and saved."""

from __future__ import annotations

import pytest

from helix_crawl_otel.formats import html_text
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.report.effect import choose, effect_of, lost_seconds, remedy_seconds, saved_seconds
from helix_crawl_otel.report.page import page
from helix_crawl_otel.report.words import headline, origin, sentences, tale_text
from tests.report.stories import job_with_a_recycle, job_with_an_endless_batch, recorded, story_of

QUIET = ("healthy", "long-documents", "slow-disk")


@pytest.mark.parametrize("name", QUIET)
def test_a_healthy_job_has_no_crawl(name: str) -> None:
    """Nor lost time, nor anything that would have been done: also with long passages, and on a slow disk."""
    story = recorded(name)
    assert story.crawls == 0
    assert sum(map(lost_seconds, story.tales)) == 0
    assert [step for tale in story.tales for step in tale.steps] == []
    assert headline(story) == "No crawl in 1 shard."
    assert "would have asked for nothing" in " ".join(sentences(story))


def test_long_passages_take_the_baseline_along() -> None:
    """A twentieth of the genes/s is drawn beside a baseline of a twentieth, not below the limit."""
    (tale,) = recorded("long-documents").tales
    short, long = tale.batches[20], tale.batches[60]
    assert short.rate > 15 * long.rate
    assert [round(batch.ratio or 0.0, 1) for batch in (short, long)] == [1.0, 1.0]


def test_the_incident_of_06_10() -> None:
    """Confluence: 60 batches at 2.3 genes/s that would have taken a seventh of the time."""
    story = recorded("incident-0610-confluence")
    (tale,) = [tale for tale in story.tales if tale.episodes]
    slow = list(tale.batches)[60:]
    assert tale.shard == "confluence"
    assert len(tale.episodes) == 1
    assert tale.episodes[0].began == pytest.approx(slow[0].began)
    assert tale.episodes[0].ended == slow[-1].ended
    took = sum(batch.seconds for batch in slow)
    assert lost_seconds(tale) == pytest.approx(took * (1 - 2.3 / 15.3), rel=0.02)
    assert "down from 16.5 to 2.7 genes/s" in tale_text(tale, story)
    assert "98.8 % of the memory" in tale_text(tale, story)
    assert saved_seconds(tale) is None
    assert headline(story) == "1 crawl in 1 of 2 shards."


def test_the_incident_of_06_11() -> None:
    """64 genes in 47 minutes is one batch, and the whole of it is the crawl; what was done by hand is seen."""
    story = recorded("incident-0611-slack")
    (tale,) = story.tales
    longest = max(tale.batches, key=lambda batch: batch.seconds)
    assert longest.seconds == pytest.approx(47 * 60, rel=0.07)
    assert [batch for batch in tale.batches if tale.is_crawling(batch)] == [longest]
    assert lost_seconds(tale) == pytest.approx(longest.seconds, rel=0.01)
    assert [start.reason for start in tale.starts] == ["crash", "demote"]
    assert [step.kind for step in tale.steps] == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    assert not any(step.is_taken for step in tale.steps)
    assert saved_seconds(tale) is None


def test_a_shard_that_was_born_crawling() -> None:
    """It never showed what healthy is: the other shards of the card tell what it lost."""
    story = recorded("born-crawling")
    assert [tale.shard for tale in story.tales if tale.episodes] == ["mail"]
    mail = story.tales[2]
    assert lost_seconds(mail) > 0.8 * sum(batch.seconds for batch in mail.batches)


def test_a_recycle_that_helped() -> None:
    """Before and after, lost, spent and saved, to the second."""
    story = story_of(job_with_a_recycle())
    (tale,) = story.tales
    assert story.is_recorded
    assert [step.kind for step in tale.steps] == ["DETECT", "RECYCLE"]
    effect = effect_of(tale.steps[1], tale, 8)
    assert effect.before is not None
    assert effect.after is not None
    assert (effect.before.rate, effect.after.rate) == (pytest.approx(1.6), pytest.approx(16))
    assert (effect.before.ratio, effect.after.ratio) == (pytest.approx(0.1), pytest.approx(1))
    assert lost_seconds(tale) == pytest.approx(10 * 36)
    assert remedy_seconds(tale) == pytest.approx(20)
    assert saved_seconds(tale) == pytest.approx(30 * 40 - (20 + 30 * 4))
    text = tale_text(tale, story)
    assert text.index("It crawled") < text.index("Worker recycled") < text.index("16.0 genes/s (100 % of the baseline)")


def test_the_first_batch_of_a_new_worker_tells_of_no_effect() -> None:
    """It loads and warms up, also where the shard ends with it: no speed is better than that one."""
    events = job_with_a_recycle()
    last = events[:-58]
    last[-1]["t"], last[-1]["seconds"] = last[-1]["t"] + 36.0, 40.0
    story = story_of(last)
    (tale,) = story.tales
    assert tale.batches[-1].seconds == pytest.approx(40)
    assert tale.starts[-1].reason == "recycle"
    assert effect_of(tale.steps[1], tale, 8).after is None
    assert "no batch tells of its effect" in tale_text(tale, story)


def test_a_remedy_can_cost_more_than_it_saves() -> None:
    """A crawl that is just one, and a short rest: the number is negative and says so."""
    events = job_with_a_recycle(slow=24.0)
    story = story_of(events[:-56])
    (tale,) = story.tales
    saved = saved_seconds(tale)
    assert len(tale.episodes) == 1
    assert saved == pytest.approx(2 * 24 - 28)
    short = story_of(events[:-58])
    assert (saved_seconds(short.tales[0]) or 0.0) == pytest.approx(24 - 24)
    assert "saved about" in " ".join(sentences(story))


def test_a_batch_thrown_away_counts() -> None:
    """A worker ended inside a batch leaves no line of it: its age in the evidence tells what was lost."""
    events = job_with_a_recycle()
    for event in events:
        if event.get("kind") == "RECYCLE":
            event["outcome"] = "overdue"
            event["evidence"] = {**event["evidence"], "inflight_seconds": 90.0}
    whole = story_of(job_with_a_recycle())
    story = story_of(events)
    assert lost_seconds(story.tales[0]) == pytest.approx(lost_seconds(whole.tales[0]) + 90.0)
    assert "by force" in tale_text(story.tales[0], story)


def test_a_batch_that_did_not_end() -> None:
    """It is the crawl, from its beginning to the end of its worker; it counts once as lost, and no gene of it."""
    story = story_of(job_with_an_endless_batch())
    (tale,) = story.tales
    (lost,) = tale.unfinished
    assert (lost.began, lost.ended, lost.slow) == (120.0, 480.0, True)
    assert (len(tale.batches), tale.genes) == (60, 60 * 64)
    assert [(episode.began, episode.detected, episode.ended) for episode in tale.episodes] == [(120.0, 400.0, 480.0)]
    assert [batch for batch in (*tale.batches, *tale.unfinished) if tale.is_crawling(batch)] == [lost]
    assert lost_seconds(tale) == pytest.approx(360)
    assert remedy_seconds(tale) == pytest.approx(20)
    after = effect_of(tale.steps[2], tale, 8).after
    assert after is not None
    assert after.rate == pytest.approx(16)
    assert "3,840 genes in 60 batches" in " ".join(sentences(story))
    assert "1 batch did not end: its worker ended first." in " ".join(sentences(story))
    text = tale_text(tale, story)
    assert "A batch of 64 genes did not end in 6 min 00 s: its worker ended at 0:08:00." in text
    assert text.index("It crawled") < text.index("did not end") < text.index("Worker recycled")


def test_a_crawl_begins_with_the_batch_in_which_it_was_detected() -> None:
    """Also when the memory was not read any more at the end of its worker, as by one that held the GIL."""
    events = job_with_an_endless_batch()
    for event in events:
        if event["event"] == "memory":
            event["t"] = 119.0
    (tale,) = story_of(events).tales
    assert not tale.unfinished[0].slow
    assert tale.episodes[0].began == 120.0


def test_without_recorded_actions_the_same_is_found() -> None:
    """The policy that only looks on sees the crawl inside the batch, and takes the end of the worker as it was."""
    events = [event for event in job_with_an_endless_batch() if event["event"] != "action"]
    story = story_of(events)
    (tale,) = story.tales
    ((began, ended),) = [(episode.began, episode.ended) for episode in tale.episodes]
    assert (began, ended) == (120.0, 480.0)
    assert [step.kind for step in tale.steps] == ["DETECT", "EMPTY_CACHE", "RECYCLE"]


def test_crashes_are_no_crawl() -> None:
    """Each batch that a crash took is told of, several in one sentence; a shard of nothing else is one to report on."""
    lost = {"event": "unfinished", "t": 9.0, "shard": "a", "genes": 64, "seconds": 5.0}
    once = story_of([lost])
    assert (
        tale_text(once.tales[0], once)
        == "No crawl. A batch of 64 genes did not end in 5.0 s: its worker ended at 0:00:09."
    )
    assert not once.tales[0].is_empty
    assert choose(once).tales == once.tales
    twice = story_of([lost, {"event": "worker", "t": 10.0, "device": "cuda:0"}, {**lost, "t": 19.0, "seconds": 7.0}])
    (tale,) = twice.tales
    assert tale_text(tale, twice) == "No crawl. 2 batches did not end, one of them in 7.0 s: their workers ended first."
    assert tale.span == (4.0, 19.0)
    assert (twice.crawls, lost_seconds(tale)) == (0, 0)


def test_nothing_was_done() -> None:
    """With the ladder off a job records its detection, and the report says that it was left alone."""
    events = [event for event in job_with_a_recycle() if event.get("kind") != "RECYCLE"]
    story = story_of(events)
    assert "Nothing was done about it." in tale_text(story.tales[0], story)
    assert story.tales[0].episodes[0].ended == pytest.approx(30 * 4 + 10 * 40 + 12)


def test_a_crawl_begins_behind_the_one_before_it() -> None:
    """A recycle that did not help: the slow batches before it belong to the first crawl, and are lost once."""
    events = job_with_a_recycle()
    at = next(n for n, event in enumerate(events) if event.get("reason") == "recycle")
    again = [dict(event) for event in events[:at] if event["t"] >= 120 and event["event"] != "worker"]
    shift = events[at]["t"] + 8 - 120
    for event in again:
        event["t"] += shift
    (tale,) = story_of(events[: at + 1] + again).tales
    first, second = tale.episodes
    assert (first.ended, second.began) == (520.0, 540.0)
    slow = [batch for batch in tale.batches if batch.slow]
    assert len(slow) == 20
    assert lost_seconds(tale) == pytest.approx(sum(batch.seconds for batch in slow) * 0.9)


def test_runs_are_told_apart() -> None:
    """A run is a time axis of its own; baselines carry on."""
    once = job_with_a_recycle()
    story = story_of(once + once)
    assert [(tale.run, tale.shard) for tale in story.tales] == [(0, "notes"), (1, "notes")]
    assert story.runs == 2
    assert story.tales[1].batches[0].baseline == pytest.approx(16)


def test_the_shards_that_crawled_are_shown_in_the_order_of_time() -> None:
    """Many shards: a few are shown, and how many are left out is said."""
    story = story_of([e for n in range(9) for e in healthy_shard(n)] + job_with_a_recycle("bad"))
    shown = choose(story, 3)
    assert "bad" in [tale.shard for tale in shown.tales]
    began = [tale.span for tale in shown.tales]
    assert began == sorted(began)
    assert len(shown.tales) == 3
    assert shown.left_out == (7, 0)
    (sentence,) = shown.sentences(story)
    assert sentence.startswith("Shown are 3 of 10 shards and runs, ")
    assert list(choose(story, 10).sentences(story)) == []


def healthy_shard(number: int) -> list[dict[str, object]]:
    """A run with one shard."""
    batch = {"event": "batch", "shard": f"shard-{number}", "genes": 64, "seconds": 4.0}
    return [{"event": "run", "encoder": "e"}, *({**batch, "t": 4.0 * (n + 1)} for n in range(3))]


def test_knobs_decide_what_a_crawl_is() -> None:
    """A tenth of the baseline is none with a factor of 20."""
    events = [event for event in job_with_a_recycle() if event["event"] != "action"]
    assert story_of(events).crawls == 1
    assert story_of(events, Settings(factor=20)).crawls == 0


def test_where_when_and_with_which_model_is_told_as_far_as_it_was_recorded() -> None:
    """Host, folder, model and date of all runs, each once; of a timeline that says nothing of it, nothing."""
    run = {"event": "run", "encoder": "minilm", "host": "rig", "folder": "/shards"}
    batch: dict[str, object] = {"event": "batch", "t": 4.0, "shard": "a", "genes": 64, "seconds": 4.0}
    first, second = ({**run, "started": f"2026-11-{day}T20:10:11Z"} for day in (25, 28))
    story = story_of([first, batch, second, batch])
    told = origin(story)
    assert told.startswith("Recorded on rig, of /shards, model minilm, begun 2026-11-2")
    assert "the last of 2 runs 2026-11-2" in told
    assert html_text(told) in page(story, choose(story), "t.jsonl")
    assert origin(story_of([{**run, "started": "yesterday"}, batch])).endswith("model minilm.")
    assert origin(story_of([batch])) == ""
