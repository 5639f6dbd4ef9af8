"""The job of `helix-crawl run --progress`: starts a command of anybody's and watches it by its progress bar.

Standard error goes through here unchanged; where it is a terminal the command gets one as well, of the same size, so
that its bar is drawn as before. Each step of a bar that takes a second or longer is a batch, quicker ones together.

The supervisor starts this as it starts a worker of ours; the command gets the environment that it would have had.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.config import CHANNEL_VARIABLE, environment, take_progress_job
from helix_crawl_otel.instrument.progress_bars import BarReader, BarState, without_numbers
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import ShardEnd
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.shard import BatchScope, ShardWatch, of_other_process

__all__ = ["BarWatch", "main"]

LEAST_SECONDS = 1.0
"""Of a sample: tqdm draws ten times a second, and what is judged is whether it slows down to a fifth."""

LATE_SHARE = 0.1

LOOK_SECONDS = 0.2
END_SECONDS = 30.0
"""What the command gets to end by itself once it is asked to; then it is killed."""

LAST_WORDS_SECONDS = 2.0
"""What was written before its end is passed on; a process that it leaves behind may hold the pipe open for ever."""


class BarWatch:
    """Tells a watch of the steps of bars.

    Args:
        watch: Who watches.
        name: Of the shard of a bar that has no name.
        resumes: The command goes on where it was when it is started again.
        clock: Seconds.

    Attributes:
        has_seen_bar: One was drawn.
        has_seen_step: And one was drawn again, a step further.

    Threads: one; the main thread, where the process is to be ended.
    """

    def __init__(self, watch: CrawlWatch, name: str, resumes: bool, clock: Callable[[], float]) -> None:
        self.has_seen_bar = False
        self.has_seen_step = False
        self._watch = watch
        self._name = name
        self._resumes = resumes
        self._clock = clock
        self._shards: dict[str, ShardWatch] = {}
        self._last: dict[str, tuple[float, float]] = {}  # of each bar, steps and when
        self._names: dict[str, str] = {}  # of each bar without numbers, how it was drawn last
        self._several: set[str] = set()  # names without numbers that several bars have
        self._scope: BatchScope | None = None
        self._began = 0.0  # when the batch in flight did
        self._expected = 0.0  # its steps
        self._running = ""  # its bar

    def feed(self, state: BarState, at: float) -> None:
        """A bar was drawn, at so many seconds of the clock.

        Raises:
            PauseRequested: The command has to end.
        """
        self.has_seen_bar = True
        now, name = at, self._name_of(state)
        done, since = self._last.get(name, (state.done, now))
        steps = state.done - done
        if name not in self._last or steps < 0:  # a bar that begins, or begins anew
            self._last[name] = state.done, now
            self._abandon()
            return
        if steps == 0 or now - since < LEAST_SECONDS:
            return
        self.has_seen_step = True
        self._last[name] = state.done, now
        shard = self._shard(name)
        most = LATE_SHARE * (now - since)  # what was read late is timed by when it was drawn
        is_timed = self._began - since <= most and self._clock() - now <= most
        if self._scope is not None and self._running == name and self._expected == steps and is_timed:
            scope, self._scope = self._scope, None
            scope.__exit__(None, None, None)
        else:
            self._abandon()
            shard.record(steps, now - since)
        shard.boundary()
        if state.total is None or state.done < state.total:
            self._scope, self._expected, self._running = shard.batch(steps), steps, name
            self._scope.__enter__()
            self._began = self._clock()

    def close(self, state: ShardEnd = "done") -> None:
        """The command has ended."""
        self._abandon()
        for shard in self._shards.values():
            shard._leave(state)

    def _name_of(self, state: BarState) -> str:
        """Which bar it is. The numbers in what stands before it change with an epoch or a loss; bars that are told
        apart by them, as of several cards, are seen by their counts, which go up and down."""
        name = without_numbers(state.name) or self._name
        drawn, self._names[name] = self._names.get(name, state.name), state.name
        if drawn != state.name and name in self._last and 0 < state.done < self._last[name][0]:
            self._several.add(name)
        return state.name if name in self._several else name

    def _shard(self, name: str) -> ShardWatch:
        if name not in self._shards:
            shard = self._watch.shard(name, exit_to_recycle=self._resumes)
            self._shards[name] = of_other_process(shard)
        return self._shards[name]

    def _abandon(self) -> None:
        """What is in flight is not what was expected: another bar runs, or more steps than one were drawn at once."""
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.__exit__(InterruptedError, None, None)


class _Command:
    """The command, and what it writes to standard error.

    Args:
        argv: Program and arguments.
        environ: Its whole environment.
        clock: Seconds.

    Attributes:
        pieces: What was written, and when.
    """

    def __init__(self, argv: list[str], environ: Mapping[str, str], clock: Callable[[], float]) -> None:
        self.pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._clock = clock
        ours, theirs = _terminal() if sys.platform != "win32" and os.isatty(2) else os.pipe()
        try:
            self.process = subprocess.Popen(argv, env=dict(environ), stderr=theirs)
        finally:
            os.close(theirs)
        self.reader = threading.Thread(target=self._pass_on, args=(ours,), name="helix-crawl-bar", daemon=True)
        self.reader.start()

    def _pass_on(self, source: int) -> None:
        with suppress(OSError):  # a terminal whose other end is gone
            while piece := os.read(source, 65536):
                at = self._clock()
                with suppress(OSError):  # nobody reads what we write: the command must not be held up by that
                    _write(piece)
                self.pieces.put((at, piece))

    def end(self, *, interrupts: bool) -> None:
        """Ask it to end, then kill it."""
        if sys.platform == "win32" or not interrupts:
            self.process.terminate()
        else:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _write(left: bytes) -> None:
    """To standard error, all of it, also where another program has made that one that does not wait."""
    while left:
        try:
            left = left[os.write(2, left) :]
        except BlockingIOError:
            select.select([], [2], [])


if sys.platform == "win32":

    def _terminal() -> tuple[int, int]:
        """There is none to be had."""
        return os.pipe()

else:
    import fcntl
    import pty
    import termios

    def _terminal() -> tuple[int, int]:
        """A terminal as ours: of its size, also when that changes, and one that changes no byte."""
        ours, theirs = pty.openpty()
        attributes = termios.tcgetattr(theirs)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(theirs, termios.TCSANOW, attributes)

        def resize(*given: Any) -> None:
            with suppress(OSError):
                fcntl.ioctl(ours, termios.TIOCSWINSZ, fcntl.ioctl(2, termios.TIOCGWINSZ, bytes(8)))

        resize()
        signal.signal(signal.SIGWINCH, resize)
        return ours, theirs


def main() -> int:
    """Run the command to its end. Returns its exit code, as a shell would."""
    task = json.loads(take_progress_job())
    environ = {**environment(), **{name: value for name, value in task["environ"].items() if value is not None}}
    environ.pop(CHANNEL_VARIABLE, None)  # it is this process that tells of it
    for name in (name for name, value in task["environ"].items() if value is None):
        environ.pop(name, None)
    with CrawlWatch() as watch:  # before the command: what it inherits has no channel in it
        clock = watch._backend.clock  # the supervisor's may be faster
        bars, command = BarWatch(watch, task["name"], task["resumes"], clock), _Command(task["argv"], environ, clock)
        try:
            _watch_bars(command, bars)
        except PauseRequested as asked:
            command.end(interrupts=asked.action is None)
            raise
        code = command.process.returncode
        bars.close("failed" if code else "done")
    if not bars.has_seen_bar:
        watchdog.warning("no progress bar was seen on standard error; nothing was watched")
    elif not bars.has_seen_step:
        watchdog.warning(
            "no progress bar on standard error was drawn a second time, a step further and a second later; nothing "
            "was watched: rich draws one on a terminal only"
        )
    return code if code >= 0 else 128 - code


def _watch_bars(command: _Command, bars: BarWatch) -> None:
    reader, ended_at = BarReader(), None
    while True:
        try:
            at, piece = command.pieces.get(timeout=LOOK_SECONDS)
            for state in reader.feed(piece):
                bars.feed(state, at)
        except queue.Empty:
            if not command.reader.is_alive() and command.process.poll() is not None:
                return
        if ended_at is None and command.process.poll() is not None:
            ended_at = time.monotonic()
        if ended_at is not None and time.monotonic() - ended_at > LAST_WORDS_SECONDS:
            return
