"""`run --ray`: a driver of the user's own, one copy of it on each slot of a cluster, for drivers that divide their work
by themselves.

A copy is told its number and how many there are, and is supervised on its node as on one machine. One that is lost with
its node is started again on another, with the same number: it has to resume where it was, as after a recycle.

Source: DESIGN.md, sections 5 and 7.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from helix_crawl_otel.config import SLOT_VARIABLE, SLOTS_VARIABLE, change_environment, environment
from helix_crawl_otel.console.options import read_common_options
from helix_crawl_otel.console.run_metrics import RunMetrics
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, PAUSED
from helix_crawl_otel.fleet.cluster import Actor, Node
from helix_crawl_otel.fleet.driver import (
    END_SECONDS,
    HEAD_SECONDS,
    NODES_SECONDS,
    START_SECONDS,
    WAIT_SECONDS,
    Nodes,
    hear,
    places_on,
)
from helix_crawl_otel.fleet.host import Speaker, counted, told_of
from helix_crawl_otel.formats import count, duration
from helix_crawl_otel.interrupts import Interrupts
from helix_crawl_otel.logs import logger
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.external import RunJob
from helix_crawl_otel.supervise.lock import FolderLock
from helix_crawl_otel.supervise.run_state import do_what_came
from helix_crawl_otel.supervise.session import RunOptions, Session

__all__ = ["JobFleet", "JobHost"]

"""What a copy finds in its environment: its number, from 0, and how many there are."""

MOST_LOSSES = 5
"""Slots that may be lost with a copy before it has failed."""

OUTPUT = "output.log"
"""In the folder of a copy: what it writes to its standard output and errors."""


class JobHost(Speaker):
    """One copy, in an actor's process on its node. Every method takes and returns JSON.

    Threads: the methods are called from several; the session has a thread of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self._session: Session | None = None
        self._is_paused = False

    def begin(self, text: str) -> str:
        """Start the copy.

        Args:
            text: What `JobFleet` is given, with the copy's own name, number and folder.
        """
        asked = json.loads(text)
        change_environment(asked["environ"])
        threading.Thread(target=self._run, args=(asked,), name="helix-crawl-host", daemon=True).start()
        return "null"

    def tell(self, text: str) -> str:
        """Take the order to pause."""
        self._is_paused = True
        if self._session is not None:
            self._session.pause()
        return "null"

    def _run(self, asked: Mapping[str, Any]) -> None:
        code, reason, totals = FAILED, "", Counter[str]()
        with self._listening():
            try:
                os.chdir(asked["cwd"])
                folder = Path(asked["folder"])
                folder.mkdir(parents=True, exist_ok=True)
                with ExitStack() as stack:
                    stack.enter_context(FolderLock(folder, asked["command"]))
                    self._write_to(folder / OUTPUT)
                    common = read_common_options(argparse.Namespace(**asked["args"]))
                    own = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
                    environ = {**own, **asked["environ"]}
                    metrics = stack.enter_context(RunMetrics(common, asked["name"], "run", folder))
                    metrics.open(None)
                    if metrics.url is not None:
                        self._said.put({"say": "metrics", "url": metrics.url})
                    run_options = RunOptions(
                        config=common.config,
                        folder=folder,
                        encoder="",
                        slots=[(asked["slot"], asked["device"])],
                        environ=environ,
                        keeps_logs=False,
                    )
                    session = stack.enter_context(
                        Session(run_options, metrics.exported, self._emit, lambda: None, metrics.keep)
                    )
                    self._session = session
                    if self._is_paused:
                        code = PAUSED
                    else:
                        run, code = session.supervise(RunJob(asked["argv"], environ, resumes=True))
                        code = FAILED if code == DONE and run.failures else code
                        reason = "; ".join([*run.failures, *(why for _, why in run.endings)]) if code else ""
                        totals["encoded"] = run.totals.encoded
                        totals.update(counted(run))
                    metrics.end(code)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the driver is told
                code, reason = told_of(error)
        self._said.put({"say": "over", "code": code, "reason": reason, "totals": dict(totals)})

    def _emit(self, event: events.Event) -> None:
        self._said.put({"say": "event", "event": event.to_json()})

    @staticmethod
    def _write_to(path: Path) -> None:
        """What the copy writes, which is this process's output, goes to a file that everybody can look at."""
        with path.open("ab") as file:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file.fileno(), stream.fileno())


