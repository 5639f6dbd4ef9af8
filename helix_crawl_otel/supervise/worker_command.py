"""How a worker of this package is started: from where it imports, and what is in its environment.

Source: DESIGN.md, section 7.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from helix_crawl_otel import link
from helix_crawl_otel.import_path import VARIABLE, folders_for_worker, variable_for_worker
from helix_crawl_otel.supervise.process import python_command

__all__ = ["worker_command"]


def worker_command(module: str, environ: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """How to start a module of this package as a worker: the command, and its whole environment.

    It imports from where we do, without the current folder. Nothing of this is for a driver of the user's own, which
    gets what it would have got without us.

    Args:
        module: With a `main` that takes no arguments; it finds our process id in `sys.argv`.
        environ: Ours.
    """
    python, added = python_command()
    flags = ["-I"] if sys.flags.isolated else [*["-E"] * sys.flags.ignore_environment, *["-s"] * sys.flags.no_user_site]
    variable = environ.get(VARIABLE, "")
    start = Path(link.__file__).with_name("start.py").absolute()
    command = [*python, *flags, str(start), module, str(os.getpid()), *folders_for_worker(variable)]
    # From Python 3.11 on, what the worker's libraries start is kept out of there too (`multiprocessing`, with -c).
    changed = {**environ, **added, VARIABLE: variable_for_worker(variable), "PYTHONSAFEPATH": "1"}
    return command, {name: value for name, value in changed.items() if name != VARIABLE or value}
