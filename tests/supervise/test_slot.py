"""Workers that follow each other in a slot: recycled, demoted, crashed, ended by force, paused, stuck."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest

from helix_crawl_otel.link import channel as channel_module
from helix_crawl_otel.link import messages
from helix_crawl_otel.policy.model import ActionKind, Decision, DecisionKind, MemoryReading
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.job import WorkerStart
from helix_crawl_otel.supervise.rules import Ending, GateState, MemoryGate
from helix_crawl_otel.supervise.slot import GRACE_SECONDS, HELLO_SECONDS, LEAVE_SECONDS, SILENT_SECONDS, Phase, Restart
from tests.supervise.played import SECONDS, PlayedWorker
from tests.supervise.stage import Stage, build_job
from tests.watch.rig import FULL, GENES, TICK

GIB = 1024**3


def test_the_whole_ladder_and_back_to_the_card() -> None:
    """Released, recycled, sent to the CPU for the shard, and the next shard is on the card again."""
    with Stage() as stage:
        first = stage.begin()
        assert first.hello().demoted_shard is None
        assert not first.open("a")
        stage.healthy(first, "a")
        first.acknowledge(stage.crawl(first, "a", "EMPTY_CACHE"))
        first.acknowledge(stage.crawl(first, "a", "RECYCLE"))
        first.leave(75)

        second = stage.next_worker(2)
        second.hello()
        assert not second.open("a")
        second.acknowledge(stage.crawl(second, "a", "DEMOTE_CPU"))
        assert stage.pipeline.status("a").rung == 3
        second.leave(79)

        third = stage.next_worker(3)
        assert third.environ["BGEM3_DEVICE"] == "cpu"
        assert third.environ["CUDA_VISIBLE_DEVICES"] == "-1"
        assert third.hello().demoted_shard == "a"
        assert not third.open("a", "cpu")
        third.close("a")
        third.leave(79)

        fourth = stage.next_worker(4)
        assert "CUDA_VISIBLE_DEVICES" not in fourth.environ
        assert fourth.hello().demoted_shard is None
        assert not fourth.open("b")
        fourth.close("b")
        fourth.leave(0)
        stage.turn()
        assert stage.slot.phase is Phase.OVER
        assert stage.starts() == [("cuda:0", "first"), ("cuda:0", "recycle"), ("cpu", "demote"), ("cuda:0", "resume")]
        assert stage.outcomes() == {"EMPTY_CACHE/applied": 1, "RECYCLE/applied": 1, "DEMOTE_CPU/applied": 1}
        assert stage.series("helix_dense_shards") == {("state=done",): 2}
        assert (stage.run.failures, stage.run.is_paused, stage.run.endings) == ([], False, [])


@pytest.mark.parametrize("code", [0, 1, 75])
def test_a_worker_that_left_for_an_action_goes_on_whatever_its_code(code: int) -> None:
    """Its driver may make 0 or 1 of the exit: the shard is not done, and it is no crash."""
    with Stage() as stage:
        first = stage.begin()
        first.hello()
        first.open("a")
        stage.healthy(first, "a")
        first.acknowledge(stage.crawl(first, "a", "EMPTY_CACHE"))
        first.acknowledge(stage.crawl(first, "a", "RECYCLE"))
        first.close("a", "paused")
        first.leave(code)
        stage.next_worker(2)
        assert stage.starts()[-1] == ("cuda:0", "recycle")
        assert stage.of(events.Crash) == []
        assert stage.series("helix_dense_shards") == {("state=running",): 1}


def test_crashes_back_off_and_then_the_driver_has_failed() -> None:
    """After 1, 2 and 4 s of the clock, not earlier; the fourth crash is the end."""
    with Stage() as stage:
        worker = stage.begin()
        for number, seconds in enumerate((1.0, 2.0, 4.0), 1):
            worker.hello()
            worker.open("a")
            worker.leave(1)
            stage.until(lambda: stage.slot.phase is Phase.WAITING)
            stage.clock.now += seconds - 0.01
            stage.turn()
            assert len(stage.workers) == number
            stage.clock.now += 0.01
            worker = stage.next_worker(number + 1)
        worker.leave(1)
        stage.turn()
        assert stage.slot.phase is Phase.OVER
        assert [crash.retry_in_seconds for crash in stage.of(events.Crash)] == [1.0, 2.0, 4.0, None]
        assert [crash.restarts_left for crash in stage.of(events.Crash)] == [2, 1, 0, 0]
        assert stage.run.failures == ["slot0: it ended with exit code 1"]
        assert stage.series("helix_dense_shards") == {("state=failed",): 1}
        assert stage.series("helix_dense_worker_starts") == {
            ("device=cuda:0", "reason=first"): 1,
            ("device=cuda:0", "reason=crash"): 3,
        }


def test_a_boundary_after_a_batch_gives_the_budget_back_and_one_without_does_not() -> None:
    """A driver that crashes again and again at the same place has committed nothing in between."""
    with Stage() as stage:
        worker = stage.begin()
        for number, has_batch in enumerate((False, True, False), 1):
            worker.hello()
            worker.open("a")
            if has_batch:
                stage.batch(worker, "a")
            worker.boundary("a")
            worker.leave(1)
            stage.until(lambda: stage.slot.phase is Phase.WAITING)
            stage.clock.now += 4.0
            worker = stage.next_worker(number + 1)
        assert [crash.restarts_left for crash in stage.of(events.Crash)] == [2, 2, 1]


def test_a_build_goes_on_with_the_next_shard_when_the_budget_is_spent(tmp_path: Path) -> None:
    """The shard has failed, and the next one begins with a whole budget."""
    job = build_job(tmp_path, ["a", "b"], set())
    with Stage(job, logs=tmp_path) as stage:
        worker = stage.begin()
        for number in range(1, 5):
            worker.hello()
            worker.open("a")
            worker.leave(-11)
            stage.until(lambda: stage.slot.phase is Phase.WAITING or len(stage.workers) > 4)
            stage.clock.now += 4.0
            worker = stage.next_worker(number + 1)
        assert [work.state for work in job.shards] == ["failed", "running"]
        task = worker.hello().task
        assert task is not None
        assert task.assignment.shard == "b"
        assert stage.starts()[-1] == ("cuda:0", "resume")
        worker.leave(1)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.of(events.Crash)[-1].restarts_left == 2
        assert stage.series("helix_dense_shards") == {("state=failed",): 1}


def test_what_was_decided_about_an_earlier_worker_or_a_shard_left_is_void() -> None:
    """The supervisor's thread may come to it late. What concerns this worker counts."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        stage.start_batch(worker, "a")
        t = stage.clock.now

        def hang(t: float, shard: str, name: str) -> Decision:
            return Decision(t, DecisionKind.HANG, shard, "cuda:0", name, forced=True)

        stage.slot.force(hang(t - 0.1, "a", "slot0"))
        stage.slot.force(hang(t, "b", "slot0"))
        stage.slot.force(hang(t, "a", "slot1"))
        stage.turn()
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        stage.slot.force(hang(t, "a", "slot0"))
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.whys() == ["a batch hung and its worker was ended"]
        stage.slot.force(hang(stage.clock.now, "a", "slot0"))
        stage.clock.now += 1.0
        stage.next_worker(2)


