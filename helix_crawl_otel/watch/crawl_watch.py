"""`CrawlWatch`: the one class that the author of an embedding job meets."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from helix_crawl_otel.actions import ActionQueue, PauseRequested
from helix_crawl_otel.config import CrawlConfig
from helix_crawl_otel.link.client import link_of_this_process
from helix_crawl_otel.policy.model import Action, MemoryReading
from helix_crawl_otel.probes.device import TorchDevice, device_name
from helix_crawl_otel.timing import LONGEST_TURN_SECONDS, RunningClock, awake_clock, checked_clock, process_switches
from helix_crawl_otel.watch.backend import Backend
from helix_crawl_otel.watch.shard import ShardWatch

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

__all__ = ["CrawlWatch"]

Hook = TypeVar("Hook", bound=Callable[[Action], object])
Model = TypeVar("Model")


class _DefaultDevice(str):
    """The default, told from a driver that says the same."""


_NOT_SAID = _DefaultDevice("cuda:0")


class CrawlWatch:
    """Watches an embedding job from inside its process.

    Four lines in a loop: `with CrawlWatch() as watch`, `with watch.shard(...) as shard`, `with shard.batch(...)`,
    `shard.boundary()`. What the ladder asks for is done at the boundary. In a process that `helix-crawl run` has
    started the supervisor measures and decides: then `config`, `meter_provider`, `tick_seconds`, `state`, `timeline`
    and `encoder` are its own, and what is given here is not used.

    Args:
        config: The knobs; `None` reads them from the environment, warning of each value that cannot be used.
        meter_provider: Where the instruments are made. `None` is the global provider, set before or after.
        memory: A callable that returns a `MemoryReading` of the card that the job encodes on. `None` reads NVML and
            torch for a card, the control group for the CPU. It may fail or hang: then memory is unknown, and nothing
            trips.
        clock: Returns seconds, and must not count sleep; the default does not, on any system.
        tick_seconds: How often memory is read and batches in flight are looked at, more than 0. `None` starts no
            thread, and the owner calls `tick`.
        state: A file in which rungs and baselines outlive the process (plain JSON). `None` keeps none.
        timeline: A file to which everything is recorded, for `helix-crawl replay`. `None` records nothing.
        encoder: Identity of the encoder, such as `BAAI/bge-m3`. Baselines in `state` serve the same encoder only.

    Raises:
        ValueError: An argument is of the wrong kind or out of range; the message says which, and what is accepted.

    Use it in a `with` or `async with` block, or call `close`. A closed one is not used again: `shard`, `on_action`,
    `tick` and another block raise `RuntimeError`, and so do the shards it has made.

    Threads: all methods from any. After construction no error of ours reaches the job: each is caught, logged and
    counted (`helix_dense_internal_errors`).
    """

    def __init__(
        self,
        config: CrawlConfig | None = None,
        *,
        meter_provider: MeterProvider | None = None,
        memory: Callable[[], MemoryReading] | None = None,
        clock: Callable[[], float] = time.monotonic,
        tick_seconds: float | None = 5.0,
        state: str | os.PathLike[str] | None = None,
        timeline: str | os.PathLike[str] | None = None,
        encoder: str = "",
    ) -> None:
        _accept(config is None or isinstance(config, CrawlConfig), "config", config, "a CrawlConfig, or None")
        provider_fits = meter_provider is None or callable(getattr(meter_provider, "get_meter", None))
        _accept(provider_fits, "meter_provider", meter_provider, "an OpenTelemetry MeterProvider, or None")
        _accept(
            memory is None or callable(memory), "memory", memory, "a callable that returns a MemoryReading, or None"
        )
        _accept(callable(clock), "clock", clock, "a callable that returns seconds")
        _accept_clock(clock)
        _accept(_is_tick(tick_seconds), "tick_seconds", tick_seconds, "a number of seconds > 0, or None")
        _accept(isinstance(encoder, str), "encoder", encoder, "a string")
        link = link_of_this_process()
        steady = checked_clock(awake_clock(clock))
        switches = process_switches() if clock is time.monotonic else None
        if switches is not None and (link is not None or tick_seconds is not None):  # a ticker of ours reads it
            steady = RunningClock(steady, max(LONGEST_TURN_SECONDS, 2 * (tick_seconds or 0.0)), switches)
        self._backend: Backend
        if link is not None:
            from helix_crawl_otel.watch.remote import RemoteBackend

            self._backend = RemoteBackend(link, memory, steady)
            return
        from helix_crawl_otel.watch.local import LocalBackend  # with OpenTelemetry, which a worker goes without

        self._backend = LocalBackend(
            config or CrawlConfig.from_env(),
            meter_provider=meter_provider,
            memory=memory,
            clock=steady,
            tick_seconds=tick_seconds,
            state=_file("state", state),
            timeline=_file("timeline", timeline),
            encoder=encoder,
        )

    def __enter__(self) -> CrawlWatch:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        paused = isinstance(error, (PauseRequested, KeyboardInterrupt))
        state = "done" if error is None else "paused" if paused else "failed"
        self._backend.guarded("driver", self._backend.close, state)

    async def __aenter__(self) -> CrawlWatch:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def close(self) -> None:
        """End the threads, keep the state, close the timeline. A second call does nothing."""
        self.__exit__(None, None, None)

    @property
    def actions(self) -> ActionQueue:
        """The queue, for a driver that wants no help: it polls this and leaves `boundary` alone."""
        return self._backend.pipeline.actions

    def shard(
        self,
        name: str,
        *,
        device: str | int | TorchDevice = _NOT_SAID,
        on_demote: Callable[[], object] | None = None,
        exit_to_recycle: bool | None = None,
    ) -> ShardWatch:
        """A shard that is about to be encoded; use it in a `with` block.

        Args:
            name: Of the shard, the same each time the job runs.
            device: Where it is encoded: `cuda:0`, `cuda` (the same), `cpu`, or another of torch's names, in letters of
                any size; a number, 0 or more, of a CUDA card; or a `torch.device`, such as a model's `.device`.
                A driver that says nothing is shown on no card under `helix-crawl run` where none can be seen.
            on_demote: Rebuilds the driver's encoder on the CPU, in place, for this shard. Called at the boundary, in
                the thread that calls it; `batch` waits meanwhile in all others. With it, DEMOTE_CPU does not end the
                process. What it raises is logged, and the job goes on as it is. No coroutine function.
            exit_to_recycle: True when something restarts this process and the job resumes: then RECYCLE, and
                DEMOTE_CPU without `on_demote`, end it by `PauseRequested`. `None` is false in a job that nobody
                supervises: a library must not end a job that nobody restarts. Under `helix-crawl run` it is true,
                unless another process of the job waits for this one: one of a `multiprocessing.Pool` ends after its
                task for a RECYCLE, in others the rung is passed over.

        Raises:
            ValueError: An argument is of the wrong kind.
            RuntimeError: The watch is closed.
        """
        self._check_open()
        _accept(isinstance(name, str) and name != "", "shard name", name, "a string that is not empty")
        place = device_name(device)
        _accept(on_demote is None or callable(on_demote), "on_demote", on_demote, "a callable, or None")
        is_plain = not inspect.iscoroutinefunction(on_demote)
        _accept(is_plain, "on_demote", on_demote, "a callable that does its work itself, no coroutine function")
        fits = exit_to_recycle is None or isinstance(exit_to_recycle, bool)
        _accept(fits, "exit_to_recycle", exit_to_recycle, "True, False or None")
        may_exit = self._backend.may_exit if exit_to_recycle is None else exit_to_recycle
        device = self._backend.device_of(str(place), is_said=not isinstance(device, _DefaultDevice))
        return ShardWatch(self._backend, name, device, on_demote, may_exit, insists=exit_to_recycle is True)

    def wrap(self, model: Model, *, exit_to_recycle: bool | None = None) -> Model:
        """Have a model watched without a loop of one's own: each forward pass of its calls is a batch.

        Args:
            model: A `SentenceTransformer`, `SparseEncoder` or `CrossEncoder`, FlagEmbedding's `BGEM3FlagModel`, or a
                pipeline or a `Trainer` of transformers.
            exit_to_recycle: As for `shard`. The process ends between two calls only.

        Returns:
            The same object.

        The shard is the calling file and line, `HELIX_CRAWL_SHARD`, or the name of a `helix_crawl_otel.shard` block.
        Between two passes the cache is released, and the model goes to the CPU until its call ends.

        Raises:
            ValueError: It is something else.
            ModuleNotFoundError: The extra `instrument` is not installed.
            RuntimeError: The watch is closed.
        """
        self._check_open()
        from helix_crawl_otel.instrument.wrap import wrap

        return wrap(self, model, exit_to_recycle)

    def on_action(self, hook: Hook) -> Hook:
        """Have a callable asked about each `Action` before it is queued; usable as a decorator.

        Args:
            hook: Gets the action. Returning `False` vetoes it: it is counted and logged, its rung is used up. Runs in
                the thread that decided, the ticker's or the driver's; what it raises is logged and no veto.

        Raises:
            ValueError: `hook` is not callable.
            RuntimeError: The watch is closed.
        """
        self._check_open()
        _accept(callable(hook), "hook", hook, "a callable that takes an Action")
        self._backend.pipeline.hooks.append(hook)
        return hook

    def tick(self) -> None:
        """Look at the clock and the memory now. For a watch with `tick_seconds=None`; harmless otherwise.

        Raises:
            RuntimeError: The watch is closed.
        """
        self._check_open()
        self._backend.guarded("policy", self._backend.tick)

    def _check_open(self) -> None:
        if self._backend.is_closed:
            raise RuntimeError("this CrawlWatch is closed; make another one")


def _accept(fits: bool, name: str, given: object, accepted: str) -> None:
    if not fits:
        raise ValueError(f"{name} is {given!r}; accepted: {accepted}")


def _accept_clock(clock: Callable[[], float]) -> None:
    try:
        checked_clock(clock)()
    except Exception as error:
        raise ValueError(f"clock cannot be read ({error}); accepted: a callable that returns seconds") from error


def _is_tick(seconds: object) -> bool:
    if seconds is None:
        return True
    return isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and 0 < seconds <= threading.TIMEOUT_MAX


def _file(name: str, path: str | os.PathLike[str] | None) -> Path | None:
    if path is None:
        return None
    _accept(isinstance(path, (str, os.PathLike)), name, path, "the path of a file, or None")
    found = Path(path)
    _accept(not found.is_dir(), name, str(path), "the path of a file, not of a folder")
    return found
