"""Promises of what replay makes of a timeline. Source: DESIGN.md, section 3.6."""

from __future__ import annotations

import tracemalloc

import pytest

from helix_crawl_otel.commands.replay import ReplayResult, replay
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.timeline import ActionEvent, BatchEvent, Event, MemoryEvent, RunEvent, WorkerEvent

GPU = "cuda:0"
HEALTHY_SECONDS = 4.0
SLICE_SECONDS = 20.0
"""Of a batch of the usual work: 5 times as long as a healthy one."""

SOON = 27.0
"""Of a batch that crawls at 0.15 of its speed: its end is waited for."""

SETTINGS = Settings()


def batch(t: float, seconds: float = HEALTHY_SECONDS, shard: str = "a", worker: str = GPU) -> BatchEvent:
    """A batch of 64 genes that ended at `t`."""
    return BatchEvent(t, shard, GPU, worker, 64, 64_000, seconds)


def full(t: float, used: int = 119) -> MemoryEvent:
    """A reading of a card of 120."""
    return MemoryEvent(t, GPU, used, 120)


def run(encoder: str = "", **config: object) -> RunEvent:
    """A run line."""
    return RunEvent(0.0, config, encoder, "", "")


def healthy(n: int = 9, t: float = 0.0, shard: str = "a", worker: str = GPU) -> list[Event]:
    """So many healthy batches back to back, on a full card: 9 are a warm-up and a baseline."""
    ends = [t + HEALTHY_SECONDS * (k + 1) for k in range(n)]
    return [*map(full, ends), *(batch(end, shard=shard, worker=worker) for end in ends)]


def crawl(n: int, t: float, seconds: float = 200.0, shard: str = "a", worker: str = GPU) -> list[Event]:
    """So many batches at a fiftieth of the speed, with a reading at the beginning of each."""
    begins = [t + seconds * k for k in range(n)]
    return [*map(full, begins), *(batch(begin + seconds, seconds, shard, worker) for begin in begins)]


def kinds(result: ReplayResult) -> list[str]:
    """What was issued."""
    return [decision.kind.value for decision in result.issued() if decision.kind]


def only(result: ReplayResult, what: DecisionKind) -> list[Decision]:
    """The decisions of one kind."""
    return [decision for _, decision in result.decisions if decision.what is what]


def test_nothing_is_nothing() -> None:
    """No events, or a run that recorded no batch, is an empty result."""
    nothing: list[list[Event]] = [[], [run()], [run(), WorkerEvent(0.1, GPU, GPU, "first")]]
    for events in nothing:
        result = replay(events, SETTINGS)
        assert (result.batches, result.trips, result.decisions) == (0, 0, [])
        assert result.actions == {"DETECT": 0, "EMPTY_CACHE": 0, "RECYCLE": 0, "DEMOTE_CPU": 0}


def test_a_crawl_is_seen_inside_its_batch() -> None:
    """Slices lie before the line: the trip is at a slice, not at the end of the batch."""
    result = replay([*healthy(), *crawl(1, 36.0, 1000.0)], SETTINGS)
    detected = result.issued()[0]
    slices = (detected.t - 36.0) / SLICE_SECONDS
    assert slices == pytest.approx(round(slices))
    assert 8 <= slices <= 15
    assert detected.evidence["inflight_seconds"] == pytest.approx(slices * SLICE_SECONDS)


def test_inflight_off_sees_ends_only() -> None:
    """With the knob off a batch counts when it ends."""
    result = replay([*healthy(), *crawl(20, 36.0)], Settings(inflight=False))
    ends = {event.t for event in crawl(20, 36.0) if isinstance(event, BatchEvent)}
    assert kinds(result)[:2] == ["DETECT", "EMPTY_CACHE"]
    assert {decision.t for decision in result.issued()} <= ends


def test_an_action_is_applied_at_the_end_of_the_batch() -> None:
    """The release asked for inside a batch that ends soon: no overdue, and the next trip is the next rung."""
    result = replay([*healthy(), *crawl(9, 36.0, SOON), *crawl(1, 36.0 + 9 * SOON, 2000.0)], SETTINGS)
    assert kinds(result)[:3] == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    assert result.issued()[1].t < 36.0 + 9 * SOON < result.issued()[2].t
    assert [decision.kind for decision in only(result, DecisionKind.OVERDUE)] == [ActionKind.RECYCLE]


