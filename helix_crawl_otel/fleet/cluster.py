"""Ray, as far as this package uses it: which nodes there are, and a process on one of them for each slot.

Ray is imported here alone, and late. It places processes and tells when one is gone; nothing that is encoded, and no
object of ours, goes through it: arguments and results are JSON. It serves nothing to be looked at, sends no statistics
home, and its log stays in its own folder.

Source: docs.ray.io, "Actors", "Fault tolerance", "Ray token authentication".
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from helix_crawl_otel.config import NOTIFY_VARIABLE, change_environment, environment
from helix_crawl_otel.exit_codes import Refusal
from helix_crawl_otel.fleet.host import Host, Speaker
from helix_crawl_otel.interrupts import Interrupts, PausedEarly

__all__ = ["AUTO", "LOCAL", "Actor", "Cluster", "ClusterError", "Node", "check_cluster", "connected"]

AUTO, LOCAL = "auto", "local"

KNOCK_SECONDS = 5.0
"""For a head to take a connection, and to answer."""

OBJECT_STORE_BYTES = 80 * 1024**2
"""The least that Ray takes: nothing of ours is in it."""

NOT_JOINED = (
    "--ray is auto, but this machine has joined no cluster; accepted: after `ray start --address=HEAD:PORT` here, "
    "HOST:PORT of the head, or local"
)

INTERRUPTED_EARLY = "interrupted while Ray started; nothing was begun, and the same command begins it"

_FRAME = b"\0\0\0\4\0\0\0\0\0"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _FRAME
"""What a client of gRPC says first, and the frame (of settings) that the server answers with."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")

_OF_LOCAL = {
    # As on one machine; Ray's default is 15, so that whatever else runs here is served first.
    "RAY_worker_niceness": "0",
    # Every port on loopback; the name is of the systems where that is Ray's default.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # No process that waits for work which never comes.
    "RAY_prestart_worker_first_driver": "0",
    # And nobody on this machine can join: the token is in no file.
    "RAY_AUTH_MODE": "token",
}


class ClusterError(Refusal):
    """There is no such cluster, or it will not have us; one sentence."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Args:
        id: Ray's.
        name: For people: as it was named, else its host's name; each once.
        address: Where others reach it.
        cards: GPUs that it has, as Ray counts them.
        cores: CPUs likewise.
    """

    id: str
    name: str
    address: str
    cards: int
    cores: int


def check_cluster(address: str) -> None:
    """Find out in a moment what can be known to fail, before anything else is looked at.

    Raises:
        ClusterError: It is no address, nobody is there, or Ray is not installed.
    """
    found = _ADDRESS.fullmatch(address)
    if address not in (AUTO, LOCAL) and not (found and 0 < int(found[2]) < 65536):
        raise ClusterError(
            f"--ray is {address!r}; accepted: auto (the cluster that this machine has joined), HOST:PORT of its head, "
            "or local (one is started on this machine, and ended)"
        )
    if importlib.util.find_spec("ray") is None:
        raise ClusterError(
            "--ray needs Ray, which is not installed; `pip install 'helix-crawl-otel[ray]'` brings it; on one machine "
            "--workers needs none"
        )
    if address == LOCAL:
        return
    at = _joined() if address == AUTO else address
    if at is None or (why := _knock(at)) is None:
        return
    if address == AUTO:
        raise ClusterError(f"{NOT_JOINED}; the last one was at {at}: {why}")
    raise ClusterError(
        f"--ray is {address!r}, but no cluster is there: {why}; accepted: the address that `ray start --head` has "
        "printed, auto on a machine that has joined a cluster, or local"
    )


class Actor:
    """A process of the cluster that hosts a slot.

    Args:
        handle: Ray's.
        kill: Ends it.

    Threads: any.
    """

    def __init__(self, handle: Any, kill: Callable[[Any], object]) -> None:
        self._handle = handle
        self._kill = kill

    def call(self, method: str, content: object, then: Callable[[Future[str]], object]) -> None:
        """Call one of its methods with JSON; `then` gets the answer, in a thread of Ray's, or what went wrong."""
        ref = getattr(self._handle, method).remote(json.dumps(content))
        ref.future().add_done_callback(then)

    def kill(self) -> None:
        """End it at once, with all that it has started."""
        with contextlib.suppress(Exception):  # whatever Ray makes of a node that is gone
            self._kill(self._handle)


