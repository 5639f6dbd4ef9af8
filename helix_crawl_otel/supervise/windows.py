"""Windows: a Job Object that holds a worker and all it starts and takes them along with the supervisor; Ctrl-Break.

By the documentation; it has run under Wine only, where Ctrl-Break does not arrive.

Source: Microsoft, "Job Objects", JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, and "GenerateConsoleCtrlEvent function"; CPython,
`os_kill_impl`; WINDOWS.md.
"""

from __future__ import annotations

import ctypes
import sys
import threading

__all__ = ["JobObject", "send_break"]

KILL_ON_JOB_CLOSE = 0x2000
EXTENDED_LIMIT_INFORMATION = 9
KILLED_CODE = 1
CTRL_BREAK_EVENT = 1


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


if sys.platform == "win32":
    from ctypes import wintypes

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _kernel32.CreateJobObjectW.restype = wintypes.HANDLE
    _kernel32.CreateJobObjectW.argtypes = (ctypes.c_void_p, wintypes.LPCWSTR)
    _kernel32.SetInformationJobObject.argtypes = (wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD)
    _kernel32.AssignProcessToJobObject.argtypes = (wintypes.HANDLE, wintypes.HANDLE)
    _kernel32.TerminateJobObject.argtypes = (wintypes.HANDLE, wintypes.UINT)
    _kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)

    class JobObject:
        """One job.

        Args:
            process_handle: Of a process that has just been started; what it starts from now on is in the job too.

        Raises:
            OSError: The system refuses.

        Threads: any; the lock guards the handle, whose number is soon somebody else's once it is closed.
        """

        def __init__(self, process_handle: int) -> None:
            self._lock = threading.Lock()
            self._handle = _kernel32.CreateJobObjectW(None, None)
            if not self._handle:
                raise ctypes.WinError(ctypes.get_last_error())
            limits = _ExtendedLimits()
            limits.BasicLimitInformation.LimitFlags = KILL_ON_JOB_CLOSE
            size = ctypes.sizeof(limits)
            if not _kernel32.SetInformationJobObject(
                self._handle, EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), size
            ) or not _kernel32.AssignProcessToJobObject(self._handle, process_handle):
                error = ctypes.WinError(ctypes.get_last_error())
                self.close()
                raise error

        def terminate(self) -> None:
            """Kill everything in it."""
            with self._lock:
                if self._handle:
                    _kernel32.TerminateJobObject(self._handle, KILLED_CODE)

        def close(self) -> None:
            """Kill what is left in it and give the handle back. A second call does nothing."""
            with self._lock:
                handle, self._handle = self._handle, None
                if handle:
                    _kernel32.CloseHandle(handle)

else:

    class JobObject:
        """There are no Job Objects here."""

        def __init__(self, process_handle: int) -> None:
            raise OSError("job objects are of Windows only")

        def terminate(self) -> None:
            """Nothing to kill."""

        def close(self) -> None:
            """Nothing to close."""


def send_break(pid: int) -> bool:
    """Send Ctrl-Break, which is what is left of a terminal's Ctrl-C in a new group, to a process that leads one.

    Not by `os.kill`: where there is no console (a scheduled task, a service) it goes on to end the process (3.11).

    Returns:
        Whether the system has taken it; it does not without a console that both share.
    """
    if sys.platform != "win32":
        return False
    return bool(ctypes.windll.kernel32.GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, pid))
