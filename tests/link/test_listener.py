"""How the processes of a job come in: real sockets, on Windows named pipes; strangers stay outside."""

from __future__ import annotations

import ctypes
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from helix_crawl_otel.config import CHANNEL_VARIABLE, JOB_FILE, take_channel
from helix_crawl_otel.link import listener as module
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.channel import Channel, ChannelClosed, ChannelError
from helix_crawl_otel.link.client import Link, _connect
from helix_crawl_otel.link.listener import LinkListener, connect
from helix_crawl_otel.link.messages import VERSION, pack

SECONDS = 60.0

WELCOME = messages.Welcome(VERSION, None, 5.0, 1.0, None)


class Served:
    """A listener, and the channels of those that it has let in."""

    def __init__(self) -> None:
        self.listener = LinkListener()
        self.came: SimpleQueue[Channel] = SimpleQueue()
        self.file = Path(self.listener.environment()[CHANNEL_VARIABLE].removeprefix(JOB_FILE))
        self.taken: list[Channel] = []

    def start(self) -> None:
        """Let in from now on."""
        self.listener.start(self.came.put)

    def next(self) -> Channel:
        """The channel of the next one."""
        self.taken.append(self.came.get(timeout=SECONDS))
        return self.taken[-1]

    @property
    def door(self) -> dict[str, str]:
        """What the file says."""
        content: dict[str, str] = json.loads(self.file.read_text("utf-8"))
        return content


@pytest.fixture
def served() -> Iterator[Served]:
    """A listener that has begun."""
    served = Served()
    served.start()
    yield served
    served.listener.close()
    for channel in served.taken:
        channel.close()
    assert not served.file.parent.exists()


def test_each_process_has_a_channel_of_its_own(served: Served) -> None:
    """A hundred at once, beside ten that never say a word: what one says, and what it is told, is no other's."""
    heard: dict[int, object] = {}
    silent = [Client(served.door["address"]) for _ in range(10)]

    def visit(number: int) -> None:
        channel = connect(str(served.file), SECONDS)
        channel.send({"type": "n", "n": number})
        heard[number] = channel.receive()["n"]
        channel.close()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for _ in threads:
        channel = served.next()
        channel.send({"type": "n", "n": channel.receive()["n"] * 10})
    for thread in threads:
        thread.join(SECONDS)
    assert heard == {number: number * 10 for number in range(100)}
    for stranger in silent:
        stranger.close()


class Unsteady:
    """Does something else the first times that it is asked, and counts them.

    Args:
        does: What it does in the end.
        fails: What it raises before that.
    """

    def __init__(self, does: Callable[..., Any], *fails: Exception) -> None:
        self.calls = 0
        self._does = does
        self._fails = list(fails)

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        if self._fails:
            raise self._fails.pop(0)
        return self._does(*given)


