"""One cluster for all tests of a process: to start one takes longer than most of what is done on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build.processes import left_running
from tests.fleet.nodes import FleetNodes, FleetRig, nodes_of


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetNodes]:
    """Three nodes."""
    pytest.importorskip("ray", reason="needs the extra `ray`")
    with nodes_of(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet
    assert left_running(fleet.mark) == []


@pytest.fixture
def rig(fleet: FleetNodes, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> FleetRig:
    """A tree and its output."""
    for name in ("n1", "n2", "n3"):
        if name not in fleet.nodes:
            fleet.add_node(name)
    return FleetRig(tmp_path, shared=tmp_path_factory.getbasetemp(), fleet=fleet)
