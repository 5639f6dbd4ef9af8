"""What is kept between processes: rungs, baselines, batches measured, the cards' history. And what damage is."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings

from helix_crawl_otel.policy import state as state_module
from helix_crawl_otel.policy.baseline import Baseline, CardBaselines
from helix_crawl_otel.policy.ladder import Pending
from helix_crawl_otel.policy.model import ActionKind, Outcome
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.policy.state import DurableText, PolicyState, dump_durable, durable_mark, restore_durable
from tests.policy.strategies import SETTINGS, Step, play, steps
from tests.policy.timeline import FULL, Job


def through_a_file(state: PolicyState, encoder: str = "") -> PolicyState:
    """Written and read by strict JSON."""
    return restore_durable(json.loads(json.dumps(dump_durable(state), allow_nan=False)), encoder)


def crawled() -> Job:
    """A shard at rung 1 with a baseline, another with five batches measured."""
    job = Job(Settings(ema_alpha=1.0, inflight=False)).warmed()
    job.memory = FULL
    job.batches(8, speed=0.1)
    return job.enter("b").batches(5)


def test_the_round_trip_keeps_rungs_baselines_and_batches_measured() -> None:
    """Of shards and of the card."""
    job = crawled()
    restored = through_a_file(job.policy.state)
    assert restored.shards["a"].ladder.rung == 1
    assert restored.shards["a"].meters == job.policy.state.shards["a"].meters
    assert restored.shards["b"].meters == job.policy.state.shards["b"].meters
    assert len(restored.shards["b"].meters["cuda:0"].samples) == 5
    assert restored.shards["b"].unit == "work"
    assert restored.cards == job.policy.state.cards


def test_nothing_else_is_kept() -> None:
    """EMA, streak, episode, what was pending, workers, batches and readings belong to a process."""
    restored = through_a_file(crawled().stall(3.0).policy.state)
    assert (restored.workers, restored.inflight, restored.memory) == ({}, {}, {})
    for shard in restored.shards.values():
        assert (shard.detectors, shard.ladder.pending, shard.worker, shard.is_open) == ({}, None, "", False)


def test_writing_again_what_was_read_changes_nothing() -> None:
    """Run after run, even where a shard is not opened in between: no process forgets for the next one."""
    content = dump_durable(crawled().policy.state)
    for _ in range(3):
        assert dump_durable(restore_durable(content, "")) == content


def test_a_paused_shard_keeps_what_it_measured() -> None:
    """A driver that leaves a shard for a pause closes it unfinished; the next process goes on measuring."""
    job = Job().batches(1 + 5)
    job.policy.close_shard(job.t, "a", is_done=False)
    job = Job(state=through_a_file(job.policy.state)).batches(1 + 2)
    assert job.source == "card"
    assert job.batches(1).source == "shard"


def test_an_intervention_is_never_forgotten() -> None:
    """A shard at the top of the ladder is there in every later run."""
    job = Job(Settings(ema_alpha=1.0, inflight=False)).warmed()
    job.memory = FULL
    job.batches(40, speed=0.1).enter("b")
    assert through_a_file(through_a_file(job.policy.state), "another encoder").shards["a"].ladder.rung == 3


@pytest.mark.parametrize("outcome", Outcome)
def test_only_a_demotion_that_was_not_refused_sends_the_shard_to_the_cpu(outcome: Outcome) -> None:
    """Vetoed, passed over or failed, its rung is used up; in no later run is it a demotion."""
    job = Job(Settings(action="cpu", ema_alpha=1.0, inflight=False)).warmed()
    job.memory = FULL
    job.batches(8, speed=0.1)
    ladder = job.policy.state.shards["a"].ladder
    assert (ladder.rung, ladder.pending, ladder.is_demoted) == (3, None, True), "the job has applied it"
    ladder.pending = Pending(99, ActionKind.DEMOTE_CPU, job.t)
    before = durable_mark(job.policy.state)
    job.policy.resolve("a", 99, outcome)
    refused = outcome in (Outcome.VETOED, Outcome.PASSED_OVER, Outcome.FAILED)
    assert (durable_mark(job.policy.state) != before) == refused
    for state in (job.policy.state, through_a_file(through_a_file(job.policy.state))):
        assert (state.shards["a"].ladder.rung, state.shards["a"].ladder.is_demoted) == (3, not refused)


def test_a_demotion_that_the_driver_cannot_take_is_none() -> None:
    """Its rung is passed over, and the next run leaves the shard on its card."""
    job = Job(Settings(action="cpu", ema_alpha=1.0, inflight=False)).warmed()
    job.policy.state.shards["a"].can_take = [ActionKind.EMPTY_CACHE]
    job.memory = FULL
    job.batches(8, speed=0.1)
    ladder = through_a_file(job.policy.state).shards["a"].ladder
    assert (ladder.rung, ladder.is_demoted) == (3, False)


def test_a_file_of_before_is_read() -> None:
    """It does not say whether a demotion was refused: a shard at the top of the ladder is the CPU's, as it was then."""
    content = dump_durable(crawled().policy.state)
    for shard in content["shards"].values():
        del shard["is_spared"], shard["refused"], shard["costs"]
    del content["costs"]
    content["shards"]["a"]["rung"] = 3
    assert restore_durable(content, "").shards["a"].ladder.is_demoted


