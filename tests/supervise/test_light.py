"""The supervisor stays light: it never loads what could make a CUDA context."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.build.conftest import rig
from tests.build.rig import Rig

__all__ = ["rig"]

_PROGRAM = """
import json, sys
from helix_crawl_otel.cli import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump({"code": code, "modules": sorted(sys.modules)}, file)
"""


@pytest.mark.timeout(240)
def test_a_whole_build_loads_neither_torch_nor_numpy_in_the_supervisor(rig: Rig) -> None:
    """From the plan to the summary, with workers, metrics and memory watched."""
    rig.write_shards(2, 2, 8)
    told = rig.folder / "told.json"
    arguments = ["build", str(rig.source), "--out", str(rig.out), "--model", "hashing", "--metrics-port", "0", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(told), *arguments],
        env={**os.environ, **rig.environ},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    content = json.loads(told.read_text())
    assert content["code"] == 0
    roots = {module.partition(".")[0] for module in content["modules"]}
    assert "opentelemetry" in roots
    assert not roots & {"torch", "numpy", "sentence_transformers", "transformers"}
