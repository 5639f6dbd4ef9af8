"""What would have been saved by what was off: an estimate, a bound, or unknown, and why."""

from __future__ import annotations

import io
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.commands.common import look_back
from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.modelled_card import CardModel
from helix_crawl_otel.policy.batch_limits import BATCH_TOKENS, BatchLimits, cut
from helix_crawl_otel.policy.model import REMEDIES, ActionKind
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.replay.engine import replay
from helix_crawl_otel.replay.order import in_runs
from helix_crawl_otel.report import savings as module
from helix_crawl_otel.report.effect import choose
from helix_crawl_otel.report.page import page
from helix_crawl_otel.report.savings import Saving, savings
from helix_crawl_otel.report.tell import tell
from helix_crawl_otel.simulate.families import random_scenario
from helix_crawl_otel.simulate.loop import play
from helix_crawl_otel.simulate.policies import CorePolicy, ladder
from helix_crawl_otel.simulate.recording import timeline
from helix_crawl_otel.simulate.scenario import Scenario, Stretch
from helix_crawl_otel.timeline import read_timeline
from tests.report.stories import GB, lines
from tests.supervise.stage import Stage
from tests.watch.rig import GENES

HEALTHY, CRAWL = 4.0, 40.0
AFTER = 60
"""Batches of a fresh worker."""


def job(
    *steps: tuple[str, int],
    action: str = "ladder",
    waits: bool = True,
    cap: int | None = None,
    unfinished: int = 0,
) -> list[dict[str, Any]]:
    """30 healthy batches, then for each remedy so many that crawl before it, and after the last 60 healthy ones.

    A batch is 64 genes that cost 6,400; a new worker takes 20 s.

    Args:
        steps: Remedies, each with the number of slow batches before it.
        action: Of the run's knobs.
        waits: Batches tell how much work waits.
        cap: Of the allocator, in bytes.
        unfinished: Batches that are left when the run ends.
    """
    config = {"action": action, "tick_seconds": 5.0}
    events: list[dict[str, Any]] = [{"event": "run", "t": 0.0, "version": 1, "encoder": "e", "config": config}]
    left = 30 + sum(count for _, count in steps) + AFTER + unfinished
    t = 0.0

    def batches(count: int, seconds: float, used: float, device: str = "cuda:0") -> None:
        nonlocal t, left
        for _ in range(count):
            memory = {"used_bytes": int(used * GB), "limit_bytes": 12 * GB}
            events.append({"event": "memory", "t": t, "device": "cuda:0", **memory})
            if cap is not None:
                events[-1] |= {"reserved_bytes": int(used * GB), "cap_bytes": cap}
            t += seconds
            told = {"work_pending": 6400 * left} if waits else {}
            batch = {"event": "batch", "t": t, "shard": "notes", "device": device, "worker": "w", "genes": 64}
            events.append({**batch, "work": 6400, **told, "seconds": seconds})
            left -= 1

    batches(30, HEALTHY, 6.0)
    device = "cuda:0"
    for number, (kind, count) in enumerate(steps):
        batches(count, CRAWL, 11.9)
        acted = {"event": "action", "t": t, "shard": "notes", "outcome": "applied", "evidence": {}}
        events.extend({**acted, "kind": name} for name in (["DETECT", kind] if number == 0 else [kind]))
        if kind in ("RECYCLE", "DEMOTE_CPU"):
            t += 20.0
            device = "cpu" if kind == "DEMOTE_CPU" else device
            reason = "demote" if kind == "DEMOTE_CPU" else "recycle"
            events.append({"event": "worker", "t": t - 8, "device": device, "worker": "w", "pid": 2, "reason": reason})
    batches(AFTER, HEALTHY if device != "cpu" else 5 * HEALTHY, 6.0, device)
    return events


def found(events: list[dict[str, Any]]) -> dict[str, Saving]:
    """What is said of a timeline, by name."""
    runs = list(in_runs(read_timeline(io.BytesIO(lines(events)))))
    return {saving.name: saving for saving in savings(runs, tell(runs, Settings()))}


RELEASED_FIRST = ("EMPTY_CACHE", 10), ("RECYCLE", 10)

SUPERVISED: Any = {"can_take": REMEDIES, "can_end_worker": True, "releases_by_need": True}
"""As the jobs of this package are."""


