"""A cluster of several nodes on this machine, each with a card that is modelled, for a `Rig`."""

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

import psutil

from tests.build.processes import MARK
from tests.build.rig import Rig

__all__ = ["FleetRig", "nodes_of"]

CARD = "card:fragment_gib=0.0"
"""A modelled card that is never full."""

OPTIONS = ("--model", "hashing", "--no-metrics", "--fault", CARD)


@dataclass
class FleetRig(Rig):
    """A rig whose builds may go to a cluster.

    Args:
        address: Of the cluster's head.
        cluster: Ray's.
        nodes: Ray's, by name; the first is the head, to which the command's process belongs.
        variables: Of every process of the cluster, and of those that join it.
    """

    options: tuple[str, ...] = OPTIONS
    address: str = ""
    cluster: Any = None
    nodes: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        """See `Rig`."""
        return {**super().environ, **self.variables}

    def fleet_command(self, *more: str) -> list[str]:
        """The command that builds the tree on the cluster."""
        return self.build_command("--ray", self.address, *more)

    def add_node(self, name: str, cards: int = 1, **variables: str) -> None:
        """Another node."""
        with patch.dict(os.environ, {**self.environ, **variables}):
            self.nodes[name] = self.cluster.add_node(
                node_name=name, num_cpus=2, num_gpus=cards, object_store_memory=80 * 1024**2, include_dashboard=False
            )

    def processes(self, name: str) -> list[psutil.Process]:
        """A node's: its raylet, and what that has started, workers of ours included."""
        raylet = psutil.Process(self.nodes[name].all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]

    def workers(self) -> list[int]:
        """The pids of our workers, on all nodes."""
        return self._pids("helix_crawl_otel.build.worker")

    def hosts(self) -> list[int]:
        """The pids of the actors' processes, on all nodes."""
        return self._pids("ray::Host")

    def _pids(self, words: str) -> list[int]:
        found = []
        for name in self.nodes:
            try:
                for process in self.processes(name):
                    if words in " ".join(process.cmdline()):
                        found.append(process.pid)
            except (psutil.Error, KeyError):
                continue
        return found

    def kill_node(self, name: str) -> None:
        """End a node's raylet at once. What hangs on it ends by itself."""
        os.kill(self.nodes[name].all_processes["raylet"][0].process.pid, signal.SIGKILL)


@contextmanager
def nodes_of(rig: FleetRig, names: tuple[str, ...] = ("n1", "n2", "n3")) -> Iterator[FleetRig]:
    """Give a rig a cluster of so many nodes while the block lasts."""
    from ray.cluster_utils import Cluster

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hcr-", dir="/tmp")))
        rig.variables = {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "5000",
            "TMPDIR": str(rig.folder / "tmp"),
            MARK: rig.mark,
        }
        (rig.folder / "tmp" / "ray").mkdir(parents=True, exist_ok=True)  # where a cluster's address is written
        stack.enter_context(patch.dict(os.environ, rig.environ))
        raylet: Any = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")  # Ray has read its variables when it was imported
        head = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 80 * 1024**2, "include_dashboard": False}
        rig.cluster = Cluster(
            initialize_head=True,
            head_node_args={**head, "node_name": names[0], "temp_dir": str(folder), "node_ip_address": "127.0.0.1"},
            shutdown_at_exit=True,
        )
        stack.callback(rig.cluster.shutdown)
        rig.address, rig.nodes = rig.cluster.address, {names[0]: rig.cluster.head_node}
        for name in names[1:]:
            rig.add_node(name)
        yield rig
