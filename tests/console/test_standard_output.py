"""Standard output and standard error while a run lasts, and how long its end waits for who reads them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from helix_crawl_otel.console import output
from helix_crawl_otel.console.output import LOG_SECONDS, TELL_SECONDS, StandardOutput
from tests.console.test_output import DEADLINE_SECONDS, Frozen

FULL_DEVICE = Path("/dev/full")

pytestmark = pytest.mark.timeout(300)

DATE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d |^\d\d:\d\d:\d\d ", re.MULTILINE)


class Clock:
    """A second at each look, once it runs. What a thread of the test puts it forward by is not lost."""

    def __init__(self, runs: Callable[[], bool] = lambda: True) -> None:
        self.now = 0.0
        self._runs = runs
        self._changed = threading.Lock()  # guards `now`

    def __call__(self) -> float:
        """Seconds."""
        self.advance(self._runs())
        return self.now

    def advance(self, seconds: float) -> None:
        """So many seconds go by."""
        with self._changed:
            self.now += seconds


class Slow(io.StringIO):
    """Takes three seconds for each line."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def write(self, text: str) -> int:
        """Once the time is over."""
        self._clock.advance(3)
        return super().write(text)


@contextlib.contextmanager
def streams(shown: TextIO | None, told: io.StringIO | None) -> Iterator[None]:
    """These in the place of the process's own, and no handler at the root. None hangs in the end."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(told):
            yield
            assert (sys.stdout, sys.stderr) == (shown, told)
        assert root.handlers == []
    finally:
        root.handlers = before
        for stream in (shown, told):
            if isinstance(stream, Frozen):
                stream.goes_on.set()


def show(standard_output: StandardOutput, what: object) -> None:
    """As a display does: a line on standard output."""
    assert standard_output.shown is not None
    standard_output.shown.write(f"{what}\n")


def test_what_is_shown_and_logged_is_there_in_the_end() -> None:
    """Each on its own stream, what is logged with its date and time; afterwards everything is as it was."""
    shown, told = io.StringIO(), io.StringIO()
    with streams(shown, told), StandardOutput(as_json=False) as standard_output:
        assert (sys.stdout, sys.stderr) == (shown, told)
        show(standard_output, "a line")
        logging.getLogger("helix_crawl_otel").warning("a warning of %d", 1)
        logging.getLogger("helix_crawl_otel").info("no warning")
    assert shown.getvalue() == "a line\n"
    assert DATE.sub("", told.getvalue()) == "a warning of 1\n" != told.getvalue()


def test_one_file_for_both_keeps_the_order() -> None:
    """`2>&1`, or a terminal: a log line stands where it was logged."""
    both = io.StringIO()
    with streams(both, both), StandardOutput(as_json=False) as standard_output:
        for number in range(100):
            show(standard_output, f"line {number}")
            logging.getLogger("helix_crawl_otel").warning("log %d", number)
    assert DATE.sub("", both.getvalue()) == "".join(f"line {number}\nlog {number}\n" for number in range(100))


def test_handlers_of_the_program_around_are_left_alone() -> None:
    """A second handler would say everything twice."""
    mine, told = logging.NullHandler(), io.StringIO()
    with streams(io.StringIO(), told):
        logging.getLogger().addHandler(mine)
        with StandardOutput(as_json=False):
            logging.getLogger("helix_crawl_otel").warning("a warning")
        assert logging.getLogger().handlers == [mine]
        logging.getLogger().removeHandler(mine)
    assert told.getvalue() == ""


def test_what_python_itself_tells_waits_for_nobody() -> None:
    """A warning, and a thread that fails: in Python's own words, by way of the log."""

    def fail() -> None:
        raise KeyError("lost")

    told, hook = Frozen(), threading.excepthook
    with streams(None, told):
        with StandardOutput(as_json=False):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                logging.captureWarnings(False)  # pytest has a hook of its own in its place
                logging.captureWarnings(True)
                warnings.warn("old", UserWarning, stacklevel=1)
            thread = threading.Thread(target=fail, name="one")
            thread.start()
            thread.join()
            told.goes_on.set()
        assert threading.excepthook is hook
    lines = [line for line in told.getvalue().splitlines() if line]
    assert "UserWarning: old" in lines[0]
    assert (DATE.sub("", lines[2]), lines[-1]) == ("Exception in thread one:", "  KeyError: 'lost'")