def test_what_a_worker_has_said_is_read_before_it_is_ended_for_a_hang() -> None:
    """The policy looked at the clock before the channel was read: the batch had ended long ago, and so had others."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        stage.start_batch(worker, "a")
        stage.slot.force(Decision(stage.clock.now, DecisionKind.HANG, "a", "cuda:0", "slot0", forced=True))
        stage.turn()
        worker.finish(4.0)
        worker.sync()
        stage.clock.now += 0.1
        stage.start_batch(worker, "a", batch=2)
        for _ in range(5):
            stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        assert stage.run.totals.encoded == GENES


def test_a_worker_that_talks_of_another_shard_all_the_time_does_not_save_the_batch_that_hangs() -> None:
    """A driver with two threads: what it says is waited for only so long."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        worker.open("b")
        stage.start_batch(worker, "a")
        stage.slot.force(Decision(stage.clock.now, DecisionKind.HANG, "a", "cuda:0", "slot0", forced=True))
        for number in range(2, 1000):
            stage.start_batch(worker, "b", batch=number)
            stage.clock.now += 0.1
            stage.turn()
            if stage.slot.phase is not Phase.RUNNING:
                break
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.whys() == ["a batch hung and its worker was ended"]


@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
def test_the_time_in_which_the_supervisor_was_stopped_is_no_batchs(tmp_path: Path, device: str) -> None:
    """Alone or with its worker (SIGSTOP, `docker pause`, Ctrl-Z): nothing hangs, no action is late, no memory stale."""
    with Stage(build_job(tmp_path, ["a"], set()), [device], logs=tmp_path, may_stop=True) as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a", device)
        stage.start_batch(worker, "a", device)
        for _ in range(5):
            stage.clock.now += 3000.0
            stage.pipeline.tick()
            stage.turn()
            stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        worker.finish(4.0)
        worker.sync()
        stage.clock.now += 1e6
        stage.turn()
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING, "silent, and no batch in flight"
        worker.leave(-9)
        stage.turn()
        stage.clock.now += 3000.0
        stage.turn()
        assert stage.slot.phase is Phase.WAITING, "the backoff is not over either"
        stage.clock.now += 1.0
        stage.next_worker(2)


