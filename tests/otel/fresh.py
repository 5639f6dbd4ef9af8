"""Runs a program in a process of its own, with a deadline: what is global to a process is tested in a fresh one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping

from tests.rules.tree import ROOT

_PRELUDE = """\
import faulthandler, sys
faulthandler.dump_traceback_later({after}, exit=True)
"""


def run_fresh(
    program: str,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    seconds: float = 80,
    code: int = 0,
    warnings: str = "error",
) -> str:
    """Run Python code and return what it printed on stdout.

    Args:
        program: Indented as the test is. A process that hangs says where on stderr.
        arguments: `sys.argv[1:]`.
        environ: Added to the environment.
        seconds: Deadline. The process and what it started are then killed.
        code: Exit code that the process must have.
        warnings: For `-W`.
    """
    return run_program(
        [sys.executable, "-W", warnings, "-c", _PRELUDE.format(after=seconds - 2) + textwrap.dedent(program)],
        *arguments,
        environ=environ,
        seconds=seconds,
        code=code,
    )


def run_program(
    command: list[str],
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    seconds: float = 80,
    code: int = 0,
) -> str:
    """Run a command likewise; see `run_fresh`."""
    process = subprocess.Popen(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _kill(process)
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s\n{out}\n{err}") from None
    finally:
        _kill(process)
    assert process.returncode == code, f"exit code {process.returncode}, not {code}\n{out}\n{err}"
    return out


def _kill(process: subprocess.Popen[str]) -> None:
    """End the process and what it started, by the group that it leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, ProcessLookupError, PermissionError):  # no groups here (Windows), or all gone
        process.kill()