def test_the_cards_of_another_encoder_are_kept_apart() -> None:
    """They are of use when that encoder comes back."""
    job = Job()
    job.policy.state.encoder = "m1"
    job.warmed()
    restored = through_a_file(job.policy.state, "m2")
    assert restored.encoder == "m2"
    assert restored.cards == job.policy.state.cards
    assert restored.shards["a"].unit == ""


def without_sums(state: PolicyState) -> dict[str, Any]:
    """What is kept, without what grows with each batch: that is written with the next change."""
    content = dump_durable(state)
    for shard in content["shards"].values():
        for sum_of_batches in ("done", "cycle_seconds", "cycle_work", "stuck"):
            del shard["costs"][sum_of_batches]
    return content


def test_the_mark_differs_when_the_content_does() -> None:
    """What the owner asks after each batch to know whether to write."""
    job = Job(Settings(ema_alpha=1.0, inflight=False)).batches(1)
    content, mark = without_sums(job.policy.state), durable_mark(job.policy.state)
    changes = 0
    for n in range(40):
        job.memory = FULL if n > 10 else None
        job.batches(1, speed=0.1 if n > 10 else 1.0)
        if n == 30:
            job.enter("b")
        if without_sums(job.policy.state) != content:
            changes += 1
            assert durable_mark(job.policy.state) != mark
        content, mark = without_sums(job.policy.state), durable_mark(job.policy.state)
    assert changes > 10


@given(SETTINGS, steps())
@settings(max_examples=30)
def test_the_text_says_the_same_at_every_moment(knobs: Settings, script: list[Step]) -> None:
    """What it takes over from the time before is still so."""
    text = DurableText()

    def look(job: Job) -> None:
        assert json.loads(text.of(job.policy.state)) == dump_durable(job.policy.state)

    play(Job(knobs), script, look)


