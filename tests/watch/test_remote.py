"""A driver's watch under a supervisor: its calls over a real pipe, the real relay and policy at the other end of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import Pipe
from typing import Any

import pytest

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import Channel, ChannelClosed
from helix_crawl_otel.link.client import Link
from helix_crawl_otel.otel.engine import Pipeline
from helix_crawl_otel.otel.instruments import Instruments
from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading, Verdict
from helix_crawl_otel.policy.settings import Settings
from helix_crawl_otel.probes.monitor import MemoryMonitor
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.external import RunJob
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.worker import IncomingMessages, SendQueue
from helix_crawl_otel.watch import remote
from helix_crawl_otel.watch.remote import RemoteBackend
from helix_crawl_otel.watch.shard import ShardWatch
from tests.watch.rig import FULL, GENES, HEALTHY, LOW, SLOW, TICK, WORK, Clock, collected, make_provider, reading


@pytest.fixture(autouse=True)
def answers_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver goes on without an answer that does not come in time; on a busy machine one may take its time."""
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 60.0)


class Supervisor:
    """Both ends: relay and policy on one, the watch of a driver on the other. The clock is the test's."""

    def __init__(self, demoted_shard: str | None = None) -> None:
        self.clock = Clock()
        self.fraction = LOW
        self.left: list[int] = []
        self.events: list[events.Event] = []
        provider, self.reader = make_provider()
        self.pipeline = Pipeline(Settings(), Instruments(provider.get_meter("x")), self.clock, can_end_worker=True)
        self.pipeline.start_worker("job", "cuda:0", "first", 1)
        ours, theirs = Pipe(duplex=True)
        self.channel = Channel(ours)
        mailbox = SendQueue(self.channel, "test")
        # The worker's sampler reads once when its shard is opened, and then not again while the test lasts.
        welcome = messages.Welcome(messages.VERSION, demoted_shard, 3600.0, 1.0, None)
        self.memory = MemoryMonitor(
            self.pipeline.read_memory,
            self.clock,
            tick_seconds=3600.0,
            on_error=lambda error: self.pipeline.error("probe", error),
        )
        self.memory.watch("cuda:0", is_modelled=True)  # the worker alone reads it
        self.run = RunContext(
            RunJob(["driver"], {}),
            self.pipeline,
            self.memory,
            self.clock,
            tick_seconds=3600.0,
            clock_rate=1.0,
            emit=self.events.append,
            logs=None,
            is_modelled=True,
            demoted=set(),
        )
        self.relay = IncomingMessages(self.run, "job", 1, mailbox, welcome, trusts_boundaries=True)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.link = Link(Channel(theirs), self.left.append)
        self.backend = RemoteBackend(self.link, lambda: reading(self.fraction), self.clock)

    def _serve(self) -> None:
        try:
            while True:
                self.relay.handle(messages.unpack(messages.FROM_WORKER, self.channel.receive()))
        except ChannelClosed:
            pass

    def close(self) -> None:
        """End everything."""
        self.backend.close()
        self.link.close()
        self.channel.close()
        self._thread.join(30)
        self.memory.close()
        self.pipeline.close()

    # -- the driver ---------------------------------------------------------------------------------------------------

    def shard(self, name: str = "a", **more: Any) -> ShardWatch:
        """A shard of the driver's."""
        device = self.backend.device_of("cuda:0")
        return ShardWatch(self.backend, name, device, more.get("on_demote"), more.get("exit_to_recycle", True))

    def sync(self) -> None:
        """Come back when all that the driver has said is taken in."""
        self.backend.pipeline.status("none")

    def batch(self, shard: ShardWatch, seconds: float = HEALTHY) -> None:
        """One batch, with the ticks that fall into it; no boundary. What was decided on it is there afterwards."""
        self.backend.tick()
        with shard.batch(GENES, WORK):
            self.sync()
            until = self.clock.now + seconds
            while self.clock.now + TICK <= until:
                self.clock.now += TICK
                self.backend.tick()
                self.sync()
                self.pipeline.tick()
                self.relay.push()
            self.clock.now = until
        self.sync()

    def crawl(self, shard: ShardWatch, *, kind: str) -> list[Action]:
        """Crawl on a full card until a boundary applies this; healthy before, for a baseline."""
        if shard.status().baseline is None:
            for _ in range(9):
                self.batch(shard)
                assert shard.boundary() == []
        self.fraction = FULL
        for _ in range(20):
            self.batch(shard, SLOW)
            applied = [action for action in shard.boundary() if action.kind is not ActionKind.DETECT]
            if applied:
                assert [action.kind.value for action in applied] == [kind]
                return applied
        raise AssertionError(f"no {kind}: {shard.status()}")

    def outcomes(self) -> dict[str, float]:
        """How remedies have ended."""
        self.sync()
        found: dict[str, float] = {}
        for labels, value in collected(self.reader)["helix_dense_ladder_actions"].items():
            of = dict(label.split("=", 1) for label in labels)
            if value and of["action"] != "DETECT":
                found[f"{of['action']}/{of['outcome']}"] = value
        return found

    def total(self, name: str) -> float:
        """Sum of an instrument's series."""
        self.sync()
        return sum(collected(self.reader).get(name, {}).values())


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A driver and its supervisor."""
    supervisor = Supervisor()
    yield supervisor
    assert supervisor.left == []
    supervisor.close()


def test_the_ladder_is_applied_at_the_boundary(supervisor: Supervisor) -> None:
    """Released in place; for the recycle the process is asked to end with 75, and the supervisor knows why it will."""

    def drive() -> None:
        with supervisor.shard() as shard:
            (release,) = supervisor.crawl(shard, kind="EMPTY_CACHE")
            assert release.evidence["memory_fraction"] == pytest.approx(FULL)
            assert shard.status().rung == 1
            supervisor.crawl(shard, kind="RECYCLE")

    with pytest.raises(PauseRequested) as paused:
        drive()
    assert paused.value.code == 75
    assert supervisor.outcomes() == {"EMPTY_CACHE/applied": 1, "RECYCLE/applied": 1}
    leaving = supervisor.relay.leaving
    assert leaving is not None
    assert leaving.kind is ActionKind.RECYCLE
    assert supervisor.relay.has_shard("a"), "it goes on in the next worker"


def test_the_status_is_the_supervisors(supervisor: Supervisor) -> None:
    """The driver asks, and gets what the gauges show."""
    with supervisor.shard() as shard:
        assert shard.status().verdict is Verdict.WARMING_UP
        for _ in range(10):
            supervisor.batch(shard)
        status = shard.status()
        assert status == supervisor.pipeline.status("a")
        assert status.verdict is Verdict.HEALTHY
        assert status.baseline == pytest.approx(GENES / HEALTHY)
        assert status.memory_fraction == pytest.approx(LOW)


def test_a_driver_that_never_calls_the_boundary_polls_the_queue(supervisor: Supervisor) -> None:
    """It acknowledges itself, once: a second word changes nothing."""
    with supervisor.shard() as shard:
        for _ in range(9):
            supervisor.batch(shard)
        supervisor.fraction = FULL
        actions: list[Action] = []
        while not actions:
            supervisor.batch(shard, SLOW)
            actions = [action for action in supervisor.link.actions.drain() if action.kind is not ActionKind.DETECT]
        assert [action.kind for action in actions] == [ActionKind.EMPTY_CACHE]
        supervisor.link.actions.acknowledge(actions[0], "failed")
        supervisor.link.actions.acknowledge(actions[0], "applied")
        assert supervisor.outcomes() == {"EMPTY_CACHE/failed": 1}
        assert not supervisor.relay.progressed(), "no boundary was passed, so nothing is known to be committed"


def test_a_hook_of_the_driver_vetoes(supervisor: Supervisor) -> None:
    """The recycle is counted as vetoed, the driver goes on, and the next trip asks for the next rung."""
    supervisor.backend.pipeline.hooks.append(lambda action: action.kind is not ActionKind.RECYCLE)

    def drive() -> None:
        with supervisor.shard() as shard:
            supervisor.crawl(shard, kind="EMPTY_CACHE")
            supervisor.crawl(shard, kind="DEMOTE_CPU")

    with pytest.raises(PauseRequested) as paused:
        drive()
    assert paused.value.code == 79
    assert supervisor.outcomes() == {"EMPTY_CACHE/applied": 1, "RECYCLE/vetoed": 1, "DEMOTE_CPU/applied": 1}


def test_a_driver_that_rebuilds_its_encoder_stays(supervisor: Supervisor) -> None:
    """`on_demote` is called at the boundary; what comes after is the CPU's, and nobody has to leave."""
    rebuilt: list[str] = []
    shard = supervisor.shard(on_demote=lambda: rebuilt.append("cpu"), exit_to_recycle=False)
    with shard:
        supervisor.crawl(shard, kind="EMPTY_CACHE")
        supervisor.crawl(shard, kind="DEMOTE_CPU")
        assert (rebuilt, shard.device) == (["cpu"], "cpu")
        assert supervisor.outcomes() == {"EMPTY_CACHE/applied": 1, "RECYCLE/passed_over": 1, "DEMOTE_CPU/applied": 1}
        assert supervisor.relay.leaving is None
        seen = collected(supervisor.reader)
        assert seen["helix_dense_worker_up"] == {("device=cpu",): 1, ("device=cuda:0",): 0}
        assert list(seen["helix_dense_ladder_rung"]) == [("device=cpu", "shard=a")]


