"""Runs what was planned: devices, lock, endpoint, supervisor, and the summary at the end.

Source: DESIGN.md, sections 3.3, 3.7 and 7.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from helix_crawl_otel.build.devices import (
    DevicePlan,
    batch_tokens,
    choose_devices,
    cores,
    count_torch_devices,
    torch_build,
    worker_cards,
)
from helix_crawl_otel.build.job import BuildJob
from helix_crawl_otel.build.options import EncodeOptions
from helix_crawl_otel.build.plan import BuildPlan, name_in_folder
from helix_crawl_otel.console.console import Console
from helix_crawl_otel.console.notify import Notice
from helix_crawl_otel.console.output import StandardOutput
from helix_crawl_otel.console.progress import Progress
from helix_crawl_otel.console.run_metrics import RunMetrics
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.encoders.load import HASHING, check_dim, check_model, find_model
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED, NEVER, PAUSED
from helix_crawl_otel.faults.faults import clock_rate, has_card
from helix_crawl_otel.formats import printable
from helix_crawl_otel.interrupts import hearing
from helix_crawl_otel.link.messages import WorkerSettings
from helix_crawl_otel.paths import STATE_FOLDER
from helix_crawl_otel.probes.cards import Description
from helix_crawl_otel.shards.build_record import write_record
from helix_crawl_otel.shards.inspect import Unread, count_quarantined, count_unread
from helix_crawl_otel.shards.sources import SourceCounts, notes_of
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.lock import FolderLock
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.session import RunOptions, Session

__all__ = ["announce", "plan_devices", "run_build", "summary_of", "worker_settings"]


def run_build(
    word: str,
    command: str,
    folders: Sequence[Path],
    options: EncodeOptions,
    make_plan: Callable[[], BuildPlan],
    next_steps: tuple[str, str],
    look_back: Callable[[Session, Progress], Mapping[str, Any]] = lambda session, progress: {},
) -> int:
    """Plan and supervise a build or a backfill.

    Args:
        word: Name of the command.
        command: As it was typed.
        folders: Of the shards; each is locked and keeps the ladders of its own, the first keeps timeline and logs.
        options: Of the command.
        make_plan: Finds out what there is to do; called once the folders are locked.
        next_steps: What to type when all is done, and when it was paused.
        look_back: Says what would have saved time, see `Summary.would_have_saved`.

    Returns:
        The exit code.

    Raises:
        FolderLocked: Another run is at work there.
        ModelError: The model can never be loaded.
        ConfigError: More numbers of a vector are to be kept than the model makes.
        NoDevice: The card that was asked for is not there.
        NotThisBuild: What is there was built of something else.
        UnreadableSource: There is nothing to read.
        OSError: A folder cannot be written.
    """
    if options.model is not None:
        # Where nothing is there yet, nothing is complete without the model, and nothing is made for one that is not.
        (check_model if folders[0].exists() else find_model)(options.model)
        check_dim(options.model, options.truncation.dim)
    faults = options.parsed_faults()
    with ExitStack() as stack:
        standard_output = stack.enter_context(StandardOutput(options.common.as_json))
        metrics = stack.enter_context(
            RunMetrics(options.common, str(folders[0]), word, folders[0], options.model or "")
        )
        notice = stack.enter_context(Notice(options.common.notify))
        for folder in sorted(set(folders)):
            stack.enter_context(FolderLock(folder / STATE_FOLDER, command, folders[0] / STATE_FOLDER))
        metrics.open(standard_output.shown)
        planned = hearing(make_plan)
        metrics.says(planned.model)
        if planned.works:
            find_model(planned.model)
            check_dim(planned.model, options.truncation.dim)
        cards = worker_cards(options.common.environ)
        devices = plan_devices(options, planned.model, cards, cores())
        if planned.look is not None:
            hearing(partial(planned.look.measure, folders[0], planned.model))
        if planned.record is not None:
            write_record(folders[0], planned.record)
        console = stack.enter_context(Console(options.common, metrics, standard_output.shown, notice))
        run_options = RunOptions(
            config=options.common.config,
            folder=folders[0] / STATE_FOLDER,
            encoder=planned.encoder,
            slots=devices.slots,
            environ=options.common.environ,
            keeps_logs=True,
            is_modelled=has_card(faults),
            clock_rate=clock_rate(faults),
            places={work.assignment.shard: _place(Path(work.assignment.path)) for work in planned.works},
        )
        session = stack.enter_context(
            Session(run_options, metrics.exported, console.emit, console.refresh, metrics.keep)
        )
        console.start(session.clock, session.folder)
        names = [work.assignment.shard for work in planned.works]
        places = tuple(device for _, device in devices.slots)
        waiting = announce(
            console.emit, session.clock(), command, str(folders[0]), places, devices.why, devices.warnings, planned
        )
        session.pipeline.expect_shards(names, waiting, set(places))
        for shard, genes in planned.quarantined.items():
            session.pipeline.set_quarantined(shard, genes)
        for work in planned.works:
            session.pipeline.set_quarantined(work.assignment.shard, work.quarantined)
        session.pipeline.set_shards(done=len(planned.complete), failed=len(planned.failures))
        job = BuildJob(
            planned.works,
            lambda device, number: worker_settings(options, planned, devices, cards, device, number),
            options.common.environ,
            session.demoted,
            session.pipeline,
            console.emit,
            session.clock,
            session.memory.describe,
        )
        run, code = session.supervise(job)
        retry = "" if options.retry_quarantined else f"{command} --retry-quarantined"
        mended = f"{command}   # when that is mended; what is done is kept"
        steps = (*next_steps, retry, mended)
        summary = _summary(code, run, job, planned, session, console, options.lock_seconds, steps)
        if summary.exit_code != INTERRUPTED:
            summary = replace(summary, would_have_saved=look_back(session, console.progress))
        console.end(summary)
        standard_output.hurries = summary.exit_code == INTERRUPTED
    return summary.exit_code


def _place(path: Path) -> tuple[Path, str]:
    return path.parent / STATE_FOLDER, name_in_folder(path)


def plan_devices(options: EncodeOptions, model: str, cards: Description, core_count: int) -> DevicePlan:
    """Where workers encode: see `choose_devices`, or on modelled cards."""
    if has_card(options.parsed_faults()):
        count = options.workers or 1
        slots = tuple((f"cuda:{n}", f"cuda:{n}") for n in range(count))
        return DevicePlan(slots, "a modelled card is laid over the CPU (--fault card)", max(1, core_count // count))
    return choose_devices(
        options.device,
        options.workers,
        options.cpu_below_gib,
        cards,
        core_count,
        torch_build(),
        needs_no_card=model == HASHING,
        count_torch=partial(count_torch_devices, options.common.environ),
    )


def worker_settings(
    options: EncodeOptions, planned: BuildPlan, devices: DevicePlan, cards: Description, device: str, number: int
) -> WorkerSettings:
    """What a worker on a device is told; `number` counts the workers of the run from 1."""
    is_modelled = has_card(options.parsed_faults()) and device != "cpu"
    on_cpu = device == "cpu" or is_modelled
    return WorkerSettings(
        model=planned.model,
        device="cpu" if on_cpu else device,
        batch_size=options.batch_size,
        threads=devices.threads if on_cpu else None,
        release_every=0 if on_cpu and not is_modelled else options.release_every,
        faults=list(options.faults),
        number=number,
        label=device,
        lock_seconds=options.lock_seconds,
        batch_tokens=options.batch_tokens or batch_tokens(device, cards),
        vram_cap=options.vram_cap,
        workers=sum(1 for _, place in devices.slots if place == device),
        dtype=planned.dtype,
        must_agree=planned.must_agree,
        max_chars=options.truncation.max_chars,
        dim=options.truncation.dim,
        begun=[str(path) for path in planned.begun],
    )


def announce(
    emit: Callable[[events.Event], None],
    t: float,
    command: str,
    output: str,
    places: tuple[str, ...],
    why: str,
    warnings: Sequence[str],
    planned: BuildPlan,
) -> dict[str, int]:
    """Tell the displays what the run begins with. Returns how many genes are likely to wait in each shard.

    Args:
        emit: Takes events.
        t: Now.
        command: As it was typed.
        output: Where the shards are.
        places: Where they are encoded.
        why: There.
        warnings: What should be said of that.
        planned: What there is to do.
    """
    done = len(planned.complete)
    counts = planned.shards, done, planned.complete_genes
    emit(events.RunStarted(t, command, output, planned.model, places, why, *counts))
    for text in (*warnings, *planned.notes):
        emit(events.Note(t, "warning", text))
    waiting = {}
    for work in planned.works:
        genes = work.expected if work.pending is None else work.pending
        if genes is not None:
            waiting[work.assignment.shard] = genes
            emit(events.ShardCounted(t, work.assignment.shard, genes, is_estimate=work.pending is None))
    if planned.look is not None:
        emit(planned.look.event(t, complete=done, pending=sum(waiting.values()), devices=places))
    for shard, reason in planned.failures.items():
        emit(events.ShardEnded(t, shard, "failed", 0, reason))
    return waiting


def _summary(
    code: int,
    run: RunContext,
    job: BuildJob,
    planned: BuildPlan,
    session: Session,
    console: Console,
    lock_seconds: float,
    next_steps: tuple[str, str, str, str],
) -> Summary:
    states = [work.state for work in job.shards]
    if code == PAUSED and not {"pending", "running"} & set(states):
        code = DONE  # the interrupt came when nothing was left to do
    if code != DONE:
        job.paused()
        states = [work.state for work in job.shards]
    failed = {work.assignment.shard: work.reason for work in job.shards if work.state == "failed"} | planned.failures
    quarantined = sum(planned.quarantined.values()) + sum(
        count_quarantined(Path(work.assignment.path), lock_seconds) for work in job.shards
    )
    unread = sum((count_unread(Path(work.assignment.path), lock_seconds) for work in job.shards), planned.unread)
    paths = sorted([*planned.complete, *(Path(work.assignment.path) for work in job.shards)])
    sources = SourceCounts()
    for path in paths:
        sources.count(path, lock_seconds)
    summary = summary_of(
        code,
        planned,
        console,
        states=Counter(states),
        encoded=sum(work.encoded for work in job.shards),
        failed=failed,
        quarantined=quarantined,
        unread=unread,
        problems=sum(work.problems for work in job.shards),
        sources=sources,
        is_never=job.never is not None,
        next_steps=next_steps,
    )
    is_any = bool(sources.kinds or sources.read_as)
    return replace(
        summary,
        skipped_list=_name_skipped(paths, lock_seconds, session.folder / "skipped.txt", is_any=is_any),
        starts=dict(run.totals.starts),
        lost_seconds=run.totals.lost_seconds,
        gate_seconds=run.totals.gate_seconds,
        reason=job.never or "; ".join(why for ending, why in run.endings if why != ending.value),
        logs=_logs(session.folder) if summary.crashes or failed or job.never else [],
    )


def summary_of(
    code: int,
    planned: BuildPlan,
    console: Console,
    *,
    states: Counter[str],
    encoded: int,
    failed: Mapping[str, str],
    quarantined: int,
    unread: Unread,
    problems: int,
    sources: SourceCounts,
    next_steps: tuple[str, str, str, str],
    is_never: bool = False,
) -> Summary:
    """What is told of a run's end, wherever its workers were.

    Args:
        code: As far as workers and interrupts decide it.
        planned: What there was to do.
        console: Has shown the run.
        states: Of the shards that there was something to do for, how many of each.
        encoded: Genes that got a vector.
        failed: The shards that did not become whole, with the reason.
        quarantined: Genes that have none for ever.
        unread: What the encoder has not read.
        problems: Sources that cannot be read.
        sources: Those that were left out or read otherwise.
        next_steps: What to type when all is done, when it was paused, to try the quarantined again (or nothing), and
            when what failed is mended.
        is_never: No worker could ever start.
    """
    if code == DONE and (failed or quarantined or problems):
        code = FAILED
    counts = {state: states[state] for state in ("done", "failed", "paused", "not begun")}
    counts["failed"] += len(planned.failures)
    verify, resume, retry, mended = next_steps
    next_step = verify if code in (DONE, FAILED) else resume
    if is_never or code == NEVER or (code == FAILED and (failed or problems)):
        next_step = mended
    elif code == FAILED and quarantined and retry:
        next_step = retry
    progress = console.progress
    return Summary(
        exit_code=code,
        seconds=console.seconds(),
        encoded=encoded,
        skipped=planned.complete_genes,
        quarantined=quarantined,
        unread=unread,
        can_cut=planned.can_cut,
        shards={**counts, "complete before": len(planned.complete)},
        failed=dict(failed),
        quarantines=progress.quarantines,
        source_problems=problems,
        unreadable=progress.troubles,
        left_out=planned.look.unwanted() if planned.look else (),
        skipped_sources=dict(sources.kinds.most_common()),
        skipped_first=sources.first,
        read_as=dict(sources.read_as.most_common()),
        actions=dict(progress.actions),
        crashes=progress.crashes,
        next_step=next_step,
    )


def _logs(folder: Path) -> list[str]:
    """The workers' log files; none where the folder cannot be read just now, for the summary is more than they."""
    try:
        return sorted(map(str, folder.glob("worker-*.log")))
    except OSError:
        return []


def _name_skipped(paths: Sequence[Path], lock_seconds: float, file: Path, *, is_any: bool) -> str:
    """Name in a file, one a line, all sources that were left out or read otherwise.

    Args:
        paths: The shards' files.
        lock_seconds: How long to wait for another program that holds one.
        file: Where to.
        is_any: Whether there are any.

    Returns:
        Where it is; empty where there are none, or no room.
    """
    try:
        if not is_any:
            file.unlink(missing_ok=True)
            return ""
        new = file.with_name(f"{file.name}.new")
        with new.open("w", encoding="utf-8", errors="backslashreplace") as out:
            for path in paths:
                for source, note in notes_of(path, lock_seconds):
                    what = note.reason or f"read as {note.kind}"
                    out.write(f"{printable(source)}: {printable(what)}\n")
        new.replace(file)
    except OSError:
        return ""
    return str(file)
