"""How each process of a job comes to a link of its own: a socket of the supervisor's, on Windows a named pipe.

A driver of the user's own starts further processes by whatever means it likes: a fork, which shares a descriptor that
was inherited, a spawn, which has none, a shell between. All of them inherit the environment. So that names a file which
this user alone can read; in it are an address and a secret, and both ends prove that they know the secret before a
message is read. Nothing is ever unpickled.

Source: DESIGN.md, section 7; `multiprocessing.connection`, whose handshake it is (HMAC of a challenge).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Client
from pathlib import Path
from typing import NamedTuple

from helix_crawl_otel.config import CHANNEL_VARIABLE, JOB_FILE
from helix_crawl_otel.link.channel import Channel, ChannelClosed, ChannelError
from helix_crawl_otel.logs import watchdog

__all__ = ["LinkListener", "connect"]

LONGEST_ADDRESS = 100
"""Bytes. A socket's path has 108 on Linux and 104 on macOS; a folder for temporary files may be deep."""

LONGEST_FILE = 4096
"""Bytes. An address and a secret are some 200."""

BACKLOG = 128
"""Processes that connect at once: a pool's. Where it is full, macOS refuses the next one."""

PROOF_SECONDS = 60.0
"""What a process gets to prove that it knows the secret, once another one comes; a stopped one may take as long as it
likes while nobody else does."""

AGAIN_SECONDS = 0.5
"""After one that could not be let in, for want of descriptors say."""

TRY_SECONDS, BETWEEN_SECONDS = 3.0, 0.1
"""For how long a process tries again to come in, while the supervisor's file is there. One that was stopped a minute
may have taken it for late, and where many come at once all the places may be taken."""

CLOSING_SECONDS = 5.0


class _Door(NamedTuple):
    """What the file says: where to connect, and the secret."""

    address: str
    key: bytes


class LinkListener:
    """Lets the processes of one job in, each to a channel of its own.

    Raises:
        OSError: There is no room for its file, or no socket.

    Threads: `start` and `close` the owner's. It has a thread of its own, and one for each process that is proving
    itself.
    """

    def __init__(self) -> None:
        place = tempfile.gettempdir()
        is_short = len(os.fsencode(place)) + len("/helix-crawl-12345678/socket") <= LONGEST_ADDRESS
        place = place if is_short or sys.platform == "win32" else "/tmp"  # a socket's path would be too long in it
        self._folder = Path(tempfile.mkdtemp(prefix="helix-crawl-", dir=place))  # of this user alone
        self._file = self._folder / "link"
        try:
            address = rf"\\.\pipe\{self._folder.name}" if sys.platform == "win32" else str(self._folder / "socket")
            self._door = _Door(address, secrets.token_bytes(32))
            self._listener = _listen(address)
            with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump({"address": address, "key": self._door.key.hex()}, file)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._lock = threading.Lock()
        self._proving: dict[threading.Thread, tuple[Channel, float]] = {}  # and since when; guarded by _lock
        self._is_closed = False  # likewise
        self._accepting: threading.Thread | None = None

    def environment(self) -> dict[str, str]:
        """What the environment of the job's processes has to say."""
        return {CHANNEL_VARIABLE: f"{JOB_FILE}{self._file}"}

    def start(self, take: Callable[[Channel], object]) -> None:
        """Let processes in from now on.

        Args:
            take: Called with the channel of each, in a thread of its own.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        accepting = threading.Thread(target=self._accept, args=(take,), name="helix-crawl-listener", daemon=True)
        accepting.start()
        self._accepting = accepting

    def close(self) -> None:
        """Let nobody in any more. Who has proved itself by now has been taken; a second call does nothing."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        with suppress(OSError):
            self._file.unlink()
        ends = time.monotonic() + CLOSING_SECONDS
        if self._accepting is not None:
            with suppress(OSError, EOFError):
                Client(self._door.address).close()  # nothing else wakes it on every system
            self._accepting.join(CLOSING_SECONDS)
        while True:
            with self._lock:
                proving = dict(self._proving)
            left = ends - time.monotonic()
            if not proving or left <= 0:
                break
            next(iter(proving)).join(left)
        for channel, _ in proving.values():  # too late: they are sent away
            channel.close()
        with suppress(OSError):
            self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _accept(self, take: Callable[[Channel], object]) -> None:
        while True:
            try:
                channel = Channel(self._listener.accept())
            except Exception as error:  # noqa: BLE001 - one that left too soon, say: nobody else could come in any more
                if self._is_closed:
                    return
                watchdog.warning("a process of the job cannot be linked: %r", error)
                time.sleep(AGAIN_SECONDS)
                continue
            thread = threading.Thread(target=self._prove, args=(channel, take), name="helix-crawl-proof", daemon=True)
            now = time.monotonic()
            with self._lock:
                late = [other for other, since in self._proving.values() if now - since > PROOF_SECONDS]
                if not self._is_closed:
                    self._proving[thread] = channel, now
            for other in late:
                other.close()
            if self._is_closed:
                channel.close()
                return
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread to give
                watchdog.warning("a process of the job cannot be linked: %s", error)
                self._proved(thread)
                channel.close()

    def _prove(self, channel: Channel, take: Callable[[Channel], object]) -> None:
        try:
            channel.prove(self._door.key, asks_first=True)
            take(channel)
        except ChannelError as error:  # a process that has ended meanwhile, or one that knows nothing
            watchdog.debug("a process has not come in: %s", error)
            channel.close()
        except Exception:
            watchdog.exception("a process of the job cannot be linked")
            channel.close()
        finally:
            self._proved(threading.current_thread())

    def _proved(self, thread: threading.Thread) -> None:
        with self._lock:
            self._proving.pop(thread, None)


