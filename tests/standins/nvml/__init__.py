"""A C library that answers as NVIDIA's management library does, so that the real `pynvml` runs without a card.

Build it, write an answer file, and start a process with both in its environment:

    library = build(tmp_path)
    answers = Answers(tmp_path / "answers.txt", [Card(total=12 * GIB, used=3 * GIB)])
    subprocess.run([...], env={**os.environ, **answers.environ(library)})

The file is read again at every call: `answers.change(used=11 * GIB)` shows at the next reading. nvml.c lists the keys.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.standins.answers import AnswerFile
from tests.standins.libraries import compile_library

__all__ = [
    "GIB",
    "MCDM",
    "NOT_AVAILABLE",
    "TCC",
    "WDDM",
    "Answers",
    "Card",
    "Process",
    "build",
    "library_in",
]

GIB = 1024**3
NOT_AVAILABLE = 2**64 - 1
"""What NVML answers under WDDM where it has no value."""

WDDM, TCC, MCDM = 0, 1, 2
"""Driver models, as NVML numbers them."""


def build(folder: Path, flags: Sequence[str] = ()) -> Path:
    """Compile the library into a folder of its own below `folder`; skip the test where it cannot be built.

    Args:
        folder: Where to build.
        flags: Such as `-DNO_V2`, for a driver that has no version 2 of the memory call.

    Returns:
        The library, for `Answers.environ`.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    if sys.platform == "darwin":
        pytest.skip("NVML is not looked for on macOS")
    return compile_library("nvml", library_in(folder / "-".join(["nvml", *flags]).replace("=", "_")), flags)


def library_in(folder: Path) -> Path:
    """Where the real `pynvml` finds the library when `Answers.environ` names `folder`; there need not be one."""
    return folder / "System32" / "nvml.dll" if sys.platform == "win32" else folder / "libnvidia-ml.so.1"


@dataclass(frozen=True)
class Process:
    """A process on a card; see nvml.c."""

    pid: int
    used: int | None = 1 * GIB
    name: str = "/usr/bin/python3"
    kind: str = "C"


@dataclass(frozen=True)
class Card:
    """What one card answers; `None` is left out of the file."""

    name: str | None = "NVIDIA GeForce RTX 3080 Ti"
    uuid: str | None = "GPU-00000000-0000-0000-0000-000000000000"
    total: int | None = 12 * GIB
    used: int | None = 1 * GIB
    reserved: int | None = 256 * 1024**2
    free: int | None = None
    model: int | None = None
    utilization: int | None = 97
    temperature: int | None = 71
    power: int | None = 305_000
    sm_clock: int | None = 1530
    memory_clock: int | None = 9501
    throttle: int | None = 0
    mig: int | None = None
    lost: int | None = None
    forbidden: int | None = None
    cgroup: Path | None = None
    processes: tuple[Process, ...] = ()


@dataclass
class Answers(AnswerFile):
    """The answers of all cards. Every change shows at the next call."""

    cards: list[Card] = field(default_factory=lambda: [Card()])
    instances: list[Card] = field(default_factory=list)
    """MIG instances: not counted, found by their uuid only."""
    errors: dict[str, int] = field(default_factory=dict)
    hangs: set[str] = field(default_factory=set)
    """Functions that wait until the file says so no longer."""
    driver: str = "610.43"

    def __post_init__(self) -> None:
        self.write()

    def change(self, card: int = 0, **values: Any) -> None:
        """Give one card other values."""
        self.cards[card] = replace(self.cards[card], **values)
        self.write()

    def fail(self, **errors: int) -> None:
        """Let functions answer errors, by name; 0 takes one back."""
        self.errors.update(errors)
        self.errors = {function: error for function, error in self.errors.items() if error}
        self.write()

    def write(self) -> None:
        """Write the file and put it in the place of the old one."""
        lines = [f"driver={self.driver}", f"cards={len(self.cards)}", f"log={self.log}"]
        for index, card in enumerate([*self.cards, *self.instances]):
            values = ((name.name, getattr(card, name.name)) for name in fields(card) if name.name != "processes")
            lines += [f"{index}.{name}={value}" for name, value in values if value is not None]
            for number, one in enumerate(card.processes):
                used = "-" if one.used is None else one.used
                lines.append(f"{index}.process.{number}={one.pid},{one.kind},{used},{one.name}")
        lines += [f"error.{function}={error}" for function, error in self.errors.items()]
        lines += [f"hang.{function}=1" for function in sorted(self.hangs)]
        self.put(lines)

    def environ(self, library: Path) -> dict[str, str]:
        """Variables for a process that shall find the stand-in first; where there is none, it finds none at all."""
        answered = {"NVML_STANDIN_FILE": str(self.path)}
        if sys.platform == "win32":  # where pynvml looks first, and then; Wine leaves the second as it is
            return {**answered, "WINDIR": str(library.parents[1]), "PROGRAMFILES": str(library.parents[1])}
        found = [str(library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
        return {**answered, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, found))}
