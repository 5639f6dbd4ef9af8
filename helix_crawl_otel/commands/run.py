"""`helix-crawl run -- CMD ARG...`: supervises a driver of the user's own that uses `CrawlWatch`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from helix_crawl_otel.commands.common import Commands, add_command, look_back, typed_command
from helix_crawl_otel.commands.ray import JobPlaces, add_job_options, read_job_options
from helix_crawl_otel.config import RESUMABLE_VARIABLE, ConfigError, option_or_knob
from helix_crawl_otel.console.options import CommonOptions, add_common_options, read_common_options
from helix_crawl_otel.console.text import Summary
from helix_crawl_otel.exit_codes import DONE, FAILED, INTERRUPTED
from helix_crawl_otel.import_path import VARIABLE, instrumented_variable
from helix_crawl_otel.paths import job_folder, typed_path
from helix_crawl_otel.policy.model import UNKNOWN_DEVICE
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.torch_cuda import may_have_card
from helix_crawl_otel.supervise import events
from helix_crawl_otel.supervise.external import JobCommand, RunJob, job_command, watched_by_bar
from helix_crawl_otel.supervise.lock import FolderLock

__all__ = ["register"]

DEVICE = "BGEM3_DEVICE"

MOST_GENES = 10**15

_DESCRIPTION = """\
Runs a job of your own that uses CrawlWatch, and supervises it: the policy, the metrics and the timeline live out
here, so they go on while the job is wedged or being replaced. When the ladder asks for it the job is started again:
it has to resume where it was. Demoted to the CPU it is started with BGEM3_DEVICE=cpu and without a card to be seen."""

_EPILOG = """\
examples:
  helix-crawl run -- python my_job.py --input ~/notes
  helix-crawl run --instrument -- python embed.py             a job without a line of ours
  helix-crawl run --progress tqdm -- accelerate launch train.py    any program, by its bar
  helix-crawl run --state ~/jobs/notes -- ./embed.sh          where timeline and ladder state are kept
  helix-crawl run --ray auto --state /mnt/jobs/a -- python my_job.py    a copy on each slot of a cluster

