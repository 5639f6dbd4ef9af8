"""Samples, their medians and 99th percentiles, and the tables that `docs/benchmarks.md` holds."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Benchmark", "Figures", "Samples", "machine", "percentile", "table"]

LIBRARIES = ("opentelemetry-sdk", "opentelemetry-exporter-prometheus", "prometheus-client")


class Benchmark(Protocol):
    """What the tests use of pytest-benchmark's fixture, which has no types."""

    disabled: bool
    group: str | None
    extra_info: dict[str, Any]

    def pedantic(self, target: Callable[[], object], *, rounds: int = 1, warmup_rounds: int = 0) -> Any:
        """Run `target` so many times; once where benchmarks are disabled."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclass
class Samples:
    """Times of one kind of step, round by round."""

    rounds: list[list[float]] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """All of them."""
        return [value for values in self.rounds for value in values]

    @property
    def median(self) -> float:
        """Of all."""
        return statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """Of all."""
        return percentile(self.seconds, 99)

    @property
    def spread(self) -> tuple[float, float]:
        """Least and greatest median of a round: how much the machine was elsewhere."""
        medians = [statistics.median(values) for values in self.rounds]
        return min(medians), max(medians)


@dataclass
class Figures:
    """Tables gathered during a session, by title, in the order in which they came."""

    tables: dict[str, list[Mapping[str, str]]] = field(default_factory=dict)

    def add(self, title: str, row: Mapping[str, str]) -> None:
        """Add a row to a table."""
        self.tables.setdefault(title, []).append(row)

    def lines(self) -> Iterator[str]:
        """The tables as Markdown, the machine first."""
        yield f"Measured on {machine()}."
        for title, rows in self.tables.items():
            yield ""
            yield title
            yield ""
            yield from table(rows)


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Rows as a Markdown table; the keys of the first are the headings."""
    headings = list(rows[0])
    return [
        "| " + " | ".join(headings) + " |",
        "|---|" + "---:|" * (len(headings) - 1),
        *("| " + " | ".join(row.get(heading, "") for heading in headings) + " |" for row in rows),
    ]


def machine() -> str:
    """Processor, cores, Python and libraries; no name of the machine."""
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in LIBRARIES)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{_processor()}, {cores} cores, {platform.system()}, "
        f"{platform.python_implementation()} {platform.python_version()}, {libraries}"
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.machine())