def test_a_driver_that_was_ended_for_a_hang_is_not_done_though_it_leaves_with_0() -> None:
    """It hears SIGTERM and ends in good order, as many do: its work is left, and it is started again."""
    with Stage() as stage:
        worker = stage.begin()
        worker.ended_code = 0
        worker.hello()
        worker.open("a")
        stage.start_batch(worker, "a")
        stage.slot.force(Decision(stage.clock.now, DecisionKind.HANG, "a", "cuda:0", "slot0", forced=True))
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.slot.phase is Phase.WAITING
        assert stage.whys() == ["a batch hung and its worker was ended"]


def test_a_worker_that_has_just_ended_by_itself_is_not_ended_for_an_action() -> None:
    """It is judged by its own code."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        worker.leave(0)
        stage.slot.force(Decision(stage.clock.now, DecisionKind.HANG, "a", "cuda:0", "slot0", forced=True))
        stage.turn()
        assert stage.slot.phase is Phase.OVER
        assert stage.whys() == ["done"]


def test_a_forced_demotion_goes_on_on_the_cpu() -> None:
    """A batch is stuck with DEMOTE_CPU pending: the worker is ended, its shard goes on on the CPU."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        worker.sync()
        decision = Decision(
            stage.clock.now, DecisionKind.OVERDUE, "a", "cuda:0", "slot0", ActionKind.DEMOTE_CPU, 7, 3, forced=True
        )
        stage.slot.force(decision)
        second = stage.next_worker(2)
        assert stage.starts()[-1] == ("cpu", "demote")
        assert second.hello().demoted_shard == "a"
        assert stage.whys() == ["it was ended for DEMOTE_CPU"]


def test_a_worker_on_a_card_that_enters_a_demoted_shard_leaves_it_to_one_on_the_cpu() -> None:
    """Another run has demoted it. Its exit with 79 is asked for, and no crash."""
    with Stage(demoted={"b"}) as stage:
        worker = stage.begin()
        worker.hello()
        assert not worker.open("a")
        worker.close("a")
        assert worker.open("b")
        worker.leave(79)
        second = stage.next_worker(2)
        assert second.hello().demoted_shard == "b"
        assert not second.open("b", "cpu")
        assert stage.starts()[-1] == ("cpu", "demote")
        assert stage.of(events.Crash) == []


def test_a_demoted_shard_never_starts_on_the_card_again() -> None:
    """Its ladder is used up. A driver may come to it once more in the same run, a queue that is drained, say."""
    with Stage(demoted={"a"}) as stage:
        for count in (1, 3):
            worker = stage.next_worker(count) if stage.workers else stage.begin()
            worker.hello()
            assert worker.open("a"), "it has to be left to one on the CPU"
            worker.leave(79)
            on_cpu = stage.next_worker(count + 1)
            assert on_cpu.hello().demoted_shard == "a"
            assert not on_cpu.open("a", "cpu")
            on_cpu.close("a")
            on_cpu.leave(79)


