"""The package's logger, the mark on what it says about a verdict or an action, and the form of a log line.

Source: DESIGN.md, section 3.1.
"""

from __future__ import annotations

import logging
import re
import textwrap
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from helix_crawl_otel.dates import local_clock, local_time
from helix_crawl_otel.formats import printable, printable_lines

__all__ = ["LineFormatter", "log_error", "log_thread_error", "logger", "watchdog"]

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter  # in Python 3.10 it takes no parameter


_PREFIX = "[crawl-watchdog]"

TERMINAL_LETTERS = 160
"""Of a line about a verdict or an action, where a person reads it."""

_NUMBERS = re.compile(r"; [a-z ]+ action=")
"""Between the sentence of a decision and its numbers, which the timeline has as well."""


class LineFormatter(logging.Formatter):
    """Of our own handlers: a line begins with its date and time, and nothing in a record can steer a terminal, or begin
    a line as if it were a record.

    Further lines, those of a traceback say, are set in.

    Args:
        form: See `logging.Formatter`.
        is_terminal: Where the day is known and lines are short: the time alone, and what the watchdog says in lines of
            at most `TERMINAL_LETTERS`. Of a decision only the first is shown; its numbers are in the timeline.
    """

    def __init__(self, form: str = "%(asctime)s %(message)s", *, is_terminal: bool = False) -> None:
        super().__init__(form)
        self._is_terminal = is_terminal

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """See `logging.Formatter`."""
        return local_clock(record.created) if self._is_terminal else local_time(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        first, *others = super().format(record).rstrip("\n").split("\n")
        first = printable(first)
        if self._is_terminal and _PREFIX in first:
            first = _short(first)
        return "\n".join([first, *(f"  {printable(line)}" for line in others)])


def _short(line: str) -> str:
    if len(line) <= TERMINAL_LETTERS:
        return line
    if numbers := _NUMBERS.search(line):
        kept = line[: TERMINAL_LETTERS - 3]
        sentence = numbers.start()  # it stays whole, and so does each field behind it, or each part of a longer one
        end = max(sentence, kept.rfind(" ")) if sentence <= len(kept) else kept.rfind(",")
        return f"{kept[:end].rstrip(' ;,:')} ..."
    return "\n".join(textwrap.wrap(line, TERMINAL_LETTERS, subsequent_indent="  ", break_on_hyphens=False))


class _Watchdog(Adapter):
    """Puts the prefix before each message: people grep for it."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        return f"{_PREFIX} {msg}", kwargs


_PLAIN = logging.Formatter()


def _tame(record: logging.LogRecord) -> bool:
    """In somebody's job the handlers are the job's: what we say of a name in its log can steer no terminal either."""
    try:
        text = record.getMessage()
    except Exception:  # noqa: BLE001 - a text that cannot be made is told of by the handlers, which raise nothing
        return True
    if not text.isprintable():
        record.msg, record.args = printable(text), ()
    if record.exc_info:  # every formatter takes what one before it has made of it
        record.exc_text = printable_lines(_PLAIN.formatException(record.exc_info))
    return True


logger = logging.getLogger("helix_crawl_otel")
"""What is said beside the watching."""
logger.addFilter(_tame)

watchdog = _Watchdog(logger, {})
"""What is said by whoever watches, decides or acts."""


# Python's own hooks write to standard error by themselves, whatever is in the message.


def log_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what nobody has caught; in place of `sys.excepthook`."""
    logger.critical("it ends with an error:", exc_info=(kind, error, trace))


def log_thread_error(args: threading.ExceptHookArgs) -> None:
    """Log what nobody has caught in a thread; in place of `threading.excepthook`, in its words."""
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else threading.get_ident()
        error = args.exc_value if args.exc_value is not None else args.exc_type()
        logger.error("Exception in thread %s:", name, exc_info=(args.exc_type, error, args.exc_traceback))
