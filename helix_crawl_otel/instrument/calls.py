"""The calls of a job's models, watched pass by pass: a call that encodes 100,000 texts is many batches, not one.

A pass is a batch: its genes are its rows, its work their tokens with padding. It lasts until the next one begins, since
a card works on after the method has come back, and the last one until the call ends. Between two passes what the ladder
asks for is applied, but for what ends the process: that waits until the next call begins, for then the job has had the
time to put away what the last one has given it.

Nothing of ours may reach the job: whatever goes wrong here is said once, and the call goes on as without us.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from helix_crawl_otel.actions import PauseRequested
from helix_crawl_otel.instrument.moves import MovableModel, device_of
from helix_crawl_otel.instrument.shard_names import on_left, shard_name
from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.policy.model import ShardEnd
from helix_crawl_otel.watch.backend import Backend
from helix_crawl_otel.watch.shard import BatchScope, ShardWatch, boundary_within, is_in_batch, is_to_leave

__all__ = [
    "Call",
    "CallWatcher",
    "ShardSource",
    "begin_call",
    "begin_pass",
    "current_call",
    "end_call",
    "is_any_call",
    "say_once",
    "size_of",
]

COOL_DOWN_SECONDS = 600.0
"""After a move to the CPU; twice as long after each further one."""

_thread = threading.local()
"""`call`: the outermost call of the thread."""

_calls: set[Call] = set()
"""Those that go on, in all threads. Single operations only."""

_told: set[tuple[str, str]] = set()
"""Where something went wrong, and how. Single operations only."""


def say_once(place: str, error: BaseException) -> None:
    """Say that something of ours has gone wrong; the job goes on."""
    kind = type(error).__name__
    if (place, kind) not in _told:
        _told.add((place, kind))
        watchdog.warning("internal error while a %s is watched, the job goes on: %s: %s", place, kind, error)


def size_of(given: Mapping[str, Any]) -> tuple[int, float | None]:
    """Rows and padded tokens of what a model is given.

    Args:
        given: By name, as tokenizers give it.

    Returns:
        Rows; and tokens, `None` for something else than text.

    Raises:
        ValueError: There is no tensor in it.
    """
    ids = [given[name] for name in given if str(name).endswith("input_ids") and hasattr(given[name], "numel")]
    if not ids:
        first = next((value for value in given.values() if getattr(value, "ndim", 0)), None)
        if first is None:
            raise ValueError("the model is given no tensor")
        return int(first.shape[0]), None
    bounds, offsets = given.get("cu_seq_lens_q"), given.get("offsets")
    rows = ids[0].shape[0]
    if bounds is not None:  # texts one after another, without padding
        rows = bounds.shape[0] - 1
    elif offsets is not None and ids[0].ndim == 1:
        rows = offsets.shape[0]
    return int(rows), float(sum(value.numel() for value in ids))


class OpenedShard:
    """A shard of this process, and which part of it is open: after a time on the CPU another part begins on the card.

    Args:
        open_watch: Opens the shard of a name.
        name: Its name.

    Attributes:
        has_batch: A batch of the part has begun.
        watch: Of the part.

    Threads: any; `lock` is held by who begins another part.
    """

    def __init__(self, open_watch: Callable[[str], ShardWatch], name: str) -> None:
        self.lock = threading.Lock()
        self.has_batch = False
        self._open_watch = open_watch
        self._name = name
        self._part = 1
        self.watch = open_watch(name)
        self._device = self.watch.device

    @property
    def was_moved(self) -> bool:
        """Its model was moved to the CPU for it."""
        return self.watch.device != self._device

    def begin_again(self) -> None:
        """The model is back on its card: another part, with a ladder of its own."""
        self.watch.close()
        self._part += 1
        self.has_batch = False
        self.watch = self._open_watch(f"{self._name} part {self._part}")


class ShardSource(Protocol):
    """A `CrawlWatch`, which knows of this module by `wrap`."""

    _backend: Backend

    def shard(
        self, name: str, *, device: str, on_demote: Callable[[], object] | None, exit_to_recycle: bool | None
    ) -> ShardWatch:
        """See `CrawlWatch.shard`."""


class CallWatcher:
    """Watches calls on behalf of one `CrawlWatch`.

    Args:
        make_watch: Gives the watch, when the first call begins.
        exit_to_recycle: As for `CrawlWatch.shard`.
        device_of: Where a model is; a seam for tests.

    Attributes:
        has_left: The process ends so that another goes on.
        is_closed: Nothing is told any more; a call that goes on ends as it would have.

    Threads: any. `_lock` guards the watch, the shards and the models.
    """

    def __init__(
        self,
        make_watch: Callable[[], ShardSource],
        exit_to_recycle: bool | None,
        device_of: Callable[[Any], str] = device_of,
    ) -> None:
        self.has_left = False
        self.is_closed = False
        self._make_watch = make_watch
        self._exit_to_recycle = exit_to_recycle
        self._device_of = device_of
        self._watch: ShardSource | None = None
        self._shards: dict[tuple[str, str, str], OpenedShard] = {}
        self._taken: dict[str, str] = {}  # names of shards, and under which name their calls go
        self._models: weakref.WeakKeyDictionary[Any, MovableModel] = weakref.WeakKeyDictionary()
        self.after_fork()
        _watchers.add(self)

    def after_fork(self) -> None:
        """In a forked child: a lock that another thread held is held by nobody now."""
        self._lock = threading.RLock()
        for opened in self._shards.values():
            opened.lock = threading.Lock()
        self._models.clear()

    def movable(self, module: Any) -> MovableModel:
        """A model, as one that can be moved."""
        with self._lock:
            found = self._models.get(module)
            if found is None:
                clock = self._crawl_watch()._backend.clock
                found = self._models[module] = MovableModel(module, clock, COOL_DOWN_SECONDS)
            return found

    def shard_of(self, model: MovableModel, *, may_move: bool) -> OpenedShard:
        """The shard of a call that begins now, which may be open already.

        Another model at the same line is another shard: its passes take another time.
        """
        if not model.is_away:
            model.device = self._device_of(model.module)
        name, device = shard_name(), model.device
        key = name, device, model.kind
        with self._lock:
            opened = self._shards.get(key)
            if opened is None:
                kind = type(model.module).__name__
                free = (one for one in (name, f"{name} {kind}", f"{name} {kind} {device}") if one not in self._taken)
                given = next(free, f"{name} {model.kind} {device}")
                on_demote = move_current_model if may_move and device != "cpu" and model.can_move() else None
                opened = self._shards[key] = OpenedShard(
                    lambda part: self._crawl_watch().shard(
                        part, device=device, on_demote=on_demote, exit_to_recycle=self._may_exit()
                    ),
                    given,
                )
                self._taken[given] = name
            return opened

    def _may_exit(self) -> bool | None:
        """A child of `multiprocessing` is started by its parent, not by who has started that."""
        return self._exit_to_recycle if multiprocessing.parent_process() is None else False

    def _crawl_watch(self) -> ShardSource:
        if self._watch is None:
            self._watch = self._make_watch()
        return self._watch

    def _leave(self, name: str, state: ShardEnd = "done") -> None:
        """A block that has named a shard has ended."""
        with self._lock:
            left = [self._shards.pop(key) for key in list(self._shards) if key[0] == name]
            self._taken = {given: by for given, by in self._taken.items() if by != name}
        for opened in left:
            opened.watch._leave(state)

    def close(self, state: ShardEnd = "done") -> None:
        """Leave all shards; the watch is its owner's to close."""
        self.is_closed = True
        for name in {key[0] for key in list(self._shards)}:
            self._leave(name, state)


