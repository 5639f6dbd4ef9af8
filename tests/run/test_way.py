"""The way of a batch, from its end to the next worker's start, does not grow unnoticed: see `way`."""

from __future__ import annotations

import pytest

from tests.run.way import files, measured

MOST_FUNCTIONS, MOST_FILES = 200, 35
"""As many as there were when this was written, and as one run on a quiet machine has."""

MOST_RUNS = 8


@pytest.mark.slow
def test_the_way_of_a_batch() -> None:
    """Of real runs: the driver's functions and the supervisor's. A report of memory or a tick that falls into one run,
    15 functions more, or the trip itself where the machine is busy, 80, is not what each of them goes through.
    """
    always = measured()["both"]
    for _ in range(MOST_RUNS):
        print(f"{len(always)} functions in {files(always)} files")
        if len(always) <= MOST_FUNCTIONS and files(always) <= MOST_FILES:
            break
        always &= measured()["both"]
    assert len(always) <= MOST_FUNCTIONS, sorted(always)
    assert files(always) <= MOST_FILES
