"""Says whether a driver's numbers can be judged.

A bad sample is counted and ignored, never an exception into the job.
"""

from __future__ import annotations

import math

__all__ = ["sample_problem"]


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def sample_problem(genes: object, seconds: object = 1.0, work: object = None) -> str | None:
    """The first thing wrong with a sample, as the label `reason` of `helix_dense_samples_ignored`.

    Args:
        genes: Passages of the batch; accepted: a finite number > 0.
        seconds: Time of the encode stage; accepted: a finite number > 0 (0 is a clock that stands still).
        work: Cost of the batch, in the driver's unit; accepted: a finite number > 0, or `None`.

    Returns:
        `genes`, `seconds`, `work`, or `None` when nothing is wrong.
    """
    if not _positive(genes):
        return "genes"
    if not _positive(seconds):
        return "seconds"
    if work is not None and not _positive(work):
        return "work"
    return None
