"""The examples of the commands' page run as they are written."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import page
from tests.programs import require_program
from tests.rules.tree import ROOT

EXAMPLES = [line for block in page("commands").fenced("sh") for line in block.splitlines()]


def test_there_are_examples_of_every_command() -> None:
    """An empty list would pass the test below."""
    assert {line.split()[1] for line in EXAMPLES} == {"replay", "simulate"}


SIMULATE = re.compile(r"helix-crawl simulate(?! --(?:random|example))([^&>]*[^&> ]|)")


def fewer_draws(example: str) -> str:
    """The example with one draw of each scenario: ten, as in tests/simulate, are half a minute of a processor."""
    return SIMULATE.sub(r"helix-crawl simulate\1 --draws 1", example)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example: str, tmp_path: Path) -> None:
    """Exit code 0, and something is printed."""
    recorded = ROOT / "tests" / "data" / "timelines" / "incident-0611-slack.jsonl"
    shutil.copy(recorded, tmp_path / "timeline.jsonl")
    (tmp_path / "timeline.jsonl.gz").write_bytes(gzip.compress(recorded.read_bytes()))
    programs = tmp_path / "programs"
    programs.mkdir()
    command = programs / "helix-crawl"
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m helix_crawl_otel "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        [require_program("bash"), "-o", "pipefail", "-c", fewer_draws(example)],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
