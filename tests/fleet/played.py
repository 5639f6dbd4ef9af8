"""A cluster without Ray: its slots are hosts in threads of this process, and their workers are real ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from helix_crawl_otel.fleet import run
from helix_crawl_otel.fleet.cluster import Node
from helix_crawl_otel.fleet.host import Host, Speaker

__all__ = ["PlayedActor", "PlayedCluster", "node", "played"]


class Killed(Exception):
    """What is said of an actor that was killed."""


class PlayedActor:
    """See `cluster.Actor`.

    Args:
        host: Its object.
        changes: What it tells of itself in place of the truth, by the name of the method.
    """

    def __init__(self, host: Any, changes: dict[str, Callable[[Any], Any]]) -> None:
        self.host = host
        self.is_dead = False
        self.is_frozen = threading.Event()
        self._changes = changes
        self._threads = ThreadPoolExecutor(8)
        self._open: list[tuple[Future[str], Callable[[Future[str]], object]]] = []

    def call(self, method: str, content: object, then: Callable[[Future[str]], object]) -> None:
        """Call it in a thread."""
        told: Future[str] = Future()
        told.add_done_callback(then)
        if self.is_dead:
            told.set_exception(Killed("it was killed"))
            return
        self._open.append((told, then))

        def work() -> None:
            try:
                answer = getattr(self.host, method)(json.dumps(content))
                if method in self._changes:
                    answer = json.dumps(self._changes[method](json.loads(answer)))
            except Exception as error:  # noqa: BLE001 - as Ray does
                self._end(told, error=error)
            else:
                if not self.is_frozen.is_set():
                    self._end(told, answer)

        self._threads.submit(work)

    def _end(self, told: Future[str], answer: str = "", error: Exception | None = None) -> None:
        if not told.done():
            if error is None:
                told.set_result(answer)
            else:
                told.set_exception(error)

    def kill(self) -> None:
        """End it, as far as a thread can be: its worker is ended, and nothing is put any more."""
        self.is_dead = True
        if isinstance(self.host, Host):
            self.host._tasks.put(None)
        session = self.host._session
        if session is not None and session._supervisor is not None:
            for slot in session._supervisor.slots:
                slot.abandon()
        self.host.tell(json.dumps({"do": "pause"}))
        for told, _ in self._open:
            self._end(told, error=Killed("it was killed"))
        self._threads.shutdown(wait=False)


@dataclass
class PlayedCluster:
    """See `cluster.Cluster`.

    Args:
        machines: Its nodes; may be changed while it runs.
        changes: See `PlayedActor`, by the node's name.
    """

    machines: list[Node]
    changes: dict[str, dict[str, Callable[[Any], Any]]] = field(default_factory=dict)
    actors: dict[str, list[PlayedActor]] = field(default_factory=dict)
    own_node: str = ""
    dies: set[tuple[str, int]] = field(default_factory=set)
    """Nodes and the numbers of their actors, from 1, which end as they begin."""

    def nodes(self) -> list[Node]:
        """See there."""
        return list(self.machines)

    def start(self, node: Node, *, cards: float, host: type[Speaker] = Host) -> PlayedActor:
        """See there."""
        others = self.actors.setdefault(node.name, [])
        changes = self.changes.get(node.name, {})
        if (node.name, len(others) + 1) in self.dies:
            changes = {**changes, "begin": _fail}
        others.append(PlayedActor(host(), changes))
        return others[-1]


def _fail(told: Any) -> Any:
    raise Killed("it ended as it began")


def node(name: str, cards: int = 1) -> Node:
    """One with a card, if it is not said otherwise."""
    return Node(f"id-{name}", name, "127.0.0.1", cards, 2)


@contextmanager
def played(*machines: Node, **changes: dict[str, Callable[[Any], Any]]) -> Iterator[PlayedCluster]:
    """Commands with `--ray auto` get this cluster while the block lasts."""
    cluster = PlayedCluster(list(machines), changes)

    @contextmanager
    def joined(address: str, *, cards: int | None = None) -> Iterator[PlayedCluster]:
        yield cluster

    with (
        patch.object(run, "connected", joined),
        patch.object(run, "check_cluster", lambda address: None),
        patch("helix_crawl_otel.fleet.cluster.check_cluster", lambda address: None),
    ):
        yield cluster
