"""The output that nobody waits for: order, bounds, a reader that hangs, one that goes, one that comes late."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from helix_crawl_otel.console.live import LiveDisplay
from helix_crawl_otel.console.output import PIECE_BYTES, OutputThread
from helix_crawl_otel.console.screen import JsonDisplay
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.supervise import events
from tests.console.story import STORY

DEADLINE_SECONDS = 120.0

pytestmark = pytest.mark.timeout(300)
PLENTY = 1 << 20


class Frozen(io.StringIO):
    """A terminal whose user has pressed Ctrl-S: the first write hangs until the event."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = threading.Event()
        self.goes_on = threading.Event()

    def write(self, text: str) -> int:
        """Hang, then write."""
        self.is_asked.set()
        assert self.goes_on.wait(DEADLINE_SECONDS)
        return super().write(text)

    def isatty(self) -> bool:
        """It is."""
        return True


def gap(missing: int) -> str:
    """What is written where some are missing."""
    return f"({missing} missing)\n"


@contextmanager
def outlet_of(stream: Frozen, most_bytes: int = PLENTY) -> Iterator[OutputThread]:
    """An outlet whose first piece hangs; in the end all is written."""
    outlet = OutputThread(stream, most_bytes, gap)
    outlet.write("first\n")
    assert stream.is_asked.wait(DEADLINE_SECONDS)
    yield outlet
    outlet.end()
    stream.goes_on.set()
    assert outlet.wait(DEADLINE_SECONDS)


def test_nobody_waits_for_a_reader_that_hangs() -> None:
    """What is written comes back at once, and is all there in its order when the reader goes on."""
    stream = Frozen()
    with outlet_of(stream) as outlet:
        for number in range(1000):
            outlet.write(f"{number}\n")
        assert outlet.is_behind
        assert not outlet.wait(0.0)
        assert stream.getvalue() == ""
    assert stream.getvalue() == "first\n" + "".join(f"{number}\n" for number in range(1000))
    assert not outlet.is_behind
    assert outlet.pieces == 1001


def test_lines_of_several_threads_keep_their_order() -> None:
    """No line is torn, doubled or lost, and each thread's come in the order in which it wrote them."""
    stream = Frozen()
    with outlet_of(stream) as outlet:

        def write(name: str) -> None:
            for number in range(300):
                outlet.write(f"{name} {number}\n")

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        stream.goes_on.set()  # in the middle of it
        for thread in threads:
            thread.join()
    lines = stream.getvalue().splitlines()[1:]
    assert len(lines) == 1200
    for name in "abcd":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {number}" for number in range(300)]


def test_beyond_the_bound_the_oldest_go_and_it_is_said_how_many() -> None:
    """Where they are missing; the piece that hangs is whole, and the newest are all there."""
    stream = Frozen()
    with outlet_of(stream, most_bytes=3 * (PIECE_BYTES + 2)) as outlet:
        for letter in "abcdefg":
            outlet.write(f"{letter}\n")
    assert stream.getvalue() == "first\n(4 missing)\ne\nf\ng\n"


def test_a_single_piece_beyond_the_bound_is_kept() -> None:
    """It is the newest: nothing would be shown at all without."""
    stream = Frozen()
    with outlet_of(stream, most_bytes=1) as outlet:
        outlet.write("a\n")
        outlet.write("b" * 100)
    assert stream.getvalue() == "first\n(1 missing)\n" + "b" * 100


def test_after_its_end_nothing_is_taken() -> None:
    """What waits is written; what comes late, from a thread that lives on, does no harm."""
    stream = Frozen()
    with outlet_of(stream) as outlet:
        outlet.end()
        outlet.write("late\n")
    assert stream.getvalue() == "first\n"


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(22, "of a Windows pipe"), ValueError("closed file")])
def test_a_reader_that_goes_away(error: Exception) -> None:
    """The show is over, whoever writes hears nothing of it, and the end waits for nobody."""

    class Gone(Frozen):
        def write(self, text: str) -> int:
            super().write("")
            raise error

    stream = Gone()
    outlet = OutputThread(stream, PLENTY, gap)
    outlet.write("a\n")
    outlet.write("b\n")
    stream.goes_on.set()
    assert outlet.wait(DEADLINE_SECONDS)
    outlet.write("c\n")
    assert not outlet.is_behind


