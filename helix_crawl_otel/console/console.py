"""What stands between a run and the outside: the display, the computer's sleep, the notice at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

from helix_crawl_otel.console.notify import Notice
from helix_crawl_otel.console.options import CommonOptions
from helix_crawl_otel.console.output import OutputThread
from helix_crawl_otel.console.run_metrics import RunMetrics
from helix_crawl_otel.console.run_record import RunRecorder
from helix_crawl_otel.console.screen import Display, JsonDisplay, PlainDisplay
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.exit_codes import FAILED, INTERRUPTED
from helix_crawl_otel.supervise import events

__all__ = ["Console", "keep_awake"]


class Console:
    """Of one supervised command. Use it in a `with` block.

    Args:
        options: What was asked for.
        metrics: Open.
        output: Draws on standard output; `None` where that has been closed.
        notice: Is given the summary.

    Threads: `emit` from any; the rest is the main thread's.
    """

    def __init__(
        self, options: CommonOptions, metrics: RunMetrics, output: OutputThread | None, notice: Notice
    ) -> None:
        self._options = options
        self._metrics = metrics
        self._output = output
        self._notice = notice
        self._stack = ExitStack()
        self._early: list[Callable[[float], events.Event]] = []
        self._clock: Callable[[], float] = time.monotonic
        self._started = time.monotonic()
        self._summary: Summary | None = None
        self._recorder: RunRecorder | None = None

    def __enter__(self) -> Console:
        options = self._options
        for level, text in self._metrics.notes:
            self._note(level, text)
        if (url := self._metrics.url) is not None:
            self._early.append(lambda t: events.MetricsAt(t, url))
        self._display = _choose_display(self._output, options.as_json, options.is_plain, options.environ)
        self.progress = self._display.progress
        self._stack.enter_context(keep_awake(options.keep_awake, partial(self._note, "warning")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        summary = self._summary
        if summary is None:
            self._display.close()
            code = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
            summary = Summary(code, self.seconds(), self.progress.encoded, reason=str(error or ""))
        if self._recorder is not None:
            self._recorder.close(summary)
        self._stack.close()
        self._notice.summary = summary.to_json()

    def start(self, clock: Callable[[], float], folder: Path) -> None:
        """The run's clock is known, and the folder in which it is told of: show what had to wait for it."""
        self._clock = clock
        began = time.time()
        self._recorder = RunRecorder(folder, lambda end: self._display.record(began, clock(), end))

    def emit(self, event: events.Event) -> None:
        """Show an event; the first is the start of the run, and what had to wait for it follows."""
        self._display.emit(event)
        if self._recorder is not None and isinstance(event, events.RunStarted):
            self._recorder.start()
        while self._early:
            self._display.emit(self._early.pop(0)(event.t))

    def refresh(self) -> None:
        """Time has passed."""
        self._display.refresh(self._clock())

    def seconds(self) -> float:
        """Since the command was begun, of the world's."""
        return time.monotonic() - self._started

    def end(self, summary: Summary) -> None:
        """The run is over."""
        self._summary = summary
        self._metrics.end(summary.exit_code)
        self._display.end(summary)

    def _note(self, level: str, text: str) -> None:
        self._early.append(lambda t: events.Note(t, level, text))


def _choose_display(output: OutputThread | None, as_json: bool, is_plain: bool, environ: Mapping[str, str]) -> Display:
    """The display for this process's standard output.

    Args:
        output: Draws there; `None` where it has been closed.
        as_json: JSON lines were asked for.
        is_plain: Plain lines were asked for.
        environ: `TERM=dumb` is no terminal for bars.
    """
    if output is None:
        return Display()
    if as_json:
        return JsonDisplay(output.write)
    if is_plain or not output.is_terminal or environ.get("TERM") == "dumb":
        return PlainDisplay(output.say, is_terminal=output.is_terminal)
    from rich.console import Console as Terminal

    from helix_crawl_otel.console.live import LiveDisplay

    terminal = Terminal(highlight=False)
    if terminal.legacy_windows:  # it would move the cursor by calls of the system
        return PlainDisplay(output.say, is_terminal=output.is_terminal)
    return LiveDisplay(terminal, output)


@contextmanager
def keep_awake(wanted: bool, note: Callable[[str], None]) -> Iterator[None]:
    """Hold sleep off inside the `with` block; where that cannot be done the run goes on and says so. The library
    `wakepy` (extra `awake`) does it.

    Args:
        wanted: Nothing is done without.
        note: Called with one sentence when the computer may sleep after all.
    """
    with ExitStack() as stack:
        if wanted:
            try:
                from wakepy import keep

                mode = stack.enter_context(keep.running(on_fail="pass"))
                if not mode.active:
                    note("--keep-awake: this system does not let sleep be held off; set it in its power settings")
            except ImportError:
                note("--keep-awake needs wakepy: `pip install 'helix-crawl-otel[awake]'`; the computer may sleep")
            except Exception as error:  # noqa: BLE001 - it talks to the desktop's bus: no trouble there may end a run
                note(f"--keep-awake failed, the computer may sleep: {' '.join(str(error).split())}")
        yield
