"""A C library that answers as Windows' `pdh.dll` does, so that the real ctypes code runs without a card.

    library = Library(build(tmp_path))
    answers = Answers(tmp_path / "answers.txt")
    monkeypatch.setenv(VARIABLE, str(answers.path))
    answers.usage([Use(pid=4711, dedicated=3 * GIB, shared=GIB)])
    counters = GpuCounters(str(library.path))

The file is read again at every call: what `answers` is told shows at the next reading. pdh.c lists the keys.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.probes.gpu_counters import ADAPTER_DEDICATED, ADAPTER_SHARED, PROCESS_DEDICATED, PROCESS_SHARED
from tests.standins.answers import AnswerFile
from tests.standins.libraries import compile_library

__all__ = ["CARD", "GIB", "OTHER_CARD", "VARIABLE", "Answers", "Library", "Use", "build"]

GIB = 1024**3
VARIABLE = "PDH_STANDIN_FILE"
CARD = "0x00000000_0x0000D1C5"
OTHER_CARD = "0x00000000_0x0000E2D6"


def build(folder: Path, flags: Sequence[str] = ()) -> Path:
    """The library, compiled into a folder of its own below `folder`; the test is skipped where it cannot be.

    Args:
        folder: Where to build.
        flags: `-DNO_ENGLISH`, for a library that knows no English counters.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    return compile_library("pdh", folder / "-".join(["pdh", *flags]) / "pdh.dll", flags)


@dataclass(frozen=True)
class Use:
    """What one process has on one adapter, or, without a process, all of them have."""

    pid: int | None = None
    dedicated: int = 0
    shared: int = 0
    adapter: str = CARD
    tail: str = "_phys_0"
    dedicated_status: int = 0
    shared_status: int = 0

    @property
    def instance(self) -> str:
        """The name that Windows gives it."""
        return f"{'' if self.pid is None else f'pid_{self.pid}_'}luid_{self.adapter}{self.tail}"


@dataclass
class Answers(AnswerFile):
    """The answers of all counters. Every change shows at the next call."""

    items: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings["log"] = str(self.log)
        self.write()

    def usage(self, uses: Iterable[Use]) -> None:
        """Replace all values. An adapter that no use without a process speaks of has the sum of its processes."""
        uses = list(uses)
        said = {use.adapter for use in uses if use.pid is None}
        for adapter in sorted({use.adapter for use in uses} - said):
            own = [use for use in uses if use.adapter == adapter]
            dedicated, shared = sum(use.dedicated for use in own), sum(use.shared for use in own)
            uses.append(Use(None, dedicated, shared, adapter))
        self.items = []
        for use in uses:
            one, two = (ADAPTER_DEDICATED, ADAPTER_SHARED) if use.pid is None else (PROCESS_DEDICATED, PROCESS_SHARED)
            self.items.append(f"{one}|{use.instance}|{use.dedicated}|{use.dedicated_status:X}")
            self.items.append(f"{two}|{use.instance}|{use.shared}|{use.shared_status:X}")
        self.write()

    def set(self, key: str, value: int | str | None) -> None:
        """Set one key of the file; a number is written as a status is, `None` takes it back."""
        self.settings.pop(key, None)
        if value is not None:
            self.settings[key] = value if isinstance(value, str) else f"0x{value:X}"
        self.write()

    def write(self) -> None:
        """Write the file and put it in the place of the old one."""
        lines = [f"{key}={value}" for key, value in self.settings.items()]
        lines += [f"item={item}" for item in self.items]
        self.put(lines)


class Library:
    """The stand-in, loaded into this process.

    Args:
        path: What `build` returned.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._loaded: Any = None
        if sys.platform != "win32":
            pytest.skip("needs Windows: runs under Wine")
        self._loaded = ctypes.WinDLL(str(path))

    def open(self) -> tuple[int, int]:
        """How many queries and how many counters are open."""
        queries, counters = ctypes.c_int(), ctypes.c_int()
        self._loaded.PdhStandinOpen(ctypes.byref(queries), ctypes.byref(counters))
        return queries.value, counters.value

    def close_all(self) -> None:
        """Close what is open, whatever the answer file says."""
        self._loaded.PdhStandinCloseAll()