def test_a_real_pipe_that_is_full() -> None:
    """Far more than a pipe holds; the stream itself is not locked meanwhile, and stays open in the end."""
    reads, writes = os.pipe()
    with os.fdopen(reads, encoding="utf-8") as reader, os.fdopen(writes, "w", encoding="utf-8") as stream:
        outlet = OutputThread(stream, 1 << 24, gap)
        lines = [f"{number} ä{'x' * 100}\n" for number in range(10_000)]
        for line in lines:
            outlet.write(line)
        outlet.end()
        assert not outlet.is_terminal
        stream.flush()
        assert not outlet.wait(0.0)
        assert [reader.readline() for _ in lines] == lines
        assert outlet.wait(DEADLINE_SECONDS)
        stream.write("after\n")
        stream.flush()
        assert reader.readline() == "after\n"


def test_it_says_whether_it_is_a_terminal() -> None:
    """Bars are for such."""
    with outlet_of(Frozen()) as outlet:
        assert outlet.is_terminal


def test_letters_that_the_stream_cannot_show() -> None:
    """They are shown as the stream itself would show them."""
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb") as reader, os.fdopen(writes, "w", encoding="ascii", errors="replace") as stream:
        outlet = OutputThread(stream, PLENTY, gap)
        outlet.write("日本\n")
        assert reader.readline() == b"??" + os.linesep.encode()
        outlet.end()
        assert outlet.wait(DEADLINE_SECONDS)


@pytest.mark.skipif(sys.platform == "win32", reason="its terminal is asked for by the system, not by the stream")
def test_bars_on_a_frozen_terminal() -> None:
    """Lines are kept; bars that would be old when they are seen are not drawn."""
    stream = Frozen()
    with outlet_of(stream) as outlet:
        console = Console(file=stream, width=80, height=20, color_system=None, highlight=False, legacy_windows=False)
        assert console.is_terminal
        display = LiveDisplay(console, outlet)
        for event in STORY[:15]:
            display.emit(event)
        waiting = outlet._waiting_bytes
        for second in range(121, 10_000):
            display.refresh(float(second))
        assert outlet._waiting_bytes == waiting
        summary = Summary(0, 12.0, 5)
        display.end(summary)
    drawn = stream.getvalue()
    assert drawn.count("worker cuda:0 starts, process 4711") == 1
    assert drawn.endswith("done after 12 s: 5 genes encoded\n")


def test_events_for_a_reader_that_comes_late() -> None:
    """Every line is one object, in the order of the run."""
    stream = Frozen()
    with outlet_of(stream) as outlet:
        display = JsonDisplay(outlet.write, lambda: 0.0)
        for event in STORY:
            display.emit(event)
    expected = io.StringIO()
    display = JsonDisplay(expected.write, lambda: 0.0)
    for event in STORY:
        display.emit(event)
    assert stream.getvalue() == "first\n" + expected.getvalue()
    assert isinstance(STORY[0], events.RunStarted)


class Broken(io.StringIO):
    """A stream that fails as no stream should."""

    def write(self, text: str) -> int:
        """There is no memory for it."""
        raise MemoryError


def test_a_full_disk_is_told_of_and_a_reader_that_has_gone_is_not() -> None:
    """Once: what it could not write is nobody's wish, other than the end of `| head`."""
    for error, told in [(OSError(28, "No space left on device"), True), (BrokenPipeError(), False)]:
        failures: list[OSError] = []

        class Refusing(io.StringIO):
            def write(self, text: str, error: OSError = error) -> int:
                raise error

        outlet = OutputThread(Refusing(), PLENTY, gap, failures.append)
        outlet.write("lost\n")
        outlet.write("lost too\n")
        outlet.end()
        assert outlet.wait(DEADLINE_SECONDS)
        assert failures == ([error] if told else [])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_fails_is_waited_for_by_nobody() -> None:
    """Its error is told as that of any thread; the end of the run does not hang."""
    before = set(threading.enumerate())
    outlet = OutputThread(Broken(), PLENTY, gap)
    (thread,) = set(threading.enumerate()) - before
    outlet.write("x")
    outlet.end()
    assert outlet.wait(DEADLINE_SECONDS)
    assert not outlet.is_behind
    thread.join(DEADLINE_SECONDS)
