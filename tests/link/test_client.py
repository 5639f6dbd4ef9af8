"""The worker's end of the channel, over a real pipe, with a supervisor played by the test."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import pytest

from helix_crawl_otel.link.channel import Channel, ChannelClosed, ChannelError, open_pair
from helix_crawl_otel.link.client import ORPHANED_EXIT_CODE, UNANSWERED, VERSION, Link, _connect
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome
from tests.watch.rig import wait_until

WELCOME = {
    "type": "welcome",
    "version": VERSION,
    "demoted_shard": None,
    "tick_seconds": 5,
    "clock_rate": 1,
    "job": None,
}

ACTION = {
    "type": "action",
    "id": 7,
    "kind": "EMPTY_CACHE",
    "shard": "a",
    "device": "cuda:0",
    "reason": "because",
    "evidence": {"rate": 1.5, "streak": 8},
}


class Played:
    """A supervisor that has said welcome, and the worker's link to it."""

    def __init__(self, **welcome: object) -> None:
        ours, theirs = Pipe(duplex=True)
        self.channel = Channel(ours)
        self.left: list[int] = []
        self.channel.send({**WELCOME, **welcome})
        self.link = Link(Channel(theirs), self.left.append)
        self.hello = self.channel.receive()

    def tell(self, *messages: dict[str, Any]) -> None:
        """Send messages, and come back when the link has taken them."""
        for message in messages:
            self.channel.send(message)
        self.channel.send({"type": "job", "what": "sync"})
        assert self.link.receive_job(60.0) is not None

    def heard(self, count: int) -> list[dict[str, Any]]:
        """The next messages of the worker."""
        return [self.channel.receive() for _ in range(count)]

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
    """Its process, its versions; the tick, the clock, the shard it was started for."""
    played = Played(demoted_shard="a", tick_seconds=2, clock_rate=100, job={"settings": 1})
    assert (played.hello["type"], played.hello["version"], played.hello["pid"]) == ("hello", VERSION, os.getpid())
    link = played.link
    assert (link.demoted_shard, link.tick_seconds, link.clock_rate, link.job) == ("a", 2.0, 100.0, {"settings": 1})
    played.close()


@pytest.mark.parametrize("answer", [{"type": "welcome", "version": VERSION + 1}, {"type": "hello"}])
def test_a_supervisor_of_another_version_is_none(answer: dict[str, Any]) -> None:
    """The job then runs as if nobody supervised it; see `link_of_this_process`."""
    ours, theirs = Pipe(duplex=True)
    channel = Channel(ours)
    channel.send(answer)
    with pytest.raises(ChannelError, match="another version"):
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
    played.tell(ACTION)
    action = played.link.actions.get(timeout=0)
    evidence = {"rate": 1.5, "streak": 8}
    assert action == Action(7, ActionKind.EMPTY_CACHE, "a", "cuda:0", "because", evidence)
    played.link.details[7] = "12 MiB freed"
    played.link.actions.acknowledge(action, Outcome.APPLIED)
    assert played.heard(1) == [{"type": "acknowledge", "action": 7, "outcome": "applied", "detail": "12 MiB freed"}]
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
    played.tell(ACTION)
    assert played.heard(1)[0]["outcome"] == "vetoed"
    assert len(played.link.actions) == 0
    assert asked == ["refuses 7", "agrees 7"]


@pytest.mark.parametrize("error", [LookupError("mine"), SystemExit(3)])
def test_a_hook_that_raises_is_no_veto(played: Played, error: BaseException) -> None:
    """Nor does it end the reader: the supervisor counts it, and the action is queued."""

    def hook(action: Action) -> None:
        raise error

    played.link.hooks.append(hook)
    played.tell(ACTION)
    heard = played.heard(1)[0]
    assert (heard["type"], heard["where"]) == ("error", "hook")
    assert type(error).__name__ in heard["text"]
    assert len(played.link.actions) == 1


def test_a_void_action_is_taken_back(played: Played) -> None:
    """A later one came first. One that is not there any more is nobody's trouble."""
    played.tell(ACTION, {**ACTION, "id": 8, "kind": "RECYCLE"}, {"type": "void", "action": 7})
    played.tell({"type": "void", "action": 99})
    assert [action.id for action in played.link.actions.drain()] == [8]


def test_a_pause_is_remembered(played: Played) -> None:
    """Until the driver comes to a boundary."""
    assert not played.link.pausing
    played.tell({"type": "pause"})
    assert played.link.pausing


def test_messages_of_the_job_wait_in_order(played: Played) -> None:
    """And none comes when none was sent."""
    played.channel.send({"type": "job", "what": "shard", "n": 1})
    played.channel.send({"type": "job", "what": "leave"})
    got = [played.link.receive_job(60.0), played.link.receive_job(60.0)]
    assert [message["what"] for message in got if message] == ["shard", "leave"]
    assert played.link.receive_job(0.01) is None


