"""The knobs of the rule as one checked, frozen value. `config.py` reads them from the environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helix_crawl_otel.policy.model import REMEDIES, ActionKind, is_number

__all__ = ["ACTION_MODES", "ADAPTIVE", "Settings"]

ADAPTIVE = "adaptive"

ACTION_MODES = {"ladder": REMEDIES, "cpu": (ActionKind.DEMOTE_CPU,), ADAPTIVE: REMEDIES, "off": ()}
"""Values of `action`, and the remedies of each: rungs that a shard climbs, or what `adaptive` chooses from."""


def _is_integer(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_fraction(value: Any) -> bool:
    return is_number(value) and 0 < value <= 1


_ACCEPTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "factor": ("a number > 1", lambda value: is_number(value) and value > 1),
    "window": ("an integer >= 1", lambda value: _is_integer(value, 1)),
    "action": (", ".join(ACTION_MODES), lambda value: value in tuple(ACTION_MODES)),
    "vram_full": ("a number in (0, 1]", _is_fraction),
    "ema_alpha": ("a number in (0, 1]", _is_fraction),
    "warmup": ("an integer >= 0", lambda value: _is_integer(value, 0)),
    "inflight": ("True or False", lambda value: isinstance(value, bool)),
    "shared": ("True or False", lambda value: isinstance(value, bool)),
}


@dataclass(frozen=True)
class Settings:
    """What the detector and the ladder are told. Values outside the range raise `ValueError` naming the knob.

    Args:
        factor: Crawl limit = baseline / factor; a number > 1.
        window: Consecutive observations of a trip, and batches of a baseline; an integer >= 1.
        action: `ladder`, `cpu` (the first trip goes to DEMOTE_CPU), `adaptive` (what finishes the shard sooner, by
            measured costs) or `off` (DETECT only).
        vram_full: Fraction of dedicated memory that counts as full, in (0, 1].
        ema_alpha: Weight of the newest observation, in (0, 1].
        warmup: First batches of a worker that enter neither baseline nor EMA; an integer >= 0.
        inflight: Judge batches in flight as well.
        shared: A rise of the worker's shared memory by more than 512 MiB counts as full as well.

    Source: DESIGN.md, section 3.2.
    """

    factor: float = 5.0
    window: int = 8
    action: str = "ladder"
    vram_full: float = 0.92
    ema_alpha: float = 0.3
    warmup: int = 1
    inflight: bool = True
    shared: bool = False

    def __post_init__(self) -> None:
        for name, (accepted, is_accepted) in _ACCEPTED.items():
            value = getattr(self, name)
            if not is_accepted(value):
                raise ValueError(f"{name} is {value!r}; accepted: {accepted}")
