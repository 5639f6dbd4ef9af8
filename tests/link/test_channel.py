"""The wire, with real pipes."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from helix_crawl_otel.link.channel import (
    LARGEST_FRAME,
    BadFrame,
    Channel,
    ChannelClosed,
    ChannelError,
    open_pair,
)

KIND = "handle" if sys.platform == "win32" else "fd"

posix = pytest.mark.skipif(sys.platform == "win32", reason="writes to the descriptor beside the framing")


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Connection]]:
    """A channel, and the other end as it is."""
    ours, theirs = Pipe(duplex=True)
    channel = Channel(ours)
    yield channel, theirs
    channel.close()
    if not theirs.closed:
        theirs.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Connection]) -> None:
    """As JSON, whatever letters they hold."""
    channel, theirs = ends
    other = Channel(theirs)
    for n in range(50):
        channel.send({"type": "n", "n": n, "text": "straße 文 \0"})
    assert [other.receive()["n"] for _ in range(50)] == list(range(50))


@pytest.mark.parametrize("frame", [b"no json", b"[1]", b'{"n": 1}', b'{"type": 1}', b"\xff\xfe", b"", b"[" * 100_000])
def test_a_frame_that_is_no_message(ends: tuple[Channel, Connection], frame: bytes) -> None:
    """It is refused, and never unpickled."""
    channel, theirs = ends
    sender = threading.Thread(target=theirs.send_bytes, args=(frame,))  # it waits for the reader where pipes are small
    sender.start()
    with pytest.raises(BadFrame):
        channel.receive()
    sender.join(60)


def test_a_pickle_is_not_opened(ends: tuple[Channel, Connection]) -> None:
    """What it would do is not done."""
    channel, theirs = ends
    theirs.send({"type": "hello"})
    with pytest.raises(BadFrame, match="no JSON"):
        channel.receive()


@posix
def test_a_torn_frame_is_the_end(ends: tuple[Channel, Connection]) -> None:
    """The peer was killed while it wrote: what it was about to say is not guessed."""
    channel, theirs = ends
    os.write(theirs.fileno(), struct.pack("!i", 100) + b'{"type": "st')
    theirs.close()
    with pytest.raises(ChannelClosed):
        channel.receive()


@posix
def test_a_frame_that_says_it_is_huge_is_not_read(ends: tuple[Channel, Connection]) -> None:
    """No memory is taken for it."""
    channel, theirs = ends
    os.write(theirs.fileno(), struct.pack("!i", LARGEST_FRAME + 1))
    with pytest.raises(BadFrame, match="larger than"):
        channel.receive()


def test_what_cannot_be_sent_is_an_error_of_the_sender(ends: tuple[Channel, Connection]) -> None:
    """Too large, or no JSON: nothing of it goes out, and the channel works on."""
    channel, theirs = ends
    with pytest.raises(ValueError, match="too large"):
        channel.send({"type": "x", "text": "y" * LARGEST_FRAME})
    with pytest.raises(ValueError, match="JSON"):
        channel.send({"type": "x", "n": float("nan")})
    channel.send({"type": "fine"})
    assert Channel(theirs).receive() == {"type": "fine"}


def test_a_closed_peer(ends: tuple[Channel, Connection]) -> None:
    """Both directions say so."""
    channel, theirs = ends
    theirs.close()
    with pytest.raises(ChannelClosed):
        channel.receive()
    with pytest.raises(ChannelClosed):
        channel.send({"type": "x"})


def test_closing_wakes_who_waits(ends: tuple[Channel, Connection]) -> None:
    """A reader in another thread ends, and a second close does nothing."""
    channel, _ = ends
    ended: list[str] = []

    def read() -> None:
        try:
            channel.receive()
        except ChannelClosed:
            ended.append("closed")

    thread = threading.Thread(target=read)
    thread.start()
    channel.close()
    channel.close()
    thread.join(60)
    assert ended == ["closed"]


def test_eight_threads_send_at_once(ends: tuple[Channel, Connection]) -> None:
    """No frame is mixed with another, and each thread's stay in order."""
    channel, theirs = ends
    other = Channel(theirs)

    def send(thread: int) -> None:
        for n in range(200):
            channel.send({"type": "n", "thread": thread, "n": n, "text": "x" * (n * 7)})

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    seen: dict[int, list[int]] = {number: [] for number in range(8)}
    for _ in range(1600):
        message = other.receive()
        seen[message["thread"]].append(message["n"])
    for thread in threads:
        thread.join(60)
    assert all(numbers == list(range(200)) for numbers in seen.values())


