"""Decides whose graphics memory lies in system memory: the worker's or somebody else's, and names who holds most."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from helix_crawl_otel.probes.gpu_counters import GpuUsage

__all__ = ["Holder", "SharedUse", "shared_use"]

MOST_HOLDERS = 5


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds graphics memory.

    Args:
        pid: The process.
        name: Of its program, such as `game.exe`; `None` when it is not known.
        dedicated_bytes: In the adapters' own memory.
        shared_bytes: In system memory.
    """

    pid: int
    name: str | None
    dedicated_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class SharedUse:
    """Graphics memory that lies in system memory.

    Args:
        worker_bytes: Of the worker and all it has started, on every adapter.
        other_bytes: Of everybody else, on the adapters that the worker uses; on all while it uses none.
        holders: Who else holds memory of either kind on those adapters: most first, at most 5.
    """

    worker_bytes: int
    other_bytes: int
    holders: tuple[Holder, ...]


def shared_use(usage: GpuUsage, workers: Collection[int], name_of: Callable[[int], str | None]) -> SharedUse:
    """Divide a reading into the worker's share and the others'.

    An adapter counts as used by the worker when a process of it has memory there: a process that only looked at an
    adapter is listed with 0 bytes, and what lies on a second card does not press on the first.

    Args:
        usage: The reading.
        workers: Process ids of the worker and all it has started.
        name_of: The name of a process; asked for the holders only.
    """
    used = {
        process.adapter
        for process in usage.processes
        if process.pid in workers and process.dedicated_bytes + process.shared_bytes > 0
    }
    worker_bytes = sum(process.shared_bytes for process in usage.processes if process.pid in workers)
    others: dict[int, tuple[int, int]] = {}
    for process in usage.processes:
        if process.pid not in workers and (not used or process.adapter in used):
            dedicated, shared = others.get(process.pid, (0, 0))
            others[process.pid] = (dedicated + process.dedicated_bytes, shared + process.shared_bytes)
    most = sorted((-sum(held), pid) for pid, held in others.items() if sum(held) > 0)[:MOST_HOLDERS]
    return SharedUse(
        worker_bytes,
        sum(shared for _, shared in others.values()),
        tuple(Holder(pid, name_of(pid), *others[pid]) for _, pid in most),
    )
