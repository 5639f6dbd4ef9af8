"""A worker whose process and driver are played by a test. Its words come through a real pipe."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from helix_crawl_otel.config import CHANNEL_VARIABLE
from helix_crawl_otel.link.channel import Channel

__all__ = ["REMEDIES", "SECONDS", "PlayedWorker"]

SECONDS = 60.0
"""Ends a test whose threads do not do what they should."""

REMEDIES = ["EMPTY_CACHE", "RECYCLE", "DEMOTE_CPU"]


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
    """

    def __init__(self, pid: int, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self.pid = pid
        self.argv = list(argv)
        self.environ = dict(environ)
        self.told: list[dict[str, Any]] = []
        self.survives = False
        self.ended_code = -15
        self.may_end = threading.Event()
        self.may_end.set()
        self.interrupts = 0
        self.exit_code: int | None = None
        self.channel = _inherited(environ[CHANNEL_VARIABLE])
        self._requests = 0

    # -- as the supervisor sees it ------------------------------------------------------------------------------------

    def poll(self) -> int | None:
        """See `ProcessHandle`."""
        return self.exit_code

    def interrupt(self) -> None:
        """See `ProcessHandle`."""
        self.interrupts += 1

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
        self.channel.close()

    def say(self, kind: str, **content: object) -> None:
        """Tell the supervisor something."""
        self.channel.send({"type": kind, **content})

    def ask(self, kind: str, **content: object) -> dict[str, Any]:
        """Ask the supervisor, and wait for the answer."""
        self._requests += 1
        self.say(kind, request=self._requests, **content)
        while True:
            message = self.channel.receive()
            if message.get("request") == self._requests:
                return message
            self.told.append(message)

    def sync(self) -> None:
        """Come back when all that it has said is taken in, and all that was sent to it before is in `told`."""
        self.ask("status", shard="none")

    def hello(self) -> dict[str, Any]:
        """Say hello; the answer."""
        self.say("hello", pid=self.pid, version=1)
        return self.next_told("welcome")

    def next_told(self, kind: str) -> dict[str, Any]:
        """Take the next message of a kind."""
        while True:
            for message in self.told:
                if message["type"] == kind:
                    self.told.remove(message)
                    return message
            self.told.append(self.channel.receive())

    def open(self, shard: str, device: str = "cuda:0", can_take: Sequence[str] = REMEDIES) -> bool:
        """Begin a shard; whether it has to be left to a worker on the CPU."""
        return bool(self.ask("open_shard", shard=shard, device=device, can_take=list(can_take))["demote"])

    def close(self, shard: str, state: str = "done") -> None:
        """Leave a shard."""
        self.say("close_shard", shard=shard, state=state)
        self.sync()

    def job(self, what: str, **content: object) -> None:
        """Tell its job something."""
        self.say("job", what=what, **content)
        self.sync()

    def acknowledge(self, action: Mapping[str, Any], outcome: str = "applied") -> None:
        """Say how an action ended."""
        self.say("acknowledge", action=action["id"], outcome=outcome, detail="")
        self.sync()

    def actions(self) -> list[dict[str, Any]]:
        """Take the remedies it was asked for since, oldest first."""
        found = [message for message in self.told if message["type"] == "action"]
        self.told = [message for message in self.told if message["type"] != "action"]
        return [action for action in found if action["kind"] != "DETECT"]


def _inherited(text: str) -> Channel:
    """The end that a child would inherit; this process keeps its own copy of it, and closes it."""
    if sys.platform == "win32":
        import _winapi
        from multiprocessing import reduction

        copy = reduction.duplicate(int(text.partition(":")[2]))
        try:
            return Channel.from_inherited(f"handle:{copy}")
        finally:
            _winapi.CloseHandle(copy)
    return Channel.from_inherited(text)
