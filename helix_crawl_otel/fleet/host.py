"""One slot of a fleet, in an actor's process on its node: the same supervisor, worker and ladder as on one machine, for
shards that come one by one.

What goes in and out of it is JSON, so that nothing of ours is pickled. A shard is copied to the node's disk, worked on
there and put back; the next one is copied while one is encoded, and the worker keeps its model.

Source: DESIGN.md, sections 5, 7 and 8. It never imports torch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from helix_crawl_otel._version import __version__
from helix_crawl_otel.build.devices import DevicePlan, cores, worker_cards
from helix_crawl_otel.build.job import ShardWork
from helix_crawl_otel.build.options import EncodeOptions, read_encode_options
from helix_crawl_otel.build.plan import BuildPlan
from helix_crawl_otel.build.run import plan_devices, worker_settings
from helix_crawl_otel.config import change_environment, environment
from helix_crawl_otel.console.run_metrics import RunMetrics
from helix_crawl_otel.encoders.base import ModelError
from helix_crawl_otel.encoders.load import HASHING, find_model, tokens_id
from helix_crawl_otel.exit_codes import DONE, FAILED, NEVER, Refusal
from helix_crawl_otel.faults.faults import clock_rate, has_card
from helix_crawl_otel.fleet.feed import FedJob
from helix_crawl_otel.fleet.places import open_storage
from helix_crawl_otel.fleet.sources import SourceTree
from helix_crawl_otel.fleet.stage import Stage, StagedShard
from helix_crawl_otel.fleet.storage import StorageBusy, StorageError, Superseded
from helix_crawl_otel.link.messages import Assignment
from helix_crawl_otel.logs import logger
from helix_crawl_otel.paths import STATE_FOLDER, TIMELINE
from helix_crawl_otel.policy.codec import decode, encode
from helix_crawl_otel.shards.errors import StoreError
from helix_crawl_otel.shards.inspect import held, salvage
from helix_crawl_otel.shards.sources import SourceCounts
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.session import LADDER, RunOptions, Session

__all__ = ["Host", "Speaker", "counted", "digest_of_names", "facts_of", "look_of_shard", "told_of"]

TOGETHER_SECONDS = 0.2
"""What happens in so long is told at once, unless a shard has ended."""

SPARE = "cuda:0"
"""What a slot is said to be on that gets demoted shards alone: none is ever encoded there."""


def facts_of(model: str) -> dict[str, str]:
    """What has to be alike on all nodes, for a model: with others there would be other vectors.

    Raises:
        ModelError: The model can never be loaded here.
    """
    facts = {"Python": platform.python_version(), "helix-crawl-otel": __version__}
    if model != HASHING:
        for name in ("torch", "sentence-transformers", "transformers", "tokenizers"):
            try:
                facts[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                facts[name] = "not installed"
    find_model(model)
    facts[f"the model {model}"] = tokens_id(model)
    return facts


def look_of_shard(path: Path) -> dict[str, Any]:
    """What a plan and a summary have to know of a shard that is not where they could look at it, as JSON."""
    found, now = salvage(path), held(path)
    sources = SourceCounts()
    sources.count(path, 0.0)
    return {
        "salvage": encode(found),
        "held": None if now is None else asdict(now),
        "notes": sources.to_json(),
    }


@dataclass
class _HeldShard:
    """A shard that this slot has.

    Args:
        work: As its job has it.
        staged: Its copy.
        told: That it is done, for the displays, once it has been put.
        has_ended: No worker comes to it any more.
    """

    work: ShardWork
    staged: StagedShard
    told: events.Event | None = None
    has_ended: bool = False


class Speaker:
    """What an actor's process has to say, until the driver asks for it.

    Threads: any.
    """

    def __init__(self) -> None:
        self._said: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def exchange(self, text: str) -> str:
        """Wait for something to tell, and tell it; after so many `seconds` that is nothing. It is a sign of life."""
        said: list[dict[str, Any]] = []
        until = time.monotonic() + json.loads(text)["seconds"]
        while (left := until - time.monotonic()) > 0:
            try:
                item = self._said.get(timeout=left)
            except Empty:
                break
            said.append(item)
            if item["say"] in ("shard", "over"):
                break
            until = min(until, time.monotonic() + TOGETHER_SECONDS)
        return json.dumps(said)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Bring this process's log to the driver while the block lasts."""
        handler = _Tell(self._said)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


def counted(run: RunContext) -> dict[str, int]:
    """What is told of the workers of a slot, in numbers that can be added."""
    totals = run.totals
    times = {"lost_ms": int(1000 * totals.lost_seconds), "gate_ms": int(1000 * totals.gate_seconds)}
    return {f"starts {name}": number for name, number in totals.starts.items()} | times


