"""What some tests need beside this package: programs such as promtool, modules such as torch."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Mapping
from types import ModuleType

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
    raise _without(f"{name} is not on PATH", "install it, or see .ci/run", environ)


def require_module(name: str, extra: str, environ: Mapping[str, str] | None = None) -> ModuleType:
    """Import and return a module; without it skip the tests, or fail them where the gate promises the module.

    Args:
        name: the module's full name, such as `torch`.
        extra: what installs it: an extra of this package, or a distribution.
        environ: where HELIX_TEST_REQUIRE_PROGRAMS is read; `None` means the process's own environment.

    Raises:
        pytest.skip.Exception: the module is missing; at the top of a file, the whole file is skipped.
        pytest.fail.Exception: it is missing and HELIX_TEST_REQUIRE_PROGRAMS is `1`.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it needs is not
    raise _without(f"{name} is not installed", f"pip install {extra}", os.environ if environ is None else environ)


def require_installed(name: str, extra: str, environ: Mapping[str, str] | None = None) -> None:
    """The same without the import, which of torch is seconds of a processor: at the top of a file, and for what only
    another process imports.

    Args:
        name: a module of no package, such as `torch`, or of one that is there.
        extra: what installs it: an extra of this package, or a distribution.
        environ: where HELIX_TEST_REQUIRE_PROGRAMS is read; `None` means the process's own environment.

    Raises:
        pytest.skip.Exception: the module is missing.
        pytest.fail.Exception: it is missing and HELIX_TEST_REQUIRE_PROGRAMS is `1`.
    """
    if importlib.util.find_spec(name) is None:
        raise _without(f"{name} is not installed", f"pip install {extra}", os.environ if environ is None else environ)


def _without(what: str, remedy: str, environ: Mapping[str, str]) -> BaseException:
    if environ.get(REQUIRE) == "1":
        return pytest.fail.Exception(f"{what}, and {REQUIRE}=1 says that it must be", pytrace=False)
    return pytest.skip.Exception(f"{what} ({remedy})", allow_module_level=True)