def with_crash(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same; its worker crashed before its last batch."""
    *before, last = events
    crash = {"event": "worker", "device": "cuda:0", "worker": "w", "pid": 3, "reason": "crash"}
    return [*before, {**crash, "t": last["t"] - last["seconds"]}, last]


def test_a_release_that_did_not_help_is_what_adaptive_would_have_spared() -> None:
    """At the first trip, in the 8th batch of 40 s of the crawl, it would have recycled the worker at once.

    From there it took 12 to 13 crawling batches, 20 s for a worker and 60 batches; it would have taken those 20 s and
    72 batches of 4 s. The worker that came then did more than the first until that crawled, and did not crawl.
    """
    saving = found(job(*RELEASED_FIRST))["adaptive"]
    took = 12.5 * CRAWL + 20 + AFTER * HEALTHY
    would = 20 + 72.5 * HEALTHY
    assert saving.seconds == pytest.approx(took - would, abs=CRAWL / 2)
    assert not saving.is_at_most
    assert saving.text.startswith("--action adaptive: it would have ended 1 shard that crawled about")
    assert saving.text.endswith("an estimate; where the ways part it would have recycled the worker.")


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (job(*RELEASED_FIRST, waits=False), "its batches do not tell how much work waits"),
        (job(*RELEASED_FIRST, unfinished=40), "the run did not come to its end"),
        (with_crash(job(*RELEASED_FIRST)), "a worker crashed or hung in it"),
        (job(("EMPTY_CACHE", 20), action="off"), "no worker was replaced, so that nobody knows what that costs"),
    ],
)
def test_what_cannot_be_defended_is_unknown(events: list[dict[str, Any]], why: str) -> None:
    """No number, and the reason."""
    saving = found(events)["adaptive"]
    assert saving.seconds is None
    assert saving.text == f"--action adaptive: what it would have saved in 1 shard is unknown: {why}."


def test_where_it_would_have_done_the_same_nothing_is_saved() -> None:
    """It would have recycled the worker at the same trip."""
    saving = found(job(("RECYCLE", 9)))["adaptive"]
    assert saving.seconds == 0.0
    assert saving.text == "--action adaptive: it would have done the same in 1 shard that crawled."


SURE = ("fragments", "leak", "surge", "stall", "heals")
"""Families of `simulate` in which what a worker does tells what the next one does."""

RUN_BAND = 0.3
"""Of the time of a run; what the page about reports says of nine in ten."""


@pytest.mark.parametrize("family", SURE)
def test_what_adaptive_saves_is_what_a_run_under_it_takes_less(family: str) -> None:
    """And the cap saves at most what is told, on cards and shards of the first five seeds."""
    rows = []
    for seed in range(1, 6):
        scenario = random_scenario(family, seed)
        took = {
            (action, caps): play(scenario, CorePolicy("", Settings(action=action), caps=caps, **SUPERVISED))
            for action, caps in (("ladder", False), ("adaptive", False), ("ladder", True))
        }
        run, adaptive, capped = took.values()
        told = found(timeline(scenario, run, Settings()))
        if "adaptive" not in told:
            assert not any(mark.what == "DETECT" for mark in run.marks)
            continue
        assert run.finish_seconds is not None
        assert adaptive.finish_seconds is not None
        assert capped.finish_seconds is not None
        at_most, slower = told["cap"].seconds or 0.0, run.finish_seconds - capped.finish_seconds
        assert slower <= 1.05 * at_most, (seed, slower, at_most)
        truth, seconds = run.finish_seconds - adaptive.finish_seconds, told["adaptive"].seconds
        if seconds is None:
            assert "hung" in told["adaptive"].text
            continue
        if [mark.what for mark in run.marks] == [mark.what for mark in adaptive.marks]:
            assert seconds == 0.0
        rows.append((seed, round(seconds), round(truth), round(run.finish_seconds)))
        assert seconds == pytest.approx(truth, abs=RUN_BAND * run.finish_seconds), rows
    assert rows


def test_a_run_that_is_too_long_is_not_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says so."""
    monkeypatch.setattr(module, "MOST_EVENTS", 100)
    assert "the run is too long" in found(job(*RELEASED_FIRST))["adaptive"].text


def test_what_was_on_is_not_told_of() -> None:
    """Nor anything where nothing crawled and all batches were planned by tokens."""
    assert set(found(job(*RELEASED_FIRST, action="adaptive"))) == {"cap"}
    assert set(found(job(*RELEASED_FIRST, cap=11 * GB))) == {"adaptive"}
    assert found(job()) == {}


def test_the_cap_would_have_saved_at_most_what_crawls_and_new_workers_cost() -> None:
    """20 batches of 40 s instead of 4 s, and 20 s for a worker."""
    saving = found(job(*RELEASED_FIRST))["cap"]
    assert saving.is_at_most
    assert saving.seconds == pytest.approx(20 * (CRAWL - HEALTHY) + 20, abs=1.0)
    assert "at most 12 min 20 s" in saving.text


def test_a_replay_with_adaptive_names_the_ways_and_their_seconds() -> None:
    """The ladder released the cache first; this one takes a new worker, and says what else it could have done."""
    result = replay(read_timeline(io.BytesIO(lines(job(*RELEASED_FIRST)))), Settings(action="adaptive"))
    detected, first = result.issued()[:2]
    assert (detected.kind, first.kind) == (ActionKind.DETECT, ActionKind.RECYCLE)
    assert {"stay_seconds", "recycle_seconds", "cpu_seconds"} <= first.evidence.keys()
    assert "; to the end of the shard: recycle" in first.reason


# -- batches by tokens ------------------------------------------------------------------------------------------------


def test_batches_by_tokens_are_unknown_where_batches_tell_no_tokens() -> None:
    """A job of somebody's own, crawl or not; one that was planned by an earlier version was by tokens."""
    assert found(job(waits=False))["batch_tokens"].seconds is None
    assert "1 shard is unknown" in found(job(*RELEASED_FIRST, waits=False))["batch_tokens"].text
    assert "batch_tokens" not in found(job(*RELEASED_FIRST))


def simulated(scenario: Scenario) -> tuple[float, dict[str, Saving]]:
    """How long a run on the modelled card takes in seconds, and what is said of its timeline."""
    knobs = Settings()
    run = play(scenario, ladder(knobs))
    assert run.finish_seconds is not None
    return run.finish_seconds, found(timeline(scenario, run, knobs))


def mail(seed: int, card: CardModel, fragment_gib: float = 0.0) -> Scenario:
    """Passages of mixed lengths as they come, 2,000 or more: number, lengths and jitter by the seed."""
    dice = random.Random(seed)
    shortest = dice.choice([16, 32, 64])
    lengths, genes = (shortest, shortest * dice.choice([8, 16, 32])), dice.choice([2000, 6400, 12_000])
    stretch = Stretch("mail", genes, tokens=lengths, mixed=True, pad=1, fragment_gib=fragment_gib)
    return Scenario("mail", "", (stretch,), card, jitter=dice.choice([0.0, 0.1]), seed=seed)


BAND, BAND_SECONDS = 0.12, 2.0
"""What the page about timelines says of a shard of 2,000 passages and more, whose batches vary by up to a tenth."""


@pytest.mark.parametrize("seed", range(8))
def test_what_batches_by_tokens_save_is_what_the_same_shard_takes_less_by_tokens(seed: int) -> None:
    """On a card with room for either; and by tokens, nothing is said."""
    scenario = mail(seed, CardModel(limit_gib=24.0))
    by_files, told = simulated(scenario)
    by_tokens, nothing = simulated(replace(scenario, order="tokens"))
    saving = told["batch_tokens"]
    assert saving.seconds == pytest.approx(by_files - by_tokens, rel=BAND, abs=BAND_SECONDS)
    assert (saving.is_at_most, "batch_tokens" in nothing) == (False, False)
    assert "an estimate: " in saving.text
    assert "at most" not in saving.text


@pytest.mark.parametrize("seed", [5, 24, 40, 56])
def test_after_a_crawl_what_it_cost_is_the_most_that_smaller_batches_can_save_besides(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In file order the allocator of the modelled card spills, by tokens it does not."""
    told_seconds: list[float] = []

    def duration(seconds: float) -> str:
        told_seconds.append(seconds)
        return "so long"

    monkeypatch.setattr(module, "duration", duration)
    card = CardModel(limit_gib=8.0, layers=24)
    by_files, told = simulated(mail(seed, card))
    by_tokens, _ = simulated(replace(mail(seed, card), order="tokens"))
    saving, truth = told["batch_tokens"], by_files - by_tokens
    assert saving.seconds is not None
    assert saving.text.endswith("; at most so long more if smaller batches had not filled the memory.")
    assert (1 - BAND) * saving.seconds < truth < (1 + BAND) * saving.seconds + told_seconds[-1]


def test_a_shard_whose_batches_tell_no_tokens_is_told_apart() -> None:
    """Of one of two shards it is known."""
    scenario = mail(3, CardModel(limit_gib=24.0))
    events = timeline(scenario, play(scenario, ladder(Settings())), Settings())
    other = [{**event, "shard": "loop", "tokens": None, "work_pending": None} for event in events]
    text = found([*events, *(event for event in other if event["event"] == "batch")])["batch_tokens"].text
    assert text.startswith("Batches by tokens: they would have ended 1 shard about ")
    assert text.endswith(
        "; what they would have saved in 1 shard is unknown: its batches give the longest text of each, "
        "not the others (`tokens` of a timeline's batch)."
    )


def test_a_supervised_run_tells_the_tokens_of_its_batches(tmp_path: Path) -> None:
    """By way of the link and the supervisor's timeline; the same passages by tokens take so much less."""
    dice = random.Random(4)
    lengths = [min(512.0, max(8.0, dice.lognormvariate(4.2, 0.9))) for _ in range(40 * GENES)]
    by_tokens = sorted(lengths, reverse=True)
    sizes = cut(by_tokens, BatchLimits(GENES, BATCH_TOKENS))
    ends = list(itertools.accumulate(sizes))
    planned = [by_tokens[end - size : end] for size, end in zip(sizes, ends, strict=True)]
    in_file_order = [lengths[begin : begin + GENES] for begin in range(0, len(lengths), GENES)]
    took: list[float] = []
    told: list[dict[str, Saving]] = []
    for number, batches in enumerate((in_file_order, planned)):
        path = tmp_path / f"{number}.jsonl"
        with Stage(timeline=path) as stage:
            worker = stage.begin()
            worker.hello()
            worker.open("mail")
            for batch in batches:
                work = len(batch) * max(batch)
                seconds = 0.1 + work / 6020
                worker.start("mail", len(batch), work, tokens=sum(batch))
                stage.clock.now += seconds
                worker.finish(seconds)
                worker.boundary("mail")
            took.append(stage.clock.now)
        runs = list(in_runs(read_timeline(path)))
        told.append({saving.name: saving for saving in savings(runs, tell(runs, Settings()))})
    assert told[0]["batch_tokens"].seconds == pytest.approx(took[0] - took[1], rel=BAND, abs=BAND_SECONDS)
    assert "batch_tokens" not in told[1]


# -- what is told -----------------------------------------------------------------------------------------------------


def test_the_page_says_it_with_its_meaning() -> None:
    """In its lead, and how the numbers are made; where all was on, neither."""
    runs = list(in_runs(read_timeline(io.BytesIO(lines(job(*RELEASED_FIRST))))))
    story = tell(runs, Settings())
    text = page(story, choose(story), "t.jsonl", (), savings(runs, story))
    assert "--action adaptive: it would have ended 1 shard that crawled about" in text
    assert "would have saved at most 12 min 20 s" in text
    assert "Would have been saved, by what was off in a run." in text
    assert "Would have been saved" not in page(story, choose(story), "t.jsonl")


class EndedSession:
    """What is asked of a session whose run is over."""

    def __init__(self, path: Path, start: int) -> None:
        self.timeline = self
        self.path = str(path)
        self.timeline_start = start
        self.config = Settings()


def test_the_end_of_a_run_looks_at_its_own_part_of_the_timeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it after a crawl only, and only while that is quick; a timeline that cannot be read is no matter."""
    path, crawled = tmp_path / "timeline.jsonl", Progress(actions={"DETECT": 1})
    earlier = lines(job(*RELEASED_FIRST))
    path.write_bytes(earlier + lines(job(("EMPTY_CACHE", 20), action="off")))
    session: Any = EndedSession(path, len(earlier))
    told = look_back(session, crawled)
    assert set(told) == {"adaptive", "cap"}
    assert told["adaptive"]["seconds"] is None
    assert told["cap"]["seconds"] == pytest.approx(20 * (CRAWL - HEALTHY), abs=1.0)
    assert json.loads(json.dumps(told)) == told
    assert look_back(session, Progress()) == {}
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    assert look_back(session, crawled) == {}
    path.unlink()
    assert look_back(session, crawled) == {}


def test_the_summary_of_a_run_without_a_crawl_says_what_the_report_says_of_its_padding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In file order; by tokens it is not even judged once more, and nothing is said."""
    path = tmp_path / "timeline.jsonl"
    session: Any = EndedSession(path, 0)
    for order in ("files", "tokens"):
        scenario = replace(mail(3, CardModel(limit_gib=24.0)), order=order)
        events = timeline(scenario, play(scenario, ladder(Settings())), Settings())
        path.write_bytes(lines(events))
        wanted = {name: saving.to_json() for name, saving in found(events).items()}
        assert set(wanted) == ({"batch_tokens"} if order == "files" else set())
        if order == "tokens":
            monkeypatch.delattr(module, "tell")
        assert look_back(session, Progress()) == wanted
