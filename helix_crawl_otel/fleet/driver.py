"""Where the command was typed: gives the shards of a run to the slots of a cluster, hears what becomes of them, and
shows all of it as one run.

One thread decides; what slots say and what signals come are put into its queue. A slot is a process on a node, which
may go at any moment, and the node with it: its shards go to others, and it is begun again where its node still is.

Source: DESIGN.md, sections 3.3, 5 and 7.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol
from urllib.parse import urlsplit

from helix_crawl_otel.build.job import ShardWork
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, NEVER, PAUSED, Refusal
from helix_crawl_otel.fleet.cluster import Actor, Node
from helix_crawl_otel.fleet.host import Host, Speaker
from helix_crawl_otel.fleet.index import IndexedFiles
from helix_crawl_otel.fleet.placement import PlacedShard, Placement, SlotKind
from helix_crawl_otel.fleet.storage import Storage, StorageError
from helix_crawl_otel.formats import count, duration
from helix_crawl_otel.interrupts import Interrupts
from helix_crawl_otel.logs import logger
from helix_crawl_otel.paths import STATE_FOLDER
from helix_crawl_otel.policy.codec import encode
from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.rules import backoff_seconds
from helix_crawl_otel.supervise.run_state import do_what_came

__all__ = ["Fleet", "FleetRefused", "Ladders", "Nodes", "RunFacts", "hear", "places_on"]

NODES_SECONDS = 2.0
"""Between two looks at the nodes."""

WAIT_SECONDS = 2.0
"""That a slot with nothing to tell waits before it says so: its sign of life."""

START_SECONDS = 120.0
"""For a process of a slot to start and to look around. One that waits for its card that long is told of, and comes
when it comes, as long as others are there."""

HEAD_SECONDS = 30.0
"""Without an answer from the head after which the run ends: Ray itself would end this process after a minute."""

END_SECONDS = 60.0
"""For a slot to put back what it has, and to end."""

MOST_STARTS = 5
"""Of a slot, one after the other, that came to nothing."""

SAVE_SECONDS = 5.0


class FleetRefused(Refusal):
    """The nodes cannot work together. The message says what differs, or what one of them lacks."""


class Nodes(Protocol):
    """What a fleet needs of a cluster.

    Attributes:
        own_node: The id of this machine's, empty where nobody knows.
    """

    own_node: str

    def nodes(self) -> list[Node]:
        """Those that are alive."""

    def start(self, node: Node, *, cards: float, host: type[Speaker] = Host) -> Actor:
        """Have a slot's process started there."""


class Ladders:
    """The rungs and baselines of the shards, between slots and between runs, in the file that one machine keeps too.

    Args:
        storage: Where the shards live.
        files: Of the shards, by name.
        encoder: Of the baselines; what another one has shown is not taken.
    """

    FILE = f"{STATE_FOLDER}/ladder.json"

    def __init__(self, storage: Storage, files: Mapping[str, str], encoder: str) -> None:
        self._storage = storage
        self._keys = {shard: Path(file).stem for shard, file in files.items()}
        self._content: dict[str, Any] = {"version": 1, "encoder": encoder, "shards": {}}
        self._content |= {"cards": {"cards": {}, "early": {}}, "costs": {}}
        self._slots: dict[str, str] = {}
        self._has_changed = False
        found = storage.read(self.FILE)
        if found is not None:
            try:
                content = json.loads(found[0])
                if content["version"] == 1 and content["encoder"] == encoder and isinstance(content["shards"], dict):
                    self._content = content
            except (ValueError, KeyError, TypeError):
                logger.warning("%s cannot be read; every shard starts on rung 0", storage.where(self.FILE))

    def of(self, shard: str, slot: str) -> Mapping[str, Any] | None:
        """What a slot has to know of a shard: another card has another baseline."""
        known: dict[str, Any] | None = self._content["shards"].get(self._keys[shard])
        if known is not None and self._slots.get(shard) != slot:
            return {**known, "unit": "", "meters": {}}
        return known

    def is_demoted(self, shard: str) -> bool:
        """Whether it has to be finished on the CPU."""
        known = self._content["shards"].get(self._keys[shard])
        return known is not None and known.get("rung") == 3 and ActionKind.DEMOTE_CPU.value not in known["refused"]

    def put(self, shard: str, slot: str, ladder: Mapping[str, Any] | None) -> None:
        """A slot tells of a shard."""
        if ladder is not None:
            self._content["shards"][self._keys[shard]] = ladder
            self._slots[shard], self._has_changed = slot, True

    def save(self) -> None:
        """Write it, if it has changed. Raises `StorageError`."""
        if self._has_changed:
            self._storage.write(self.FILE, json.dumps(self._content).encode())
            self._has_changed = False