@pytest.mark.parametrize("are_open", [True, False])
def test_a_batch_costs_the_same_beside_many_shards(are_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the shard that has changed, and once a window the card's history, is written anew."""
    lines: list[str] = []
    line = state_module._line

    def counted(key: str, content: object) -> str:
        lines.append(key)
        return line(key, content)

    monkeypatch.setattr(state_module, "_line", counted)
    job, text = Job(), DurableText()
    for n in range(40):
        job.enter(f"shard {n}", leave=not are_open).warmed()
    job.enter("last", leave=not are_open).batches(2)
    before = text.of(job.policy.state)
    lines.clear()
    for _ in range(7):
        job.batches(1)
        text.of(job.policy.state)
    assert set(lines) <= {"last", CardBaselines.key(job.device, "", "work"), *(["shard 39"] if are_open else [])}
    assert len(lines) <= 9
    # A shard a line, the head, the cards, their history, their first batches and their costs.
    assert len(before.splitlines()) == 41 + 5


def test_a_name_of_any_text_comes_back() -> None:
    """A folder's name may hold bytes that are no text, and characters that JSON escapes."""
    job = Job()
    for name in ("caf\udce9", 'quote " and \\', "\x00\x1b[2J", "\u2028", "x" * 5000):
        job.enter(name).warmed()
    text = DurableText().of(job.policy.state)
    assert text.isascii()
    assert restore_durable(json.loads(text), "").shards.keys() == job.policy.state.shards.keys()


def test_what_json_cannot_hold_is_refused() -> None:
    """An infinity in the file would be no JSON for the next reader."""
    job = Job().warmed()
    job.policy.state.shards["a"].meters["cuda:0"].baseline = Baseline(float("inf"), 1.0, 1.0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        DurableText().of(job.policy.state)


def damaged(path: list[str | int], value: object) -> Any:
    """The file's content with one value replaced; `...` takes it away."""
    content = json.loads(json.dumps(dump_durable(crawled().policy.state)))
    at = content
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return content


CARD = "cuda:0|work|"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 2, r"DurableState.version is 2; accepted: 1"),
        (["version"], "1", r"DurableState.version is '1'; accepted: int"),
        (["version"], True, r"DurableState.version is True; accepted: int"),
        (["encoder"], None, r"DurableState.encoder is None; accepted: str"),
        (["shards"], [], r"DurableState.shards is \[\]; accepted: an object"),
        (["shards"], ..., r"DurableState is .*; accepted: an object with cards, costs, encoder, shards, version"),
        (["costs"], {"c": {"spans": [1e308, 1e308]}}, r"DurableState.costs\['c'\]"),
        (["shards", "a"], 5, r"DurableState.shards\['a'\] is 5; accepted: an object"),
        (["shards", "a", "rung"], 4, r"DurableState.shards\['a'\].rung is 4; accepted: 0 to 3"),
        (["shards", "a", "rung"], -1, r"DurableState.shards\['a'\].rung is -1; accepted: 0 to 3"),
        (["shards", "a", "rung"], 1.5, r"DurableState.shards\['a'\].rung is 1.5; accepted: int"),
        (["shards", "a", "rung"], None, r"DurableState.shards\['a'\].rung is None; accepted: int"),
        (["shards", "a", "unit"], "miles", r"DurableState.shards\['a'\].unit is 'miles'; accepted: one of"),
        (["shards", "a", "meters", "cuda:0", "baseline", "rate"], 0, r"DurableState.shards\['a'\].meters\['cuda:0'\]"
            r".baseline: rate is 0.0; accepted: a number > 0"),
        (["shards", "a", "meters", "cuda:0", "baseline", "work"], -1.0, r"baseline: work is -1.0; accepted: "),
        (["shards", "a", "meters", "cuda:0", "baseline", "genes_rate"], "x", r"genes_rate is 'x'; accepted: a finite"),
        (["shards", "a", "meters", "cuda:0", "baseline", "rate"], float("nan"), r"rate is nan; accepted: a finite num"),
        (["shards", "a", "meters", "cuda:0", "baseline", "rate"], float("inf"), r"rate is inf; accepted: a finite num"),
        (["shards", "a", "meters", "cuda:0", "baseline", "rate"], 10**400, r"rate is 10+; accepted: a finite number"),
        (["shards", "a", "meters", "cuda:0", "baseline", "rate"], True, r"rate is True; accepted: a finite number"),
        (["shards", "b", "meters", "cuda:0", "samples", 2], None, r"samples\[2\] is None; accepted: an object"),
        (["shards", "b", "meters", "cuda:0", "samples"], {}, r"samples is \{\}; accepted: a list"),
        (["cards", "cards", CARD], None, r"DurableState.cards.cards\['cuda:0\|work\|'\] is None; accepted: a list"),
        (["cards", "cards", CARD, 0, "rate"], ..., r"cards\['cuda:0\|work\|'\]\[0\] is .*; accepted: an object with"),
    ],
)  # fmt: skip
def test_damage_is_one_value_error_with_a_path(path: list[str | int], value: object, message: str) -> None:
    """Never a strange verdict later: it says where, what was found and what is accepted."""
    with pytest.raises(ValueError, match=message):
        restore_durable(damaged(path, value), "")


@pytest.mark.parametrize("content", [None, 3, "x", [], {}, [1], {"version": 1}])
def test_another_files_content_is_a_value_error(content: object) -> None:
    """Whatever JSON it is."""
    with pytest.raises(ValueError, match=r"DurableState is .*; accepted: an object"):
        restore_durable(content, "")


def test_a_file_of_a_later_version_keeps_what_this_one_knows() -> None:
    """It has added to the whole, to a shard, to its costs and to a card's: rungs and baselines are still read."""
    content = json.loads(json.dumps(dump_durable(crawled().policy.state)))
    expected = restore_durable(copy.deepcopy(content), "")
    parts = [content, content["cards"], content["shards"]["a"], content["shards"]["a"]["costs"]]
    for part in (*parts, *content["shards"]["a"]["meters"].values(), *content["costs"].values()):
        part["later"] = [1]
    assert restore_durable(content, "") == expected


def test_a_message_is_short() -> None:
    """A large damaged value is cut."""
    content = damaged(["shards", "a", "rung"], "x" * 10_000)
    with pytest.raises(ValueError, match="rung is") as caught:
        restore_durable(content, "")
    assert len(str(caught.value)) < 200


def test_every_single_damage_is_a_value_error_or_harmless() -> None:
    """Each value of the file replaced by each of these: a ValueError, or a policy that works on."""
    content = json.loads(json.dumps(dump_durable(crawled().policy.state)))
    paths: list[list[str | int]] = []

    def walk(value: Any, path: list[str | int]) -> None:
        if path:
            paths.append(path)
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            walk(value[key], [*path, key])

    walk(content, [])
    assert len(paths) > 30
    damage: tuple[Any, ...] = (None, -1, 0, 1e308, 5e-324, "", "x", [], {}, True, [None], float("nan"), 10**400)
    for path in paths:
        for value in damage:
            broken = copy.deepcopy(content)
            at = broken
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] = value
            try:
                state = restore_durable(broken, "")
            except ValueError:
                continue
            Job(Settings(inflight=True), state=state, memory=FULL).batches(3).stall(200.0).enter("b").batches(3)
