"""A real memory control group of version 1, for tests that need a limit which the kernel itself enforces."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helix_crawl_otel.probes.cgroup import find_groups
from helix_crawl_otel.probes.probe import ProbeFailure

__all__ = ["memory_group"]

GONE_SECONDS = 60.0


@contextmanager
def memory_group(name: str, limit_bytes: int) -> Iterator[Path]:
    """A group below this process's own; removed whatever happens, with the processes that are still in it.

    Args:
        name: Of whoever asks, so that two may be there at once.
        limit_bytes: What its processes may use.

    Yields:
        Its folder. Where no group can be made the test is left out.
    """
    try:
        groups = find_groups(Path("/"))
    except (OSError, ProbeFailure) as error:
        pytest.skip(f"no memory control group here: {error}")
    if groups.version != 1:
        pytest.skip("the control groups here are of version 2: a group with processes cannot be divided")
    folder = groups.folders[0] / f"helix_crawl_{name}_{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(limit_bytes))
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