def test_who_is_sent_away_tries_again(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a listener that is full, or one that was stopped and took it for late; not once its supervisor has gone."""
    tries = Unsteady(Client, ConnectionRefusedError(111, "Connection refused"), EOFError())
    monkeypatch.setattr(module, "Client", tries)
    connect(str(served.file), SECONDS).close()
    assert tries.calls == 3
    served.next()
    served.file.rename(served.file.with_name("elsewhere"))
    with pytest.raises(ChannelError, match="cannot be reached"):
        connect(str(served.file), SECONDS)
    assert tries.calls == 3


def test_one_that_leaves_too_soon_keeps_nobody_outside(caplog: pytest.LogCaptureFixture) -> None:
    """On Windows that is an AssertionError of the standard library's."""
    served = Served()
    accept = Unsteady(served.listener._listener.accept, AssertionError())
    served.listener._listener.accept = accept  # type: ignore[method-assign]  # of this one alone
    served.start()
    connect(str(served.file), SECONDS).close()
    served.next().close()
    served.listener.close()
    assert "a process of the job cannot be linked: AssertionError" in caplog.text


@pytest.mark.skipif(sys.platform != "win32", reason="named pipes")
def test_the_pipe_is_this_users_alone(served: Served) -> None:
    """One entry: this user; none of what a pipe has by itself, with which everybody may read."""
    libraries: Any = ctypes
    pipe: Any = served.listener._listener
    of_windows: Any = module
    advapi32 = libraries.WinDLL("advapi32")
    content, text = ctypes.create_string_buffer(4096), ctypes.c_wchar_p()
    handle = ctypes.c_void_p(pipe._handle_queue[0])
    assert advapi32.GetKernelObjectSecurity(handle, 4, content, len(content), ctypes.byref(ctypes.c_ulong()))
    convert = advapi32.ConvertSecurityDescriptorToStringSecurityDescriptorW
    assert convert(content, 1, 4, ctypes.byref(text), None)
    assert re.fullmatch(rf"D:P\(A;;\w+;;;{re.escape(of_windows._user())}\)", text.value or ""), text.value


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_the_file_and_the_socket_are_this_users_alone(served: Served) -> None:
    """Nobody else can look into the folder, or into the file."""
    assert stat.S_IMODE(served.file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(served.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(served.door["address"]).parent.stat().st_mode) == 0o700


def test_who_does_not_know_the_secret_stays_outside(served: Served, tmp_path: Path) -> None:
    """Neither is let in, nor harms those that know it; and nothing that it says is read."""
    wrong = tmp_path / "link"
    wrong.write_text(json.dumps({"address": served.door["address"], "key": "00" * 32}))
    with pytest.raises(ChannelError, match="the other end does not know the secret"):
        connect(str(wrong), SECONDS)
    with Client(served.door["address"]) as stranger:
        stranger.recv_bytes()
        stranger.send({"a": "pickle"})
    with Client(served.door["address"]):  # says nothing, and stays
        connect(str(served.file), SECONDS).close()
        with pytest.raises(ChannelClosed):
            served.next().receive()
    assert served.came.empty()


def test_a_supervisor_that_does_not_know_the_secret_is_none(tmp_path: Path) -> None:
    """Somebody else listens at the address: no message is sent to it."""
    pretender, real = Served(), Served()
    pretender.start()
    try:
        wrong = tmp_path / "link"
        wrong.write_text(json.dumps({**real.door, "address": pretender.door["address"]}))
        with pytest.raises(ChannelError, match="does not know the secret"):
            connect(str(wrong), SECONDS)
    finally:
        pretender.listener.close()
        real.listener.close()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be reached: (No such file|File not found|The system cannot find)"),
        ("", "holds no address of a supervisor"),
        ("[]", "holds no address of a supervisor"),
        ('{"address": "x"}', "holds no address of a supervisor"),
        ('{"address": "/nowhere/socket", "key": "00"}', "cannot be reached|holds no address"),
        ('{"address": "/nowhere/socket", "key": "zz"}', "holds no address of a supervisor"),
    ],
)
def test_a_file_that_leads_nowhere(
    content: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The supervisor has gone, or the variable is of another job: one sentence, and the job runs all the same."""
    path = tmp_path / "link"
    monkeypatch.setattr(module, "TRY_SECONDS", 0.0)
    if content is not None:
        path.write_text(content)
    with pytest.raises(ChannelError, match=why):
        connect(str(path), SECONDS)
    monkeypatch.setenv(CHANNEL_VARIABLE, f"{JOB_FILE}{path}")
    assert _connect() is None
    assert len(caplog.messages) == 1
    assert "no supervisor can be reached" in caplog.text
    assert "the watch runs in this process" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices that are files")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "unseen", "noise"])
def test_what_is_no_file_of_a_supervisors_ends_no_job(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of it is read for ever or shown, and a path that this process may not even look at raises nothing."""
    path = tmp_path / "link"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "unseen":  # as of another user's folder, which holds for no test that root runs
        path = tmp_path / ("x" * 300)
    else:
        path.write_bytes(b"\xff" * 100_000)
    monkeypatch.setenv(CHANNEL_VARIABLE, f"{JOB_FILE}{path}")
    assert _connect() is None
    (said,) = caplog.messages
    assert "cannot be reached" in said if kind == "unseen" else "holds no address of a supervisor" in said
    assert len(said) < 1000


@pytest.mark.parametrize("text", ["", "  "])
def test_a_variable_without_anything_in_it_is_unset(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every other one of ours."""
    monkeypatch.setenv(CHANNEL_VARIABLE, text)
    assert take_channel() is None


def test_the_variable_stays_for_the_processes_that_this_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a build's worker, which is this process's alone, does not."""
    for text, left in ((f"{JOB_FILE}x", f"{JOB_FILE}x"), ("fd:3", None)):
        monkeypatch.setenv(CHANNEL_VARIABLE, text)
        assert take_channel() == text
        assert os.environ.get(CHANNEL_VARIABLE) == left


def test_who_comes_while_it_closes_is_taken_or_sent_away() -> None:
    """Nobody waits for ever; a second close does nothing."""
    served = Served()
    served.start()
    channel = connect(str(served.file), SECONDS)
    channel.send({"type": "last"})
    served.listener.close()
    served.listener.close()
    assert served.next().receive() == {"type": "last"}
    with pytest.raises(ChannelError):
        connect(str(served.file), SECONDS)
    channel.close()


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no folder")
def test_a_folder_for_temporary_files_that_is_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's path has about a hundred letters: the listener goes elsewhere."""
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    listener = LinkListener()
    address = str(listener._door.address)
    listener.close()
    assert len(address) <= module.LONGEST_ADDRESS
    assert list(deep.iterdir()) == []


FORKED = """
import os, sys
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.client import link_of_this_process

link = link_of_this_process()
silent = os.fork()
if not silent:
    os._exit(0)  # touches nothing of ours
os.waitpid(silent, 0)
child = os.fork()
if not child:
    assert link_of_this_process() is link
    link.send(messages.CloseShard("the child's", "done"))
    os._exit(0)
link.send(messages.CloseShard("the parent's", "done"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_comes_to_a_channel_of_its_own_when_it_has_something_to_say(served: Served) -> None:
    """One that has not is not seen at all; the end of the parent's is seen, whoever has inherited it."""
    environ = {**os.environ, **served.listener.environment()}
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", FORKED], env=environ) as process:
        for is_parent in (True, False):
            assert (served.next().receive()["pid"] == process.pid) == is_parent
            served.taken[-1].send(pack(WELCOME))
        assert [channel.receive()["shard"] for channel in served.taken] == ["the parent's", "the child's"]
        for channel in served.taken:
            with pytest.raises(ChannelClosed):
                channel.receive()
        assert process.wait(SECONDS) == 0
    assert served.came.empty()


def test_a_link_over_it_is_as_any_other(served: Served) -> None:
    """Welcome, and messages both ways."""
    made: list[Link] = []
    thread = threading.Thread(target=lambda: made.append(Link(connect(str(served.file), SECONDS))))
    thread.start()
    channel = served.next()
    assert channel.receive()["type"] == "hello"
    channel.send(pack(WELCOME))
    thread.join(SECONDS)
    (link,) = made
    link.send(messages.CloseShard("a", "done"))
    assert channel.receive()["shard"] == "a"
    link.close()
