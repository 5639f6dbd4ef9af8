"""Says whether a driver's numbers can be judged.

A bad sample is counted and ignored, never an exception into the job.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["is_number", "plain_number", "sample_problem"]

LEAST, MOST = 1e-12, 1e18
"""Range of what a driver may report. Beyond it are bugs and rates that overflow, not batches."""


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold: not a `bool`, NaN, infinite, or an integer too large."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def plain_number(value: Any) -> Any:
    """A scalar of numpy or torch as Python's own number; anything else as it is.

    Lengths come as such scalars from tokenizers, and as attributes of a measurement only plain numbers are kept.
    """
    item = getattr(value, "item", None)
    if isinstance(value, (int, float)) or not callable(item):
        return value
    try:
        return item()
    except (RuntimeError, TypeError, ValueError):  # more than one element
        return value


_PLAIN = (float, int)
"""Of these the comparison says it all: NaN and infinity fail it. `is_number` is for their subclasses."""


def sample_problem(genes: Any, seconds: Any = 1.0, work: Any = None) -> str | None:
    """The first thing wrong with a sample, as the label `reason` of `helix_dense_samples_ignored`.

    Args:
        genes: Passages of the batch; accepted: a number from 1e-12 to 1e18.
        seconds: Time of the encode stage; accepted: a number from 1e-12 to 1e18 (0 is a clock that stands still).
        work: Cost of the batch, in the driver's unit; accepted: a number from 1e-12 to 1e18, or `None`.

    Returns:
        `genes`, `seconds`, `work`, or `None` when nothing is wrong.
    """
    # Twice a batch in every job: no call for each number.
    if not ((type(genes) in _PLAIN or is_number(genes)) and LEAST <= genes <= MOST):
        return "genes"
    if not ((type(seconds) in _PLAIN or is_number(seconds)) and LEAST <= seconds <= MOST):
        return "seconds"
    if not (work is None or ((type(work) in _PLAIN or is_number(work)) and LEAST <= work <= MOST)):
        return "work"
    return None