def test_each_question_gets_its_own_answer(played: Played) -> None:
    """Two threads ask at once, the answers come the other way round; one that comes too late is thrown away."""
    assert played.link.request("status", 0.01, shard="late") is None
    late = played.heard(1)[0]
    answers: dict[str, Any] = {}

    def ask(shard: str) -> None:
        answers[shard] = played.link.request("status", 60.0, shard=shard)

    threads = [threading.Thread(target=ask, args=(shard,)) for shard in ("a", "b")]
    for thread in threads:
        thread.start()
    questions = played.heard(2)
    for question in reversed([late, *questions]):
        played.channel.send({"type": "reply", "request": question["request"], "of": question["shard"]})
    for thread in threads:
        thread.join(60)
    assert {shard: answer["of"] for shard, answer in answers.items()} == {"a": "a", "b": "b"}


def test_what_makes_no_sense_is_passed_over(played: Played, caplog: pytest.LogCaptureFixture) -> None:
    """A message that lacks what it needs is logged, an unknown one is not even that; the next one is taken."""
    played.tell({"type": "action", "id": 1}, {"type": "weather", "is": "fine"}, ACTION)
    assert "a message of the supervisor cannot be used" in caplog.text
    assert len(played.link.actions) == 1


@pytest.mark.parametrize("how", ["closed", "garbage"])
def test_the_end_of_the_supervisor_is_the_end_of_its_worker(how: str) -> None:
    """No orphan may go on encoding. It ends once, whoever notices."""
    ours, theirs = Pipe(duplex=True)
    channel = Channel(ours)
    channel.send(WELCOME)
    left: list[int] = []
    link = Link(Channel(theirs), left.append)
    channel.receive()
    if how == "garbage":
        ours.send_bytes(b"garbage")
    else:
        channel.close()
    wait_until(lambda: left)
    link.send({"type": "start_batch"})
    link.send_if_room({"type": "memory"})
    assert left == [ORPHANED_EXIT_CODE]
    link.close()
    channel.close()


def test_a_link_that_was_closed_ends_no_process(played: Played) -> None:
    """The worker has finished: what it still says goes nowhere, and the end of the supervisor is none of its."""
    played.link.close()
    with pytest.raises(ChannelClosed):
        played.channel.receive()
    played.channel.close()
    played.link.send({"type": "close_shard"})


def test_a_supervisor_that_is_silent_loses_readings_and_never_a_batch(played: Played) -> None:
    """The pipe must always have room for a start. Once something is heard, readings are sent again."""
    for n in range(UNANSWERED + 100):
        played.link.send_if_room({"type": "memory", "n": n})
    played.link.send({"type": "start_batch", "batch": "1"})
    heard = played.heard(UNANSWERED + 1)
    assert [message.get("n") for message in heard] == [*range(UNANSWERED), None]
    played.tell({"type": "void", "action": 99})
    played.link.send_if_room({"type": "memory", "n": -1})
    assert played.heard(1)[0]["n"] == -1


FORKED = """
import os, sys
from multiprocessing import Pipe
from helix_crawl_otel.link.channel import Channel
from helix_crawl_otel.link.client import Link
ours, theirs = Pipe(duplex=True)
channel = Channel(ours)
channel.send({"type": "welcome", "version": 1, "demoted_shard": None, "tick_seconds": 5, "clock_rate": 1, "job": None})
link = Link(Channel(theirs))
channel.receive()
child = os.fork()
if not child:
    link.send({"type": "start_batch"})
    link.send_if_room({"type": "memory"})
    answer = link.request("status", 60.0, shard="a")
    os._exit(0 if answer is None else 3)
_, status = os.waitpid(child, 0)
link.send({"type": "from the parent"})
assert channel.receive() == {"type": "from the parent"}
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
link = link_of_this_process()
link.send({"type": "idle"})
link.receive_job(600.0)
"""


def test_an_idle_worker_ends_with_its_supervisor() -> None:
    """It waits for its next shard, sends nothing, and would otherwise notice nothing."""
    channel, end = open_pair()
    channel.send(WELCOME)
    with subprocess.Popen(
        [sys.executable, "-c", IDLE],
        env={**os.environ, **end.environment()},
        stderr=subprocess.PIPE,
        **end.popen_arguments(),
    ) as worker:
        end.close()
        assert [channel.receive()["type"] for _ in range(2)] == ["hello", "idle"]
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
        {**WELCOME, "tick_seconds": "soon"},
        {**WELCOME, "clock_rate": None},
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
