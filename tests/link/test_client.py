"""The worker's end of the channel, over a real pipe, with a supervisor played by the test."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import Pipe
from typing import Any

import pytest

from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import Channel, ChannelClosed, ChannelError, open_pair
from helix_crawl_otel.link.client import ORPHANED_EXIT_CODE, UNANSWERED, Link, _connect
from helix_crawl_otel.link.messages import FROM_WORKER, VERSION, Message, pack, unpack
from helix_crawl_otel.policy.model import Action, ActionKind, MemoryReading, Outcome, ShardStatus, Verdict
from tests.watch.rig import wait_until

WELCOME = messages.Welcome(VERSION, None, 5.0, 1.0, None)

ACTION = Action(7, ActionKind.EMPTY_CACHE, "a", "cuda:0", "because", {"rate": 1.5, "streak": 8})

STATUS = ShardStatus(Verdict.HEALTHY, 1.0, 2.0, 0.5, 0, 0, False, None)

MEMORY = messages.Memory("cuda:0", MemoryReading(1, 2), "custom", up=True)

START = messages.StartBatch(1, "a", "cuda:0", 64, 4000.0, None, None)


class Played:
    """A supervisor that has said welcome, and the worker's link to it."""

    def __init__(self, welcome: messages.Welcome = WELCOME) -> None:
        ours, theirs = Pipe(duplex=True)
        self.channel = Channel(ours)
        self.left: list[int] = []
        self.channel.send(pack(welcome))
        self.link = Link(Channel(theirs), self.left.append)
        (self.hello,) = self.heard(1)

    def tell(self, *told: Message | dict[str, Any]) -> None:
        """Send messages, and come back when the link has taken them."""
        for message in (*told, messages.Leave()):
            self.channel.send(pack(message) if isinstance(message, Message) else message)
        assert self.link.receive_shard(60.0) is not None

    def heard(self, count: int) -> list[Message]:
        """The next messages of the worker."""
        return [unpack(FROM_WORKER, self.channel.receive()) for _ in range(count)]

    def close(self) -> None:
        """End both ends."""
        self.link.close()
        self.channel.close()


@pytest.fixture
def played() -> Iterator[Played]:
    """A worker with its supervisor."""
    played = Played()
    yield played
    assert played.left == []
    played.close()


def test_a_worker_says_who_it_is_and_learns_what_it_is_for() -> None:
    """Its process, its versions; the tick, the clock, the shard it was started for, and its task in a build."""
    settings = messages.WorkerSettings("hashing", "cpu", 4, None, 0, ["clock:rate=10"], 1, "cpu")
    task = messages.BuildTask(settings, messages.Assignment("a", "a.db", 3, limits={"g": 2}, quarantine={"h": "why"}))
    played = Played(messages.Welcome(VERSION, "a", 2.0, 100.0, task))
    hello = played.hello
    assert isinstance(hello, messages.Hello)
    assert (hello.version, hello.pid) == (VERSION, os.getpid())
    link = played.link
    assert (link.demoted_shard, link.tick_seconds, link.clock_rate, link.task) == ("a", 2.0, 100.0, task)
    played.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (pack(replace(WELCOME, version=VERSION + 1)), "another version"),
        ({"type": "welcome", "version": VERSION - 1, "of": "yesterday"}, "another version"),
        ({"type": "hello"}, "another version"),
        ({**pack(WELCOME), "tick_seconds": "5"}, "Welcome.tick_seconds is '5'; accepted: a finite number"),
    ],
)
def test_a_supervisor_that_is_none_of_ours(answer: dict[str, Any], why: str) -> None:
    """The job then runs as if nobody supervised it; see `link_of_this_process`."""
    ours, theirs = Pipe(duplex=True)
    channel = Channel(ours)
    channel.send(answer)
    with pytest.raises(ChannelError, match=why):
        Link(Channel(theirs))
    channel.close()


def test_a_supervisor_that_goes_before_it_says_welcome() -> None:
    """Nobody is left to be linked to."""
    ours, theirs = Pipe(duplex=True)
    ours.close()
    with pytest.raises(ChannelClosed):
        Link(Channel(theirs))


def test_an_action_is_queued_as_it_was_sent_and_acknowledged_with_what_came_of_it(played: Played) -> None:
    """The detail is what the supervisor logs."""
    played.tell(messages.GiveAction(ACTION))
    action = played.link.actions.get(timeout=0)
    assert action == ACTION
    played.link.details[7] = "12 MiB freed"
    played.link.actions.acknowledge(action, Outcome.APPLIED)
    assert played.heard(1) == [messages.Acknowledge(7, Outcome.APPLIED, "12 MiB freed")]
    assert played.link.details == {}


