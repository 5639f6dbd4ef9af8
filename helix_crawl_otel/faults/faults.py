"""Fault injection: what `--fault` takes, and what is laid over a worker's encoder for it.

For tests and demonstrations. Each fault is laid over a real encoder in a real worker process.

    card:fragment_gib=0.5,...   a modelled card (its parameters: `modelled_card.CardModel`, and fragment_gib a batch)
    wedge:batch=3,worker=1      a C call that holds the GIL in the middle of a batch
    hang:batch=3,worker=1       a call that hangs and lets other threads run
    crash:batch=3,worker=1      the process ends in the middle of a batch
    poison:text=...             the process ends whenever a batch holds this text
    oom:genes=16 | oom:text=... out of memory for batches of more genes, or that hold this text
    nan:text=...                a gene with this text gets a vector that is none
    device:batch=3,worker=1     from this batch on every call says that the device's context is gone
    hog:file=PATH               out of memory for the model and for every batch while this file exists
    slow:seconds=0.2,batch=3    every batch takes so much longer, from this one on
    clock:rate=100              the run's clock runs so much faster, in the supervisor as well

`leak_gib` of card is what each batch takes and only the end of the process gives back. The card refuses what is beyond
`--vram-cap`, where that is a number.

`batch` counts the batches of a worker process from 1, and is 1 unless given. `worker` counts the worker processes of a
run from 1; without it every one is struck. `seconds` of wedge and hang are real ones, a week unless given; of slow
and of the card those of the run's clock. `text` is looked for as it stands, and holds no comma. `genes` of nan: only in
batches of more genes. `device` and `hog` strike no worker that was sent to the CPU; nor do oom and nan with `card=1`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from helix_crawl_otel.config import Value
from helix_crawl_otel.encoders.base import Encoder
from helix_crawl_otel.faults.card import CARD_KEYS, CardFault, CardsCpu, card_of
from helix_crawl_otel.faults.encoder import FaultyEncoder
from helix_crawl_otel.probes.vram_cap import OFF

__all__ = ["Fault", "apply_faults", "clock_rate", "has_card", "parse_fault"]

MOST_SECONDS = 7 * 24 * 3600.0

_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)

_MOMENT: Mapping[str, type] = {"batch": int, "worker": int}

_KEYS: Mapping[str, Mapping[str, type]] = {
    "card": dict.fromkeys(CARD_KEYS, float),
    "wedge": {**_MOMENT, "seconds": float},
    "hang": {**_MOMENT, "seconds": float},
    "crash": _MOMENT,
    "poison": {"text": str},
    "oom": {"genes": int, "text": str, "card": int},
    "nan": {"text": str, "genes": int, "card": int},
    "device": {**_MOMENT, "text": str},
    "hog": {"file": str},
    "slow": {**_MOMENT, "seconds": float},
    "clock": {"rate": float},
}

_NEED_TEXT = {"nan": "text", "poison": "text", "hog": "file"}

_ON_CARD = ("device", "hog")


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
    values = dict(_pair(name, pair) for pair in filter(None, rest.split(",")))
    fault = Fault(name, values)
    needed = _NEED_TEXT.get(name, "text")
    if values.get(needed, "" if name in _NEED_TEXT else name) == "":
        what = "a file" if needed == "file" else "a part of the passages that are to be struck"
        raise ValueError(f"accepted: {name}:{needed}=..., {what}")
    if name == "card":
        card_of(values)
    if name == "clock" and not 0 < fault.number("rate", 1.0) <= 10_000:
        raise ValueError("accepted for rate: a number > 0 and <= 10000")
    if fault.number("seconds", 0.0) > MOST_SECONDS:
        raise ValueError(f"accepted for seconds: a number from 0 to {MOST_SECONDS:g}, a week")
    return fault


def _pair(name: str, pair: str) -> tuple[str, float | int | str]:
    key, equals, value = pair.partition("=")
    kind = _KEYS[name].get(key)
    if kind is None or not equals:
        raise ValueError(f"accepted after {name}: {', '.join(f'{key}=' for key in _KEYS[name])}")
    least = 1 if key in _MOMENT else 0
    if kind is int and not (_NUMBER.fullmatch(value) and value.isdigit() and int(value) >= least):
        raise ValueError(f"accepted for {key}: an integer from {least}")
    if kind is float and not _NUMBER.fullmatch(value):
        raise ValueError(f"accepted for {key}: a number >= 0, of at most nine digits before and after the point")
    converted: float | int | str = kind(value)
    return key, converted


def clock_rate(faults: Sequence[Fault]) -> float:
    """How fast the run's clock runs."""
    return next((fault.number("rate", 1.0) for fault in faults if fault.name == "clock"), 1.0)


def has_card(faults: Sequence[Fault]) -> bool:
    """Whether a modelled card is laid over the encoder."""
    return any(fault.name == "card" for fault in faults)


def apply_faults(
    encoder: Encoder,
    faults: Sequence[Fault],
    worker: int,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    *,
    is_demoted: bool = False,
    vram_cap: Value = OFF,
) -> Encoder:
    """The encoder with the faults laid over it.

    Args:
        encoder: A real one.
        faults: In the order in which they are met.
        worker: Which worker process of the run this is, from 1.
        clock: Seconds.
        sleep: Seconds of that clock.
        is_demoted: In a worker that was sent to the CPU, which a modelled card slows no more.
        vram_cap: In force on a modelled card, see `CardFault`.

    Raises:
        RuntimeError: There is no memory for the model, by the fault `hog`.
    """
    for fault in faults:
        if fault.name == "card" and is_demoted:
            encoder = CardsCpu(encoder, fault.values, clock, sleep)
        elif fault.name == "card":
            encoder = CardFault(encoder, fault.values, clock, sleep, vram_cap)
        elif is_demoted and (fault.name in _ON_CARD or fault.number("card", 0)):
            continue
        elif fault.name != "clock" and fault.number("worker", worker) == worker:
            encoder = FaultyEncoder(encoder, fault.name, fault.values, sleep)
    return encoder
