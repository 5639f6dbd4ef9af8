"""Nobody in the supervisor waits for a worker."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from multiprocessing import Pipe

import pytest

from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.link.channel import Channel, ChannelClosed
from helix_crawl_otel.link.messages import GiveAction, Message, ReportError, VoidAction
from helix_crawl_otel.policy.model import Action, ActionKind
from helix_crawl_otel.supervise.worker import OutgoingActions, SendQueue


class _Sent:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        """Keep it."""
        self.messages.append(message)


def test_a_worker_that_does_not_read_holds_nobody_up() -> None:
    """Far more than its pipe holds is taken at once, and arrives in order once it reads."""
    ours, theirs = Pipe(duplex=True)
    channel = Channel(ours)
    mailbox = SendQueue(channel, "test")

    def send() -> None:
        for n in range(3000):
            mailbox.send(ReportError("y" * 1000, str(n)))

    sender = threading.Thread(target=send)
    sender.start()
    sender.join(60)
    assert not sender.is_alive()
    other = Channel(theirs)
    assert [int(other.receive()["text"]) for _ in range(3000)] == list(range(3000))
    mailbox.close()
    channel.close()
    other.close()


def test_each_action_is_told_once_and_acknowledged_once() -> None:
    """A later one makes an earlier one of its shard void; one that is void cannot be acknowledged any more."""
    actions, sent = ActionQueue(), _Sent()
    outbound = OutgoingActions(actions, sent)
    first = Action(1, ActionKind.EMPTY_CACHE, "a", "cuda:0", "")
    second = Action(2, ActionKind.EMPTY_CACHE, "b", "cuda:0", "")
    third = Action(3, ActionKind.RECYCLE, "a", "cuda:0", "")
    actions.put(first)
    actions.put(second)
    outbound.push(["a", "b"])
    actions.put(third)
    outbound.push(["a"])
    outbound.push(["a", "b"])
    assert sent.messages == [GiveAction(first), GiveAction(second), VoidAction(1), GiveAction(third)]
    assert outbound.take(1) is None
    assert outbound.take(3) is not None
    assert outbound.take(3) is None


def test_nothing_is_told_to_a_worker_that_has_gone() -> None:
    """What waits stays in the queue: the policy settles it when the next worker starts."""
    actions, sent = ActionQueue(), _Sent()
    outbound = OutgoingActions(actions, sent)
    outbound.close()
    actions.put(Action(1, ActionKind.RECYCLE, "a", "cuda:0", ""))
    outbound.push(["a"])
    assert sent.messages == []
    assert len(actions) == 1


def test_a_sender_without_memory_closes_the_channel() -> None:
    """What it should have sent would be waited for without end; a worker whose channel is closed ends."""

    class Full(Channel):
        def send(self, message: Mapping[str, object]) -> None:
            raise MemoryError

    ours, theirs = Pipe(duplex=True)
    mailbox = SendQueue(Full(ours), "test")
    mailbox.send(ReportError("y", "x"))
    with pytest.raises(ChannelClosed):
        Channel(theirs).receive()
