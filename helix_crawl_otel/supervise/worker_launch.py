"""Launches a worker: its channel, its process, its log file, and what takes in what it says.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

from helix_crawl_otel.link.channel import open_pair
from helix_crawl_otel.supervise.incoming import IncomingMessages
from helix_crawl_otel.supervise.job import Launch, WorkerStart
from helix_crawl_otel.supervise.outgoing import SendQueue
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.worker import Worker
from helix_crawl_otel.supervise.worker_listener import OpenShards, WorkerHandle, WorkerListener

__all__ = ["launch_worker"]

PROTOCOL = 1


def launch_worker(run: RunContext, slot: str, start: WorkerStart, left: OpenShards) -> Worker:
    """Start a worker.

    Args:
        run: What all slots share.
        slot: Name of the worker's slot.
        start: Why and where.
        left: Shards that the slot's earlier workers left open.

    Raises:
        OSError: It cannot be started.

    Threads: the main thread: on Linux a child dies with the thread that made it.
    """
    number = run.next_number()
    launch = run.job.launch(slot, start, number)
    channel, end = open_pair()
    try:
        with ExitStack() as stack:
            stack.enter_context(closing(end))
            path = _log_file(run.logs, slot) if launch.is_ours else None
            output = stack.enter_context(path.open("ab")) if path is not None else None
            process = run.spawn(
                launch.argv,
                env={**launch.environ, **end.environment()},
                popen_arguments=end.popen_arguments(),
                stdout=output,
                stderr=output,
                is_ours=launch.is_ours,
            )
    except BaseException:
        channel.close()
        raise
    started_at = run.clock()
    run.worker_started(slot, start, process.pid)
    send_queue = SendQueue(channel, str(process.pid))
    listener = WorkerListener(slot, run, left, trusts_boundaries=not launch.is_ours)
    incoming = IncomingMessages(run.pipeline, slot, send_queue, _welcome(run, start, launch), listener, run.clock)
    listener.meet(WorkerHandle(number, incoming))
    return Worker(process, channel, send_queue, incoming, listener, run, is_ours=launch.is_ours, started_at=started_at)


def _welcome(run: RunContext, start: WorkerStart, launch: Launch) -> dict[str, object]:
    return {
        "version": PROTOCOL,
        "demoted_shard": start.demoted_shard,
        "tick_seconds": run.tick_seconds,
        "clock_rate": run.clock_rate,
        "job": launch.welcome,
    }


def _log_file(folder: Path | None, slot: str) -> Path | None:
    return None if folder is None else folder / f"worker-{slot.replace(':', '-').replace('#', '-')}.log"