def test_a_slot_that_waits_for_a_backoff_is_over_when_the_operator_pauses() -> None:
    """Nothing is started any more, and the shard is paused, not failed."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        worker.leave(1)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        stage.run.pausing = True
        stage.slot.pause()
        assert stage.slot.phase is Phase.OVER
        assert stage.run.is_paused
        assert stage.series("helix_dense_shards") == {("state=paused",): 1}
        stage.clock.now += 10
        stage.turn()
        assert len(stage.workers) == 1


def leave_card_full(stage: Stage, card: list[int]) -> None:
    """The first worker leaves; three seconds later the card that it has filled is as full as before."""
    worker = stage.begin()
    worker.hello()
    card[0] = 11 * GIB
    stage.until(lambda: stage.memory.used("cuda:0") == 11 * GIB)
    worker.leave(1)
    stage.until(lambda: stage.slot.phase is Phase.WAITING)
    stage.clock.now += 3.0
    stage.turn()


def test_the_next_worker_waits_until_the_cards_memory_has_come_back() -> None:
    """To within 512 MiB of what was used before its predecessor; how long that took is told."""
    card = [1 * GIB]
    with Stage(card=card) as stage:
        leave_card_full(stage, card)
        assert len(stage.workers) == 1
        card[0] = GIB + 512 * 1024**2
        stage.next_worker(2)
        assert [gate.state for gate in stage.of(events.Gate)] == ["waiting", "back"]
        assert stage.of(events.Gate)[0].used_bytes == 11 * GIB
        assert stage.of(events.Gate)[0].before_bytes == GIB
        assert stage.run.totals.gate_seconds == 3.0


def test_a_slot_that_waits_for_a_cards_memory_is_over_when_the_operator_pauses() -> None:
    """As for a backoff."""
    card = [1 * GIB]
    with Stage(card=card) as stage:
        leave_card_full(stage, card)
        stage.run.pausing = True
        stage.slot.pause()
        assert stage.slot.phase is Phase.OVER
        card[0] = 1 * GIB
        stage.clock.now += 200.0
        stage.turn()
        assert len(stage.workers) == 1


def test_a_worker_that_cannot_be_ended_takes_its_slot_out_of_use() -> None:
    """It is stuck in the driver: no second worker may join it on its card. The run is not a success."""
    with Stage() as stage:
        worker = stage.begin()
        worker.survives = True
        worker.hello()
        worker.open("a")
        stage.start_batch(worker, "a")
        stage.slot.force(Decision(stage.clock.now, DecisionKind.HANG, "a", "cuda:0", "slot0", forced=True))
        stage.until(lambda: stage.slot.phase is Phase.OVER)
        assert len(stage.workers) == 1
        assert "cannot be ended" in stage.run.failures[0]
        assert stage.series("helix_dense_worker_up") == {}
        assert stage.series("helix_dense_shards") == {("state=failed",): 1}


def test_a_worker_that_starts_is_welcomed_before_it_is_told_anything() -> None:
    """What its predecessor died without acknowledging is told again, once it has said hello, however long it starts."""
    with Stage() as stage:
        first = stage.begin()
        first.hello()
        first.open("a")
        stage.healthy(first, "a")
        stage.fraction = FULL
        stage.start_batch(first, "a")
        for _ in range(100):
            if first.exit_code is not None:
                break
            stage.clock.now += TICK
            stage.tell_memory(first)
            stage.pipeline.tick()  # what it decides ends the worker before it is told
            stage.turn()
        second = stage.next_worker(2)
        stage.tick()
        second.hello()
        assert second.told == []
        stage.tick()
        second.sync()
        told = [message.action.kind for message in second.told if isinstance(message, messages.GiveAction)]
        assert told == [ActionKind.DETECT]


def test_a_worker_of_ours_that_never_says_hello_is_ended(tmp_path: Path) -> None:
    """Importing the package takes seconds. It is a crash, and another one gets its turn."""
    with Stage(build_job(tmp_path, ["a"], set()), logs=tmp_path) as stage:
        stage.begin()
        stage.clock.now += HELLO_SECONDS
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        stage.clock.now += 0.1
        stage.turn()
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.whys() == ["it had not been heard from and was ended"]
        stage.clock.now += 1.0
        stage.next_worker(2)


MINUTE, HOUR = 60.0, 3600.0


def spend(stage: Stage, worker: PlayedWorker, seconds: float, part: float) -> None:
    """Let time pass in which a worker uses a part of one core, until it is ended."""
    for _ in range(int(seconds / MINUTE)):
        if stage.slot.phase is not Phase.RUNNING:
            return
        worker.processor = (worker.processor or 0.0) + part * MINUTE
        stage.clock.now += MINUTE - TICK
        stage.tick()
        for _ in range(4):
            stage.turn()


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_who_is_busy_with_its_imports_lives_and_not_for_ever(tmp_path: Path, device: str) -> None:
    """On a machine that others load they take minutes; a card's driver is not in it yet. Idle, it is over soon."""
    for busy, idle, is_ended in ((25 * MINUTE, 0.0, False), (5 * MINUTE, 4 * MINUTE, True), (HOUR, 0.0, True)):
        with Stage(build_job(tmp_path, ["a"], set()), [device], logs=tmp_path) as stage:
            worker = stage.begin()
            spend(stage, worker, busy, 1.0)
            spend(stage, worker, idle, 0.0)
            if is_ended:
                stage.until(partial(stage.of, events.Crash))
            assert len(stage.whys()) == is_ended


def test_who_breaks_its_channel_after_each_batch_is_not_restarted_without_end() -> None:
    """What it has committed says nothing of the next one: 1, 2 and 4 s, then it has failed as one that crashes."""
    with Stage() as stage:
        for number in range(1, 5):
            worker = stage.begin() if number == 1 else stage.next_worker(number)
            worker.hello()
            worker.open("a")
            stage.batch(worker, "a")
            worker.channel.send({"no": "message"})
            stage.until(lambda: stage.worker.exit_code is not None and stage.slot.phase in (Phase.WAITING, Phase.OVER))
            stage.clock.now += 4.0
        stage.until(lambda: stage.slot.phase is Phase.OVER)
        assert [crash.retry_in_seconds for crash in stage.of(events.Crash)] == [1.0, 2.0, 4.0, None]
        assert [crash.restarts_left for crash in stage.of(events.Crash)] == [2, 1, 0, 0]
        assert "its channel broke" in stage.run.failures[0]


