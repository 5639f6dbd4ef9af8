"""Several processes of one job: who is who, whose shard is whose, and what the end of one means. Played."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helix_crawl_otel.exit_codes import DEMOTED, PAUSED
from helix_crawl_otel.link import messages
from helix_crawl_otel.policy.model import REMEDIES
from helix_crawl_otel.policy.policy import Policy
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.slot import LEAVE_SECONDS, Phase
from helix_crawl_otel.supervise.worker import IDLE_SECONDS
from tests.supervise.played import PlayedWorker
from tests.supervise.stage import Stage
from tests.watch.rig import GENES, LOW, SLOW


class Family(Stage):
    """A driver, and the processes that it has started."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[PlayedWorker] = []

    def child(self) -> PlayedWorker:
        """One more, which has said hello."""
        child = PlayedWorker(2000 + len(self.children), [], self.worker.environ)
        self.children.append(child)
        child.hello()
        return child

    def open_shards(self) -> set[str]:
        """Of all of them, as the policy calls them."""
        names = ("slot0", "slot0/2", "slot0/3")
        return {shard for name in names for shard in self.pipeline.ask(Policy.open_shards, name)}

    def gone(self, *children: PlayedWorker) -> None:
        """They have ended, and that was seen."""
        before = len(self.of(events.WorkerEnded))
        for child in children:
            child.leave(0)
        self.until(lambda: len(self.of(events.WorkerEnded)) == before + len(children))


@pytest.fixture
def family() -> Iterator[Family]:
    """One whose first process has said hello."""
    family = Family()
    with family:
        family.begin().hello()
        yield family
        for child in family.children:
            child.hang_up()


def opened(worker: PlayedWorker, shard: str, *, is_of_pool: bool = False) -> None:
    """It begins a shard, as a process that its parent waits for."""
    worker.ask(messages.OpenShard, shard, "cuda:0", list(REMEDIES), False, True, is_of_pool, True)


def taken_up(family: Family, shard: str) -> None:
    """Another process of the job brings a shard to its end."""
    other = family.child()
    opened(other, shard)
    other.close(shard)
    family.gone(other)


def test_each_process_is_a_worker_and_a_free_name_is_taken_again(family: Family) -> None:
    """So the names stay few, whatever comes and goes."""
    first, second = family.child(), family.child()
    assert [event.slot for event in family.of(events.WorkerStarted)] == ["slot0", "slot0/2", "slot0/3"]
    family.gone(first)
    family.child()
    starts = [(event.slot, event.reason) for event in family.of(events.WorkerStarted)]
    assert starts[3:] == [("slot0/2", "resume")]
    family.gone(second)
    ended = [(event.slot, event.code) for event in family.of(events.WorkerEnded)]
    assert ended == [("slot0/2", None), ("slot0/3", None)]


def test_a_shard_that_two_processes_have_open_is_two(family: Family) -> None:
    """Each is told by its own name; once the first is left, that name is free again."""
    child = family.child()
    family.worker.open("a")
    opened(child, "a")
    assert family.open_shards() == {"a", "a (2)"}
    family.batch(family.worker, "a")
    child.start("a", GENES, 100.0)
    assert family.pipeline.has_batch("slot0/2", "a (2)")
    child.finish(1.0)
    family.worker.close("a")
    assert family.open_shards() == {"a (2)"}
    third = family.child()
    opened(third, "a")
    assert family.open_shards() == {"a", "a (2)"}


def test_an_action_reaches_the_process_of_its_shard_under_its_own_name(family: Family) -> None:
    """And no other one."""
    child = family.child()
    family.worker.open("a")
    opened(child, "a")
    family.healthy(child, "a")
    action = family.crawl(child, "a", "EMPTY_CACHE")
    family.worker.sync()
    assert action.shard == "a"
    assert family.worker.actions() == []
    child.acknowledge(action)
    assert family.outcomes("a (2)") == {"EMPTY_CACHE/applied": 1}
    assert family.outcomes("a") == {}


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_shard_that_a_process_has_left_for_a_recycle_is_not_done(family: Family, *, goes_on: bool) -> None:
    """Where no other one of the job takes it up the job is started again, whatever its code; else it is done."""
    child = family.child()
    opened(child, "a")
    family.healthy(child, "a")
    child.acknowledge(family.crawl(child, "a", "EMPTY_CACHE"))
    child.acknowledge(family.crawl(child, "a", "RECYCLE"))
    child.close("a", "paused")
    family.gone(child)
    if goes_on:
        taken_up(family, "a")
        assert family.starts()[-1] == ("cuda:0", "recycle")
    family.worker.leave(0)
    if goes_on:
        family.until(lambda: family.slot.phase is Phase.OVER)
        assert len(family.workers) == 1
    else:
        family.next_worker(2)
        assert family.of(events.WorkerStarted)[-1].reason == "recycle"


