"""The way of a batch, from its end to the next worker's start, does not grow unnoticed: see `way`."""

from __future__ import annotations

import pytest

from tests.run.way import files, measured

MOST_FUNCTIONS, MOST_FILES = 200, 35
"""As many as there were when this was written. A report of memory or a tick that falls in makes it 215, and the trip
itself 280 where the machine is so busy that it comes with the end of the batch: of a few runs the shortest counts."""


@pytest.mark.slow
def test_the_way_of_a_batch() -> None:
    """Of a real run: the driver's functions and the supervisor's."""
    ways = [measured()["both"] for _ in range(3)]
    for way in ways:
        print(f"{len(way)} functions in {files(way)} files")
    shortest = min(ways, key=len)
    assert len(shortest) <= MOST_FUNCTIONS
    assert files(shortest) <= MOST_FILES
