"""Turns the state of the policy, nested dataclasses, into plain JSON values and back.

Typed on purpose: what comes back from a file is checked against the annotations, so that a damaged state file is one
clear `ValueError` and never a strange verdict later.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from helix_crawl_otel.policy.samples import is_number

__all__ = ["OPTIONAL", "decode", "encode"]

OPTIONAL = "optional"
"""Metadata of a field that a file of an earlier version does not have: its default stands in."""

T = TypeVar("T")


def encode(value: Any) -> Any:
    """Dataclasses become dicts, enums their values, tuples lists; keys of dicts are strings already."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(kind: type[T], value: Any) -> T:
    """The value that `encode` was given.

    Raises:
        ValueError: A field is missing, unknown, or of another type than its annotation says; the message has its path.
    """
    return typing.cast(T, _decode(kind, value, kind.__name__))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        choices = [choice for choice in typing.get_args(kind) if choice is not type(None)]
        if value is None:
            return None
        return _decode(choices[0], value, path)
    if origin is dict:
        _expect(isinstance(value, dict), path, "an object", value)
        item_kind = typing.get_args(kind)[1]
        return {str(key): _decode(item_kind, item, f"{path}[{key!r}]") for key, item in value.items()}
    if origin is list:
        _expect(isinstance(value, list), path, "a list", value)
        (item_kind,) = typing.get_args(kind)
        return [_decode(item_kind, item, f"{path}[{n}]") for n, item in enumerate(value)]
    if origin is tuple:
        kinds = typing.get_args(kind)
        _expect(isinstance(value, list) and len(value) == len(kinds), path, f"a list of {len(kinds)}", value)
        return tuple(_decode(kinds[n], item, f"{path}[{n}]") for n, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    return _decode_scalar(kind, value, path)


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    _expect(isinstance(value, dict), path, "an object", value)
    names = {f.name for f in dataclasses.fields(kind)}
    needed = {f.name for f in dataclasses.fields(kind) if not f.metadata.get(OPTIONAL)}
    _expect(needed <= set(value) <= names, path, f"an object with {', '.join(sorted(names))}", value)
    hints = _hints(kind)
    fields = {name: _decode(hints[name], value[name], f"{path}.{name}") for name in value}
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        _expect(value in [member.value for member in kind], path, f"one of {[m.value for m in kind]}", value)
        return kind(value)
    if kind is float:
        _expect(is_number(value), path, "a finite number", value)
        return float(value)
    _expect(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), path, kind.__name__, value)
    return value


def _expect(ok: bool, path: str, accepted: str, value: Any) -> None:
    if not ok:
        given = repr(value)
        raise ValueError(f"{path} is {given[:80]}; accepted: {accepted}")
