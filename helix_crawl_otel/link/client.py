"""The worker's end of the channel: tells the supervisor what happens, takes what it wants.

One daemon thread reads. The supervisor's end is the end of this process as well: no orphan may go on encoding.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import itertools
import os
import platform
import queue
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from helix_crawl_otel._version import __version__
from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.config import take_channel
from helix_crawl_otel.formats import whole_seconds
from helix_crawl_otel.link.channel import BadFrame, Channel, ChannelClosed, ChannelError
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import Action, ActionKind, Outcome

__all__ = ["Link", "link_of_this_process"]

VERSION = 1

HELLO_SECONDS = 30.0

UNANSWERED = 20
"""Messages that may be given up (memory, stages) are, once so many were sent and nothing has been heard: the pipe holds
some 167 frames of 250 bytes, on Windows and macOS 32, and a batch's start must always find room."""

ORPHANED_EXIT_CODE = 1


class Link:
    """A connection to the supervisor.

    Args:
        channel: Open.
        leave: Ends this process when the supervisor is gone; a seam for tests.

    Raises:
        ChannelError: The supervisor does not answer, or not as ours does.

    Attributes:
        actions: What the ladder asks for, through the hooks.
        hooks: Asked about each action before it is queued; `False` vetoes it.
        details: What to say of an action when it is acknowledged, by its id.

    Threads: any; the reader is a thread of its own.
    """

    def __init__(self, channel: Channel, leave: Callable[[int], object] = os._exit) -> None:
        self.actions = ActionQueue(self._acknowledge)
        self.hooks: list[Callable[[Action], object]] = []
        self.details: dict[int, str] = {}
        self.pausing = False  # set by the reader
        self._channel = channel
        self._leave = leave
        self._pid = os.getpid()
        self._requests = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[Mapping[str, Any]]] = {}
        self._jobs: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._unanswered = 0  # set to 0 by the reader, counted up by senders: a bound, not a count
        self._closed = False
        welcome = self._say_hello()
        self.demoted_shard: str | None = welcome["demoted_shard"]
        self.tick_seconds = float(welcome["tick_seconds"])
        self.clock_rate = float(welcome["clock_rate"])
        self.job: Mapping[str, Any] | None = welcome["job"]
        threading.Thread(target=self._read, name="helix-crawl-link", daemon=True).start()

    # -- to the supervisor --------------------------------------------------------------------------------------------

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message that must not be lost. In a forked child nothing is sent: the channel is the parent's."""
        if os.getpid() != self._pid:
            return
        try:
            self._channel.send(message)
        except ChannelClosed:
            self._orphaned()

    def send_last_words(self, reason: str, *, is_device: bool = False) -> None:
        """Say why this process is about to end by itself. It is shown in place of an exit code.

        Args:
            reason: One sentence.
            is_device: Another process on the same device may fail as well.
        """
        self.send({"type": "last_words", "reason": reason, "is_device": is_device})

    def send_if_room(self, message: Mapping[str, object]) -> None:
        """Send a message that may be lost, unless the supervisor has been silent for too many of them."""
        if self._unanswered < UNANSWERED:
            self._unanswered += 1
            self.send(message)

    def request(self, kind: str, timeout: float, **content: object) -> Mapping[str, Any] | None:
        """Ask and wait for the answer; `None` when none comes in time."""
        if os.getpid() != self._pid:
            return None
        number = next(self._requests)
        answer: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._answers[number] = answer
        try:
            self.send({"type": kind, "request": number, **content})
            return answer.get(timeout=timeout)
        except queue.Empty:
            watchdog.warning("the supervisor has not answered %s within %s", kind, whole_seconds(timeout))
            return None
        finally:
            del self._answers[number]

    def receive_job(self, timeout: float) -> Mapping[str, Any] | None:
        """The next message of the job's own, `None` when none comes in time."""
        try:
            return self._jobs.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Say no more. The supervisor then waits for this process to end."""
        self._closed = True
        self._channel.close()

    # -- from the supervisor ------------------------------------------------------------------------------------------

    def _say_hello(self) -> Mapping[str, Any]:
        self._channel.send(
            {
                "type": "hello",
                "version": VERSION,
                "pid": os.getpid(),
                "python": platform.python_version(),
                "package": __version__,
            }
        )
        # A supervisor that hangs must not keep the job from running: closing the channel ends the wait.
        watchdog = threading.Timer(HELLO_SECONDS, self._channel.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            welcome = self._channel.receive()
        finally:
            watchdog.cancel()
        if welcome.get("type") != "welcome" or welcome.get("version") != VERSION:
            raise ChannelError(f"the supervisor speaks another version of this package: {welcome!r:.120}")
        return welcome

    def _read(self) -> None:
        while True:
            try:
                message = self._channel.receive()
            except (ChannelClosed, BadFrame):
                self._orphaned()
                return
            self._unanswered = 0
            try:
                self._take(message)
            except Exception:
                watchdog.exception("a message of the supervisor cannot be used; the job goes on")

    def _take(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "reply":
            answer = self._answers.get(int(message["request"]))
            if answer is not None:
                answer.put(message)
        elif kind == "action":
            self._take_action(message)
        elif kind == "void":
            self.actions.discard(int(message["action"]))
        elif kind == "pause":
            self.pausing = True
        elif kind == "job":
            self._jobs.put(message)

    def _take_action(self, message: Mapping[str, Any]) -> None:
        action = Action(
            id=int(message["id"]),
            kind=ActionKind(message["kind"]),
            shard=message["shard"],
            device=message["device"],
            reason=message["reason"],
            evidence=MappingProxyType(dict(message["evidence"])),
        )
        if self._is_vetoed(action):
            self._acknowledge(action, Outcome.VETOED)
        else:
            self.actions.put(action)

    def _is_vetoed(self, action: Action) -> bool:
        vetoed = False
        for hook in list(self.hooks):
            try:
                vetoed = hook(action) is False or vetoed
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the hook is the user's; it must not stop the ladder
                self.send({"type": "error", "where": "hook", "text": f"{type(error).__name__}: {error}"})
        return vetoed

    def _acknowledge(self, action: Action, outcome: Outcome) -> None:
        detail = self.details.pop(action.id, "")
        self.send({"type": "acknowledge", "action": action.id, "outcome": outcome.value, "detail": detail})

    def _orphaned(self) -> None:
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        watchdog.error("the supervisor is gone; this worker ends, what it has committed is kept")
        self._leave(ORPHANED_EXIT_CODE)


_making = threading.Lock()
_made: list[Link | None] = []


def link_of_this_process() -> Link | None:
    """The link to the supervisor that has started this process, `None` when none has.

    Made once. A channel that cannot be used is told once, and the job then runs as if nobody supervised it.
    """
    with _making:
        if not _made:
            _made.append(_connect())
        return _made[0]


def _connect() -> Link | None:
    text = take_channel()
    if text is None:
        return None
    try:
        return Link(Channel.from_inherited(text))
    except ChannelError as error:
        why = str(error)
    except (KeyError, TypeError, ValueError) as error:
        why = f"what answers is no supervisor of this package: {error}"
    watchdog.warning("no supervisor can be reached (%s); the watch runs in this process", why)
    return None