def test_a_hook_that_returns_false_vetoes(played: Played) -> None:
    """The action is never queued; the supervisor is told at once. Every hook is asked."""
    asked: list[str] = []

    def refuses(action: Action) -> bool:
        asked.append(f"refuses {action.id}")
        return False

    def agrees(action: Action) -> None:
        asked.append(f"agrees {action.id}")

    played.link.hooks += [refuses, agrees]
    played.tell(messages.GiveAction(ACTION))
    assert played.heard(1) == [messages.Acknowledge(7, Outcome.VETOED, "")]
    assert len(played.link.actions) == 0
    assert asked == ["refuses 7", "agrees 7"]


@pytest.mark.parametrize("error", [LookupError("mine"), SystemExit(3)])
def test_a_hook_that_raises_is_no_veto(played: Played, error: BaseException) -> None:
    """Nor does it end the reader: the supervisor counts it, and the action is queued."""

    def hook(action: Action) -> None:
        raise error

    played.link.hooks.append(hook)
    played.tell(messages.GiveAction(ACTION))
    heard = played.heard(1)[0]
    assert isinstance(heard, messages.ReportError)
    assert heard.where == "hook"
    assert type(error).__name__ in heard.text
    assert len(played.link.actions) == 1


def test_a_void_action_is_taken_back(played: Played) -> None:
    """A later one came first. One that is not there any more is nobody's trouble."""
    later = replace(ACTION, id=8, kind=ActionKind.RECYCLE)
    played.tell(messages.GiveAction(ACTION), messages.GiveAction(later), messages.VoidAction(7))
    played.tell(messages.VoidAction(99))
    assert [action.id for action in played.link.actions.drain()] == [8]


def test_a_pause_is_remembered(played: Played) -> None:
    """Until the driver comes to a boundary."""
    assert not played.link.pausing
    played.tell(messages.Pause())
    assert played.link.pausing


def test_what_a_build_gives_its_worker_waits_in_order(played: Played) -> None:
    """And nothing comes when nothing was sent."""
    given = messages.GiveShard(messages.Assignment("b", "b.db", 4))
    played.channel.send(pack(given))
    played.channel.send(pack(messages.Leave()))
    assert [played.link.receive_shard(60.0), played.link.receive_shard(60.0)] == [given, messages.Leave()]
    assert played.link.receive_shard(0.01) is None


def test_each_question_gets_its_own_answer(played: Played) -> None:
    """Two threads ask at once, the answers come the other way round; one that comes too late is thrown away."""
    answers: dict[str, object] = {}

    def ask(shard: str, timeout: float = 60.0) -> None:
        request = played.link.expect()
        played.link.send(messages.AskStatus(request, shard))
        answers[shard] = played.link.answer(request, timeout)

    ask("late", 0.01)
    assert answers.pop("late") is None
    late = played.heard(1)[0]

    threads = [threading.Thread(target=ask, args=(shard,)) for shard in ("a", "b")]
    for thread in threads:
        thread.start()
    questions = played.heard(2)
    for question in reversed([late, *questions]):
        assert isinstance(question, messages.AskStatus)
        status = replace(STATUS, streak=ord(question.shard[0]))
        played.channel.send(pack(messages.StatusTold(question.request, status)))
    for thread in threads:
        thread.join(60)
    told = {shard: answer.status.streak for shard, answer in answers.items() if isinstance(answer, messages.StatusTold)}
    assert told == {"a": ord("a"), "b": ord("b")}


def test_a_boundary_waits_for_its_batch_and_for_those_before(played: Played) -> None:
    """Also where the answers come together; one that does not come in time is said, and the job goes on."""
    waited: list[int] = []

    def wait(end: int) -> None:
        played.link.await_judged(end, 60.0)
        waited.append(end)

    played.tell(messages.Judged(1))
    wait(1)
    threads = [threading.Thread(target=wait, args=(end,)) for end in (2, 3)]
    for thread in threads:
        thread.start()
    assert waited == [1]
    played.tell(messages.Judged(3))
    for thread in threads:
        thread.join(60)
    assert sorted(waited) == [1, 2, 3]


