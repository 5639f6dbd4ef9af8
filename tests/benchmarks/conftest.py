"""Gathers the figures of the benchmarks and prints them at the end, ready for `docs/benchmarks.md`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.benchmarks.figures import Figures
from tests.benchmarks.metrics import Endpoint, endpoint

_FIGURES = pytest.StashKey[Figures]()


def pytest_configure(config: pytest.Config) -> None:
    """One set of tables a session."""
    config.stash.setdefault(_FIGURES, Figures())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was gathered; a run with --benchmark-disable is a test of the benchmarks, and measures nothing."""
    gathered = config.stash.get(_FIGURES, Figures())
    if gathered.tables and not config.getoption("benchmark_disable", False):
        terminalreporter.section("figures for docs/benchmarks.md")
        for line in gathered.lines():
            terminalreporter.write_line(line)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Where a benchmark puts its rows."""
    return request.config.stash.setdefault(_FIGURES, Figures())


@pytest.fixture
def exported(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """A meter provider, with what the parameter says: `no reader`, `Prometheus` or `Prometheus, scraped`."""
    with endpoint(str(request.param)) as found:
        yield found