_watchers: weakref.WeakSet[CallWatcher] = weakref.WeakSet()


def _leave_everywhere(name: str) -> None:
    for watcher in list(_watchers):
        watcher._leave(name)


on_left.append(_leave_everywhere)  # once, not a watcher each: a job may wrap its model for every watch that it makes


def move_current_model() -> None:
    """The model whose call is between two passes, in this thread, goes to the CPU."""
    call = current_call()
    if call is None:
        raise RuntimeError("no call of a model is going on in this thread")
    call.model.move_to_cpu()


class Call:
    """One call, from its begin to its end, in one thread.

    Args:
        watcher: Whose.
        module: The model.
        may_move: It can be moved to the CPU meanwhile.
    """

    def __init__(self, watcher: CallWatcher, module: Any, *, may_move: bool) -> None:
        self.model = watcher.movable(module)
        self.is_passing = False
        self._scope: BatchScope | None = None
        self._opened = watcher.shard_of(self.model, may_move=may_move)
        self._watcher = watcher

    def begin(self) -> None:
        """The thread's call is this one: what the ladder asks for since the last one is applied first.

        Raises:
            PauseRequested: The process has to end, and its job resumes.
        """
        with self._opened.lock:
            if self._opened.was_moved and not self.model.is_cooling and not self.model.is_away:
                self._opened.begin_again()
        if self._opened.has_batch:
            self._boundary()
        self.model.begin_call()

    @property
    def is_away(self) -> bool:
        """Its model is on the CPU for now."""
        return self.model.is_away

    def commit(self) -> None:
        """All that the call has done so far is put away: what ends the process may be applied.

        Raises:
            PauseRequested: See `begin`.
        """
        self._end_pass(None)
        self._boundary()

    def _boundary(self) -> None:
        try:
            self._opened.watch.boundary()
        except PauseRequested:
            self._watcher.has_left = True
            raise

    def is_to_leave(self) -> bool:
        """Something that ends the process waits for the end of the call."""
        return is_to_leave(self._opened.watch)

    def begin_pass(self, given: Mapping[str, Any]) -> None:
        """A pass begins, and with it the last one ends."""
        self._end_pass(None)
        if self._watcher.is_closed:
            return
        if self._opened.has_batch:
            boundary_within(self._opened.watch)
        if self.model.is_away and not self._opened.was_moved:
            return  # moved for another shard: what it takes here tells nothing of the card
        scope = self._opened.watch.batch(*size_of(given))
        scope.__enter__()
        self._scope, self._opened.has_batch = scope, True

    def run_pass(self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The pass itself."""
        self.is_passing = True
        try:
            with self.model.passing():
                return self.model.run(step, args, kwargs) if self.model.is_away else step(*args, **kwargs)
        finally:
            self.is_passing = False

    def end(self, error: BaseException | None) -> None:
        """The call has come back, or has raised."""
        try:
            self._end_pass(error)
        finally:
            self.model.end_call()

    def _end_pass(self, error: BaseException | None) -> None:
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.__exit__(None if error is None else type(error), error, None)


def current_call() -> Call | None:
    """The call that this thread is in."""
    return getattr(_thread, "call", None)


def is_any_call() -> bool:
    """Whether a call goes on, in any thread: its model may be away, and its passes have to follow it."""
    return bool(_calls)


def begin_call(watcher: CallWatcher, module_of: Callable[[], Any], *, may_move: bool = True) -> Call | None:
    """A call begins.

    Args:
        watcher: Who watches it.
        module_of: Gives the model.
        may_move: It can be moved to the CPU meanwhile.

    Returns:
        The call, for `end_call`; `None` where it is not watched: it is part of one that is, or its driver tells of it.

    Raises:
        PauseRequested: See `Call.begin`.
    """
    if current_call() is not None or is_in_batch():
        return None
    begun: Call | None = None
    try:
        call = _thread.call = Call(watcher, module_of(), may_move=may_move)
        call.begin()
        begun = call
        _calls.add(call)
    except Exception as error:  # noqa: BLE001 - the call goes on as without us
        say_once("call", error)
    finally:
        _thread.call = begun
    return begun


def begin_pass(call: Call, given: Any) -> None:
    """A pass of the call begins."""
    try:
        call.begin_pass(given)
    except Exception as error:  # noqa: BLE001 - as above
        say_once("pass", error)


def end_call(call: Call, error: BaseException | None) -> None:
    """The call has ended."""
    try:
        call.end(error)
    except Exception as problem:  # noqa: BLE001 - as above
        say_once("call", problem)
    finally:
        _thread.call = None
        _calls.discard(call)


def _after_fork_in_child() -> None:
    _thread.call = None
    _calls.clear()
    for watcher in list(_watchers):
        watcher.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
