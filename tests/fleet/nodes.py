"""A cluster of several nodes on this machine, each with a card that is modelled, and builds on it."""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import psutil

from tests.build.processes import MARK
from tests.build.rig import Rig

__all__ = ["OPTIONS", "FleetNodes", "FleetRig", "nodes_of"]

OPTIONS = (
    *("--model", "hashing", "--no-metrics", "--batch-size", "8"),
    *("--fault", "card:fragment_gib=0.0", "--fault", "clock:rate=20"),
)
"""With a modelled card that is never full, whose first batch takes seconds, of a clock that runs faster."""

NODE = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 1024**2, "include_dashboard": False}

TOKEN = secrets.token_hex(32)
"""Of all clusters of this process: Ray reads it once."""


@dataclass
class FleetNodes:
    """The cluster.

    Args:
        cluster: Ray's.
        variables: Of every process of it, and of those that join it.
        nodes: Ray's, by name; the first is the head, to which the command's process belongs.
        mark: Of its processes, so that they can be found.
    """

    cluster: Any
    variables: dict[str, str]
    nodes: dict[str, Any]
    mark: str

    @property
    def address(self) -> str:
        """Of its head."""
        return str(self.cluster.address)

    def add_node(self, name: str, *, cards: int = 1, **variables: str) -> None:
        """Another node."""
        with patch.dict(os.environ, {**self.variables, **variables}):
            self.nodes[name] = self.cluster.add_node(**{**NODE, "num_gpus": cards}, node_name=name)

    def raylet(self, name: str) -> psutil.Process:
        """Of a node; what runs there hangs on it."""
        return psutil.Process(self.nodes[name].all_processes["raylet"][0].process.pid)

    def processes(self, name: str) -> list[psutil.Process]:
        """A node's, its raylet first."""
        raylet = self.raylet(name)
        return [raylet, *raylet.children(recursive=True)]

    def workers(self, *names: str) -> list[int]:
        """The pids of our workers, on all nodes or some."""
        return self._pids("helix_crawl_otel.build.worker", names)

    def hosts(self, *names: str) -> list[int]:
        """The pids of the actors' processes, likewise."""
        return self._pids("ray::Host", names)

    def _pids(self, words: str, names: tuple[str, ...]) -> list[int]:
        found = []
        for name in names or self.nodes:
            try:
                for process in self.processes(name):
                    if words in " ".join(process.cmdline()):
                        found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def kill_node(self, name: str) -> None:
        """End a node's raylet at once. What hangs on it ends by itself."""
        self.raylet(name).send_signal(signal.SIGKILL)
        node = self.nodes.pop(name)
        self.cluster.remove_node(node, allow_graceful=False)


@dataclass
class FleetRig(Rig):
    """A rig whose builds may go to a cluster."""

    options: tuple[str, ...] = OPTIONS
    fleet: FleetNodes = field(kw_only=True)

    @property
    def environ(self) -> dict[str, str]:
        """See `Rig`."""
        return {**super().environ, **self.fleet.variables, MARK: self.mark}

    def fleet_command(self, *more: str) -> list[str]:
        """The command that builds the tree on the cluster."""
        return self.build_command("--ray", self.fleet.address, *more)

    def assert_whole(self) -> None:
        """What is there is what one machine builds of the tree."""
        found = self.verify()
        assert (found["code"], found["digest"]) == (0, self.undisturbed()["digest"]), found


@contextmanager
def nodes_of(folder: Path, names: tuple[str, ...] = ("n1", "n2", "n3")) -> Iterator[FleetNodes]:
    """A cluster of so many nodes, while the block lasts.

    Args:
        folder: Of the tests.
        names: Of the nodes.
    """
    from ray.cluster_utils import Cluster

    mark = uuid4().hex
    with ExitStack() as stack:
        own = stack.enter_context(tempfile.TemporaryDirectory(prefix="hcr-", dir="/tmp", ignore_cleanup_errors=True))
        (folder / "ray").mkdir()  # where the address of a cluster is written
        variables = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "TMPDIR": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
        stack.enter_context(patch.dict(os.environ, {**variables, MARK: mark}))
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")  # Ray has read its variables when it was imported
        head = {**NODE, "node_name": names[0], "temp_dir": own, "node_ip_address": "127.0.0.1"}
        cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=True)
        stack.callback(cluster.shutdown)
        fleet = FleetNodes(cluster, {**variables, MARK: mark}, {names[0]: cluster.head_node}, mark)
        for name in names[1:]:
            fleet.add_node(name)
        yield fleet
