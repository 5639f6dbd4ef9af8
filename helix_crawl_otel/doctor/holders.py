"""Says who holds a card, where the driver tells."""

from __future__ import annotations

from helix_crawl_otel.doctor.checks import Check, Severity
from helix_crawl_otel.probes.cards import CardInfo, CardProcesses, listed, listed_names

__all__ = ["holders_check"]

PROCESS_PAGE = "https://docs.nvidia.com/deploy/nvml-api/api/structnvmlProcessInfo__t.html"


def holders_check(topic: str, card: CardInfo, found: CardProcesses, platform: str) -> Check:
    """One line about the processes on a card.

    Args:
        topic: What CUDA calls the card.
        card: Its driver model decides what can be known.
        found: What NVML has listed.
        platform: As `sys.platform`.
    """
    topic = f"{topic} processes"
    if found.why is not None:
        return Check(topic, f"not known who holds it ({found.why})", Severity.NOTE)
    if not found.processes:
        outside = "" if platform == "win32" else "; of those outside a container it may not tell"
        return Check(topic, f"NVML lists none{outside}", Severity.OK)
    if any(process.used_bytes is not None for process in found.processes):
        return Check(topic, listed(found.processes), Severity.OK)
    names = listed_names(found.processes)
    under = f"under {card.model}" if card.model is not None else "here"
    fact = f"per-process values are not available {under}; on the card: {names}"
    if platform != "win32":
        return Check(topic, fact, Severity.NOTE)
    return Check(
        topic,
        fact,
        Severity.NOTE,
        "the performance counters of Windows tell who holds the memory: Task Manager, Details, right-click a heading, "
        "Select columns, Dedicated GPU memory and Shared GPU memory",
        PROCESS_PAGE,
    )