def test_an_overdue_release_is_the_supervisors_recycle() -> None:
    """The batch would go on for long: its worker is ended; the rest of it is not judged, its line ignored."""
    result = replay([*healthy(), *crawl(1, 36.0, 1500.0)], SETTINGS)
    assert kinds(result) == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    release, recycle = result.issued()[1:]
    assert recycle.forced
    assert recycle.t == release.t == pytest.approx(36.0 + 8 * SLICE_SECONDS)
    assert [decision.t for decision in only(result, DecisionKind.OVERDUE)] == [recycle.t]
    assert (result.cut_batches, result.batches) == (1, 10)
    assert result.trips == 1


def test_a_batch_that_ends_as_it_trips_has_reached_its_boundary() -> None:
    """Nothing is overdue at the very end of a batch."""
    ends = replay([*healthy(), *crawl(1, 36.0, 1500.0)], SETTINGS).issued()[1].t
    on_time = replay([*healthy(), *crawl(1, 36.0, ends - 36.0)], SETTINGS)
    late = replay([*healthy(), *crawl(1, 36.0, ends - 36.0 + 0.001)], SETTINGS)
    assert (on_time.count(DecisionKind.OVERDUE), on_time.cut_batches) == (0, 0)
    assert (late.count(DecisionKind.OVERDUE), late.cut_batches) == (1, 1)


def test_an_overdue_recycle_ends_the_worker_too() -> None:
    """The second trip inside a long batch, after one observation before it: what ends the worker is forced at once."""
    short = 36.0 + 9 * SOON
    events = [*healthy(), *crawl(9, 36.0, SOON), *crawl(1, short, 1500.0), *healthy(1, short + 1500.0)]
    result = replay(events, SETTINGS)
    assert kinds(result) == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    recycle, (overdue,) = result.issued()[2], only(result, DecisionKind.OVERDUE)
    assert overdue.forced
    assert overdue.t == recycle.t == pytest.approx(short + 7 * SLICE_SECONDS)
    assert result.cut_batches == 1


def test_after_a_recycle_the_worker_is_a_new_one() -> None:
    """Its first batch is warm-up, its EMA begins anew, the shard's rung and baseline stay: a crawl goes to the CPU."""
    end = 36.0 + 1500.0
    result = replay([*healthy(), *crawl(1, 36.0, 1500.0), *healthy(3, end), *crawl(12, end + 12.0)], SETTINGS)
    assert kinds(result) == ["DETECT", "EMPTY_CACHE", "RECYCLE", "DETECT", "DEMOTE_CPU", "DETECT"]
    demote = result.issued()[4]
    assert (demote.rung, demote.evidence["baseline"]) == (3, 16.0)
    warm = replay([*healthy(), *crawl(1, 36.0, 1500.0), *crawl(1, end, 400.0)], SETTINGS)
    assert kinds(warm) == ["DETECT", "EMPTY_CACHE", "RECYCLE"], "the first batch of a worker is warm-up"


def test_a_hang_is_a_crash_of_its_batch() -> None:
    """Half an hour without a known slice: no trip, no rung, the line ignored, another worker after it."""
    result = replay([batch(2000.0, 2000.0), *healthy(9, 2000.0)], SETTINGS)
    assert [decision.t for decision in only(result, DecisionKind.HANG)] == [1800.0]
    assert (result.trips, result.issued(), result.cut_batches, result.batches) == (0, [], 1, 10)


def test_nothing_is_decided_about_a_batch_after_its_worker_was_ended() -> None:
    """A crawl that nobody may answer trips at every window until the hang after 100 slices, and no further."""
    off = Settings(action="off")
    to_the_hang = replay([*healthy(), *crawl(1, 36.0, 100 * SLICE_SECONDS + 1.0)], off)
    far_beyond = replay([*healthy(), *crawl(1, 36.0, 300 * SLICE_SECONDS)], off)
    assert [decision.t for decision in only(far_beyond, DecisionKind.HANG)] == [
        pytest.approx(36.0 + 100 * SLICE_SECONDS)
    ]
    assert far_beyond.trips == to_the_hang.trips == 100 // 8
    assert far_beyond.decisions == to_the_hang.decisions


def test_a_reading_of_the_moment_comes_first() -> None:
    """A reading at the time at which the decisive slice is due counts for that slice, wherever its line stands."""
    decisive = replay([*healthy(), *crawl(1, 36.0, 1000.0)], SETTINGS).issued()[0].t
    low = [event for event in healthy() if isinstance(event, BatchEvent)]
    slow = batch(1036.0, 1000.0)
    since = [full(36.0 + SLICE_SECONDS * k, 10) for k in range(5)]
    eighth_last = decisive - 7 * SLICE_SECONDS
    decisive_ones: list[Event] = [full(eighth_last), slow]
    for events in (decisive_ones, decisive_ones[::-1]):
        result = replay([*low, *since, *events], SETTINGS)
        assert result.issued()[0].t == pytest.approx(decisive)
    later = replay([*low, *since, slow, full(eighth_last + 0.001)], SETTINGS)
    assert later.issued()[0].t == pytest.approx(decisive + SLICE_SECONDS)


