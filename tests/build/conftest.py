"""A rig for each test, and the promise that nothing is left running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.processes import FINDS_PROCESSES, forget, kill, left_running
from tests.build.rig import Rig


@pytest.fixture
def rig(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A folder with a source to be and an output to be. Afterwards no process of it may run."""
    mine = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own, in the one of the run.
    rig = Rig(tmp_path, shared=mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine)
    yield rig
    if not FINDS_PROCESSES:
        return
    try:
        rig.until_gone()
    finally:
        for pid in left_running(rig.mark):
            kill(pid)
        forget(rig.mark)
