"""Lays what watches over the methods of libraries, and takes it away again: each attribute is then the very same.

A library is patched once it is imported, by whoever does that, and never imported for it. Somebody else may have laid
something over ours since: then ours stays below it, and passes everything on.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product, takewhile
from types import ModuleType
from typing import Any

from helix_crawl_otel.instrument.calls import (
    Call,
    CallWatcher,
    begin_call,
    begin_pass,
    current_call,
    end_call,
    is_any_call,
    say_once,
)
from helix_crawl_otel.instrument.targets import TARGETS, Target

__all__ = ["add_instance", "install_all", "install_for", "remove_all"]

_MISSING = object()


@dataclass
class _Patch:
    """One attribute that we have laid something over.

    Args:
        owner: The class.
        name: The attribute.
        original: What its own dictionary held, `_MISSING` for nothing.
        ours: What it holds now.
    """

    owner: type
    name: str
    original: Any
    ours: Any


_lock = threading.RLock()
_patches: dict[tuple[type, str], _Patch] = {}  # guarded by _lock
_hooked: set[str] = set()  # modules whose import is waited for; guarded by _lock
_everybody: list[CallWatcher] = []  # who watches every instance: one at most
_instances: weakref.WeakKeyDictionary[Any, CallWatcher] = weakref.WeakKeyDictionary()
"""Who watches these alone."""


def watcher_of(instance: Any) -> CallWatcher | None:
    """Who watches an instance."""
    found = _instances.get(instance)
    if found is None:
        handler = getattr(instance, "callback_handler", None)  # of a Trainer
        for callback in getattr(handler, "callbacks", ()):
            found = getattr(callback, "helix_crawl_watcher", None)
            if isinstance(found, CallWatcher):
                return found
    return found if isinstance(found, CallWatcher) else next(iter(_everybody), None)


def install_all(watcher: CallWatcher) -> None:
    """Have every instance watched, of libraries that are imported and of those that will be."""
    register_post_import_hook = _wrapt().register_post_import_hook
    with _lock:
        _everybody[:] = [watcher]
        for name in {target.module for target in TARGETS}:
            module = sys.modules.get(name)
            if module is not None:
                _install(module)
            elif name not in _hooked:
                _hooked.add(name)
                register_post_import_hook(_imported, name)


def add_instance(instance: Any, watcher: CallWatcher) -> None:
    """Have one instance watched.

    Raises:
        ValueError: It is of no class that is known.
        ModuleNotFoundError: The extra `instrument` is not installed.
    """
    classes = type(instance).__mro__
    found = [target for target in TARGETS if target.name in {one.__name__ for one in classes}]
    if not found:
        accepted = ", ".join(dict.fromkeys(target.name for target in TARGETS))
        given = f"the class {instance.__name__}" if isinstance(instance, type) else type(instance).__name__
        raise ValueError(f"model is {given}; accepted: an instance of one of {accepted}")
    install_for(*(target.module for target in found))
    _instances[instance] = watcher
    for target in found:
        if target.module in sys.modules and target in _targets_of(sys.modules[target.module]):
            _lay_over_own_calls(classes, target)


def _lay_over_own_calls(classes: tuple[type, ...], target: Target) -> None:
    """Of a class of the job's, whose methods need not call those of the library's."""
    own = takewhile(lambda one: one.__name__ != target.name, classes)
    with _lock:
        for owner, name in product(own, target.calls):
            if name in vars(owner):
                _lay_over(owner, name, _around_call(target))


def install_for(*modules: str) -> None:
    """Patch libraries that are imported."""
    _wrapt()
    with _lock:
        for name in modules:
            if name in sys.modules:
                _install(sys.modules[name])


def _wrapt() -> Any:
    """Late: of an extra, and the package's public names are there without it."""
    try:
        import wrapt
    except ModuleNotFoundError:
        sentence = "wrapt is not installed; `pip install 'helix-crawl-otel[instrument]'` brings it"
        raise ModuleNotFoundError(sentence, name="wrapt") from None
    return wrapt


def remove_all(watcher: CallWatcher) -> None:
    """Nobody watches every instance any more; where nobody watches a single one either, the patches go."""
    with _lock:
        if watcher in _everybody:
            _everybody.remove(watcher)
        for instance in [one for one, by in _instances.items() if by is watcher]:
            del _instances[instance]
        _remove_unused()


