"""Ctrl-C once and twice, SIGTERM, SIGHUP, a real terminal: a paused build goes on, and has lost nothing.

On Windows Ctrl-C comes from a console of its own, whose every process gets it; Ctrl-Break does not arrive under Wine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from helix_crawl_otel.paths import STATE_FOLDER
from helix_crawl_otel.supervise.lock import FolderLock
from tests.build.processes import FINDS_PROCESSES
from tests.build.rig import SECONDS, Rig, another_wish, kill, left_running, wait_for

pytestmark = pytest.mark.skipif(not FINDS_PROCESSES, reason="processes are found on Linux and Windows only")

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="sends signals, or starts with sh and nohup, as Linux has them"
)

FILES = 1000

WORKER = "helix_crawl_otel.build.worker"

CONSOLE = """
import ctypes, os, signal, subprocess, sys, time
process = subprocess.Popen(sys.argv[2:])
signal.signal(signal.SIGINT, signal.SIG_IGN)
times = 0
while process.poll() is None:
    if os.path.exists(sys.argv[1] + str(times)):
        times += 1
        assert ctypes.windll.kernel32.GenerateConsoleCtrlEvent(0, 0)
    time.sleep(0.02)
sys.exit(process.returncode)
"""
"""Runs a command in a console, and presses Ctrl-C there when a file appears, and again when the next one does."""

SLOW = ("--batch-size", "4", "--fault", "slow:seconds=0.15")


@contextmanager
def started(rig: Rig, command: list[str], **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running command that `interrupt` can reach."""
    if sys.platform == "win32":
        command = [sys.executable, "-c", CONSOLE, str(rig.folder / "ctrl-c-"), *command]
    with rig.started(command, **environ) as process:
        yield process


def interrupt(rig: Rig, process: subprocess.Popen[bytes], name: str = "SIGINT") -> None:
    """What `kill` sends, or what Ctrl-C does in a console."""
    if sys.platform == "win32":
        (rig.folder / f"ctrl-c-{len(list(rig.folder.glob('ctrl-c-*')))}").touch()
    else:
        process.send_signal(signal.Signals[name])


@pytest.mark.parametrize("name", ["SIGINT", pytest.param("SIGTERM", marks=linux), pytest.param("SIGHUP", marks=linux)])
def test_the_first_interrupt_finishes_the_batch_and_pauses(rig: Rig, name: str) -> None:
    """Exit code 75, what was encoded is committed, the summary names the command that goes on, and it does."""
    rig.write_shards(2, 3, 20)
    expected = rig.undisturbed()
    with started(rig, rig.build_command(*SLOW), **rig.held(2)) as process:
        wait_for(process, "committed")
        interrupt(rig, process, name)
        wait_for(process, "interrupted")
        rig.go()
        done = rig.ended(process)
    assert done.code == 75, done.errors
    assert done.summary["shards"]["paused"] > 0
    assert "goes on where it was" in done.summary["next_step"]
    paused = rig.verify()
    assert paused["vectors"] >= 4
    assert paused["missing"] > 0
    again = rig.build()
    assert again.code == 0
    assert again.summary["encoded"] == expected["genes"] - paused["vectors"]
    assert rig.verify() == expected