def test_outside_the_main_thread_nothing_ends_the_process(supervisor: Supervisor) -> None:
    """An exception there would end the thread alone: the rung is passed over, a pause waits."""
    raised: list[BaseException] = []

    def drive() -> None:
        try:
            with supervisor.shard() as shard:
                supervisor.crawl(shard, kind="EMPTY_CACHE")
                supervisor.relay.pause()
                for _ in range(12):
                    supervisor.batch(shard, SLOW)
                    assert shard.boundary() == []
        except BaseException as error:  # noqa: BLE001 - told in the main thread
            raised.append(error)

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join(100)
    assert raised == []
    passed_over = {"RECYCLE/passed_over": 1, "DEMOTE_CPU/passed_over": 1}
    assert supervisor.outcomes() == {"EMPTY_CACHE/applied": 1, **passed_over}
    assert supervisor.relay.leaving is None


def test_the_operators_pause_is_raised_at_the_boundary(supervisor: Supervisor) -> None:
    """Not inside a batch: what was encoded is committed first. The shard is left as paused."""

    def drive() -> None:
        with supervisor.shard() as shard:
            supervisor.batch(shard)
            supervisor.relay.pause()
            supervisor.batch(shard)
            shard.boundary()

    with pytest.raises(PauseRequested) as paused:
        drive()
    assert (paused.value.code, paused.value.action) == (75, None)
    assert supervisor.total("helix_dense_genes") == 2 * GENES
    assert not supervisor.relay.has_shard("a")


