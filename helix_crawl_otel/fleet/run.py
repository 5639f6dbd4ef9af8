"""A build or a backfill on a cluster: its plan, its nodes, its display, its summary.

Source: DESIGN.md, sections 3.3 and 3.7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from helix_crawl_otel.build.options import EncodeOptions
from helix_crawl_otel.build.plan import BuildPlan
from helix_crawl_otel.build.run import announce, summary_of
from helix_crawl_otel.config import NOTIFY_VARIABLE, environment
from helix_crawl_otel.console.console import Console
from helix_crawl_otel.console.notify import Notice
from helix_crawl_otel.console.options import CommonOptions
from helix_crawl_otel.console.output import StandardOutput
from helix_crawl_otel.console.run_metrics import RunMetrics
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.encoders.load import find_model
from helix_crawl_otel.exit_codes import DONE, INTERRUPTED, PAUSED
from helix_crawl_otel.faults.faults import has_card
from helix_crawl_otel.fleet.cluster import AUTO, LOCAL, check_cluster, connected
from helix_crawl_otel.fleet.driver import Fleet, RunFacts
from helix_crawl_otel.fleet.home import RunHome
from helix_crawl_otel.fleet.host import digest_of_names, facts_of
from helix_crawl_otel.fleet.index import IndexedFiles, salvage_of
from helix_crawl_otel.fleet.jobs import JobFleet
from helix_crawl_otel.fleet.storage import Storage
from helix_crawl_otel.interrupts import hearing
from helix_crawl_otel.paths import STATE_FOLDER, job_folder
from helix_crawl_otel.shards.build_record import write_record
from helix_crawl_otel.shards.sources import SourceCounts
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.external import JobCommand
from helix_crawl_otel.supervise.lock import FolderLock
from helix_crawl_otel.timing import awake_clock

__all__ = ["FleetOptions", "run_fleet", "run_jobs"]

OURS = ("BGEM3_", "CYMATIX_", "HELIX_")
"""What variables begin with that hold on all nodes as they are here."""


@dataclass(frozen=True)
class FleetOptions:
    """What is asked for beside a build on one machine.

    Args:
        address: Of the cluster.
        stage: Folder of the nodes for their copies, `None` for their own of temporary files.
        checkpoint_seconds: After which what is done of a shard is put.
        lease_seconds: See `Placement`.
    """

    address: str
    stage: str | None
    checkpoint_seconds: float
    lease_seconds: float


def run_fleet(
    word: str,
    command: str,
    storage: Storage,
    folder: Path,
    options: EncodeOptions,
    fleet_options: FleetOptions,
    given: Mapping[str, Any],
    make_plan: Callable[[IndexedFiles], BuildPlan],
    next_steps: tuple[str, str],
) -> int:
    """Plan a build or a backfill, and have a cluster do it.

    Args:
        word: Name of the command.
        command: As it was typed.
        storage: Where the shards live.
        folder: Where the run keeps what it tells of itself; see `RunHome`.
        options: Of the command.
        fleet_options: Likewise.
        given: The options as they were parsed, for the nodes to read them again.
        make_plan: Finds out what there is to do; called once the folder is locked.
        next_steps: What to type when all is done, and when it was paused.

    Returns:
        The exit code.

    Raises:
        Refusal: See `run_build`; and there is no such cluster, its nodes cannot work together, or the storage will not
            do.
        OSError: The folder cannot be written.
    """
    check_cluster(fleet_options.address)
    clock = awake_clock()
    state = folder / STATE_FOLDER
    with ExitStack() as stack:
        standard_output = stack.enter_context(StandardOutput(options.common.as_json))
        metrics = stack.enter_context(RunMetrics(options.common, storage.address, word, folder, options.model or ""))
        notice = stack.enter_context(Notice(options.common.notify))
        home = stack.enter_context(RunHome(storage, folder, command))
        metrics.open(standard_output.shown)
        index = hearing(partial(IndexedFiles, storage))
        planned = hearing(lambda: make_plan(index))
        metrics.says(planned.model)
        console = stack.enter_context(Console(options.common, metrics, standard_output.shown, notice))
        facts: Mapping[str, str] = {}
        if planned.works:
            find_model(planned.model)
            facts = facts_of(planned.model)
        if planned.record is not None:
            write_record(folder, planned.record)
            home.keep()
        console.start(clock, state)
        fleet, code = None, DONE
        announce(
            console.emit,
            clock(),
            command,
            storage.address,
            ("ray",),
            _cluster(fleet_options.address),
            (),
            planned,
        )
        if planned.works:
            on_cards = options.device != "cpu"
            cards = (options.workers or 1) if has_card(options.parsed_faults()) and on_cards else None
            cluster = stack.enter_context(connected(fleet_options.address, cards=cards))
            trees = {root: address for address, root in index.roots.items()}
            run = _facts(word, storage, options, fleet_options, given, planned, facts, trees)
            fleet = Fleet(cluster, storage, planned.works, run, index, console.emit, console.refresh, clock)
            code = fleet.run()
        retry = "" if options.retry_quarantined else f"{command} --retry-quarantined"
        mended = f"{command}   # when that is mended; what is done is kept"
        summary = _summary(code, fleet, planned, index, console, (*next_steps, retry, mended))
        console.end(summary)
        standard_output.hurries = summary.exit_code == INTERRUPTED
    return summary.exit_code


def _facts(
    word: str,
    storage: Storage,
    options: EncodeOptions,
    fleet_options: FleetOptions,
    given: Mapping[str, Any],
    planned: BuildPlan,
    facts: Mapping[str, str],
    addresses: Mapping[str, str],
) -> RunFacts:
    trees = {work.assignment.source for work in planned.works if work.assignment.source is not None}
    begin = {
        "word": word,
        "out": storage.address if storage.folder is None else str(storage.folder),
        "stage": fleet_options.stage,
        "checkpoint": fleet_options.checkpoint_seconds,
        "model": planned.model,
        "dtype": planned.dtype,
        "must_agree": planned.must_agree,
        "args": _plain(given),
        "environ": _ours(),
        "trees": dict(addresses),
    }
    return RunFacts(
        begin=begin,
        describe={
            "model": planned.model,
            "out": begin["out"],
            "mark": storage.mark(),
            "sources": {tree: digest_of_names(Path(tree)) for tree in trees - addresses.keys() if Path(tree).exists()},
        },
        facts=facts,
        encoder=planned.encoder,
        files={work.assignment.shard: Path(work.assignment.path).name for work in planned.works},
        on_cards=options.device != "cpu",
        slots=options.workers,
        lease_seconds=fleet_options.lease_seconds,
        linger_seconds=options.common.linger if options.common.serves_metrics else 0.0,
    )


def _summary(
    code: int,
    fleet: Fleet | None,
    planned: BuildPlan,
    index: IndexedFiles,
    console: Console,
    next_steps: tuple[str, str, str, str],
) -> Summary:
    results = fleet.results if fleet is not None else {}
    totals = fleet.totals if fleet is not None else Counter[str]()
    for result in results.values():
        if result.state not in ("done", "failed"):
            is_begun = Path(result.work.assignment.path).name in index.versions
            result.state = "paused" if is_begun or result.is_begun else "not begun"
    if code == PAUSED and not {"paused", "not begun"} & {result.state for result in results.values()}:
        code = DONE  # the interrupt came when nothing was left to do
    failed = {name: result.reason for name, result in results.items() if result.state == "failed"} | planned.failures
    looks = [index.known(Path(work.assignment.path).name) for work in planned.works]
    salvaged = [salvage_of(look) for look in looks if look]
    quarantined = sum(planned.quarantined.values()) + sum(one.quarantined for one in salvaged)
    unread = sum((one.unread for one in salvaged), planned.unread)
    sources = SourceCounts()
    for look in (*(index.known(path.name) for path in planned.complete), *looks):
        if look:
            sources.add(look["notes"])
    summary = summary_of(
        code,
        planned,
        console,
        states=Counter(result.state for result in results.values()),
        encoded=sum(result.encoded for result in results.values()),
        failed=failed,
        quarantined=quarantined,
        unread=unread,
        problems=sum(result.problems for result in results.values()),
        sources=sources,
        next_steps=next_steps,
    )
    return replace(summary, **_of_slots(totals), reason=fleet.reason if fleet is not None else "")


def _of_slots(totals: Counter[str]) -> dict[str, Any]:
    """What a summary tells of workers, from what `Speaker` has counted on each slot."""
    return {
        "starts": {name.removeprefix("starts "): n for name, n in totals.items() if name.startswith("starts ")},
        "lost_seconds": totals["lost_ms"] / 1000,
        "gate_seconds": totals["gate_ms"] / 1000,
    }


def run_jobs(
    command: str,
    folder: Path,
    job: JobCommand,
    options: CommonOptions,
    *,
    address: str,
    slots: int | None,
    lease_seconds: float,
    given: Mapping[str, Any],
    on_cards: bool,
) -> int:
    """Start a copy of a driver on each slot of a cluster, and supervise all.

    Args:
        command: As it was typed.
        folder: Of the run's state, which every node reaches.
        job: The driver.
        options: Of the command.
        address: Of the cluster.
        slots: On a node without cards; `None` for one.
        lease_seconds: See `JobFleet`.
        given: The options as they were parsed, for the nodes to read them again.
        on_cards: A slot is a card, where there is one.

    Returns:
        The exit code.

    Raises:
        Refusal: There is no such cluster.
        OSError: The folder cannot be written.
    """
    clock = awake_clock()
    with ExitStack() as stack:
        standard_output = stack.enter_context(StandardOutput(options.as_json))
        metrics = stack.enter_context(RunMetrics(options, job.name, "run", job_folder(folder)))
        notice = stack.enter_context(Notice(options.notify))
        stack.enter_context(FolderLock(folder, command))
        metrics.open(standard_output.shown)
        console = stack.enter_context(Console(options, metrics, standard_output.shown, notice))
        cluster = stack.enter_context(connected(address))
        console.start(clock, folder)
        counts = 0, 0, 0, None
        why = _cluster(address)
        console.emit(events.RunStarted(clock(), command, str(job_folder(folder)), job.name, ("ray",), why, *counts))
        begin = {
            "argv": list(job.argv),
            "args": _plain(given),
            "command": command,
            "cwd": str(Path.cwd()),
            "environ": {**_ours(), **job.added},
            "name": job.name,
        }
        fleet = JobFleet(
            cluster,
            begin,
            folder,
            on_cards=on_cards,
            slots=slots,
            lease_seconds=lease_seconds,
            emit=console.emit,
            refresh=console.refresh,
            clock=clock,
        )
        code = fleet.run()
        totals = fleet.totals
        summary = Summary(
            exit_code=code,
            seconds=console.seconds(),
            encoded=totals["encoded"],
            actions=dict(console.progress.actions),
            crashes=console.progress.crashes,
            **_of_slots(totals),
            reason="; ".join(fleet.reasons.values()),
            next_step="" if code == DONE else command,
        )
        console.end(summary)
        standard_output.hurries = code == INTERRUPTED
    return code


def _cluster(address: str) -> str:
    """Where the work goes, for people."""
    known = {AUTO: "the cluster that this machine has joined", LOCAL: "one of its own on this machine"}
    return known.get(address, f"the cluster at {address}")


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they were parsed, as JSON: without what only the command itself is concerned with."""
    kinds = (str, int, float, list, type(None))
    return {name: value for name, value in given.items() if isinstance(value, kinds)} | {"notify": None, "json": False}


def _ours() -> dict[str, str]:
    """Variables that hold on all nodes as they are here."""
    return {name: value for name, value in environment().items() if name.startswith(OURS) and name != NOTIFY_VARIABLE}
