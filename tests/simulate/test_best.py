"""`best` is a bound: no policy has a better time, with a cap or without one, and it is close to what can be had."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helix_crawl_otel.modelled_card import CardModel
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.simulate.best import best_plan
from helix_crawl_otel.simulate.compare import compare
from helix_crawl_otel.simulate.loop import GIVE_UP_SECONDS, play
from helix_crawl_otel.simulate.policies import PlannedPolicy, SimulatedAction
from helix_crawl_otel.simulate.scenario import SCENARIOS, Scenario, Stretch
from tests.simulate.results import result

cards = st.builds(
    CardModel,
    limit_gib=st.floats(4, 24),
    context_gib=st.floats(0.5, 6),
    activation_mib_per_token=st.floats(0, 0.3),
    tokens_per_second=st.floats(500, 20_000),
    spill_cost=st.floats(0, 200),
    spill_power=st.floats(0.5, 3),
    start_seconds=st.floats(1, 60),
    warmup_seconds=st.floats(0, 20),
    memory_return_seconds=st.floats(0, 60),
    release_seconds=st.floats(0, 1),
    cpu_tokens_per_second=st.floats(50, 20_000),
    cpu_start_seconds=st.floats(0, 60),
    heals=st.sampled_from([0, 0, 1]),
    layers=st.sampled_from([0, 0, 2]),
)


def stretches(most_genes: int) -> st.SearchStrategy[tuple[Stretch, ...]]:
    """One to four stretches of up to three shards, with what can happen in them."""
    one = st.builds(
        Stretch,
        name=st.sampled_from(["a", "b", "c"]),
        genes=st.integers(1, most_genes),
        batch_size=st.sampled_from([16, 64]),
        tokens=st.tuples(st.integers(16, 256), st.integers(256, 1024)),
        pad=st.sampled_from([4, 32]),
        fragment_gib=st.floats(0, 1),
        surge_gib=st.sampled_from([0.0, 0.0, 1.0, 5.0]),
        leak_gib=st.sampled_from([0.0, 0.0, 0.1]),
        others_gib=st.sampled_from([0.0, 0.0, 2.0]),
        stalls=st.sampled_from([False, False, True]),
        speed=st.sampled_from([1.0, 0.5]),
        read_seconds=st.sampled_from([0.0, 5.0]),
    )
    return st.lists(one, min_size=1, max_size=4).map(tuple)


def scenarios(most_genes: int) -> st.SearchStrategy[Scenario]:
    """Cards and shards of any kind."""
    return st.builds(
        Scenario,
        name=st.just("random"),
        text=st.just("random"),
        stretches=stretches(most_genes),
        card=cards,
        release_every=st.sampled_from([0, 3, 64]),
        seed=st.integers(0, 1000),
    )


short_scenarios = st.builds(
    Scenario,
    name=st.just("random"),
    text=st.just("random"),
    stretches=st.tuples(
        st.floats(0, 4),
        st.lists(
            st.builds(
                Stretch,
                name=st.sampled_from(["a", "b"]),
                genes=st.integers(1, 64),
                tokens=st.just((128, 1024)),
                surge_gib=st.sampled_from([0.0, 1.0, 4.0, 8.0]),
                leak_gib=st.sampled_from([0.0, 0.0, 1.0]),
                others_gib=st.sampled_from([0.0, 0.0, 2.0]),
                stalls=st.sampled_from([False, False, False, True]),
                speed=st.sampled_from([1.0, 0.1]),
            ),
            min_size=2,
            max_size=4,
        ),
    ).map(lambda drawn: tuple(replace(stretch, fragment_gib=drawn[0]) for stretch in drawn[1])),
    card=cards,
    seed=st.integers(0, 1000),
)
"""A padded length leaves the same fragment wherever it is met: else a context that has met it when it left less is
better than an empty one, and the bound holds for fresh ones only."""


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_best_can_be_had(name: str) -> None:
    """The plan, played in the closed loop, takes the time that was promised."""
    comparison = result(name)
    plan = best_plan(comparison.scenario)
    assert comparison.runs["best"].finish_seconds == pytest.approx(plan.seconds)


@pytest.mark.parametrize("name", [scenario.name for scenario in SCENARIOS])
def test_no_policy_is_faster_than_best(name: str) -> None:
    """In every scenario."""
    for row in result(name).rows:
        assert row.ratio_to_best is None or row.ratio_to_best >= 1 - 1e-9


@settings(max_examples=30)
@given(scenario=scenarios(1_000), window=st.integers(1, 4), action=st.sampled_from(["ladder", "cpu", "off"]))
def test_random_cards_finish_or_are_bounded_and_none_beats_best(scenario: Scenario, window: int, action: str) -> None:
    """Never a crash; genes are accounted for; best is a lower bound, and can be had."""
    comparison = compare(scenario, Settings(window=window, action=action))
    plan = best_plan(scenario)
    if plan.seconds <= GIVE_UP_SECONDS:
        assert comparison.runs["best"].finish_seconds == pytest.approx(plan.seconds)
    for run in comparison.runs.values():
        done = list(dict.fromkeys(item.load.index for item in run.attempts if item.finished))
        assert done == list(range(len(done)))
        if run.finish_seconds is None:
            assert run.attempts[-1].ended <= GIVE_UP_SECONDS
        else:
            assert run.genes_encoded == scenario.genes
            assert run.finish_seconds >= plan.seconds * (1 - 1e-9)


CPU_FIRST = Scenario(
    "cpu-first",
    "one gene on the CPU, then a fresh context: no memory has to come back first",
    (Stretch("a", 1), Stretch("a", 64, stalls=True)),
    card=CardModel(start_seconds=1.0, warmup_seconds=0.0, memory_return_seconds=20.0, cpu_start_seconds=1.0),
)
BEARABLE = Scenario(
    "bearable",
    "what spills costs less than the release that would prevent it",
    (Stretch("a", 64), Stretch("a", 64, surge_gib=8.0), Stretch("a", 64), Stretch("a", 64)),
    card=CardModel(spill_cost=0.001),
)
STEPS = (
    None,
    SimulatedAction.EMPTY_CACHE,
    SimulatedAction.RECYCLE,
    SimulatedAction.DEMOTE_CPU,
    SimulatedAction.RETURN,
)


class _Followed(PlannedPolicy):
    """A plan on the card as it is, not on the ideal one."""

    foresees = False

    def __init__(self, steps: dict[int, SimulatedAction], first_device: str, *, caps: bool) -> None:
        super().__init__(steps, first_device)
        self.caps = caps


@settings(max_examples=40)
@given(scenario=short_scenarios)
@example(scenario=CPU_FIRST)
@example(scenario=BEARABLE)
def test_no_plan_passes_the_bound_and_on_the_ideal_card_one_meets_it(scenario: Scenario) -> None:
    """On runs of two to four batches every plan is tried, with a cap and without one."""
    least = best_plan(scenario).seconds
    met = []
    for first_device, steps in product(("cuda:0", "cpu"), product(STEPS, repeat=scenario.batches - 1)):
        plan = {at + 1: step for at, step in enumerate(steps) if step is not None}
        for policy in (
            PlannedPolicy(dict(plan), first_device),
            _Followed(dict(plan), first_device, caps=False),
            _Followed(dict(plan), first_device, caps=True),
        ):
            finish = play(scenario, policy).finish_seconds
            assert finish is None or finish >= least * (1 - 1e-9), (first_device, steps)
            if policy.foresees:
                met.append(GIVE_UP_SECONDS if finish is None else finish)
    assert min(met) == pytest.approx(min(least, GIVE_UP_SECONDS))


def test_best_takes_the_cpu_where_the_card_is_too_small() -> None:
    """Weights alone do not fit: every context spills from its first batch."""
    card = CardModel(limit_gib=4.0, context_gib=5.0)
    scenario = Scenario("small", "a card that is too small", (Stretch("a", 1_000),), card=card)
    plan = best_plan(scenario)
    assert plan.first_device == "cpu"
    assert plan.steps == {}
