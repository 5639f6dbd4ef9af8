"""A memory group of 160 MB, and the NVML stand-in that shows it as a card."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helix_crawl_otel.memory.cgroup_groups import CgroupUnknown, find_groups
from tests.jobs.conftest import rig
from tests.standins.nvml import build

__all__ = ["rig"]

LIMIT = 160 * 1000**2
GONE_SECONDS = 60.0


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def group() -> Iterator[Path]:
    """A child of this process's own memory group; removed whatever happens, with the processes that are still in it."""
    try:
        groups = find_groups(Path("/"))
    except (OSError, CgroupUnknown) as error:
        pytest.skip(f"no memory control group here: {error}")
    if groups.version != 1:
        pytest.skip("the control groups here are of version 2: a group with processes cannot be divided")
    folder = groups.folders[0] / f"helix_crawl_spill_{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
    except OSError as error:
        if folder.is_dir():
            folder.rmdir()
        pytest.skip(f"no memory control group can be made here: {error}")
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while True:
        for pid in (folder / "cgroup.procs").read_text().split():
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                continue
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
