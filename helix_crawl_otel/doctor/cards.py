"""What to think of the cards: driver, driver model, memory against the threshold, who holds it, the device that `auto`
takes.

Source: INCIDENTS.md: settings that the operators of the two incidents found to work, by dedicated memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from helix_crawl_otel.build.devices import NO_CUDA, choose_devices
from helix_crawl_otel.config import Value
from helix_crawl_otel.doctor.checks import Check, Severity, assign
from helix_crawl_otel.doctor.facts import Facts
from helix_crawl_otel.formats import count, gib, gib_number
from helix_crawl_otel.probes.cards import CardInfo, CardProcesses, Description, listed, listed_names
from helix_crawl_otel.probes.nvml import CUT_UP, NO_LIBRARY, NOT_LOADED, UNIFIED, way_out
from helix_crawl_otel.probes.vram_cap import (
    AUTO,
    AUTO_FRACTION,
    CAPPED_MODELS,
    CONTEXT_BYTES,
    OFF,
    VRAM_CAP,
    CardRoom,
    cap_bytes,
    fraction_of,
    set_by_user,
)

__all__ = ["card_checks", "device_check"]

CUDA_PAGE = "https://docs.nvidia.com/cuda/cuda-c-programming-guide/#env-vars"
MIG_PAGE = "https://docs.nvidia.com/datacenter/tesla/mig-user-guide/mig-device-names.html"
NVML_PAGE = "https://docs.nvidia.com/deploy/nvml-api/"
FALLBACK_PAGE = "https://nvidia.custhelp.com/app/answers/detail/a_id/5490"
MCDM_PAGE = "https://learn.microsoft.com/en-us/windows-hardware/drivers/display/mcdm"
PROCESS_PAGE = "https://docs.nvidia.com/deploy/nvml-api/api/structnvmlProcessInfo__t.html"
RUNBOOK = "docs/runbook.md"
CAP_PAGE = "docs/how-to/choose-a-device.md"

FALLBACK_SINCE, POLICY_SINCE = (536, 40), (546, 1)
"""Drivers for Windows: the first that spills to system memory, and the first that has a setting against it."""

ROOMY = 0.8
"""More than that in use before a job begins leaves it little."""


def card_checks(facts: Facts, vram_full: float, vram_cap: Value) -> Iterator[Check]:
    """Lines about the driver and about each card.

    Args:
        facts: Gathered.
        vram_full: The knob.
        vram_cap: Likewise.
    """
    nvml = facts.nvml
    if nvml.why is not None:
        yield _no_nvml(nvml, facts.platform)
        return
    version = nvml.driver or "unknown"
    if not nvml.cards:
        yield Check("nvml", f"driver {version}, which sees no card", Severity.NOTE)
        return
    fact = f"driver {version}, {count(len(nvml.cards), 'card')}"
    if nvml.trouble is not None:
        yield Check("nvml", fact, Severity.PROBLEM, nvml.trouble, CUDA_PAGE)
    else:
        yield Check("nvml", fact, Severity.OK)
    for card in nvml.cards:
        yield from _card(facts, card, vram_full, vram_cap)
    if facts.platform == "win32" and any(card.model in ("WDDM", None) for card in nvml.cards):
        yield _fallback(nvml.driver)
    elif facts.is_wsl:
        yield Check(
            "sysmem fallback",
            "this is Linux inside Windows: a full card spills to system memory as it does under Windows",
            Severity.WARN,
            "leave the watchdog on; the setting of Windows' control panel against the spill is reported to have no "
            "effect here",
            RUNBOOK,
        )


def device_check(facts: Facts, cpu_below_gib: float) -> Check:
    """The device that `--device auto` takes, and why."""
    plan = choose_devices("auto", None, cpu_below_gib, facts.workers, facts.cores, facts.torch_build)
    fact = f"--device auto takes {' and '.join(device for _, device in plan.slots)}: {plan.why}"
    if NO_CUDA in plan.warnings:
        return Check("device", fact, Severity.PROBLEM, NO_CUDA, "https://pytorch.org/get-started/locally/")
    return Check("device", fact, Severity.OK)  # what ails the cards stands in their own lines


def _no_nvml(nvml: Description, platform: str) -> Check:
    fact = f"no card can be asked: {nvml.why}"
    if nvml.code != NO_LIBRARY:
        # A driver that is not loaded may have been installed with the system, on a machine without a card.
        verdict = Severity.WARN if nvml.code == NOT_LOADED else Severity.PROBLEM
        return Check("nvml", fact, verdict, way_out(nvml.code), NVML_PAGE)
    library = r", which brings %WINDIR%\System32\nvml.dll" if platform == "win32" else ""
    return Check(
        "nvml",
        fact,
        Severity.NOTE,
        f"on a machine with an NVIDIA card, install or repair its driver{library}; without a card there is nothing to "
        "do: jobs run on the CPU, where nothing spills",
        NVML_PAGE,
    )


def _card(facts: Facts, card: CardInfo, vram_full: float, vram_cap: Value) -> Iterator[Check]:
    name = card.name or ("an instance" if card.index is None else "a card without a name")
    size = "" if card.memory.limit_bytes is None else f", {gib(card.memory.limit_bytes)}"
    unknown = ", driver model unknown" if facts.platform == "win32" else ""
    fact = f"{name}{size}{unknown if card.model is None else f', {card.model}'}"
    topic = card.device or f"card {card.index}"
    if card.why == CUT_UP:
        yield Check(topic, f"{fact}, MIG", Severity.WARN, CUT_UP, MIG_PAGE)
    elif not card.is_usable:
        yield Check(topic, f"{fact}: {card.why}", Severity.PROBLEM, way_out(card.code), NVML_PAGE)
    elif card.device is None:
        yield Check(
            topic,
            f"{fact}: what CUDA calls it is not known, or it is hidden by CUDA_VISIBLE_DEVICES",
            Severity.NOTE,
            f"{assign(facts.platform, 'CUDA_DEVICE_ORDER', 'PCI_BUS_ID')}, or name the card by its UUID in "
            "CUDA_VISIBLE_DEVICES, to use it",
            CUDA_PAGE,
        )
    else:
        yield _model(topic, fact, card.model, facts.platform)
        yield _memory(facts, topic, card, vram_full)
        if facts.torch_build != "":
            yield _cap(facts, card, card.device, vram_cap)
        if topic in facts.processes:
            yield _holders(topic, card, facts.processes[topic], facts.platform)


_MODELS = {
    "WDDM": (
        Severity.WARN,
        "under WDDM a full card does not fail, it crawls: encode under `helix-crawl`, or on the CPU",
        FALLBACK_PAGE,
    ),
    "MCDM": (
        Severity.NOTE,
        "MCDM is the part of WDDM for cards that only compute. Whether a full card spills or fails there is not "
        "documented: encode under `helix-crawl`, which sees either",
        MCDM_PAGE,
    ),
}
"""What follows from a driver model that is none to rely on."""


def _model(topic: str, fact: str, model: str | None, platform: str) -> Check:
    if model == "TCC":
        fact += ": it does not spill, a full card raises out-of-memory"
    if model is None and platform == "win32":
        model = "WDDM"  # that of nearly every card there
    return Check(topic, fact, *_MODELS.get(model or "", (Severity.OK,)))


def _memory(facts: Facts, topic: str, card: CardInfo, vram_full: float) -> Check:
    used, limit = card.memory.used_bytes, card.memory.limit_bytes
    topic = f"{topic} memory"
    if used is None or not limit:
        if card.why is not None and UNIFIED in card.why:
            return Check(topic, "unified with the system's: there is nothing to spill to", Severity.OK)
        return Check(
            topic,
            f"unknown ({card.why or 'not read'}): a crawl cannot be told from a slow job, so nothing trips",
            Severity.PROBLEM,
            f"{way_out(card.code)}; or pass a probe of your own as CrawlWatch(memory=...)",
            NVML_PAGE,
        )
    threshold = vram_full * limit
    fact = f"{gib_number(used)} of {gib(limit)} in use; {gib(threshold)} count as full (--vram {vram_full:g})"
    if used >= threshold:
        return Check(
            topic, fact, Severity.WARN, "it is full before the job begins: close what holds it, or use the CPU", RUNBOOK
        )
    if used >= ROOMY * limit:
        return Check(topic, fact, Severity.WARN, "little is left for a model: close what holds the rest", RUNBOOK)
    if card.model == "WDDM":
        return Check(
            topic,
            fact,
            Severity.NOTE,
            "Windows gives a process less than the card has (7.6 of 8 GB, on Windows 10 up to 3 GB less of 22): if a "
            "job crawls below the threshold, set HELIX_BFM_CRAWL_VRAM lower "
            f"({assign(facts.platform, 'HELIX_BFM_CRAWL_VRAM', '0.85')})",
            RUNBOOK,
        )
    return Check(topic, fact, Severity.OK)


def _cap(facts: Facts, card: CardInfo, device: str, setting: Value) -> Check:
    """What the cap on a worker's torch would be now, and why."""
    topic, own = f"{device} cap", set_by_user(facts.environ)
    if own is not None:
        fact = f"torch's own setting, {own}: it is left as it is, and {VRAM_CAP} has no effect"
        return Check(topic, fact, Severity.OK)
    used, limit = card.memory.used_bytes, card.memory.limit_bytes
    fraction = fraction_of(setting, card.model)
    if used is None or limit is None:
        return Check(topic, "none: what is free is not known", Severity.OK if fraction is None else Severity.NOTE)
    room = CardRoom(max(0, limit - used), budget_bytes=facts.budgets.get(device))
    share, cap = fraction or AUTO_FRACTION, cap_bytes(fraction or AUTO_FRACTION, room)
    free = f"{share:g} of the {gib(room.free_bytes)} that are free"
    if room.budget_bytes is not None and room.budget_bytes < share * room.free_bytes:
        free = f"Windows' budget of {gib(room.budget_bytes)} for a process"
    amount = f"{gib(cap)} ({cap} bytes): {free}, less {gib(CONTEXT_BYTES)} for its context"
    if fraction is not None:
        return Check(
            topic,
            f"a worker's torch may take {amount} ({VRAM_CAP}={setting}{f', {card.model}' if setting == AUTO else ''})",
            Severity.NOTE,
            "beyond it torch raises out-of-memory, which is answered with smaller batches, instead of spilling. It has "
            f"not been seen on a real card under WDDM yet; {assign(facts.platform, VRAM_CAP, OFF)} takes it away",
            CAP_PAGE,
        )
    why = "" if setting == OFF else f" caps under {' and '.join(CAPPED_MODELS)} alone"
    fact = f"none: {VRAM_CAP}={setting}{why}; {AUTO_FRACTION:g} would be {amount}"
    if facts.is_wsl or (facts.platform == "win32" and card.model != "TCC"):
        advice = f"here a full card may spill: {assign(facts.platform, VRAM_CAP, f'{AUTO_FRACTION:g}')} makes it raise"
        return Check(topic, fact, Severity.NOTE, advice, CAP_PAGE)
    return Check(topic, fact, Severity.OK)