exit codes: 0 the job is done; 1 it crashed again and again; 2 wrong usage; 75 it was paused, and the same command
resumes it; 78 it can never start; 130 a second interrupt."""


def register(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "run",
        _command,
        "supervise a job of your own that uses CrawlWatch",
        _DESCRIPTION,
        _EPILOG,
        usage="helix-crawl run [options] -- CMD [ARG ...]",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD ARG", help="the job, after two dashes")
    parser.add_argument(
        "--state",
        default=".helix-crawl",
        metavar="DIR",
        help="where timeline, ladder state and lock are kept (default .helix-crawl in this folder)",
    )
    parser.add_argument(
        "--total",
        type=int,
        metavar="N",
        help="genes that the job encodes in all, those of earlier runs included: for progress and the time to go",
    )
    parser.add_argument(
        "--instrument",
        action="store_true",
        help="watch a Python job that has no line of ours: sentence-transformers, FlagEmbedding, transformers, and "
        "what encodes through them (needs the extra `instrument` in the job's Python)",
    )
    parser.add_argument(
        "--progress",
        choices=("tqdm", "rich"),
        help="watch any program by its progress bar on standard error, drawn by tqdm or rich; its steps count as genes",
    )
    parser.add_argument(
        "--resumable",
        action="store_true",
        help="with --instrument or --progress: the job goes on where it was when it is started again, so that it may "
        "be, with --instrument between two calls of its models; else it is never ended nor started again",
    )
    add_common_options(parser, (DEVICE,))
    add_job_options(parser)
    faults = parser.add_argument_group("fault injection", "for tests and demonstrations, never for a real job")
    faults.add_argument(
        "--clock-rate",
        type=float,
        default=1.0,
        metavar="RATE",
        help="fault injection: how much faster the run's clock runs (default 1)",
    )


def _likely_device(environ: Mapping[str, str]) -> str:
    """Where a job encodes that has not said so yet: on the card, where there is one, whose memory is read before."""
    return "cuda:0" if may_have_card(environ) else UNKNOWN_DEVICE


def _encoded_before(folder: Path, total: int) -> int:
    """Genes that runs before this one have encoded, of a job that they have not brought to its end."""
    from helix_crawl_otel.console.run_record import read_record

    before = read_record(folder)
    if before is None or before.expected != total or (before.end is not None and before.end.exit_code == DONE):
        return 0
    return min(total, before.standing.vectors)


def _command(args: argparse.Namespace) -> int:
    from helix_crawl_otel.console.console import Console
    from helix_crawl_otel.console.notify import Notice
    from helix_crawl_otel.console.output import StandardOutput
    from helix_crawl_otel.console.run_metrics import RunMetrics
    from helix_crawl_otel.otel.run_gauges import job_name
    from helix_crawl_otel.supervise.session import RunOptions, Session

    options = replace(read_common_options(args), is_plain=True)  # bars would be drawn over what the job writes there
    command = job_command(args.command)
    if (fleet := read_job_options(args)) is not None:
        return _on_cluster(args, options, command, fleet)
    if not 0 < args.clock_rate <= 10_000:
        raise ConfigError(f"--clock-rate is {args.clock_rate!r}; accepted: a number > 0 and <= 10000")
    if args.total is not None and not 0 < args.total < MOST_GENES:
        raise ConfigError(f"--total is {args.total}; accepted: a number of genes, 1 or more")
    asked = str(option_or_knob(DEVICE, options.knobs, options.environ))
    device = str(parse_device(asked)) if asked != "auto" else _likely_device(options.environ)
    environ = {**options.environ, **command.added, **({DEVICE: asked} if DEVICE in options.knobs else {})}
    if args.instrument and args.progress:
        raise ConfigError("--instrument and --progress are given; accepted: one of them")
    is_unaware = bool(args.instrument or args.progress)
    if args.resumable and not is_unaware:
        raise ConfigError(
            "--resumable is given without --instrument or --progress; accepted: with one of them; a driver that uses "
            "CrawlWatch resumes anyway"
        )
    if args.instrument:
        environ[VARIABLE] = instrumented_variable(environ.get(VARIABLE, ""))
        environ[RESUMABLE_VARIABLE] = "1" if args.resumable else "0"
    argv = command.argv
    if args.progress:
        argv, environ = watched_by_bar(command.name, argv, environ, resumes=args.resumable)
    folder = typed_path(args.state, "--state").absolute()
    typed = typed_command()
    with ExitStack() as stack:
        standard_output = stack.enter_context(StandardOutput(options.as_json))
        metrics = stack.enter_context(RunMetrics(options, job_name(command.argv), "run", job_folder(folder)))
        notice = stack.enter_context(Notice(options.notify))
        stack.enter_context(FolderLock(folder, typed))
        metrics.open(standard_output.shown)
        vectors = 0 if args.total is None else _encoded_before(folder, args.total)
        console = stack.enter_context(Console(options, metrics, standard_output.shown, notice))
        run_options = RunOptions(
            config=options.config,
            folder=folder,
            encoder="",
            slots=[("job", device)],
            environ=environ,
            keeps_logs=False,
            clock_rate=args.clock_rate,
        )

        def emit_and_count(event: events.Event) -> None:
            console.emit(event)
            if isinstance(event, (events.RunStarted, events.Committed)):
                session.pipeline.set_pending_in_all(console.progress.left)

        emit = console.emit if args.total is None else emit_and_count
        session = stack.enter_context(Session(run_options, metrics.exported, emit, console.refresh, metrics.keep))
        console.start(session.clock, session.folder)
        why = "until its driver says otherwise" if asked == "auto" else "as asked for"
        counts = 0, 0, vectors, args.total
        emit(events.RunStarted(session.clock(), typed, str(job_folder(folder)), command.name, (device,), why, *counts))
        run, code = session.supervise(RunJob(argv, environ, resumes=args.resumable or not is_unaware))
        summary = Summary(
            exit_code=FAILED if code == DONE and run.failures else code,
            seconds=console.seconds(),
            encoded=run.totals.encoded,
            actions=dict(console.progress.actions),
            starts=dict(run.totals.starts),
            lost_seconds=run.totals.lost_seconds,
            gate_seconds=run.totals.gate_seconds,
            reason="; ".join([*run.failures, *(why for _, why in run.endings)]) if code else "",
            next_step="" if code == DONE else typed,
        )
        if summary.exit_code != INTERRUPTED:
            summary = replace(summary, would_have_saved=look_back(session, console.progress))
        console.end(summary)
        standard_output.hurries = summary.exit_code == INTERRUPTED
    return summary.exit_code


def _on_cluster(args: argparse.Namespace, options: CommonOptions, command: JobCommand, fleet: JobPlaces) -> int:
    """A copy of the driver on each slot of a cluster."""
    from helix_crawl_otel.fleet.run import run_jobs

    for option in ("instrument", "progress", "total"):
        if getattr(args, option):
            raise ConfigError(f"--{option} is given with --ray; accepted: one of them")
    asked = str(option_or_knob(DEVICE, options.knobs, options.environ))
    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device is {asked!r} with --ray; accepted: auto, cpu or cuda, for Ray hands out the cards")
    folder = typed_path(args.state, "--state").absolute()
    return run_jobs(
        typed_command(),
        folder,
        command,
        options,
        address=fleet.address,
        slots=fleet.slots,
        lease_seconds=fleet.lease_seconds,
        given=vars(args),
        on_cards=asked != "cpu",
    )
