"""CgroupProbe in a real group of version 1 with a real limit: page cache is not full, thrashing is.

Needs a memory group that this process may divide; elsewhere the tests are left out and say so.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory_group import memory_group

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: control groups")

MIB = 1024**2
LIMIT = 64 * MIB

PROGRAM = """
import mmap, os, random, sys
from helix_crawl_otel.probes.cgroup import CgroupProbe

group, path, how = sys.argv[1:]
with open(group + "/cgroup.procs", "w") as procs:
    procs.write(str(os.getpid()))
with open(path, "wb") as file:
    for _ in range(160):
        file.write(os.urandom(1024**2))
    file.flush()
    os.fsync(file.fileno())
file = open(path, "rb")
os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
table = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
table.madvise(mmap.MADV_RANDOM)
os.unlink(path)
seconds, rest = 0.0, random.Random(1)
probe = CgroupProbe(clock=lambda: seconds)

def number(name):
    return int(open(group + "/memory." + name).read())

def work():
    if how == "read":
        file.seek(0)
        while file.read(1024**2):
            pass
    else:
        for _ in range(2000):
            table[rest.randrange(len(table))]

while number("usage_in_bytes") < 0.95 * number("limit_in_bytes"):
    work()
probe()
work()
seconds += 3.0
fraction = probe().fraction
usage = number("usage_in_bytes") / number("limit_in_bytes")
print(fraction, usage)
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of 64 MiB."""
    with memory_group("test", LIMIT) as folder:
        yield folder


def run(group: Path, tmp_path: Path, how: str) -> tuple[float, float]:
    """Run the program in the group; the probe's fraction, and usage over limit."""
    command = [sys.executable, "-c", PROGRAM, str(group), str(tmp_path / "table"), how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    fraction, usage = done.stdout.split()
    return float(fraction), float(usage)


def test_a_real_group_full_of_page_cache_is_not_full(group: Path, tmp_path: Path) -> None:
    """A file of twice the limit read over and over: the group is at its limit and healthy."""
    fraction, usage = run(group, tmp_path, "read")
    assert usage > 0.9
    assert fraction < 0.5


def test_a_real_group_that_thrashes_is_full(group: Path, tmp_path: Path) -> None:
    """The same file probed through a mapping: every probe waits for the disk."""
    fraction, usage = run(group, tmp_path, "map")
    assert usage > 0.9
    assert fraction > 0.9
