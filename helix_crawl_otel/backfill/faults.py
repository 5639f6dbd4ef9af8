"""Fault injection: what `--fault` takes, and the encoder that misbehaves accordingly.

For tests and demonstrations. Each fault is laid over a real encoder in a real worker process.

    card:fragment_gib=0.5,...   a modelled card (its parameters: `modelled_card.CardModel`, and fragment_gib a batch)
    wedge:batch=3,worker=1      a C call that holds the GIL in the middle of a batch
    hang:batch=3,worker=1       a call that hangs and lets other threads run
    crash:batch=3,worker=1      the process ends in the middle of a batch
    poison:text=...             the process ends whenever a batch holds this text
    oom:genes=16 | oom:text=... out of memory for batches of more genes, or that hold this text
    nan:text=...                a gene with this text gets a vector that is none
    slow:seconds=0.2            every batch takes so much longer
    clock:rate=100              the run's clock runs so much faster, in the supervisor as well

`batch` counts the batches of a worker process from 1, `worker` the worker processes of a run; without `worker` it is
every one.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from helix_crawl_otel.backfill.encoders.base import BadVector, Encoder
from helix_crawl_otel.backfill.fault_card import CardFault
from helix_crawl_otel.core.model import MemoryReading
from helix_crawl_otel.modelled_card import CardModel

__all__ = ["Fault", "apply_faults", "clock_rate", "has_card", "parse_fault"]

FOR_EVER_SECONDS = 7 * 24 * 3600.0
CRASH_CODE = 86

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")

_KEYS: Mapping[str, Mapping[str, type]] = {
    "card": {"fragment_gib": float, **{row.name: float for row in fields(CardModel)}},
    "wedge": {"batch": int, "worker": int, "seconds": float},
    "hang": {"batch": int, "worker": int, "seconds": float},
    "crash": {"batch": int, "worker": int},
    "poison": {"text": str},
    "oom": {"genes": int, "text": str},
    "nan": {"text": str},
    "slow": {"seconds": float},
    "clock": {"rate": float},
}


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        name: One of those above.
        values: What was given for its keys.
    """

    name: str
    values: Mapping[str, float | int | str] = field(default_factory=dict)

    def number(self, key: str, default: float) -> float:
        """The value of a key that is a number."""
        return float(self.values.get(key, default))


def parse_fault(text: str) -> Fault:
    """Read what `--fault` was given.

    Raises:
        ValueError: It is no fault; the message says what is accepted.
    """
    name, _, rest = text.partition(":")
    if name not in _KEYS:
        raise ValueError(f"accepted: {', '.join(_KEYS)}")
    values: dict[str, float | int | str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        kind = _KEYS[name].get(key)
        if kind is None or not equals:
            raise ValueError(f"accepted after {name}: {', '.join(f'{key}=' for key in _KEYS[name])}")
        if kind is not str and (not _NUMBER.fullmatch(value) or (kind is int and not value.isdigit())):
            raise ValueError(f"accepted for {key}: {'an integer' if kind is int else 'a number'} >= 0")
        values[key] = kind(value)
    fault = Fault(name, values)
    if name == "card":
        CardFault.model_of(fault.values)  # raises ValueError naming the parameter
    if name == "clock" and not 0 < fault.number("rate", 1.0) <= 10_000:
        raise ValueError("accepted for rate: a number > 0 and <= 10000")
    return fault


def clock_rate(faults: Sequence[Fault]) -> float:
    """How fast the run's clock runs."""
    return next((fault.number("rate", 1.0) for fault in faults if fault.name == "clock"), 1.0)


def has_card(faults: Sequence[Fault]) -> bool:
    """Whether a modelled card is laid over the encoder."""
    return any(fault.name == "card" for fault in faults)


def apply_faults(
    encoder: Encoder, faults: Sequence[Fault], worker: int, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Encoder:
    """The encoder with the faults laid over it.

    Args:
        encoder: A real one.
        faults: In the order in which they are met.
        worker: Which worker process of the run this is, from 1.
        clock: Seconds.
        sleep: Seconds of that clock.
    """
    for fault in faults:
        if fault.name == "card":
            encoder = CardFault(encoder, fault.values, clock, sleep)
        elif fault.name != "clock" and int(fault.number("worker", worker)) == worker:
            encoder = _Faulty(encoder, fault, sleep)
    return encoder


class _Faulty:
    """An encoder with one fault.

    Args:
        encoder: What really encodes.
        fault: What goes wrong.
        sleep: Seconds of the run's clock.
    """

    def __init__(self, encoder: Encoder, fault: Fault, sleep: Callable[[float], None]) -> None:
        self.identity = encoder.identity
        self.device = encoder.device
        self.versions = encoder.versions
        self.threads = encoder.threads
        self._encoder = encoder
        self._fault = fault
        self._sleep = sleep
        self._batches = 0

    def work(self, texts: Sequence[str]) -> float:
        return self._encoder.work(texts)

    def release(self) -> None:
        self._encoder.release()

    def memory(self) -> MemoryReading:
        return self._encoder.memory()

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        self._batches += 1
        self._misbehave(texts)
        return self._encoder.encode(texts)

    def _misbehave(self, texts: Sequence[str]) -> None:
        fault = self._fault
        is_due = self._batches == fault.number("batch", 1)
        wanted = str(fault.values.get("text", ""))
        holds_text = bool(wanted) and any(wanted in text for text in texts)
        if fault.name == "slow":
            self._sleep(fault.number("seconds", 0.1))
        elif fault.name == "wedge" and is_due:
            _hold_the_gil(fault.number("seconds", FOR_EVER_SECONDS))
        elif fault.name == "hang" and is_due:
            time.sleep(fault.number("seconds", FOR_EVER_SECONDS))
        elif (fault.name == "crash" and is_due) or (fault.name == "poison" and holds_text):
            os._exit(CRASH_CODE)
        elif fault.name == "oom" and (holds_text or (not wanted and len(texts) > fault.number("genes", 1))):
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB (injected by --fault oom)")
        elif fault.name == "nan" and holds_text:
            index = next(n for n, text in enumerate(texts) if wanted in text)
            raise BadVector(index, "the encoder's vector has length nan (injected by --fault nan)")


def _hold_the_gil(seconds: float) -> None:
    """Sleep in C without letting go of the interpreter's lock, as a driver call that hangs does."""
    if sys.platform == "win32":
        ctypes.PyDLL("kernel32").Sleep(int(seconds * 1000))
    else:
        ctypes.PyDLL(None).sleep(int(seconds))
