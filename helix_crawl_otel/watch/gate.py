"""Keeps a pool of threads out of a shard's encode while `on_demote` rebuilds the encoder in one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from helix_crawl_otel.formats import whole_seconds
from helix_crawl_otel.logs import watchdog

__all__ = ["EncodeGate"]

DEMOTION_SECONDS = 600.0
"""How long a batch waits for `on_demote`. A large model loads in a minute or two; a callable that waits for the very
threads that wait here would never end."""

BATCHES_SECONDS = 60.0
"""How long `on_demote` waits for batches of other threads. One that crawls may take an hour, and one may wait for a
lock that the caller of `boundary` holds."""

LOOK_SECONDS = 0.01


class EncodeGate:
    """Batches of one shard go through it, from any thread; a demotion closes it to all threads but its own.

    The batches of the thread that demotes are not waited for: it would wait for itself.

    Args:
        shard: Its name, for the log.

    Threads: any. `_changed` guards all; nothing of the driver's is called under it.
    """

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._changed = threading.Condition()
        self._running: dict[int, int] = {}  # batches in flight, by thread
        self._demoting: int | None = None  # the thread in which `on_demote` runs

    def enter(self) -> int:
        """A batch begins, once nobody demotes. Returns the thread, for `leave`."""
        thread = threading.get_ident()
        with self._changed:
            if not (self._lets_in(thread) or self._changed.wait_for(lambda: self._lets_in(thread), DEMOTION_SECONDS)):
                self._give_up()
            self._running[thread] = self._running.get(thread, 0) + 1
        return thread

    async def enter_async(self) -> int:
        """As `enter`, and the event loop goes on meanwhile."""
        import asyncio  # of a job that awaits alone

        thread, ends = threading.get_ident(), time.monotonic() + DEMOTION_SECONDS
        while True:
            with self._changed:
                is_late = time.monotonic() > ends
                if is_late or self._lets_in(thread):
                    self._running[thread] = self._running.get(thread, 0) + 1
                    break
            await asyncio.sleep(LOOK_SECONDS)
        if is_late:
            self._give_up()
        return thread

    def leave(self, thread: int) -> None:
        """A batch has ended."""
        with self._changed:
            left = self._running.pop(thread, 1) - 1  # a forked child knows no batch of its parent
            if left > 0:
                self._running[thread] = left
            if self._demoting is not None:
                self._changed.notify_all()

    @contextmanager
    def closed_to_others(self) -> Iterator[None]:
        """No other thread is in a batch of the shard inside of this block, as far as that can be waited for."""
        thread = threading.get_ident()
        with self._changed:
            self._demoting = thread
            try:
                alone = self._changed.wait_for(lambda: set(self._running) <= {thread}, BATCHES_SECONDS)
            except BaseException:  # an interrupt of the main thread
                self._open()
                raise
        if not alone:
            watchdog.warning(
                "shard %r: a batch of another thread has not ended within %s; on_demote is called all the same",
                self._shard,
                whole_seconds(BATCHES_SECONDS),
            )
        try:
            yield
        finally:
            with self._changed:
                self._open()

    def _open(self) -> None:
        self._demoting = None
        self._changed.notify_all()

    def _lets_in(self, thread: int) -> bool:
        """A thread that is in a batch already is waited for: it must not wait in turn."""
        return self._demoting in (None, thread) or thread in self._running

    def _give_up(self) -> None:
        watchdog.warning(
            "shard %r: on_demote has not come back within %s; a batch that waited for it begins",
            self._shard,
            whole_seconds(DEMOTION_SECONDS),
        )
