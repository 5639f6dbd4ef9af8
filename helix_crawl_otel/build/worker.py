"""The process that encodes for `build` and `backfill`: takes shards from its supervisor until none is left.

It is started by the supervisor, by way of `link/start.py` and with a channel; by hand it does nothing. Its log
lines go to standard error, which the supervisor keeps in a file.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.build.begun_shards import BegunShards
from helix_crawl_otel.build.careful_encode import (
    CheckedEncoder,
    EncoderBroken,
    EncodingFailed,
    LacksMemory,
    LeaveShard,
)
from helix_crawl_otel.build.encode import work_on
from helix_crawl_otel.config import environment
from helix_crawl_otel.corpus.tree import UnreadableSource
from helix_crawl_otel.encoders.base import DeviceMismatch, ModelError, first_line, is_device_error, is_out_of_memory
from helix_crawl_otel.encoders.load import HASHING, load_encoder
from helix_crawl_otel.encoders.precision import AUTO, HALVES, DtypeWish
from helix_crawl_otel.exit_codes import NEVER, USAGE
from helix_crawl_otel.faults.faults import apply_faults, parse_fault
from helix_crawl_otel.lacks import passing_cause
from helix_crawl_otel.link import messages
from helix_crawl_otel.link.client import Link, link_of_this_process
from helix_crawl_otel.link.launch import die_with_parent, leave_interrupts_to_supervisor
from helix_crawl_otel.link.messages import Assignment, WorkerSettings
from helix_crawl_otel.logs import LineFormatter, log_error, log_thread_error
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.monitor import default_probe
from helix_crawl_otel.probes.vram_cap import cap_for_worker
from helix_crawl_otel.shards.damage import judge
from helix_crawl_otel.shards.errors import ShardCorrupt, StoreError
from helix_crawl_otel.timing import awake_clock, scaled_clock
from helix_crawl_otel.watch.crawl_watch import CrawlWatch
from helix_crawl_otel.watch.release import CacheReleases, cached_bytes

__all__ = ["main"]


def main() -> int:
    """Work until told to leave. Returns the exit code; a pause ends it with 75, a demotion with 79."""
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        print("this is the worker of `helix-crawl build`, which starts it itself", file=sys.stderr)
        return USAGE
    die_with_parent(int(sys.argv[1]))
    leave_interrupts_to_supervisor()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    sys.excepthook, threading.excepthook = log_error, log_thread_error
    link = link_of_this_process()
    if link is None or link.task is None:
        print("no supervisor has opened a channel to this worker; use `helix-crawl build`", file=sys.stderr)
        return USAGE
    return _Worker(link, link.task.settings).run(link.task.assignment)


UNKNOWN = MemoryReading(None, None)

BROKEN_EXIT_CODE = 1


class _Worker:
    """The loop over shards.

    Args:
        link: To the supervisor.
        settings: Of this worker.
    """

    def __init__(self, link: Link, settings: WorkerSettings) -> None:
        self._link = link
        self._settings = settings
        self._faults = [parse_fault(text) for text in settings.faults]
        self._others = BegunShards(settings.begun, settings.lock_seconds)
        self._loaded: CheckedEncoder | None = None
        self._found: dict[DtypeWish, str] = {}  # what `auto` has come to
        self._is_loading = False  # it has begun to, and not come to the end
        self._clock = scaled_clock(awake_clock(), link.clock_rate)
        self._releases = CacheReleases(
            settings.release_every,
            self._memory() or default_probe(settings.device, environment()),
            functools.partial(cached_bytes, settings.device),
            self._clock,
        )

    def run(self, first: Assignment) -> int:
        """Work on the first shard, then on what the supervisor sends."""
        with CrawlWatch(memory=self._memory(), encoder=self._settings.model) as watch:
            assignment: Assignment | None = first
            while assignment is not None:
                try:
                    self._work(assignment, watch)
                except ModelError as error:
                    passing = passing_cause(error)
                    if passing is None:
                        self._link.send(messages.CannotStart(str(error)))
                        return NEVER
                    reason = f"the model cannot be loaded now: {first_line(passing)}"
                    self._link.send(messages.LastWords(reason, False))
                    return BROKEN_EXIT_CODE
                except EncoderBroken as error:
                    self._link.send(messages.LastWords(str(error), error.is_device))
                    return BROKEN_EXIT_CODE
                except LeaveShard as error:
                    lacks_memory = isinstance(error, LacksMemory)
                    left = messages.PassOnShard(assignment.shard, str(error), lacks_memory, self._is_loading)
                    self._link.send(left)
                assignment = self._next()
        return 0

    def _work(self, assignment: Assignment, watch: CrawlWatch) -> None:
        """Work on one shard.

        Raises:
            ModelError: No worker can ever start.
            LeaveShard: Another process has to go on with it.
        """
        shard = assignment.shard
        try:
            work_on(
                assignment,
                self._settings,
                self._encoder,
                self._others,
                watch,
                self._releases,
                self._link.send,
                pausing=lambda: self._link.pausing,
            )
        except ShardCorrupt as error:
            # Here and not in the supervisor: to check a large file takes minutes.
            is_built, wait = assignment.source is not None, self._settings.lock_seconds
            judged = judge(error, Path(assignment.path), is_built=is_built, lock_seconds=wait)
            self._link.send(messages.ShardFailed(shard, judged.reason, judged.may_set_aside))
        except (StoreError, UnreadableSource, DeviceMismatch, EncodingFailed) as error:
            self._link.send(messages.ShardFailed(shard, str(error), is_corrupt=False))
        except Exception as error:
            # Outside a batch: while the model is loaded, stored vectors are compared, or a file is cut into genes.
            place = "while the model was loaded" if self._is_loading else "beside the batches"
            if is_out_of_memory(error):
                raise LacksMemory(f"out of memory {place}: {first_line(error)}") from error
            if is_device_error(error):
                raise EncoderBroken(f"the device fails {place}: {first_line(error)}", is_device=True) from error
            # Of a model `run` says what comes of it. Last words would be of a crash: after them a worker that takes
            # long to end, as with torch on a busy machine, is ended by force and started again.
            if not isinstance(error, ModelError):
                reason = f"its worker failed: {type(error).__name__}: {first_line(error)}"
                self._link.send(messages.LastWords(reason, is_device=False))
            raise
        else:
            self._link.send(messages.ShardDone(shard))

    def _next(self) -> Assignment | None:
        while True:
            if self._link.pausing:
                raise PauseRequested(None)
            message = self._link.receive_shard(timeout=1.0)
            if message is not None:
                return message.assignment if isinstance(message, messages.GiveShard) else None

    def _encoder(self, wish: DtypeWish) -> CheckedEncoder:
        """The encoder in the precision that a shard wants: the same one, as long as that is the same."""
        is_demoted = self._link.demoted_shard is not None  # then a modelled card slows it no more
        wish = replace(wish, full_if_alike=is_demoted)
        if self._loaded is None or self._loaded.dtype not in self._accepted(wish):
            self._loaded = None  # before the next one comes
            settings, self._is_loading = self._settings, True
            started = time.monotonic()
            self._link.send(messages.LoadStart(settings.model, settings.device))
            if settings.model != HASHING:
                cap_for_worker(settings.device, settings.vram_cap, settings.workers)
            encoder = load_encoder(settings.model, settings.device, threads=settings.threads, wish=wish)
            sleep = functools.partial(_scaled_sleep, self._link.clock_rate)
            faulty = apply_faults(
                encoder,
                self._faults,
                settings.number,
                self._clock,
                sleep,
                is_demoted=is_demoted,
                vram_cap=settings.vram_cap,
            )
            self._loaded, self._is_loading = CheckedEncoder(faulty), False
            self._found[wish] = encoder.dtype
            if encoder.dtype in HALVES and "dtype" not in encoder.identity:
                self._found.setdefault(replace(wish, stored=None, is_apart=None), encoder.dtype)
            seconds = time.monotonic() - started
            note = _too_few(settings.batch_tokens, encoder.limit)
            computes = encoder.device, seconds, encoder.dtype, encoder.why_dtype
            self._link.send(messages.LoadEnd(settings.model, *computes, note))
        return self._loaded

    def _accepted(self, wish: DtypeWish) -> Collection[str | None]:
        """What an encoder that is loaded has to compute in, to be taken for a wish."""
        if wish.asked != AUTO and not wish.full_if_alike:
            return (wish.asked,)
        return wish.stored, self._found.get(wish)

    def _memory(self) -> Callable[[], MemoryReading] | None:
        """The modelled card's memory, where one is laid over the encoder; else the watch's own probes."""
        if self._settings.label == self._settings.device:
            return None
        return lambda: UNKNOWN if self._loaded is None else self._loaded.memory()


def _too_few(batch_tokens: int, limit: int | None) -> str:
    """What is to be said of a batch that is smaller than the longest text; empty for nothing."""
    if limit is None or batch_tokens >= limit:
        return ""
    return (
        f"a batch has {batch_tokens} tokens at most, and the model reads up to {limit} of one text: a text with more "
        f"than {batch_tokens} goes alone; --batch-tokens {limit} has room for each"
    )


def _scaled_sleep(rate: float, seconds: float) -> None:
    time.sleep(seconds / rate)


if __name__ == "__main__":
    sys.exit(main())
