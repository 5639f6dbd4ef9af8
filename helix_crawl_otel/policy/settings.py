"""The knobs of the rule as one checked, frozen value. `config.py` reads them from the environment."""

from __future__ import annotations

from dataclasses import dataclass

from helix_crawl_otel.policy.model import REMEDIES, ActionKind
from helix_crawl_otel.policy.samples import is_number

__all__ = ["ACTION_MODES", "Settings"]

ACTION_MODES = {"ladder": REMEDIES, "cpu": (ActionKind.DEMOTE_CPU,), "off": ()}
"""Values of `action`, and the rungs that a shard climbs with each."""


def _number(name: str, value: object, accepted: str) -> float:
    if not isinstance(value, (int, float)) or not is_number(value):
        raise ValueError(f"{name} is {value!r}; accepted: {accepted}")
    return float(value)


def _integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; accepted: an integer >= {least}")


@dataclass(frozen=True)
class Settings:
    """What the detector and the ladder are told. Values outside the range raise `ValueError` naming the knob.

    Args:
        factor: Crawl limit = baseline / factor; a number > 1.
        window: Consecutive observations of a trip, and batches of a baseline; an integer >= 1.
        action: `ladder`, `cpu` (the first trip goes to DEMOTE_CPU) or `off` (DETECT only).
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
        if not _number("factor", self.factor, "a number > 1") > 1:
            raise ValueError(f"factor is {self.factor!r}; accepted: a number > 1")
        _integer("window", self.window, 1)
        if self.action not in ACTION_MODES:
            raise ValueError(f"action is {self.action!r}; accepted: {', '.join(ACTION_MODES)}")
        for name in ("vram_full", "ema_alpha"):
            value = getattr(self, name)
            if not 0 < _number(name, value, "a number in (0, 1]") <= 1:
                raise ValueError(f"{name} is {value!r}; accepted: a number in (0, 1]")
        _integer("warmup", self.warmup, 0)
        for name in ("inflight", "shared"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted: True or False")