def test_a_shard_that_belongs_on_the_cpu_is_not_begun_on_a_card(supervisor: Supervisor) -> None:
    """The process ends with 79 and is started there."""
    supervisor.run.demoted.add("a")
    with pytest.raises(PauseRequested) as paused, supervisor.shard():
        pass
    assert paused.value.code == 79
    assert not supervisor.relay.has_shard("a")


def test_a_process_started_for_a_demoted_shard_is_on_the_cpu_for_that_shard_alone() -> None:
    """Whatever its driver calls the device. At the next shard it ends with 79, for the card."""
    supervisor = Supervisor(demoted_shard="a")
    with supervisor.shard() as shard:
        assert shard.device == "cpu"
        supervisor.batch(shard)
    supervisor.sync()
    assert list(collected(supervisor.reader)["helix_dense_genes"]) == [("device=cpu", "shard=a")]
    with pytest.raises(PauseRequested) as paused, supervisor.shard("b"):
        pass
    assert paused.value.code == 79
    supervisor.close()


def test_numbers_that_cannot_be_judged_are_counted_by_the_supervisor(supervisor: Supervisor) -> None:
    """Also one that JSON does not know. Nothing of them reaches the job."""
    with supervisor.shard() as shard:
        shard.record(GENES, float("nan"))
        shard.record(0, 1.0)
        with shard.batch(GENES, work=float("inf")):
            supervisor.clock.now += 1.0
        with shard.batch(GENES, WORK):
            pass  # the clock stands still: 0 seconds
        supervisor.sync()
        assert collected(supervisor.reader)["helix_dense_samples_ignored"] == {
            ("reason=genes",): 1,
            ("reason=seconds",): 2,
            ("reason=work",): 1,
        }
        assert supervisor.total("helix_dense_genes") == 0
        assert not supervisor.relay.has_batch()


def test_a_batch_that_raises_is_not_counted(supervisor: Supervisor) -> None:
    """The exception passes through; the batch is not in flight any more, and the shard has failed."""

    def drive() -> None:
        with supervisor.shard() as shard, shard.batch(GENES, WORK):
            supervisor.sync()
            assert supervisor.relay.has_batch()
            raise LookupError("the driver's")

    with pytest.raises(LookupError):
        drive()
    assert supervisor.total("helix_dense_genes") == 0
    assert not supervisor.relay.has_batch()
    assert collected(supervisor.reader)["helix_dense_shards"]["state=failed",] == 1