def test_a_child_inherits_its_end_and_no_other() -> None:
    """It answers on it; a descriptor that was not handed over is not there."""
    channel, end = open_pair()
    program = (
        "import os; from helix_crawl_otel.config import take_channel;"
        "from helix_crawl_otel.link.channel import Channel; c = Channel.from_inherited(take_channel());"
        "c.send({'type': 'fds', 'left': 'HELIX_CRAWL_CHANNEL' in os.environ, 'got': c.receive()})"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, **end.environment()}, **end.popen_arguments()
    )
    end.close()
    channel.send({"type": "question"})
    assert channel.receive() == {"type": "fds", "left": False, "got": {"type": "question"}}
    with pytest.raises(ChannelClosed):
        channel.receive()
    assert child.wait(60) == 0
    channel.close()


NUMBERS = ["", "x", "-1", "³", "999999", "2147483648", "9" * 18, "9" * 20, "9" * 5000]


@pytest.mark.parametrize("text", ["", "pipe:3", *(f"{KIND}:{number}" for number in NUMBERS)])
def test_a_variable_that_names_no_channel(text: str) -> None:
    """One sentence, no traceback, however the number is wrong."""
    with pytest.raises(ChannelError, match="HELIX_CRAWL_CHANNEL"):
        Channel.from_inherited(text)


def test_another_pair_under_the_number_of_ours_is_neither_read_nor_written() -> None:
    """Of asyncio, say, in a process that was started in between and has closed what it inherited; on Windows a pipe of
    another program's."""
    channel, end = open_pair()
    text = end.environment()["HELIX_CRAWL_CHANNEL"]
    ours, theirs = Pipe(duplex=True)
    kind, _, mark = text.split(":")
    mark = str(int(mark) + 1) if sys.platform == "win32" else mark  # there both are of this process
    with pytest.raises(ChannelError, match="which is no channel: it is another p"):
        Channel.from_inherited(f"{kind}:{theirs.fileno()}:{mark}")
    assert not ours.poll()
    ours.send_bytes(b"x")
    assert theirs.recv_bytes() == b"x"
    for one in (ours, theirs, channel, end):
        one.close()


@posix
@pytest.mark.parametrize("what", ["file", "closed", "listening", "internet", "datagrams"])
def test_a_descriptor_of_something_else(tmp_path: Path, what: str) -> None:
    """It is refused, left open if it was, and no copy of it stays behind."""
    with ExitStack() as stack:
        number = _stray(stack, what, tmp_path)
        open_before = _open_descriptors()
        with pytest.raises(ChannelError, match=f"names descriptor {number}, which is no channel"):
            Channel.from_inherited(f"fd:{number}")
        assert _open_descriptors() == open_before


def _stray(stack: ExitStack, what: str, folder: Path) -> int:
    if what in ("file", "closed"):
        file = stack.enter_context((folder / "file").open("wb"))
        number = file.fileno()
        if what == "closed":
            file.close()
        return number
    stray = socket.socket(socket.AF_INET) if what == "internet" else socket.socket(socket.AF_UNIX, _kind(what))
    stack.enter_context(stray)
    if what == "listening":
        stray.bind(os.path.relpath(folder / "s"))
        stray.listen()
    return stray.fileno()


def _kind(what: str) -> socket.SocketKind:
    return socket.SOCK_DGRAM if what == "datagrams" else socket.SOCK_STREAM


def _open_descriptors() -> list[int]:
    return [number for number in range(256) if _is_open(number)]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def test_a_reader_of_a_closed_channel_takes_nothing_from_the_next_one() -> None:
    """The next one gets the number of the closed descriptor: whoever still waits on it must be gone by then."""

    def read(channel: Channel) -> None:
        try:
            while True:
                channel.receive()
        except ChannelClosed:
            pass

    threads = []
    for n in range(300):
        ours, theirs = Pipe(duplex=True)
        channel, other = Channel(ours), Channel(theirs)
        channel.send({"type": "n", "n": n})
        assert other.receive()["n"] == n
        threads.append(threading.Thread(target=read, args=(channel,)))
        threads[-1].start()
        other.send({"type": "last"})
        channel.close()
        other.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_sender_into_a_closed_channel_writes_nothing_into_the_next_one() -> None:
    """It waits for room, or is about to write: closing ends it first."""
    threads = []

    def send(channel: Channel) -> None:
        try:
            while True:
                channel.send({"type": "old", "text": "x" * 5000})
        except ChannelClosed:
            pass

    for n in range(300):
        ours, theirs = Pipe(duplex=True)
        channel, other = Channel(ours), Channel(theirs)
        channel.send({"type": "new", "n": n})
        assert other.receive() == {"type": "new", "n": n}
        threads.append(threading.Thread(target=send, args=(channel,)))
        threads[-1].start()
        channel.close()
        other.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