def _fallback(driver: str | None) -> Check:
    found = re.match(r"(\d+)\.(\d+)", driver or "")
    version = (int(found[1]), int(found[2])) if found else None
    if version is not None and version < FALLBACK_SINCE:
        return Check(
            "sysmem fallback",
            f"driver {driver} is older than 536.40, the first that spills to system memory instead of failing",
            Severity.OK,
        )
    if version is not None and version < POLICY_SINCE:
        return Check(
            "sysmem fallback",
            f"driver {driver} spills to system memory when the card is full, and has no setting against it",
            Severity.WARN,
            "update to 546.01 or later, then set CUDA - Sysmem Fallback Policy to Prefer No Sysmem Fallback",
            FALLBACK_PAGE,
        )
    return Check(
        "sysmem fallback",
        f"driver {driver or 'of unknown version'} spills to system memory when the card is full, unless it is told "
        "not to; the setting cannot be read from here",
        Severity.WARN,
        "NVIDIA Control Panel, Manage 3D settings, Program settings, python.exe: CUDA - Sysmem Fallback Policy = "
        "Prefer No Sysmem Fallback. A full card then raises out-of-memory, which `helix-crawl build` answers with "
        "smaller batches",
        FALLBACK_PAGE,
    )


def _holders(topic: str, card: CardInfo, found: CardProcesses, platform: str) -> Check:
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
