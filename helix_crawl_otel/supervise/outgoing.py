"""What a worker is sent: messages from a thread of their own, so that nobody in the supervisor ever waits for a worker.

A worker that is wedged or stopped does not read. Its pipe holds a few messages, on Windows and macOS 8 kB of them; a
send that found it full would otherwise hold up the ticker, and with it the policy of every other worker.

Each action is told once and acknowledged once.

Source: DESIGN.md, sections 5 and 7.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from queue import SimpleQueue
from typing import Protocol

from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.link.channel import Channel, ChannelClosed
from helix_crawl_otel.link.messages import GiveAction, Message, VoidAction, pack
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import Action, ActionKind

__all__ = ["OutgoingActions", "SendQueue", "Sender"]


class Sender(Protocol):
    """Where messages for a worker go."""

    def send(self, message: Message) -> None:
        """Send one message."""


class SendQueue:
    """Messages on their way to one worker, in order. What a worker that has gone was still to get is thrown away.

    Args:
        channel: The supervisor's end. Closing it ends a send that waits.
        name: For the thread.

    Threads: any.
    """

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self._waiting: SimpleQueue[Message | None] = SimpleQueue()
        threading.Thread(target=self._deliver, name=f"helix-crawl-mail-{name}", daemon=True).start()

    def send(self, message: Message) -> None:
        """Have one message sent; comes back at once."""
        self._waiting.put(message)

    def close(self) -> None:
        """End the thread once what waits has been sent."""
        self._waiting.put(None)

    def _deliver(self) -> None:
        message = self._waiting.get()
        while message is not None:
            try:
                self._channel.send(pack(message))
            except ChannelClosed:  # it is gone; its exit is about to be seen
                return
            except Exception as error:  # noqa: BLE001 - out of memory, say; it would wait for what is never sent
                watchdog.error("a worker cannot be told what to do: %r; its channel is closed", error)
                self._channel.close()
                return
            message = self._waiting.get()


class OutgoingActions:
    """Actions told to a worker.

    Args:
        actions: Where the policy puts them.
        mail: To the worker. A send never waits.

    Threads: any. `_lock` is held from the queue to the mail: two threads that push must not swap two actions.
    """

    def __init__(self, actions: ActionQueue, mail: Sender) -> None:
        self._actions = actions
        self._mail = mail
        self._lock = threading.Lock()
        self._sent: dict[int, Action] = {}  # told and not acknowledged; guarded by _lock
        self._is_closed = False  # guarded by _lock

    def push(self, shards: Iterable[str]) -> None:
        """Send the actions that wait for these shards. A later one makes an earlier one of its shard void."""
        with self._lock:
            if self._is_closed:
                return  # they stay where they are: the policy settles them when the next worker starts
            for shard in shards:
                for action in self._actions.drain(shard):
                    self._send(action)

    def take(self, action_id: int) -> Action | None:
        """The action that the worker acknowledges; `None` when it was void, or has been acknowledged before."""
        with self._lock:
            return self._sent.pop(action_id, None)

    def close(self) -> None:
        """The worker is gone: nothing is told any more, and nothing that was is waited for."""
        with self._lock:
            self._is_closed = True
            self._sent.clear()

    def _send(self, action: Action) -> None:
        for earlier in list(self._sent.values()):
            if earlier.shard == action.shard and earlier.kind.rung < action.kind.rung:
                del self._sent[earlier.id]
                self._mail.send(VoidAction(earlier.id))
        if action.kind is not ActionKind.DETECT:  # that one is done by being said
            self._sent[action.id] = action
        self._mail.send(GiveAction(action))
