"""What a statement loads in a fresh process. Static tools miss what a package's `__init__` pulls in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.rules.tree import ROOT

# Stands in for a heavy module that is not installed here: otherwise a late `import torch` under `except ImportError`
# would leave no trace, and the rule would hold only for want of torch.
DECOYS = ("pynvml", "sentence_transformers", "torch")

_PROGRAM = """
import json, sys
before = set(sys.modules)
exec(sys.argv[1])
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(statement: str, decoys: Path, path: Iterable[Path] = (ROOT,)) -> set[str]:
    """Return the full names of the modules that a statement loads in a process of its own.

    Args:
        statement: Python code.
        decoys: an empty folder, filled with stand-ins for the heavy modules.
        path: folders to import from, before the installed packages.
    """
    for name in DECOYS:
        (decoys / f"{name}.py").write_text('"""A stand-in: only that it was loaded matters."""\n')
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (decoys, *path)))}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, statement],
        env=environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def roots(modules: Iterable[str]) -> set[str]:
    """Return the top-level names of modules."""
    return {module.partition(".")[0] for module in modules}
