"""Reads device names as torch spells them: `cpu`, `cuda`, `cuda:1`, `mps`."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["DeviceName", "parse_cuda", "parse_device"]

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
    match = _NAME.fullmatch(str(name))
    if match is None or match["kind"] not in _KINDS:
        others = ", ".join(_KINDS[2:])
        raise ValueError(f"device is {name!r}; accepted: cpu, cuda, cuda:N (N is 0, 1, ...), or one of {others}")
    return DeviceName(match["kind"], int(match["index"] or 0))


def parse_cuda(name: str) -> DeviceName:
    """As `parse_device`, of a CUDA device only.

    Raises:
        ValueError: `name` is none.
    """
    found = parse_device(name)
    if found.kind != "cuda":
        raise ValueError(f"device is {name!r}; accepted: cuda or cuda:N")
    return found
