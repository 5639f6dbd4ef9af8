"""Windows: a console that understands the control sequences of the bars. It can, and is not told to from the start.

Otherwise `rich` moves the cursor by calls of the system, past what is queued in an outlet.

Source: Microsoft, "Console Virtual Terminal Sequences". Tried under Wine only.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TextIO

__all__ = ["VirtualTerminal"]

STD_OUTPUT_HANDLE = -11
ENABLE_VIRTUAL_TERMINAL_PROCESSING = 4


class VirtualTerminal:
    """Turns it on, where standard output is such a console.

    Args:
        stream: Standard output, `None` when it is closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._before: int | None = None
        if sys.platform == "win32" and stream is not None and stream.isatty():
            mode = ctypes.c_uint32()
            handle = _handle()
            if not _kernel32.GetConsoleMode(handle, ctypes.byref(mode)):
                return  # NUL says that it is a terminal
            if _kernel32.SetConsoleMode(handle, mode.value | ENABLE_VIRTUAL_TERMINAL_PROCESSING):
                self._before = mode.value

    def restore(self) -> None:
        """Leave the console as it was: it outlives us."""
        if sys.platform == "win32" and self._before is not None:
            _kernel32.SetConsoleMode(_handle(), self._before)


if sys.platform == "win32":
    _kernel32 = ctypes.WinDLL("kernel32")
    _kernel32.GetStdHandle.restype = ctypes.c_void_p

    def _handle() -> ctypes.c_void_p:
        return ctypes.c_void_p(_kernel32.GetStdHandle(STD_OUTPUT_HANDLE))
