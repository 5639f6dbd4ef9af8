"""Compiles the stand-ins' libraries: from one C source, for the system that the tests run on.

On Linux a test compiles what it needs. A Windows Python under Wine has no compiler: there they are compiled before the
tests begin, by `compile_for_windows`, and a variable names the folder. A compiler on PATH does as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.programs import require_program

__all__ = ["COMPILED", "CROSS_COMPILER", "compile_for_windows", "compile_library"]

COMPILED = "HELIX_TEST_WINDOWS_LIBRARIES"
"""Names the folder in which `compile_for_windows` has left the libraries."""

CROSS_COMPILER = "x86_64-w64-mingw32-gcc-win32"
SOURCES = Path(__file__).parent
FOR_WINDOWS: dict[str, tuple[tuple[str, ...], ...]] = {
    "nvml": ((), ("-DNO_V2",), ("-DNO_V3",)),
    "pdh": ((), ("-DNO_ENGLISH",)),
    "dxgi": ((),),
}
"""By stand-in: the flags of every library that a test asks for."""

STRICT = ("-Wall", "-Wextra", "-Werror")
DLL = ("-shared", "-static-libgcc")


def compile_library(standin: str, library: Path, flags: Sequence[str] = ()) -> Path:
    """Compile one library, or take it from those that have been compiled; skip the test where neither can be.

    Args:
        standin: The folder here, and the name of the C source in it.
        library: Where to put it. The folder is made.
        flags: Such as `-DNO_V2`.

    Returns:
        The library.

    Raises:
        subprocess.CalledProcessError: It does not compile.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    source = SOURCES / standin / f"{standin}.c"
    if sys.platform != "win32":
        linked = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}"]
        subprocess.run([require_program("cc"), *STRICT, *linked, *flags, str(source), "-o", str(library)], check=True)
        return library
    compiled = os.environ.get(COMPILED)
    if compiled is not None:
        shutil.copyfile(Path(compiled) / _name(standin, flags), library)
        return library
    compiler = shutil.which("x86_64-w64-mingw32-gcc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip(f"the stand-in for {standin} is not compiled: {COMPILED} names no folder, and gcc is not on PATH")
    subprocess.run([compiler, *STRICT, *DLL, *flags, str(source), "-o", str(library)], check=True)
    return library


def compile_for_windows(folder: Path, compiler: str = CROSS_COMPILER) -> None:
    """Compile every library that a test may ask for, on Linux, for a Windows Python under Wine.

    Args:
        folder: Where to put them; it is made. `COMPILED` has to name it, as Windows sees it.
        compiler: A GCC that compiles for Windows of 64 bits.

    Raises:
        subprocess.CalledProcessError: One does not compile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for standin, variants in FOR_WINDOWS.items():
        source = SOURCES / standin / f"{standin}.c"
        for flags in variants:
            library = folder / _name(standin, flags)
            subprocess.run([compiler, *STRICT, *DLL, *flags, str(source), "-o", str(library)], check=True)


def _name(standin: str, flags: Sequence[str]) -> str:
    return "".join([standin, *flags, ".dll"])