def told_of(error: BaseException) -> tuple[int, str]:
    """The exit code and the reason of what has ended a slot."""
    if isinstance(error, Refusal):
        return error.exit_code, str(error)
    return FAILED, f"{type(error).__name__}: {error}"


class Host(Speaker):
    """See the module. Every method takes and returns JSON.

    Threads: the methods are called from several; the session has a thread of its own, and so has what copies shards.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._held: dict[str, _HeldShard] = {}  # by the thread that copies, and read by the others
        self._session: Session | None = None
        self._job: FedJob | None = None
        self._is_paused = False
        self._leaves = ""  # why it ends by itself, so that another process takes its place
        self._is_ending = False
        self._put_at = time.monotonic()
        self._has_changed = False  # a worker has ended since
        self._never: str | None = None

    # -- what the driver calls ----------------------------------------------------------------------------------------

    def describe(self, text: str) -> str:
        """What this node is, and what keeps it from the run.

        Args:
            text: `model`, `out`, `mark` (see `Storage.mark`) and `sources` of the run.
        """
        asked = json.loads(text)
        told: dict[str, Any] = {"host": platform.node(), "pid": os.getpid(), "cores": cores(), "facts": {}}
        troubles: list[str] = []
        try:
            told["facts"] = facts_of(asked["model"])
        except (ModelError, OSError) as error:
            troubles.append(str(error))
        try:
            storage = open_storage(asked["out"])
            storage.check()
            storage.require_mark(asked["mark"])
        except Refusal as error:
            troubles.append(str(error))
        for source, digest in asked["sources"].items():
            try:
                if digest_of_names(Path(source)) != digest:
                    troubles.append(f"{source} holds other files there than where the command was typed")
            except OSError as error:
                troubles.append(f"{source} cannot be read there: {error.strerror or error}")
        return json.dumps(told | {"troubles": troubles})

    def begin(self, text: str) -> str:
        """Begin to take shards. Returns where workers encode, and why.

        Args:
            text: The run; see `run.py`, which makes it.
        """
        asked = json.loads(text)
        change_environment(asked["environ"])
        options = read_encode_options(argparse.Namespace(**asked["args"]))
        environ = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
        options = replace(options, common=replace(options.common, environ=environ), workers=1)
        if not (asked["card"] or asked["is_spare"]):
            # No card: not one that is modelled either.
            faults = tuple(text for text in options.faults if text.partition(":")[0] != "card")
            options = replace(options, device="cpu", faults=faults)
        cards = worker_cards(environ)
        planned = BuildPlan(asked["model"], asked["dtype"], asked["must_agree"])
        core_count = max(1, cores() // asked["neighbours"])
        if asked["is_spare"]:
            # As on one machine: shards come from a card, and are finished on the CPU.
            devices = DevicePlan(((asked["slot"], SPARE),), "for shards that were demoted", core_count)
        else:
            devices = plan_devices(options, planned.model, cards, core_count)
        device = devices.slots[0][1]
        settings = partial(worker_settings, options, planned, devices, cards)
        run = partial(self._run, asked, options, planned, device, settings)
        threading.Thread(target=run, name="helix-crawl-host", daemon=True).start()
        shown = "cpu" if asked["is_spare"] else device
        return json.dumps({"device": shown, "why": devices.why, "warnings": devices.warnings})

    def tell(self, text: str) -> str:
        """Take an order: `give` a shard, `pause`, `checkpoint`, or `end` once what is there is done."""
        order = json.loads(text)
        if order["do"] == "give":
            self._tasks.put(partial(self._take, order))
        elif order["do"] == "checkpoint":
            self._tasks.put(self._put_all)
        elif order["do"] == "pause":
            self._pause()
        elif order["do"] == "end":
            self._is_ending = True
            if self._job is not None:
                self._job.close()
        return "null"

    # -- the session --------------------------------------------------------------------------------------------------

    def _run(
        self,
        asked: Mapping[str, Any],
        options: EncodeOptions,
        planned: BuildPlan,
        device: str,
        settings: Callable[[str, int], Any],
    ) -> None:
        code, reason, totals = DONE, "", Counter[str]()
        try:
            with ExitStack() as stack:
                stack.enter_context(self._listening())
                self._stage = stack.enter_context(Stage(Path(asked["stage"]) if asked["stage"] else None))
                self._storage = open_storage(asked["out"])
                self._where = f"{STATE_FOLDER}/nodes/{asked['node']}/{asked['place']}"
                self._checkpoint_seconds = asked["checkpoint"]
                self._trees = asked["trees"]
                folder = self._stage.folder / "state"
                folder.mkdir()
                self._bring_ladder(folder)
                metrics = stack.enter_context(
                    RunMetrics(options.common, asked["out"], asked["word"], Path(asked["out"]))
                )
                metrics.open(None)
                metrics.says(planned.model)
                if metrics.url is not None:
                    self._said.put({"say": "metrics", "url": metrics.url})
                faults = options.parsed_faults()
                run_options = RunOptions(
                    config=options.common.config,
                    folder=folder,
                    encoder=planned.encoder,
                    slots=[(asked["slot"], device)],
                    environ=options.common.environ,
                    keeps_logs=True,
                    is_modelled=has_card(faults),
                    clock_rate=clock_rate(faults),
                )
                session = self._session = stack.enter_context(
                    Session(run_options, metrics.exported, self._emit, self._turn, metrics.keep)
                )
                job = self._job = FedJob(
                    self._ended,
                    keeps_demoted=asked["is_spare"],
                    settings=settings,
                    environ=options.common.environ,
                    demoted=session.demoted,
                    pipeline=session.pipeline,
                    emit=self._emit,
                    clock=session.clock,
                    memory=session.memory.describe,
                )
                # Only now: a shard that was given before the job is there would be taken for one that is too late.
                threading.Thread(target=self._copy_shards, name="helix-crawl-stage", daemon=True).start()
                stack.callback(self._stop_copying)
                if self._is_ending:
                    job.close()
                while not (self._is_paused or self._is_ending):
                    job.has_come.wait()
                    if self._is_paused or (self._is_ending and not job.has_work(asked["slot"])):
                        break
                    run, code = session.supervise(job)
                    totals.update(counted(run))
                    if code != DONE and not run.failures:
                        reason = job.never or "; ".join(why for ending, why in run.endings if why != ending.value)
                        break
                self._never = job.never
                metrics.end(code)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the driver is told
            code, reason = told_of(error)
        if self._never is not None:
            code = NEVER
        elif self._leaves:
            code, reason = FAILED, self._leaves
        self._said.put({"say": "over", "code": code, "reason": reason, "totals": dict(totals)})

    def _pause(self) -> None:
        self._is_paused = True
        if self._session is not None:
            self._session.pause()
        if self._job is not None:
            self._job.has_come.set()

    def _emit(self, event: events.Event) -> None:
        if isinstance(event, events.ShardEnded) and event.state != "failed":
            if (shard := self._held.get(event.shard)) is not None:
                shard.told = event  # once it has been put
            return
        self._has_changed = self._has_changed or isinstance(event, events.WorkerEnded)
        self._said.put({"say": "event", "event": event.to_json()})

    def _turn(self) -> None:
        """The supervisor has looked around."""
        if self._job is not None:
            self._job.let_go()
        now = time.monotonic()
        if self._has_changed or now - self._put_at > self._checkpoint_seconds:
            self._has_changed, self._put_at = False, now
            self._tasks.put(self._put_all)

    def _ended(self, work: ShardWork, how: str) -> None:
        shard = self._held[work.assignment.shard]
        shard.has_ended = True
        if how == "done":
            self._tasks.put(partial(self._finish, shard))
        else:
            self._tasks.put(partial(self._leave, shard, how, work.reason))

    # -- copies of shards, in a thread of their own -------------------------------------------------------------------

    def _copy_shards(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception as error:  # noqa: BLE001 - the thread goes on: what is there has still to be put back
                text = f"an error of our own: {type(error).__name__}: {error}"
                self._said.put({"say": "log", "level": logging.ERROR, "text": text})
                self._leaves = text
                self._pause()
        self._copied.set()

    def _stop_copying(self) -> None:
        """Put back what is there, and the timeline: the session is about to end."""
        self._copied = threading.Event()
        self._tasks.put(self._put_back)
        self._tasks.put(self._put_state)
        self._tasks.put(None)
        self._copied.wait()

    def _take(self, order: Mapping[str, Any]) -> None:
        """Copy a shard to this node and queue it."""
        began = time.monotonic()
        assignment = decode(Assignment, order["assignment"])
        name = assignment.shard
        if self._is_paused or self._job is None or self._session is None:
            self._tell_shard(name, "paused")
            return
        try:
            create = assignment.source is not None
            tree = self._trees.get(assignment.source)
            staged = StagedShard.take(self._storage, order["file"], self._stage, create=create, tree=tree)
            if tree is not None:
                sources = SourceTree(open_storage(tree, what="SRC"), staged.path.parent, self._storage.address)
                assignment = sources.fetch(assignment)
        except (StorageError, StoreError, OSError) as error:
            self._tell_shard(name, _how(error), reason=str(error))
            return
        for note in staged.notes:
            self._emit(events.Note(0.0, "warning", note))
        if (ladder := order["ladder"]) is not None:
            self._session.pipeline.take_shard(name, ladder)
        if order["is_demoted"]:
            self._session.demoted.add(name)
        assignment = replace(assignment, path=str(staged.path), epoch=staged.epoch)
        work = ShardWork(assignment, pending=order["pending"], quarantined=order["quarantined"])
        self._held[name] = _HeldShard(work, staged)
        self._tell_shard(name, "taken", seconds=time.monotonic() - began)
        self._job.add(work)

    def _finish(self, shard: _HeldShard) -> None:
        """A shard is done: put it back and say so."""
        name, began = shard.work.assignment.shard, time.monotonic()
        try:
            look = look_of_shard(shard.staged.path)
            look["salvage"]["tree"] = shard.staged.tree or look["salvage"]["tree"]
            version = shard.staged.finish()
        except (StorageError, StoreError, OSError) as error:
            self._drop(shard, _how(error), str(error))
            return
        del self._held[name]
        self._told(shard, "done", version=version, look=look, seconds=time.monotonic() - began)
        if shard.told is not None:
            self._said.put({"say": "event", "event": shard.told.to_json()})

    def _leave(self, shard: _HeldShard, how: str, reason: str = "") -> None:
        """A shard goes elsewhere, or cannot be finished: what is done of it is kept."""
        try:
            shard.staged.checkpoint()
        except (StorageError, StoreError, OSError) as error:
            if isinstance(error, (Superseded, StorageBusy)):
                how = _how(error)
            reason = "; ".join(filter(None, (reason, str(error))))
        self._drop(shard, how, reason)

    def _drop(self, shard: _HeldShard, how: str, reason: str) -> None:
        del self._held[shard.work.assignment.shard]
        shard.staged.drop()
        self._told(shard, how, reason=reason)

    def _put_all(self) -> None:
        """Put what is done by now of the shards that workers are on."""
        for shard in list(self._held.values()):
            if shard.has_ended or shard.work.state == "pending":
                continue
            try:
                if shard.staged.checkpoint():
                    self._told(shard, "checkpoint", version=shard.staged.version)
            except Superseded as error:
                # Whoever has it now has begun anew. This slot was taken for lost: it leaves, and another one begins.
                self._leaves = str(error)
                self._pause()
                return
            except (StorageError, StoreError, OSError) as error:
                self._said.put({"say": "log", "level": logging.WARNING, "text": f"not kept yet: {error}"})
        self._put_state()

    def _put_back(self) -> None:
        for shard in list(self._held.values()):
            self._leave(shard, "paused")

    def _put_state(self) -> None:
        """Timeline and ladder of this slot, for `report` and for the next run."""
        assert self._session is not None
        for path in (self._session.folder / TIMELINE, self._session.folder / LADDER):
            try:
                name = f"timeline-{self._began}.jsonl" if path.name == TIMELINE else path.name
                self._storage.write(f"{self._where}/{name}", path.read_bytes())
            except (StorageError, OSError):
                continue  # the next one brings it

    def _bring_ladder(self, folder: Path) -> None:
        """What this slot's card has shown in earlier runs."""
        self._began = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        found = self._storage.read(f"{self._where}/{LADDER}")
        if found is not None:
            (folder / LADDER).write_bytes(found[0])

    def _told(self, shard: _HeldShard, how: str, **more: Any) -> None:
        work = shard.work
        assert self._session is not None
        ladder = self._session.pipeline.give_shard(work.assignment.shard)
        counted = {"encoded": work.encoded, "problems": work.problems, "ladder": ladder}
        self._tell_shard(work.assignment.shard, how, **counted, **more)

    def _tell_shard(self, shard: str, how: str, **more: Any) -> None:
        self._said.put({"say": "shard", "shard": shard, "how": how, **more})


def digest_of_names(path: Path) -> str:
    """Tells whether two machines mean the same tree by a path, without a look into it. Raises `OSError`."""
    names = sorted(child.name for child in path.iterdir()) if path.is_dir() else [str(path.stat().st_size)]
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()


def _how(error: Exception) -> str:
    """What a trouble with a copy means for the shard."""
    if isinstance(error, Superseded):
        return "superseded"
    return "busy" if isinstance(error, StorageBusy) else "failed"


class _Tell(logging.Handler):
    """Brings the node's log to where the command was typed."""

    def __init__(self, said: SimpleQueue[dict[str, Any]]) -> None:
        super().__init__(logging.INFO)
        self._to = said

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        self._to.put({"say": "log", "level": record.levelno, "text": record.getMessage()})