def test_a_process_with_a_card_of_its_own(family: Family) -> None:
    """It calls its card `cuda:0`, as the others do theirs: its memory, its ladder and its CPU are its own."""
    family.memory.watch("cuda:1", is_modelled=True)
    child = family.child()
    family.worker.open("a")
    cards = {"CUDA_VISIBLE_DEVICES": "1"}
    child.ask(messages.OpenShard, "b", "cuda:0", list(REMEDIES), True, False, False, True, cards)
    begun = [(event.shard, event.device) for event in family.of(events.ShardStarted)]
    assert begun == [("a", "cuda:0"), ("b", "cuda:1")]
    family.healthy(family.worker, "a")
    family.healthy(child, "b")
    assert family.pipeline.status("a").memory_fraction == LOW
    action = family.crawl(child, "b", "EMPTY_CACHE")
    assert (action.shard, action.device) == ("b", "cuda:0"), "as the process itself calls them"
    family.fraction = LOW
    for _ in range(20):
        family.tell_memory(family.worker)
        family.start_batch(family.worker, "a")
        family.clock.now += SLOW
        family.worker.finish(SLOW)
        family.worker.boundary("a")
    assert family.worker.actions() == [], "a slow one beside a card that another one has filled"
    child.acknowledge(action)
    child.acknowledge(family.crawl(child, "b", "RECYCLE"))
    child.close("b", "paused")
    family.gone(child)
    second = family.child()
    assert family.starts()[-1] == ("cuda:1", "recycle")
    second.ask(messages.OpenShard, "b", "cuda:0", list(REMEDIES), True, False, False, True, cards)
    second.acknowledge(family.crawl(second, "b", "DEMOTE_CPU"))
    assert family.run.demoted == {"b"}
    second.say(messages.MoveShard("b", "cpu"))
    second.sync()
    assert family.pipeline.ask(Policy.open_shards, "slot0/2") == {"b": "cpu"}
    assert family.pipeline.ask(Policy.open_shards, "slot0") == {"a": "cuda:0"}


def test_a_stuck_process_has_its_whole_job_ended(family: Family) -> None:
    """Nobody else can end it, and its parent would wait for it: the job resumes. Its other processes go with it."""
    child = family.child()
    opened(child, "a")
    family.healthy(child, "a")
    child.acknowledge(family.crawl(child, "a", "EMPTY_CACHE"))
    family.tell_memory(child)
    family.start_batch(child, "a")
    while family.workers[0].exit_code is None:
        family.tick()
        family.turn()
    child.hang_up()  # it ends with its parent
    family.next_worker(2)
    assert family.workers[0].exit_code is not None
    assert family.of(events.WorkerStarted)[-1].reason == "recycle"


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_process_that_dies_in_a_shard(family: Family, *, goes_on: bool) -> None:
    """Its job ends with 0 all the same: it is started again, unless somebody has taken the shard up meanwhile."""
    child = family.child()
    opened(child, "a")
    family.start_batch(child, "a")
    family.gone(child)
    if goes_on:
        taken_up(family, "a")
    family.worker.leave(0)
    family.until(lambda: len(family.workers) == 2 or family.slot.phase is not Phase.RUNNING)
    if goes_on:
        assert family.slot.phase is Phase.OVER
        assert family.of(events.Crash) == []
    else:
        (crash,) = family.of(events.Crash)
        assert crash.why == "one of its processes died in shard a, and it ended as if it were done"


def test_a_process_that_outlives_its_job_is_waited_for(family: Family) -> None:
    """A script that waits for none of them has ended well: they are not ended with it, also between two shards."""
    child = family.child()
    opened(child, "a")
    family.worker.leave(0)
    for shard in ("a", "b"):
        family.batch(child, shard)
        family.turn()
        assert family.slot.phase is Phase.RUNNING, shard
        child.close(shard)
        family.turn()
        assert family.slot.phase is Phase.RUNNING, "it may begin another one"
        if shard == "a":
            opened(child, "b")
    child.leave(0)
    family.until(lambda: family.slot.phase is Phase.OVER)
    assert len(family.workers) == 1
    assert family.of(events.Crash) == []