def test_who_has_scraped_a_build_sees_that_it_was_paused(rig: Rig) -> None:
    """The summary is out and the folder is free while it waits; one scrape ends the wait, and the exit code stays."""
    rig.options = ("--model", "hashing", "--metrics-port", "0", "--linger", "3600")
    rig.write_shards(2, 3, 20)
    with started(rig, rig.build_command(*SLOW), **rig.held(2)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = next(line for line in process.stdout if b'"metrics_at"' in line)
        url = json.loads(told)["url"]
        rig.until_held(process)
        assert run_of(url) == {"running": 1, "paused": 0, "done": 0, "failed": 0}
        interrupt(rig, process)
        rig.go()
        assert any(b"the metrics stay for one more scrape by 127.0.0.1" in line for line in process.stderr)
        assert any(b'"summary"' in line for line in process.stdout)
        with FolderLock(rig.out / STATE_FOLDER, "another run"):
            assert process.poll() is None
        assert run_of(url) == {"running": 0, "paused": 1, "done": 0, "failed": 0}
        assert process.wait(SECONDS) == 75


def run_of(url: str) -> dict[str, float]:
    """The states of the run that is scraped."""
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return {sample.labels["state"]: sample.value for sample in samples if sample.name == "helix_dense_run_state"}


def test_the_second_interrupt_ends_at_once(rig: Rig) -> None:
    """Exit code 130 although a batch would have taken a week, and nothing but that batch is lost."""
    rig.write_shards(1, 2, 20)
    expected = rig.undisturbed()
    with started(rig, rig.build_command("--batch-size", "4", "--fault", "hang:batch=3")) as process:
        for _ in range(3):
            wait_for(process, "batch_started")
        interrupt(rig, process)
        wait_for(process, "interrupted")
        another_wish()
        interrupt(rig, process)
        done = rig.ended(process)
    assert done.code == 130
    assert rig.verify()["vectors"] == 8
    assert rig.build().code == 0
    assert rig.verify() == expected


@linux
def test_an_interrupt_of_a_terminal_reaches_the_build_alone(rig: Rig) -> None:
    """Ctrl-C on a terminal goes to the whole foreground group: the worker is in one of its own and ends its batch."""
    rig.write_shards(1, 3, 20)
    expected = rig.undisturbed()
    # Which makes it the leader of a session and a group.
    with started(rig, rig.build_command(*SLOW), **rig.held(2)) as process:
        wait_for(process, "committed")
        os.killpg(process.pid, signal.SIGINT)
        wait_for(process, "interrupted")
        rig.go()
        done = rig.ended(process)
    assert done.code == 75
    assert [event["code"] for event in done.of("worker_ended")] == [75]
    assert rig.build().code == 0
    assert rig.verify() == expected


@linux
@pytest.mark.parametrize("names", [("SIGTERM",), ("SIGINT", "SIGHUP")])
def test_an_interrupt_that_reaches_the_worker_as_well(rig: Rig, names: tuple[str, ...]) -> None:
    """A service manager signals every process, a closed session with two signals: the batch is finished."""
    rig.write_shards(1, 3, 20)
    expected = rig.undisturbed()
    with started(rig, rig.build_command(*SLOW), **rig.held(2)) as process:
        wait_for(process, "committed")
        rig.until_held(process)
        for pid in left_running(rig.mark):
            for name in names:
                kill(pid, signal.Signals[name])
        wait_for(process, "interrupted")
        rig.go()
        done = rig.ended(process)
    assert done.code == 75, done.errors
    assert [event["code"] for event in done.of("worker_ended")] == [75]
    assert rig.verify()["vectors"] == 8
    assert rig.build().code == 0
    assert rig.verify() == expected


@linux
def test_two_signals_of_one_wish_are_one(rig: Rig) -> None:
    """Half a millisecond apart: nothing runs just then, and the first has ended the run before the second comes."""
    rig.write_shards(1, 2, 20)
    with started(rig, rig.build_command("--fault", "crash:batch=1", "--fault", "clock:rate=0.016")) as process:
        wait_for(process, "crash")
        interrupt(rig, process)
        time.sleep(0.0005)
        interrupt(rig, process, "SIGTERM")
        assert rig.ended(process).code == 75


def test_an_interrupt_while_sources_are_taken_in(rig: Rig) -> None:
    """It stops between two transactions; what was ingested is not read again."""
    rig.write({f"a/{n:05}.txt": f"Passage {n}. " + "word " * 40 for n in range(FILES)})
    expected = rig.undisturbed()
    with started(rig, rig.build_command("--fault", "slow:seconds=0"), **rig.held()) as process:
        rig.until((rig.out / "a.db").exists, process)
        interrupt(rig, process)
        wait_for(process, "interrupted")
        rig.go()
        done = rig.ended(process)
    assert done.code == 75, (done.errors, done.events[-2:])
    assert rig.build().code == 0
    assert rig.verify() == expected


def test_an_interrupt_before_the_worker_has_said_a_word(rig: Rig) -> None:
    """The worker is just starting: the run pauses, without waiting for a shard."""
    rig.write_shards(2, 3, 20)
    expected = rig.undisturbed()
    with started(rig, rig.build_command(*SLOW), **rig.held()) as process:
        wait_for(process, "worker_started")
        interrupt(rig, process)
        wait_for(process, "interrupted")
        rig.go()
        done = rig.ended(process)
    assert done.code == 75
    assert rig.build().code == 0
    assert rig.verify() == expected


def test_an_interrupt_during_the_backoff_after_a_crash(rig: Rig) -> None:
    """No worker runs just then: the run pauses at once instead of starting another one."""
    rig.write_shards(1, 2, 20)
    expected = rig.undisturbed()
    # By a clock on which the second of the backoff is a minute of the world's.
    with started(rig, rig.build_command("--fault", "crash:batch=1", "--fault", "clock:rate=0.016")) as process:
        wait_for(process, "crash")
        interrupt(rig, process)
        done = rig.ended(process)
    assert done.code == 75
    assert done.of("worker_started") == []
    assert rig.build().code == 0
    assert rig.verify() == expected


def test_an_interrupt_in_the_last_batch(rig: Rig) -> None:
    """The batch is committed before the pause: the same command has nothing left to encode, and starts no worker."""
    rig.write({"a/one.txt": "One passage."})
    with started(rig, rig.build_command("--fault", "slow:seconds=0"), **rig.held()) as process:
        wait_for(process, "shard_started")
        interrupt(rig, process)
        wait_for(process, "interrupted")
        rig.go()
        done = rig.ended(process)
    assert done.code == 75, done.events
    assert rig.verify()["code"] == 0
    again = rig.build()
    assert again.code == 0
    assert again.of("worker_started") == []


@linux
def test_a_supervisor_under_nohup_is_not_ended_by_a_closed_terminal(rig: Rig) -> None:
    """SIGHUP was ignored when it started: it stays so."""
    rig.write_shards(1, 2, 12)
    with started(rig, ["nohup", *rig.build_command(*SLOW)]) as process:
        wait_for(process, "committed")
        interrupt(rig, process, "SIGHUP")
        done = rig.ended(process)
    assert done.code == 0
    assert rig.verify()["code"] == 0


def test_the_reader_of_the_output_goes_away(rig: Rig) -> None:
    """`| head -1`: the show is over, the build is not."""
    rig.write_shards(1, 3, 20)
    expected = rig.undisturbed()
    with started(rig, rig.build_command(*SLOW)) as process:
        wait_for(process, "run_started")
        assert process.stdout is not None
        process.stdout.close()
        process.stdout = None
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0
    assert rig.verify() == expected


@linux
def test_a_build_without_standard_input_or_output(rig: Rig) -> None:
    """All three closed, as some schedulers start a job."""
    rig.write_shards(1, 2, 12)
    expected = rig.undisturbed()
    command = rig.build_command(*SLOW)
    closed = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', *command]
    assert subprocess.run(closed, env=rig.environ, cwd=rig.folder, timeout=SECONDS, check=False).returncode == 0
    assert rig.verify() == expected
