"""An encoder that misbehaves as `--fault` says: wedged, hung, ended, without memory or device, with a bad vector.

Source: DESIGN.md, section 7: what a worker has to survive, or be ended for.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from helix_crawl_otel.encoders.base import BadVector, Encoder, EncoderLayer

__all__ = ["CRASH_CODE", "FaultyEncoder"]

CRASH_CODE = 86
FOR_EVER_SECONDS = 7 * 24 * 3600.0


class FaultyEncoder(EncoderLayer):
    """An encoder with one fault. See `Encoder`.

    Args:
        encoder: What really encodes.
        name: Of the fault, see `faults`.
        values: Of its keys.
        sleep: Seconds of the run's clock.
    """

    def __init__(
        self, encoder: Encoder, name: str, values: Mapping[str, float | int | str], sleep: Callable[[float], None]
    ) -> None:
        super().__init__(encoder)
        self._name = name
        self._batch = int(values.get("batch", 1))
        self._seconds = values.get("seconds")
        self._text = str(values.get("text", ""))
        # With neither text nor number every batch of more than one gene is too big.
        self._most_genes = None if self._text and "genes" not in values else int(values.get("genes", 1))
        self._sound_genes = int(values.get("genes", 0))  # of nan
        self._file = Path(str(values["file"])) if "file" in values else None
        self._sleep = sleep
        self._batches = 0
        self._is_device_gone = False
        self._hog()

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """Misbehave when it is time to, else encode."""
        self._batches += 1
        struck = [index for index, text in enumerate(texts) if self._text and self._text in text]
        most_genes = len(texts) if self._most_genes is None else self._most_genes
        is_due = self._batches == self._batch
        seconds = float(FOR_EVER_SECONDS if self._seconds is None else self._seconds)
        if self._name == "slow" and self._batches >= self._batch:
            self._sleep(0.1 if self._seconds is None else seconds)
        elif self._name == "wedge" and is_due:
            _hold_the_gil(seconds)
        elif self._name == "hang" and is_due:
            time.sleep(seconds)
        elif (self._name == "crash" and is_due) or (self._name == "poison" and struck):
            os._exit(CRASH_CODE)
        elif self._name == "oom" and (struck or len(texts) > most_genes):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (injected by --fault oom)")
        elif self._name == "nan" and struck and len(texts) > self._sound_genes:
            raise BadVector(struck, "the encoder's vector has length nan (injected by --fault nan)")
        elif self._name == "device" and (struck or (not self._text and self._batches >= self._batch)):
            self._is_device_gone = True
        if self._is_device_gone:
            raise RuntimeError("CUDA error: unspecified launch failure (injected by --fault device)")
        self._hog()
        return self._encoder.encode(texts)

    def _hog(self) -> None:
        """Another program has all the memory."""
        if self._file is not None and self._file.exists():
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (injected by --fault hog)")


if sys.platform == "win32":

    def _hold_the_gil(seconds: float) -> None:
        """See below."""
        ctypes.PyDLL("kernel32").Sleep(ctypes.c_uint32(int(seconds * 1000)))

else:
    import signal

    class _TimeSpec(ctypes.Structure):
        """`struct timespec`."""

        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    def _hold_the_gil(seconds: float) -> None:
        """Sleep in C without letting go of the interpreter's lock, as a driver call that hangs does.

        No other thread of the process runs meanwhile, and no handler of a signal: only a kill from outside ends it.

        Args:
            seconds: Real ones, 0 to a week.
        """
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
