"""The direction of imports, held by import-linter's contracts in pyproject.toml."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.tree import PACKAGE, ROOT

# lint-imports as a module: its script need not be on PATH.
_COMMAND = [
    sys.executable,
    "-c",
    "from importlinter.cli import lint_imports_command as main; main()",
    "--no-cache",
    "--no-logo",
]


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run the contracts of a tree's pyproject.toml on the package that lies beside it."""
    environ = {**os.environ, "PYTHONPATH": str(tree), "COLUMNS": "200"}
    return subprocess.run(_COMMAND, cwd=tree, env=environ, capture_output=True, text=True, timeout=50, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts in a folder where a test may break them."""
    shutil.copytree(PACKAGE, tmp_path / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_down_only() -> None:
    """Every arrow points to a lower layer, also those for the type checker only, and the policy is pure."""
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("policy/model.py", "import helix_crawl_otel.config"),
        ("policy/model.py", "import time"),
        ("probes/__init__.py", "import helix_crawl_otel.otel"),
        ("otel/__init__.py", "import helix_crawl_otel.probes"),
        ("config.py", "import helix_crawl_otel.watch.crawl_watch"),
        ("config.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import helix_crawl_otel.watch.local"),
        ("build/worker.py", "import helix_crawl_otel.supervise.process"),
        ("watch/shard.py", "import helix_crawl_otel.supervise.events"),
        ("simulate/loop.py", "import helix_crawl_otel.replay.engine"),
        ("report/story.py", "import helix_crawl_otel.otel.engine"),
        ("shards/store.py", "import helix_crawl_otel.probes.device"),
        ("new_idea.py", ""),
    ],
    ids=[
        "policy-up",
        "policy-clock",
        "probes-otel",
        "otel-probes",
        "config-up",
        "config-up-for-types",
        "worker-supervise",
        "watch-supervise",
        "simulate-replay",
        "report-otel",
        "shards-probes",
        "no-layer",
    ],
)
def test_a_wrong_arrow_is_found(copy: Path, module: str, line: str) -> None:
    """Each contract can fail."""
    path = copy / PACKAGE.name / module
    path.write_text((path.read_text() if path.exists() else "") + f"\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "broken" in done.stdout.lower() or "not listed" in done.stdout.lower(), done.stdout + done.stderr