@dataclass
class _Copy:
    """A copy that runs.

    Args:
        number: From 0.
        place: `NODE/PLACE`.
        node: Where it is.
        actor: Its process.
        heard_at: When it last said anything.
        is_begun: Its process is there.
    """

    number: int
    place: str
    node: Node
    actor: Actor
    heard_at: float
    is_begun: bool = False


class JobFleet:
    """All copies of a driver on a cluster.

    Args:
        cluster: The nodes; it starts `JobHost`s.
        begin: What each copy is told, but for its own; see `JobHost`.
        state: Folder below which each copy has its own.
        on_cards: A slot is a card, where there is one.
        slots: On a node without; `None` for one.
        lease_seconds: Without a word after which a copy is taken for lost.
        emit: Takes events.
        refresh: Called at every turn.
        clock: Seconds.

    Threads: `run` is the main thread's.
    """

    def __init__(
        self,
        cluster: Nodes,
        begin: Mapping[str, Any],
        state: Path,
        *,
        on_cards: bool,
        slots: int | None,
        lease_seconds: float,
        emit: Callable[[events.Event], None],
        refresh: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.totals = Counter[str]()
        self.reasons: dict[int, str] = {}
        self._cluster = cluster
        self._begin = begin
        self._state = state
        self._on_cards = on_cards
        self._slots = slots
        self._lease_seconds = lease_seconds
        self._emit = emit
        self._refresh = refresh
        self._clock = clock
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._places: dict[str, Node] = {}
        self._running: dict[str, _Copy] = {}  # by place
        self._waiting: deque[int] = deque()
        self._losses = Counter[int]()
        self._codes: dict[int, int] = {}
        self._number = 0
        self._looked_at = float("-inf")
        self._ends_at: float | None = None
        self._times = 0

    @property
    def number(self) -> int:
        """Of copies, once it runs."""
        return self._number

    def run(self) -> int:
        """Have all copies come to their end. Returns the exit code."""
        with Interrupts(lambda times: self._inbox.put(partial(self._interrupted, times)), self._clock):
            try:
                self._look_at_nodes()
                self._number = len(self._places)
                self._waiting.extend(range(self._number))
                while (self._running or (self._waiting and self._ends_at is None)) and self._times < 2:
                    self._turn()
            finally:
                for copy in self._running.values():
                    copy.actor.kill()
        if self._times > 1:
            return INTERRUPTED
        codes = {code for code in self._codes.values() if code != DONE}
        if self._waiting or PAUSED in codes:
            return PAUSED if not codes - {PAUSED} else max(codes - {PAUSED})
        return max(codes, default=DONE)

    def _turn(self) -> None:
        do_what_came(self._inbox)
        now = self._clock()
        for copy in list(self._running.values()):
            most = self._lease_seconds if copy.is_begun else max(START_SECONDS, self._lease_seconds)
            if now - copy.heard_at > most:
                self._lost(copy, f"nothing was heard of it for {duration(most)}")
        if now - self._looked_at > NODES_SECONDS:
            self._look_at_nodes()
        if self._ends_at is not None and now > self._ends_at:
            for copy in list(self._running.values()):
                self._lost(copy, "it does not end")
        while self._ends_at is None and self._waiting:
            place = next((place for place in self._places if place not in self._running), None)
            if place is None:
                break
            self._start(self._waiting.popleft(), place)
        if not self._places and not self._running and self._ends_at is None:
            self._ends_at = now
            self.reasons[-1] = "no node is left"
        self._refresh()

    def _interrupted(self, times: int) -> None:
        self._times = times
        self._emit(events.Interrupted(self._clock(), times))
        self._ends_at = self._ends_at or self._clock() + END_SECONDS
        for copy in list(self._running.values()):
            if copy.is_begun:
                copy.actor.call("tell", {"do": "pause"}, lambda told: None)
            else:
                copy.actor.kill()
                del self._running[copy.place]
                self._codes[copy.number] = PAUSED

    def _look_at_nodes(self) -> None:
        self._looked_at = self._clock()
        nodes = self._nodes()
        if nodes is None:
            self._cut_off("the cluster's head does not answer")
            return
        if self._cluster.own_node not in ("", *(node.id for node in nodes)):
            self._cut_off("Ray has ended on the machine where the command was typed")
            return
        has_cards = self._on_cards and any(node.cards for node in nodes)
        self._places = {}
        for node in nodes:
            names = places_on(node, has_cards=has_cards, slots=self._slots)
            self._places |= {f"{node.name}/{name}": node for name in names}
        for copy in list(self._running.values()):
            if all(node.id != copy.node.id for node in nodes):
                self._lost(copy, "its node is gone")

    def _nodes(self) -> list[Node] | None:
        """Those that are alive; `None` where the head does not say."""
        found: list[list[Node]] = []
        thread = threading.Thread(
            target=lambda: found.append(self._cluster.nodes()), name="helix-crawl-nodes", daemon=True
        )
        thread.start()
        thread.join(HEAD_SECONDS)
        return found[0] if found else None

    def _cut_off(self, reason: str) -> None:
        """Nobody is left who could be asked to end."""
        self._ends_at = self._ends_at or self._clock()
        self.reasons[-1] = reason
        for copy in self._running.values():
            self._codes[copy.number] = PAUSED
        self._running.clear()

    def _start(self, number: int, place: str) -> None:
        node = self._places[place]
        is_card = "/cuda:" in place
        actor = self._cluster.start(node, cards=1 if is_card else 0, host=JobHost)
        copy = self._running[place] = _Copy(number, place, node, actor, self._clock())
        begin = {
            **self._begin,
            "slot": f"{number}@{place}",
            "folder": str(self._state / f"slot-{number}"),
            "device": "cuda:0" if is_card else "cpu",
            "environ": {**self._begin["environ"], SLOT_VARIABLE: str(number), SLOTS_VARIABLE: str(self._number)},
        }
        actor.call("begin", begin, self._hear(copy, lambda copy, nothing: self._has_begun(copy)))

    def _has_begun(self, copy: _Copy) -> None:
        copy.is_begun = True
        self._listen(copy)

    def _listen(self, copy: _Copy) -> None:
        copy.actor.call("exchange", {"seconds": WAIT_SECONDS}, self._hear(copy, self._heard))

    def _hear(self, copy: _Copy, step: Callable[[_Copy, Any], None]) -> Callable[[Future[str]], None]:
        def take(content: Any) -> None:
            copy.heard_at = self._clock()
            step(copy, content)

        is_awaited = partial(self._is_running, copy)
        return hear(self._inbox, is_awaited, lost=partial(self._lost, copy), step=take)

    def _is_running(self, copy: _Copy) -> bool:
        return self._running.get(copy.place) is copy

    def _heard(self, copy: _Copy, said: list[dict[str, Any]]) -> None:
        for item in said:
            if item["say"] == "event":
                event = events.event_of(item["event"], t=self._clock(), node=copy.node.name)
                if isinstance(event, (events.ShardStarted, events.Committed, events.ShardEnded)):
                    event = replace(event, shard=f"{copy.number}/{event.shard}")  # two copies may use a name
                self._emit(event)
            elif item["say"] == "log":
                logger.log(item["level"], "%s (%s)", item["text"], copy.place)
            elif item["say"] == "over":
                del self._running[copy.place]
                copy.actor.kill()
                self.totals.update(item["totals"])
                self._codes[copy.number] = item["code"]
                if item["code"]:
                    self.reasons[copy.number] = f"copy {copy.number} on {copy.place}: {item['reason'] or 'it ended'}"
                return
        self._listen(copy)

    def _lost(self, copy: _Copy, why: str) -> None:
        del self._running[copy.place]
        copy.actor.kill()
        self._losses[copy.number] += 1
        again = self._losses[copy.number] < MOST_LOSSES and self._ends_at is None
        if again:
            self._waiting.append(copy.number)
        else:
            self._codes[copy.number] = PAUSED if self._ends_at is not None else FAILED
            lost = count(self._losses[copy.number], "slot")
            self.reasons[copy.number] = f"copy {copy.number} lost {lost}: {why}"
        more = "; it is started again" if again else ""
        text = f"copy {copy.number} on {copy.place} is lost: {why}{more}"
        self._emit(events.WorkerEnded(self._clock(), f"{copy.number}@{copy.place}", "", 0, None, why))
        self._emit(events.Note(self._clock(), "warning", text, node=copy.node.name))