class Cluster:
    """A cluster that this process has joined. Made by `connected`.

    Args:
        ray: The module.
        address: As it was typed.

    Attributes:
        own_node: The id of this machine's node. Without it no call of Ray's comes back.

    Threads: any.
    """

    def __init__(self, ray: Any, address: str) -> None:
        self._ray = ray
        self.address = address
        self.own_node = str(ray.get_runtime_context().get_node_id())
        self._names: dict[str, str] = {}  # by Ray's id: a node keeps its name

    def nodes(self) -> list[Node]:
        """Those that are alive. May hang for as long as the head does not answer."""
        found = sorted((row for row in self._ray.nodes() if row["Alive"]), key=lambda row: str(row["NodeID"]))
        wanted = {row["NodeID"]: _name(row) for row in found}
        times = Counter(wanted.values())
        for node, name in wanted.items():
            taken = {other for known, other in self._names.items() if known != node}
            is_alone = times[name] == 1 and name not in taken
            self._names.setdefault(node, name if is_alone else f"{name}-{node[:4]}")
        return [
            Node(
                row["NodeID"],
                self._names[row["NodeID"]],
                row["NodeManagerAddress"],
                int(row["Resources"].get("GPU", 0)),
                int(row["Resources"].get("CPU", 0)),
            )
            for row in found
        ]

    def start(self, node: Node, *, cards: float, host: type[Speaker] = Host) -> Actor:
        """Have a process started on a node, with a card or a part of one, or with a CPU."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        made = self._ray.remote(host).options(
            num_cpus=0 if cards else min(1, node.cores),
            num_gpus=cards,
            max_concurrency=4,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        return Actor(made.remote(), lambda handle: self._ray.kill(handle, no_restart=True))


def _name(row: dict[str, Any]) -> str:
    given, address = str(row.get("NodeName") or ""), str(row["NodeManagerAddress"])
    name = given if given and given != address else str(row.get("NodeManagerHostname") or address)
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


@contextmanager
def connected(address: str, *, cards: int | None = None) -> Iterator[Cluster]:
    """Join a cluster; `local` starts one, and ends it with the block.

    Args:
        address: `auto`, `local` or `HOST:PORT`.
        cards: That `local` is to have; `None` for what Ray finds.

    Raises:
        ClusterError: It is not there, is of other versions, or Ray is not installed.
        PausedEarly: An interrupt came meanwhile. Ray cannot be stopped halfway, so it is ended once it has started.

    Threads: the main thread's.
    """
    heard: SimpleQueue[int] = SimpleQueue()
    change_environment({"RAY_USAGE_STATS_ENABLED": environment().get("RAY_USAGE_STATS_ENABLED", "0")})
    with contextlib.ExitStack() as stack:
        more: dict[str, Any] = {}
        if address == LOCAL:
            folder = Path(tempfile.mkdtemp(prefix="hcr-", dir=_short_folder()))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            stack.enter_context(_environment({**_OF_LOCAL, "RAY_AUTH_TOKEN": secrets.token_hex(32)}))
            more = {
                "include_dashboard": False,
                "num_gpus": cards,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": str(folder),
            }
        stack.enter_context(Interrupts(heard.put))
        ray = _imported()
        try:
            with _quiet():
                ray.init(address, log_to_driver=False, configure_logging=False, runtime_env=None, **more)
        except Exception as error:  # noqa: BLE001 - of many kinds, and each is told in one sentence
            if not heard.empty():
                raise PausedEarly(INTERRUPTED_EARLY) from None
            raise ClusterError(_why_not(address, error)) from None
        except SystemExit:  # its handler of SIGTERM, which has ended what it had started
            raise PausedEarly(INTERRUPTED_EARLY) from None
        stack.callback(ray.shutdown)
        stack.enter_context(Interrupts(heard.put))  # Ray has laid a handler of its own over it
        if not heard.empty():
            raise PausedEarly(INTERRUPTED_EARLY)
        yield Cluster(ray, address)


def _short_folder() -> str | None:
    """Sockets lie in it, whose paths may have some hundred letters."""
    return "/tmp" if sys.platform != "win32" and os.access("/tmp", os.W_OK) else None


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """What the processes of a local cluster are started with; a secret of ours is no affair of theirs."""
    before = change_environment({**values, NOTIFY_VARIABLE: None})
    try:
        yield
    finally:
        change_environment(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """What Ray writes past Python's log, while it tries to join, is kept from the terminal: the error says it too."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _imported() -> Any:
    """Ray, which is to say nothing by itself. It sets up its log when it is imported."""
    import ray

    logging.getLogger("ray").setLevel(logging.CRITICAL)
    return ray


def _knock(address: str) -> str | None:
    """Why no head is there, `None` where one may be. Ray itself tries for minutes, and heeds no interrupt meanwhile."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS) as connection:
            if environment().get("RAY_USE_TLS", "0") == "0":  # else only Ray has the keys to go on
                connection.settimeout(KNOCK_SECONDS)
                connection.sendall(_HELLO)
                if connection.recv(len(_FRAME))[3:4] != _FRAME[3:4]:
                    return "what answers there is no head of Ray"
    except TimeoutError:
        return "it does not answer"
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _joined() -> str | None:
    """Address of the cluster that this machine has joined, `None` where only Ray's own way to join one will tell.

    Raises:
        ClusterError: It has joined none.
    """
    _imported()
    services = importlib.import_module("ray._private.services")
    try:
        found = services.get_ray_address_from_environment(AUTO, None)
    except ConnectionError:
        raise ClusterError(NOT_JOINED) from None
    except Exception:  # noqa: BLE001 - it is Ray's own way to find out, and may be another one in the next version
        return None
    if found is None:
        raise ClusterError(NOT_JOINED)
    return str(found)


def _why_not(address: str, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "ersion mismatch" in text:
        return f"--ray is {address!r}, a cluster of other versions than here: {text}"
    if isinstance(error, ConnectionError) and address == AUTO:
        return NOT_JOINED
    if "uthent" in text:
        return f"--ray is {address!r}, a cluster that asks for a token which this machine does not have: {text}"
    return f"--ray is {address!r}, and Ray cannot join that cluster ({type(error).__name__}): {text[:400]}"