def test_a_run_line_starts_a_new_time_axis() -> None:
    """Rung and baseline carry on; EMA, streak, episode and readings do not; `t` may start at 0 again."""
    first = [run(), *healthy(), *crawl(1, 36.0, 400.0)]
    assert kinds(replay(first, SETTINGS)) == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    second = [run(), *healthy(1), *crawl(12, 4.0)]
    result = replay([*first, *second], SETTINGS)
    assert kinds(result)[3:5] == ["DETECT", "DEMOTE_CPU"]
    assert [number for number, _ in result.decisions] == sorted(number for number, _ in result.decisions)
    assert result.decisions[-1][0] == 1
    assert len(result.runs) == 2
    blind = [event for event in second if not isinstance(event, MemoryEvent)]
    assert kinds(replay([*first, *blind], SETTINGS)) == kinds(replay(first, SETTINGS))


def test_events_of_different_runs_are_not_mixed() -> None:
    """Two runs of the same times are two runs."""
    result = replay([run(), *healthy(5), run(), *healthy(5)], SETTINGS)
    assert (result.batches, result.seconds, len(result.shards)) == (10, 40.0, 1)


def test_a_baseline_belongs_to_one_encoder() -> None:
    """Another encoder in the next run measures itself anew; the rung stays."""
    first = [run("small"), *healthy(), *crawl(1, 36.0, 400.0)]
    slow = crawl(12, 0.0)
    assert kinds(replay([*first, run("small"), *healthy(1), *crawl(12, 4.0)], SETTINGS))[3:] == [
        "DETECT",
        "DEMOTE_CPU",
        "DETECT",
    ]
    assert kinds(replay([*first, run("large"), *slow], SETTINGS))[3:] == []
    other = replay([*first, run("large"), *healthy(), *crawl(12, 36.0)], SETTINGS)
    assert kinds(other)[3:5] == ["DETECT", "DEMOTE_CPU"]
    assert replay([*first, run("large")], SETTINGS).trips == replay(first, SETTINGS).trips > 0
    assert other.trips > replay(first, SETTINGS).trips
    assert len({decision.action_id for decision in other.issued()}) == len(other.issued())


def test_a_worker_line_is_a_change_of_worker() -> None:
    """Rule 9: a streak does not survive it; without the line the same batches trip."""
    slow = crawl(6, 36.0, 60.0)
    detected = replay([*healthy(), *slow], SETTINGS).issued()[0].t
    assert 36.0 < detected < 36.0 + 6 * 60.0
    worker = [WorkerEvent(36.0 + 60.0 * k, GPU, GPU, "crash") for k in range(7)]
    assert replay([*worker, *healthy(), *slow], SETTINGS).trips == 0


def test_workers_that_share_a_device_are_told_apart() -> None:
    """A new worker beside the crawling one changes nothing for it."""
    other = WorkerEvent(100.0, GPU, "two", "crash")
    events = [*healthy(worker="one"), *crawl(1, 36.0, 1000.0, worker="one"), other]
    assert kinds(replay(events, SETTINGS)) == ["DETECT", "EMPTY_CACHE", "RECYCLE"]
    same = [*events[:-1], other._replace(worker="one")]
    assert replay(same, SETTINGS).issued() == [], "its own successor's first batch is warm-up"


def test_ending_one_worker_leaves_the_other() -> None:
    """Two shards at once, one of them stuck: the other's batches all count."""
    stuck = [*healthy(shard="a", worker="one"), *crawl(1, 36.0, 1500.0, "a", "one")]
    fine = healthy(300, shard="b", worker="two")
    result = replay([*stuck, *fine], SETTINGS)
    assert {decision.shard for decision in result.issued()} == {"a"}
    assert (result.cut_batches, result.batches) == (1, 310)


