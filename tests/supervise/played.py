"""A worker whose process and driver are played by a test. Its words come through a real pipe."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from helix_crawl_otel.config import CHANNEL_VARIABLE, JOB_FILE
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import Channel
from helix_crawl_otel.link.listener import connect
from helix_crawl_otel.link.messages import FROM_SUPERVISOR, Message, pack, unpack
from helix_crawl_otel.policy.model import REMEDIES, Action, ActionKind, Outcome, ShardEnd

__all__ = ["SECONDS", "PlayedWorker"]

M = TypeVar("M", bound=Message)

SECONDS = 60.0
"""Ends a test whose threads do not do what they should."""


class PlayedWorker:
    """A worker's process and what runs in it; see `supervise.process.ProcessHandle`.

    Args:
        pid: Its number.
        argv: Its command.
        environ: Its environment.

    Attributes:
        told: What the supervisor has sent unasked, oldest first.
        survives: It cannot be ended.
        ended_code: Its exit code when it is ended.
        may_end: What `end` waits for.
        interrupts: How often it got what a terminal sends.
        leaves_rest: What it has started runs on once it has ended.
        processor: Seconds that it has used of the processor.
    """

    def __init__(self, pid: int, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self.pid = pid
        self.argv = list(argv)
        self.environ = dict(environ)
        self.told: list[Message] = []
        self.survives = False
        self.leaves_rest = False
        self.ended_code = -15
        self.may_end = threading.Event()
        self.may_end.set()
        self.interrupts = 0
        self.processor: float | None = None
        self.exit_code: int | None = None
        self._requests = 0
        self._ends = 0
        if not environ[CHANNEL_VARIABLE].startswith(JOB_FILE):
            self.channel = _inherited(environ[CHANNEL_VARIABLE])

    @cached_property
    def channel(self) -> Channel:
        """Its end. A driver of the user's own connects when it has something to say."""
        return connect(self.environ[CHANNEL_VARIABLE].removeprefix(JOB_FILE), SECONDS)

    # -- as the supervisor sees it ------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        """See `ProcessHandle`."""
        return self.exit_code

    def has_rest(self) -> bool:
        """See `ProcessHandle`."""
        return self.leaves_rest

    def end_rest(self) -> None:
        """See `ProcessHandle`."""

    def interrupt(self) -> None:
        """See `ProcessHandle`."""
        self.interrupts += 1

    def processor_seconds(self) -> float | None:
        """See `ProcessHandle`."""
        return self.processor

    def end(self, grace_seconds: float) -> bool:
        """See `ProcessHandle`: it dies at once, unless it is said to survive."""
        assert self.may_end.wait(SECONDS)
        if self.survives:
            return False
        self.leave(self.ended_code)
        return True

    # -- what it does -------------------------------------------------------------------------------------------------

    def leave(self, code: int) -> None:
        """The process ends."""
        self.exit_code = code
        self.hang_up()

    def hang_up(self) -> None:
        """Its end of the channel is closed, if it has opened one."""
        if "channel" in vars(self):
            self.channel.close()

    def say(self, message: Message) -> None:
        """Tell the supervisor something."""
        self.channel.send(pack(message))

    def ask(self, kind: Callable[..., Message], *content: object) -> Any:
        """Ask the supervisor, and wait for the answer."""
        self._requests += 1
        self.say(kind(self._requests, *content))
        while True:
            message = self._receive()
            if getattr(message, "request", None) == self._requests:
                return message
            self.told.append(message)

    def sync(self) -> None:
        """Come back when all that it has said is taken in, and all that was sent to it before is in `told`."""
        self.ask(messages.AskStatus, "none")

    def hello(self) -> messages.Welcome:
        """Say hello; the answer."""
        self.say(messages.Hello(messages.VERSION, self.pid, "3", "0"))
        return self.next_told(messages.Welcome)

    def next_told(self, kind: type[M]) -> M:
        """Take the next message of a kind."""
        while True:
            for message in self.told:
                if isinstance(message, kind):
                    self.told.remove(message)
                    return message
            self.told.append(self._receive())

    def open(self, shard: str, device: str = "cuda:0", can_take: Sequence[ActionKind] = REMEDIES) -> bool:
        """Begin a shard; whether it has to be left to a worker on the CPU."""
        return bool(self.ask(messages.OpenShard, shard, device, list(can_take), True).demote)

    def close(self, shard: str, state: ShardEnd = "done") -> None:
        """Leave a shard."""
        self.say(messages.CloseShard(shard, state))
        self.sync()

    def start(
        self,
        shard: str,
        genes: int,
        work: float,
        device: str = "cuda:0",
        batch: int = 1,
        tokens: float | None = None,
    ) -> None:
        """A batch is in flight."""
        self.say(messages.StartBatch(batch, shard, device, genes, work, None, f"{shard}-1", tokens))
        self.sync()

    def finish(self, seconds: float, batch: int = 1) -> None:
        """It has ended, and is judged."""
        self._ends += 1
        self.say(messages.FinishBatch(self._ends, batch, seconds))
        assert self.next_told(messages.Judged).end == self._ends

    def boundary(
        self,
        shard: str,
        genes: int | None = None,
        pending: int | None = None,
        device: str = "cuda:0",
        work_pending: float | None = None,
    ) -> None:
        """It is committed."""
        self.say(messages.Boundary(shard, device, None, genes, pending, work_pending))
        self.sync()

    def acknowledge(self, action: Action, outcome: str = "applied") -> None:
        """Say how an action ended."""
        self.say(messages.Acknowledge(action.id, Outcome(outcome), ""))
        self.sync()

    def actions(self) -> list[Action]:
        """Take the remedies it was asked for since, oldest first."""
        found = [message.action for message in self.told if isinstance(message, messages.GiveAction)]
        self.told = [message for message in self.told if not isinstance(message, messages.GiveAction)]
        return [action for action in found if action.kind is not ActionKind.DETECT]

    def _receive(self) -> Message:
        return unpack(FROM_SUPERVISOR, self.channel.receive())


def _inherited(text: str) -> Channel:
    """The end that a child would inherit; this process keeps its own copy of it, and closes it."""
    if sys.platform == "win32":
        import _winapi
        from multiprocessing import reduction

        _, number, mark = text.split(":")
        copy = reduction.duplicate(int(number))
        try:
            return Channel.from_inherited(f"handle:{copy}:{mark}")
        finally:
            _winapi.CloseHandle(copy)
    return Channel.from_inherited(text)