def test_closed_streams() -> None:
    """As some schedulers start a job."""
    with streams(None, None), StandardOutput(as_json=True):
        assert sys.stdout is None
        assert sys.stderr is None


@pytest.mark.skipif(not FULL_DEVICE.exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_told_of_on_standard_error() -> None:
    """Once, and the run goes on: a script that reads the file must learn that it has not all."""
    told = io.StringIO()
    with FULL_DEVICE.open("w") as full, streams(full, told), StandardOutput(as_json=True) as standard_output:
        for number in range(100):
            show(standard_output, number)
    assert told.getvalue() == (
        "helix-crawl: standard output cannot be written (No space left on device): it ends here, perhaps within a "
        "line; the run goes on\n"
    )


def test_the_end_waits_for_a_reader_and_says_so_once() -> None:
    """However long: a pager may be open all night."""
    shown, told = Frozen(), io.StringIO()

    def look() -> float:
        if clock.now == 1000:
            shown.goes_on.set()
        return clock()

    clock = Clock(lambda: not shown.goes_on.is_set())
    with streams(shown, told), StandardOutput(as_json=False, clock=look, look_seconds=0.0) as standard_output:
        show(standard_output, "a line")
    assert clock.now == 1000
    assert shown.getvalue() == "a line\n"
    assert told.getvalue() == (
        "helix-crawl: the run is over and its folder free, but nobody reads what it has to show on standard output; "
        "Ctrl-C gives that up\n"
    )


def test_log_lines_alone_do_not_hold_up_the_end_for_long() -> None:
    """A caller that reads standard output to its end, and never standard error, sees that end."""
    shown, told = io.StringIO(), Frozen()
    clock = Clock(lambda: standard_output.shown is not None and standard_output.shown.wait(0.0))
    standard_output = StandardOutput(as_json=False, clock=clock, look_seconds=0.0)
    with streams(shown, told), standard_output:
        show(standard_output, "a line")
        logging.getLogger("helix_crawl_otel").warning("a warning")
        assert told.is_asked.wait(DEADLINE_SECONDS)
    assert LOG_SECONDS < clock.now < TELL_SECONDS
    assert shown.getvalue() == "a line\n"


def test_a_slow_reader_of_log_lines_is_waited_for() -> None:
    """It reads one now and then, within its time each: all of them are written."""
    clock = Clock(lambda: False)
    told = Slow(clock)
    with streams(None, told), StandardOutput(as_json=False, clock=clock, look_seconds=0.0):
        for number in range(20):
            logging.getLogger("helix_crawl_otel").warning("%d", number)
    assert DATE.sub("", told.getvalue()) == "".join(f"{number}\n" for number in range(20))
    assert clock.now > 2 * LOG_SECONDS


@pytest.mark.parametrize("how", ["second interrupt", "KeyboardInterrupt"])
def test_after_a_second_interrupt_nobody_is_waited_for_long(how: str) -> None:
    """At once, it says in the manual."""
    shown, clock = Frozen(), Clock()
    standard_output = StandardOutput(as_json=False, clock=clock, look_seconds=0.0)
    with streams(shown, io.StringIO()), contextlib.suppress(KeyboardInterrupt), standard_output:
        show(standard_output, "a line")
        assert shown.is_asked.wait(DEADLINE_SECONDS)
        if how == "KeyboardInterrupt":
            raise KeyboardInterrupt
        standard_output.hurries = True
    assert clock.now < LOG_SECONDS
    assert shown.getvalue() == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_missing_is_told_in_the_form_of_the_rest(as_json: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script can read the line that says how many events it has not got."""
    monkeypatch.setattr(output, "JSON_BYTES" if as_json else "TEXT_BYTES", 100)
    shown = Frozen()
    with streams(shown, io.StringIO()), StandardOutput(as_json=as_json) as standard_output:
        for number in range(10):
            show(standard_output, number)
            assert shown.is_asked.wait(DEADLINE_SECONDS)
        shown.goes_on.set()
    lines = shown.getvalue().splitlines()
    assert (lines[0], lines[2]) == ("0", "9")
    if as_json:
        assert json.loads(lines[1]) == {"event": "dropped", "lines": 8}
    else:
        assert lines[1] == "[8 messages are missing here: nobody was reading]"
