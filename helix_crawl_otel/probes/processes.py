"""Finds what a process has started, and what all of it has used of the processor: on Linux by `/proc`, under Windows by
its table of processes, which names them too; on macOS by `ps`.

What stands here of Windows is by the documentation; it has run under Wine only.

Source: Microsoft, "CreateToolhelp32Snapshot function": it names every process without any right to open it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from helix_crawl_otel.formats import printable

__all__ = [
    "LOOK_EVERY_SECONDS",
    "Process",
    "ProcessorUse",
    "booted_at",
    "creation_time",
    "descendants",
    "named",
    "process_mark",
    "process_names",
    "process_tree",
    "processes",
    "processor_seconds",
    "read_ps",
]

_SNAP_PROCESS = 0x2
_QUERY_LIMITED_INFORMATION = 0x1000
_INVALID_HANDLE = ctypes.c_void_p(-1).value
_LONGEST_NAME = 260
_UNITS_A_SECOND = 10_000_000  # 100 ns

_PS = ("/bin/ps", "-axo", "pid=,ppid=,time=")
_PS_SECONDS = 10.0

LOOK_EVERY_SECONDS = 60.0
BUSY_PART = 0.05
"""Of one core. Threads that wait, for the GIL too, use a fifth of that; an encoder uses all it can get."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process.

    Args:
        pid: Its process id.
        parent: The id of what started it, which may have ended since: another process may have that id now.
        name: File name of its program, such as `python.exe`.
    """

    pid: int
    parent: int
    name: str


class _Entry(ctypes.Structure):
    _fields_ = (
        ("dwSize", ctypes.c_uint32),
        ("cntUsage", ctypes.c_uint32),
        ("th32ProcessID", ctypes.c_uint32),
        ("th32DefaultHeapID", ctypes.c_size_t),
        ("th32ModuleID", ctypes.c_uint32),
        ("cntThreads", ctypes.c_uint32),
        ("th32ParentProcessID", ctypes.c_uint32),
        ("pcPriClassBase", ctypes.c_int32),
        ("dwFlags", ctypes.c_uint32),
        ("szExeFile", ctypes.c_wchar * _LONGEST_NAME),
    )


if sys.platform == "win32":
    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.CreateToolhelp32Snapshot.restype = ctypes.c_void_p
    _kernel32.CreateToolhelp32Snapshot.argtypes = (ctypes.c_uint32, ctypes.c_uint32)
    _kernel32.Process32FirstW.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    _kernel32.Process32NextW.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    _kernel32.OpenProcess.restype = ctypes.c_void_p
    _kernel32.OpenProcess.argtypes = (ctypes.c_uint32, ctypes.c_int, ctypes.c_uint32)
    _kernel32.GetProcessTimes.argtypes = (ctypes.c_void_p, *[ctypes.c_void_p] * 4)
    _kernel32.CloseHandle.argtypes = (ctypes.c_void_p,)

    def processes() -> tuple[Process, ...]:
        """Every process there is now; empty when the system refuses."""
        snapshot = _kernel32.CreateToolhelp32Snapshot(_SNAP_PROCESS, 0)
        if snapshot is None or snapshot == _INVALID_HANDLE:
            return ()
        found = []
        try:
            entry = _Entry()
            entry.dwSize = ctypes.sizeof(entry)
            more = _kernel32.Process32FirstW(snapshot, ctypes.byref(entry))
            while more:
                found.append(Process(int(entry.th32ProcessID), int(entry.th32ParentProcessID), str(entry.szExeFile)))
                more = _kernel32.Process32NextW(snapshot, ctypes.byref(entry))
        finally:
            _kernel32.CloseHandle(snapshot)
        return tuple(found)

    def creation_time(pid: int) -> int | None:
        """When a process was started, in 100 ns of the system's clock; `None` when it may not be asked or has ended."""
        times = _times(pid)
        return None if times is None else times[0]

    def _times(pid: int) -> tuple[int, int, int, int] | None:
        """When it was started and has ended, and its time in the kernel and out of it, in 100 ns."""
        handle = _kernel32.OpenProcess(_QUERY_LIMITED_INFORMATION, 0, pid)
        if not handle:
            return None
        try:
            times = (ctypes.c_uint64 * 4)()
            at = [ctypes.byref(times, 8 * index) for index in range(4)]
            if not _kernel32.GetProcessTimes(handle, *at):
                return None
            return int(times[0]), int(times[1]), int(times[2]), int(times[3])
        finally:
            _kernel32.CloseHandle(handle)

    def processor_seconds(pid: int) -> float | None:
        """See below."""
        known = [times for times in map(_times, process_tree(pid)) if times is not None]
        return sum(kernel + user for _, _, kernel, user in known) / _UNITS_A_SECOND if known else None

else:

    def processor_seconds(pid: int) -> float | None:
        """What a process and all that it has started have used of the processor, in seconds; `None` when unknown.

        It may fall: what those used that have ended is left out, unless the system adds it to whoever started them.
        """
        table = _linux_table() if sys.platform == "linux" else _ps_table()
        used = {process.pid: seconds for process, seconds in table}
        tree = process_tree(pid, [process for process, _ in table])
        return sum(used[one] for one in tree if one in used) if pid in used else None

    def processes() -> tuple[Process, ...]:
        """Nothing is known here: only Windows is asked."""
        return ()

    def creation_time(pid: int) -> int | None:
        """Nothing is known here: only Windows is asked."""
        return None