def _remove_unused() -> None:
    """Take the patches away where nobody watches; a call that goes on needs them until it ends, and does it then."""
    with _lock:
        if _instances or _everybody or is_any_call():
            return
        for key, patch in list(_patches.items()):
            if vars(patch.owner).get(patch.name) is not patch.ours:
                continue  # under somebody else's
            if patch.original is _MISSING:
                delattr(patch.owner, patch.name)
            else:
                setattr(patch.owner, patch.name, patch.original)
            del _patches[key]


def _imported(module: ModuleType) -> None:
    with _lock:
        if _everybody:
            _install(module)


def _targets_of(module: ModuleType) -> list[Target]:
    """What is watched of a library, in the version that it has."""
    version = str(getattr(module, "__version__", ""))
    return [target for target in TARGETS if target.module == module.__name__ and target.is_in(version)]


def _install(module: ModuleType) -> None:
    for target in _targets_of(module):
        owner = getattr(module, target.name, None)
        if owner is None:
            continue
        try:
            for name in target.calls:
                _lay_over(owner, name, _around_call(target))
            if not target.of_model:
                _lay_over_passes(owner, target)
        except Exception as error:  # noqa: BLE001 - a version of the library that we do not know
            say_once(target.name, error)


def _lay_over_passes(owner: type, target: Target) -> None:
    for name in target.passes:
        _lay_over(owner, name, _around_pass(target))


def _lay_over(owner: type, name: str, around: Callable[..., Any]) -> None:
    found, laid, original = getattr(owner, name, None), _patches.get((owner, name)), vars(owner).get(name, _MISSING)
    if found is None or (laid is not None and _goes_through(original, laid.ours)):
        return
    ours = _wrapt().FunctionWrapper(found if original is _MISSING else original, around)
    setattr(owner, name, ours)
    _patches[owner, name] = _Patch(owner, name, original, ours)


def _goes_through(found: Any, ours: Any) -> bool:
    """Whether what is called now comes to ours: somebody may have laid theirs over it, or put back what was there."""
    while found is not None:
        if found is ours or getattr(found, "_self_parent", None) is ours:  # ours, as it is fetched from its class
            return True
        found = getattr(found, "__wrapped__", None)
    return False


def _around_call(target: Target) -> Callable[..., Any]:
    def around(step: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        watcher = watcher_of(instance)
        if watcher is None:
            return step(*args, **kwargs)
        call = begin_call(watcher, lambda: _model_of(instance, target), may_move=target.may_move)
        if call is None:
            return step(*args, **kwargs)
        try:
            result = step(*args, **kwargs)
        except BaseException as error:
            _end(call, error)
            raise
        _end(call, None)
        return result

    return around


def _end(call: Call, error: BaseException | None) -> None:
    end_call(call, error)
    if not (_everybody or _instances):  # meanwhile nobody watches any more
        _remove_unused()


def _model_of(instance: Any, target: Target) -> Any:
    model = target.model(instance)
    if target.of_model:
        with _lock:
            _lay_over_passes(type(model), target)
    return model


def _around_pass(target: Target) -> Callable[..., Any]:
    def around(step: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        call = current_call()
        if call is None:
            return alone(step, instance, args, kwargs) if target.alone else step(*args, **kwargs)
        if call.is_passing:
            return step(*args, **kwargs)
        begin_pass(call, target.given(args, kwargs))
        with _placed_on_cpu(instance) if target.places_inputs and call.is_away else nullcontext():
            return call.run_pass(step, args, kwargs)

    def inside(step: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return around(step, instance, args, kwargs) if current_call() is not None else step(*args, **kwargs)

    call_alone = _around_call(target)

    def alone(step: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        def whole(*given: Any, **named: Any) -> Any:
            return inside(step, instance, given, named)

        return call_alone(whole, instance, args, kwargs)

    return around


@contextmanager
def _placed_on_cpu(instance: Any) -> Any:
    """While its model is away, the instance puts inputs on the CPU."""
    device = instance.device
    instance.device = type(device)("cpu")
    try:
        yield
    finally:
        instance.device = device