@pytest.mark.parametrize("comes", [True, False])
def test_a_process_that_has_not_come_in_when_its_job_ends_gets_time_for_it(comes: bool) -> None:
    """On a busy machine it takes a while to import what it needs; what never comes is ended with the job."""
    family = Family()
    with family:
        driver = family.begin()
        driver.leaves_rest = True
        driver.leave(0)
        family.turn()
        assert family.slot.phase is Phase.RUNNING
        family.clock.now += IDLE_SECONDS - 1.0
        if comes:
            child = family.child()
            opened(child, "a")
            family.clock.now += IDLE_SECONDS - 1.0
            family.turn()
            assert family.slot.phase is Phase.RUNNING
            child.close("a")
            child.leave(0)
        family.clock.now += 2.0
        family.until(lambda: family.slot.phase is Phase.OVER)
        assert family.of(events.Crash) == []


@pytest.mark.parametrize(("code", "seconds"), [(0, IDLE_SECONDS + 1.0), (1, 0.0)])
def test_a_process_that_outlives_its_job_and_does_nothing_is_ended(family: Family, code: int, seconds: float) -> None:
    """A daemon that nobody asks any more; and whatever a job leaves that has failed."""
    child = family.child()
    opened(child, "a")
    family.batch(child, "a")
    family.worker.leave(code)
    family.clock.now += seconds
    child.say(messages.Boundary("a", "cuda:0", None, None, None))
    child.sync()
    family.until(lambda: family.of(events.Crash))
    child.hang_up()


def test_a_pool_whose_process_dies_waits_for_ever(family: Family) -> None:
    """Once its other processes are in no shard, and nothing was said for half a minute, the job is started again."""
    child, other = family.child(), family.child()
    opened(child, "a", is_of_pool=True)
    opened(other, "b", is_of_pool=True)
    family.start_batch(child, "a")
    family.gone(child)
    family.clock.now += LEAVE_SECONDS + 1.0
    family.turn()
    assert family.slot.phase is Phase.RUNNING, "the other one is at work"
    other.close("b")
    family.clock.now += LEAVE_SECONDS - 1.0
    family.turn()
    assert family.slot.phase is Phase.RUNNING, "it has just spoken"
    family.clock.now += 2.0
    family.until(lambda: family.of(events.Crash))
    other.hang_up()  # it ends with its parent
    assert "for which the pool would wait for ever" in family.of(events.Crash)[0].why


def test_a_job_of_several_that_was_started_on_the_cpu_for_a_shard_comes_back(family: Family) -> None:
    """None of its processes can leave by itself once that shard is done."""
    family.run.demoted.add("a")
    family.worker.open("a")  # on a card: it is refused
    family.worker.leave(DEMOTED)
    worker = family.next_worker(2)
    assert worker.hello().demoted_shard == "a"
    child = family.child()
    opened(child, "a")
    child.close("a")
    family.until(lambda: worker.exit_code is not None)
    child.hang_up()  # it ends with its parent
    family.next_worker(3)
    assert [(event.device, event.reason) for event in family.of(events.WorkerStarted)][-1] == ("cuda:0", "resume")


def test_a_pause_of_a_job_of_several(family: Family) -> None:
    """Its processes are told, and what waits for them gets what a terminal would send; who comes later is told too."""
    child = family.child()
    opened(child, "a")
    family.run.pausing = True
    family.slot.pause()
    assert family.worker.interrupts == 1
    assert child.next_told(messages.Pause) == messages.Pause()
    late = family.child()
    assert late.next_told(messages.Pause) == messages.Pause()
    for process in (child, late, family.worker):
        process.leave(PAUSED)
    family.until(lambda: family.slot.phase is Phase.OVER)


def test_a_job_that_only_its_processes_watch(family: Family) -> None:
    """The parent of a pool uses no watch: the first that comes is the worker of the slot, and the next after it."""
    family.worker.hang_up()
    family.until(lambda: family.slot.worker is not None and family.slot.worker.links[0].has_ended)
    child = family.child()
    opened(child, "a")
    family.batch(child, "a")
    assert family.run.totals.encoded == GENES
    child.close("a")
    child.leave(0)
    family.worker.leave(0)
    family.until(lambda: family.slot.phase is Phase.OVER)
    assert family.run.failures == []