def test_a_worker_whose_words_there_is_no_memory_for_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would hear it any more, and it would wait for answers; another one gets its turn."""
    real = channel_module._message

    def parsed(frame: bytes) -> dict[str, object]:
        if b"huge" in frame:
            raise MemoryError
        return real(frame)

    monkeypatch.setattr(channel_module, "_message", parsed)
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.channel.send({"type": "huge"})
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.whys() == ["its channel broke and it was ended"]


def test_a_worker_of_ours_that_falls_silent_is_ended_but_not_inside_a_batch(tmp_path: Path) -> None:
    """It hangs in a file or in a model. What its sampler tells of the memory is no sign of life; a batch is judged."""
    with Stage(build_job(tmp_path, ["a"], set()), logs=tmp_path) as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        stage.start_batch(worker, "a")
        stage.clock.now += SILENT_SECONDS + TICK
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        worker.say(messages.AbandonBatch(1))
        worker.sync()
        stage.clock.now += SILENT_SECONDS
        worker.say(messages.Memory("cuda:0", MemoryReading(1, 2), "custom", up=True))
        stage.until(lambda: stage.memory.used("cuda:0") == 1)
        assert stage.slot.phase is Phase.RUNNING
        stage.clock.now += 0.1
        stage.turn()
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.whys() == ["it had not been heard from and was ended"]


def test_a_pause_does_not_wait_for_a_worker_that_a_file_keeps(tmp_path: Path) -> None:
    """A source on a dead network folder holds it in the system; a batch is still waited for."""
    with Stage(build_job(tmp_path, ["a"], set()), logs=tmp_path) as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        stage.start_batch(worker, "a")
        stage.run.pausing = True
        stage.slot.pause()
        stage.clock.now += LEAVE_SECONDS + TICK
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        worker.say(messages.AbandonBatch(1))
        worker.sync()
        stage.clock.now += LEAVE_SECONDS
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        stage.clock.now += 0.1
        stage.turn()
        stage.until(lambda: stage.slot.phase is Phase.OVER)
        assert stage.run.is_paused


@pytest.mark.parametrize("has_batch", [True, False])
@pytest.mark.parametrize(
    ("device", "part", "is_ended"), [("cpu", 1.0, False), ("cpu", 0.01, True), ("cuda:0", 1.0, True)]
)
def test_who_burns_the_processor_lives_on_the_cpu_and_not_on_a_card(
    tmp_path: Path, *, has_batch: bool, device: str, part: float, is_ended: bool
) -> None:
    """64 genes at a minute each, without a baseline; or a model that takes as long to load. A deadlock's threads use
    next to nothing, and a card's driver spins while it waits."""
    with Stage(build_job(tmp_path, ["a"], set()), [device], logs=tmp_path) as stage:
        worker = stage.begin()
        worker.hello()
        if has_batch:
            worker.open("a", device)
            stage.start_batch(worker, "a", device)
        spend(stage, worker, 2 * HOUR, part)
        if is_ended:
            stage.until(lambda: stage.slot.phase is Phase.WAITING)
        else:
            assert stage.slot.phase is Phase.RUNNING
        assert len(stage.whys()) == is_ended


@pytest.mark.parametrize("has_batch", [True, False])
def test_on_the_cpu_half_an_hour_without_work_ends_a_worker_and_a_day_with_it(
    tmp_path: Path, *, has_batch: bool
) -> None:
    """A deadlock after an hour's work; and a loop without an end."""
    for busy, idle in ((HOUR, 0.75 * HOUR), (25 * HOUR, 0.0)):
        with Stage(build_job(tmp_path, ["a"], set()), ["cpu"], logs=tmp_path) as stage:
            worker = stage.begin()
            worker.hello()
            if has_batch:
                worker.open("a", "cpu")
                stage.start_batch(worker, "a", "cpu")
            spend(stage, worker, min(busy, 23 * HOUR), 1.0)
            assert stage.slot.phase is Phase.RUNNING
            spend(stage, worker, busy - 23 * HOUR, 1.0)
            spend(stage, worker, idle, 0.0)
            stage.until(lambda: stage.slot.phase is Phase.WAITING)
            assert len(stage.whys()) == 1


def test_a_worker_whose_processor_time_is_unknown_hangs_after_half_an_hour(tmp_path: Path) -> None:
    """As ever."""
    with Stage(build_job(tmp_path, ["a"], set()), ["cpu"], logs=tmp_path) as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a", "cpu")
        stage.start_batch(worker, "a", "cpu")
        for _ in range(int(0.6 * HOUR / TICK)):
            stage.tick()
            stage.turn()
        stage.until(stage.whys)
        assert stage.whys()[0] == "a batch hung and its worker was ended"


def test_a_driver_of_the_users_own_may_be_silent_for_ever() -> None:
    """It need not know of us at all."""
    with Stage() as stage:
        worker = stage.begin()
        stage.clock.now += 1e6
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        worker.leave(0)
        stage.turn()
        assert stage.slot.phase is Phase.OVER


