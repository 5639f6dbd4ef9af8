"""What every test gets: a hypothesis profile for shared machines, and nothing of the user's own settings."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# A deadline per example, or a look at how quickly they are drawn, measures the neighbours on a shared core;
# pytest-timeout bounds the whole test instead.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The gate tries the same examples every time: a red gate is a fact about the change. Local runs go on searching.
settings.register_profile(
    "gate", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])

_USER_SETTINGS = ("BGEM3_", "CYMATIX_", "HELIX_BFM_", "HELIX_DENSE_", "OTEL_")


def pytest_configure() -> None:
    """Choose the profile (HELIX_TEST_HYPOTHESIS, else by CI); forget the knobs of the user's shell, hear Ctrl-C."""
    settings.load_profile(os.environ.get("HELIX_TEST_HYPOTHESIS") or ("gate" if os.environ.get("CI") else "local"))
    for name in [name for name in os.environ if name.startswith(_USER_SETTINGS)]:
        del os.environ[name]
    # A shell without job control lets what it starts in the background ignore Ctrl-C, and all that is started by that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
