"""Runs the suite under a Windows CPython; see the package's docstring.

Prints what ran, what was skipped and why, by name, and leaves no process and no prefix behind. The exit code is
pytest's; 3 when this machine cannot do it, with the reason, or 0 for that with `--if-possible`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path, PurePosixPath
from typing import IO

from tests.programs import REQUIRE
from tests.rules.tree import ROOT
from tests.standins.libraries import COMPILED, compile_for_windows
from tests.wine.prepare import CannotPrepare, Windows, prepare, wine_environ

__all__ = ["main"]

TESTS = (
    "tests/config",
    "tests/timeline",
    "tests/shards",
    "tests/link",
    "tests/supervise",
    "tests/watch",
    "tests/cli",
    "tests/console",
    "tests/probes/test_default_probe.py",
    "tests/probes/test_dxgi.py",
    "tests/probes/test_gpu_counters.py",
    "tests/probes/test_monitor.py",
    "tests/probes/test_monitor_shared.py",
    "tests/probes/test_nvml_binding.py",
    "tests/probes/test_nvml_models.py",
    "tests/probes/test_processes.py",
    "tests/probes/test_shared.py",
    "tests/probes/test_shared_use.py",
    "tests/doctor",
    "tests/otel/test_endpoint.py",
    "tests/corpus",
    "tests/docs/test_powershell.py",
    "tests/build/test_bad_batches.py",
    "tests/build/test_everywhere.py",
    "tests/build/test_held_open.py",
    "tests/build/test_plan.py",
    "tests/build/test_windows_paths.py",
    "tests/run/test_windows.py",
    "tests/build/test_kills.py::test_a_build_that_is_killed_again_and_again",
    "tests/build/test_interrupts.py::test_the_first_interrupt_finishes_the_batch_and_pauses",
    "tests/build/test_interrupts.py::test_the_second_interrupt_ends_at_once",
    "tests/build/test_damage.py::test_the_lock_of_a_killed_build_is_taken_over",
    "tests/build/test_build.py::test_a_second_build_on_the_same_output_is_told_who_is_at_work",
    "tests/build/test_stuck_reader.py::test_a_build_whose_events_nobody_reads",
    "tests/ladder/test_ladder.py::test_all_four_rungs",
    "tests/ladder/test_shared.py",
)
"""What touches processes, files, clocks and signals; of the builds those whose end differs there. What computes alone
cannot differ."""

PURE = (
    "tests/corpus/test_cut.py",
    "tests/corpus/test_cut_tokens.py",
    "tests/link/test_messages.py",
    "tests/supervise/test_loop.py",
    "tests/supervise/test_outcomes.py",
    "tests/supervise/test_slot.py",
    "tests/supervise/test_unfinished.py",
    "tests/timeline/test_columns.py",
    "tests/watch/test_batches.py",
    "tests/watch/test_corpus.py",
    "tests/watch/test_demotion.py",
)
"""Of those folders what computes alone, on clocks that are played: on Linux it says the same."""

ALONE = "tests/probes/test_nvml_models.py::test_the_folder_of_older_drivers"
"""Puts a card's library where every process of the prefix would find it."""

CANNOT = 3
OF_LINUX = ("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR", "TMP", "TEMP", REQUIRE)
"""Not for a Python of another system, which has a folder of its own for what it compiles. Programs that the gate
promises are promised for Linux."""

OF_WINE = "c:\\windows\\system32\\"
"""Where the programs are that Wine starts by itself; those of the tests are elsewhere."""

SERVER_SECONDS = 120.0
GONE_SECONDS = 30.0


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
    with tempfile.TemporaryDirectory(prefix="helix-wine-", ignore_cleanup_errors=True) as scratch:
        prefix = Path(scratch) / "prefix"
        shutil.copytree(windows.prefix, prefix, symlinks=True)
        libraries = Path(scratch) / "libraries"
        compile_for_windows(libraries)
        try:
            code = 0 if chosen else _run_pytest(windows, prefix, libraries, [ALONE])
            code = code or _run_pytest(windows, prefix, libraries, _of_all(chosen))
            left = _left_running(prefix)
        finally:
            _end_server(windows, prefix)
    for pid, command in left:
        print(f"tests under Wine: left running: {pid} {command}", flush=True)
    return code or bool(left)


def _of_all(chosen: list[str]) -> list[str]:
    """pytest's arguments: the tests that are named, else all of them."""
    if any((ROOT / argument.partition("::")[0]).exists() for argument in chosen):
        return chosen
    # In two processes: the gate has the suite of Linux in four beside it, on two cores.
    return ["-n2", f"--deselect={ALONE}", *(f"--ignore={path}" for path in PURE), *chosen, *TESTS]


def _run_pytest(windows: Windows, prefix: Path, libraries: Path, arguments: list[str]) -> int:
    """pytest in a Windows process, its output in a pipe: one that is redirected to a file fails there."""
    command = [str(windows.wine), str(windows.python), "-m", "pytest", "-p", "no:cacheprovider"]
    command += ["-q", "-rs", "--no-fold-skipped", *arguments]
    environ = {name: value for name, value in wine_environ(prefix).items() if name not in OF_LINUX}
    environ |= {
        "PYTHONPATH": as_windows(ROOT),
        # The two systems' Pythons would take each other's compiled files for their own.
        "PYTHONPYCACHEPREFIX": as_windows(windows.python.parent / "compiled"),
        COMPILED: as_windows(libraries),
        "CI": "true",
    }
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    # Not read to its end here: what is left running holds the pipe open.
    threading.Thread(target=_print, args=(process.stdout,)).start()
    return process.wait()


def _print(stream: IO[bytes] | None) -> None:
    for line in stream or ():
        print(line.decode(errors="replace").rstrip(), flush=True)


def _left_running(prefix: Path) -> list[tuple[int, str]]:
    """What of the tests still runs in this prefix, after a moment to end."""
    deadline = time.monotonic() + GONE_SECONDS
    while (left := _running(prefix)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _running(prefix: Path) -> list[tuple[int, str]]:
    """Processes of this prefix, without those that are Wine's own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if f"WINEPREFIX={prefix}".encode() in environ.split(b"\0") and not _is_of_wine(command):
            found.append((int(folder.name), command))
    return sorted(found)


def _is_of_wine(command: str) -> bool:
    program = command.lower()
    is_started_by_it = program.startswith(OF_WINE) and not program.startswith(f"{OF_WINE}cmd.exe")
    return not command or "wineserver" in command or is_started_by_it


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
