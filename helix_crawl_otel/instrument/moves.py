"""Moves a model to the CPU in place, and back to what it was: inputs follow, results come back as asked for.

The model is the job's: it is moved between two passes only, and stands on its card again, in its own precision, when no
call is encoding. Half precision becomes full on the CPU, where it would be slower and on some not there at all; half
fits into full exactly, so that the way back gives the same weights.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any

from helix_crawl_otel.logs import watchdog
from helix_crawl_otel.watch.shard import EncodeGate

__all__ = ["MovableModel", "device_of"]


def device_of(model: Any) -> str:
    """Where a model's weights are, by torch's name; `cpu` for one without any."""
    for tensor in _tensors(model):
        return str(tensor.device)
    return "cpu"


def _tensors(model: Any) -> Iterator[Any]:
    for source in ("parameters", "buffers"):
        yield from getattr(model, source, tuple)()


class MovableModel:
    """One model of the job, wherever it is.

    Args:
        model: A `torch.nn.Module`.
        clock: Seconds.
        cool_down: Seconds after a move in which calls that begin are encoded on the CPU as well.

    Attributes:
        device: Where it belongs, as who watches it says; not changed while it is away.
        kind: Tells models apart whose passes take different times; the same for one that is loaded anew.

    Threads: any. `_lock` guards what is counted; a move waits for the passes of other threads.
    """

    def __init__(self, model: Any, clock: Callable[[], float], cool_down: float) -> None:
        self.device = "cpu"
        self._of = weakref.ref(model)
        count = sum(parameter.numel() for parameter in getattr(model, "parameters", tuple)())
        self.kind = f"{type(model).__name__} {count}"
        self._clock = clock
        self._cool_down = cool_down
        self._lock = threading.RLock()
        self._gate = EncodeGate(type(model).__name__)
        self._calls = 0
        self._cool_at: float | None = None
        self._home: tuple[Any, dict[str, Any]] | None = None  # device and precision of each, while it is away

    @property
    def module(self) -> Any:
        """The model. It is not kept: a job that drops it gets its memory back."""
        return self._of()

    @property
    def is_away(self) -> bool:
        """It is on the CPU for now."""
        return self._home is not None

    @property
    def is_cooling(self) -> bool:
        """The last move was so recent that the card is left alone."""
        return self._cool_at is not None and self._clock() < self._cool_at

    def can_move(self) -> bool:
        """Whether it can be moved: as a whole, by torch alone, and nobody trains it."""
        model, devices = self.module, {str(tensor.device) for tensor in _tensors(self.module)}
        if len(devices) != 1 or "meta" in devices:
            return False
        for module in model.modules():
            is_placed = getattr(module, "_hf_hook", None) is not None or getattr(module, "hf_device_map", None)
            if is_placed or getattr(module, "is_quantized", False):
                return False
        return all(parameter.grad is None for parameter in model.parameters())

    def begin_call(self) -> None:
        """A call begins; within the cool-down it is encoded on the CPU."""
        with self._lock:
            if self.is_cooling and not self.is_away:
                with self._alone():
                    self._leave()
            self._calls += 1

    def end_call(self) -> None:
        """A call has ended. After the last one the model is where the job has put it."""
        with self._lock:
            self._calls -= 1
            if self._calls == 0 and self.is_away:
                with self._alone():
                    self._try_to_return()

    def move_to_cpu(self) -> None:
        """For this call, and for those that begin within the cool-down.

        Raises:
            RuntimeError, MemoryError: It cannot be moved; it is where it was.
            TimeoutError: A pass of another thread has not ended within a minute; likewise.
        """
        with self._lock, self._alone():
            if not self.is_away:
                self._leave()
            self._cool_down_again()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread is in a pass, and weights are moved as outside of the job's `torch.inference_mode`, in which
        they would become tensors that can never be trained again."""
        import torch

        with self._gate.closed_to_others(insists=False), torch.inference_mode(False), torch.no_grad():
            yield

    def _cool_down_again(self) -> None:
        self._cool_at = self._clock() + self._cool_down
        self._cool_down *= 2  # a card that crawls again and again is left alone for ever longer

    def _leave(self) -> None:
        device = next(_tensors(self.module)).device
        self._home = device, {name: tensor.dtype for name, tensor in _named(self.module)}
        try:
            self._to_cpu()
        except BaseException:
            self._return()
            raise

    def _to_cpu(self) -> None:
        self.module.to("cpu")
        if any(_is_half(tensor.dtype) for tensor in _tensors(self.module)):
            self.module.float()

    def _try_to_return(self) -> None:
        try:
            self._return()
        except Exception as error:  # noqa: BLE001 - the card has no room for it; said, and tried again after the next call
            watchdog.warning("a model cannot return to its device, it stays on the CPU: %s", error)
            self._to_cpu()

    def _return(self) -> None:
        assert self._home is not None
        device, kinds = self._home
        self.module.to(device)
        for name, tensor in _named(self.module):
            kind = kinds.get(name, tensor.dtype)
            if tensor.dtype != kind:
                tensor.data = tensor.data.to(kind)
        self._home = None

    @contextmanager
    def passing(self) -> Iterator[None]:
        """A pass runs inside of this block: the model stays where it is."""
        thread = self._gate.enter()
        try:
            yield
        finally:
            self._gate.leave(thread)

    def run(self, step: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """One pass of a model that is away: what it is given follows it, what it gives comes back as it would have."""
        assert self._home is not None
        device, kinds = self._home
        if next(_tensors(self.module)).device.type != "cpu":  # a library puts it where it expects it, at each call
            self._to_cpu()
        half = next((kind for kind in kinds.values() if _is_half(kind)), None)
        full = next((tensor.dtype for tensor in _tensors(self.module) if tensor.is_floating_point()), None)
        given, named = _mapped([args, dict(kwargs)], lambda tensor: _as(tensor, "cpu", half, full))
        was_full = None if half is None else full
        return _mapped(step(*given, **named), lambda tensor: _as(tensor, device, was_full, half))


def _named(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _is_half(kind: Any) -> bool:
    return bool(kind.is_floating_point) and kind.itemsize == 2


def _as(tensor: Any, device: Any, old: Any, new: Any) -> Any:
    return tensor.to(device=device, dtype=new) if old is not None and tensor.dtype == old else tensor.to(device)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A structure with each tensor changed; of the types that models take and give."""
    if hasattr(value, "is_floating_point") and hasattr(value, "to"):
        return change(value)
    if hasattr(value, "keys") and hasattr(value, "__setitem__"):
        changed = copy(value)
        for name in list(value.keys()):
            changed[name] = _mapped(value[name], change)
        return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_mapped(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(item, change) for item in value)
    return value
