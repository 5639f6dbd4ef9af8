"""Programs that some tests need beside Python: promtool, a C compiler."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping

import pytest

REQUIRE = "HELIX_TEST_REQUIRE_PROGRAMS"


def require_program(name: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the path of a program; without it skip the test, or fail it where the gate promises the program.

    Args:
        name: the program as it is called, such as `promtool`.
        environ: where PATH and HELIX_TEST_REQUIRE_PROGRAMS are read; `None` means the process's own environment.

    Returns:
        The program's path.

    Raises:
        pytest.skip.Exception: the program is missing.
        pytest.fail.Exception: it is missing and HELIX_TEST_REQUIRE_PROGRAMS is `1`.
    """
    environ = os.environ if environ is None else environ
    found = shutil.which(name, path=environ.get("PATH", os.defpath))
    if found is not None:
        return found
    if environ.get(REQUIRE) == "1":
        pytest.fail(f"{name} is not on PATH, and {REQUIRE}=1 says that it must be", pytrace=False)
    pytest.skip(f"{name} is not on PATH (install it, or see .ci/run)")