def test_a_judgement_that_does_not_come_holds_the_job_up_no_longer(
    played: Played, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, and the driver goes on."""
    played.link.await_judged(1, 0.01)
    assert "has not judged a batch" in caplog.text


def test_what_makes_no_sense_is_passed_over(played: Played, caplog: pytest.LogCaptureFixture) -> None:
    """One that lacks what it needs, or is of no known kind, is one sentence; the next one is taken."""
    played.tell({"type": "void_action"}, {"type": "weather", "is": "fine"}, messages.GiveAction(ACTION))
    assert "VoidAction is {}; accepted: an object with action" in caplog.text
    assert "a message is called 'weather'; accepted: welcome, " in caplog.text
    assert "Traceback" not in caplog.text
    assert len(played.link.actions) == 1


@pytest.mark.parametrize("how", ["closed", "garbage"])
def test_the_end_of_the_supervisor_is_the_end_of_its_worker(how: str) -> None:
    """No orphan may go on encoding. It ends once, whoever notices."""
    ours, theirs = Pipe(duplex=True)
    channel = Channel(ours)
    channel.send(pack(WELCOME))
    left: list[int] = []
    link = Link(Channel(theirs), left.append)
    channel.receive()
    if how == "garbage":
        ours.send_bytes(b"garbage")
    else:
        channel.close()
    wait_until(lambda: left)
    link.send(START)
    link.send_if_room(MEMORY)
    assert left == [ORPHANED_EXIT_CODE]
    link.close()
    channel.close()


def test_a_link_that_was_closed_ends_no_process(played: Played) -> None:
    """The worker has finished: what it still says goes nowhere, and the end of the supervisor is none of its."""
    played.link.close()
    with pytest.raises(ChannelClosed):
        played.channel.receive()
    played.channel.close()
    played.link.send(messages.CloseShard("a", "done"))


def test_a_supervisor_that_is_silent_loses_readings_and_never_a_batch(played: Played) -> None:
    """The pipe must always have room for a start. Once something is heard, readings are sent again."""
    for _ in range(UNANSWERED + 100):
        played.link.send_if_room(MEMORY)
    played.link.send(START)
    assert played.heard(UNANSWERED + 1) == [*[MEMORY] * UNANSWERED, START]
    played.tell(messages.VoidAction(99))
    played.link.send_if_room(MEMORY)
    assert played.heard(1) == [MEMORY]


FORKED = """
import os, sys
from multiprocessing import Pipe
from helix_crawl_otel.link.channel import Channel
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.client import Link
ours, theirs = Pipe(duplex=True)
channel = Channel(ours)
channel.send(messages.pack(messages.Welcome(messages.VERSION, None, 5.0, 1.0, None)))
link = Link(Channel(theirs))
channel.receive()
child = os.fork()
if not child:
    link.send(messages.CloseShard("a", "done"))
    link.send_if_room(messages.CloseShard("b", "done"))
    link.await_judged(1, 60.0)
    answer = link.answer(link.expect(), 60.0)
    os._exit(0 if answer is None else 3)
_, status = os.waitpid(child, 0)
link.send(messages.CloseShard("the parent's", "done"))
assert channel.receive()["shard"] == "the parent's"
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_sends_nothing() -> None:
    """The channel is its parent's: half a frame of the child's would break it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


IDLE = """
from helix_crawl_otel.link.client import link_of_this_process
from helix_crawl_otel.link.messages import ShardDone
link = link_of_this_process()
link.send(ShardDone("a"))
link.receive_shard(600.0)
"""


def test_an_idle_worker_ends_with_its_supervisor() -> None:
    """It waits for its next shard, sends nothing, and would otherwise notice nothing."""
    channel, end = open_pair()
    channel.send(pack(WELCOME))
    with subprocess.Popen(
        [sys.executable, "-c", IDLE],
        env={**os.environ, **end.environment()},
        stderr=subprocess.PIPE,
        **end.popen_arguments(),
    ) as worker:
        end.close()
        assert [channel.receive()["type"] for _ in range(2)] == ["hello", "shard_done"]
        channel.close()
        assert worker.wait(60) == ORPHANED_EXIT_CODE
        assert worker.stderr is not None
        assert b"the supervisor is gone" in worker.stderr.read()


ALONE = """
import logging
logging.basicConfig(format="%(message)s")
from helix_crawl_otel.link.client import link_of_this_process
assert link_of_this_process() is None and link_of_this_process() is None
"""


@pytest.mark.parametrize(("variable", "times"), [(None, 0), ("fd:999", 1), ("nonsense", 1)])
def test_a_process_without_a_supervisor_runs_by_itself(variable: str | None, times: int) -> None:
    """A channel that cannot be used is told once; without one nothing is said."""
    environ = {**os.environ, **({"HELIX_CRAWL_CHANNEL": variable} if variable else {})}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no supervisor can be reached") == times


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "welcome", "version": VERSION},
        {**pack(WELCOME), "tick_seconds": "soon"},
        {**pack(WELCOME), "clock_rate": None},
        {"type": "welcome", "version": 0},
        {"type": "hello"},
    ],
)
def test_what_answers_as_no_supervisor_does(monkeypatch: pytest.MonkeyPatch, answer: dict[str, object]) -> None:
    """The variable named a socket of somebody else: nothing is raised into the job."""
    channel, end = open_pair()
    channel.send(answer)
    for name, value in end.environment().items():
        monkeypatch.setenv(name, value)
    assert _connect() is None
    end.close()
    channel.close()
