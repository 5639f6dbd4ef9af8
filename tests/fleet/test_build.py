"""A build on a cluster is one machine's, whatever ends meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable

import psutil
import pytest

from helix_crawl_otel.exit_codes import DONE, INTERRUPTED, PAUSED
from tests.build.rig import Done, another_wish, wait_for
from tests.fleet.nodes import FleetRig

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(600)]

SLOW = ("--fault", "slow:seconds=6")
"""Each batch takes so long that something can happen in it."""

OFTEN = ("--checkpoint", "1")

SECONDS = 300.0


def pick(found: Callable[[], list[int]], process: subprocess.Popen[bytes]) -> int:
    """The first pid, once there is one."""
    deadline = time.monotonic() + SECONDS
    while not (pids := found()):
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.05)
    return pids[0]


def told(done: Done) -> object:
    """What explains the end of a command."""
    notes = [event["text"] for event in done.of("note")]
    return done.errors, notes, [done.summary.get(name) for name in ("reason", "failed", "shards")]


def test_a_build_on_three_nodes_is_one_machines(rig: FleetRig) -> None:
    """Shards, genes and vectors; each node had a part, and the events say which."""
    rig.write_shards(9, 2, 12)
    with rig.started(rig.fleet_command()) as process:
        done = rig.ended(process, SECONDS)
    assert done.code == DONE, told(done)
    rig.assert_whole()
    assert done.summary["shards"]["done"] == 9
    assert done.summary["encoded"] == rig.undisturbed()["vectors"]
    started = done.of("worker_started")
    assert {(event["node"], event["slot"]) for event in started} == {(n, f"{n}/cuda:0") for n in ("n1", "n2", "n3")}
    assert len(started) == 3, "the worker stays for the next shard"
    assert done.errors == "", "nothing of Ray's is shown"


@pytest.mark.slow  # in the gate `test_kills` does it at random
@pytest.mark.parametrize("what", ["worker", "host", "node"])
def test_what_is_killed_is_begun_again(rig: FleetRig, what: str) -> None:
    """Nothing is lost or doubled."""
    rig.write_shards(6, 2, 25)
    with rig.started(rig.fleet_command(*SLOW, *OFTEN)) as process:
        wait_for(process, "committed")
        if what == "worker":
            os.kill(pick(rig.fleet.workers, process), signal.SIGKILL)
        elif what == "host":
            os.kill(pick(lambda: rig.fleet.hosts("n2"), process), signal.SIGKILL)
        else:
            pick(lambda: rig.fleet.workers("n3"), process)
            rig.fleet.kill_node("n3")
        done = rig.ended(process, SECONDS)
    assert done.code == DONE, told(done)
    rig.assert_whole()
    if what == "worker":
        assert done.summary["crashes"] == 1
    else:
        assert any("is lost: " in event["text"] for event in done.of("note")), done.of("note")


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_by_the_same_command(rig: FleetRig) -> None:
    """Its slots end with it; what was put is not encoded again."""
    rig.write_shards(6, 2, 25)
    with rig.started(rig.fleet_command(*SLOW, *OFTEN)) as process:
        wait_for(process, "shard_ended")
        process.kill()
    done = rig.run(rig.fleet_command(*SLOW), SECONDS, HERE="")
    assert done.code == DONE, told(done)
    assert 0 < done.summary["encoded"] < rig.undisturbed()["vectors"]
    rig.assert_whole()


def test_an_interrupt_pauses_all_nodes_and_a_second_one_ends_them(rig: FleetRig) -> None:
    """Then the same command goes on: what was committed is put before the end."""
    rig.write_shards(3, 2, 25)
    with rig.started(rig.fleet_command(*SLOW)) as process:
        wait_for(process, "committed")
        process.send_signal(signal.SIGINT)
        done = rig.ended(process, SECONDS)
    assert done.code == PAUSED, told(done)
    assert done.summary["encoded"] == sum(event["genes"] for event in done.of("committed")) + 8
    with rig.started(rig.fleet_command("--fault", "slow:seconds=100")) as process:
        wait_for(process, "batch_started")
        process.send_signal(signal.SIGINT)
        wait_for(process, "interrupted")
        another_wish()
        process.send_signal(signal.SIGINT)
        again = rig.ended(process, SECONDS)
    assert again.code == INTERRUPTED, told(again)
    last = rig.run(rig.fleet_command(), SECONDS, HERE="")
    assert last.code == DONE, told(last)
    rig.assert_whole()
    assert not rig.fleet.workers()


def test_a_demoted_shard_is_finished_on_a_cpu_slot(rig: FleetRig) -> None:
    """The card takes the next one meanwhile."""
    rig.write_shards(6, 2, 40)
    crawls = ("--fault", "card:fragment_gib=1.5", "--action", "cpu", "--batch-size", "4")
    with rig.started(rig.fleet_command(*crawls)) as process:
        done = rig.ended(process, SECONDS)
    assert done.code == DONE, told(done)
    rig.assert_whole()
    assert done.summary["actions"].get("DEMOTE_CPU"), done.summary
    spares = {event["slot"] for event in done.of("worker_started") if event["reason"] == "demote"}
    assert spares
    assert all(slot.endswith("/cpu") for slot in spares), spares


@pytest.mark.slow  # most of a minute: its lease has to pass; frozen at each step of a put: `test_folder_races`
def test_a_node_that_freezes_past_its_lease_writes_nothing_when_it_wakes(rig: FleetRig) -> None:
    """Its shards are finished elsewhere, and are not overwritten."""
    rig.write_shards(6, 2, 25)
    with rig.started(rig.fleet_command(*SLOW, *OFTEN, "--lease", "5")) as process:
        wait_for(process, "committed")
        pick(lambda: rig.fleet.workers("n3"), process)
        frozen = rig.fleet.processes("n3")
        for one in frozen:
            one.suspend()
        try:
            done = rig.ended(process, SECONDS)
        finally:
            for one in frozen:
                one.resume()
    assert done.code == DONE, told(done)
    before = {path.name: path.read_bytes() for path in rig.out.glob("*.db")}
    psutil.wait_procs(frozen, timeout=30)
    assert {path.name: path.read_bytes() for path in rig.out.glob("*.db")} == before
    rig.fleet.kill_node("n3")
    rig.assert_whole()
