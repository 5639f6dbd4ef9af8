"""The wire between a worker and its supervisor: an inherited duplex pipe that carries JSON objects, one a frame.

`multiprocessing`'s connections do the framing (a length, then the bytes). Nothing is ever pickled: what arrives is
bytes, and has to be a JSON object with a `type`.

Source: DESIGN.md, section 7. Measured there: 80 us a round trip, about 167 unread frames of 250 bytes before the writer
blocks, a killed peer seen in 2 ms.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

from helix_crawl_otel.config import CHANNEL_VARIABLE

__all__ = ["BadFrame", "Channel", "ChannelClosed", "ChannelError", "ChannelLost", "ChildEnd", "open_pair"]

FILE_TYPE_PIPE = 3  # as Windows has it

LARGEST_FRAME = 1024**2
"""Bytes. The largest message is a shard's assignment with its suspects, a few kilobytes."""


LEAVE_SECONDS, AGAIN_SECONDS = 30.0, 0.05
"""What another thread gets to come out of a read or a write on a channel that is being closed: it takes no time."""

_NUMBER = re.compile("[0-9]{1,18}")
"""Of a descriptor or a handle. More digits are no number that a system gives, and Python reads only so many."""

_CLOSED_MEANWHILE = (OSError, TypeError, ValueError, AssertionError, RuntimeError)
"""What `multiprocessing` makes of a read or a write that another thread has ended; on Windows also the last two."""


class ChannelError(Exception):
    """There is no channel where one was said to be."""


class ChannelClosed(ChannelError):
    """The other end is gone, or this one has been closed."""


class ChannelLost(ChannelClosed):
    """Somebody else in this process has closed this end; its number may be another file's by now."""


class BadFrame(ChannelError):
    """What arrived is no message."""


class Channel:
    """One end.

    Args:
        connection: Open, in both directions.

    Threads: `send` from any; `receive` from one at a time; `close` from any, also while another one receives.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._file = _file_of(connection)
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._closed = False

    @classmethod
    def from_inherited(cls, text: str) -> Channel:
        """The end that this process has inherited.

        Args:
            text: The variable's value.

        Raises:
            ChannelError: It names nothing that is open, or nothing that can be a channel.

        The channel is a copy; what was named stays open, and is the caller's.
        """
        kind, number, mark = (*text.split(":", 2), "", "")[:3]
        wanted = "handle" if sys.platform == "win32" else "fd"
        if kind != wanted or not _NUMBER.fullmatch(number):
            raise ChannelError(f"{CHANNEL_VARIABLE} is {text[:80]!r}; accepted: {wanted}:, a number, and what is there")
        return cls(_open_inherited(int(number), mark))

    def send(self, message: Mapping[str, object]) -> None:
        """Send one message.

        Raises:
            ChannelClosed: Nobody will read it.
            ChannelLost: It cannot be written, for it is not ours any more.
            ValueError: It is no JSON, or too large.
        """
        frame = json.dumps(message, allow_nan=False, separators=(",", ":")).encode("ascii")
        if len(frame) > LARGEST_FRAME:
            raise ValueError(f"a message of {len(frame)} bytes is too large; accepted: {LARGEST_FRAME}")
        with self._sending:
            self._check_open()
            try:
                self._connection.send_bytes(frame)
            except _CLOSED_MEANWHILE as error:
                self._check_open()
                raise ChannelClosed(f"the channel cannot be written: {error}") from None

    def receive(self) -> dict[str, Any]:
        """Wait for the next message.

        Raises:
            ChannelClosed: The other end is gone, in the middle of a frame or after one.
            ChannelLost: See `send`.
            BadFrame: What arrived is no JSON object with a `type`, or is too large.
        """
        try:
            with self._receiving:
                self._check_open()
                frame = self._connection.recv_bytes(LARGEST_FRAME)
        except EOFError:
            self._check_open()
            raise ChannelClosed("the other end has closed the channel") from None
        except OSError as error:
            self._check_open()
            if "bad message length" in str(error):
                raise BadFrame(f"a frame is larger than {LARGEST_FRAME} bytes") from None
            raise ChannelClosed(f"the channel cannot be read: {error}") from None
        except _CLOSED_MEANWHILE as error:
            self._check_open()
            raise ChannelClosed(f"the channel was closed: {error}") from None
        return _message(frame)

    def prove(self, key: bytes, *, asks_first: bool) -> None:
        """Have each end show the other that it knows a secret, before anything else is said.

        Args:
            key: The secret.
            asks_first: One of both does.

        Raises:
            ChannelError: The other end does not know it, or is gone.
        """
        steps = [deliver_challenge, answer_challenge]
        try:
            with self._receiving, self._sending:
                for step in steps if asks_first else reversed(steps):
                    self._check_open()
                    step(self._connection, key)
        except AuthenticationError:
            raise ChannelError("the other end does not know the secret") from None
        except (EOFError, *_CLOSED_MEANWHILE) as error:
            self._check_open()
            raise ChannelClosed(f"the other end is gone: {error}") from None

    @contextmanager
    def closed_after(self, seconds: float) -> Iterator[None]:
        """Close this end, and so end whatever waits, when the block takes longer than that."""
        timer = threading.Timer(seconds, self.close)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def leave_to_parent(self) -> None:
        """In a forked child: close the copy that it has inherited, or nobody would see the end of its parent.

        Nothing is waited for, and no lock is taken: the threads that used it are the parent's.
        """
        if not self._closed and _file_of(self._connection) == self._file:
            self._closed = True
            self._connection.close()

    def close(self) -> None:
        """Close this end; a `receive` that waits in another thread ends. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if _file_of(self._connection) != self._file:
            return  # somebody has closed it already
        with ExitStack() as held:
            # Only after that is nobody inside a read or a write: the number of a closed descriptor or handle is
            # given to the next file, and what a thread still reads or writes by it would be another worker's.
            for lock in (self._receiving, self._sending):
                if not self._left(lock):
                    return
                held.callback(lock.release)
            with suppress(OSError):
                self._connection.close()

    def _check_open(self) -> None:
        if self._closed:  # not left to the connection: it is open until nobody is inside it
            raise ChannelClosed("the channel has been closed")
        if _file_of(self._connection) != self._file:
            # A job that closes whatever is open, to become a daemon perhaps, opens files after that: our frames would
            # stand in one of them, and the connection would close it when it is thrown away.
            self._connection._handle = None  # type: ignore[attr-defined]  # of all versions since 3.3
            raise ChannelLost("something in this process has closed the channel")

    def _left(self, lock: threading.Lock) -> bool:
        """Have whoever holds the lock come out of a read or a write, and take it. Returns whether it was so."""
        ends = time.monotonic() + LEAVE_SECONDS
        while True:
            _interrupt(self._connection)
            if lock.acquire(timeout=AGAIN_SECONDS):
                return True
            if time.monotonic() >= ends:
                return False


