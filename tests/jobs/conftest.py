"""A rig for each test, and the promise that nothing is left running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.processes import FINDS_PROCESSES, forget, kill, left_running
from tests.jobs.rig import Rig

GONE_SECONDS = 5.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A folder with a source to be and an output to be. Afterwards no process of it may run."""
    rig = Rig(tmp_path)
    yield rig
    if not FINDS_PROCESSES:
        return
    deadline = time.monotonic() + GONE_SECONDS
    while (left := left_running(rig.mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        kill(pid)
    forget(rig.mark)
    assert left == [], "processes were left behind"
