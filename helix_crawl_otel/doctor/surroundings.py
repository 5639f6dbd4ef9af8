"""What to think of the rest: the system, the CPU, SQLite, the metrics' port, the output folder."""

from __future__ import annotations

from collections.abc import Iterator

from helix_crawl_otel.doctor.checks import Check, Severity
from helix_crawl_otel.doctor.facts import Facts

__all__ = ["place_checks", "system_checks"]

GIB = 1024**3
LITTLE_GIB = 1.0

OLDEST_SQLITE = (3, 24, 0)
WAL_RESET_FIXED = (3, 51, 3)
"""Before it two connections that write and checkpoint at once could damage a file, very rarely. One worker writes a
shard here, and nobody else while it does."""


def system_checks(facts: Facts) -> Iterator[Check]:
    """The machine."""
    yield Check("system", f"{facts.system}, Python {facts.python}, helix-crawl-otel {facts.package}", Severity.OK)
    if not facts.is_64_bit:
        yield Check(
            "python",
            "this Python has 32 bits",
            Severity.PROBLEM,
            "install one of 64 bits: torch has no other",
            "https://pytorch.org/get-started/locally/",
        )
    group = facts.group
    memory = ""
    if group.used_bytes is not None and group.limit_bytes is not None:
        memory = f"; {group.used_bytes / GIB:.1f} of {group.limit_bytes / GIB:.1f} GiB of the container's memory in use"
    yield Check("cpu", f"{facts.cores} core{'' if facts.cores == 1 else 's'} for the encoder{memory}", Severity.OK)
    yield _sqlite(facts.sqlite)


def place_checks(facts: Facts, host: str, port: int) -> Iterator[Check]:
    """Where metrics are served, and where shards are written."""
    address = f"{host}:{port}"
    if facts.port_problem is None:
        yield Check("metrics", f"{address} is free", Severity.OK)
    else:
        yield Check(
            "metrics",
            f"nothing can listen at {address}: {facts.port_problem}",
            Severity.WARN,
            "a run takes a free port instead and says which; name another one with --metrics-port, or end what holds "
            "this one",
            "docs/how-to/export-metrics.md",
        )
    place = facts.place
    if place is None:
        return
    free = "" if place.free_bytes is None else f", {place.free_bytes / GIB:.1f} GiB free"
    if place.problem is not None:
        yield Check(
            "output",
            f"{place.path} cannot be written: {place.problem}",
            Severity.PROBLEM,
            "choose another folder, or change its rights",
            "docs/reference/commands.md",
        )
    elif place.free_bytes is not None and place.free_bytes < LITTLE_GIB * GIB:
        yield Check(
            "output",
            f"{place.path} can be written{free}",
            Severity.WARN,
            "a gene takes its text and 4 bytes a dimension: free some space; a full disk pauses nothing and loses "
            "nothing, but the shard fails until there is room",
            "docs/reference/files.md",
        )
    else:
        yield Check("output", f"{place.path} can be written{free}", Severity.OK)


def _sqlite(version: tuple[int, int, int]) -> Check:
    text = ".".join(map(str, version))
    if version < OLDEST_SQLITE:
        return Check(
            "sqlite",
            text,
            Severity.PROBLEM,
            f"use a Python with SQLite {'.'.join(map(str, OLDEST_SQLITE))} or later",
            "https://www.sqlite.org/changes.html",
        )
    if version < WAL_RESET_FIXED:
        return Check(
            "sqlite",
            f"{text}, which has the WAL-reset bug (fixed in 3.51.3)",
            Severity.NOTE,
            "it takes two programs that write one shard at the same moment: leave a shard alone while it is built",
            "https://www.sqlite.org/wal.html#walresetbug",
        )
    return Check("sqlite", text, Severity.OK)
