"""Where the next worker of a slot belongs: on the slot's own device, or on the CPU for a shard that was demoted.

Source: DESIGN.md, section 5.
"""

from __future__ import annotations

from helix_crawl_otel.policy.model import ActionKind
from helix_crawl_otel.supervise.job import WorkerStart
from helix_crawl_otel.supervise.run_state import RunContext
from helix_crawl_otel.supervise.worker_listener import OpenShards

__all__ = ["owed_demotion", "place"]


def place(run: RunContext, slot: str, device: str, reason: str, shard: str | None) -> WorkerStart:
    """The next start of a slot.

    Args:
        run: Knows which shards were demoted.
        slot: Its name.
        device: The slot's own.
        reason: Of the start.
        shard: What it goes on with, as far as the last worker told, `None` for unknown; the job may know better.
    """
    shard = run.job.next_shard(slot) or shard
    if shard not in run.demoted or device == "cpu":
        return WorkerStart(reason, device)
    return WorkerStart("demote" if reason == "resume" else reason, "cpu", demoted_shard=shard)


def owed_demotion(run: RunContext, left: OpenShards) -> str | None:
    """A shard whose demotion was asked for and had not come to its boundary when the worker ended.

    The policy takes the change of worker for the demotion, and no rung is left: so it has to be one.
    """
    for shard in left.names():
        if run.pipeline.pending_action(shard) is ActionKind.DEMOTE_CPU:
            run.demoted.add(shard)
            return shard
    return None
