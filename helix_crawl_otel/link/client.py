"""The worker's end of the channel: tells the supervisor what happens, takes what it wants.

One daemon thread reads. The supervisor's end is the end of this process as well: no orphan may go on encoding.

A forked child leaves its parent's channel alone, and comes to one of its own when it has something to say: most forked
children never have.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import itertools
import os
import platform
import queue
import threading
import weakref
from collections.abc import Callable

from helix_crawl_otel._version import __version__
from helix_crawl_otel.actions import ActionQueue
from helix_crawl_otel.config import JOB_FILE, take_channel
from helix_crawl_otel.formats import whole_seconds
from helix_crawl_otel.lacks import lack_sentence
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import BadFrame, Channel, ChannelClosed, ChannelError, ChannelLost
from helix_crawl_otel.link.listener import connect
from helix_crawl_otel.link.messages import Answer, BadMessage, GiveShard, Leave, Message, Welcome
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import Action, Outcome

__all__ = ["Link", "link_of_this_process"]


HELLO_SECONDS = 300.0
"""A supervisor answers at once; on a machine under load 19 it took more than 30 s. The end of its process closes the
channel, so that only one that hangs is waited for so long."""

UNANSWERED = 20
"""Readings of memory, which may be given up, are, once so many were sent and nothing has been heard: the pipe holds
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

    Threads: any; the reader is a thread of its own. A forked child has an `actions` of its own.
    """

    def __init__(self, channel: Channel, leave: Callable[[int], object] = os._exit) -> None:
        self.hooks: list[Callable[[Action], object]] = []
        self._leave = leave
        self._reset()
        self._begin(channel)
        _living.add(self)

    def _reset(self) -> None:
        """What is known of no message yet."""
        self.actions = ActionQueue(self._acknowledge)
        self.details: dict[int, str] = {}
        self.pausing = False  # set by the reader
        self._requests = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[Answer]] = {}
        self._judged = 0  # the newest end of a batch that is judged; guarded by _judging
        self._judging = threading.Condition()
        self._shards: queue.SimpleQueue[GiveShard | Leave] = queue.SimpleQueue()
        self._unanswered = 0  # set to 0 by the reader, counted up by senders: a bound, not a count
        self._beginning = threading.Lock()
        self._is_inherited = False  # by a forked child, which has no channel of its own yet; guarded by _beginning
        self._closed = False

    def _begin(self, channel: Channel) -> None:
        self._channel = channel
        welcome = self._say_hello()
        self.demoted_shard = welcome.demoted_shard
        self.tick_seconds = welcome.tick_seconds
        self.clock_rate = welcome.clock_rate
        self.task = welcome.task
        reader = threading.Thread(target=self._read, name="helix-crawl-link", daemon=True)
        try:
            reader.start()
        except RuntimeError:
            self.close()
            raise

    def after_fork(self) -> None:
        """In a forked child: nothing of the parent's is read or written here, and its end is not kept from anybody."""
        self._channel.leave_to_parent()
        was_closed = self._closed
        self._reset()
        self._closed, self._is_inherited = was_closed, not was_closed

    def is_reached(self) -> bool:
        """Whether the supervisor hears this process. A forked child connects first; where it cannot, it says so."""
        if self._is_inherited:
            with self._beginning:
                if self._is_inherited:
                    self._connect_anew()
                    self._is_inherited = False
        return not self._closed

    def _connect_anew(self) -> None:
        channel, why = _open_channel()
        try:
            if channel is not None:
                self._begin(channel)
                return
        except _NO_SUPERVISOR as error:
            why = _sentence(error)
        self._closed = True
        if why:  # what a build's worker forks is not meant to be heard
            watchdog.warning("no supervisor can be reached (%s); nobody watches what this process inherited", why)

    # -- to the supervisor --------------------------------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Send a message that must not be lost."""
        if not self.is_reached():
            return
        try:
            self._channel.send(messages.pack(message))
        except ChannelLost as error:
            self._lost(error)
        except ChannelClosed:
            self._orphaned()

    def send_if_room(self, message: Message) -> None:
        """Send a message that may be lost, unless the supervisor has been silent for too many of them."""
        if self._unanswered < UNANSWERED:
            self._unanswered += 1
            self.send(message)

    def expect(self) -> int:
        """The number of a question that is about to be sent. Its answer is kept until `answer` or `forget`."""
        request = next(self._requests)
        self._answers[request] = queue.SimpleQueue()
        return request

    def answer(self, request: int, timeout: float) -> Answer | None:
        """Wait for the answer to a question, for so many seconds; `None` when none comes in time, or none can."""
        answer = self._answers.get(request)
        try:
            return None if answer is None or self._closed else answer.get(timeout=timeout)
        except queue.Empty:
            watchdog.warning("the supervisor has not answered within %s", whole_seconds(timeout))
            return None
        finally:
            self.forget(request)

    def forget(self, request: int) -> None:
        """Nobody will ask for this answer."""
        self._answers.pop(request, None)

    def await_judged(self, end: int, timeout: float) -> None:
        """Come back when this end of a batch is judged, or after so many seconds."""
        with self._judging:
            if not self._judging.wait_for(lambda: self._closed or self._judged >= end, timeout):
                watchdog.warning("the supervisor has not judged a batch within %s", whole_seconds(timeout))

    def receive_shard(self, timeout: float) -> GiveShard | Leave | None:
        """What a build's worker is to do next, `None` when nothing comes in time."""
        try:
            return self._shards.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Say no more. The supervisor then waits for this process to end."""
        self._closed = True
        self._channel.close()

    # -- from the supervisor ------------------------------------------------------------------------------------------

    def _say_hello(self) -> Welcome:
        hello = messages.Hello(messages.VERSION, os.getpid(), platform.python_version(), __version__)
        self._channel.send(messages.pack(hello))
        with self._channel.closed_after(HELLO_SECONDS):  # one that hangs must not keep the job from running
            content = self._channel.receive()
        if content["type"] != Welcome.NAME or content.get("version") != messages.VERSION:
            raise ChannelError(f"the supervisor speaks another version of this package: {content!r:.120}")
        try:
            welcome = messages.unpack(messages.FROM_SUPERVISOR, content)
        except BadMessage as error:
            raise ChannelError(f"the supervisor's first word cannot be used: {error}") from None
        assert isinstance(welcome, Welcome)
        return welcome

    def _read(self) -> None:
        while True:
            try:
                content = self._channel.receive()
            except ChannelLost as error:
                self._lost(error)
                return
            except (ChannelClosed, BadFrame):
                self._orphaned()
                return
            self._unanswered = 0
            try:
                self._take(messages.unpack(messages.FROM_SUPERVISOR, content))
            except BadMessage as error:
                watchdog.warning("a message of the supervisor is passed over: %s", error)
            except Exception:
                watchdog.exception("a message of the supervisor cannot be used; the job goes on")

    def _take(self, message: Message) -> None:
        if isinstance(message, Answer):
            answer = self._answers.get(message.request)
            if answer is not None:
                answer.put(message)
        elif isinstance(message, messages.Judged):
            with self._judging:
                self._judged = max(self._judged, message.end)
                self._judging.notify_all()
        elif isinstance(message, messages.GiveAction):
            if self._is_vetoed(message.action):
                self._acknowledge(message.action, Outcome.VETOED)
            else:
                self.actions.put(message.action)
        elif isinstance(message, messages.VoidAction):
            self.actions.discard(message.action)
        elif isinstance(message, messages.Pause):
            self.pausing = True
        elif isinstance(message, (GiveShard, Leave)):
            self._shards.put(message)

    def _is_vetoed(self, action: Action) -> bool:
        vetoed = False
        for hook in list(self.hooks):
            try:
                vetoed = hook(action) is False or vetoed
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the hook is the user's; it must not stop the ladder
                self.send(messages.ReportError("hook", f"{type(error).__name__}: {error}"))
        return vetoed

    def _acknowledge(self, action: Action, outcome: Outcome) -> None:
        detail = self.details.pop(action.id, "")
        self.send(messages.Acknowledge(action.id, outcome, detail))

    def _lost(self, error: ChannelLost) -> None:
        """The job has closed the channel, and did not mean us: the supervisor is there, and waits for its end."""
        with self._judging:
            if self._closed:
                return
            self._closed = True
            self._judging.notify_all()
        watchdog.warning("%s; the job goes on, and nobody watches it", error)

    def _orphaned(self) -> None:
        if self._closed:
            return
        self._closed = True
        watchdog.error("the supervisor is gone; this worker ends, what it has committed is kept")
        self._leave(ORPHANED_EXIT_CODE)


_NO_SUPERVISOR = (ChannelError, MemoryError, RuntimeError, KeyError, TypeError, ValueError)
"""What comes of a link that cannot be had: the job must run all the same."""

_living: weakref.WeakSet[Link] = weakref.WeakSet()
_making = threading.Lock()
_made: list[Link | None] = []


def link_of_this_process() -> Link | None:
    """The link to the supervisor of the job that this process is of, `None` where there is none.

    Made once a process. A channel that cannot be used is told once, and the job then runs as if nobody supervised it.

    Threads: any.
    """
    with _making:
        if not _made:
            _made.append(_connect())
        elif _made[0] is not None and not _made[0].is_reached():
            _made[0] = None
        return _made[0]


def _connect() -> Link | None:
    channel, why = _open_channel()
    try:
        if channel is not None:
            return Link(channel)
    except _NO_SUPERVISOR as error:
        why = _sentence(error)
    if why:
        watchdog.warning("no supervisor can be reached (%s); the watch runs in this process", why)
    return None


def _open_channel() -> tuple[Channel | None, str]:
    """A channel of this process's own; or why there is none, empty where nobody supervises it."""
    text = take_channel()
    if text is None:
        return None, ""
    try:
        if text.startswith(JOB_FILE):
            return connect(text.removeprefix(JOB_FILE), HELLO_SECONDS), ""
        return Channel.from_inherited(text), ""
    except _NO_SUPERVISOR as error:
        return None, _sentence(error)


def _sentence(error: BaseException) -> str:
    if isinstance(error, ChannelError):
        return str(error)
    if isinstance(error, (MemoryError, RuntimeError)):  # no thread, say
        return lack_sentence(error)
    return f"what answers is no supervisor of this package: {error}"


def _after_fork_in_child() -> None:
    global _making  # noqa: PLW0603 - another thread of the parent may have held it
    _making = threading.Lock()
    for link in list(_living):
        link.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