def test_a_pause_reaches_a_driver_by_message_or_as_a_terminals_interrupt() -> None:
    """One that has said hello is told; one that knows nothing of us gets what Ctrl-C would have sent it."""
    with Stage() as stage:
        worker = stage.begin()
        stage.run.pausing = True
        stage.slot.pause()
        assert worker.interrupts == 1
        worker.hello()
        worker.next_told(messages.Pause)
        worker.leave(75)
        stage.turn()
        assert stage.slot.phase is Phase.OVER
        assert stage.run.is_paused


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_pause_reaches_a_driver_that_takes_no_message(is_closed: bool) -> None:
    """Of another release of this package, or one that has closed the channel: it runs by itself, and is interrupted."""
    with Stage() as stage:
        worker = stage.begin()
        worker.say(messages.Hello(messages.VERSION if is_closed else messages.VERSION - 1, worker.pid, "3", "0"))
        worker.next_told(messages.Welcome)
        if is_closed:
            worker.channel.close()
            assert stage.slot.worker is not None
            assert stage.slot.worker.links[0].is_read(SECONDS)
        stage.run.pausing = True
        stage.slot.pause()
        assert worker.interrupts == 1


@pytest.mark.parametrize(("genes", "seconds"), [(8, 0.0), (-8, 1.0), (10**30, 1.0), (8, -1.0)])
def test_a_batch_that_the_metrics_do_not_count_is_in_no_total(genes: int, seconds: float) -> None:
    """Whoever writes on the channel itself: the summary and the metrics say the same."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        worker.say(messages.RecordBatch(1, "a", "cuda:0", genes, seconds, None))
        worker.start("a", genes, 1.0)
        worker.say(messages.FinishBatch(2, 1, seconds))
        worker.sync()
        assert stage.run.totals.encoded == 0
        assert stage.series("helix_dense_genes") == {}
        assert stage.of(events.Committed) == []


@pytest.mark.parametrize(
    ("quarantined", "left", "encoded"),
    [(0, 4, 8), (0, 8, 4), (1, 7, 4), (1, 3, 8)],
)
def test_genes_that_a_worker_could_not_tell_of_are_counted(
    tmp_path: Path, quarantined: int, left: int, encoded: int
) -> None:
    """It dies after a commit and before it says so, or before the commit: the next one's count of the store tells.

    A gene that was quarantined lacks no vector either, and has none.
    """
    job = build_job(tmp_path, ["a"], set())
    with Stage(job, logs=tmp_path) as stage:
        first = stage.begin()
        first.hello()
        first.open("a")
        first.say(messages.Encoding("a", "cuda:0", 8))
        for gene in range(quarantined):
            first.say(messages.QuarantineGene("a", str(gene), "b.txt", "Once", "bad"))
        first.start("a", 4, 1.0)
        first.finish(1.0)
        first.leave(-9)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        stage.clock.now += 1.0
        second = stage.next_worker(2)
        second.hello()
        assert job.shards[0].quarantined == quarantined
        second.say(messages.Encoding("a", "cuda:0", left, quarantined=2))
        second.start("a", 4, 1.0)
        second.boundary("a", 4, left - 4)
        assert job.shards[0].encoded == encoded
        assert job.shards[0].quarantined == 2, "the next one's count of the store tells that as well"


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file"), OSError(8, "Exec format")]
)
def test_a_command_that_can_never_be_started_ends_the_run(error: OSError) -> None:
    """No retry: it would fail in the same way."""
    with Stage() as stage:
        stage.cannot_start = error
        stage.slot.begin()
        assert stage.slot.phase is Phase.OVER
        assert stage.run.endings == [(Ending.NEVER, f"the worker cannot be started: {error.strerror}")]
        assert stage.run.ends_early()


LACKS = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.ENFILE, "Too many open files in system"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError(errno.ENOSPC, "No space left on device", "worker.log"),
    MemoryError(),
    RuntimeError("can't start new thread"),
]


@pytest.mark.parametrize("error", LACKS, ids=repr)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_worker_that_cannot_be_started_just_now_is_started_later(
    tmp_path: Path, error: Exception, is_first: bool
) -> None:
    """At the beginning of a run and at a restart: a crash with its reason and a backoff. What it lacked comes back."""
    job = build_job(tmp_path, ["a"], set())
    with Stage(job, logs=tmp_path) as stage:
        if not is_first:
            stage.begin().leave(-9)
        stage.cannot_start = error
        stage.slot.begin() if is_first else stage.turn()
        before = 0 if is_first else 1
        for number, seconds in enumerate((1.0, 2.0, 4.0, 8.0, 16.0), 1):
            stage.clock.now += 0.0 if is_first or number > 1 else 1.0
            stage.turn()
            assert stage.slot.phase is Phase.WAITING
            crash = stage.of(events.Crash)[-1]
            assert (len(stage.of(events.Crash)), crash.retry_in_seconds) == (before + number, seconds)
            assert crash.why.startswith("the worker cannot be started: ")
            assert str(getattr(error, "strerror", error)) in crash.why
            stage.clock.now += seconds
        stage.cannot_start = None
        worker = stage.next_worker(before + 1)
        task = worker.hello().task
        assert task is not None
        assert task.assignment.shard == "a"
        assert stage.run.endings == []


def test_a_lack_that_does_not_pass_pauses_the_run_and_fails_no_shard(tmp_path: Path) -> None:
    """After some ten minutes; what is left is for the same command, later."""
    job = build_job(tmp_path, ["a", "b"], set())
    with Stage(job, logs=tmp_path) as stage:
        stage.cannot_start = BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        began = stage.clock.now
        stage.slot.begin()
        while stage.slot.phase is Phase.WAITING:
            stage.clock.now += 1.0
            stage.turn()
        assert 500 < stage.clock.now - began < 700
        assert stage.of(events.Crash)[-1].retry_in_seconds is None
        assert stage.run.is_paused
        assert stage.run.endings[0][1].startswith("the worker cannot be started: Resource temporarily unavailable (")
        assert [work.state for work in job.shards] == ["running", "pending"]


def test_a_worker_that_cannot_be_listened_to_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, and there is no thread to read what it says: another one is started later."""
    with Stage() as stage:
        monkeypatch.setattr("helix_crawl_otel.supervise.worker.LinkListener.start", no_thread)
        stage.slot.begin()
        assert (stage.slot.phase, stage.worker.exit_code) == (Phase.WAITING, -15)
        assert stage.series("helix_dense_worker_up") == {}
        monkeypatch.undo()
        stage.clock.now += 1.0
        stage.next_worker(2)


