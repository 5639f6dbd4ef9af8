"""Writes a timeline, one `write` a line, so that a killed job leaves at most its last line torn.

After opening, nothing raises into the job: a line that cannot be written is counted, and the first failure is told.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from helix_crawl_otel.dates import utc_time
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import Action, plain_number, sample_problem
from helix_crawl_otel.policy.state import PolicyState, dump_within
from helix_crawl_otel.timeline.events import VERSION

__all__ = ["TimelineWriter"]

LEAST_READ = 0.001
"""Seconds of a read stage that are worth their room in a line."""

LOCK_SECONDS = 1.0
"""A write that hangs (a network share) holds the lock; the other threads give their line up after this."""

STATE_BYTES = 1 << 18
"""Of a run's line, what its state may take: readers take lines of 1 MiB."""


class TimelineWriter:
    """The file of the flight recorder. Appends: a second run on the same output goes on in the same file.

    A torn end, left by a crash, stays as it is, and the new run begins on a line of its own.

    Args:
        path: The file; made when it is not there, its folder is not. Plain text whatever its name.
        clock: Seconds; what `t` is on. The run's time axis begins with `run`.
        on_failure: Called once, with what went wrong first.
        now: The date and time at which a run begins, as `time.time` has them.

    Attributes:
        path: As given.
        lost_lines: Lines that could not be written, or held nothing that can be.
        failure: What went wrong first, `None` while nothing has.
        hooks: What is to be called with each action as it is issued: nothing.

    Raises:
        OSError: The file cannot be opened for appending.

    Threads: any.
    """

    hooks: Sequence[Callable[[Action], object]] = ()

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Callable[[], float] = time.monotonic,
        *,
        on_failure: Callable[[Exception], None] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = os.fspath(path)
        self.lost_lines = 0
        self.failure: Exception | None = None
        self._clock = clock
        self._now = now
        self._origin = clock()
        self._on_failure = on_failure
        self._lock = threading.Lock()  # guards all below
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"):  # where there are such; a pipe that is full loses lines
            flags |= getattr(os, name, 0)
        self._file: int | None = os.open(self.path, flags, 0o666)
        self._is_torn = self._ends_torn(self._file)

    @staticmethod
    def _ends_torn(file: int) -> bool:
        """Whether the last line has no end. A pipe or a device has no lines to look at."""
        try:
            if os.lseek(file, 0, os.SEEK_END) == 0:
                return False
            os.lseek(file, -1, os.SEEK_END)
            return os.read(file, 1) != b"\n"
        except OSError:
            return False

    # -- what happens -------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        config: object = None,
        encoder: str = "",
        host: str = "",
        state: PolicyState | None = None,
        **more: object,
    ) -> None:
        """A run begins now: `t` counts from here, and the line tells the date and what the clock says.

        Args:
            config: The knobs, a mapping or a dataclass.
            encoder: Identity of the encoder.
            host: Name of the machine; left out when empty.
            state: What its policy goes on from; as much of it as a line holds.
            more: Further keys.
        """
        self._origin = self._clock()
        knobs = (
            dataclasses.asdict(config) if dataclasses.is_dataclass(config) and not isinstance(config, type) else config
        )
        named: dict[str, object] = {"host": host} if host else {}
        if state is not None and (kept := dump_within(state, STATE_BYTES)):
            named["state"] = kept
        began = {"started": utc_time(self._now()), "clock": round(self._origin, 6)}
        self.write("run", self._origin, version=VERSION, config=knobs or {}, encoder=encoder, **named, **began, **more)

    def worker(self, t: float, device: str, *, pid: int, reason: str, worker: str | None = None) -> None:
        """A worker has been started, for `first`, `recycle`, `demote`, `crash` or `resume`."""
        self.write("worker", t, device=device, **_named(worker, device), pid=pid, reason=reason)

    def batch(
        self,
        t: float,
        shard: str,
        device: str,
        genes: float,
        seconds: float,
        work: float | None = None,
        worker: str | None = None,
        *,
        tokens: float | None = None,
        read_seconds: float | None = None,
        work_pending: float | None = None,
        shards_follow: bool = False,
        event: str = "batch",
    ) -> None:
        """A batch has ended at `t`. One whose numbers cannot be judged is not written, but counted as lost.

        Args:
            t: Seconds.
            shard: Its name.
            device: Where it was encoded.
            genes: Passages.
            seconds: Of the encode stage.
            work: Cost, `None` where there is none.
            worker: Its name, `None` for that of the device.
            tokens: Of its passages without padding, in the unit of work; `None` where nobody knows.
            read_seconds: Of the stage before it; `None` where nobody knows, and what is not a millisecond is left out.
            work_pending: What the shard waited for when the batch began, more than 0; `None` where nobody knows.
            shards_follow: Other shards waited for the worker.
            event: What it is.
        """
        genes, seconds, work = plain_number(genes), plain_number(seconds), plain_number(work)
        if sample_problem(genes, seconds, work) is not None:
            self.lost_lines += 1
            return
        weight = {} if work is None else {"work": _short(work, 9)}
        if tokens is not None and sample_problem(genes, seconds, tokens) is None:
            weight["tokens"] = _short(tokens, 9)
        is_read = read_seconds is not None and sample_problem(genes, read_seconds, None) is None
        if read_seconds is not None and is_read and read_seconds >= LEAST_READ:
            weight["read_seconds"] = round(read_seconds, 3)
        self.write(
            event,
            t,
            shard=shard,
            device=device,
            **_named(worker, device),
            genes=_short(genes, 9),
            **weight,
            **({} if work_pending is None else {"work_pending": _short(work_pending, 9)}),
            **({"shards_follow": True} if shards_follow else {}),
            seconds=round(seconds, 6) if seconds > 0.001 else _short(seconds, 6),
        )

    def unfinished(
        self,
        t: float,
        shard: str,
        device: str,
        genes: float,
        seconds: float,
        work: float | None = None,
        worker: str | None = None,
        **waiting: Any,
    ) -> None:
        """The worker of a batch that had been in flight for `seconds` has ended at `t`. Else as `batch`."""
        self.batch(t, shard, device, genes, seconds, work, worker, event="unfinished", **waiting)

    def memory(
        self,
        t: float,
        device: str,
        used_bytes: float | None,
        limit_bytes: float | None,
        shared_bytes: float | None = None,
        other_shared_bytes: float | None = None,
        reserved_bytes: float | None = None,
        cap_bytes: float | None = None,
    ) -> None:
        """A reading, `None` where it is unknown; but for the first two nothing is written then. How often is the
        caller's matter."""
        more = {
            "shared_bytes": _whole(shared_bytes),
            "other_shared_bytes": _whole(other_shared_bytes),
            "reserved_bytes": _whole(reserved_bytes),
            "cap_bytes": _whole(cap_bytes),
        }
        known = {key: value for key, value in more.items() if value is not None}
        self.write("memory", t, device=device, used_bytes=_whole(used_bytes), limit_bytes=_whole(limit_bytes), **known)

    def action(
        self, t: float, shard: str, kind: str, outcome: str, evidence: Mapping[str, Any] | None = None, **more: object
    ) -> None:
        """What the ladder asked for, and how it ended."""
        numbers = {key: _short(value, 6) for key, value in (evidence or {}).items()}
        self.write("action", t, shard=shard, kind=kind, outcome=outcome, **more, evidence=numbers)

    def write(self, event: str, t: float, **keys: object) -> None:
        """Any event. Readers ignore kinds that they do not know."""
        try:
            since = round(t - self._origin, 6)
            if not math.isfinite(since):
                raise ValueError(f"t is {t!r}; accepted: a number of seconds")
            line = {"event": event, "t": since, **keys}
            text = json.dumps(_clean(line), allow_nan=False, separators=(",", ":"), default=str)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._lose(error)
            return
        self._append(text.encode("ascii") + b"\n")

    def close(self) -> None:
        """Close the file. Lines after that are lost. A second call does nothing."""
        with self._lock:
            file, self._file = self._file, None
        if file is not None:
            try:
                os.close(file)
            except OSError as error:
                self._lose(error)

    def abandon(self) -> None:
        """In a forked child: leave the parent's file and lock alone."""
        self._lock = threading.Lock()
        self.close()

    def __enter__(self) -> TimelineWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _append(self, line: bytes) -> None:
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            self._lose(TimeoutError("another thread's write hangs"))
            return
        failure: OSError | None = None
        try:
            if self._file is None:
                self.lost_lines += 1
                return
            data = b"\n" + line if self._is_torn else line
            written = os.write(self._file, data)
            self._is_torn = self._is_torn if written == 0 else data[written - 1 : written] != b"\n"
            if written < len(data):
                failure = OSError(f"only {written} of {len(data)} bytes could be written; is the disk full?")
        except OSError as error:
            failure = error
        finally:
            self._lock.release()
        if failure is not None:
            self._lose(failure)

    def _lose(self, error: Exception) -> None:
        self.lost_lines += 1
        if self.failure is not None:
            return
        self.failure = error
        watchdog.warning("the timeline %s cannot be written: %s; the job goes on", self.path, error)
        if self._on_failure is not None:
            try:
                self._on_failure(error)
            except Exception:
                watchdog.exception("on_failure of the timeline raised")


def _named(worker: str | None, device: str) -> dict[str, str]:
    """The key `worker`, where it says more than the device."""
    return {} if worker is None or worker == device else {"worker": worker}


def _short(value: Any, digits: int) -> Any:
    """A float to so many significant digits; whole numbers as integers; anything else as it is."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _whole(value: float | None) -> int | None:
    return None if value is None or not math.isfinite(value) else int(value)


def _clean(value: Any) -> Any:
    """NaN and infinity are unknown: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
