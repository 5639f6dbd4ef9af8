"""Workers, actors, raylets and the driver are killed at random: nothing is lost, doubled or of another model."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time

import pytest

from helix_crawl_otel.exit_codes import DONE
from tests.fleet.nodes import FleetRig

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(3600)]

SECONDS = 300.0


def strike(rig: FleetRig, what: str, chance: random.Random, process: subprocess.Popen[bytes]) -> bool:
    """Kill one of them. Returns whether there was one."""
    if what == "driver":
        process.kill()
        return True
    if what == "node":
        name = chance.choice([name for name in rig.fleet.nodes if name != "n1"] or [""])
        if name:
            rig.fleet.kill_node(name)
        return bool(name)
    pids = rig.fleet.workers() if what == "worker" else rig.fleet.hosts()
    if not pids:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(pids), signal.SIGKILL)
    return True


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random(rig: FleetRig, kills: int) -> None:
    """A build that comes to its end before all of them have struck is whole, and begins anew."""
    chance = random.Random(kills)
    rig.write_shards(8, 2, 25)
    command = rig.fleet_command("--fault", "slow:seconds=6", "--checkpoint", "1", "--lease", "20")
    # Each kind once, then by chance.
    kinds = ["worker", "host", "node", "driver"]
    plan = chance.sample(kinds, 4) + [chance.choice(kinds) for _ in range(kills)]
    struck = 0
    while True:
        with rig.started(command) as process:
            while process.poll() is None and struck < kills:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(1.0, 5.0))
                if process.poll() is None and rig.fleet.workers() and strike(rig, plan[struck], chance, process):
                    struck += 1
                    for name in {"n2", "n3"} - set(rig.fleet.nodes):
                        rig.fleet.add_node(name)
            was_killed = process.poll() is not None and process.returncode == -signal.SIGKILL
            done = rig.ended(process, SECONDS)
        if was_killed or done.code == -signal.SIGKILL:
            continue
        assert done.code == DONE, (done.errors, [event["text"] for event in done.of("note")], done.summary)
        rig.assert_whole()
        if struck == kills:
            break
        shutil.rmtree(rig.out)
    deadline = time.monotonic() + SECONDS
    while rig.fleet.workers() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert rig.fleet.workers() == []