def test_stages_between_batches_are_measured(supervisor: Supervisor) -> None:
    """The time to the next batch is its read, the time to the boundary the commit."""
    with supervisor.shard() as shard:
        supervisor.batch(shard)
        supervisor.clock.now += 1.0
        shard.boundary()
        supervisor.clock.now += 2.0
        supervisor.batch(shard)
        supervisor.sync()
        durations = collected(supervisor.reader)["helix_dense_batch_duration"]
        assert {labels[1]: count for labels, count in durations.items()} == {
            "stage=encode": 2,
            "stage=commit": 1,
            "stage=read": 1,
        }


def test_a_probe_that_fails_is_counted_and_the_job_goes_on() -> None:
    """Its reading is unknown, and an unknown one is not told."""
    supervisor = Supervisor()
    supervisor.backend = RemoteBackend(supervisor.link, lambda: MemoryReading(None, None), supervisor.clock)
    with supervisor.shard() as shard:
        supervisor.batch(shard)
        assert shard.status().memory_fraction is None
        supervisor.backend.pipeline.error("probe", LookupError("mine"))
    supervisor.sync()
    assert collected(supervisor.reader)["helix_dense_internal_errors"]["where=probe",] == 1
    assert "helix_dense_vram_used" not in collected(supervisor.reader)
    supervisor.close()


def test_a_batch_costs_four_messages(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways: its start, its end, what is answered to that, and its boundary."""
    counted: list[str] = []
    for channel in (supervisor.channel, supervisor.link._channel):
        send = channel.send

        def counting(content: Mapping[str, object], send: Callable[[Mapping[str, object]], None] = send) -> None:
            counted.append(str(content["type"]))
            send(content)

        monkeypatch.setattr(channel, "send", counting)
    with supervisor.shard() as shard:
        for _ in range(20):
            with shard.batch(GENES, WORK):
                supervisor.clock.now += HEALTHY
            shard.boundary()
        del counted[: counted.index("start_batch")]
        assert counted.count("memory") <= 1  # each tick, not each batch
        told = [name for name in counted if name != "memory"]
        assert sorted(told) == sorted(["start_batch", "finish_batch", "judged", "boundary"] * 20)


def test_a_driver_without_boundaries_is_answered_and_waits_for_nothing(supervisor: Supervisor) -> None:
    """Nothing is kept of the answers that nobody asks for."""
    with supervisor.shard() as shard:
        for _ in range(5):
            shard.record(GENES, HEALTHY, WORK)
        supervisor.sync()
        assert supervisor.backend.pipeline.unjudged == {"a": 5}
        assert supervisor.total("helix_dense_genes") == 5 * GENES
    assert supervisor.backend.pipeline.unjudged == {}
    assert supervisor.link._answers == {}


def test_a_closed_watch_of_a_supervised_job_is_not_used_again(supervisor: Supervisor) -> None:
    """As in a job that nobody supervises; a batch in flight ends as usual, and is judged."""
    shard = supervisor.shard()
    with shard.batch(GENES, WORK):
        supervisor.clock.now += HEALTHY
        supervisor.backend.close()
    supervisor.sync()
    assert collected(supervisor.reader)["helix_dense_genes"]["device=cuda:0", "shard=a"] == GENES
    for again in (lambda: shard.batch(GENES), shard.boundary):
        with pytest.raises(RuntimeError, match=r"^the CrawlWatch of shard 'a' is closed; make another one$"):
            again()
    shard.close()


def test_a_pool_of_a_supervised_job_is_kept_out_of_encode(supervisor: Supervisor) -> None:
    """The gate is the shard's own, whoever decides."""
    encoded: list[str] = []

    def on_demote() -> None:
        thread = threading.Thread(target=encode, daemon=True)
        threads.append(thread)
        thread.start()
        thread.join(0.05)
        assert encoded == []

    def encode() -> None:
        with shard.batch(GENES, WORK):
            encoded.append(shard.device)

    threads: list[threading.Thread] = []
    shard = supervisor.shard(on_demote=on_demote, exit_to_recycle=False)
    with shard:
        supervisor.crawl(shard, kind="EMPTY_CACHE")
        supervisor.crawl(shard, kind="DEMOTE_CPU")
        threads[0].join(30)
        assert encoded == ["cpu"]
