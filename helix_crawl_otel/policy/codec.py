"""Turns the state of the policy, nested dataclasses, into plain JSON values and back.

Typed on purpose: what comes back from a file is checked against the annotations, so that a damaged state file is one
clear `ValueError` and never a strange verdict later.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any

from helix_crawl_otel.policy.model import is_number

__all__ = ["OPTIONAL", "decode", "encode"]

OPTIONAL = "optional"
"""Metadata of a field that a file of an earlier version does not have: its default stands in."""

_AS_THEY_ARE = (str, int, bool)


def encode(value: Any) -> Any:
    """Dataclasses and mappings become dicts, enums their values, tuples lists; keys of dicts are strings already."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, value: Any, path: str = "") -> Any:
    """The value that `encode` was given.

    Args:
        kind: A type: of a dataclass, or of one of its fields.
        value: As JSON has it.
        path: Where it stands in the whole; empty for the whole.

    Raises:
        ValueError: A field is missing, or of another type than its annotation says; the message has its path. One that
            is not known here is passed over: a later version has added it, and what this one knows of a file is good.
    """
    if type(value) is kind and kind in _AS_THEY_ARE:
        return value
    path = path or kind.__name__
    origin, of = _shape(kind)
    if origin is typing.Union:
        choices = [choice for choice in of if choice is not type(None)]
        if value is None and len(choices) < len(of):
            return None
        if len(choices) > 1:
            return _decode_one_of(choices, value, path)
        return decode(choices[0], value, path)
    if origin is typing.Literal:
        if value not in of:
            raise _refused(path, value, ", ".join(of))
        return value
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _refused(path, value, "an object")
        item_kind = of[1]
        items = {str(key): decode(item_kind, item, f"{path}[{key!r}]") for key, item in value.items()}
        return items if origin is dict else types.MappingProxyType(items)
    if origin is list:
        if not isinstance(value, list):
            raise _refused(path, value, "a list")
        (item_kind,) = of
        return [decode(item_kind, item, f"{path}[{n}]") for n, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, list) or len(value) != len(of):
            raise _refused(path, value, f"a list of {len(of)}")
        return tuple(decode(of[n], item, f"{path}[{n}]") for n, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    return _decode_scalar(kind, value, path)


@cache
def _shape(kind: Any) -> tuple[Any, tuple[Any, ...]]:
    """Of a generic type or a union: what it is, and of what."""
    origin = typing.get_origin(kind)
    return typing.Union if origin is types.UnionType else origin, typing.get_args(kind)


@cache
def _fields(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """Of a dataclass: its fields with their types, and those that have to be there."""
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return {f.name: hints[f.name] for f in fields}, {f.name for f in fields if not f.metadata.get(OPTIONAL)}


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise _refused(path, value, "an object")
    kinds, needed = _fields(kind)
    if not needed <= value.keys():
        raise _refused(path, value, f"an object with {', '.join(sorted(kinds))}")
    known = {name: item for name, item in value.items() if name in kinds}
    fields = {name: decode(kinds[name], item, f"{path}.{name}") for name, item in known.items()}
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _decode_one_of(choices: list[Any], value: Any, path: str) -> Any:
    """As what it is already, or else as the first that it fits."""
    own = [choice for choice in choices if choice is type(value)]
    for choice in (*own, *choices):
        try:
            return decode(choice, value, path)
        except ValueError:
            continue
    raise _refused(path, value, " or ".join(choice.__name__ for choice in choices))


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise _refused(path, value, f"one of {[member.value for member in kind]}") from None
    if kind is float:
        if not is_number(value):
            raise _refused(path, value, "a finite number")
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _refused(path, value, kind.__name__)
    return value


def _refused(path: str, value: Any, accepted: str) -> ValueError:
    given = repr(value)
    return ValueError(f"{path} is {given[:80]}; accepted: {accepted}")