def process_mark(pid: int, proc: Path = Path("/proc")) -> str | None:
    """What tells a process from a later one that is given its id: when it was started, in the system's own words.

    Args:
        pid: Its id.
        proc: Where the kernel of Linux lists processes; a seam for tests.

    Returns:
        `None` where there is no such process, or it has ended and nobody has taken note of that; empty where it is
        there and no more may be asked.
    """
    if not 0 < pid < 2**31:
        return None
    if sys.platform == "win32":
        times = _times(pid)
        if times is None:
            return "" if any(process.pid == pid for process in processes()) else None
        return None if times[1] else str(times[0])
    if sys.platform == "linux":
        try:
            words = (proc / str(pid) / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            return None if words[0] in "ZX" else words[19]
        except (OSError, IndexError):
            pass  # it is gone, or hidden from us
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        return ""
    return _ps_start(pid) if sys.platform == "darwin" else ""


def _ps_start(pid: int) -> str:
    try:
        command = ("/bin/ps", "-o", "lstart=", "-p", str(pid))
        done = subprocess.run(command, capture_output=True, timeout=_PS_SECONDS, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(done.stdout.decode("ascii", errors="replace").split())


def booted_at() -> float:
    """When this machine was started, as `time.time` has it: by a clock that counts its sleep."""
    if sys.platform == "linux":
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.time() - time.monotonic()


def process_names() -> dict[int, str]:
    """Names of all processes by their ids: `shared_use(usage, workers, process_names().get)`."""
    return {process.pid: process.name for process in processes()}


def named(name: str | None, pid: int) -> str:
    """A process for people, such as `game.exe (pid 7)`; its name is somebody else's and may hold anything."""
    return f"{printable(name) if name else 'a program'} (pid {pid})"


def process_tree(
    pid: int, table: Iterable[Process] | None = None, created: Callable[[int], int | None] = creation_time
) -> set[int]:
    """A process and all that it has started, and they in turn, as far as their parents still live.

    Ids are given away again on Windows: a process that is older than what bears its parent's id is somebody else's.

    Args:
        pid: The process; it is part of the answer whether it lives or not.
        table: The processes; `None` asks the system.
        created: When a process was started; where it is not known, the table is believed.
    """
    children: dict[int, list[int]] = {}
    for process in processes() if table is None else table:
        children.setdefault(process.parent, []).append(process.pid)
    found = {pid}
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        started = created(parent) if parent in children else None
        for child in children.get(parent, []):
            if child in found:
                continue
            born = created(child)
            if started is None or born is None or born >= started:
                found.add(child)
                waiting.append(child)
    return found


def descendants(pid: int, proc: Path = Path("/proc")) -> set[int]:
    """All that a process has started, without itself, so that a kill reaches those that have left its group as well.

    Args:
        pid: The process.
        proc: Where the kernel lists processes; a seam for tests. Where there is no such folder nothing is known: on
            Windows the Job Object knows, on macOS the group has to do.
    """
    if sys.platform != "linux":
        return set()
    return process_tree(pid, [process for process, _ in _linux_table(proc)]) - {pid}


def _linux_table(proc: Path = Path("/proc")) -> list[tuple[Process, float]]:
    """Every process, and what it has used of the processor, with its children that have ended, in seconds."""
    table = []
    for stat in proc.glob("[0-9]*/stat"):
        try:
            # "4711 (name, with anything in it) S 42 ...": the parent is the second word after the last parenthesis.
            front, _, rest = stat.read_text(encoding="ascii", errors="replace").rpartition(")")
            words = rest.split()
            process = Process(int(stat.parent.name), int(words[1]), front.partition("(")[2])
            ticks = sum(map(int, words[11:15]))  # user and system, its own and those of its ended children
            table.append((process, ticks / _ticks_a_second()))
        except (OSError, ValueError, IndexError):
            continue  # it has just ended
    return table


def _ticks_a_second() -> int:
    return os.sysconf("SC_CLK_TCK") if sys.platform != "win32" else 1


def _ps_table() -> list[tuple[Process, float]]:
    """The same of a system with `ps` and without `/proc`; empty where it does not answer."""
    try:
        done = subprocess.run(_PS, capture_output=True, timeout=_PS_SECONDS, check=True, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return []
    return read_ps(done.stdout.decode("ascii", errors="replace"))


def read_ps(text: str) -> list[tuple[Process, float]]:
    """What `ps` tells: a process, its parent, its time, such as `812 1 123:45.67` or `812 1 2-03:04:05`."""
    table = []
    for line in text.splitlines():
        try:
            pid, parent, time = line.split()
            days, _, rest = time.rpartition("-")
            seconds = 0.0
            for part in rest.split(":"):
                seconds = 60 * seconds + float(part)
            table.append((Process(int(pid), int(parent), ""), 86_400 * int(days or 0) + seconds))
        except ValueError:
            continue
    return table


class ProcessorUse:
    """Tells whether a process uses the processor. Pure; one thread's.

    Args:
        look_every: Seconds; long enough for what a waiting process does now and then to be little.
    """

    def __init__(self, look_every: float = LOOK_EVERY_SECONDS) -> None:
        self._look_every = look_every
        self._before: tuple[float, float] | None = None

    def is_due(self, now: float) -> bool:
        """Whether to look again at `now`, in seconds: it may cost a look at every process."""
        return self._before is None or now - self._before[0] >= self._look_every

    def feed(self, now: float, used: float | None) -> bool:
        """Take what it has used so far, in seconds, `None` for unknown.

        Returns:
            Whether it has been busy since it was last fed.
        """
        if used is None:
            return False
        before, self._before = self._before, (now, used)
        return before is not None and used - before[1] >= BUSY_PART * (now - before[0])
