"""Sleeps in C without letting go of the interpreter's lock, as a driver call that hangs does. Fault injection only.

No other thread of the process runs meanwhile, and no handler of a signal: only a kill from outside ends it.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["hold_the_gil"]

if sys.platform == "win32":

    def hold_the_gil(seconds: float) -> None:
        """Hold it for so many real seconds, 0 to a week."""
        ctypes.PyDLL("kernel32").Sleep(ctypes.c_uint32(int(seconds * 1000)))

else:
    import signal

    class _TimeSpec(ctypes.Structure):
        """`struct timespec`."""

        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    def hold_the_gil(seconds: float) -> None:
        """Hold it for so many real seconds, 0 to a week."""
        whole = int(seconds)
        rest = _TimeSpec(whole, int((seconds - whole) * 1e9))
        # A signal would end the sleep, not the call of a driver: those that Python handles wait, as they would there.
        # The others do what they do to any process.
        waiting = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
        before = signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
        try:
            ctypes.PyDLL(None).nanosleep(ctypes.byref(rest), ctypes.byref(rest))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