@dataclass(frozen=True)
class RunFacts:
    """What holds for a whole run.

    Args:
        begin: What each slot is told at its beginning, but for its own name and place.
        describe: What each is asked before.
        facts: What is alike on all nodes, as it is here; see `host.facts_of`.
        encoder: Of the baselines.
        files: Of the shards in the storage, by name.
        on_cards: Slots are cards where there are any.
        slots: On a node without cards; or that share its cards.
        lease_seconds: See `Placement`.
        linger_seconds: That a slot may wait at its end for who looks at its metrics.
    """

    begin: Mapping[str, Any]
    describe: Mapping[str, Any]
    facts: Mapping[str, str]
    encoder: str
    files: Mapping[str, str]
    on_cards: bool
    slots: int | None
    lease_seconds: float
    linger_seconds: float


@dataclass
class _Slot:
    """A process of a slot.

    Args:
        name: `NODE/PLACE`.
        node: Where it is.
        kind: What it takes.
        actor: Ray's process.
        since: When it was begun.
        told: What it has told of its node, once it has.
        is_begun: It takes shards.
        leaves: It pauses by itself, and gets nothing more.
        is_over: It has said that it ends.
        ended_at: When it was told to end.
        metrics: Where its metrics are served.
    """

    name: str
    node: Node
    kind: SlotKind
    actor: Actor
    since: float
    told: Mapping[str, Any] | None = None
    is_begun: bool = False
    leaves: bool = False
    is_over: bool = False
    metrics: str = ""


@dataclass
class ShardResult:
    """What has become of a shard.

    Args:
        work: As it was planned.
        state: As of `ShardWork`.
        reason: Why it failed.
        encoded: Genes that got a vector in this run, and are kept.
        kept: Those among them that the slot which has it now has put.
        problems: Sources that cannot be read.
        is_begun: There is a file of it.
    """

    work: ShardWork
    state: str = "pending"
    reason: str = ""
    encoded: int = 0
    kept: int = 0
    problems: int = 0
    is_begun: bool = False


