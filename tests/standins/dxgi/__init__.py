"""A C library that answers as Windows' `dxgi.dll` and CUDA's `nvcuda.dll` do, for one card; by Microsoft's own headers.

    library = load(tmp_path)
    answer(library, budget=8 * GIB)
    driver_budget(1, lambda name: library)

dxgi.c lists what can be told. It stands in for both libraries: it exports the functions of both.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

from tests.standins.libraries import compile_library

__all__ = ["answer", "load", "open_objects"]


def load(folder: Path) -> Any:
    """Compile and load it; skip the test where that cannot be done."""
    if sys.platform != "win32":
        raise OSError("it is of Windows only")
    return ctypes.WinDLL(str(compile_library("dxgi", folder / "dxgi-standin.dll")))


def answer(library: Any, **told: int) -> None:
    """What it answers from now on; see dxgi.c."""
    for name, value in told.items():
        ctypes.c_longlong.in_dll(library, f"standin_{name}").value = value


def open_objects(library: Any) -> int:
    """Objects that were handed out and not released."""
    return int(ctypes.c_longlong.in_dll(library, "standin_open").value)