def test_two_shards_are_judged_each_for_itself() -> None:
    """Decisions come in the order of time, whichever batch they are about."""
    events = [
        *healthy(shard="a", worker="one"),
        *healthy(shard="b", worker="two"),
        *crawl(1, 36.0, 1500.0, "a", "one"),
        *crawl(1, 50.0, 1500.0, "b", "two"),
    ]
    result = replay(events, SETTINGS)
    times = [decision.t for _, decision in result.decisions]
    assert times == sorted(times)
    assert [decision.shard for decision in result.issued()] == ["a", "a", "a", "b", "b", "b"]


def test_rounded_times_overlap_without_harm() -> None:
    """`t` and `seconds` of two decimals: batches seem to begin before the one before has ended."""
    exact: list[Event] = []
    rounded: list[Event] = []
    t = 0.0
    for n in range(60):
        seconds = 4.0 + 0.0037 * n if n < 12 else 60.0 + 0.0037 * n
        t += seconds
        for digits, lines in ((9, exact), (2, rounded)):
            lines += [full(round(t, digits)), batch(round(t, digits), round(seconds, digits))]
    expected, result = replay(exact, SETTINGS), replay(rounded, SETTINGS)
    assert kinds(result) == kinds(expected) == ["DETECT", "EMPTY_CACHE", "RECYCLE", "DETECT", "DEMOTE_CPU", "DETECT"]
    for one, other in zip(result.issued(), expected.issued(), strict=True):
        assert one.t == pytest.approx(other.t, abs=0.1)


def test_whole_seconds_are_enough() -> None:
    """Somebody's log has `t` in whole seconds; batches overlap by up to one."""
    lines: list[Event] = []
    t = 0.0
    for n in range(60):
        seconds = 4.3 if n < 12 else 61.7
        t += seconds
        lines += [full(float(round(t))), batch(float(round(t)), seconds)]
    assert kinds(replay(lines, SETTINGS))[:5] == ["DETECT", "EMPTY_CACHE", "RECYCLE", "DETECT", "DEMOTE_CPU"]


def test_a_sample_that_cannot_be_judged_is_counted() -> None:
    """A shard judged by work ignores a line without; a line that is too short for its time axis is harmless."""
    bare = batch(40.0)._replace(work=None)
    result = replay([*healthy(), bare, batch(1e11, 1e-9)], SETTINGS)
    assert (result.ignored_samples, result.batches, result.trips) == (1, 11, 0)


def test_an_absurd_batch_ends() -> None:
    """A batch of a thousand years is a hang after half an hour, at once."""
    result = replay([*healthy(), batch(1e10, 1e10 - 1000.0), *healthy(2, 1e10)], SETTINGS)
    assert result.count(DecisionKind.HANG) == 1
    huge = [*healthy(), BatchEvent(1e10, "a", GPU, GPU, 64, 1e18, 1e10)]
    assert replay(huge, SETTINGS).issued() == []


def test_recorded_actions_are_counted_and_change_nothing() -> None:
    """What the job's own policy did is shown beside, not followed."""
    acted = [ActionEvent(30.0, "a", "RECYCLE", "applied", {}), ActionEvent(31.0, "a", "RECYCLE", "applied", {})]
    events = [*healthy(), *crawl(1, 36.0, 1000.0)]
    result = replay([*events, *acted], SETTINGS)
    assert result.decisions == replay(events, SETTINGS).decisions
    assert result.recorded == {"RECYCLE": 2}


def test_on_the_cpu_there_is_no_demotion() -> None:
    """A rung that the device makes senseless is passed over; it is not issued."""
    events = [*healthy(worker="cpu"), *crawl(12, 36.0, worker="cpu")]
    moved: list[Event] = [
        event._replace(device="cpu") for event in events if isinstance(event, (BatchEvent, MemoryEvent))
    ]
    result = replay(moved, Settings(action="cpu"))
    assert kinds(result) == ["DETECT"]
    assert [decision.kind for decision in only(result, DecisionKind.PASSED_OVER)] == [ActionKind.DEMOTE_CPU]


def test_recovery_is_a_decision_and_no_action() -> None:
    """A window of healthy batches closes the episode."""
    result = replay([*healthy(), *crawl(9, 36.0, SOON), *healthy(60, 36.0 + 9 * SOON)], SETTINGS)
    assert kinds(result)[:2] == ["DETECT", "EMPTY_CACHE"]
    assert result.count(DecisionKind.RECOVERED) == 1


def test_memory_a_batch_is_small() -> None:
    """A million batches fit a small machine: well under a kilobyte each while one run is held."""
    events = [batch(4.0 * (n + 1), 4.0 + n % 7 / 100) for n in range(5_000)]
    tracemalloc.start()
    try:
        replay(iter(events), SETTINGS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak / len(events) < 400
