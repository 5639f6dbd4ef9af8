"""Says what the cards borrow from the system's memory, where Windows counts it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from helix_crawl_otel.config import read_knob
from helix_crawl_otel.doctor.checks import Check, Severity, assign
from helix_crawl_otel.formats import GIB, gib, gib_number
from helix_crawl_otel.policy.memory import RISE_BYTES
from helix_crawl_otel.probes.gpu_counters import AdapterUsage, GpuUsage, ProcessUsage
from helix_crawl_otel.probes.processes import named, process_names
from helix_crawl_otel.probes.shared import COUNTERS, shared_use

__all__ = ["SharedMemory", "shared_check", "shared_memory"]

SHARED = "HELIX_BFM_CRAWL_SHARED"
RUNBOOK = "docs/runbook.md"
REBUILD_PAGE = (
    "https://learn.microsoft.com/troubleshoot/windows-server/performance/manually-rebuild-performance-counters"
)

ON_A_CARD_BYTES = GIB
"""A process that holds so much in an adapter's own memory computes on a card: what it borrows besides did not fit. The
graphics of a CPU have next to no memory of their own, and borrow all that they use."""


@dataclass(frozen=True)
class SharedMemory:
    """What the performance counters say now.

    Args:
        usage: By process and adapter, `None` when unknown.
        why: Why it is.
        names: Of the processes that are known.
    """

    usage: GpuUsage | None
    why: str | None = None
    names: Mapping[int, str] = field(default_factory=dict)


def shared_memory() -> SharedMemory | None:
    """Read the counters once; `None` where there are none, which is everywhere but under Windows."""
    if COUNTERS is None:
        return None
    counters = COUNTERS()
    try:
        return SharedMemory(counters.read(), counters.why, process_names())
    except Exception as error:  # noqa: BLE001 - a fact like any other: it is not known
        return SharedMemory(None, str(error))
    finally:
        counters.close()


def shared_check(found: SharedMemory, environ: Mapping[str, str], platform: str) -> Check:
    """One line.

    Args:
        found: What was read.
        environ: Of this process: whether the knob is on.
        platform: As `sys.platform`.
    """
    topic = "shared memory"
    is_judged = bool(read_knob(SHARED, environ))
    if found.usage is None:
        return Check(
            topic,
            f"what the cards borrow from the system is unknown: {found.why or 'no reason is known'}",
            Severity.WARN if is_judged else Severity.NOTE,
            f"{f'{SHARED}=on has no effect' if is_judged else f'nothing judges by it while {SHARED} is off'}; where "
            "the counters are damaged, `lodctr /R` as an administrator makes them anew",
            REBUILD_PAGE,
        )
    holders = shared_use(found.usage, (), found.names.get).holders
    most = ", ".join(
        f"{named(one.name, one.pid)} {gib_number(one.dedicated_bytes, 2)} and {gib(one.shared_bytes, 2)}"
        for one in holders
    )
    adapters = "; ".join(_adapter(one) for one in found.usage.adapters if one.dedicated_bytes + one.shared_bytes)
    fact = f"{adapters or 'no adapter has any in use'}{f'; most by {most}' if most else ''}"
    spilled = [one for one in found.usage.processes if _has_spilled(one)]
    if spilled:
        names = ", ".join(named(found.names.get(one.pid), one.pid) for one in spilled)
        return Check(
            topic,
            fact,
            Severity.WARN,
            f"{names} borrows more than 512 MiB beside what it holds on its card: it has spilled, or pins memory, "
            "as games and browsers may. A job that is slow: start it again; anything else: close it while a job runs",
            RUNBOOK,
        )
    advice = (
        "run this beside a job that is slow: a rise of the worker's by more than 512 MiB is a spill. Judging by it is "
    )
    advice += "on" if is_judged else f"off until somebody has seen it on a real card ({assign(platform, SHARED, 'on')})"
    return Check(topic, fact, Severity.NOTE, advice, RUNBOOK)


def _has_spilled(process: ProcessUsage) -> bool:
    return process.dedicated_bytes >= ON_A_CARD_BYTES and process.shared_bytes > RISE_BYTES


def _adapter(usage: AdapterUsage) -> str:
    dedicated, shared = gib(usage.dedicated_bytes, 2), gib(usage.shared_bytes, 2)
    return f"adapter {usage.adapter}: {dedicated} of its own and {shared} of the system's in use"
