"""Runs the suite under a Windows CPython; see the package's docstring.

Prints what ran, what was skipped and why, by name, and leaves no process and no prefix behind. The exit code is
pytest's; 3 when this machine cannot do it, with the reason, or 0 for that with `--if-possible`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path, PurePosixPath

from tests.programs import REQUIRE
from tests.rules.tree import ROOT
from tests.standins.libraries import COMPILED, compile_for_windows
from tests.wine.prepare import CannotPrepare, Windows, prepare, wine_environ

__all__ = ["main"]

TESTS = (
    "tests/config",
    "tests/core",
    "tests/timeline",
    "tests/replay",
    "tests/store",
    "tests/link",
    "tests/supervise",
    "tests/watch",
    "tests/cli",
    "tests/memory",
    "tests/doctor",
)
"""What touches processes, files, clocks and signals, and the rule itself."""

CANNOT = 3
OF_LINUX = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "TMP", "TEMP", REQUIRE)
"""Not for a Python of another system. Programs that the gate promises are promised for Linux."""

SERVER_SECONDS = 20.0


def main(arguments: list[str]) -> int:
    """Run it."""
    if_possible = "--if-possible" in arguments
    chosen = [argument for argument in arguments if argument != "--if-possible"]
    started = time.monotonic()
    try:
        windows = prepare()
    except CannotPrepare as error:
        print(f"tests under Wine: {'skipped' if if_possible else 'cannot run'}: {error}", flush=True)
        return 0 if if_possible else CANNOT
    print(f"tests under Wine: {windows.python} is there after {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="helix-wine-") as scratch:
        prefix = Path(scratch) / "prefix"
        shutil.copytree(windows.prefix, prefix, symlinks=True)
        libraries = Path(scratch) / "libraries"
        compile_for_windows(libraries)
        try:
            return _pytest(windows, prefix, libraries, chosen)
        finally:
            _end_server(windows, prefix)


def _pytest(windows: Windows, prefix: Path, libraries: Path, chosen: list[str]) -> int:
    """pytest in a Windows process, its output passed on: a redirected one fails there, a pipe does not."""
    names_tests = any(not argument.startswith("-") for argument in chosen)
    command = [str(windows.wine), str(windows.python), "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["-q", "-rs", "--no-fold-skipped", *chosen, *(() if names_tests else TESTS)]
    environ = {name: value for name, value in wine_environ(prefix).items() if name not in OF_LINUX}
    environ |= {
        "PYTHONPATH": as_windows(ROOT),
        # The two systems' Pythons would take each other's compiled files for their own.
        "PYTHONPYCACHEPREFIX": as_windows(windows.python.parent / "compiled"),
        COMPILED: as_windows(libraries),
        "CI": "true",
    }
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line.decode(errors="replace").rstrip(), flush=True)
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def as_windows(path: Path) -> str:
    """A path of this system as a Windows program sees it: the whole system is drive Z:."""
    return "Z:" + str(PurePosixPath(path.absolute())).replace("/", "\\")


def _end_server(windows: Windows, prefix: Path) -> None:
    """End everything that runs in this prefix, and wait until it has."""
    environ = wine_environ(prefix)
    for argument in ("-k", "-w"):
        subprocess.run([str(windows.server), argument], env=environ, timeout=SERVER_SECONDS, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
