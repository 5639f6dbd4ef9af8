"""The gate runs the README's own lines, so the README cannot promise a line that does not work."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.conftest import pytest_xdist_auto_num_workers
from tests.programs import require_program
from tests.rules.tree import ROOT

GATE = ROOT / ".ci" / "run"


def gate_line_of(readme: Path, which: str = "test-line") -> subprocess.CompletedProcess[str]:
    """Ask the gate which line of a README it would run."""
    bash = require_program("bash")
    return subprocess.run(
        [bash, str(GATE), which, str(readme)], capture_output=True, text=True, timeout=50, check=False
    )


def test_the_gate_can_be_executed() -> None:
    """It is started as a program."""
    assert os.access(GATE, os.X_OK)


def test_the_readme_offers_a_test_line() -> None:
    """DESIGN, section 3.3: the first fenced block is `sh` and holds two lines, the second runs the tests."""
    done = gate_line_of(ROOT / "README.md")
    assert done.returncode == 0, done.stderr
    assert "pytest" in done.stdout


def test_the_readme_offers_the_main_job() -> None:
    """DESIGN, section 3.3: the first line sets up and runs the main job, from a fresh clone."""
    done = gate_line_of(ROOT / "README.md", "main-line")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("helix-crawl demo\n")
    assert "pip install" in done.stdout


def test_the_second_line_is_taken_as_it_stands(tmp_path: Path) -> None:
    """Quotes, dollars and backslashes reach the shell as the reader would type them."""
    line = r"""python -m venv .venv && . .venv/bin/activate && pip install -q -e '.[test]' && echo "$A \n" && pytest"""
    readme = tmp_path / "README.md"
    readme.write_text(f"# x\n\ntext\n\n```sh\nmain job\n{line}\n```\n\n```sh\nother\n```\n")
    assert gate_line_of(readme).stdout == line + "\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("# x\n", "0 lines"),
        ("```sh\none\n```\n", "1 lines"),
        ("```sh\none\ntwo\nthree\n```\n", "3 lines"),
        ("```python\none\ntwo\n```\n```sh\none\ntwo\n```\n", "not marked sh"),
    ],
    ids=["no-block", "one-line", "three-lines", "other-language"],
)
def test_another_readme_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    """Whoever breaks the README's form learns it here and not from a reader."""
    readme = tmp_path / "README.md"
    readme.write_text(text)
    done = gate_line_of(readme)
    assert done.returncode != 0
    assert complaint in done.stderr


PLAIN = "not slow and not gpu and not benchmark"


@pytest.mark.parametrize(
    ("marks", "arguments", "capture", "is_one"),
    [
        (PLAIN, ["tests", "docs"], "fd", False),
        (PLAIN, ["tests/build", "tests/cli/test_cli.py"], "fd", False),
        ("slow", ["tests"], "fd", False),
        ("slow and not gpu", ["tests"], "fd", False),
        ("benchmark", ["tests"], "fd", True),
        ("slow and gpu", ["tests"], "fd", True),
        (PLAIN, ["tests/cli/test_cli.py"], "fd", True),
        (PLAIN, ["tests/cli/test_cli.py::test_it[x]"], "fd", True),
        (PLAIN, ["tests"], "no", True),
    ],
)
def test_what_measures_has_the_machine_alone(marks: str, arguments: list[str], capture: str, is_one: bool) -> None:
    """The whole suite runs in several processes; a benchmark, a file by name and what prints as it goes in one."""
    config = SimpleNamespace(option=SimpleNamespace(markexpr=marks, capture=capture), args=arguments)
    assert (pytest_xdist_auto_num_workers(cast("pytest.Config", config)) == 0) is is_one
