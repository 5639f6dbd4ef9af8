"""Garbage on the channel, and a worker that was stopped, replaced and continued: neither harms a shard."""

from __future__ import annotations

import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.build.rig import EACH_BATCH, SECONDS, Rig, kill, wait_for

linux = pytest.mark.skipif(sys.platform != "linux", reason="stops processes by a signal")
posix = pytest.mark.skipif(sys.platform == "win32", reason="a pipe of Windows carries whole messages, or none")

BROKE = "its channel broke and it was ended"

# In its second batch the first worker of a run writes to the channel that it has inherited: what arrives is no message
# of the worker's. It goes on for three batches, and then stays until it is ended.
SITE = (
    EACH_BATCH
    + """
from multiprocessing import connection, reduction

is_first = False

def in_batch(turn):
    if is_first and turn == 2:
        strike(number, sender)
    elif is_first and turn == 5:
        slept(3600)

def strike(number, sender):
    {strike}

if "helix_crawl_otel.build.worker" in sys.orig_argv:
    try:
        os.close(os.open("struck", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        inherited = int(os.environ["HELIX_CRAWL_CHANNEL"].split(":")[1])
        if sys.platform == "win32":
            number = reduction.duplicate(inherited)
            sender = connection.PipeConnection(number)
        else:
            number = os.dup(inherited)
            sender = connection.Connection(number)
        is_first = True
"""
)


@pytest.mark.parametrize(
    ("strike", "why"),
    [
        pytest.param("sender.send_bytes(b'garbage')", BROKE, id="no-json"),
        pytest.param("sender.send_bytes(b'[]')", BROKE, id="no-object"),
        pytest.param("sender.send_bytes(b'x' * 2**21)", BROKE, id="too-large"),
        pytest.param(
            "os.write(number, b'\\0\\0\\1\\0torn'); os._exit(3)", "exit code 3", id="torn-by-death", marks=posix
        ),
        pytest.param("os.write(number, b'\\0\\0\\1\\0torn')", BROKE, id="torn-in-the-middle", marks=posix),
        pytest.param("import socket; socket.socket(fileno=number).shutdown(2)", None, id="closed", marks=posix),
    ],
)
def test_garbage_on_the_channel(rig: Rig, strike: str, why: str | None) -> None:
    """The worker that sent it is ended as one that crashed, another one goes on, and nothing is lost."""
    rig.write_shards(1, 3, 20)
    whole = rig.undisturbed()
    site = rig.with_site(SITE.replace("{strike}", strike))
    done = rig.run(rig.build_command("--batch-size", "2", "--fault", "slow:seconds=0.1"), SECONDS, **site)
    assert done.code == 0, (done.errors, done.events[-3:])
    assert (rig.folder / "struck").exists()
    crashes = done.of("crash")
    assert len(crashes) == 1
    assert why is None or why in crashes[0]["why"]
    assert rig.verify() == whole


@linux
def test_a_stopped_worker_that_is_continued_beside_its_replacement_writes_nothing(rig: Rig) -> None:
    """Its supervisor is gone and another build has taken the lease: what it wakes up with is refused."""
    rig.write_shards(1, 3, 20)
    whole = rig.undisturbed()
    # A worker stopped in the middle of a batch, as by a debugger, whose lease is then taken by somebody else.
    command = rig.build_command("--batch-size", "4", "--fault", "slow:seconds=0")
    with rig.started(command, **rig.held(2)) as process:
        rig.until_held(process)
        pid = rig.worker_pid(process)
        kill(pid, signal.SIGSTOP)
        with closing(sqlite3.connect(rig.out / "shard-0.db", isolation_level=None)) as connection:
            connection.execute("UPDATE helix_crawl_meta SET value = value + 1 WHERE key = 'epoch'")
            before = vectors(rig.out / "shard-0.db")
            rig.go()
            kill(pid, signal.SIGCONT)
            done = rig.ended(process)
            assert vectors(rig.out / "shard-0.db") == before
    assert done.code == 1
    assert "has been taken over by another worker" in done.summary["failed"]["shard-0"]
    assert rig.build().code == 0
    assert rig.verify() == whole


@linux
def test_a_stopped_worker_is_ended_and_replaced(rig: Rig) -> None:
    """A batch that does not end is a hang (rule 11): stopped or not, the process is ended and another one goes on."""
    rig.write_shards(1, 3, 20)
    whole = rig.undisturbed()
    command = rig.build_command("--batch-size", "8", "--fault", "slow:seconds=0", "--fault", "clock:rate=400")
    with rig.started(command, **rig.held(2)) as process:
        pid = wait_for(process, "worker_started")["pid"]
        rig.until_held(process)  # between two batches it would not be in one
        kill(pid, signal.SIGSTOP)
        rig.go()  # for the next worker; this one hears no more
        done = rig.ended(process)
    assert done.code == 0, (done.errors, done.events[-3:])
    assert next(event["why"] for event in done.of("worker_ended")) == "a batch hung and its worker was ended"
    assert rig.verify() == whole


def vectors(path: Path) -> int:
    """How many genes have one."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(embedding_dense_v2) FROM genes").fetchone()[0])