if sys.platform == "win32":

    def _file_of(connection: Connection) -> object:
        """Handles cannot be told apart; few programs close all that they have."""
        return None

    def _interrupt(connection: Connection) -> None:
        """End the reads and writes that wait just now; one that is about to begin needs another call."""
        ctypes.windll.kernel32.CancelIoEx(ctypes.c_void_p(connection.fileno()), None)

else:

    def _file_of(connection: Connection) -> object:
        """What is open under its number, `None` for nothing."""
        try:
            found = os.fstat(connection.fileno())
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _interrupt(connection: Connection) -> None:
        """End every read and write, now and later, also one that waits; closing alone would not."""
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as twin:
            twin.shutdown(socket.SHUT_RDWR)


def _message(frame: bytes) -> dict[str, Any]:
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise BadFrame(f"a frame is no JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise BadFrame(f"a frame is no object with a type: {frame[:80]!r}")
    return message


class ChildEnd:
    """The end that a child is to inherit. Close it once the child has been started.

    Args:
        connection: The child's end.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        if sys.platform == "win32":
            os.set_handle_inheritable(connection.fileno(), True)

    def environment(self) -> dict[str, str]:
        """What the child's environment has to say."""
        kind, number = "handle" if sys.platform == "win32" else "fd", self._connection.fileno()
        return {CHANNEL_VARIABLE: f"{kind}:{number}:{_mark_of(number)}"}

    def popen_arguments(self) -> dict[str, Any]:
        """Arguments of `subprocess.Popen` that hand this end over, and no other."""
        if sys.platform == "win32":
            startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [self._connection.fileno()]})
            return {"startupinfo": startup, "close_fds": True}
        return {"pass_fds": (self._connection.fileno(),)}

    def close(self) -> None:
        """Close the parent's copy. A second call does nothing."""
        if not self._connection.closed:
            self._connection.close()


def open_pair() -> tuple[Channel, ChildEnd]:
    """A new channel: our end, and the one for a child."""
    ours, theirs = multiprocessing.Pipe(duplex=True)
    return Channel(ours), ChildEnd(theirs)


def _open_inherited(number: int, mark: str) -> Connection:
    """A connection of our own to it: should the number be somebody else's file, it is not we who close it.

    It is neither read nor written unless it is what the supervisor has opened: the number may be another file's by now,
    or that of a process in between.
    """
    what = "handle" if sys.platform == "win32" else "descriptor"
    try:
        return _own_connection(number, mark)
    except (OSError, OverflowError, ValueError) as error:
        why = "too large a number" if isinstance(error, OverflowError) else getattr(error, "strerror", "") or error
        raise ChannelError(f"{CHANNEL_VARIABLE} names {what} {number}, which is no channel: {why}") from None


if sys.platform == "win32":

    def _mark_of(number: int) -> str:
        """Who has made the pipe."""
        pid = ctypes.c_ulong()
        handle = ctypes.c_void_p(number)
        if not ctypes.windll.kernel32.GetNamedPipeServerProcessId(handle, ctypes.byref(pid)):
            raise ValueError("it is a pipe without a name")
        return str(pid.value)

    def _own_connection(number: int, mark: str) -> Connection:
        import _winapi
        from multiprocessing.connection import PipeConnection
        from multiprocessing.reduction import duplicate

        if _winapi.GetFileType(number) != FILE_TYPE_PIPE:
            raise ValueError("it is no pipe")
        if _mark_of(number) != mark:
            raise ValueError("it is another pipe")
        os.set_handle_inheritable(number, False)
        return PipeConnection(duplicate(number))  # type: ignore[no-any-return]  # typeshed has it on Windows only

else:

    def _mark_of(number: int) -> str:
        """Its inode, which no other open socket has."""
        return str(os.fstat(number).st_ino)

    def _own_connection(number: int, mark: str) -> Connection:
        own = os.dup(number)
        try:
            looked_at = socket.socket(fileno=own)
            try:
                _check_pair(looked_at)
            finally:
                looked_at.detach()
            if _mark_of(own) != mark:
                raise ValueError("it is another pair of sockets")
            os.set_inheritable(number, False)
        except BaseException:
            os.close(own)
            raise
        return Connection(own)

    def _check_pair(looked_at: socket.socket) -> None:
        """A channel is one of two sockets that were made together: neither has a name."""
        if looked_at.family != socket.AF_UNIX or looked_at.type != socket.SOCK_STREAM:
            raise ValueError("it is another kind of socket")
        if looked_at.getsockname() or looked_at.getpeername():
            raise ValueError("it is a socket with a name")
