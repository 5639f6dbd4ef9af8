"""Faults that end, hang or wedge the process that they strike: each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helix_crawl_otel.faults.encoder import CRASH_CODE
from tests.faults.child import LEFT_CODE

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "tests.faults.child"]
HELD_SECONDS = 0.5
CLOCK_SECONDS = 0.016  # what a clock of Windows goes by at once
SECONDS = 60.0

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for signals that wait, which is Linux's")


def run(fault: str, what: str = "quiet") -> tuple[int, list[dict[str, Any]]]:
    """Run the child to its end. Returns its exit code and what it has said."""
    done = subprocess.run([*COMMAND, fault, what], cwd=ROOT, capture_output=True, timeout=SECONDS, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@contextmanager
def started(fault: str, what: str = "quiet") -> Iterator[subprocess.Popen[bytes]]:
    """The running child; ended with the block."""
    process = subprocess.Popen([*COMMAND, fault, what], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SECONDS)


def waits_for(pid: int, field: str, number: signal.Signals) -> None:
    """Wait until a signal stands in one of a process's masks: `SigBlk` (held off) or `ShdPnd` (sent, not taken)."""
    deadline = time.monotonic() + SECONDS
    while True:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith(f"{field}:"))
        if mask & 1 << (number - 1):
            return
        assert time.monotonic() < deadline, f"{number.name} is not in {field}"
        time.sleep(0.005)


def batches(told: list[dict[str, Any]]) -> list[int]:
    """The batches that were encoded, each of them rightly."""
    encoded = [each for each in told if each["said"] == "encoded"]
    assert all(each["is_right"] for each in encoded)
    return [each["batch"] for each in encoded]


@pytest.mark.parametrize(
    ("fault", "before"),
    [
        ("crash", []),
        ("crash:batch=2", [1]),
        ("crash:batch=3,worker=1", [1, 2]),
        ("poison:text=gremlin", [1, 2]),
        ("poison:text=another", []),
    ],
)
def test_the_process_ends_in_the_middle_of_a_batch(fault: str, before: list[int]) -> None:
    """At its batch, or at the text: no `finally` runs, as after a segmentation fault."""
    code, told = run(fault)
    assert code == CRASH_CODE
    assert batches(told) == before
    assert told[len(before) :] == []


@pytest.mark.parametrize(
    "fault", ["crash:batch=4", "crash:worker=2", "poison:text=Gremlin", "hang:worker=2", "wedge:batch=9"]
)
def test_what_is_not_struck_is_encoded(fault: str) -> None:
    """Another batch, another worker, another spelling."""
    code, told = run(fault)
    assert code == 0
    assert batches(told) == [1, 2, 3]


def test_a_hang_lets_other_threads_run() -> None:
    """One of them ends the process from inside while the second batch hangs, for a week if nobody did."""
    code, told = run("hang:batch=2", "leaving")
    assert code == LEFT_CODE
    assert batches(told) == [1]


@pytest.mark.parametrize("name", ["hang", "wedge"])
def test_one_that_ends_is_followed_by_the_real_vectors(name: str) -> None:
    """After `seconds` the batch is encoded as if nothing had been, and the next ones are not struck."""
    code, told = run(f"{name}:batch=2,seconds=0.1")
    assert code == 0
    assert batches(told) == [1, 2, 3]


def test_a_wedge_lets_no_other_thread_run() -> None:
    """A thread that would take a turn each millisecond gets none for as long as the call holds the interpreter."""
    code, told = run(f"wedge:batch=2,seconds={HELD_SECONDS}", "ticking")
    assert code == 0
    assert batches(told) == [1, 2, 3]
    assert told[-1]["longest_gap"] >= HELD_SECONDS - 2 * CLOCK_SECONDS


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_wedge_hears_no_signal_that_python_handles(number: signal.Signals) -> None:
    """It waits for the call to return, which it does not; a kill ends the process all the same."""
    with started("wedge:batch=2", "handling") as process:
        waits_for(process.pid, "SigBlk", number)
        os.kill(process.pid, number)
        waits_for(process.pid, "ShdPnd", number)
        assert process.poll() is None
        process.kill()
        output, _ = process.communicate(timeout=SECONDS)
        told = [json.loads(line) for line in output.splitlines()]
    assert process.returncode == -signal.SIGKILL
    assert [each["said"] for each in told] == ["encoded"]


@linux
def test_a_wedge_is_ended_by_a_signal_that_nobody_handles() -> None:
    """The kernel acts upon it, as it would in a driver's call."""
    with started("wedge:batch=2") as process:
        waits_for(process.pid, "SigBlk", signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert process.returncode == -signal.SIGTERM