def connect(path: str, seconds: float) -> Channel:
    """A channel of this process's own to the supervisor of its job.

    Args:
        path: Of the listener's file.
        seconds: How long the supervisor may take to prove itself.

    Raises:
        ChannelError: There is none any more, or it is none of this user's.
    """
    ends = time.monotonic() + TRY_SECONDS
    while True:
        try:
            return _connect(path, seconds)
        except (ChannelClosed, OSError, EOFError) as error:
            if not _is_there(path) or time.monotonic() >= ends:
                why = getattr(error, "strerror", None) or error
                raise ChannelError(f"the supervisor's address in {path} cannot be reached: {why}") from None
        time.sleep(BETWEEN_SECONDS)


def _is_there(path: str) -> bool:
    """As far as this process may see it: a file of another user's is none. `Path.exists` would raise that."""
    try:
        Path(path).stat()
    except OSError:
        return False
    return True


def _connect(path: str, seconds: float) -> Channel:
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise ValueError  # a pipe or a device might be read for ever
        with Path(path).open("rb") as file:
            content = json.loads(file.read(LONGEST_FILE))
        door = _Door(str(content["address"]), bytes.fromhex(content["key"]))
        channel = Channel(Client(door.address))
    except (ValueError, KeyError, TypeError):
        raise ChannelError(f"{path[:80]!r} holds no address of a supervisor") from None
    try:
        with channel.closed_after(seconds):
            channel.prove(door.key, asks_first=False)
    except ChannelError:
        channel.close()
        raise
    return channel


if sys.platform == "win32":
    import _winapi
    import ctypes
    from ctypes import wintypes
    from multiprocessing.connection import BUFSIZE, PipeListener

    _ONE_USER = "D:P(A;;GA;;;{})"
    """Everything for this user, nothing for anybody else: what a pipe has by itself lets all others read."""

    _REJECT_REMOTE_CLIENTS = 8
    _TOKEN_QUERY, _TOKEN_USER = 8, 1

    _kernel32, _advapi32 = (
        ctypes.WinDLL("kernel32", use_last_error=True),
        ctypes.WinDLL("advapi32", use_last_error=True),
    )
    _kernel32.GetCurrentProcess.restype = wintypes.HANDLE
    _kernel32.LocalFree.argtypes = (ctypes.c_void_p,)
    _advapi32.OpenProcessToken.argtypes = (wintypes.HANDLE, wintypes.DWORD, ctypes.POINTER(wintypes.HANDLE))
    _advapi32.GetTokenInformation.argtypes = (
        *(wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD, ctypes.POINTER(wintypes.DWORD)),
    )
    _advapi32.ConvertSidToStringSidW.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
    _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW.argtypes = (
        *(wintypes.LPCWSTR, wintypes.DWORD, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p),
    )

    class _Security(ctypes.Structure):
        """SECURITY_ATTRIBUTES."""

        _fields_ = (("length", wintypes.DWORD), ("descriptor", ctypes.c_void_p), ("inherit", wintypes.BOOL))

    def _checked(done: int) -> None:
        if not done:
            raise ctypes.WinError(ctypes.get_last_error())

    def _user() -> str:
        """The security identifier of who runs this process."""
        token, size, text = wintypes.HANDLE(), wintypes.DWORD(), ctypes.c_void_p()
        _checked(_advapi32.OpenProcessToken(_kernel32.GetCurrentProcess(), _TOKEN_QUERY, ctypes.byref(token)))
        try:
            found = ctypes.create_string_buffer(256)  # TOKEN_USER: a pointer, and what is there
            _checked(_advapi32.GetTokenInformation(token, _TOKEN_USER, found, len(found), ctypes.byref(size)))
        finally:
            _winapi.CloseHandle(token.value)
        _checked(_advapi32.ConvertSidToStringSidW(ctypes.c_void_p.from_buffer(found).value, ctypes.byref(text)))
        try:
            return ctypes.wstring_at(text.value)
        finally:
            _kernel32.LocalFree(text)

    class _OwnPipeListener(PipeListener):
        """A named pipe that nobody else, and nobody from another machine, can open."""

        def _new_handle(self, first: bool = False) -> int:
            """As its base, with a security of our own. Called with the name set."""
            security = _Security(ctypes.sizeof(_Security), None, False)
            descriptor = ctypes.c_void_p()
            text = _ONE_USER.format(_user())
            _checked(
                _advapi32.ConvertStringSecurityDescriptorToSecurityDescriptorW(text, 1, ctypes.byref(descriptor), None)
            )
            security.descriptor = descriptor.value
            try:
                return _winapi.CreateNamedPipe(
                    self._address,
                    _winapi.PIPE_ACCESS_DUPLEX
                    | _winapi.FILE_FLAG_OVERLAPPED
                    | (_winapi.FILE_FLAG_FIRST_PIPE_INSTANCE if first else 0),
                    _winapi.PIPE_TYPE_MESSAGE
                    | _winapi.PIPE_READMODE_MESSAGE
                    | _winapi.PIPE_WAIT
                    | _REJECT_REMOTE_CLIENTS,
                    *(_winapi.PIPE_UNLIMITED_INSTANCES, BUFSIZE, BUFSIZE, _winapi.NMPWAIT_WAIT_FOREVER),
                    ctypes.addressof(security),
                )
            finally:
                _kernel32.LocalFree(descriptor)

    _listen = _OwnPipeListener

else:
    from multiprocessing.connection import Listener

    _listen = partial(Listener, backlog=BACKLOG)
