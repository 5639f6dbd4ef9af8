"""The card as the tests see it: what NVML reads, who uses CUDA, and a program that fills it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from helix_crawl_otel.probes.nvml import NvmlProbe, call, find_card

__all__ = ["MIB", "ROOT", "filled", "python", "used_bytes", "used_less_than", "uses_cuda"]

ROOT = Path(__file__).parents[2]
MIB = 1024**2


def python(*arguments: str, seconds: float = 180.0, **variables: str) -> str:
    """Run Python in the repository, and return what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def used_bytes() -> int:
    """What all programs together hold of cuda:0, as NVML reads it."""
    probe = NvmlProbe("cuda:0", os.environ)
    reading = probe()
    assert reading.used_bytes is not None, probe.why
    return reading.used_bytes


def used_less_than(most: int, seconds: float = 30.0) -> int:
    """Wait until no more than so much is in use, and return the reading; it is the newest one when time is up."""
    deadline = time.monotonic() + seconds
    while (used := used_bytes()) > most and time.monotonic() < deadline:
        time.sleep(0.1)
    return used


def uses_cuda(pid: int) -> bool:
    """Whether a process has a CUDA context, as NVML lists them. NVML itself makes none in the process that asks."""
    call("nvmlInit")
    handle, _ = find_card(0, os.environ)
    return pid in {int(process.pid) for process in call("nvmlDeviceGetComputeRunningProcesses", handle)}


@contextmanager
def filled(fraction: Callable[[int], float]) -> Iterator[int]:
    """Another program holds the card until so much of it is in use; its process id.

    Args:
        fraction: Of the card's size in bytes, what is to be in use.
    """
    probe = NvmlProbe("cuda:0", os.environ)
    limit = probe().limit_bytes
    assert limit is not None, probe.why
    command = [sys.executable, "-m", "tests.gpu.hog", str(fraction(limit))]
    hog = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert hog.stdin is not None
    assert hog.stdout is not None
    try:
        told = hog.stdout.readline()
        assert told, "the program that fills the card has ended"
        reading = json.loads(told)
        print(f"\n  card filled to {reading['used_bytes'] / reading['limit_bytes']:.4f} of {limit / MIB:.0f} MiB")
        yield hog.pid
    finally:
        hog.stdin.close()
        try:
            hog.wait(timeout=30)
        except subprocess.TimeoutExpired:
            hog.kill()
            hog.wait(timeout=30)
        hog.stdout.close()
