"""What every test gets: a hypothesis profile for shared machines, nothing of the user's own settings, a process."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# A deadline per example, or a look at how quickly they are drawn, measures the neighbours on a shared core;
# pytest-timeout bounds the whole test instead.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The gate tries the same examples every time: a red gate is a fact about the change. Local runs go on searching.
# Fewer than the 100 of hypothesis, since more of the same each time find nothing new.
settings.register_profile(
    "gate",
    max_examples=40,
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])

PROCESSES_A_CORE = 2
"""A test that starts a job waits for it about half of its time."""
MOST_PROCESSES = 16
"""Each imports torch: half a gigabyte."""

_USER_SETTINGS = ("BGEM3_", "CYMATIX_", "HELIX_BFM_", "HELIX_DENSE_", "OTEL_")


def pytest_configure() -> None:
    """Choose the profile (HELIX_TEST_HYPOTHESIS, else by CI); forget the knobs of the user's shell, hear Ctrl-C."""
    settings.load_profile(os.environ.get("HELIX_TEST_HYPOTHESIS") or ("gate" if os.environ.get("CI") else "local"))
    for name in [name for name in os.environ if name.startswith(_USER_SETTINGS)]:
        del os.environ[name]
    # Hundreds of Pythons are started: each would compile the package and its own libraries anew.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        sys.dont_write_bytecode = False
    # A shell without job control lets what it starts in the background ignore Ctrl-C, and all that is started by that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes run the tests; 0 is this one alone: for what measures, for files by name and with `-s`."""
    chosen = str(config.option.markexpr)
    measures = any(kind in chosen and f"not {kind}" not in chosen for kind in ("benchmark", "gpu"))
    names_files = bool(config.args) and all(".py" in argument for argument in config.args)
    if measures or names_files or config.option.capture == "no":
        return 0
    return min(MOST_PROCESSES, PROCESSES_A_CORE * (os.cpu_count() or 1))
