"""Says who holds a card, where the driver tells."""

from __future__ import annotations

from helix_crawl_otel.doctor.check import Check, Verdict
from helix_crawl_otel.memory.nvml_describe import CardInfo
from helix_crawl_otel.memory.nvml_processes import CardProcess, CardProcesses

__all__ = ["holders_check"]

MIB = 1024**2
MOST = 5
"""Under Windows everything that draws is on the list: 30 of them tell nobody more."""

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
        return Check(topic, f"not known who holds it ({found.why})", Verdict.NOTE)
    if not found.processes:
        outside = "" if platform == "win32" else "; of those outside a container it may not tell"
        return Check(topic, f"NVML lists none{outside}", Verdict.OK)
    if any(process.used_bytes is not None for process in found.processes):
        return Check(topic, _listed([_with_size(process) for process in found.processes]), Verdict.OK)
    names = _listed([_named(process) for process in found.processes])
    under = f"under {card.model}" if card.model is not None else "here"
    fact = f"per-process values are not available {under}; on the card: {names}"
    if platform != "win32":
        return Check(topic, fact, Verdict.NOTE)
    return Check(
        topic,
        fact,
        Verdict.NOTE,
        "the performance counters of Windows tell who holds the memory: Task Manager, Details, right-click a heading, "
        "Select columns, Dedicated GPU memory and Shared GPU memory",
        PROCESS_PAGE,
    )


def _listed(words: list[str]) -> str:
    more = len(words) - MOST
    return ", ".join(words[:MOST]) + (f" and {more} more" if more > 0 else "")


def _with_size(process: CardProcess) -> str:
    size = "unknown" if process.used_bytes is None else f"{process.used_bytes / MIB:.0f} MiB"
    return f"{_named(process)} {size}"


def _named(process: CardProcess) -> str:
    return f"{process.name or 'a process'} (pid {process.pid})"