class Fleet:
    """One run on a cluster.

    Args:
        cluster: The nodes.
        storage: Where the shards live.
        works: What there is to do.
        facts: Of the run.
        index: Is told of shards that are done.
        emit: Takes events.
        refresh: Called at every turn.
        clock: Seconds.

    Threads: `run` is the main thread's.
    """

    def __init__(
        self,
        cluster: Nodes,
        storage: Storage,
        works: Sequence[ShardWork],
        facts: RunFacts,
        index: IndexedFiles,
        emit: Callable[[events.Event], None],
        refresh: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.results = {work.assignment.shard: ShardResult(work) for work in works}
        self.totals = Counter[str]()
        self.reason = ""
        self.slots: dict[str, _Slot] = {}
        self._cluster = cluster
        self._storage = storage
        self._facts = facts
        self._index = index
        self._emit = emit
        self._refresh = refresh
        self._clock = clock
        self._ladders = Ladders(storage, facts.files, facts.encoder)
        self._placement = Placement([self._placed(work) for work in works], facts.lease_seconds)
        self._inbox: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._nodes: list[Node] = []
        self._asks_nodes = False
        self._asked_at = self._answered_at = self._saved_at = self._told_at = clock()
        self._starts: dict[str, tuple[int, float]] = {}  # of slots that came to nothing: how many, and when again
        self._is_admitted = False
        self._code: int | None = None  # once the run ends early
        self._ends_at: float | None = None
        self._has_insisted = False
        self._targets: dict[str, Any] = {}
        self.placed_seconds: list[tuple[str, float]] = []

    def _placed(self, work: ShardWork) -> PlacedShard:
        size = work.expected if work.pending is None else work.pending
        name = work.assignment.shard
        return PlacedShard(name, float(size or 0), is_demoted=self._ladders.is_demoted(name))

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Bring the shards to their end. Returns the exit code, as far as the slots decide it.

        Raises:
            FleetRefused: The nodes cannot work together; nothing was begun.
        """
        with Interrupts(lambda times: self._inbox.put(partial(self._interrupted, times)), self._clock):
            try:
                while not self._is_over():
                    self._turn()
            finally:
                for slot in list(self.slots.values()):
                    slot.actor.kill()
                self._save(at_end=True)
        if self._has_insisted:
            return INTERRUPTED
        if self._code is not None:
            return self._code
        return FAILED if any(result.state == "failed" for result in self.results.values()) else DONE

    def _is_over(self) -> bool:
        if self._has_insisted:
            return True
        if self._ends_at is None:
            if not self._placement.is_over:
                return False
            self._end("end")
        now = self._clock()
        assert self._ends_at is not None
        if now > self._ends_at:
            for slot in [slot for slot in self.slots.values() if not slot.is_over]:
                self._lost(slot, "it does not end")
        return all(slot.is_over for slot in self.slots.values())

    def _end(self, order: str) -> None:
        """Have all slots end: with what they have, or after they have put it back."""
        self._ends_at = self._clock() + END_SECONDS + self._facts.linger_seconds
        for slot in list(self.slots.values()):
            if slot.is_begun:
                self._order(slot, {"do": order})
            else:
                self._forget(slot)

    def _turn(self) -> None:
        do_what_came(self._inbox)
        now = self._clock()
        for name in self._placement.silent(now):
            quiet = duration(self._facts.lease_seconds)
            self._lost(self.slots[name], f"nothing was heard of it for {quiet}, the time of its lease")
        self._look_at_starts(now)
        self._look_at_nodes(now)
        if self._ends_at is None:
            self._admit(now)
            for name in self._placement.slots:
                self._feed(self.slots[name])
        if now - self._saved_at > SAVE_SECONDS:
            self._saved_at = now
            self._save()
        self._refresh()

    def _interrupted(self, times: int) -> None:
        self._emit(events.Interrupted(self._clock(), times))
        if times > 1:
            self._has_insisted = True
        elif self._ends_at is None:
            self._stop(PAUSED, "")

    def _stop(self, code: int, reason: str) -> None:
        """The run ends before its work is done."""
        self._code = self._code or code
        self.reason = self.reason or reason
        if self._ends_at is None:
            self._end("pause")

    def _save(self, *, at_end: bool = False) -> None:
        try:
            self._index.save()
            self._ladders.save()
        except StorageError as error:
            (logger.warning if at_end else logger.info)("not kept: %s", error)

    # -- nodes and their slots ----------------------------------------------------------------------------------------

    def _look_at_nodes(self, now: float) -> None:
        """Ask the head which nodes there are, in a thread of its own: of one that is gone no answer comes."""
        if self._asks_nodes:
            if now - self._answered_at > HEAD_SECONDS and self._code is None:
                self._cut_off("the cluster's head does not answer")
            return
        if now - self._asked_at < NODES_SECONDS and self._nodes:
            return
        self._asked_at, self._asks_nodes = now, True
        threading.Thread(target=self._ask_nodes, name="helix-crawl-nodes", daemon=True).start()

    def _cut_off(self, reason: str) -> None:
        """Nobody is left who could be asked to end: Ray ends what hangs on this process."""
        self._code, self.reason = PAUSED, reason
        self._ends_at = self._clock()
        for slot in self.slots.values():
            slot.is_over = True

    def _ask_nodes(self) -> None:
        try:
            nodes = self._cluster.nodes()
        except Exception:  # noqa: BLE001 - of many kinds; who waits for the answer tells
            return
        self._inbox.put(partial(self._see_nodes, nodes))

    def _see_nodes(self, nodes: list[Node]) -> None:
        now = self._clock()
        self._nodes, self._asks_nodes, self._answered_at = nodes, False, now
        alive = {node.id for node in nodes}
        if self._cluster.own_node not in ("", *alive) and self._ends_at is None:
            self._cut_off("Ray has ended on the machine where the command was typed")
            return
        for slot in list(self.slots.values()):
            if slot.node.id not in alive and not slot.is_over:
                self._lost(slot, "its node is gone")
        if self._ends_at is not None:
            return
        for node, place, kind in self._wanted():
            name = f"{node.name}/{place}"
            failed, again_at = self._starts.get(name, (0, now))
            if name not in self.slots and failed < MOST_STARTS and now >= again_at:
                self._start(name, node, kind)
        if not self.slots and self._is_admitted:
            can_come = [name for name, (failed, _) in self._starts.items() if failed < MOST_STARTS]
            if not can_come or not nodes:
                self._stop(PAUSED, "no slot is left that could go on")

    def _wanted(self) -> list[tuple[Node, str, SlotKind]]:
        has_cards = self._facts.on_cards and any(node.cards for node in self._nodes)
        wanted = []
        for node in self._nodes:
            places = places_on(node, has_cards=has_cards, slots=self._facts.slots)
            wanted += [(node, place, SlotKind.HOME) for place in places]
        if has_cards:
            missing = self._placement.wants_spares
            free = [node for node in self._nodes if f"{node.name}/cpu" not in self.slots]
            # Where nothing is on a card the cores are free.
            free.sort(key=lambda node: (node.cards, node.name))
            wanted += [(node, "cpu", SlotKind.SPARE) for node in free[:missing] if node.cores]
        return wanted

    def _start(self, name: str, node: Node, kind: SlotKind) -> None:
        is_card = kind is SlotKind.HOME and self._facts.on_cards and node.cards > 0
        slot = _Slot(name, node, kind, self._cluster.start(node, cards=1 if is_card else 0), self._clock())
        self.slots[name] = slot
        slot.actor.call("describe", self._facts.describe, self._hear(slot, self._described))

    def _hear(self, slot: _Slot, step: Callable[[_Slot, Any], None]) -> Callable[[Future[str]], None]:
        """Takes an answer of a slot's process to the thread that decides, unless the slot is another one by then."""
        return hear(
            self._inbox,
            lambda: self.slots.get(slot.name) is slot,
            lost=partial(self._lost, slot),
            step=partial(step, slot),
        )

    def _order(self, slot: _Slot, order: Mapping[str, Any]) -> None:
        slot.actor.call("tell", order, self._hear(slot, lambda slot, nothing: None))

    def _described(self, slot: _Slot, told: Mapping[str, Any]) -> None:
        slot.told = told

    def _admit(self, now: float) -> None:
        """Have those begin that have told of their nodes; at first not before all have."""
        told = [slot for slot in self.slots.values() if slot.told is not None and not slot.is_begun]
        if not self._is_admitted:
            is_late = bool(self.slots) and now - min(slot.since for slot in self.slots.values()) > START_SECONDS
            if not told or (len(told) < len(self.slots) and not is_late):
                return
            troubles = [text for slot in told for text in self._troubles(slot)]
            if troubles:
                raise FleetRefused("; ".join(dict.fromkeys(troubles)))
            self._is_admitted = True
        for slot in told:
            if troubles := self._troubles(slot):
                self._warn(f"{slot.name} is left out: {'; '.join(troubles)}")
                self._starts[slot.name] = MOST_STARTS, now
                self._forget(slot)
            else:
                self._begin(slot)

    def _troubles(self, slot: _Slot) -> list[str]:
        assert slot.told is not None
        node = slot.node.name
        if slot.told["troubles"]:
            return [f"{node}: {text}" for text in slot.told["troubles"]]
        there = slot.told["facts"]
        other = [
            f"{name} is {there.get(name)} on {node}, and {here} where the command was typed"
            for name, here in self._facts.facts.items()
            if there.get(name) != here
        ]
        return [f"{'; '.join(other)}; accepted: the same on all, for others make other vectors"] if other else []

    def _begin(self, slot: _Slot) -> None:
        on_node = [other for other in self.slots.values() if other.node.id == slot.node.id and other.kind is slot.kind]
        begin = {
            **self._facts.begin,
            "slot": slot.name,
            "node": slot.node.name,
            "place": slot.name.rpartition("/")[2].replace(":", "-").replace("#", "-"),
            "card": slot.kind is SlotKind.HOME and self._facts.on_cards and slot.node.cards > 0,
            "is_spare": slot.kind is SlotKind.SPARE,
            "neighbours": len(on_node),
        }
        slot.is_begun = True
        slot.actor.call("begin", begin, self._hear(slot, self._has_begun))

    def _has_begun(self, slot: _Slot, told: Mapping[str, Any]) -> None:
        now = self._clock()
        text = f"{slot.name} on {told['device']} ({told['why']})"
        self._emit(events.Note(now, "info", text, node=slot.node.name))
        for warning in told["warnings"]:
            self._warn(f"{slot.name}: {warning}", node=slot.node.name)
        if self._ends_at is not None:
            self._order(slot, {"do": "pause"})
        self._placement.add_slot(slot.name, slot.kind, on_card=told["device"] != "cpu", now=now)
        self._listen(slot)

    def _listen(self, slot: _Slot) -> None:
        slot.actor.call("exchange", {"seconds": WAIT_SECONDS}, self._hear(slot, self._heard))

    def _look_at_starts(self, now: float) -> None:
        for slot in list(self.slots.values()):
            if slot.name not in self._placement.slots and not slot.is_over and now - slot.since > START_SECONDS:
                self._lost(slot, f"it has not started within {duration(START_SECONDS)}: is its card or CPU taken?")

    def _lost(self, slot: _Slot, why: str) -> None:
        """A slot's process is gone, or is taken for gone: others have its shards."""
        now = self._clock()
        begun = self.slots.get(slot.name) is slot and slot.name in self._placement.slots
        lost = self._placement.lose_slot(slot.name) if begun else []
        self._forget(slot)
        failed, _ = self._starts.get(slot.name, (0, 0.0))
        self._starts[slot.name] = failed + 1, now + backoff_seconds(min(failed + 1, 6))
        if slot.is_over or self._has_insisted:
            return
        names = ", ".join(shard.name for shard in lost)
        went = "" if not lost else f"; {names} {'goes' if len(lost) == 1 else 'go'} on from what was put last"
        self._emit(events.WorkerEnded(now, slot.name, "", 0, None, why, node=slot.node.name))
        self._warn(f"{slot.name} is lost: {why}{went}", node=slot.node.name)
        for shard in lost:
            self._keep(self.results[shard.name])
            if shard.is_over:
                self._fail(shard.name, f"{count(shard.losses, 'slot')} ended one after the other with it: {why}")
            else:
                self.results[shard.name].state = "pending"
                self._emit(events.ShardEnded(now, shard.name, "paused", 0, "", node=slot.node.name))

    def _forget(self, slot: _Slot) -> None:
        slot.actor.kill()
        if self.slots.get(slot.name) is slot:
            del self.slots[slot.name]
        if self._targets.pop(slot.name, None) is not None:
            self._write_targets()

    # -- shards -------------------------------------------------------------------------------------------------------

    def _feed(self, slot: _Slot) -> None:
        while not slot.leaves and (shard := self._placement.next_for(slot.name)) is not None:
            result = self.results[shard.name]
            result.state = "running"
            order = {
                "do": "give",
                "file": self._facts.files[shard.name],
                "assignment": encode(result.work.assignment),
                "pending": result.work.pending,
                "quarantined": result.work.quarantined,
                "is_demoted": shard.is_demoted,
                "ladder": self._ladders.of(shard.name, slot.name),
            }
            self._order(slot, order)

    def _heard(self, slot: _Slot, said: list[dict[str, Any]]) -> None:
        self._placement.heard(slot.name, self._clock())
        for item in said:
            self._take(slot, item)
        if self.slots.get(slot.name) is slot and not slot.is_over:
            self._listen(slot)
            if self._ends_at is None:
                self._feed(slot)

    def _take(self, slot: _Slot, item: Mapping[str, Any]) -> None:
        kind = item["say"]
        if kind == "event":
            self._emit(events.event_of(item["event"], t=self._clock(), node=slot.node.name))
        elif kind == "log":
            logger.log(item["level"], "%s (%s)", item["text"], slot.name)
        elif kind == "metrics":
            self._serves(slot, item["url"])
        elif kind == "shard" and self._placement.shards[item["shard"]].slot == slot.name:
            self._shard(slot, item["shard"], item["how"], item)
        elif kind == "over":
            self._has_ended(slot, item)

    def _shard(self, slot: _Slot, shard: str, how: str, said: Mapping[str, Any]) -> None:
        """A slot tells of a shard that it has."""
        result, reason = self.results[shard], said.get("reason", "")
        if "seconds" in said:
            self.placed_seconds.append((how, said["seconds"]))
        self._ladders.put(shard, slot.name, said.get("ladder"))
        if how == "taken":
            result.is_begun = True
            # Once a run: who goes on with it must not try again what the one before has just quarantined.
            result.work.assignment = replace(result.work.assignment, retry_quarantined=False)
            return
        if how == "checkpoint":
            if said["encoded"] > result.kept:
                self._placement.came_further(shard)
                self._starts.pop(slot.name, None)
            result.kept = said["encoded"]
            return
        if how in ("done", "demoted", "paused", "failed"):
            result.kept = said.get("encoded", 0)
            result.problems = said.get("problems", result.problems)
        self._keep(result)
        if how == "done":
            result.state = "done"
            self._starts.pop(slot.name, None)
            self._index.put(self._facts.files[shard], said["version"], said["look"])
            self._placement.end(shard)
        elif how == "demoted":
            result.state = "pending"
            self._placement.demote(shard)
        elif how == "paused":
            result.state = "paused"
            if self._code is None:  # its slot ends by itself, and others go on
                slot.leaves = True
                self._placement.wait_again(shard)
                result.state = "pending"
            else:
                self._placement.end(shard)
        elif how == "failed":
            self._fail(shard, reason)
            self._placement.end(shard)
        else:  # superseded, or busy: what was put last is there
            self._give_back(shard, reason)
            if how == "busy" and result.state == "failed":
                self._code = self._code or PAUSED  # it may answer again
                self.reason = self.reason or reason
                result.state = "paused"

    def _give_back(self, shard: str, reason: str) -> None:
        if self._placement.give_back(shard):
            self.results[shard].state = "pending"
        else:
            self._fail(shard, reason)

    def _fail(self, shard: str, reason: str) -> None:
        result = self.results[shard]
        is_told = result.state == "failed"
        result.state, result.reason = "failed", reason
        if not is_told:
            self._emit(events.ShardEnded(self._clock(), shard, "failed", result.encoded, reason))

    @staticmethod
    def _keep(result: ShardResult) -> None:
        result.encoded, result.kept = result.encoded + result.kept, 0

    def _has_ended(self, slot: _Slot, said: Mapping[str, Any]) -> None:
        slot.is_over = True
        self.totals.update(said["totals"])
        for shard in self._placement.lose_slot(slot.name):
            self._keep(self.results[shard.name])
            self.results[shard.name].state = "paused" if self._ends_at is not None else "pending"
        self._targets.pop(slot.name, None)
        self._write_targets()
        if self._ends_at is not None:
            return
        code, reason = said["code"], said["reason"]
        if code == NEVER:
            self._stop(NEVER, f"{slot.name}: {reason}")
        elif code == PAUSED:
            self._stop(PAUSED, f"{slot.name}: {reason or 'its job has paused itself'}")
        else:
            slot.is_over = False
            self._lost(slot, reason or "it has ended")

    # -- what is told -------------------------------------------------------------------------------------------------

    def _warn(self, text: str, node: str = "") -> None:
        self._emit(events.Note(self._clock(), "warning", text, node=node))

    def _serves(self, slot: _Slot, url: str) -> None:
        slot.metrics = url
        address = urlsplit(url)
        host = slot.node.address if address.hostname in ("0.0.0.0", "::") else address.hostname
        labels = {"node": slot.node.name, "slot": slot.name}
        self._targets[slot.name] = {"targets": [f"{host}:{address.port}"], "labels": labels}
        self._write_targets()

    def _write_targets(self) -> None:
        """For Prometheus: where the metrics of the slots are."""
        try:
            content = json.dumps([self._targets[name] for name in sorted(self._targets)], indent=1)
            self._storage.write(f"{STATE_FOLDER}/targets.json", f"{content}\n".encode())
        except StorageError as error:
            logger.warning("Prometheus is not told where the metrics are: %s", error)


def places_on(node: Node, *, has_cards: bool, slots: int | None) -> list[str]:
    """The names of a node's slots: each card is one where the cluster has any; else so many share its CPU."""
    if has_cards:
        return [f"cuda:{n}" for n in range(node.cards)]
    number = slots or 1
    return ["cpu"] if number == 1 else [f"cpu#{n + 1}" for n in range(number)]


def hear(
    inbox: SimpleQueue[Callable[[], object]],
    is_awaited: Callable[[], bool],
    *,
    lost: Callable[[str], object],
    step: Callable[[Any], object],
) -> Callable[[Future[str]], None]:
    """What to do with the answer of a process: it is taken to the thread that works off the inbox.

    Args:
        inbox: Of that thread.
        is_awaited: Whether the process is still the one that is meant, once the answer is there.
        lost: Called with why, where the process is gone.
        step: Called with what it says.
    """

    def take(answer: Future[str]) -> None:
        if not is_awaited():
            return
        try:
            content = json.loads(answer.result())
        except Exception as error:  # noqa: BLE001 - Ray's; whatever it is, the process is lost
            lost(_why_lost(error))
        else:
            step(content)

    return lambda answer: inbox.put(partial(take, answer))


def _why_lost(error: Exception) -> str:
    """What Ray says of a process that is gone, in a line."""
    kind = type(error).__name__
    if kind == "ActorUnschedulableError":
        return "its node is gone"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("Worker exit detail")] or lines[-1:] or [kind]
    return f"its process has ended ({told[0].partition('. ')[0][:200]})"