def no_thread(*arguments: object) -> None:
    """What `threading` does where the system has none to give."""
    raise RuntimeError("can't start new thread")


# -- workers of a build that leave their shard to another one ----------------------------------------------------------


def test_a_demotion_that_is_pending_is_owed_after_a_broken_card(tmp_path: Path) -> None:
    """The context is gone before the boundary: the rung is used up, so the next worker is the one on the CPU."""
    demoted: set[str] = set()
    with Stage(build_job(tmp_path, ["a"], demoted), logs=tmp_path, demoted=demoted) as stage:
        first = stage.begin()
        first.hello()
        first.open("a")
        stage.healthy(first, "a")
        first.acknowledge(stage.crawl(first, "a", "EMPTY_CACHE"))
        first.acknowledge(stage.crawl(first, "a", "RECYCLE"))
        first.leave(75)
        second = stage.next_worker(2)
        second.hello()
        second.open("a")
        stage.crawl(second, "a", "DEMOTE_CPU", boundary=False)
        second.close("a", "left")
        second.say(messages.LastWords("the device fails: CUDA error: unknown error", is_device=True))
        second.sync()
        second.leave(1)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.of(events.Crash)[-1].why == "the device fails: CUDA error: unknown error"
        stage.clock.now += 1.0
        stage.next_worker(3)
        assert stage.starts()[-1] == ("cpu", "crash")
        assert stage.outcomes()["DEMOTE_CPU/applied"] == 1


def test_a_shard_that_is_left_to_another_worker_is_not_done(tmp_path: Path) -> None:
    """Neither for the metrics nor for the ladder, though its worker ends with 0; a failed one stays failed."""
    job = build_job(tmp_path, ["a"], set())
    with Stage(job, logs=tmp_path) as stage:
        first = stage.begin()
        first.hello()
        first.open("a")
        first.leave(-9)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        stage.clock.now += 1.0
        second = stage.next_worker(2)
        second.hello()
        second.say(messages.PassOnShard("a", "out of memory", lacks_memory=True, is_loading=True))
        second.next_told(messages.Leave)
        second.leave(0)
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.series("helix_dense_shards") == {("state=running",): 1}
        assert stage.starts()[-1] == ("cuda:0", "crash")
        stage.clock.now += 1.0
        third = stage.next_worker(3)
        assert stage.starts()[-1] == ("cuda:0", "recycle")
        task = third.hello().task
        assert task is not None
        assert task.assignment.shortages == 1


def test_a_worker_that_lingers_after_its_last_words_is_ended_for_them(tmp_path: Path) -> None:
    """Its driver's libraries keep it: a moment later it is ended, and what it said is what counts."""
    with Stage(build_job(tmp_path, ["a"], set()), logs=tmp_path) as stage:
        worker = stage.begin()
        worker.hello()
        worker.say(messages.LastWords("the device fails", is_device=True))
        worker.sync()
        stage.clock.now += GRACE_SECONDS - 0.1
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        stage.clock.now += 0.2
        stage.until(lambda: stage.slot.phase is Phase.WAITING)
        assert stage.whys() == ["the device fails"]


