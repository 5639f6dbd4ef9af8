"""Reads device names as torch spells them: `cpu`, `cuda`, `cuda:1`, `mps`."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Protocol

__all__ = ["DeviceName", "TorchDevice", "device_name", "parse_cuda", "parse_device"]

_KINDS = ("cpu", "cuda", "mps", "xpu", "hpu", "npu", "mtia", "xla")
_NAME = re.compile(r"(?P<kind>[a-z]+)(?::(?P<index>0|[1-9][0-9]{0,5}))?")


@dataclass(frozen=True, slots=True)
class DeviceName:
    """A device, spelled out.

    Args:
        kind: `cpu`, `cuda`, `mps` and so on.
        index: Ordinal among the devices of this kind that the process sees, 0 or more.
    """

    kind: str
    index: int

    def __str__(self) -> str:
        """`cpu` without an ordinal, every other one with it: `cuda` becomes `cuda:0`."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def parse_device(name: str) -> DeviceName:
    """Read one device name; `cuda` means `cuda:0`. A `torch.device` is read by its text.

    Raises:
        ValueError: `name` is no device name.
    """
    return _parsed(str(name), name)


def _parsed(name: str, given: object) -> DeviceName:
    match = _NAME.fullmatch(name)
    if match is None or match["kind"] not in _KINDS:
        others = ", ".join(_KINDS[2:])
        raise ValueError(f"device is {given!r}; accepted: cpu, cuda, cuda:N (N is 0, 1, ...), or one of {others}")
    return DeviceName(match["kind"], int(match["index"] or 0))


class TorchDevice(Protocol):
    """A `torch.device`, which is not imported for that."""

    @property
    def type(self) -> str:
        """Such as `cuda`."""

    @property
    def index(self) -> int | None:
        """Ordinal, `None` where it has none."""


def device_name(device: object) -> DeviceName:
    """Read what a driver of somebody else's calls a device.

    Args:
        device: A name, whatever its letters' size; the number of a CUDA card, 0 or more; or a `torch.device`.

    Raises:
        ValueError: It is none of these. The message says what is accepted.
    """
    if isinstance(device, str):
        return _parsed(device.strip().lower(), device)
    kind, index = getattr(device, "type", None), getattr(device, "index", None)
    if isinstance(kind, str) and (index is None or isinstance(index, int)):
        return _parsed(kind if index is None else f"{kind}:{index}", device)
    if hasattr(device, "__index__") and not isinstance(device, bool) and operator.index(device) >= 0:
        return _parsed(f"cuda:{operator.index(device)}", device)
    raise ValueError(
        f"device is {device!r}; accepted: a name such as cuda:0 or cpu, the number of a CUDA card, or a torch.device"
    )


def parse_cuda(name: str) -> DeviceName:
    """As `parse_device`, of a CUDA device only.

    Raises:
        ValueError: `name` is none.
    """
    found = parse_device(name)
    if found.kind != "cuda":
        raise ValueError(f"device is {name!r}; accepted: cuda or cuda:N")
    return found
