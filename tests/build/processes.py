"""Finds the processes that a test has started, and those that they have started, whoever their parents are by now.

Linux: by a variable in their environment. Windows: by a Job Object that each started process is put into; what it
starts is then in it too, also inside the product's own jobs, which nest.

Source: Microsoft, "Nested Jobs"; `NtQueryInformationProcess`, PROCESS_BASIC_INFORMATION. Tried under Wine only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["FINDS_PROCESSES", "MARK", "forget", "is_running", "kill", "left_running", "mark_process"]

MARK = "HELIX_TEST_RIG"
"""The variable that holds the mark of a rig."""

FINDS_PROCESSES = sys.platform in ("linux", "win32")

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    KILL_ON_JOB_CLOSE = 0x2000
    EXTENDED_LIMIT_INFORMATION, PROCESS_ID_LIST = 9, 3
    QUERY_AND_READ = 0x0400 | 0x0010
    SYNCHRONIZE, WAIT_TIMEOUT = 0x00100000, 258
    MOST_PROCESSES = 1024

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _ntdll = ctypes.WinDLL("ntdll")
    _kernel32.CreateJobObjectW.restype = wintypes.HANDLE
    _kernel32.CreateJobObjectW.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR)
    _kernel32.SetInformationJobObject.argtypes = (wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD)
    _kernel32.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
    _kernel32.QueryInformationJobObject.argtypes = (
        *(wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD, ctypes.c_void_p),
    )
    _kernel32.OpenProcess.restype = wintypes.HANDLE
    _kernel32.OpenProcess.argtypes = (wintypes.DWORD, wintypes.BOOL, wintypes.DWORD)
    _kernel32.ReadProcessMemory.argtypes = (
        *(wintypes.HANDLE, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p),
    )
    _kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
    _kernel32.WaitForSingleObject.argtypes = (wintypes.HANDLE, wintypes.DWORD)
    _ntdll.NtQueryInformationProcess.argtypes = (
        *(wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.ULONG, ctypes.c_void_p),
    )

    class _Ids(ctypes.Structure):
        """JOBOBJECT_BASIC_PROCESS_ID_LIST."""

        _fields_ = (
            ("assigned", wintypes.DWORD),
            ("count", wintypes.DWORD),
            ("pids", ctypes.c_size_t * MOST_PROCESSES),
        )

    _jobs: dict[str, int] = {}

    def mark_process(mark: str, process: subprocess.Popen[bytes]) -> None:
        """Count a process that has just been started, and all it will start, as the mark's own."""
        if mark not in _jobs:
            job = _kernel32.CreateJobObjectW(None, None)
            limits = ctypes.create_string_buffer(144)  # JOBOBJECT_EXTENDED_LIMIT_INFORMATION
            ctypes.c_uint32.from_buffer(limits, 16).value = KILL_ON_JOB_CLOSE  # a test that is ended leaves nothing
            assert _kernel32.SetInformationJobObject(job, EXTENDED_LIMIT_INFORMATION, limits, len(limits))
            _jobs[mark] = job
        if not _kernel32.AssignProcessToJobObject(_jobs[mark], int(process._handle)):
            error = ctypes.get_last_error()
            assert process.poll() is not None, ctypes.WinError(error)

    def forget(mark: str) -> None:
        """The test is over."""
        job = _jobs.pop(mark, None)
        if job is not None:
            _kernel32.CloseHandle(job)

    def left_running(mark: str, argument: str = "") -> list[int]:
        """Processes of a mark that have the argument on their command line."""
        if mark not in _jobs:
            return []
        ids = _Ids()
        size = ctypes.sizeof(ids)
        assert _kernel32.QueryInformationJobObject(_jobs[mark], PROCESS_ID_LIST, ctypes.byref(ids), size, None)
        pids = sorted(ids.pids[: ids.count])
        return [pid for pid in pids if not argument or argument in _command_line(pid)]

    def is_running(pid: int) -> bool:
        """Whether a process, of whomever, has not ended."""
        process = _kernel32.OpenProcess(SYNCHRONIZE, False, pid)
        if not process:
            return False
        try:
            return bool(_kernel32.WaitForSingleObject(process, 0) == WAIT_TIMEOUT)
        finally:
            _kernel32.CloseHandle(process)

    def kill(pid: int) -> None:
        """End a process, which may be gone, at once."""
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)  # which is TerminateProcess there

    def _command_line(pid: int) -> str:
        """As its process environment block has it, on 64 bits; empty for a process that has gone."""
        process = _kernel32.OpenProcess(QUERY_AND_READ, False, pid)
        if not process:
            return ""
        try:
            basic = (ctypes.c_size_t * 6)()
            if _ntdll.NtQueryInformationProcess(process, 0, ctypes.byref(basic), ctypes.sizeof(basic), None):
                return ""
            parameters = _read(process, basic[1] + 0x20, 8)
            text = _read(process, int.from_bytes(parameters, "little") + 0x70, 16)
            length = int.from_bytes(text[:2], "little")
            return _read(process, int.from_bytes(text[8:], "little"), length).decode("utf-16-le", "replace")
        finally:
            _kernel32.CloseHandle(process)

    def _read(process: int, address: int, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(size)
        read = _kernel32.ReadProcessMemory(process, address, buffer, size, None)
        return buffer.raw if read else bytes(size)

else:

    def mark_process(mark: str, process: subprocess.Popen[bytes]) -> None:
        """Nothing to do: the mark is in its environment."""

    def forget(mark: str) -> None:
        """Nothing to do."""

    def left_running(mark: str, argument: str = "") -> list[int]:
        """Processes of a mark that have the argument on their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            is_ours = f"{MARK}={mark}".encode() in environ.split(b"\0") and is_running(int(folder.name))
            if is_ours and argument.encode() in command:
                found.append(int(folder.name))
        return sorted(found)

    def is_running(pid: int) -> bool:
        """Whether a process, of whomever, has not ended; one that waits to be asked for its code has."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] != "Z"

    def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process that may be gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
