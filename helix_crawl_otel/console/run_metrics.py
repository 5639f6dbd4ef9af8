"""The metrics of a run, from before its plan to after its end: the endpoint, what the run is, and how it stands.

Whoever has scraped is given the time to see how the run has ended: a pause that nobody has seen looks like a death.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType

from helix_crawl_otel._version import __version__
from helix_crawl_otel.console.options import CommonOptions
from helix_crawl_otel.console.output import OutputThread
from helix_crawl_otel.exit_codes import FAILED, INTERRUPTED, Refusal
from helix_crawl_otel.formats import duration
from helix_crawl_otel.interrupts import Interrupts
from helix_crawl_otel.logs import logger
from helix_crawl_otel.otel.instruments import instruments_of
from helix_crawl_otel.otel.run_gauges import RunGauges, state_of
from helix_crawl_otel.supervise.session import Metrics, open_metrics

__all__ = ["RunMetrics"]

LOOK_SECONDS = 0.1


class RunMetrics:
    """Of one supervised command. Use it in a `with` block around all that it waits for: its locks are given back, and
    its summary is shown, before the end is waited for.

    Args:
        options: What was asked for.
        run: What the same command resumes.
        command: Its first word.
        folder: What `helix-crawl status` takes.
        model: That encodes, as far as it was said.
        clock: Seconds of the world.

    Attributes:
        exported: Where instruments are made, and what else is told by OpenTelemetry.
        notes: Level and sentence of what should be said of the endpoint, and of what is sent.

    Threads: the main thread's.
    """

    def __init__(
        self,
        options: CommonOptions,
        run: str,
        command: str,
        folder: Path,
        model: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.notes: list[tuple[str, str]] = []
        self._options = options
        self._facts = run, command, str(folder)
        self._model = model
        self._clock = clock
        self.exported = Metrics()
        self._closing = ExitStack()
        self._gauges: RunGauges | None = None
        self._code: int | None = None

    @property
    def url(self) -> str | None:
        """Where to scrape, `None` for nowhere."""
        return self.exported.endpoint.url if self.exported.endpoint is not None else None

    def __enter__(self) -> RunMetrics:
        return self

    def open(self, output: OutputThread | None) -> None:
        """The run begins: serve and send, and say that it runs.

        Args:
            output: Where an exporter to the console writes; with `--json` that goes to standard error.

        Raises:
            OSError: The port that was asked for is in use.
            ConfigError: An exporter refuses its variables.
        """
        options = self._options
        self.exported = open_metrics(
            options.metrics_host,
            options.metrics_port,
            insists=options.insists_on_port,
            note=lambda level, text: self.notes.append((level, text)),
            exporters=options.exporters,
            serves=options.serves_metrics,
            out=output.as_stream() if output is not None and not options.as_json else sys.stderr,
        )
        self._gauges = RunGauges(instruments_of(self.exported.provider, __version__), *self._facts)
        self._gauges.begin(options.config, self._model)
        self.keep(self._gauges.hide)

    def keep(self, close: Callable[[], None]) -> None:
        """Call this once nobody looks any more."""
        self._closing.callback(close)

    def says(self, model: str) -> None:
        """It is known which model encodes."""
        if self._gauges is not None:
            self._gauges.model = model

    def end(self, code: int) -> None:
        """The run has ended with this exit code."""
        self._code = code
        if self._gauges is not None:
            self._gauges.end(state_of(code))
        if self.exported.endpoint is not None:
            self.exported.endpoint.mark_end()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._code is None:
            self.end(_code_of(error))
        if self.exported.exporting is not None:
            interrupts: SimpleQueue[int] = SimpleQueue()
            with Interrupts(interrupts.put, self._clock):
                self.exported.exporting.close(lambda: self._code == INTERRUPTED or not interrupts.empty())
        endpoint = self.exported.endpoint
        if endpoint is not None:
            if self._code != INTERRUPTED:
                self._linger()
            endpoint.close()
        self._closing.close()

    def _linger(self) -> None:
        """Wait until all who have scraped have seen the end, an interrupt comes, or the time is over."""
        endpoint, seconds = self.exported.endpoint, self._options.linger
        if endpoint is None or not seconds or not endpoint.unseen():
            return
        who = " and ".join(endpoint.unseen())
        logger.warning(
            "the metrics stay for one more scrape by %s, at most %s (--linger); an interrupt ends the wait",
            who,
            duration(seconds),
        )
        interrupts: SimpleQueue[int] = SimpleQueue()
        until = self._clock() + seconds
        with Interrupts(interrupts.put, self._clock):
            while endpoint.unseen() and self._clock() < until:
                try:
                    interrupts.get(timeout=LOOK_SECONDS)  # by turns: on Windows no interrupt ends a wait
                except Empty:
                    continue
                return


def _code_of(error: BaseException | None) -> int:
    """The exit code that an error ends a command with, see `cli.main`."""
    if isinstance(error, Refusal):
        return error.exit_code
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