def test_a_worker_that_lingers_after_it_was_told_to_leave_is_ended_soon(tmp_path: Path) -> None:
    """It has done all there is: it is no crash, and the run does not wait half an hour for it."""
    job = build_job(tmp_path, ["a"], set())
    with Stage(job, logs=tmp_path) as stage:
        worker = stage.begin()
        worker.hello()
        worker.say(messages.ShardDone("a"))
        worker.sync()
        stage.clock.now += LEAVE_SECONDS - 0.1
        stage.turn()
        assert stage.slot.phase is Phase.RUNNING
        stage.clock.now += 0.2
        stage.until(lambda: stage.slot.phase is Phase.OVER)
        assert stage.whys() == ["it had nothing left to do, did not end, and was ended"]
        assert (stage.of(events.Crash), job.shards[0].state) == ([], "done")


def test_a_restart_waits_for_the_backoff_and_for_the_gate() -> None:
    """Both have to be over, and how long the gate took is told."""
    restart = Restart(WorkerStart("crash", "cuda:0"), 100.0, 4.0, MemoryGate(GIB, 100.0))
    assert restart.feed(100.0, 9 * GIB) is GateState.WAITING
    assert restart.feed(100.1, 8 * GIB) is None, "no news"
    assert not restart.is_due(104.5)
    assert restart.feed(102.0, GIB) is GateState.BACK
    assert restart.gate_seconds == 2.0
    assert not restart.is_due(103.9)
    assert restart.is_due(104.0)


def test_a_restart_without_a_gate_needs_no_reading() -> None:
    """On the CPU, and where nothing can be read."""
    restart = Restart(WorkerStart("first", "cpu"), 7.0)
    assert restart.feed(7.0, None) is None
    assert restart.is_due(7.0)


def test_after_an_end_outside_of_batches_a_worker_says_which_one_it_looks_at(tmp_path: Path) -> None:
    """Of counting its tokens, perhaps: the batch is suspected as one that was in flight, and cut."""
    job = build_job(tmp_path, ["a"], set())
    with Stage(job, logs=tmp_path) as stage:
        worker = stage.begin()
        for is_wary, limits in ((False, {}), (True, {}), (True, {}), (True, {"g1": 1})):
            task = worker.hello().task
            assert task is not None
            assert (task.assignment.is_wary, task.assignment.limits) == (is_wary, limits)
            worker.open("a")
            if is_wary:
                worker.say(messages.NextBatch("a", "g1", 8))
                worker.sync()
            worker.leave(-6)
            stage.until(lambda: stage.slot.phase is Phase.WAITING)
            stage.clock.now += 4.0
            worker = stage.next_worker(len(stage.workers) + 1)


def test_a_batch_that_was_encoded_and_not_committed_is_suspected_still(tmp_path: Path) -> None:
    """Only its boundary clears it; and what a build has left to encode is what its store counts."""
    job = build_job(tmp_path, ["a"], set())
    with Stage(job, logs=tmp_path) as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        stage.batch(worker, "a", boundary=False)
        (work,) = job.shards
        assert work.batch == ("a-1", GENES)
        worker.boundary("a", genes=GENES, pending=100)
        assert (work.batch, work.encoded) == (None, GENES)
        assert stage.slot.worker is not None
        assert stage.slot.worker.progressed()


def test_a_batch_that_cannot_be_taken_is_answered_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver would wait at each boundary; the error is counted."""

    def full(*batch: object) -> None:
        raise OSError("no space left on device")

    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.open("a")
        for name in ("finish_batch", "record_batch"):
            monkeypatch.setattr(stage.pipeline, name, full)
        stage.start_batch(worker, "a")
        worker.finish(1.0)
        worker.say(messages.RecordBatch(2, "a", "cuda:0", GENES, 1.0, None))
        assert worker.next_told(messages.Judged).end == 2
        assert stage.series("helix_dense_internal_errors") == {("where=driver",): 2}


@pytest.mark.parametrize(
    "garbage",
    [
        {"type": "weather", "is": "fine"},
        {"type": "finish_batch"},
        {"type": "start_batch", "batch": "1"},
        {"type": "memory", "device": "cuda:0", "reading": {"used_bytes": -1}, "source": "x", "up": True},
    ],
    ids=["unknown", "lacks", "wrong", "out-of-range"],
)
def test_a_message_that_is_none_is_counted_and_said_in_one_sentence(
    garbage: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """The worker goes on, and the next message is taken."""
    with Stage() as stage:
        worker = stage.begin()
        worker.hello()
        worker.channel.send(garbage)
        assert not worker.open("a")
        assert stage.series("helix_dense_internal_errors") == {("where=driver",): 1}
        assert stage.slot.phase is Phase.RUNNING
    (said,) = [record for record in caplog.records if "internal error" in record.message]
    assert "accepted: " in said.message
    assert said.exc_info is None
